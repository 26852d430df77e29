"""Who can reach whom among a project's servers and the outside, from the database alone."""

from __future__ import annotations

import ipaddress
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from agent.spec import SecurityRule
from stackctl.compute.views import server_row
from stackctl.errors import NotFound, UsageError
from stackctl.identity.context import Context, own_rows
from stackctl.network import group_lint, reach
from stackctl.network.reach import INTERNET, Asked, End, FixedIn, Group, PortEnd, Reach, World
from stackctl.network.rule_words import PROTOCOLS, WITH_PORTS
from stackctl.network.ways import Leg, Map, NetworkWay, Route, RouterWay, SubnetWay
from stackctl.state import Reader, Row, read


@dataclass(frozen=True)
class Question:
    """What is asked: one ``protocol`` (and ``port``) or all; one server (or internet) or all."""

    protocol: str | None = None
    port: int | None = None
    source: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Answer:
    """Every pair that was asked for, those that cannot reach each other too; ``remarks`` on the
    security groups."""

    pairs: tuple[Reach, ...]
    remarks: tuple[str, ...]


def reachability(context: Context, question: Question) -> Answer:
    """Compute it; NotFound when a name means no server, UsageError for an unknown protocol."""
    asked = asked_of(question.protocol, question.port)
    with read(context.cloud) as reader:
        world = load_world(context, reader)
        source, target = (_chosen(context, reader, w) for w in (question.source, question.target))
    pairs = tuple(_pairs(world, source, target, asked))
    return Answer(pairs, tuple(group_lint.remarks(world)))


def asked_of(protocol: str | None, port: int | None) -> Asked | None:
    """What a protocol's name or number and a port mean together."""
    if protocol is None:
        if port is not None:
            raise UsageError("--port needs --proto: tcp or udp.")
        return None
    word = protocol.lower()
    number = int(word) if word.isascii() and word.isdigit() else PROTOCOLS.get(word, -1)
    if not 0 <= number <= 255:
        raise UsageError(f"'{protocol}' is no IP protocol: icmp, tcp, udp or a number up to 255.")
    if (number in WITH_PORTS) != (port is not None):
        wants = "needs --port" if number in WITH_PORTS else "has no ports"
        raise UsageError(f"Protocol {protocol} {wants}.")
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"{port} is no port: 1 to 65535 are.")
    return Asked(number, port)


def _chosen(context: Context, reader: Reader, word: str | None) -> str | None:
    """The id of a server, ``internet``, or None for everybody."""
    if word is None:
        return None
    try:
        return str(server_row(context, reader, word)["id"])
    except NotFound:
        if word == INTERNET:
            return INTERNET
        raise


def _pairs(
    world: World, source: str | None, target: str | None, asked: Asked | None
) -> Iterator[Reach]:
    for near in world.ends if source != INTERNET else ():
        if source in (None, near.id):
            for far in world.ends if target != INTERNET else ():
                if far is not near and target in (None, far.id):
                    yield reach.reach(world, near, far, asked)
            if target in (None, INTERNET):
                yield reach.reach_out(world, near, asked)
    for far in world.ends if source in (None, INTERNET) and target != INTERNET else ():
        if target in (None, far.id):
            yield reach.reach_in(world, far, asked)


def load_world(context: Context, reader: Reader) -> World:
    """All that decides who reaches whom, of the project's servers."""
    networks = _networks(reader)
    map_ = Map(networks, _routers(reader))
    ends = tuple(_ends(context, reader, networks))
    return World(map_, _groups(context, reader), ends, _members(reader, map_))


def _networks(reader: Reader) -> dict[str, NetworkWay]:
    subnets: dict[str, list[SubnetWay]] = defaultdict(list)
    for row in reader.all("SELECT * FROM subnets WHERE deleted_at IS NULL ORDER BY rowid"):
        gateway = ipaddress.ip_address(row["gateway"]) if row["gateway"] else None
        subnets[row["network_id"]].append(
            SubnetWay(
                row["id"],
                row["network_id"],
                ipaddress.ip_network(row["cidr"]),
                gateway,
                _routes(row["host_routes_json"]),
            )
        )
    return {
        row["id"]: NetworkWay(
            row["id"],
            row["name"],
            bool(row["external"]),
            bool(row["admin_up"]),
            tuple(subnets[row["id"]]),
        )
        for row in reader.all("SELECT * FROM networks WHERE deleted_at IS NULL ORDER BY rowid")
    }


def _routes(text: str) -> tuple[Route, ...]:
    return tuple(
        Route(ipaddress.ip_network(each["destination"]), ipaddress.ip_address(each["nexthop"]))
        for each in json.loads(text)
    )


_ROUTER_PORTS = """
SELECT ports.* FROM ports WHERE deleted_at IS NULL
  AND device_owner IN ('network:router_interface', 'network:router_gateway') ORDER BY rowid
"""


def _routers(reader: Reader) -> dict[str, RouterWay]:
    addresses = _addresses(reader, "ports.device_owner LIKE 'network:router_%'")
    legs: dict[str, list[Leg]] = defaultdict(list)
    for row in reader.all(_ROUTER_PORTS):
        own = tuple(ipaddress.ip_address(each["address"]) for each in addresses[row["id"]])
        gateway = row["device_owner"] == "network:router_gateway"
        legs[row["device_id"]].append(Leg(row["network_id"], own, bool(row["admin_up"]), gateway))
    return {
        row["id"]: RouterWay(
            row["id"],
            row["name"],
            bool(row["admin_up"]),
            bool(row["snat"]),
            tuple(legs[row["id"]]),
            _routes(row["routes_json"]),
        )
        for row in reader.all("SELECT * FROM routers WHERE deleted_at IS NULL ORDER BY rowid")
    }


def _addresses(reader: Reader, where: str) -> dict[str, list[Row]]:
    """Rows of addresses by port, of live ports that fulfil a condition."""
    found: dict[str, list[Row]] = defaultdict(list)
    rows = reader.all(
        "SELECT addresses.* FROM addresses JOIN ports ON ports.id = addresses.port_id"
        " WHERE addresses.released_serial IS NULL AND ports.deleted_at IS NULL"
        f" AND {where} ORDER BY addresses.id"
    )
    for row in rows:
        found[row["port_id"]].append(row)
    return found


_PORTS = """
SELECT ports.*, servers.name AS server_name FROM servers
JOIN ports ON ports.device_id = servers.id AND ports.deleted_at IS NULL
WHERE servers.project_id = ? AND servers.deleted_at IS NULL
ORDER BY servers.created_at, servers.launch_index, servers.name, ports.nic_index
"""


def _ends(context: Context, reader: Reader, networks: dict[str, NetworkWay]) -> Iterator[End]:
    addresses = _addresses(reader, "ports.device_owner NOT LIKE 'network:%'")
    floating = {
        (row["port_id"], row["fixed_address"]): row["address"]
        for row in reader.all(
            "SELECT * FROM floating_ips WHERE port_id IS NOT NULL AND deleted_at IS NULL"
        )
    }
    groups: dict[str, list[str]] = defaultdict(list)
    for row in reader.all("SELECT * FROM port_security_groups ORDER BY group_id"):
        groups[row["port_id"]].append(row["group_id"])
    ports: dict[str, list[PortEnd]] = defaultdict(list)
    names: dict[str, str] = {}
    for row in reader.all(_PORTS, context.project_id):
        subnets = {each.id: each for each in networks[row["network_id"]].subnets}
        names[row["device_id"]] = row["server_name"]
        ports[row["device_id"]].append(
            _port(row, addresses[row["id"]], subnets, floating, groups[row["id"]])
        )
    for id_, own in ports.items():
        name = names[id_]
        unique = list(names.values()).count(name) == 1
        yield End(id_, name if unique else f"{name} ({id_[:8]})", tuple(own))


def _port(
    row: Row,
    addresses: list[Row],
    subnets: dict[str, SubnetWay],
    floating: dict[tuple[str, str], str],
    groups: list[str],
) -> PortEnd:
    return PortEnd(
        id=row["id"],
        network_id=row["network_id"],
        addresses=tuple(
            FixedIn(
                ipaddress.ip_address(each["address"]),
                subnets[each["subnet_id"]],
                floating.get((row["id"], each["address"]), ""),
            )
            for each in addresses
        ),
        up=bool(row["admin_up"]),
        protected=bool(row["port_security"]),
        groups=tuple(groups),
    )


def _groups(context: Context, reader: Reader) -> dict[str, Group]:
    rules: dict[str, list[SecurityRule]] = defaultdict(list)
    fields = SecurityRule.__dataclass_fields__
    for row in own_rows(context, reader, "security_group_rules"):
        rules[row["group_id"]].append(SecurityRule(**{name: row[name] for name in fields}))
    return {
        row["id"]: Group(row["id"], row["name"], tuple(rules[row["id"]]))
        for row in own_rows(context, reader, "security_groups")
    }


_MEMBERS = """
SELECT member.group_id, ports.network_id, ports.allowed_pairs_json, addresses.address
FROM port_security_groups AS member
JOIN ports ON ports.id = member.port_id AND ports.deleted_at IS NULL
LEFT JOIN addresses ON addresses.port_id = ports.id AND addresses.released_serial IS NULL
ORDER BY addresses.number
"""


def _members(reader: Reader, map_: Map) -> dict[tuple[str, str], tuple[str, ...]]:
    """As hosts are told them: members in a network, and in those that routers join with it."""
    there: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for row in reader.all(_MEMBERS):
        own = there[row["group_id"], row["network_id"]]
        own.update({row["address"]: None} if row["address"] else {})
        own.update({pair["cidr"]: None for pair in json.loads(row["allowed_pairs_json"])})
    found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    near = _joined(map_)
    for (group_id, network_id), own in there.items():
        for here in near[network_id]:
            found[group_id, here].update(own)
    return {key: tuple(own) for key, own in found.items()}


def _joined(map_: Map) -> dict[str, set[str]]:
    """The networks that interfaces of routers join with each, itself among them."""
    parts: dict[str, set[str]] = {id_: {id_} for id_ in map_.networks}
    for router in map_.routers.values():
        legs = [leg.network_id for leg in router.legs if not leg.gateway]
        legs = [id_ for id_ in legs if id_ in parts]
        whole = set().union(*(parts[id_] for id_ in legs))
        for id_ in whole:
            parts[id_] = whole
    return parts
