"""Hosts as the scheduler sees them: totals, ratios, what placed servers take, aggregates."""

from __future__ import annotations

import ipaddress
import json
from collections import defaultdict
from collections.abc import Collection, Sequence

from stackctl.compute.scheduling.types import Aggregate, Candidate
from stackctl.state import Reader, Row, seconds_since
from stackctl.state.usage import HOSTS_WITH_USAGE

UNREACHABLE_EXPIRES_S = 300
"""How long a host that did not answer is only a last resort."""

FAILURES_EXPIRE_S = 600
"""For how long builds that failed count against a host: forgiven only by a build that works, a
host beside others with room would never get one."""

_HOSTS = f"{HOSTS_WITH_USAGE} WHERE hosts.deleted_at IS NULL ORDER BY hosts.name"

_AGGREGATES = """
SELECT aggregate_hosts.host_id, aggregates.name, aggregates.zone, aggregates.metadata_json
FROM aggregate_hosts JOIN aggregates ON aggregates.id = aggregate_hosts.aggregate_id
WHERE aggregates.deleted_at IS NULL ORDER BY aggregates.name
"""

_VOLUME_TYPES = """
SELECT said.host_id, volume_types.name FROM volume_type_hosts AS said
JOIN volume_types ON volume_types.id = said.type_id
WHERE said.usable = 1 AND volume_types.deleted_at IS NULL
"""


def candidates(reader: Reader, without: Collection[str] = ()) -> list[Candidate]:
    """All hosts with what is free on them, except those whose id is in ``without``."""
    aggregates, types = _aggregates(reader), _volume_types(reader)
    return [
        _candidate(row, aggregates.get(row["id"], ()), types.get(row["id"], ()))
        for row in reader.all(_HOSTS)
        if row["id"] not in without
    ]


def _aggregates(reader: Reader) -> dict[str, list[Aggregate]]:
    """The aggregates of each host."""
    found: dict[str, list[Aggregate]] = defaultdict(list)
    for row in reader.all(_AGGREGATES):
        metadata: dict[str, str] = json.loads(row["metadata_json"])
        if row["zone"] is not None:
            metadata["availability_zone"] = row["zone"]
        found[row["host_id"]].append(Aggregate(row["name"], metadata))
    return found


def _volume_types(reader: Reader) -> dict[str, list[str]]:
    """The names of the volume types that each host has."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in reader.all(_VOLUME_TYPES):
        found[row["host_id"]].append(row["name"])
    return found


def _candidate(row: Row, aggregates: Sequence[Aggregate], volume_types: Sequence[str]) -> Candidate:
    mappings = json.loads(row["bridge_mappings_json"])
    failed = _within(row["build_failed_at"], FAILURES_EXPIRE_S)
    return Candidate(
        id=row["id"],
        name=row["name"],
        enabled=bool(row["enabled"]),
        disabled_reason=row["disabled_reason"],
        zone=row["zone"],
        fenced=bool(row["fenced"]),
        recently_unreachable=_within(row["unreachable_since"], UNREACHABLE_EXPIRES_S),
        vcpus_total=row["vcpus"] * row["cpu_ratio"],
        ram_mb_total=max(row["ram_mb"] - row["reserved_ram_mb"], 0) * row["ram_ratio"],
        disk_gb_total=row["disk_gb"] * row["disk_ratio"],
        vcpus_used=row["vcpus_used"],
        ram_mb_used=row["ram_mb_used"],
        disk_gb_used=row["disk_gb_used"],
        servers=row["servers"],
        physical_networks=frozenset(item["physical_network"] for item in mappings),
        tunnels=row["tunnel_address"] is not None,
        address=_address(row),
        virt_type=row["virt_type"],
        builds=row["builds"],
        build_failures=row["build_failures"] if failed else 0,
        aggregates=tuple(aggregates),
        facts_json=row["facts_json"],
        volume_types=frozenset(volume_types),
    )


def _within(at: str | None, seconds: float) -> bool:
    return at is not None and seconds_since(at) < seconds


def _address(row: Row) -> str:
    """Where the host is in the network: its tunnel address when it is reached by a name."""
    try:
        return str(ipaddress.ip_address(row["address"]))
    except ValueError:
        return str(row["tunnel_address"] or row["address"])
