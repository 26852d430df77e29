"""Addresses and routes of a namespace with several of both, through ip(8).

Everything here acts in the namespace of the calling thread, which a child process shares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agent import killpoint
from agent.system.run import CommandFailed, run

TIMEOUT_S = 20
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_WHOLE = {4: "32", 6: "128"}


@dataclass(frozen=True)
class FoundRoute:
    """A route of the main table. ``type`` is empty for one that leads somewhere."""

    destination: str
    nexthop: str
    device: str
    type: str = ""


@dataclass
class Found:
    """Addresses with their prefix by device, those that failed to be ours, and routes."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    unusable: set[tuple[str, str]] = field(default_factory=set)
    routes: list[FoundRoute] = field(default_factory=list)


def look() -> Found:
    """All addresses and routes as they are."""
    found = Found()
    for link in _ip("addr", "show"):
        addresses = found.addresses.setdefault(link["ifname"], [])
        for entry in link.get("addr_info", ()):
            text = f"{entry['local']}/{entry['prefixlen']}"
            addresses.append(text)
            if entry.get("dadfailed"):
                found.unusable.add((link["ifname"], text))
    for version in (4, 6):
        entries = _ip(f"-{version}", "route", "show", "table", "main")
        found.routes += [_route(version, entry) for entry in entries]
    return found


def _ip(*words: str) -> list[dict[str, Any]]:
    argv = ["ip", "-json", *words]
    text = run(argv, timeout_s=TIMEOUT_S).strip()
    try:
        return [entry for entry in json.loads(text or "[]") if entry]
    except ValueError:
        raise CommandFailed(argv, "its answer is not JSON", text) from None


def _route(version: int, entry: dict[str, Any]) -> FoundRoute:
    destination = str(entry["dst"])
    if destination == "default":
        destination = _ANYWHERE[version]
    elif "/" not in destination:
        destination = f"{destination}/{_WHOLE[version]}"
    nexthop, device = str(entry.get("gateway", "")), str(entry.get("dev", ""))
    if "nexthops" in entry:
        nexthop = ",".join(str(each.get("gateway", "")) for each in entry["nexthops"])
    return FoundRoute(destination, nexthop, device, str(entry.get("type", "")))


def change(commands: Sequence[Sequence[str]]) -> None:
    """Run commands of ip(8) in order, in one process; all are tried, the first failure is told."""
    if not commands:
        return
    killpoint.reached("addresses and routes about to be changed")
    lines = [_line(words) for words in commands]
    run(["ip", "-force", "-batch", "-"], timeout_s=TIMEOUT_S, stdin="".join(lines))


def _line(words: Sequence[str]) -> str:
    """A line of a batch, in which blanks separate words and a hash begins a comment."""
    for word in words:
        if not word or any(c.isspace() or c in "\"'\\#" for c in word):
            raise CommandFailed(("ip", "-batch"), f"{word!r} is not one clean word")
    return " ".join(words) + "\n"
