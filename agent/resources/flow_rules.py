"""br-int, tables 72 to 82: what security groups allow, once for each set of groups. Pure.

Ports with the same groups share a profile, and its rules are compiled once: a thousand ports in
one group cost no more rules than one. A rule matches the first packet of a connection and all
later ones in its direction, so that a rule that was revoked cuts what it had let in: the packet
that finds no rule marks the connection, and from then on replies are not let through either.
Two bits of the mark keep sender's and receiver's verdict apart, as both may be on this host.

A rule that comes back takes its bit away again, whichever side speaks first: a reply in a marked
connection is judged by the packet that began it, whose addresses and ports tracking remembers.
So each rule is compiled twice, once for either direction of its connections.

A rule for members of a group is a conjunction: of the addresses of the members, which all rules
of all profiles share, and of protocols and ports.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from agent.resources import flow_spoofing, texts
from agent.resources.flow_plan import (
    ACCEPT_EGRESS,
    ACCEPT_INGRESS,
    IP_VERSIONS,
    LOCAL_OUT,
    RULES_EGRESS,
    RULES_INGRESS,
    TRANSIENT,
    ZONE,
    Plan,
    Prefix,
    numbered,
    prefix,
)
from agent.resources.flow_text import Flow
from agent.spec import SecurityGroup, SecurityRule

ICMP, TCP, UDP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 58, 132, 136
_NAMES = {
    4: {ICMP: "icmp", 2: "igmp", TCP: "tcp", UDP: "udp", SCTP: "sctp"},
    6: {ICMPV6: "icmp6", TCP: "tcp6", UDP: "udp6", SCTP: "sctp6"},
}
_WITH_PORTS = (TCP, UDP, SCTP)
_FORWARD = "ct_state=-rel-rpl-inv"
"""The first packet of a connection, and every later one the same way; or one not tracked."""

INVALID, REPLY, RULE, LATER_FRAGMENT, PICKED_UP, REVOKED = 100, 80, 70, 60, 50, 40


@dataclass(frozen=True)
class Way:
    """A direction: its table, what accepting does there, its bit of the mark, and the fields of
    the other side's address (``ct_`` and the same: as the connection began)."""

    name: str
    table: int
    accept: str
    bit: int
    v4_field: str
    v6_field: str


EGRESS = Way("egress", RULES_EGRESS, f"goto_table:{ACCEPT_EGRESS}", 0, "nw_dst", "ipv6_dst")
INGRESS = Way("ingress", RULES_INGRESS, f"goto_table:{ACCEPT_INGRESS}", 1, "nw_src", "ipv6_src")
WAYS = (EGRESS, INGRESS)
_ONWARD = {EGRESS: f"resubmit(,{TRANSIENT})", INGRESS: f"goto_table:{ACCEPT_INGRESS}"}
"""What lets a reply go on, which needs no rule of this table's own."""


@dataclass(frozen=True)
class Question:
    """Where a rule is asked, and for what: for packets its own way, or for replies to them."""

    way: Way
    table: int
    priority: int
    accept: str
    state: str

    @property
    def reply(self) -> bool:
        """Whether it is asked about replies."""
        return self.table != self.way.table

    def number_name(self, group_id: str) -> str:
        """What the conjunction of a remote group's members is called."""
        return f"{group_id}/reply" if self.reply else group_id

    def member(self, address: Prefix, here: str) -> str:
        """The match for one member of a remote group."""
        if not self.reply:
            field = address.match(self.way.v4_field, self.way.v6_field)
            return f"{address.ip},{here}{field}"
        field = address.match(f"ct_{self.way.v4_field}", f"ct_{self.way.v6_field}")
        return f"{self.state}{field},{address.ip},{here}"


def _questions(way: Way) -> tuple[Question, Question]:
    other = INGRESS if way is EGRESS else EGRESS
    bit = 1 << way.bit
    state = f"ct_state=+est+rpl-inv+trk,ct_mark={bit:#x}/{bit:#x}"
    unmark = f"{mark(way.bit, 0)},{_ONWARD[other]}"
    return (
        Question(way, way.table, RULE, way.accept, _FORWARD),
        Question(way, other.table, REPLY, unmark, state),
    )


@dataclass(frozen=True)
class Allowed:
    """A rule in the words of flows: what goes before the profile, and what after it.

    A range of ports has several such pairs. ``replies`` are the same for the other direction,
    ``group`` is the remote group, if there is one.
    """

    way: Way
    version: int
    parts: tuple[tuple[str, str], ...]
    replies: tuple[str, ...]
    group: Optional[str]


def compile_rules(plan: Plan) -> Iterator[Flow]:
    """Everything in the tables of rules."""
    for way in WAYS:
        yield from _states(way)
        for question in _questions(way):
            yield from _Book(plan, question).flows()
    yield from _picked_up(plan)
    yield from flow_spoofing.fragments()
    # Only its own bit: the other one is the other side's verdict.
    for ip in IP_VERSIONS:
        marked = f"ct_state=+est-rpl+trk,ct_mark=0x1/0x1,{ip}"
        yield Flow(ACCEPT_EGRESS, 90, marked, f"{mark(EGRESS.bit, 0)},resubmit(,{TRANSIENT})")
    yield Flow(ACCEPT_EGRESS, 0, "", f"resubmit(,{TRANSIENT})")


def _picked_up(plan: Plan) -> Iterator[Flow]:
    """Connections of a guest that came here just now, of which this host has seen nothing.

    Those that rules let in begin anew with any packet. Of those that the guest began, what the
    other side says is let through, untracked, until the guest's own answer makes them known.
    """
    for net in plan.nets:
        for tap in net.taps:
            if tap.protected and tap.port.role == "incoming":
                for tcp in ("tcp", "tcp6"):
                    match = f"ct_state=+new-inv+trk,{tcp},reg5={tap.ofport:#x},tcp_flags=-syn"
                    yield Flow(RULES_INGRESS, PICKED_UP, match, f"goto_table:{LOCAL_OUT}")


def mark(bit: int, value: int) -> str:
    """The action that sets one bit of a connection's mark."""
    number = f"{value:#x}" if value else "0"
    return f"ct(commit,{ZONE},exec(load:{number}->NXM_NX_CT_MARK[{bit}]))"


def _states(way: Way) -> Iterator[Flow]:
    """What the state of its connection says about a packet."""
    table, onward = way.table, _ONWARD[way]
    # What was sent this way is answered from the other: by a connection that the other allowed.
    began = 0x2 if way is EGRESS else 0x1
    yield Flow(table, INVALID, "ct_state=+inv+trk", "drop")
    yield Flow(table, 0, "", "drop")
    for ip in IP_VERSIONS:
        reply = f"ct_state=+est+rpl-inv+trk,ct_mark=0/{began:#x},{ip}"
        yield Flow(table, REPLY, reply, onward)
        yield Flow(table, REPLY, f"ct_state=+rel-inv+trk,ct_mark=0/0x3,{ip}", onward)
        # The first fragment alone shows its ports: without it nobody can use the others.
        later = f"{_FORWARD}+trk,ct_mark=0/0x3,{ip},nw_frag=later"
        yield Flow(table, LATER_FRAGMENT, later, way.accept)
        yield Flow(table, REVOKED, f"ct_state=+est-rpl+trk,{ip}", mark(way.bit, 1))


class _Book:
    """The rules of all profiles for one question, each match once."""

    def __init__(self, plan: Plan, question: Question) -> None:
        self.plan, self.asked = plan, question
        ids = {member.group_id for member in plan.spec.members}
        self.numbers = numbered([*ids, *(f"{group_id}/reply" for group_id in ids)])
        self.plain: set[str] = set()
        self.joined: dict[str, set[int]] = {}
        self.used: set[tuple[str, int]] = set()
        groups = {group.id: group for group in plan.spec.security_groups}
        for name, profile in plan.profiles.items():
            for group_id in name.split(","):
                for allowed in _allowed(groups[group_id]) if group_id in groups else ():
                    if allowed.way is question.way:
                        self._add(allowed, profile)

    def _add(self, allowed: Allowed, profile: int) -> None:
        number = self.numbers.get(self.asked.number_name(allowed.group or ""))
        for match in self._matches(allowed, profile):
            if allowed.group is None:
                self.plain.add(match)
            elif number is not None:
                self.joined.setdefault(match, set()).add(number)
                self.used.add((allowed.group, allowed.version))

    def _matches(self, allowed: Allowed, profile: int) -> list[str]:
        here = f"reg7={profile:#x}"
        if self.asked.reply:
            return [f"{self.asked.state}{began},{here}" for began in allowed.replies]
        return [f"{before},{here}{after}" for before, after in allowed.parts]

    def flows(self) -> Iterator[Flow]:
        """All rules, and the members that they speak of."""
        table, priority, accept = self.asked.table, self.asked.priority, self.asked.accept
        for match in sorted(self.plain):
            yield Flow(table, priority, match, accept)
        # What anybody may do, members may too.
        for match in sorted(self.joined.keys() - self.plain):
            yield Flow(table, priority, match, _conjunctions(self.joined[match], 2))
        for group_id, version in sorted(self.used):
            number = self.numbers[self.asked.number_name(group_id)]
            ip = "ip" if version == 4 else "ipv6"
            yield Flow(table, priority, f"conj_id={number},{ip}", accept)
        for match, ids in self._members().items():
            yield Flow(table, priority, match, _conjunctions(ids, 1))

    def _members(self) -> dict[str, set[int]]:
        """The groups that each address of each network is a member of."""
        places = {net.network.id: net.here for net in self.plan.nets}
        found: dict[str, set[int]] = {}
        for member in self.plan.spec.members:
            here = places.get(member.network_id)
            number = self.numbers[self.asked.number_name(member.group_id)]
            for address in map(_remote, member.addresses) if here else ():
                if address is not None and (member.group_id, address.version) in self.used:
                    found.setdefault(self.asked.member(address, here or ""), set()).add(number)
        return found


def _conjunctions(ids: set[int], dimension: int) -> str:
    return ",".join(f"conjunction({number},{dimension}/2)" for number in sorted(ids))


def _remote(text: str) -> Optional[Prefix]:
    try:
        return prefix(text)
    except texts.BadText:
        return None


# --- one rule -----------------------------------------------------------------------------------


def problems(groups: tuple[SecurityGroup, ...]) -> Iterator[tuple[str, str]]:
    """(rule, why) for each rule that no flow can express; what it should allow stays shut."""
    for group in groups:
        for rule in group.rules:
            try:
                _compile(rule)
            except texts.BadText as error:
                yield rule.id, f"rule {rule.id!r} of security group {group.id!r}: {error}"


@functools.lru_cache(maxsize=1024)
def _allowed(group: SecurityGroup) -> tuple[Allowed, ...]:
    found = []
    for rule in group.rules:
        try:
            found.append(_compile(rule))
        except texts.BadText:
            continue
    return tuple(found)


def _compile(rule: SecurityRule) -> Allowed:
    """A rule in the words of flows; BadText when it is none."""
    way = next((way for way in WAYS if way.name == rule.direction), None)
    version = {"IPv4": 4, "IPv6": 6}.get(rule.ethertype)
    if way is None or version is None:
        raise texts.BadText(f"{rule.direction!r} {rule.ethertype!r} is no direction of IP")
    remote = began = ""
    if rule.remote_cidr is not None:
        cidr = prefix(rule.remote_cidr)
        if cidr.version != version:
            raise texts.BadText(f"{rule.remote_cidr} is not {rule.ethertype}")
        remote = cidr.match(way.v4_field, way.v6_field)
        began = cidr.match(f"ct_{way.v4_field}", f"ct_{way.v6_field}")
    protocol = _protocol(rule.protocol, version)
    parts = tuple(_parts(rule, version, protocol, remote))
    ip = "ip" if version == 4 else "ipv6"
    replies = tuple(f"{began}{fields},{ip}" for fields in _began(rule, protocol))
    return Allowed(way, version, parts, replies, rule.remote_group_id)


def _protocol(number: Optional[int], version: int) -> Optional[int]:
    if number is not None and not 0 <= number <= 255:
        raise texts.BadText(f"protocol {number}: 0 to 255 exist")
    return ICMPV6 if (number, version) == (ICMP, 6) else number


def _parts(
    rule: SecurityRule, version: int, protocol: Optional[int], remote: str
) -> Iterator[tuple[str, str]]:
    """What goes before and after the profile in each match of a rule."""
    ip = "ip" if version == 4 else "ipv6"
    if protocol is None:
        yield f"{_FORWARD},{ip}", remote
        return
    name = _NAMES[version].get(protocol)
    after = remote if name is not None else f"{remote},nw_proto={protocol}"
    name = name or ip
    for match in _layer4(rule, protocol):
        yield f"{_FORWARD},{name}", f"{after}{match}"
    for began in _began(rule, protocol):
        if "ct_tp" in began:
            # Of a fragment, ports and types are known to tracking alone.
            yield f"{_FORWARD}+trk{began},{name}", f"{after},nw_frag=first"


def _layer4(rule: SecurityRule, protocol: int) -> list[str]:
    """The ports, or type and code of ICMP, as a packet shows them."""
    if rule.port_min is None and rule.port_max is None:
        return [""]
    if protocol not in (ICMP, ICMPV6):
        masks = port_masks(*_range(rule, protocol))
        return [f",tp_dst={ports}" if ports else "" for ports in masks]
    kind, code = _icmp(rule)
    # A fragment seems to be of type 0, whatever it is.
    frag = ",nw_frag=no" if kind == 0 else ""
    return [f"{frag},icmp_type={kind}" + ("" if code is None else f",icmp_code={code}")]


def _began(rule: SecurityRule, protocol: Optional[int]) -> list[str]:
    """The same of the packet that began a connection, as tracking remembers it."""
    if protocol is None:
        return [""]
    fields = f",ct_nw_proto={protocol}"
    if rule.port_min is None and rule.port_max is None:
        return [fields]
    if protocol not in (ICMP, ICMPV6):
        masks = port_masks(*_range(rule, protocol))
        return [f"{fields},ct_tp_dst={ports}" if ports else fields for ports in masks]
    kind, code = _icmp(rule)
    return [f"{fields},ct_tp_src={kind}" + ("" if code is None else f",ct_tp_dst={code}")]


def _icmp(rule: SecurityRule) -> tuple[int, Optional[int]]:
    kind, code = rule.port_min, rule.port_max
    if kind is None or not 0 <= kind <= 255 or not 0 <= (code or 0) <= 255:
        raise texts.BadText(f"ICMP type {kind}, code {code}: 0 to 255 exist")
    return kind, code


def _range(rule: SecurityRule, protocol: int) -> tuple[int, int]:
    first = rule.port_min if rule.port_min is not None else 0
    last = rule.port_max if rule.port_max is not None else 65535
    if protocol not in _WITH_PORTS:
        raise texts.BadText(f"the switch knows no ports of protocol {protocol}")
    if not 0 <= first <= last <= 65535:
        raise texts.BadText(f"ports {first} to {last}: 0 to 65535 exist")
    return first, last


def port_masks(first: int, last: int) -> list[str]:
    """The fewest ``value/mask`` that together are a range of ports; "" is all of them.

    Port 0 is left out: nobody can use it, and fragments seem to have it.
    """
    first, found = max(first, 1), []
    if (first, last) == (1, 65535):
        return [""]
    while first <= last:
        size = first & -first
        while first + size - 1 > last:
            size >>= 1
        found.append(str(first) if size == 1 else f"{first:#x}/{65536 - size:#x}")
        first += size
    return found
