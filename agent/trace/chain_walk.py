"""What netfilter's chains do with one packet, as they are. Pure.

It follows a packet through the chains that iptables-save prints. It knows what stackctl's own rules
(and the usual ones beside them) are made of; a rule with anything else is named, as one of which
cannot be told whether it fits.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

_MOST_JUMPS = 64
_ENDS = ("ACCEPT", "DROP", "REJECT", "DNAT", "SNAT", "MASQUERADE")
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "icmpv6": 58}
_WITH_VALUE = {
    "-s", "-d", "-i", "-o", "-p", "-m", "-j", "--mark", "--ctstate", "--sport", "--dport",
    "--to-destination", "--to-source", "--set-xmark", "--reject-with", "--comment",
}  # fmt: skip


class Chain(Protocol):
    """A chain as iptables-save prints it: ``-`` is the policy of one that was added."""

    @property
    def policy(self) -> str:
        """What becomes of a packet that no rule has decided on."""
        ...

    @property
    def rules(self) -> tuple[tuple[str, ...], ...]:
        """Its rules, without the name of the chain."""
        ...


Tables = Mapping[str, Mapping[str, Chain]]


@dataclass
class State:
    """A packet on its way through a host. ``translated``: its target was rewritten."""

    src: str
    dst: str
    protocol: int
    sport: int = 0
    dport: int = 0
    iif: str = ""
    oif: str = ""
    mark: int = 0
    translated: bool = False
    said: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Rule:
    """A rule taken apart: option -> (negated, value)."""

    options: Mapping[str, tuple[bool, str]]
    unknown: bool

    @property
    def target(self) -> str:
        return self.options.get("-j", (False, ""))[1]

    def value(self, name: str) -> str:
        return self.options[name][1]


def walk(tables: Tables, table: str, chain: str, state: State, jumps: int = 0) -> str:
    """Send the packet through a chain; what the chain decides: ACCEPT, DROP, REJECT or "" (back).

    Translations and marks are done to ``state``, and told in ``state.said``.
    """
    found = tables.get(table, {}).get(chain)
    if found is None or jumps > _MOST_JUMPS:
        return "" if found is None and jumps else "ACCEPT"
    for words in found.rules:
        rule = _parsed(words)
        if not _fits(rule, state, f"{table} {chain}: {' '.join(words)}"):
            continue
        if rule.target == "RETURN":
            break
        verdict = _act(tables, table, chain, rule, words, state, jumps)
        if verdict:
            return verdict
    return "" if found.policy == "-" else found.policy


def _act(
    tables: Tables,
    table: str,
    chain: str,
    rule: _Rule,
    words: Sequence[str],
    state: State,
    jumps: int,
) -> str:
    target = rule.target
    if target == "MARK":
        state.mark = _marked(state.mark, rule.value("--set-xmark"))
        return ""
    if target not in _ENDS:
        return walk(tables, table, target, state, jumps + 1) if target else ""
    if target == "DNAT":
        state.dst = rule.value("--to-destination").partition(":")[0]
        state.translated = True
    elif target == "SNAT":
        state.src = rule.value("--to-source").partition(":")[0]
    if target != "ACCEPT":
        state.said.append(f"{table} {chain}: {' '.join(words)}")
    return target if target in ("DROP", "REJECT") else "ACCEPT"


def _marked(mark: int, text: str) -> int:
    """--set-xmark value/mask: the bits of the mask are cleared, then the value is xored in."""
    value, _, mask = text.partition("/")
    return (mark & ~int(mask or "0xffffffff", 16)) ^ int(value, 16)


def _parsed(words: Sequence[str]) -> _Rule:
    options: dict[str, tuple[bool, str]] = {}
    negated, unknown = False, False
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "!":
            negated = True
            continue
        if word in _WITH_VALUE and rest:
            options[word] = (negated, rest.pop(0))
        elif word != "--random-fully":
            unknown = True
        negated = False
    return _Rule(options, unknown)


def _fits(rule: _Rule, state: State, said: str) -> bool:
    if not all(_option_fits(name, *each, state) for name, each in rule.options.items()):
        return False
    if rule.unknown:
        state.unclear.append(said)
    return not rule.unknown


def _option_fits(name: str, negated: bool, value: str, state: State) -> bool:
    if name in ("-s", "-d"):
        network = ipaddress.ip_network(value, strict=False)
        found = ipaddress.ip_address(state.src if name == "-s" else state.dst) in network
    elif name in ("-i", "-o"):
        found = value == (state.iif if name == "-i" else state.oif)
    elif name == "-p":
        found = _PROTOCOLS.get(value, int(value) if value.isdigit() else -1) == state.protocol
    elif name in ("--sport", "--dport"):
        first, _, last = value.partition(":")
        port = state.sport if name == "--sport" else state.dport
        found = int(first or 0) <= port <= int(last or first)
    elif name == "--mark":
        wanted, _, mask = value.partition("/")
        found = state.mark & int(mask or "0xffffffff", 16) == int(wanted, 16)
    elif name == "--ctstate":
        states = {"NEW", "DNAT"} if state.translated else {"NEW"}
        found = bool(states & set(value.split(",")))
    else:
        return True
    return found != negated
