"""What callers give to and get from the compute services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GIB = 1024**3

SIZES = (
    "flavor_id",
    "flavor_name",
    "vcpus",
    "ram_mb",
    "disk_gb",
    "ephemeral_gb",
    "swap_mb",
    "extra_specs_json",
    "hardware_json",
)
"""The columns of a server that are its flavor's."""


@dataclass(frozen=True)
class Nic:
    """One NIC, in the order the guest sees them: a network (and address in it), or a port."""

    network: str | None = None
    address: str | None = None
    port: str | None = None


@dataclass(frozen=True)
class GuestFile:
    """A file for the guest, delivered on its config drive."""

    path: str
    content: bytes
    mode: str = "0600"


@dataclass(frozen=True)
class BootRequest:
    """What ``boot`` is asked for.

    ``naming``: with a count above one, names are NAME-1.. (index, today's Nova) or NAME-UUID
    (uuid, as on the slides). ``first_index`` begins the count elsewhere than at 1.
    ``security_groups`` (None: the default one) are for the NICs made here, not for given ports.
    ``hints`` are Nova's scheduler hints: group, different_host, same_host, query ...
    ``volume`` is what the server boots from instead of a disk made of ``image``, which is empty
    then. ``vnc``: whether it has a display; None leaves that to its image and the cloud.
    """

    name: str
    image: str
    flavor: str
    count: int = 1
    nics: tuple[Nic, ...] = ()
    key_name: str | None = None
    user_data: bytes | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    files: tuple[GuestFile, ...] = ()
    host: str | None = None
    zone: str | None = None
    naming: str = "index"
    first_index: int = 1
    always_numbered: bool = False
    public_keys: tuple[tuple[str, str], ...] = ()
    cluster_id: str | None = None
    security_groups: tuple[str, ...] | None = None
    hints: tuple[tuple[str, str], ...] = ()
    volume: str | None = None
    vnc: bool | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerFilter:
    """Which servers are listed: those of which all that is given here is true. ``name`` is a part
    of the name; ``status`` is what the list shows, in whatever case; ``host``, ``image`` and
    ``flavor`` are names, those of hosts and images also ids."""

    name: str = ""
    status: str = ""
    host: str = ""
    image: str = ""
    flavor: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerChange:
    """What shall be different about a server. A property set to "" is removed; ``vnc`` gives it a
    display, or takes it."""

    name: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    vnc: bool | None = None


@dataclass(frozen=True)
class ServerAddress:
    """One address of a server, the network it is in, and what stands for it outside."""

    network: str
    address: str
    mac: str
    subnet_id: str
    port_id: str
    floating: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """Why a server is in ERROR: the engine's own words, where and when."""

    message: str
    detail: str
    host: str
    at: str


@dataclass(frozen=True)
class Server:
    """A server as people see it; states as of ``observed_at``. ``security_groups`` are the names
    of those that any of its ports is in; ``volumes`` are names and devices; ``adopted``: from
    what it was taken over, as long as its guest still runs by that; ``hardware`` is what its
    machine has beside the usual."""

    id: str
    name: str
    hostname: str
    status: str
    task_state: str | None
    vm_state: str
    power_state: str
    addresses: tuple[ServerAddress, ...]
    image: str
    flavor: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    ephemeral_gb: int
    key_name: str | None
    host: str
    host_id: str | None
    zone: str
    metadata: dict[str, str]
    fault: Fault | None
    created_at: str
    launched_at: str | None
    observed_at: str | None
    interrupted: bool = False
    security_groups: tuple[str, ...] = ()
    locked: bool = False
    lock_reason: str = ""
    tags: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    adopted: str | None = None
    hardware: dict[str, str] = field(default_factory=dict)
    project_id: str = ""
    group: str = ""
    hints: dict[str, Any] = field(default_factory=dict)
    moving_to: str = ""
    restorable_until: str | None = None

    def networks(self) -> dict[str, list[str]]:
        """Addresses by network name, first NIC first; floating IPs after what they stand for."""
        grouped: dict[str, list[str]] = {}
        for item in self.addresses:
            grouped.setdefault(item.network, []).extend((item.address, *item.floating))
        return grouped


Json = dict[str, Any]
