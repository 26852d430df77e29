"""What callers give to and get from the hosts service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agent.spec import BridgeMapping
from stackctl.fleet.keys import FirstLogin


@dataclass(frozen=True)
class HostKey:
    """The key that a host shows: ``line`` is what gets pinned ("ssh-ed25519 AAAA...")."""

    line: str
    fingerprint: str


@dataclass(frozen=True)
class Declared:
    """Capacity that the operator states instead of what the host says; None: as the host says."""

    vcpus: int | None = None
    ram_mb: int | None = None
    disk_gb: int | None = None


@dataclass(frozen=True)
class Ratios:
    """How much more may be given than there is, and the memory kept for the host itself."""

    cpu: float = 4.0
    ram: float = 1.0
    disk: float = 1.0
    reserved_ram_mb: int = 512


@dataclass(frozen=True)
class NewHost:
    """A host to add. ``transport`` is ssh or local (this machine; address and key are not used).

    ``first_login`` is needed only when the host does not accept the cloud's key yet.
    """

    name: str
    address: str
    host_key: str = ""
    port: int = 22
    user: str = "root"
    transport: str = "ssh"
    tunnel_address: str | None = None
    bridge_mappings: tuple[BridgeMapping, ...] = ()
    zone: str = "nova"
    declared: Declared = field(default_factory=Declared)
    ratios: Ratios = field(default_factory=Ratios)
    first_login: FirstLogin | None = None


@dataclass(frozen=True)
class HostChanges:
    """What to change about a host; None leaves a setting as it is.

    ``bridge_mappings`` replaces the mappings of the physical networks it names and
    ``removed_mappings`` takes others away. An empty ``tunnel_address`` takes it away, a
    ``declared`` value of 0 ends the declaration. ``host_key`` is for a host installed anew.
    """

    name: str | None = None
    enabled: bool | None = None
    disabled_reason: str = ""
    zone: str | None = None
    virt_type: str | None = None
    datapath: str | None = None
    on_boot: str | None = None
    tunnel_address: str | None = None
    bridge_mappings: tuple[BridgeMapping, ...] = ()
    removed_mappings: tuple[str, ...] = ()
    cpu_ratio: float | None = None
    ram_ratio: float | None = None
    disk_ratio: float | None = None
    reserved_ram_mb: int | None = None
    declared: Declared = field(default_factory=Declared)
    address: str | None = None
    port: int | None = None
    user: str | None = None
    host_key: str | None = None


@dataclass(frozen=True)
class Amount:
    """One kind of capacity: what the host has, what may be given (by ratio), what is given."""

    physical: int
    total: int
    used: int


@dataclass(frozen=True)
class Host:
    """A host as it is known. ``state`` is up, unreachable, fenced or new (never converged).

    ``behind``: what it should be changed after it was last brought up to date.
    """

    id: str
    name: str
    state: str
    enabled: bool
    disabled_reason: str
    behind: bool
    transport: str
    address: str
    port: int
    user: str
    host_key: str
    fingerprint: str
    zone: str
    virt_type: str
    datapath: str
    on_boot: str
    tunnel_address: str | None
    bridge_mappings: tuple[BridgeMapping, ...]
    vcpus: Amount
    ram_mb: Amount
    disk_gb: Amount
    ratios: Ratios
    declared: Declared
    servers: int
    facts: dict[str, Any]
    versions: dict[str, Any]
    bridges: tuple[str, ...]
    issued_serial: int
    applied_serial: int
    seen_at: str | None
    unreachable_since: str | None
    unreachable_why: str
    created_at: str
