"""The netfilter rules of a router's namespace, in the words that iptables-save prints. Pure.

Floating IPs are translated before routing, and on the way out of their owners' packets; what else
leaves by the gateway gets the gateway's address unless source NAT is off. What a guest sends to a
floating IP comes back through the router (its source is translated too), so that a guest reaches
its neighbour's and its own. IPv6 is routed as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

from agent.resources import texts
from agent.spec import FloatingIp

PREROUTING, OUTPUT = "stackctl-prerouting", "stackctl-output"
POSTROUTING, SNAT, FLOAT_SNAT = "stackctl-postrouting", "stackctl-snat", "stackctl-float-snat"
MARK = "stackctl-mark"
INPUT, FORWARD = "stackctl-input", "stackctl-forward"

_FROM_OUTSIDE = "0x2/0xffff"
"""The mark of what came in by the gateway."""

Rule = tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """A chain: its policy (``-`` for one of our own), and its rules in order."""

    policy: str
    rules: tuple[Rule, ...] = ()


Tables = Mapping[str, Mapping[str, Chain]]
"""Chains by table and name; chains that accept everything by policy are left out."""


@dataclass(frozen=True)
class Outside:
    """The gateway: its device and its first IPv4 address (empty: it has none)."""

    device: str
    address: str
    snat: bool


def ipv4(admin_up: bool, outside: Optional[Outside], floating: Iterable[FloatingIp]) -> Tables:
    """All IPv4 tables of a router; BadText for an address that is none."""
    found = list(floating)
    mark, snat, post = _by_gateway(outside)
    return {
        "mangle": {"PREROUTING": _jump(MARK), MARK: Chain("-", mark)},
        "nat": {
            "PREROUTING": _jump(PREROUTING),
            "OUTPUT": _jump(OUTPUT),
            "POSTROUTING": _jump(POSTROUTING),
            PREROUTING: Chain("-", tuple(_to_fixed(found))),
            OUTPUT: Chain("-", tuple(_to_fixed(found))),
            POSTROUTING: Chain("-", post),
            SNAT: Chain("-", snat),
            FLOAT_SNAT: Chain("-", tuple(_to_floating(found))),
        },
        "filter": _filter(admin_up, ()),
    }


def ipv6(admin_up: bool) -> Tables:
    """All IPv6 tables of a router: guests ask the DHCP server of their subnet, never this one."""
    no_dhcp = (("-p", "udp", "-m", "udp", "--dport", "547", "-j", "DROP"),)
    return {"filter": _filter(admin_up, no_dhcp)}


def _jump(chain: str) -> Chain:
    return Chain("ACCEPT", (("-j", chain),))


def _filter(admin_up: bool, refused: tuple[Rule, ...]) -> dict[str, Chain]:
    return {
        "INPUT": _jump(INPUT),
        "FORWARD": _jump(FORWARD),
        INPUT: Chain("-", refused),
        FORWARD: Chain("-", () if admin_up else (("-j", "DROP"),)),
    }


def _by_gateway(
    outside: Optional[Outside],
) -> tuple[tuple[Rule, ...], tuple[Rule, ...], tuple[Rule, ...]]:
    """The chains mark, snat and postrouting, which need to know the gateway."""
    if outside is None or not outside.address:
        return (), (), ()
    device, address = texts.device(outside.device), texts.ipv4(outside.address)
    to_gateway = ("-j", "SNAT", "--to-source", address, "--random-fully")
    leaving = (("-o", device, *to_gateway),) if outside.snat else ()
    # Between networks of this router nothing is translated, except towards a floating IP: then
    # both ends must speak through the router, also when they share a network.
    hairpin = ("-m", "mark", "!", "--mark", _FROM_OUTSIDE, "-m", "conntrack", "--ctstate", "DNAT")
    inside = ("!", "-o", device, "-m", "conntrack", "!", "--ctstate", "DNAT", "-j", "ACCEPT")
    return (
        (("-i", device, "-j", "MARK", "--set-xmark", _FROM_OUTSIDE),),
        (("-j", FLOAT_SNAT), *leaving, (*hairpin, *to_gateway)),
        (inside, ("-j", SNAT)),
    )


def _to_fixed(floating: Iterable[FloatingIp]) -> Iterator[Rule]:
    for each in floating:
        address, fixed = texts.ipv4(each.address), texts.ipv4(each.fixed_address)
        yield ("-d", f"{address}/32", "-j", "DNAT", "--to-destination", fixed)


def _to_floating(floating: Iterable[FloatingIp]) -> Iterator[Rule]:
    for each in floating:
        address, fixed = texts.ipv4(each.address), texts.ipv4(each.fixed_address)
        yield ("-s", f"{fixed}/32", "-j", "SNAT", "--to-source", address)


def difference(wanted: Tables, found: Tables) -> str:
    """What is not as it should be, in words; empty when all is."""
    for table in sorted(wanted.keys() | found.keys()):
        want, have = wanted.get(table, {}), found.get(table, {})
        for chain in sorted(want.keys() | have.keys()):
            words = _chain_difference(want.get(chain), have.get(chain))
            if words:
                return f"chain {chain} of table {table} {words}"
    return ""


def _chain_difference(want: Optional[Chain], have: Optional[Chain]) -> str:
    if want == have:
        return ""
    if want is None or have is None:
        return "does not belong there" if want is None else "is missing"
    if want.policy != have.policy:
        return f"has the policy {have.policy}, should have {want.policy}"
    for rule in Counter(want.rules) - Counter(have.rules):
        return f"lacks {' '.join(rule)!r}"
    for rule in Counter(have.rules) - Counter(want.rules):
        return f"has {' '.join(rule)!r} too many"
    return "has its rules in another order"


def commands(wanted: Tables, found: Tables) -> dict[str, list[Rule]]:
    """What iptables-restore is given to make every table that differs what it should be."""
    changed = [t for t in sorted(wanted.keys() | found.keys()) if wanted.get(t) != found.get(t)]
    return {table: _table(wanted.get(table, {}), found.get(table, {})) for table in changed}


def _table(want: Mapping[str, Chain], have: Mapping[str, Chain]) -> list[Rule]:
    opened = {name: "ACCEPT" for name, chain in have.items() if chain.policy != "-"}
    policies = {**opened, **{name: chain.policy for name, chain in want.items()}}
    lines: list[Rule] = [(f":{name}", policy, "[0:0]") for name, policy in policies.items()]
    for name, chain in want.items():
        lines += [("-A", name, *rule) for rule in chain.rules]
    return lines
