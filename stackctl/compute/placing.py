"""Where servers go: what each needs, what the scheduler said, and its decision kept for explain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from stackctl.compute.capacity import candidates
from stackctl.compute.resolving import Resolved
from stackctl.compute.scheduler import Decision, Request, no_valid_host, place
from stackctl.errors import NoCapacity
from stackctl.hostspec.build import TUNNEL_TYPES
from stackctl.identity.context import Context
from stackctl.state import Reader, Row, Writer, find, now

VERDICTS_KEPT = 50
"""Of how many hosts that could and that could not the numbers are kept, for each server."""


class NoValidHost(NoCapacity):
    """Some request of a boot fits nowhere; ``decisions`` are the scheduler's."""

    def __init__(self, message: str, decisions: Sequence[Decision]) -> None:
        super().__init__(message, hint="stackctl host-list   (what each host has and has given)")
        self.decisions = tuple(decisions)


def place_all(writer: Writer, requests: Sequence[Request]) -> list[Decision]:
    """Place all requests, or raise NoValidHost for the first that fits nowhere."""
    decisions = place(requests, candidates(writer))
    last = decisions[-1]
    if last.host_id is None:
        message = no_valid_host(last, len(decisions) - 1, len(requests))
        raise NoValidHost(f"{message} Nothing was booted.", decisions)
    return decisions


def placement(reader: Reader, resolved: Resolved, name: str) -> Request:
    """What one new server of a boot needs of its host."""
    flavor, request = resolved.flavor, resolved.request
    swap_gb = -(-flavor["swap_mb"] // 1024)
    return Request(
        name=name,
        vcpus=flavor["vcpus"],
        ram_mb=flavor["ram_mb"],
        disk_gb=resolved.disk_gb + flavor["ephemeral_gb"] + swap_gb,
        physical_networks=_physical(resolved.networks),
        needs_tunnels=needs_tunnels(reader, resolved.networks),
        host=_host_hint(reader, request.host),
        zone=request.zone,
    )


def placement_of(reader: Reader, server: Row) -> Request:
    """What an existing server needs of another host."""
    networks = reader.all(
        "SELECT networks.* FROM networks JOIN ports ON ports.network_id = networks.id "
        "WHERE ports.device_id = ? AND ports.deleted_at IS NULL",
        server["id"],
    )
    disk_gb = server["disk_gb"] + server["ephemeral_gb"] + -(-server["swap_mb"] // 1024)
    return Request(
        name=server["name"],
        vcpus=server["vcpus"],
        ram_mb=server["ram_mb"],
        disk_gb=disk_gb,
        physical_networks=_physical(networks),
        needs_tunnels=needs_tunnels(reader, networks),
        zone=server["zone"] if server["zone_asked"] else None,
        host=server["host_asked"],
    )


def record_decision(
    context: Context,
    writer: Writer,
    decision: Decision,
    server_id: str | None,
    operation_id: str | None,
) -> None:
    """Keep what the scheduler saw, for explain."""
    writer.insert(
        "decisions",
        {
            "at": now(),
            "operation_id": operation_id,
            "name": decision.request.name,
            "server_id": server_id,
            "project_id": context.project_id,
            "decision_json": json.dumps(_plain_decision(decision)),
        },
    )


def _physical(networks: Sequence[Row]) -> frozenset[str]:
    return frozenset(row["physical_network"] for row in networks if row["physical_network"])


def needs_tunnels(reader: Reader, networks: Sequence[Row]) -> bool:
    """Whether a host of these networks needs a tunnel address: a lone one has nowhere to tunnel."""
    if not any(row["type"] in TUNNEL_TYPES for row in networks):
        return False
    return int(reader.value("SELECT count(*) FROM hosts WHERE deleted_at IS NULL")) > 1


def _host_hint(reader: Reader, word: str | None) -> str | None:
    if word is None:
        return None
    return str(find(reader, "hosts", word, noun="host")["id"])


def _plain_decision(decision: Decision) -> dict[str, object]:
    able = [verdict for verdict in decision.verdicts if not verdict.refused_by]
    refused = [verdict for verdict in decision.verdicts if verdict.refused_by]
    kept = (*able[:VERDICTS_KEPT], *refused[:VERDICTS_KEPT])
    plain = asdict(replace(decision, verdicts=kept))
    plain["request"]["physical_networks"] = sorted(decision.request.physical_networks)
    plain["left_out"] = len(decision.verdicts) - len(kept)
    return plain
