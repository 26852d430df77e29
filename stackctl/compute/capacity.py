"""Hosts as the scheduler sees them: totals, ratios and what placed servers take."""

from __future__ import annotations

import json
from collections.abc import Collection

from stackctl.compute.scheduler import Candidate
from stackctl.state import Reader, Row, seconds_since
from stackctl.state.usage import HOSTS_WITH_USAGE

UNREACHABLE_EXPIRES_S = 300
"""How long a host that did not answer is only a last resort."""

_HOSTS = f"{HOSTS_WITH_USAGE} WHERE hosts.deleted_at IS NULL ORDER BY hosts.name"


def candidates(reader: Reader, without: Collection[str] = ()) -> list[Candidate]:
    """All hosts with what is free on them, except those whose id is in ``without``."""
    return [_candidate(row) for row in reader.all(_HOSTS) if row["id"] not in without]


def _candidate(row: Row) -> Candidate:
    since = row["unreachable_since"]
    mappings = json.loads(row["bridge_mappings_json"])
    return Candidate(
        id=row["id"],
        name=row["name"],
        enabled=bool(row["enabled"]),
        disabled_reason=row["disabled_reason"],
        zone=row["zone"],
        fenced=bool(row["fenced"]),
        recently_unreachable=since is not None and seconds_since(since) < UNREACHABLE_EXPIRES_S,
        vcpus_total=row["vcpus"] * row["cpu_ratio"],
        ram_mb_total=max(row["ram_mb"] - row["reserved_ram_mb"], 0) * row["ram_ratio"],
        disk_gb_total=row["disk_gb"] * row["disk_ratio"],
        vcpus_used=row["vcpus_used"],
        ram_mb_used=row["ram_mb_used"],
        disk_gb_used=row["disk_gb_used"],
        servers=row["servers"],
        physical_networks=frozenset(item["physical_network"] for item in mappings),
        tunnels=row["tunnel_address"] is not None,
    )
