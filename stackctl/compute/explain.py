"""Where a server went and why, or why nowhere; and what failed, in the engine's own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stackctl.compute.placing import needs
from stackctl.compute.types import Server
from stackctl.compute.views import server_row, servers_by_id
from stackctl.errors import NotFound
from stackctl.identity.context import Context
from stackctl.state import Reader, Row, read


@dataclass(frozen=True)
class HostVerdict:
    """What one host said: refused by a filter with its numbers, or its weights."""

    host: str
    chosen: bool
    verdict: str
    weight: float | None


@dataclass(frozen=True)
class Explanation:
    """The last placement of a server (or of a refused boot of that name), and its events."""

    name: str
    server: Server | None
    placed_at: str
    chosen: str
    needs: str
    hosts: tuple[HostVerdict, ...]
    events: tuple[Row, ...]
    next_command: str
    left_out: int = 0
    """How many more hosts were looked at, in a large cloud: the best and some refused are kept."""


def explain(context: Context, word: str) -> Explanation:
    """The explanation of a server, by name or id, living, refused or deleted."""
    with read(context.cloud) as reader:
        row = _server(context, reader, word)
        decision = _decision(context, reader, word, row)
        if decision is None:
            raise NotFound(
                f"Nothing is known of a server '{word}': it was never booted or refused here."
            )
        server = servers_by_id(reader, [row["id"]])[0] if row else None
        # A refused boot has no server; a deleted one is known by its decision.
        server_id = row["id"] if row else decision["server_id"] or ""
        events = reader.all(
            "SELECT * FROM events WHERE resource_id = ? AND (resource_id <> '' OR name = ?) "
            "ORDER BY id DESC LIMIT 20",
            server_id,
            word,
        )
    plain: dict[str, Any] = json.loads(decision["decision_json"])
    return Explanation(
        name=plain["request"]["name"],
        server=server,
        placed_at=decision["at"],
        chosen=plain["host"],
        needs=needs(plain["request"]),
        hosts=tuple(_verdict(item, plain["host_id"]) for item in plain["verdicts"]),
        events=tuple(reversed(events)),
        next_command=_next_command(server, plain),
        left_out=plain.get("left_out", 0),
    )


def _server(context: Context, reader: Reader, word: str) -> Row | None:
    try:
        return server_row(context, reader, word)
    except NotFound:
        return None


def _decision(context: Context, reader: Reader, word: str, server: Row | None) -> Row | None:
    """The newest decision: of the server if it lives, else of that name or id."""
    if server is not None:
        return reader.one(
            "SELECT * FROM decisions WHERE server_id = ? ORDER BY id DESC LIMIT 1", server["id"]
        )
    return reader.one(
        # A refused boot of several is known by the name that was typed, too: x means x-1.
        "SELECT * FROM decisions WHERE project_id = ? AND (name = ? OR server_id = ? "
        "OR server_id IS NULL AND substr(name, 1, length(?) + 1) = ? || '-') "
        "ORDER BY id DESC LIMIT 1",
        context.project_id,
        *[word] * 4,
    )


def _verdict(item: dict[str, Any], chosen_id: str | None) -> HostVerdict:
    if item["refused_by"]:
        return HostVerdict(item["host"], False, f"{item['refused_by']}: {item['why']}", None)
    weights = ", ".join(f"{name} {weight:g}" for name, weight in item["weights"])
    return HostVerdict(item["host"], item["host_id"] == chosen_id, weights, item["weight"])


def _next_command(server: Server | None, decision: dict[str, Any]) -> str:
    if decision["host_id"] is None:
        return "stackctl host-list   (capacity and what is given)"
    if server is not None and server.status == "ERROR":
        return (
            f"stackctl reboot --hard {server.name}   (try again), or stackctl delete {server.name}"
        )
    if server is not None and server.interrupted:
        return "stackctl recover"
    return ""
