"""Connections that netfilter knows in the namespace of the calling thread: looking, forgetting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent import killpoint
from agent.system.run import CommandFailed, run

TIMEOUT_S = 30
_NOTHING = "0 flow entries have been deleted"


@dataclass(frozen=True)
class Translated:
    """The addresses of a connection: as its first packet had them, and as answers have them."""

    source: str
    destination: str
    answer_source: str
    answer_destination: str


def translated() -> set[Translated]:
    """The addresses of all IPv4 connections of which one was translated."""
    text = run(["conntrack", "-L", "-f", "ipv4", "--any-nat"], timeout_s=TIMEOUT_S)
    return {entry for line in text.splitlines() for entry in _parse(line)}


def _parse(line: str) -> Iterable[Translated]:
    words = [word.partition("=") for word in line.split()]
    addresses = [value for key, _, value in words if key in ("src", "dst")]
    if len(addresses) == 4:
        yield Translated(*addresses)


def forget(entries: Iterable[Translated]) -> None:
    """Forget connections with these addresses; what goes on of them counts as new."""
    for each in entries:
        killpoint.reached("a connection about to be forgotten")
        argv = ["conntrack", "-D", "-f", "ipv4", "--orig-src", each.source, "--orig-dst"]
        argv += [each.destination, "--reply-src", each.answer_source]
        try:
            run([*argv, "--reply-dst", each.answer_destination], timeout_s=TIMEOUT_S)
        except CommandFailed as error:
            if _NOTHING not in error.output:
                raise
