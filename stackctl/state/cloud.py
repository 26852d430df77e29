"""A cloud is one folder: its database, configuration, SSH key, images, locks and logs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stackctl.errors import NotFound, StateCorrupt, UsageError

DEFAULT_CLOUD = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

DEFAULT_CONFIG: dict[str, Any] = {
    # Networks of projects are of this type; segmentation ids are taken lowest first.
    "network_type": "vxlan",
    "vxlan_range": [1, 16777215],
    "gre_range": [1, 16777215],
    # physical network: [first, last]; VLANs outside are refused.
    "vlan_ranges": {},
    "default_vlan_range": [1, 4094],
    "physical_mtu": 1500,
    "dns_domain": "cloud.internal",
    "image_size_limit_gb": 64,
    # Larger images go to many hosts by way of hosts; null: the controller sends every one.
    "image_from_hosts_mb": 64,
    # Where contents of images can be kept (see stackctl.stores.registry), and where they go.
    "stores": {},
    "default_store": "local",
    # Another list of the distributions' images than the one that comes along; a file.
    "image_catalogue": None,
    # Filters, their limits and the multipliers of weighers: docs/guide/placing.md.
    "scheduler": {},
    # The type of volumes that are made without one; local: files in the hosts' own folders.
    "default_volume_type": "local",
    # Seconds in which a deleted server can be restored; 0: it is gone at once.
    "reclaim_instance_interval": 0,
    # Servers have a display for vnc-console, unless their boot or their image says otherwise.
    "vnc": False,
    # A file (JSON or YAML) that the config drives of new servers carry as vendor data.
    "vendor_data": None,
    "connect_timeout_s": 10,
    "peripheral_connect_timeout_s": 3,
}


@dataclass(frozen=True)
class Cloud:
    """The folder of a cloud and the paths in it."""

    name: str
    folder: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "state.db"

    @property
    def key_file(self) -> Path:
        """The cloud's own SSH private key (ed25519, OpenSSH format)."""
        return self.folder / "id_ed25519"

    @property
    def images(self) -> Path:
        """Image files, named by SHA-256."""
        return self.folder / "images"

    @property
    def locks(self) -> Path:
        """Lock files of operations."""
        return self.folder / "locks"

    @property
    def logs(self) -> Path:
        """Logs of background operations."""
        return self.folder / "logs"

    @property
    def lab(self) -> Path:
        """The lab that belongs to this cloud, where there is one."""
        return self.folder / "lab"

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml over the defaults."""
        path = self.folder / "config.yaml"
        if not path.exists():
            return DEFAULT_CONFIG
        import yaml

        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise UsageError(f"{path} is not YAML: {error}") from None
        unknown = set(loaded) - set(DEFAULT_CONFIG)
        if unknown:
            raise UsageError(f"{path} has unknown settings: {', '.join(sorted(unknown))}.")
        return {**DEFAULT_CONFIG, **loaded}


def clouds_folder() -> Path:
    """Where clouds live: /var/lib for root, the XDG state folder for others."""
    if os.environ.get("STACKCTL_CLOUDS"):
        return Path(os.environ["STACKCTL_CLOUDS"])
    if os.geteuid() == 0:
        return Path("/var/lib/stackctl/clouds")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "stackctl" / "clouds"


def find_cloud(name: str) -> Cloud:
    """The cloud of this name, whether or not it exists yet."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a cloud: use lower-case letters, digits and dashes, at most 32."
        )
    return Cloud(name, clouds_folder() / name)


def existing_cloud(name: str) -> Cloud:
    """The cloud of this name; NotFound when nobody made it, StateCorrupt when it is unsafe."""
    cloud = find_cloud(name)
    if not cloud.database.exists():
        raise _no_cloud(cloud)
    check_permissions(cloud.folder)
    return cloud


def _no_cloud(cloud: Cloud) -> NotFound:
    folder = cloud.folder.parent
    others = sorted(path.parent.name for path in folder.glob(f"*/{cloud.database.name}"))
    said = f"There is no cloud '{cloud.name}' in {folder}"
    if others:
        return NotFound(
            f"{said}; there is {', '.join(others)}.",
            hint=f"export STACKCTL_CLOUD={others[0]}   (or: stackctl --cloud {cloud.name} init)",
        )
    return NotFound(
        f"{said}.",
        hint=f"stackctl --cloud {cloud.name} init   (or, for a practice fleet: stackctl lab-up)",
    )


def check_permissions(folder: Path) -> None:
    """Refuse a cloud folder that others may write or that belongs to someone else."""
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise StateCorrupt(f"{folder} belongs to user id {status.st_uid}, not to you.")
    if status.st_mode & 0o007:
        raise StateCorrupt(
            f"{folder} is open to every user of this machine (mode {status.st_mode & 0o777:o}).",
            hint=f"chmod o-rwx {folder}",
        )
