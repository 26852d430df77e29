"""Hints about a new server's place: from words to rows, kept with the server, and read again."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackctl.compute.scheduling.policy import Policy
from stackctl.compute.scheduling.query import parse_query
from stackctl.compute.scheduling.types import Group, ServerAt
from stackctl.errors import UsageError
from stackctl.identity.context import Context, find_own
from stackctl.state import Reader, Row

JUDGES = {
    "different_host": "DifferentHostFilter",
    "same_host": "SameHostFilter",
    "query": "JsonFilter",
    "build_near_host_ip": "SimpleCIDRAffinityFilter",
}
"""The filter that each hint needs."""

KNOWN = ("group", *JUDGES, "cidr")

_REPEATABLE = ("different_host", "same_host")

_GROUP_JUDGES = {
    "affinity": "ServerGroupAffinityFilter",
    "anti-affinity": "ServerGroupAntiAffinityFilter",
}


@dataclass(frozen=True)
class Hints:
    """Hints with their words turned into ids. ``near`` is a range of addresses."""

    group_id: str | None = None
    different_host: tuple[str, ...] = ()
    same_host: tuple[str, ...] = ()
    query: str = ""
    near: str = ""

    def columns(self) -> Row:
        """What is kept with a server."""
        kept = {name: value for name, value in vars(self).items() if value and name != "group_id"}
        return {"group_id": self.group_id, "hints_json": json.dumps(kept)}


def read_hints(
    context: Context, reader: Reader, pairs: Sequence[tuple[str, str]], policy: Policy
) -> Hints:
    """The hints of a boot. UsageError: not known, given twice, or judged by no filter in use."""
    given = _grouped(pairs)
    for name, judge in JUDGES.items():
        if name in given:
            _require(policy, f"The hint {name}", judge)
    group_id = None
    if "group" in given:
        group = find_own(context, reader, "server_groups", given["group"][0], noun="server group")
        if group["policy"] in _GROUP_JUDGES:
            _require(policy, f"The policy {group['policy']}", _GROUP_JUDGES[group["policy"]])
        group_id = group["id"]
    if query := given.get("query", [""])[0]:
        parse_query(query)
    return Hints(
        group_id,
        _servers(context, reader, given.get("different_host", [])),
        _servers(context, reader, given.get("same_host", [])),
        query,
        _near(given),
    )


def hints_of(server: Row) -> Hints:
    """The hints that a server was booted with."""
    kept: dict[str, Any] = json.loads(server["hints_json"])
    return Hints(
        server["group_id"],
        tuple(kept.get("different_host", ())),
        tuple(kept.get("same_host", ())),
        kept.get("query", ""),
        kept.get("near", ""),
    )


def asked(reader: Reader, hints: Hints, leaving: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a scheduler's request that hints are about, as servers are placed now.

    ``leaving``: ids of servers that are on their way to other hosts and count nowhere.
    """
    return {
        "group": group_now(reader, hints.group_id, leaving),
        "different_host": _places(reader, hints.different_host, leaving),
        "same_host": _places(reader, hints.same_host, leaving),
        "query": parse_query(hints.query) if hints.query else None,
        "near": hints.near,
    }


def group_now(reader: Reader, group_id: str | None, leaving: Collection[str] = ()) -> Group | None:
    """A group and where its servers are; None when there is none (or no longer)."""
    if group_id is None:
        return None
    row = reader.get("server_groups", group_id)
    if row["deleted_at"] is not None:
        return None
    members: dict[str, int] = {}
    for server in reader.all(
        "SELECT id, host_id FROM servers WHERE group_id = ? AND deleted_at IS NULL "
        "AND host_id IS NOT NULL",
        group_id,
    ):
        if server["id"] not in leaving:
            members[server["host_id"]] = members.get(server["host_id"], 0) + 1
    return Group(group_id, row["name"], row["policy"], row["max_per_host"], members)


def _grouped(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for key, value in pairs:
        if key not in KNOWN:
            raise UsageError(f"There is no hint '{key}'; there are {', '.join(KNOWN)}.")
        given.setdefault(key, []).append(value)
    for key, values in given.items():
        if len(values) > 1 and key not in _REPEATABLE:
            raise UsageError(f"The hint {key} can be given once.")
    return given


def _require(policy: Policy, what: str, judge: str) -> None:
    if not policy.has(judge):
        raise UsageError(
            f"{what} is judged by {judge}, which is not among the enabled_filters of this cloud. "
            "Nothing was done.",
            hint="docs/guide/placing.md says how a cloud's config.yaml enables it",
        )


def _servers(context: Context, reader: Reader, words: Sequence[str]) -> tuple[str, ...]:
    """Ids of servers; one word may be a list in JSON, as Nova's clients take it."""
    flat: list[str] = []
    for word in words:
        flat += _listed(word) if word.startswith("[") else [word]
    rows = [find_own(context, reader, "servers", word, noun="server") for word in flat]
    return tuple(dict.fromkeys(row["id"] for row in rows))


def _listed(word: str) -> list[str]:
    try:
        listed = json.loads(word)
    except ValueError:
        raise UsageError(f"'{word[:80]}' is not a list of servers in JSON.") from None
    return [str(item) for item in listed]


def _places(reader: Reader, ids: Sequence[str], leaving: Collection[str]) -> tuple[ServerAt, ...]:
    """Where servers are that still live."""
    rows = (reader.get("servers", id_) for id_ in ids)
    return tuple(
        ServerAt(row["name"], row["host_id"])
        for row in rows
        if row["deleted_at"] is None and row["id"] not in leaving
    )


def _near(given: Mapping[str, Sequence[str]]) -> str:
    if "build_near_host_ip" not in given:
        if "cidr" in given:
            raise UsageError("The hint cidr says how near: it goes with build_near_host_ip.")
        return ""
    address, length = given["build_near_host_ip"][0], given.get("cidr", ["/24"])[0]
    text = f"{address}/{length.lstrip('/')}"
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise UsageError(
            f"'{text}' is not an address and a length, as in 10.0.0.7 and /24."
        ) from None
