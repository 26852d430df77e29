"""What the scheduler looks at (hosts), what it is asked (requests) and what it says (decisions)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

ARCHITECTURE = "x86_64"
"""What domains are made for, on every host."""


@dataclass(frozen=True)
class Aggregate:
    """A named set of hosts with metadata (``availability_zone`` among it), as filters see it."""

    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A host as the scheduler sees it: totals already times their overcommit ratios."""

    id: str
    name: str
    enabled: bool
    disabled_reason: str
    zone: str
    fenced: bool
    recently_unreachable: bool
    vcpus_total: float
    ram_mb_total: float
    disk_gb_total: float
    vcpus_used: int = 0
    ram_mb_used: int = 0
    disk_gb_used: int = 0
    servers: int = 0
    physical_networks: frozenset[str] = frozenset()
    tunnels: bool = True
    address: str = ""
    virt_type: str = "auto"
    builds: int = 0
    build_failures: int = 0
    aggregates: tuple[Aggregate, ...] = ()
    facts_json: str = "{}"
    volume_types: frozenset[str] = frozenset()

    @property
    def vcpus_free(self) -> float:
        """Virtual CPUs that may still be given."""
        return self.vcpus_total - self.vcpus_used

    @property
    def ram_mb_free(self) -> float:
        """Memory that may still be given, in MB."""
        return self.ram_mb_total - self.ram_mb_used

    @property
    def disk_gb_free(self) -> float:
        """Disk that may still be given, in GB."""
        return self.disk_gb_total - self.disk_gb_used

    @cached_property
    def capabilities(self) -> Mapping[str, Any]:
        """What extra specs and queries can ask about: the host's facts, and Nova's names."""
        facts: dict[str, Any] = json.loads(self.facts_json)
        if self.virt_type != "auto":
            facts["virt_type"] = self.virt_type
        return {**facts, **{name: value(self) for name, value in ATTRIBUTES.items()}}


ATTRIBUTES: Mapping[str, Any] = {
    "host": lambda host: host.name,
    "hypervisor_hostname": lambda host: host.name,
    "hypervisor_type": lambda _: "QEMU",
    "zone": lambda host: host.zone,
    "free_ram_mb": lambda host: host.ram_mb_free,
    "total_usable_ram_mb": lambda host: host.ram_mb_total,
    "free_disk_mb": lambda host: host.disk_gb_free * 1024,
    "total_usable_disk_gb": lambda host: host.disk_gb_total,
    "disk_mb_used": lambda host: host.disk_gb_used * 1024,
    "vcpus_total": lambda host: host.vcpus_total,
    "vcpus_used": lambda host: host.vcpus_used,
    "num_instances": lambda host: host.servers,
    "num_io_ops": lambda host: host.builds,
    "failed_builds": lambda host: host.build_failures,
    "cpu_info": lambda _: {"arch": ARCHITECTURE},
}
"""Nova's names for the numbers of a host."""

FACTS = ("virt_type", "ovs_datapath", "versions", "machine_types")
"""Facts that a host tells by itself and that can be asked about."""


@dataclass(frozen=True)
class Group:
    """A server group: its policy, and how many of its servers are on which host (by id)."""

    id: str
    name: str
    policy: str
    max_per_host: int = 1
    members: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerAt:
    """A server that a hint names, and the id of its host (None: it has none)."""

    name: str
    host_id: str | None


@dataclass(frozen=True)
class Request:
    """What one server needs. ``host`` and ``zone`` are hints that must hold, as are those below.

    ``query`` is a parsed expression of the hint of that name; ``near`` a range of addresses.
    """

    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    physical_networks: frozenset[str] = frozenset()
    needs_tunnels: bool = False
    host: str | None = None
    zone: str | None = None
    project_id: str = ""
    image_id: str | None = None
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    image_properties: Mapping[str, str] = field(default_factory=dict)
    group: Group | None = None
    different_host: tuple[ServerAt, ...] = ()
    same_host: tuple[ServerAt, ...] = ()
    query: Any = None
    near: str = ""
    volume_types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """One host for one request: refused by a filter with numbers, or its weight."""

    host_id: str
    host: str
    refused_by: str = ""
    why: str = ""
    weight: float = 0.0
    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Decision:
    """Where one request went (``host_id`` None: nowhere) and what every host said.

    ``hosts`` are the hosts as they were then, for whoever wants to know more.
    """

    request: Request
    host_id: str | None
    host: str
    verdicts: tuple[Verdict, ...] = field(default_factory=tuple)
    hosts: tuple[Candidate, ...] = field(default=(), repr=False, compare=False)
