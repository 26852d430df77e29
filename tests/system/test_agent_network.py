"""The network kinds on real engines: two hosts, guests in namespaces behind real taps."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agent.resources.topology import tap_name
from agent.spec import BridgeMapping, HostSpec, Name, to_plain
from tests import agent_networks as net
from tests.system.nethost import RESOLVER, Guest, NetHost, hosts

SUBNET, OUTER_SUBNET = net.uid("subn", 1), net.uid("subn", 2)
DHCP_PORT = tap_name(net.uid("dhcp", 1))
NETNS = f"qdhcp-{SUBNET}"
SPARE = net.private_port(6, "spare")
SPARE_TAP = tap_name(SPARE.id)


@dataclass
class Pair:
    """Two converged hosts and their guests."""

    one: NetHost
    two: NetHost
    guests: dict[str, Guest]


def spec_of(host: int) -> HostSpec:
    """The sample spec; host 1 has a port more, which no guest uses."""
    spec = net.host_spec(host)
    return replace(spec, ports=(*spec.ports, SPARE)) if host == 1 else spec


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with hosts(2) as (one, two):
        for host in (one, two):
            made = host.steps(spec_of(host.number))
            assert {report["result"] for report in made} <= {"made", "changed"}
        guests = {}
        for host, names in ((one, ("outer", "head", "node-1")), (two, ("node-2", "office"))):
            for name, port in zip(names, net.host_ports(host.number)):
                guests[name] = host.guest(name, port)
        for name, guest in guests.items():
            assert guest.lease(), f"{name} got no address"
        yield Pair(one, two, guests)


def test_a_second_convergence_finds_nothing_to_do(pair: Pair) -> None:
    for host in (pair.one, pair.two):
        answer = host.ask("converge", spec=to_plain(spec_of(host.number)))
        assert {report["result"] for report in answer["reports"]} == {"unchanged"}
        assert answer["effects"] == 0


def test_dry_run_touches_nothing(pair: Pair) -> None:
    spec = net.without_ports(spec_of(1), SPARE.id)
    steps = pair.one.steps(spec, observing=True)
    assert (steps[0]["kind"], steps[0]["id"], steps[0]["result"]) == ("port", SPARE.id, "removed")
    assert pair.one.steps(spec_of(1)) == []


def test_leases_say_what_the_port_may_have(pair: Pair) -> None:
    node = pair.guests["node-1"].lease()
    assert (node["ip"], node["mask"], node["mtu"]) == ("192.168.1.4", "24", "1450")
    assert (node["router"], node["dns"], node["domain"]) == (
        "192.168.1.1",
        "192.168.1.3",
        "worf.local",
    )
    assert node["search"] == "worf.local" and node["hostname"] == "node-1"
    assert node["staticroutes"] == "10.9.0.0/16 192.168.1.254 0.0.0.0/0 192.168.1.1"
    head = pair.guests["head"].lease()
    assert "router" not in head and head["dns"] == "192.168.1.3"
    assert head["staticroutes"] == "10.9.0.0/16 192.168.1.254"
    outer = pair.guests["outer"].lease()
    assert outer["router"] == "10.1.0.1" and "dns" not in outer
    leases = (pair.one.folder / "data/dhcp" / SUBNET / "leases").read_text()
    assert "192.168.1.4 node-1" in leases and "192.168.1.5" not in leases


def test_vxlan_carries_full_size_packets(pair: Pair) -> None:
    assert pair.guests["node-1"].pings("192.168.1.2")
    assert pair.guests["node-1"].pings("192.168.1.5")
    assert pair.guests["node-2"].pings("192.168.1.4", "-M", "do", "-s", "1422")


def test_vlan_101_is_on_the_wire(pair: Pair) -> None:
    namespace = pair.one.namespace
    argv = [
        "ip",
        "netns",
        "exec",
        namespace,
        "tcpdump",
        "-c",
        "2",
        "-e",
        "-n",
        "-i",
        "eth1",
        "icmp or (vlan and icmp)",
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as dump:
        assert dump.stderr is not None
        while "listening on" not in dump.stderr.readline():
            pass
        assert pair.guests["outer"].pings("10.1.0.5", "-M", "do", "-s", "1472")
        out, _ = dump.communicate(timeout=20)
    assert out.count("vlan 101") == 2 and "10.1.0.2 > 10.1.0.5" in out


def test_names_resolve_both_ways_on_every_host(pair: Pair) -> None:
    guest = pair.guests["node-2"]
    assert "192.168.1.4" in guest.resolves("node-1.worf.local", "192.168.1.3")
    assert "192.168.1.2" in guest.resolves("head", "192.168.1.3")
    assert "name = node-1.worf.local" in guest.resolves("192.168.1.4", "192.168.1.3")
    assert "10.1.0.5" in pair.guests["outer"].resolves("office.enterprise.example", "10.1.0.3")


def test_other_names_go_upstream_by_the_hosts_leg(pair: Pair) -> None:
    for name, server in (("node-1", "192.168.1.3"), ("office", "10.1.0.3")):
        assert "203.0.113.80" in pair.guests[name].resolves("www.example.test", server)
    assert not pair.guests["node-1"].pings(RESOLVER)


def test_guests_cannot_reach_the_host_through_its_leg(pair: Pair) -> None:
    guest = pair.guests["node-1"]
    guest.ok("ip", "route", "add", "169.254.0.0/16", "via", "192.168.1.3")
    guest.ok("ip", "route", "add", "10.77.0.0/16", "via", "192.168.1.3")
    assert not guest.pings("169.254.0.2")
    assert not guest.pings("10.77.1.2")
    # Not even if the namespace forwarded: the host takes nothing but DNS from there.
    pair.one.ok("ip", "netns", "exec", NETNS, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert not guest.pings("10.77.1.2")
    assert "forwards" in pair.one.steps(spec_of(1))[0]["why"]
    for route in ("169.254.0.0/16", "10.77.0.0/16"):
        guest.ok("ip", "route", "delete", route)


def test_spoofed_addresses_get_nowhere(pair: Pair) -> None:
    guest = pair.guests["node-1"]
    guest.ok("ip", "addr", "add", "192.168.1.99/24", "dev", "eth0")
    assert not guest.pings("192.168.1.2", "-I", "192.168.1.99")
    guest.ok("ip", "addr", "delete", "192.168.1.99/24", "dev", "eth0")
    assert guest.pings("192.168.1.2")
    mac = net.private_port(4, "x").mac
    guest.ok("ip", "link", "set", "eth0", "address", "fa:16:3e:99:99:99")
    assert not guest.pings("192.168.1.2") and guest.lease() == {}
    guest.ok("ip", "link", "set", "eth0", "address", mac)
    assert guest.lease()["ip"] == "192.168.1.4"


def test_admin_state_down_stops_traffic(pair: Pair) -> None:
    node = net.private_port(4, "node-1")
    down = net.with_port(spec_of(1), node.id, admin_up=False)
    pair.one.converge(down)
    assert not pair.guests["node-1"].pings("192.168.1.2")
    assert not pair.guests["node-2"].pings("192.168.1.4")
    networks = tuple(replace(n, admin_up=False) for n in spec_of(1).networks)
    pair.one.converge(replace(spec_of(1), networks=networks))
    assert not pair.guests["node-1"].pings("192.168.1.2")
    pair.one.converge(spec_of(1))
    assert pair.guests["node-1"].pings("192.168.1.2")


def test_renewal_is_answered_by_a_server_that_has_forgotten(pair: Pair) -> None:
    """As after a move to another host: no lease is known there, and none is refused."""
    folder = pair.one.folder / "data/dhcp" / SUBNET
    pair.one.ok("pkill", "-9", "-F", str(folder / "pid"))
    (folder / "leases").write_text("")
    pair.one.converge(spec_of(1))
    assert pair.guests["node-1"].lease("-r", "192.168.1.4")["ip"] == "192.168.1.4"
    assert "192.168.1.4" in (folder / "leases").read_text()


def test_an_address_goes_to_its_next_port_at_once(pair: Pair) -> None:
    old, new = (
        net.private_port(7, "old"),
        replace(net.private_port(7, "new"), id=net.uid("next", 7)),
    )
    new = replace(new, mac="fa:16:3e:00:01:07")
    spec = spec_of(1)
    pair.one.converge(replace(spec, ports=(*spec.ports, old)))
    first = pair.one.guest("old", old)
    assert first.lease()["ip"] == "192.168.1.7"
    steps = pair.one.steps(replace(spec, ports=(*spec.ports, new)))
    assert any(s["kind"] == "dhcp" for s in steps)
    second = pair.one.guest("new", new)
    assert second.lease()["ip"] == "192.168.1.7"
    pair.one.converge(spec)
    assert pair.one.steps(spec) == []


def test_names_and_reloads_do_not_restart_dnsmasq(pair: Pair) -> None:
    file = pair.one.folder / "data/dhcp" / SUBNET / "pid"
    before, spec = file.read_text(), spec_of(1)
    private = replace(spec.networks[1], names=(*net.NAMES, Name("late", "192.168.1.77")))
    pair.one.converge(replace(spec, networks=(spec.networks[0], private)))
    ask = ("late.worf.local", "192.168.1.3")
    eventually(lambda: "192.168.1.77" in pair.guests["node-1"].resolves(*ask))
    pair.one.converge(spec)
    assert file.read_text() == before


def eventually(check: Callable[[], bool]) -> None:
    """A signal is taken in a moment later."""
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- drift --------------------------------------------------------------------------------------

Spoil = Callable[[NetHost], object]


def vsctl(*argv: str) -> Spoil:
    return lambda host: host.ok("ovs-vsctl", *argv)


def ofctl(*argv: str) -> Spoil:
    return lambda host: host.ok("ovs-ofctl", "-O", "OpenFlow13", *argv)


def edit(name: str, text: str) -> Spoil:
    def spoil(host: NetHost) -> None:
        with (host.folder / "data/dhcp" / SUBNET / name).open("a") as file:
            file.write(text)

    return spoil


def command(*argv: str) -> Spoil:
    return lambda host: host.ok(*argv)


def inside(*argv: str) -> Spoil:
    return command("ip", "netns", "exec", NETNS, *argv)


def kill_dnsmasq(host: NetHost) -> None:
    host.ok("pkill", "-9", "-F", str(host.folder / "data/dhcp" / SUBNET / "pid"))


DRIFT = {
    "flow deleted": (ofctl("del-flows", "br-int", "table=25"), "flows", "missing or altered"),
    "flow altered": (
        ofctl("mod-flows", "br-eth1", "table=0,actions=drop"), "flows", "missing or altered"),
    "flow replaced under no cookie": (
        ofctl("add-flow", "br-int", "table=24,priority=0,actions=NORMAL"), "flows", "missing"),
    "all flows deleted": (ofctl("del-flows", "br-tun"), "flows", "none of our"),
    "tag changed": (vsctl("set", "Port", SPARE_TAP, "tag=9"), "port", "tag of"),
    "trunk made": (vsctl("set", "Port", SPARE_TAP, "vlan_mode=trunk"), "port", "trunk"),
    "mark removed": (
        vsctl("remove", "Interface", SPARE_TAP, "external_ids", "iface-id"), "port", "iface-id"),
    "switch port deleted": (vsctl("del-port", SPARE_TAP), "port", "is not in br-int"),
    "tap deleted": (command("ip", "link", "delete", SPARE_TAP), "port", "there is no device"),
    "tap down": (command("ip", "link", "set", SPARE_TAP, "down"), "port", "is down"),
    "MTU changed": (command("ip", "link", "set", SPARE_TAP, "mtu", "1400"), "port", "MTU"),
    "DHCP port deleted": (vsctl("del-port", DHCP_PORT), "port", "is not in br-int"),
    "tunnel deleted": (vsctl("del-port", "vxlan-0a4e0002"), "tunnel", "there is no tunnel"),
    "tunnel altered": (
        vsctl("set", "Interface", "vxlan-0a4e0002", "options:remote_ip=10.78.0.7"),
        "tunnel", "remote_ip"),
    "patch deleted": (vsctl("del-port", "patch-tun"), "bridge", "no patch port"),
    "physical patch deleted": (vsctl("del-port", "phy-br-eth1"), "bridge", "no patch port"),
    "NIC taken out": (vsctl("del-port", "eth1"), "bridge", "eth1 is not in br-eth1"),
    "NIC down": (command("ip", "link", "set", "eth1", "down"), "bridge", "eth1 is down"),
    "fail mode changed": (vsctl("set-fail-mode", "br-int", "standalone"), "bridge", "fail mode"),
    "bridge deleted": (vsctl("del-br", "br-tun"), "bridge", "there is no bridge"),
    "dnsmasq killed": (kill_dnsmasq, "dhcp", "not running"),
    "hosts edited": (edit("hosts", "fa:16:3e:aa:aa:aa,192.168.1.9,evil\n"), "dhcp", "hosts is not"),
    "options edited": (edit("options", "option:ntp-server,1.1.1.1\n"), "dhcp", "options is not"),
    "conf edited": (edit("conf", "dhcp-script=/bin/true\n"), "dhcp", "conf is not"),
    "namespace deleted": (command("ip", "netns", "delete", NETNS), "dhcp", "no namespace"),
    "address removed": (inside("ip", "addr", "flush", "dev", DHCP_PORT), "dhcp", "address of"),
    "DHCP device down": (inside("ip", "link", "set", DHCP_PORT, "down"), "dhcp", "up of"),
    "leg deleted": (command("ip", "link", "delete", "dns-1"), "dhcp", "there is no dns-1"),
    "leg's route removed": (inside("ip", "route", "del", "default"), "dhcp", "far end"),
    "NAT removed": (command("iptables", "-t", "nat", "-F", "POSTROUTING"), "dhcp", "netfilter"),
    "guard opened": (
        command("iptables", "-I", "stackctl-leg-out", "-j", "ACCEPT"), "dhcp", "chains"),
    "forwarding off": (command("sysctl", "-qw", "net.ipv4.ip_forward=0"), "dhcp", "not forward"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DRIFT))
def test_drift_is_told_and_healed(pair: Pair, name: str) -> None:
    spoil, kind, words = DRIFT[name]
    spoil(pair.one)
    told = pair.one.steps(spec_of(1), observing=True)
    assert any(step["kind"] == kind and words in step["why"] for step in told), told
    healed = pair.one.steps(spec_of(1))
    assert any(step["kind"] == kind for step in healed)
    assert pair.one.steps(spec_of(1)) == []
    guest = pair.guests["node-1"]
    assert guest.lease()["ip"] == "192.168.1.4"
    assert guest.pings("192.168.1.5")
    assert "203.0.113.80" in guest.resolves("www.example.test", "192.168.1.3")
    assert pair.guests["outer"].pings("10.1.0.5")


def test_a_killed_switch_is_given_everything_back(pair: Pair) -> None:
    pair.one.ask("restart-vswitchd")
    assert not pair.guests["node-1"].pings("192.168.1.2")
    steps = pair.one.steps(spec_of(1))
    flows = [step for step in steps if step["kind"] == "flows"]
    assert len(flows) == 3 and all("none of our" in step["why"] for step in flows)
    assert pair.one.steps(spec_of(1)) == []
    assert pair.guests["node-1"].pings("192.168.1.2") and pair.guests["node-1"].pings("192.168.1.5")
    assert pair.guests["outer"].pings("10.1.0.5")
    assert pair.guests["node-1"].lease()["ip"] == "192.168.1.4"
    assert "203.0.113.80" in pair.guests["node-1"].resolves("www.example.test", "192.168.1.3")


def test_foreign_flows_are_reported_and_left_alone(pair: Pair) -> None:
    pair.one.ok("ovs-ofctl", "add-flow", "br-int", "cookie=0x5,table=99,actions=drop")
    steps = pair.one.steps(spec_of(1))
    assert [(s["id"], s["result"]) for s in steps] == [("br-int:foreign", "orphan")]
    assert "cookie=0x5" in pair.one.ok("ovs-ofctl", "dump-flows", "br-int", "table=99")
    pair.one.ok("ovs-ofctl", "del-flows", "br-int", "cookie=0x5/-1")


# --- what is not ours ---------------------------------------------------------------------------


@pytest.fixture
def lone() -> Iterator[NetHost]:
    with hosts(1) as (host,):
        yield host


def reports(host: NetHost, spec: HostSpec) -> dict[tuple[str, str], dict[str, Any]]:
    answer = host.ask("converge", spec=to_plain(spec))
    return {(report["kind"], report["id"]): report for report in answer["reports"]}


def test_a_strangers_br_int_is_refused(lone: NetHost) -> None:
    lone.ok(
        "ovs-vsctl", "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev"
    )
    found = reports(lone, private_only())
    assert "was not made by stackctl" in found[("bridge", "br-int")]["fault"]
    assert found[("port", SPARE.id)]["result"] == "failed"
    assert found[("flows", "br-int")]["result"] == "failed"
    assert "stackctl" not in lone.ok("ovs-vsctl", "list", "Bridge", "br-int")
    assert SPARE_TAP not in lone.ok("ip", "link")


def test_a_strangers_tap_and_a_nic_with_an_address_are_refused(lone: NetHost) -> None:
    lone.ok("ip", "tuntap", "add", SPARE_TAP, "mode", "tap")
    mapping = BridgeMapping("physnet1", "br-eth0", "eth0")
    spec = private_only()
    spec = replace(spec, settings=replace(spec.settings, bridge_mappings=(mapping,)))
    found = reports(lone, spec)
    assert "is not reused" in found[("port", SPARE.id)]["fault"]
    fault = found[("bridge", "br-eth0")]["fault"]
    assert "10.77.1.2" in fault and "put the address on br-eth0" in fault
    assert lone.sh("ping", "-c1", "-W2", "10.77.1.1")["status"] == 0
    assert SPARE_TAP not in lone.ok("ovs-vsctl", "list-ports", "br-int")


def test_an_operators_bridge_is_used_and_given_back(lone: NetHost) -> None:
    lone.ok("ip", "link", "add", "nic2", "type", "veth", "peer", "nic3")
    lone.ok("ovs-vsctl", "add-br", "br-ex", "--", "set", "bridge", "br-ex", "datapath_type=netdev",
            "--", "add-port", "br-ex", "nic2")  # fmt: skip
    before = lone.ok("ovs-ofctl", "--no-stats", "dump-flows", "br-ex")
    flat = replace(net.provider(1), type="flat", segmentation_id=None, physical_network="ext")
    port = net.provider_port(2, "head")
    settings = replace(
        private_only().settings, bridge_mappings=(BridgeMapping("ext", "br-ex", "nic2"),)
    )
    spec = replace(private_only(), settings=settings, networks=(flat,), ports=(port,))
    lone.converge(spec)
    assert lone.steps(spec) == []
    during = lone.ok("ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", "br-ex")
    assert "pop_vlan,NORMAL" in during and "priority=0 actions=NORMAL" in during
    bare = replace(settings, bridge_mappings=())
    lone.converge(replace(spec, settings=bare, networks=(), ports=()))
    assert lone.ok("ovs-ofctl", "--no-stats", "dump-flows", "br-ex") == before
    assert lone.ok("ovs-vsctl", "list-ports", "br-ex").split() == ["nic2"]


def test_a_mapping_on_a_bridge_of_ours_goes_with_it(lone: NetHost) -> None:
    lone.ok("ip", "link", "add", "nic2", "type", "veth", "peer", "nic3")
    spec = private_only()
    mapping = BridgeMapping("physnet1", "br-nic2", "nic2")
    lone.converge(replace(spec, settings=replace(spec.settings, bridge_mappings=(mapping,))))
    assert "br-nic2" in lone.ok("ovs-vsctl", "list-br")
    steps = [(step["kind"], step["result"]) for step in lone.steps(spec)]
    assert steps == [("bridge", "removed"), ("flows", "changed")]
    assert "br-nic2" not in lone.ok("ovs-vsctl", "list-br")
    assert "int-br-nic2" not in lone.ok("ovs-vsctl", "list-ports", "br-int")


def private_only() -> HostSpec:
    """Host 1 with the private network, one port, and nobody to tunnel to."""
    spec = net.host_spec(1)
    settings = replace(spec.settings, bridge_mappings=())
    return replace(spec, settings=settings, networks=(net.private(1),), ports=(SPARE,))


def test_an_empty_spec_leaves_nothing(lone: NetHost) -> None:
    clean = lone.ok("iptables-save").splitlines()
    lone.converge(private_only())
    empty = replace(private_only(), networks=(), ports=())
    removed = lone.steps(empty)
    assert {report["result"] for report in removed} <= {"removed", "changed"}
    assert lone.steps(empty) == []
    nothing_left(lone)
    rules = [line for line in lone.ok("iptables-save").splitlines() if line.startswith("-A")]
    assert rules == [line for line in clean if line.startswith("-A")]


def nothing_left(host: NetHost) -> None:
    assert host.ok("ip", "netns") == ""
    assert host.ok("ovs-vsctl", "list-ports", "br-int").split() == ["patch-tun"]
    devices = host.ok("ip", "-br", "link")
    assert "tap" not in devices and "dns-" not in devices
    assert list((host.folder / "data/dhcp").iterdir()) == []
    assert list((host.folder / "data/pending").iterdir()) == []
    assert host.sh("pgrep", "dnsmasq")["out"].split() == []


def test_bad_names_are_refused_one_by_one(lone: NetHost) -> None:
    evil = replace(net.private_port(8, "x\ndhcp-script=/bin/sh"), id=net.uid("evil", 8))
    spec = replace(private_only(), ports=(SPARE, evil))
    found = reports(lone, spec)
    assert "is not a host name" in found[("dhcp", evil.id)]["fault"]
    assert found[("dhcp", SUBNET)]["result"] == "made"
    hosts_file = (lone.folder / "data/dhcp" / SUBNET / "hosts").read_text()
    assert hosts_file.count("\n") == 1 and "script" not in hosts_file


# --- an agent that dies -------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_death_between_any_two_effects_is_repaired(lone: NetHost, stride: int) -> None:
    lone.ok("ip", "link", "add", "nic2", "type", "veth", "peer", "nic3")
    mapping = BridgeMapping("physnet1", "br-nic2", "nic2")
    spec = private_only()
    private = net.private(1, flood=("10.78.0.2",))
    full = replace(
        spec, settings=replace(spec.settings, bridge_mappings=(mapping,)), networks=(private,)
    )
    empty = replace(full, settings=spec.settings, networks=(), ports=())
    making = list(lone.kills(empty, full, stride))
    if stride == 1:
        assert {"make_taps", "mark", "transact", "change_flows", "start", "restore"} <= set(making)
    for _ in lone.kills(full, empty, stride):
        nothing_left(lone)
    with contextlib.suppress(FileNotFoundError):
        assert list((lone.folder / "data/pending").iterdir()) == []
