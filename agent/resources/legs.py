"""The host-local way out of a DHCP namespace: a veth pair with a /31, and NAT on the host.

Only DNS passes, and only what the namespace itself sends: it does not forward, so guests cannot
use the leg. Addresses come from 169.254.0.0/17, numbered by the subnet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Optional

from agent.resources import switch
from agent.resources.base import Host, Step
from agent.resources.dnsmasq_files import UPSTREAM
from agent.spec import HostSpec, Subnet
from agent.system import iptables, links, netns

RANGE = ipaddress.IPv4Network("169.254.0.0/17")
LIMIT = RANGE.num_addresses // 2
"""Subnet numbers from 0 up to this one have a leg."""

PREFIX = "dns-"
STEP = "dns-legs"
_OUT, _BACK = "stackctl-leg-out", "stackctl-leg-back"
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def device(subnet: Subnet) -> str:
    """The host's end."""
    return f"{PREFIX}{subnet.number}"


def addresses(subnet: Subnet) -> tuple[str, str]:
    """The host's address and the namespace's, with their prefix (RFC 3021)."""
    return f"{RANGE[2 * subnet.number]}/31", f"{RANGE[2 * subnet.number + 1]}/31"


def alias(spec: HostSpec, subnet_id: str) -> str:
    """What is written into the host's end: whose it is."""
    return f"stackctl-leg:{spec.cloud_id}:{subnet_id}"


def problem(host: Host, spec: HostSpec, subnet: Subnet) -> str:
    """Why a subnet cannot have its leg; empty when it can."""
    if not 0 <= subnet.number < LIMIT:
        return f"subnet number {subnet.number} has no address; 0 to {LIMIT - 1} have"
    name = device(subnet)
    link = links.look(name)
    begun = switch.pending_file(host, name).exists()
    if link is None or link.alias.startswith(alias(spec, "")) or (begun and not link.alias):
        return ""
    return f"a device {name} that stackctl did not make is on this host"


def difference(spec: HostSpec, subnet: Subnet, namespace: str) -> str:
    """What is not right about a leg; empty when all is."""
    name, (outer, inner) = device(subnet), addresses(subnet)
    link, end = links.look(name), links.configured(name)
    if link is None or end is None:
        return f"there is no {name}, by which its name server reaches others"
    if link.alias != alias(spec, subnet.id) or not link.up or end.address != outer:
        return f"{name} is not set up"
    far, route = netns.inside(namespace, _look_inside)
    if far is None or not far.up or far.address != inner or not route:
        return f"the far end of {name} is not set up"
    return ""


def _look_inside() -> tuple[Optional[links.Configured], bool]:
    return links.configured(UPSTREAM), links.has_default_route()


def make(host: Host, spec: HostSpec, subnet: Subnet, namespace: str) -> None:
    """Make a leg anew: both ends go when one does."""
    name, (outer, inner) = device(subnet), addresses(subnet)
    links.delete(name)
    netns.inside(namespace, partial(links.delete, UPSTREAM))
    with switch.pending(host, name):
        links.make_veth(name, UPSTREAM, namespace)
        links.mark(name, alias(spec, subnet.id))
    links.tx_checksum_off(name)
    links.ipv6_off(name)
    links.configure(name, outer)
    netns.inside(namespace, partial(_set_up_inside, inner, outer.partition("/")[0]))


def _set_up_inside(address: str, gateway: str) -> None:
    links.tx_checksum_off(UPSTREAM)
    links.ipv6_off(UPSTREAM)
    links.configure(UPSTREAM, address)
    links.default_route(gateway)


def leftovers(spec: HostSpec, wanted: Iterable[str]) -> list[str]:
    """Our legs on this host whose subnets are not in ``wanted``."""
    ours = alias(spec, "")
    keep = {alias(spec, subnet_id) for subnet_id in wanted}
    found = links.look_all().values()
    return [k.name for k in found if k.alias.startswith(ours) and k.alias not in keep]


# --- NAT ----------------------------------------------------------------------------------------


def _chains() -> dict[str, list[iptables.Rule]]:
    """What leaves a leg is DNS; what comes back is an answer."""
    answers = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
    dns = [(p, "-m", p, "--dport", "53", "-j", "ACCEPT") for p in ("udp", "tcp")]
    return {
        _OUT: [*((_OUT, "-p", *words) for words in dns), (_OUT, "-j", "DROP")],
        _BACK: [(_BACK, *answers), (_BACK, "-j", "DROP")],
    }


def _jumps(spec: HostSpec) -> dict[str, list[iptables.Rule]]:
    mark = ("-m", "comment", "--comment", f"stackctl:{spec.cloud_id}")
    any_leg = f"{PREFIX}+"
    return {
        "filter": [
            ("INPUT", "-i", any_leg, *mark, "-j", _OUT),
            ("FORWARD", "-i", any_leg, *mark, "-j", _OUT),
            ("FORWARD", "-o", any_leg, *mark, "-j", _BACK),
        ],
        "nat": [("POSTROUTING", "-s", str(RANGE), "!", "-o", any_leg, *mark, "-j", "MASQUERADE")],
    }


def nat_step(spec: HostSpec, kind: str) -> Step:
    """Rules and forwarding for all legs together."""
    found = iptables.rules()
    missing = _missing(spec, found)
    differences = [f"netfilter lacks {' '.join(rule)}" for _, rule in missing][:1]
    if not _chains_right(found):
        differences.append("the chains that let DNS through are not as they should be")
    if _FORWARD.read_text().strip() != "1":
        differences.append("the host does not forward")
    if not differences:
        return Step(kind, STEP, "unchanged")
    return Step(kind, STEP, "changed", why="; ".join(differences), apply=partial(_set_up_nat, spec))


Tables = dict[str, list[iptables.Rule]]


def _missing(spec: HostSpec, found: Tables) -> list[tuple[str, iptables.Rule]]:
    return [
        (table, rule)
        for table, rules in _jumps(spec).items()
        for rule in rules
        if rule not in found.get(table, [])
    ]


def _chains_right(found: Tables) -> bool:
    rules = found.get("filter", [])
    return all([r for r in rules if r[0] == chain] == want for chain, want in _chains().items())


def _set_up_nat(spec: HostSpec) -> None:
    found = iptables.rules()
    commands: dict[str, Sequence[Sequence[str]]] = {"filter": [], "nat": []}
    filter_commands: list[Sequence[str]] = []
    if not _chains_right(found):
        for chain, rules in _chains().items():
            filter_commands.append((f":{chain}", "-", "[0:0]"))
            filter_commands += [("-A", *rule) for rule in rules]
    missing = _missing(spec, found)
    inserts = {
        table: [("-I", rule[0], "1", *rule[1:]) for where, rule in missing if where == table]
        for table in commands
    }
    commands["filter"] = [*filter_commands, *inserts["filter"]]
    commands["nat"] = inserts["nat"]
    iptables.restore({table: words for table, words in commands.items() if words})
    # Last: a host that forwards without these rules would let everything through.
    _FORWARD.write_text("1")


def nat_is_there(spec: HostSpec) -> bool:
    """Whether any of our rules is there."""
    found = iptables.rules()
    return bool(_present(spec, found)) or any(
        rule[0] in _chains() for rule in found.get("filter", [])
    )


def _present(spec: HostSpec, found: Tables) -> list[tuple[str, iptables.Rule]]:
    mark = f"stackctl:{spec.cloud_id}"
    return [(table, rule) for table, rules in found.items() for rule in rules if mark in rule]


def remove_nat(spec: HostSpec) -> None:
    """Take our rules away. Forwarding stays on: others may have come to rely on it."""
    found = iptables.rules()
    commands: dict[str, list[Sequence[str]]] = {}
    for table, rule in _present(spec, found):
        commands.setdefault(table, []).append(("-D", *rule))
    there = {rule[0] for rule in found.get("filter", [])} & _chains().keys()
    for words in ("-F", "-X"):
        commands.setdefault("filter", []).extend((words, chain) for chain in sorted(there))
    iptables.restore({table: words for table, words in commands.items() if words})
