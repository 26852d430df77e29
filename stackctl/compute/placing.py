"""Where servers go: what each needs, what the scheduler said, and its decision kept for explain."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

from stackctl.compute import volume_rows
from stackctl.compute.capacity import candidates
from stackctl.compute.hints import asked, hints_of
from stackctl.compute.resolving import Resolved
from stackctl.compute.scheduling.scheduler import Decision, Placer, Request, no_valid_host
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


def place_all(
    context: Context, writer: Writer, resolved: Resolved, names: Sequence[str]
) -> list[Decision]:
    """Place all servers of a boot, or raise NoValidHost for the first that fits nowhere."""
    request = placement(context, writer, resolved)
    placer = Placer(candidates(writer), resolved.policy)
    decisions: list[Decision] = []
    for name in names:
        decisions.append(placer.place(replace(request, name=name)))
        context.watch.decided(decisions[-1])
        if decisions[-1].host_id is None:
            message = no_valid_host(decisions[-1], len(decisions) - 1, len(names))
            raise NoValidHost(f"{message} Nothing was booted.", decisions)
    return decisions


def placement(context: Context, reader: Reader, resolved: Resolved) -> Request:
    """What each new server of a boot needs of its host."""
    flavor, request, image = resolved.flavor, resolved.request, resolved.image
    swap_gb = -(-flavor["swap_mb"] // 1024)
    return Request(
        name=request.name,
        vcpus=flavor["vcpus"],
        ram_mb=flavor["ram_mb"],
        disk_gb=resolved.disk_gb + flavor["ephemeral_gb"] + swap_gb + _unplaced_gb(resolved.volume),
        physical_networks=_physical(resolved.networks),
        needs_tunnels=needs_tunnels(reader, resolved.networks),
        host=_host_hint(reader, request.host),
        zone=request.zone,
        project_id=context.project_id,
        image_id=image["id"],
        extra_specs=json.loads(flavor["extra_specs_json"]),
        image_properties=json.loads(image["properties_json"]),
        volume_types=_types_needed(reader, resolved.volume),
        **asked(reader, resolved.hints),
    )


def placement_of(reader: Reader, server: Row, leaving: Collection[str] = ()) -> Request:
    """What an existing server needs of another host.

    ``leaving``: ids of servers that leave their hosts together with it.
    """
    networks = reader.all(
        "SELECT networks.* FROM networks JOIN ports ON ports.network_id = networks.id "
        "WHERE ports.device_id = ? AND ports.deleted_at IS NULL",
        server["id"],
    )
    disk_gb = server["disk_gb"] + server["ephemeral_gb"] + -(-server["swap_mb"] // 1024)
    volumes = volume_rows.of_server(reader, server["id"])
    disk_gb += sum(volume["size_gb"] for volume in volumes if volume["type_id"] is None)
    # A volume whose file is there ties its server to that host.
    tie = volume_rows.tie(reader, server["id"])
    tied = tie["host_id"] if tie is not None and tie["built"] else None
    image = reader.get("images", server["image_id"]) if server["image_id"] else None
    return Request(
        name=server["name"],
        vcpus=server["vcpus"],
        ram_mb=server["ram_mb"],
        disk_gb=disk_gb,
        physical_networks=_physical(networks),
        needs_tunnels=needs_tunnels(reader, networks),
        zone=server["zone"] if server["zone_asked"] else None,
        host=server["host_asked"] or tied,
        project_id=server["project_id"],
        image_id=server["image_id"],
        extra_specs=json.loads(server["extra_specs_json"]),
        image_properties=json.loads(image["properties_json"]) if image else {},
        volume_types=_named(reader, volume_rows.types_of(reader, server["id"])),
        **asked(reader, hints_of(server), {server["id"], *leaving}),
    )


def _unplaced_gb(volume: Row | None) -> int:
    """What a volume without a place will take where its server goes."""
    if volume is None or volume["host_id"] is not None or volume["type_id"] is not None:
        return 0
    return int(volume["size_gb"])


def _types_needed(reader: Reader, volume: Row | None) -> frozenset[str]:
    ids = frozenset([volume["type_id"]]) if volume and volume["type_id"] else frozenset()
    return _named(reader, ids)


def _named(reader: Reader, ids: frozenset[str]) -> frozenset[str]:
    return frozenset(str(reader.get("volume_types", id_)["name"]) for id_ in ids)


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


def _plain_decision(decision: Decision) -> dict[str, Any]:
    able = [verdict for verdict in decision.verdicts if not verdict.refused_by]
    refused = [verdict for verdict in decision.verdicts if verdict.refused_by]
    kept = (*able[:VERDICTS_KEPT], *refused[:VERDICTS_KEPT])
    return {
        "request": _plain_request(decision.request),
        "host_id": decision.host_id,
        "host": decision.host,
        "verdicts": [asdict(verdict) for verdict in kept],
        "left_out": len(decision.verdicts) - len(kept),
    }


def _plain_request(request: Request) -> dict[str, Any]:
    """What ``needs`` makes words of."""
    return {
        "name": request.name,
        "vcpus": request.vcpus,
        "ram_mb": request.ram_mb,
        "disk_gb": request.disk_gb,
        "physical_networks": sorted(request.physical_networks),
        "needs_tunnels": request.needs_tunnels,
        "volume_types": sorted(request.volume_types),
        "zone": request.zone,
        "group": f"{request.group.name} ({request.group.policy})" if request.group else None,
        "extra_specs": dict(request.extra_specs),
        "different_host": [server.name for server in request.different_host],
        "same_host": [server.name for server in request.same_host],
        "query": request.query,
        "near": request.near,
    }


def needs(request: Request | dict[str, Any]) -> str:
    """What a request asks for, in words; ``request`` may be one that was kept."""
    plain = _plain_request(request) if isinstance(request, Request) else request
    parts = [f"{plain['vcpus']} vcpus", f"{plain['ram_mb']} MB RAM", f"{plain['disk_gb']} GB"]
    if plain["physical_networks"]:
        parts.append(f"physical networks {', '.join(plain['physical_networks'])}")
    if plain["needs_tunnels"]:
        parts.append("tunnels")
    # Requests kept by an older stackctl have none of the others.
    for name, words in _ALSO:
        if plain.get(name):
            parts.append(f"{words} {_text(plain[name])}")
    return ", ".join(parts)


_ALSO = (
    ("volume_types", "volume types"),
    ("zone", "zone"),
    ("group", "server group"),
    ("extra_specs", "extra specs"),
    ("different_host", "another host than"),
    ("same_host", "the host of"),
    ("query", "query"),
    ("near", "an address in"),
)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in sorted(value.items()))
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value)
