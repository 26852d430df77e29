"""The stores of a cloud by name: config.yaml says what they are, never what opens them.

    stores:
      fast: {kind: s3, endpoint: "https://s3.example.org", bucket: images}
      cold: {kind: swift, auth_url: "https://swift.example.org/auth/v1.0", container: images}
      nas: {kind: file, folder: /mnt/nas/images}
    default_store: fast

Secrets are read from a file (``credentials: FILE``, YAML, mode 0600) or from the environment
(STACKCTL_STORE_FAST_SECRET_KEY). ``local`` (the cloud's own folder) and ``http`` (contents that
stay where they are) are always there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackctl.errors import NotFound, UsageError
from stackctl.state import Cloud
from stackctl.stores.types import Store, StoreSettings

LOCAL = "local"
WEB = "http"


@dataclass(frozen=True)
class Kind:
    """What a kind of store must and may be told."""

    needs: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


KINDS = {
    "file": Kind(("folder",)),
    "s3": Kind(("endpoint", "bucket"), ("access_key", "secret_key"), ("region", "ca_file")),
    "swift": Kind(
        ("auth_url", "container"),
        ("user", "key"),
        ("ca_file", "auth", "project", "project_domain", "user_domain", "region"),
    ),
}


def stores(cloud: Cloud) -> dict[str, str]:
    """The kind of every store by name."""
    return {LOCAL: "local", WEB: "http"} | {
        name: str(options.get("kind")) for name, options in _configured(cloud).items()
    }


def default_store(cloud: Cloud) -> str:
    """Where contents go when nobody says where."""
    return checked_store(cloud, str(cloud.config["default_store"]))


def checked_store(cloud: Cloud, name: str) -> str:
    """The name of a store that is there."""
    known = stores(cloud)
    if name not in known:
        raise NotFound(
            f"There is no store '{name}'; there is {', '.join(sorted(known))}.",
            hint=f"stores: in {cloud.folder}/config.yaml",
        )
    return name


def open_store(cloud: Cloud, name: str) -> Store:
    """A configured store, ready to be used."""
    found = settings(cloud, checked_store(cloud, name))
    # Imported here: their libraries take a while, and most commands reach no store.
    if found.kind == "s3":
        from stackctl.stores.s3 import S3Store

        return S3Store(found)
    if found.kind == "swift":
        from stackctl.stores.swift import SwiftStore

        return SwiftStore(found)
    from stackctl.stores.folder import FolderStore

    return FolderStore(found)


def settings(cloud: Cloud, name: str) -> StoreSettings:
    """What config.yaml says of a store, checked, with its secrets."""
    options = dict(_configured(cloud)[name])
    kind_name = str(options.pop("kind", ""))
    kind = KINDS.get(kind_name)
    if kind is None:
        raise _wrong(cloud, name, f"its kind is one of {', '.join(KINDS)}")
    credentials = options.pop("credentials", None)
    unknown = set(options) - {*kind.needs, *kind.may}
    missing = set(kind.needs) - set(options)
    if unknown or missing:
        words = [f"{key} is unknown" for key in sorted(unknown)]
        raise _wrong(cloud, name, "; ".join(words + [f"{key} is missing" for key in missing]))
    given = {key: str(value) for key, value in options.items()}
    return StoreSettings(name, kind_name, given, _secrets(cloud, name, kind, credentials))


def _configured(cloud: Cloud) -> dict[str, dict[str, Any]]:
    configured = cloud.config["stores"]
    if not isinstance(configured, Mapping):
        raise UsageError(f"stores in {cloud.folder}/config.yaml is not a mapping of names.")
    for name, options in configured.items():
        if name in (LOCAL, WEB) or not isinstance(options, Mapping):
            raise _wrong(cloud, str(name), "it is a mapping, and named neither local nor http")
    return {str(name): dict(options) for name, options in configured.items()}


def _secrets(cloud: Cloud, name: str, kind: Kind, file: Any) -> dict[str, str]:
    from_file = _read_secrets(cloud.folder / str(file)) if file else {}
    found = {}
    for key in kind.secrets:
        variable = f"STACKCTL_STORE_{name}_{key}".upper().replace("-", "_")
        value = os.environ.get(variable) or from_file.get(key)
        if not value:
            raise _wrong(cloud, name, f"nothing says its {key}: credentials: FILE, or {variable}")
        found[key] = str(value)
    return found


def _read_secrets(path: Path) -> dict[str, Any]:
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UsageError(
                    f"{path} holds secrets and is open to others (mode "
                    f"{stat.S_IMODE(status.st_mode):o}).",
                    hint=f"chmod 600 {path}",
                )
            found = yaml.safe_load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None  # the parser's words would show what the file holds
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not YAML of the form 'name: value'.")
    return found


def _wrong(cloud: Cloud, name: str, why: str) -> UsageError:
    return UsageError(f"The store {name} in {cloud.folder}/config.yaml cannot be used: {why}.")
