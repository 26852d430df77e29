"""Who can reach whom: networks, routers, rules, both ways."""

import ipaddress
from dataclasses import replace

import pytest
from click.testing import CliRunner

from agent.spec import SecurityRule
from stackctl.cli import main
from stackctl.compute.seeing.reachability import Question, asked_of, load_world, reachability
from stackctl.errors import NotFound, UsageError
from stackctl.network import group_lint, reach
from stackctl.network.reach import End, FixedIn, Group, PortEnd, World
from stackctl.network.ways import Leg, Map, NetworkWay, Route, RouterWay, SubnetWay
from stackctl.state import new_id, now, read, write

ip = ipaddress.ip_address


def subnet(network, cidr, gateway="first", routes=()):
    prefix = ipaddress.ip_network(cidr)
    gate = prefix[1] if gateway == "first" else gateway
    ways = tuple(Route(ipaddress.ip_network(to), ip(by)) for to, by in routes)
    return SubnetWay(f"{network}-{cidr}", network, prefix, gate, ways)


def network(name, *subnets, external=False, up=True):
    return NetworkWay(name, name, external, up, subnets)


def rule(direction, protocol=None, first=None, last=None, **far):
    kind = far.pop("ethertype", "IPv4")
    id_ = far.pop("id", f"{direction}-{protocol}-{first}-{last}-{sorted(far.items())}-{kind}")
    return SecurityRule(id_, direction, kind, protocol, first, last or first, **far)


OUT = rule("egress")
DEFAULT = Group("default", "default", (OUT, rule("ingress", remote_group_id="default")))
WEB = Group("web", "web", (OUT, rule("ingress", 6, 80, 81), rule("ingress", 6, 443)))
SSH = Group("ssh", "ssh", (rule("ingress", 6, 22, remote_cidr="198.51.100.0/24"),))
SHUT = Group("shut", "shut", ())

A = subnet("a", "10.0.0.0/24")
B = subnet("b", "10.1.0.0/24")
C = subnet("c", "10.2.0.0/24")
X = subnet("x", "203.0.113.0/24")
EDGE = RouterWay(
    "edge",
    "edge",
    True,
    True,
    (
        Leg("a", (ip("10.0.0.1"),), True, False),
        Leg("b", (ip("10.1.0.1"),), True, False),
        Leg("x", (ip("203.0.113.2"),), True, True),
    ),
)


def port(where, address, *groups, floating="", **more):
    fixed = FixedIn(ip(address), where, floating)
    values = {"up": True, "protected": True, "groups": groups, **more}
    return PortEnd(f"p-{address}", where.network_id, (fixed,), **values)


def end(name, *ports):
    return End(name, name, ports)


def world(*ends, networks=None, routers=(EDGE,), members=None):
    ways = networks or (
        network("a", A),
        network("b", B),
        network("c", C),
        network("x", X, external=True),
    )
    default = {("default", "a"): ("10.0.0.4", "10.0.0.5"), ("default", "b"): ("10.0.0.4",)}
    return World(
        Map({way.id: way for way in ways}, {router.id: router for router in routers}),
        {group.id: group for group in (DEFAULT, WEB, SSH, SHUT)},
        ends,
        default if members is None else members,
    )


def told(found):
    return found.allowed or f"- {found.because}"


ONE = end("one", port(A, "10.0.0.4", "default"))
TWO = end("two", port(A, "10.0.0.5", "default"))
SHOP = end("shop", port(B, "10.1.0.4", "web", "ssh", floating="203.0.113.9"))
FAR = end("far", port(C, "10.2.0.4", "web"))
ALONE = end("alone", port(A, "10.0.0.9", "shut"))
BARE = end("bare", port(A, "10.0.0.10", protected=False))


@pytest.mark.parametrize(
    ("source", "target", "allowed", "via"),
    [
        (ONE, TWO, "all", "net a"),
        (ONE, SHOP, "tcp/80-81, tcp/443", "router edge"),
        (SHOP, ONE, "- no rule lets it in", ""),
        (ONE, FAR, "- it would leave the cloud", ""),
        (ALONE, TWO, "- no rule lets it out", ""),
        (BARE, ONE, "- no rule lets it in", ""),
        (ONE, BARE, "all", "net a"),
        (BARE, SHOP, "tcp/80-81, tcp/443", "router edge"),
    ],
)
def test_pairs(source, target, allowed, via):
    found = reach.reach(world(source, target), source, target)
    assert (told(found), found.via) == (allowed, via)


def test_the_outside():
    all_ = world(ONE, SHOP, FAR, ALONE)
    assert reach.reach_out(all_, ONE).via == "router edge"
    assert reach.reach_out(all_, SHOP).via == "router edge as 203.0.113.9"
    assert told(reach.reach_out(all_, FAR)) == "- no router has 10.2.0.1 in c"
    assert told(reach.reach_out(all_, ALONE)) == "- no rule lets it out"
    shop = reach.reach_in(all_, SHOP)
    assert shop.allowed == "tcp/80-81, tcp/443, tcp/22 from 198.51.100.0/24"
    assert shop.via == "floating IP 203.0.113.9"
    assert told(reach.reach_in(all_, ONE)) == "- it has no floating IP"


def test_without_snat_it_is_said():
    all_ = world(ONE, routers=(replace(EDGE, snat=False),))
    assert reach.reach_out(all_, ONE).via == "router edge without SNAT"


def test_on_the_external_network_no_router_is_needed():
    outer = end("outer", port(X, "203.0.113.50", "web"))
    assert reach.reach_in(world(outer), outer).allowed == "tcp/80-81, tcp/443"
    assert reach.reach_out(world(outer), outer).via == "net x"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"routers": (replace(EDGE, up=False),)}, "router edge is down"),
        ({"routers": ()}, "no router has 10.0.0.1 in a"),
        (
            {"routers": (replace(EDGE, legs=(EDGE.legs[0], replace(EDGE.legs[1], up=False))),)},
            "the port of router edge in b is down",
        ),
        ({"networks": (network("a", A), network("b", B, up=False))}, "network b is down"),
        ({"networks": (network("a", A, up=False), network("b", B))}, "network a is down"),
        (
            {"networks": (network("a", replace(A, gateway=None)), network("b", B))},
            "subnet 10.0.0.0/24 of network a has no gateway",
        ),
    ],
)
def test_where_no_way_leads(change, why):
    one = ONE
    if "networks" in change:
        way = change["networks"][0].subnets[0]
        one = end("one", replace(ONE.ports[0], addresses=(FixedIn(ip("10.0.0.4"), way),)))
    found = reach.reach(world(one, SHOP, **change), one, SHOP)
    assert told(found) == f"- {why}"


def test_a_way_without_a_way_back():
    shut = replace(B, gateway=None)
    shop = end("shop", replace(SHOP.ports[0], addresses=(FixedIn(ip("10.1.0.4"), shut),)))
    found = reach.reach(world(ONE, shop, networks=(network("a", A), network("b", shut))), ONE, shop)
    assert found.because.startswith("there is no way back: subnet 10.1.0.0/24")


def test_static_routes_lead_through_two_routers():
    there = Route(ipaddress.ip_network("10.2.0.0/24"), ip("10.1.0.2"))
    back = Route(ipaddress.ip_network("10.0.0.0/24"), ip("10.1.0.1"))
    inner = RouterWay(
        "inner",
        "inner",
        True,
        True,
        (Leg("b", (ip("10.1.0.2"),), True, False), Leg("c", (ip("10.2.0.1"),), True, False)),
        (back,),
    )
    found = reach.reach(world(ONE, FAR, routers=(replace(EDGE, routes=(there,)), inner)), ONE, FAR)
    assert (found.allowed, found.via) == ("tcp/80-81, tcp/443", "router edge, inner")


def test_routers_in_a_circle_end():
    there = Route(ipaddress.ip_network("10.9.0.0/24"), ip("10.1.0.2"))
    back = Route(ipaddress.ip_network("10.9.0.0/24"), ip("10.1.0.1"))
    inner = RouterWay("i", "i", True, True, (Leg("b", (ip("10.1.0.2"),), True, False),), (back,))
    way = world(routers=(replace(EDGE, routes=(there,)), inner)).map.way(A, ip("10.9.0.1"))
    assert way.why == "routers send it round in a circle"


def test_port_down():
    down = end("down", port(A, "10.0.0.5", "default", up=False))
    assert told(reach.reach(world(ONE, down), ONE, down)) == "- a port is down"
    assert told(reach.reach_out(world(down), down)) == "- a port is down"


@pytest.mark.parametrize(
    ("asked", "target", "because"),
    [
        (("tcp", 80), SHOP, "default: allow any IPv4 to anywhere; web: allow tcp 80-81"),
        (("tcp", 22), SHOP, "no rule lets it in"),
        (("icmp", None), TWO, "default: allow any IPv4 to anywhere; default: allow any IPv4"),
        (("udp", 80), SHOP, "no rule lets it in"),
    ],
)
def test_one_kind_of_packet(asked, target, because):
    found = reach.reach(world(ONE, target), ONE, target, asked_of(*asked))
    assert found.because.startswith(because)
    assert bool(found.allowed) == (not because.startswith("no rule"))


def test_both_kinds_of_ip():
    six = subnet("a", "fd00::/64")
    group = Group("g", "g", (OUT, rule("egress", ethertype="IPv6"), rule("ingress", 6, 22)))
    one = end("one", PortEnd("p1", "a", (FixedIn(ip("10.0.0.4"), A),), True, False, ()))
    both = (FixedIn(ip("10.0.0.5"), A), FixedIn(ip("fd00::5"), six))
    two = end("two", PortEnd("p2", "a", both, True, True, ("g",)))
    all_ = replace(world(one, two), groups={"g": group})
    assert told(reach.reach(all_, one, two)) == "tcp/22"
    three = end("three", PortEnd("p3", "a", (FixedIn(ip("fd00::6"), six),), True, False, ()))
    assert told(reach.reach(all_, three, two)) == "- no rule lets it in"
    assert told(reach.reach(all_, three, one)) == "- they have no addresses of one kind"


@pytest.mark.parametrize(
    ("protocol", "number", "said"),
    [
        (None, 22, "--port needs --proto"),
        ("tcp", None, "needs --port"),
        ("icmp", 1, "has no ports"),
        ("fly", None, "no IP protocol"),
        ("300", None, "no IP protocol"),
        ("tcp", 70000, "no port"),
    ],
)
def test_questions_that_make_no_sense(protocol, number, said):
    with pytest.raises(UsageError, match=said):
        asked_of(protocol, number)


def test_what_is_odd():
    web = Group(
        "web",
        "web",
        (
            rule("ingress", 6, 80, id="wide"),
            rule("ingress", 6, 80, remote_cidr="10.0.0.0/8", id="narrow"),
            rule("ingress", 6, 22, remote_group_id="gone", id="lonely"),
            rule("ingress", 6, 22, remote_cidr="0.0.0.0/0", id="same-a"),
            rule("ingress", 6, 22, id="same-b"),
        ),
    )
    gone = Group("gone", "gone", ())
    all_ = replace(world(SHOP, BARE), groups={each.id: each for each in (web, gone, SSH, DEFAULT)})
    assert group_lint.remarks(all_) == [
        "group gone: no server is in it",
        "group web, rule narrow (allow tcp 80 from 10.0.0.0/8): allows nothing that rule wide "
        "(allow tcp 80 over IPv4 from anywhere) does not",
        "group web, rule lonely (allow tcp 22 over IPv4 from group gone): allows nothing that "
        "rule same-a (allow tcp 22 from 0.0.0.0/0) does not",
        "group web, rule same-b (allow tcp 22 over IPv4 from anywhere): allows nothing that rule "
        "same-a (allow tcp 22 from 0.0.0.0/0) does not",
        "server shop (203.0.113.9): tcp/80 is open to the world (IPv4, rule wide of group web)",
        "server shop (203.0.113.9): tcp/22 is open to the world (IPv4, rule same-a of group web)",
        "server shop (203.0.113.9): tcp/22 is open to the world (IPv4, rule same-b of group web)",
        "server bare: a port of it has no port security, so no rule is looked at",
    ]
    lonely = replace(web, rules=(web.rules[2],))
    all_ = replace(all_, groups={**all_.groups, "web": lonely})
    assert "that group has no member that could be met" in group_lint.remarks(all_)[1]


def test_rows_of_a_cloud(pair):
    """Two servers in a new project's way: the default group's rules, as rows."""
    pair.booted("vm", count=2)
    _default_group(pair)
    found = reachability(pair.context, Question()).pairs
    assert [(each.source, each.target, told(each)) for each in found] == [
        ("vm-1", "vm-2", "all"),
        ("vm-1", "internet", "- no router has 192.168.1.1 in net"),
        ("vm-2", "vm-1", "all"),
        ("vm-2", "internet", "- no router has 192.168.1.1 in net"),
        ("internet", "vm-1", "- no router has 192.168.1.1 in net"),
        ("internet", "vm-2", "- no router has 192.168.1.1 in net"),
    ]
    only = reachability(pair.context, Question("tcp", 22, "vm-1", "vm-2")).pairs
    assert [(each.source, each.allowed) for each in only] == [("vm-1", "tcp/22")]
    assert len(reachability(pair.context, Question(source="internet")).pairs) == 2
    with pytest.raises(NotFound):
        reachability(pair.context, Question(target="nobody"))


def _default_group(world_):
    """What every project has from the start, made by hand where no command has made it yet."""
    with write(world_.cloud) as writer:
        project = world_.context.project_id
        group = writer.one("SELECT * FROM security_groups WHERE project_id = ?", project)
        if group is None:
            group = {"id": new_id(), "project_id": project, "name": "default"}
            writer.insert("security_groups", {**group, "created_at": now()})
            for direction, remote in (("egress", None), ("ingress", group["id"])):
                row = {"id": new_id(), "project_id": project, "group_id": group["id"]}
                row |= {"direction": direction, "ethertype": "IPv4", "remote_group_id": remote}
                writer.insert("security_group_rules", {**row, "created_at": now()})
        for id_ in writer.column("SELECT id FROM ports WHERE device_owner LIKE 'compute:%'"):
            row = {"port_id": id_, "group_id": group["id"]}
            writer.upsert("port_security_groups", row, pk=("port_id", "group_id"))


def test_members_are_those_that_hosts_are_told(pair):
    """The same addresses, by group and network, as the spec of every host has."""
    from stackctl.hostspec.build import build_spec
    from stackctl.hostspec.snapshot import load_snapshot

    pair.add_network("other", "10.7.0.0/24")
    pair.booted("vm", count=2, net=["net"])
    pair.booted("far", net=["other"])
    _default_group(pair)
    with read(pair.cloud) as reader:
        world_ = load_world(pair.context, reader)
        for host_id in reader.column("SELECT id FROM hosts"):
            spec = build_spec(load_snapshot(reader, host_id), 1, "n")
            for members in spec.members:
                own = world_.members[members.group_id, members.network_id]
                assert set(own) == set(members.addresses)
    assert len(world_.members) == 2


def test_typed(pair, monkeypatch):
    monkeypatch.setattr("stackctl.cli.frame.new_context", lambda: pair.context)
    pair.booted("vm", count=2)
    _default_group(pair)
    result = CliRunner().invoke(main.cli, ["reachability", "--lint"])
    assert result.exit_code == 0
    assert "| vm-1 | vm-2 | net net | all     |" in result.stdout
    assert "Because" not in result.stdout
    shown = CliRunner().invoke(main.cli, ["reachability", "--all", "-f", "csv"])
    assert "vm-1,internet,,,no router has 192.168.1.1 in net" in shown.stdout
