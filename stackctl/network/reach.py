"""Who can reach whom, computed from rows. Pure: the same meaning as the flows on the hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.spec import SecurityRule
from stackctl.network import rule_words, traffic
from stackctl.network.traffic import ALL, Address, Traffic
from stackctl.network.ways import Map, RouterWay, SubnetWay, Way

INTERNET = "internet"


@dataclass(frozen=True)
class FixedIn:
    """An address of a port, the subnet it is in, and the floating one that stands for it."""

    address: Address
    subnet: SubnetWay
    floating: str = ""


@dataclass(frozen=True)
class PortEnd:
    """A server's port. ``protected``: rules of its groups (ids) decide what passes."""

    id: str
    network_id: str
    addresses: tuple[FixedIn, ...]
    up: bool
    protected: bool
    groups: tuple[str, ...]
    pairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class End:
    """Somebody who sends or receives: a server with its ports."""

    id: str
    name: str
    ports: tuple[PortEnd, ...]


@dataclass(frozen=True)
class Group:
    """A security group with its rules."""

    id: str
    name: str
    rules: tuple[SecurityRule, ...]


@dataclass(frozen=True)
class World:
    """All that decides who reaches whom. ``members``: by (group, network of the port with the
    rule), what the group's members send from."""

    map: Map
    groups: Mapping[str, Group]
    ends: tuple[End, ...]
    members: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One kind of packet that is asked for; without it all that is allowed is told."""

    protocol: int
    port: int | None = None

    def traffic(self, version: int) -> Traffic:
        """It, in packets of this version of IP; ICMP is a ping."""
        number = self.protocol
        if number in (rule_words.ICMP, rule_words.ICMPV6):
            number = rule_words.ICMP if version == 4 else rule_words.ICMPV6
            return Traffic(number, traffic.ECHO[number], 0)
        return Traffic(number, self.port, self.port)


@dataclass(frozen=True)
class Reach:
    """What one can send to the other: ``allowed`` in words, empty for nothing.

    ``via`` is the network or the routers between; ``because`` the rules that allow what was asked
    for, or why nothing gets there.
    """

    source: str
    source_id: str
    target: str
    target_id: str
    via: str
    allowed: str
    because: str


@dataclass(frozen=True)
class _Part:
    """What passes between one pair of addresses."""

    version: int
    via: str
    passes: tuple[Traffic, ...]
    narrow: tuple[str, ...] = ()
    because: str = ""


def reach(world: World, source: End, target: End, asked: Asked | None = None) -> Reach:
    """What one server can send to another."""
    parts = [
        _between(world, near, one, far, other, asked)
        for near in source.ports
        for one in near.addresses
        for far in target.ports
        for other in far.addresses
        if one.address.version == other.address.version
    ]
    return _summary(source.name, source.id, target.name, target.id, parts)


def reach_out(world: World, source: End, asked: Asked | None = None) -> Reach:
    """What a server can send outside."""
    parts = [_out(world, port, one, asked) for port in source.ports for one in port.addresses]
    return _summary(source.name, source.id, INTERNET, "", parts)


def reach_in(world: World, target: End, asked: Asked | None = None) -> Reach:
    """What the outside can send to a server, by its floating IPs or without any translation."""
    parts = [_in(world, port, one, asked) for port in target.ports for one in port.addresses]
    return _summary(INTERNET, "", target.name, target.id, parts)


def _summary(source: str, source_id: str, target: str, target_id: str, parts: list[_Part]) -> Reach:
    open_ = [part for part in parts if part.passes or part.narrow]
    if open_:
        via = ", ".join(dict.fromkeys(part.via for part in open_))
        because = "; ".join(dict.fromkeys(part.because for part in open_ if part.because))
        return Reach(source, source_id, target, target_id, via, _allowed(open_), because)
    reasons = [part.because for part in parts if part.because]
    # The pair that got farthest says most: what rules refuse comes before where no way leads.
    reasons.sort(key=lambda reason: not reason.startswith(("no rule", "nothing")))
    because = next(iter(dict.fromkeys(reasons)), "they have no addresses of one kind")
    return Reach(source, source_id, target, target_id, "", "", because)


def _allowed(parts: Iterable[_Part]) -> str:
    by_version: dict[int, str] = {}
    for version in (4, 6):
        own = [part for part in parts if part.version == version]
        words = traffic.in_words(traffic.joined(each for part in own for each in part.passes))
        narrow = dict.fromkeys(word for part in own for word in part.narrow)
        if own and (words or narrow):
            by_version[version] = ", ".join(filter(None, [words, *narrow]))
    if len(by_version) == 1 or len(set(by_version.values())) == 1:
        return next(iter(by_version.values()))
    return "; ".join(f"IPv{version}: {words}" for version, words in by_version.items())


def _between(
    world: World,
    near: PortEnd,
    one: FixedIn,
    far: PortEnd,
    other: FixedIn,
    asked: Asked | None,
) -> _Part:
    version = one.address.version
    there = world.map.way(one.subnet, other.address)
    back = world.map.way(other.subnet, one.address)
    why = _down(near, far) or _no_way(there, back)
    if why:
        return _Part(version, "", (), because=why)
    via = _via(world, one.subnet, there.routers)
    out = _rules(world, near, "egress", other.address)
    in_ = _rules(world, far, "ingress", one.address)
    if asked is not None:
        return _answered(world, version, via, asked, (near, out), (far, in_))
    passes = traffic.both(_traffic(near, out), _traffic(far, in_))
    because = "" if passes else _refusal(near, out, far, in_)
    return _Part(version, via, passes, because=because)


_Rules = list[tuple[Group, SecurityRule]]


def _rules(world: World, port: PortEnd, direction: str, far: Address) -> _Rules:
    """The rules of a port's groups that mean this other side."""
    found: _Rules = []
    for id_ in port.groups if port.protected else ():
        group = world.groups[id_]
        for rule in group.rules:
            members = world.members.get((rule.remote_group_id or "", port.network_id), ())
            if rule.direction == direction and traffic.fits(rule, far, members):
                found.append((group, rule))
    return found


def _traffic(port: PortEnd, rules: _Rules) -> list[Traffic]:
    return [traffic.traffic_of(rule) for _, rule in rules] if port.protected else [ALL]


def _refusal(near: PortEnd, out: _Rules, far: PortEnd, in_: _Rules) -> str:
    if near.protected and not out:
        return "no rule lets it out"
    if far.protected and not in_:
        return "no rule lets it in"
    return "nothing that is let out is let in"


def _answered(
    world: World,
    version: int,
    via: str,
    asked: Asked,
    near: tuple[PortEnd, _Rules],
    far: tuple[PortEnd, _Rules],
) -> _Part:
    """Whether the packet that was asked for passes both ends, and by which rules."""
    wanted = asked.traffic(version)
    said = []
    for (port, rules), refused in ((near, "no rule lets it out"), (far, "no rule lets it in")):
        if not port.protected:
            continue
        fitting = [pair for pair in rules if traffic.contains(traffic.traffic_of(pair[1]), wanted)]
        if not fitting:
            return _Part(version, via, (), because=refused)
        said.append(rule_said(world, *fitting[0]))
    return _Part(version, via, (wanted,), because="; ".join(said) or "no port is filtered")


def deciding(
    world: World, port: PortEnd, direction: str, far: Address, wanted: Traffic
) -> tuple[str, ...]:
    """The rules of a port that allow one kind of packet, in words and with how their ids begin."""
    return tuple(
        f"rule {rule.id[:8]} of group {group.name} ({_words(world, rule)})"
        for group, rule in _rules(world, port, direction, far)
        if traffic.contains(traffic.traffic_of(rule), wanted)
    )


def rule_said(world: World, group: Group, rule: SecurityRule) -> str:
    """A rule with its group: ``web: allow tcp 22 from anywhere``."""
    return f"{group.name}: {_words(world, rule)}"


def _words(world: World, rule: SecurityRule) -> str:
    remote = world.groups.get(rule.remote_group_id or "")
    return rule_words.in_words(rule, remote.name if remote else "")


def _down(*ports: PortEnd) -> str:
    return next(("a port is down" for port in ports if not port.up), "")


def _no_way(there: Way, back: Way) -> str:
    if there.why or there.outside:
        return there.why or "it would leave the cloud"
    if back.why or back.outside:
        return f"there is no way back: {back.why or 'replies would leave the cloud'}"
    return ""


def _via(world: World, subnet: SubnetWay, routers: tuple[RouterWay, ...]) -> str:
    if not routers:
        return f"net {world.map.networks[subnet.network_id].name}"
    return "router " + ", ".join(router.name for router in routers)


def _out(world: World, port: PortEnd, one: FixedIn, asked: Asked | None) -> _Part:
    version = one.address.version
    way = world.map.way(one.subnet, None)
    lost = _lost(world, one, way)
    why = _down(port) or way.why or (lost and f"there is no way back: {lost}")
    if why:
        return _Part(version, "", (), because=why)
    return _outside(world, port, "egress", version, _exit(world, one, way), asked)


def _exit(world: World, one: FixedIn, way: Way) -> str:
    via = _via(world, one.subnet, way.routers)
    if not way.routers or one.address.version == 6:
        return via
    if one.floating:
        return f"{via} as {one.floating}"
    return via if way.routers[-1].snat else f"{via} without SNAT"


def _lost(world: World, one: FixedIn, way: Way) -> str:
    """Why what comes from outside to the last router of a way does not get to where it began."""
    if not way.routers:
        return ""
    back = world.map.way_in(way.routers[-1], one.address)
    stray = f"router {way.routers[-1].name} has no route to {one.subnet.cidr}"
    return back.why or (stray if back.outside else "")


def _in(world: World, port: PortEnd, one: FixedIn, asked: Asked | None) -> _Part:
    version = one.address.version
    way = world.map.way(one.subnet, None)
    why = _down(port) or way.why or _lost(world, one, way)
    routed = one.address.version == 6 or not way.routers
    if not why and not one.floating and not routed:
        why = "it has no floating IP"
    if why:
        return _Part(version, "", (), because=why)
    via = f"floating IP {one.floating}" if one.floating else _via(world, one.subnet, way.routers)
    return _outside(world, port, "ingress", version, via, asked)


def _outside(
    world: World, port: PortEnd, direction: str, version: int, via: str, asked: Asked | None
) -> _Part:
    """What a port's rules say of the outside: anybody there, and single prefixes."""
    if not port.protected:
        said = "" if asked is None else "the port is not filtered"
        return _Part(version, via, (asked.traffic(version) if asked else ALL,), because=said)
    mine = [
        (world.groups[id_], rule)
        for id_ in port.groups
        for rule in world.groups[id_].rules
        if rule.direction == direction and traffic.version_of(rule) == version
    ]
    anybody = [pair for pair in mine if traffic.is_anybody(pair[1])]
    refused = "no rule lets it out" if direction == "egress" else "no rule lets it in"
    if asked is not None:
        return _asked_outside(world, version, mine, asked.traffic(version), via, refused)
    passes = traffic.joined(traffic.traffic_of(rule) for _, rule in anybody)
    narrow = _narrow([rule for _, rule in mine], passes)
    because = "" if passes or narrow else refused
    return _Part(version, via, passes, narrow, because)


def _asked_outside(
    world: World, version: int, mine: _Rules, wanted: Traffic, via: str, refused: str
) -> _Part:
    for group, rule in mine:
        if traffic.is_anybody(rule) and traffic.contains(traffic.traffic_of(rule), wanted):
            return _Part(version, via, (wanted,), because=rule_said(world, group, rule))
    return _Part(version, via, (), because=refused)


def _narrow(rules: Iterable[SecurityRule], passes: tuple[Traffic, ...]) -> tuple[str, ...]:
    """What only a part of the outside may do: ``tcp/22 from 198.51.100.0/24``."""
    found = []
    for rule in rules:
        what = traffic.traffic_of(rule)
        if rule.remote_cidr is None or traffic.is_anybody(rule):
            continue
        if not any(traffic.contains(whole, what) for whole in passes):
            way = "from" if rule.direction == "ingress" else "to"
            found.append(f"{traffic.in_words([what])} {way} {rule.remote_cidr}")
    return tuple(dict.fromkeys(found))
