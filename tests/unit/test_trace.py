"""Following a packet: which hosts are asked what, and what is said of their answers."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from stackctl.cli import main
from stackctl.compute.seeing import trace as tracing
from stackctl.compute.seeing.trace import Walk
from stackctl.compute.seeing.trace_ends import Ends, Packet, TraceRequest, numbers_of
from stackctl.compute.seeing.trace_map import Cloudmap
from stackctl.errors import AgentFailed, Conflict, NotFound, UsageError
from stackctl.network import trace_words
from stackctl.state import new_id, now, read, write


def hit(table, priority=0, match="", bridge="br-int", **more):
    found = {"bridge": bridge, "table": table, "priority": priority, "match": match}
    return {**found, "cookie": "1", "actions": [], "whose": "ours", **more}


PASSED = [hit(0, 9), hit(25, 5), hit(72, 70), hit(60), hit(61, 20), hit(82, 70), hit(96)]


class Hosts:
    """Stands in for agents: answers by (host, device), or what ``default`` says."""

    def __init__(self, world):
        self.names = {row["id"]: row["name"] for row in world.rows("SELECT * FROM hosts")}
        self.answers, self.routers, self.asked = {}, {}, []

    def out(self, host, device, *outputs, hits=PASSED):
        found = [{"device": out, "vlan": 0, "bridge": "br-int", "remote": ""} for out in outputs]
        self.answers[host, device] = {"hits": hits, "outputs": found, "text": "words"}

    def away(self, host, device, out, *, bridge, remote="", vlan=0):
        found = [{"device": out, "vlan": vlan, "bridge": bridge, "remote": remote}]
        self.answers[host, device] = {"hits": PASSED[:3], "outputs": found, "text": "words"}

    def act(self, host_id, action, arguments):
        host, device = self.names[host_id], arguments["device"]
        self.asked.append((host, action, device, arguments))
        if action == "trace-router":
            return self.routers[device]
        return self.answers[host, device]


class Case:
    """A world with what a test asks of it."""

    def __init__(self, world):
        self.world, self.hosts = world, Hosts(world)

    def device(self, server, network="net", kind="tap"):
        sql = (
            "SELECT ports.id FROM ports JOIN networks ON networks.id = ports.network_id"
            " LEFT JOIN servers ON servers.id = ports.device_id"
            " LEFT JOIN routers ON routers.id = ports.device_id"
            " WHERE coalesce(servers.name, routers.name) = ? AND networks.name = ?"
        )
        return kind + self.world.value(sql, server, network)[:11]

    def follow(self, source, target, **more):
        request = TraceRequest(source, target, **more)
        with read(self.world.cloud) as reader:
            map_ = Cloudmap(self.world.context, reader)
            sender, address = Ends(self.world.context, reader, map_).find(request)
        number, port, source_port = numbers_of(request, address.version)
        mac = "02:00:00:00:00:01"
        packet = Packet(mac, mac, sender.address, address, number, source_port, port)
        walk = Walk(map_, self.hosts.act, packet)
        there = walk.run(sender, request.size)
        return replace(there, reply=walk.back()) if request.reply else there


@pytest.fixture
def case(pair):
    pair.booted("one", host="h1")
    pair.booted("two", host="h1")
    pair.booted("far", host="h2")
    return Case(pair)


def test_on_one_host(case):
    case.hosts.out("h1", case.device("one"), case.device("two"))
    found = case.follow("one", "two", protocol="tcp", port=22)
    assert found.delivered
    assert [hop.host for hop in found.hops] == ["h1"]
    assert found.packet == "tcp from 192.168.1.2 port 40000 to 192.168.1.4 port 22"
    words = found.hops[0].what
    assert "let out by rule" in words and "of group default (allow any IPv4 to anywhere)" in words
    assert "let in by rule" in words and "from group default" in words
    assert words.endswith(f"arrives at server two by {case.device('two')}")
    assert (found.mtu, found.narrow) == (1450, "net net")


def test_what_the_switch_is_asked(case):
    case.hosts.out("h1", case.device("one"), case.device("two"))
    case.follow("one", "two")
    packet = case.hosts.asked[0][3]["packet"]
    macs = {row["mac"] for row in case.world.rows("SELECT mac FROM ports")}
    assert {packet.pop("eth_src"), packet.pop("eth_dst")} < macs
    assert packet == {
        "src": "192.168.1.2",
        "dst": "192.168.1.4",
        "protocol": 1,
        "sport": None,
        "dport": None,
        "icmp_type": 8,
        "icmp_code": 0,
    }


def test_by_a_tunnel(case):
    case.hosts.away("h1", case.device("one"), "vxlan-0a090002", bridge="br-tun", remote="10.9.0.2")
    case.hosts.out("h2", "vxlan-0a090001", case.device("far"), hits=PASSED[3:])
    found = case.follow("one", "far")
    assert found.delivered
    assert [hop.host for hop in found.hops] == ["h1", "h2"]
    assert case.hosts.asked[1][3]["tunnel"] == {"id": 1, "src": "10.9.0.1", "dst": "10.9.0.2"}
    assert "to host h2 by vxlan 1" in found.hops[0].what
    assert found.hops[1].what.startswith("by vxlan 1 from h1, let in by rule")


def test_dropped_by_groups(case):
    case.hosts.out("h1", case.device("one"), hits=[*PASSED[:5], hit(82)])
    with write(case.world.cloud) as writer:
        writer.run("DELETE FROM security_group_rules WHERE direction = 'ingress'")
    found = case.follow("one", "two", protocol="tcp", port=22)
    assert not found.delivered
    assert found.end == "no rule of group default lets it in to server two (host h1)"
    with write(case.world.cloud) as writer:
        writer.run("DELETE FROM port_security_groups")
    found = case.follow("one", "two", protocol="tcp", port=22)
    assert found.end.startswith("server two is in no security group, so nothing is let in to it")


def test_flows_that_rules_do_not_explain(case):
    case.hosts.out("h1", case.device("one"), hits=[*PASSED[:2], hit(72)])
    found = case.follow("one", "two")
    assert "would allow it, but the host has no such flow (see stackctl drift h1)" in found.end
    with write(case.world.cloud) as writer:
        writer.run("DELETE FROM security_group_rules")
    case.hosts.out("h1", case.device("one"), case.device("two"))
    found = case.follow("one", "two")
    assert "let out by a flow that no rule explains (see stackctl drift h1)" in found.hops[0].what


def test_spoofed(case):
    case.hosts.out("h1", case.device("one"), hits=[hit(0, 9), hit(25)])
    found = case.follow("one:192.168.1.77", "two")
    assert case.hosts.asked[0][3]["packet"]["src"] == "192.168.1.77"
    assert found.end.startswith("anti-spoofing: 192.168.1.77 is not an address of this port")


def test_a_device_that_is_not_there(case):
    case.hosts.answers["h1", case.device("one")] = {"missing": case.device("one")}
    found = case.follow("one", "two")
    assert found.end == f"there is no device {case.device('one')} on it (host h1)"


def test_nobody_answers(case):
    found = case.follow("one", "192.168.1.99")
    assert found.end == "nobody in net net has 192.168.1.99: server one gets no answer"
    assert not case.hosts.asked
    assert not case.follow("one", "internet").delivered


def test_no_gateway(case):
    with write(case.world.cloud) as writer:
        writer.run("UPDATE subnets SET gateway = NULL")
    found = case.follow("one", "8.8.8.8")
    assert found.end == "server one has no way to 8.8.8.8: no gateway, no route"


def test_in_a_circle_it_ends(case):
    one, two = case.device("one"), case.device("two")
    case.hosts.away("h1", one, "vxlan-0a090002", bridge="br-tun", remote="10.9.0.2")
    case.hosts.away("h2", "vxlan-0a090001", "vxlan-x", bridge="br-tun", remote="10.9.0.1")
    case.hosts.away("h1", "vxlan-0a090002", "vxlan-y", bridge="br-tun", remote="10.9.0.2")
    with write(case.world.cloud) as writer:
        writer.run("DELETE FROM bindings WHERE port_id LIKE ?", two[3:] + "%")
    assert "round in a circle" in case.follow("one", "two").end


def test_a_host_that_lies_harms_nobody(case):
    liar = {"hits": ["x", {"table": "72"}, None, {"bridge": 1}], "outputs": "all", "text": 5}
    case.hosts.answers["h1", case.device("one")] = liar
    assert case.follow("one", "two").end == "the switch did not say why (host h1)"


# --- routers ------------------------------------------------------------------------------------


@pytest.fixture
def routed(case):
    """net and db joined by edge on h2, whose gateway is in outside (vlan 101)."""
    world = case.world
    world.add_network("db", "10.0.0.0/24")
    world.add_network(
        "outside",
        "203.0.113.0/24",
        external=True,
        type="vlan",
        physical_network="physnet1",
        segmentation_id=101,
    )
    world.booted("store", host="h1", net=["db"])
    mapping = [{"physical_network": "physnet1", "bridge": "br-eth1", "nic": "eth1"}]
    router_id, project_id = new_id(), world.context.project_id
    with write(world.cloud) as writer:
        writer.run("UPDATE hosts SET bridge_mappings_json = ?", json.dumps(mapping))
        host_id = writer.value("SELECT id FROM hosts WHERE name = 'h2'")
        row = {"id": router_id, "project_id": project_id, "name": "edge", "host_id": host_id}
        writer.insert("routers", {**row, "created_at": now()})
        ends = (("net", "192.168.1.1"), ("db", "10.0.0.1"), ("outside", "203.0.113.2"))
        for number, (name, address) in enumerate(ends):
            _router_port(writer, router_id, host_id, number, name, address)
        port = writer.one(
            "SELECT ports.* FROM ports JOIN servers ON servers.id = ports.device_id"
            " WHERE servers.name = 'store'"
        )
        subnet = writer.one("SELECT * FROM subnets WHERE cidr = '203.0.113.0/24'")
        writer.insert(
            "floating_ips",
            {
                "id": new_id(),
                "project_id": project_id,
                "network_id": subnet["network_id"],
                "subnet_id": subnet["id"],
                "address": "203.0.113.9",
                "port_id": port["id"],
                "fixed_address": "10.0.0.2",
                "router_id": router_id,
                "created_at": now(),
            },
        )
    return case


def _router_port(writer, router_id, host_id, number, name, address):
    network = writer.one("SELECT * FROM networks WHERE name = ?", name)
    subnet = writer.one("SELECT * FROM subnets WHERE network_id = ?", network["id"])
    owner = "router_gateway" if network["external"] else "router_interface"
    port_id = new_id()
    writer.insert(
        "ports",
        {
            "id": port_id,
            "project_id": network["project_id"],
            "network_id": network["id"],
            "mac": f"fa:16:3e:99:00:{number:02x}",
            "device_owner": f"network:{owner}",
            "device_id": router_id,
            "created_at": now(),
        },
    )
    writer.insert("bindings", {"port_id": port_id, "host_id": host_id, "role": "active"})
    writer.run("DELETE FROM addresses WHERE network_id = ? AND address = ?", network["id"], address)
    writer.insert(
        "addresses",
        {
            "network_id": network["id"],
            "subnet_id": subnet["id"],
            "port_id": port_id,
            "kind": "fixed",
            "address": address,
            "number": "0",
        },
    )


def forward(src, dst, device, nexthop):
    return {"verdict": "forward", "src": src, "dst": dst, "device": device, "nexthop": nexthop}


def test_through_a_router(routed):
    hosts = routed.hosts
    near, far = (routed.device("edge", name, "qr-") for name in ("net", "db"))
    hosts.away("h1", routed.device("one"), "vxlan-0a090002", bridge="br-tun", remote="10.9.0.2")
    hosts.out("h2", "vxlan-0a090001", near, hits=PASSED[3:5])
    hosts.routers[near] = forward("192.168.1.2", "10.0.0.2", far, "10.0.0.2")
    hosts.away("h2", far, "vxlan-0a090001", bridge="br-tun", remote="10.9.0.1")
    hosts.out("h1", "vxlan-0a090002", routed.device("store", "db"), hits=PASSED[3:])
    found = routed.follow("one", "store", protocol="tcp", port=22)
    assert found.delivered
    assert [hop.host for hop in found.hops] == ["h1", "h2", "h2", "h2", "h1"]
    assert "by way of 192.168.1.1" in found.hops[0].what
    assert found.hops[2].what == "router edge, routed to 10.0.0.2 in net db"
    asked = [(host, action, device) for host, action, device, _ in hosts.asked]
    assert asked == [
        ("h1", "trace-flow", routed.device("one")),
        ("h2", "trace-flow", "vxlan-0a090001"),
        ("h2", "trace-router", near),
        ("h2", "trace-flow", far),
        ("h1", "trace-flow", "vxlan-0a090002"),
    ]


def test_out_by_source_nat(routed):
    hosts = routed.hosts
    near = routed.device("edge", "net", "qr-")
    out = routed.device("edge", "outside", "qg-")
    hosts.away("h1", routed.device("one"), "vxlan-0a090002", bridge="br-tun", remote="10.9.0.2")
    hosts.out("h2", "vxlan-0a090001", near, hits=PASSED[3:5])
    hosts.routers[near] = forward("203.0.113.2", "8.8.8.8", out, "203.0.113.1")
    hosts.away("h2", out, "eth1", bridge="br-eth1", vlan=101)
    found = routed.follow("one", "8.8.8.8")
    assert found.delivered
    assert "source 192.168.1.2 becomes 203.0.113.2" in found.hops[2].what
    assert found.end == "it leaves the cloud, out by eth1 with VLAN 101 of host h2 (net outside)"
    assert found.mtu == 1450


def test_in_by_a_floating_ip(routed):
    hosts = routed.hosts
    out, far = routed.device("edge", "outside", "qg-"), routed.device("edge", "db", "qr-")
    hosts.out("h2", "eth1", out, hits=PASSED[3:5])
    hosts.routers[out] = forward("198.51.100.1", "10.0.0.2", far, "10.0.0.2")
    hosts.away("h2", far, "vxlan-0a090001", bridge="br-tun", remote="10.9.0.1")
    hosts.out("h1", "vxlan-0a090002", hits=[*PASSED[3:5], hit(82)])
    for target in ("store", "203.0.113.9"):
        found = routed.follow("internet", target, protocol="tcp", port=22)
        assert hosts.asked[0][3]["vlan"] == 101
        assert "target 203.0.113.9 becomes 10.0.0.2" in found.hops[1].what
        assert found.end == "no rule of group default lets it in to server store (host h1)"


def test_the_reply_finds_its_way_back_through_source_nat(routed):
    hosts = routed.hosts
    near = routed.device("edge", "net", "qr-")
    out = routed.device("edge", "outside", "qg-")
    hosts.away("h1", routed.device("one"), "vxlan-0a090002", bridge="br-tun", remote="10.9.0.2")
    hosts.out("h2", "vxlan-0a090001", near, hits=PASSED[3:5])
    hosts.routers[near] = forward("203.0.113.2", "8.8.8.8", out, "203.0.113.1")
    hosts.away("h2", out, "eth1", bridge="br-eth1", vlan=101)
    hosts.out("h2", "eth1", out, hits=PASSED[3:5])
    hosts.routers[out] = forward("8.8.8.8", "192.168.1.2", near, "192.168.1.2")
    hosts.away("h2", near, "vxlan-0a090001", bridge="br-tun", remote="10.9.0.1")
    hosts.out("h1", "vxlan-0a090002", routed.device("one"), hits=[hit(60), hit(82, 80)])
    found = routed.follow("one", "8.8.8.8", reply=True)
    assert found.delivered and found.reply.delivered
    assert found.reply.packet == "icmp from 8.8.8.8 to 203.0.113.2"
    crossed = [asked for asked in hosts.asked if asked[1] == "trace-router"][-1][3]
    assert crossed["reply"] == {"src": "8.8.8.8", "dst": "192.168.1.2"}
    assert crossed["packet"]["icmp_type"] == 0
    assert hosts.asked[-1][3]["ct"][0] == ["est", "rpl"]
    assert found.reply.hops[-1].what.startswith("by vxlan 1 from h2, let in as a reply, arrives")


def test_what_has_no_door_outside(routed):
    with pytest.raises(Conflict, match="neither a floating IP nor an address"):
        routed.follow("internet", "one")


def test_a_router_that_drops(routed):
    near = routed.device("edge", "net", "qr-")
    routed.hosts.out("h1", routed.device("one"), near)
    routed.hosts.routers[near] = {"verdict": "drop", "why": "there is no route to it"}
    assert routed.follow("one", "8.8.8.8").end == (
        "router edge drops it: there is no route to it (host h1)"
    )
    routed.hosts.routers[near] = {"verdict": "local", "src": "192.168.1.2", "dst": "192.168.1.1"}
    assert routed.follow("one", "edge").end == "it arrives at router edge (host h1)"
    routed.hosts.routers[near] = {"verdict": "local", "src": "nonsense", "dst": "192.168.1.1"}
    with pytest.raises(AgentFailed, match="no address"):
        routed.follow("one", "edge")


def test_a_packet_that_is_too_large(routed):
    hosts = routed.hosts
    hosts.out("h1", routed.device("one"), routed.device("two"))
    assert routed.follow("one", "two", size=1450).delivered
    large = routed.follow("one", "two", size=1451)
    assert not large.delivered
    assert large.end == "with 1451 bytes it is too large for net net, which carries 1450"


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (hit(0), "it or its network is down"),
        (hit(0, 12), "guests may not send VLAN tags"),
        (hit(0, 2, 'in_port="int-br-eth1"'), "no network of this host has that VLAN"),
        (hit(0, 5, 'in_port="int-br-eth1"'), "DHCP server, which stays on each host"),
        (hit(24), "anti-spoofing"),
        (hit(25, 20, "udp,tp_src=67,tp_dst=68"), "may not be DHCP servers"),
        (hit(25, 20, "icmp6,icmp_type=134"), "as routers"),
        (hit(25, 20, "ip,nw_dst=169.254.169.254"), "no metadata service"),
        (hit(26), "anti-spoofing"),
        (hit(60, 30), "from the DHCP server"),
        (hit(61, 15), "is down"),
        (hit(72, 100), "invalid"),
        (hit(72), "no rule allows it"),
        (hit(94, 100), "it came from outside"),
        (hit(94), "nobody here has its Ethernet address"),
        (hit(4, bridge="br-tun"), "no network with the id of that tunnel"),
        (hit(22, bridge="br-tun"), "no other host has this network"),
        (hit(0, 2, bridge="br-eth1"), "may not leave by this physical bridge"),
    ],
)
def test_why(last, said):
    assert said in trace_words.why_dropped(last, "10.0.0.1")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"protocol": "tcp"}, "needs --port"),
        ({"protocol": "icmp", "port": 1}, "has no ports"),
        ({"protocol": "fly"}, "no IP protocol"),
        ({"protocol": "udp", "port": 0}, "no port"),
    ],
)
def test_packets_that_make_no_sense(more, said):
    with pytest.raises(UsageError, match=said):
        numbers_of(TraceRequest("a", "b", **more), 4)


def test_names_that_mean_nothing(case):
    with pytest.raises(NotFound, match="'nobody' is no server, no router"):
        case.follow("one", "nobody")
    with pytest.raises(NotFound, match="no server 'nobody'"):
        case.follow("nobody", "one")
    with pytest.raises(Conflict, match="no addresses of one kind"):
        case.follow("one", "fd00::1")


def test_typed(case, monkeypatch):
    monkeypatch.setattr("stackctl.cli.frame.new_context", lambda: case.world.context)
    monkeypatch.setattr(tracing, "_acting", lambda *_: case.hosts.act)
    case.hosts.out("h1", case.device("one"), case.device("two"))
    shown = CliRunner().invoke(main.cli, ["trace", "one", "two", "--flows"])
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("icmp from 192.168.1.2 to 192.168.1.4\n 1  h1  server one sends")
    assert "br-int table 72 priority 70: any" in shown.stdout
    assert "\nDelivered: it arrives at server two" in shown.stdout
    assert "The largest packet on this way: 1450 bytes (net net).\n" in shown.stdout
    case.hosts.out("h1", case.device("one"), hits=[hit(0)])
    shown = CliRunner().invoke(main.cli, ["trace", "one", "two", "-f", "json"])
    assert shown.exit_code == 1
    found = json.loads(shown.stdout)
    assert found["delivered"] is False
    assert found["hops"][0]["flows"][0]["table"] == 0
