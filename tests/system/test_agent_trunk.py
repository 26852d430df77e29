"""Trunks on real engines: what a guest sends with a tag is another port's, and only that one's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from agent.resources.topology import legs, tap_name, trunk_bridge
from agent.spec import HostSpec, Members, Subport, Trunk
from tests import agent_networks as net
from tests import frames
from tests.system import vlan_device
from tests.system.conftest import eventually
from tests.system.nethost import Guest, NetHost, hosts
from tests.system.test_agent_network import nothing_left

PARENT, SUBPORT = net.provider_port(2, "head"), net.private_port(4, "node-1")
LATER = net.private_port(7, "later")
TRUNK = Trunk(net.uid("trunk", 1), 1, PARENT.id, (Subport(SUBPORT.id, 200),))
BRIDGE = trunk_bridge(TRUNK.id)
INNER, OUTER = legs(TRUNK)[1].inner, legs(TRUNK)[1].outer
NEAR, FAR = "192.168.1.2", "192.168.1.5"


def spec_of(host: int, *more: Subport) -> HostSpec:
    """The sample spec; on host 1 node-1 is VLAN 200 of the head node's outer NIC."""
    spec = net.host_spec(host)
    later = Members(net.DEFAULT, net.PRIVATE, tuple(f"192.168.1.{n}" for n in (2, 4, 5, 7)))
    spec = replace(spec, members=(later, *spec.members[1:]))
    if host == 2:
        return spec
    trunk = replace(TRUNK, subports=(*TRUNK.subports, *more))
    ports = (*spec.ports, LATER) if more else spec.ports
    return replace(spec, ports=ports, trunks=(trunk,))


@dataclass
class Stage:
    """Two hosts; ``guest`` is behind the trunk, with the device ``v200`` for its VLAN."""

    one: NetHost
    guest: Guest
    office: Guest
    node: Guest

    def vlan(self, number: int, mac: str) -> str:
        """A VLAN device in the guest, under this name."""
        name = f"v{number}"
        argv = ["ip", "netns", "exec", self.guest.name, sys.executable, vlan_device.__file__]
        words = ["eth0", str(number), name, mac]
        self.one.ok("sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *argv, *words)
        eventually(lambda: name in self.guest.ok("ip", "-br", "link", "show", "up"), name)
        return name

    def lease(self, device: str) -> str:
        """The address that DHCP gives to a device of the guest; empty for none."""
        argv = ["busybox", "udhcpc", "-i", device, "-n", "-q", "-f", "-t", "3", "-T", "1"]
        script = str(self.one.folder / "udhcpc")
        done = self.guest.sh(*argv, "-s", script, timeout=20)
        return str(self.guest.ok("ip", "-4", "-br", "addr", "show", device) * (not done["status"]))

    def reaches(self, device: str, address: str, *options: str) -> bool:
        return self.guest.pings(address, "-I", device, *options)

    def works(self) -> bool:
        untagged = self.guest.pings("10.1.0.5", "-M", "do", "-s", "1472")
        near, far = (self.reaches("v200", each, "-M", "do", "-s", "1422") for each in (NEAR, FAR))
        return untagged and near and far


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with hosts(2) as (one, two):
        for host in (one, two):
            host.converge(spec_of(host.number))
        other = {"head": one.guest("head", net.private_port(2, "head"))}
        ports = dict(zip(("node-2", "office"), net.host_ports(2), strict=True))
        other |= {name: two.guest(name, port) for name, port in ports.items()}
        for guest in other.values():
            assert guest.lease()
        made = Stage(one, one.guest("trunk", PARENT), other["office"], other["node-2"])
        assert made.guest.lease()["ip"] == "10.1.0.2"
        made.vlan(200, SUBPORT.mac)
        assert "192.168.1.4/24" in made.lease("v200")
        yield made


def test_a_subport_has_its_lease_and_full_size_packets_go_both_ways(stage: Stage) -> None:
    assert stage.works()
    assert stage.node.pings("192.168.1.4", "-M", "do", "-s", "1422")
    assert stage.office.pings("10.1.0.2", "-M", "do", "-s", "1472")
    assert stage.one.steps(spec_of(1)) == []


def test_its_ports_stay_apart_and_are_checked_like_others(stage: Stage) -> None:
    """Each sender is let through with its own tag only; so much is asked of the switch itself."""
    ways = {
        (0, PARENT.mac, "10.1.0.2", "10.1.0.5"): True,
        (200, SUBPORT.mac, "192.168.1.4", FAR): True,
        (200, SUBPORT.mac, "192.168.1.77", FAR): False,
        (200, PARENT.mac, "10.1.0.2", "10.1.0.5"): False,
        (0, SUBPORT.mac, "192.168.1.4", FAR): False,
        (201, SUBPORT.mac, "192.168.1.4", FAR): False,
        (4095, SUBPORT.mac, "192.168.1.4", FAR): False,
    }
    for (vlan, mac, source, target), through in ways.items():
        tag = f"dl_vlan={vlan}," if vlan else ""
        packet = f"in_port={tap_name(PARENT.id)},{tag}icmp,dl_src={mac},dl_dst={net.mac(5)}"
        packet += f",nw_src={source},nw_dst={target},icmp_type=8,icmp_code=0"
        said = stage.one.ok("ovs-appctl", "ofproto/trace", BRIDGE, packet, "--ct-next", "trk,new")
        dropped = said.rstrip().splitlines()[-1] == "Datapath actions: drop"
        assert dropped != through, f"VLAN {vlan} {source}: {said}"


def test_real_frames_with_a_wrong_tag_go_nowhere(stage: Stage) -> None:
    heard = stage.one.folder / "heard"
    device = tap_name(net.private_port(2, "head").id)
    watch = ["timeout", "20", "tcpdump", "-U", "-e", "-n", "-i", device, "-w", str(heard)]
    stage.one.ok("sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *watch, "udp", "port", "7777")
    eventually(lambda: heard.exists(), "tcpdump does not listen")
    assert stage.works()
    wrong = stage.vlan(201, SUBPORT.mac)
    stage.guest.ok("ip", "addr", "add", "192.168.1.4/24", "dev", wrong)
    for tag in (201, 200):
        ends = ((SUBPORT.mac, net.mac(2)), ("192.168.1.4", NEAR))
        frame = frames.udp(*ends, (7777, 7777), (0x8100, tag)).hex()
        code = "import socket as s; r = s.socket(s.AF_PACKET, s.SOCK_RAW); r.bind(('eth0', 0)); "
        stage.guest.ok(sys.executable, "-c", f"{code}r.send(bytes.fromhex('{frame}'))")
    eventually(lambda: b"data" in heard.read_bytes(), "the frame with the right tag")
    assert heard.read_bytes().count(b"data") == 1
    stage.guest.ok("ip", "link", "delete", wrong)


def test_subports_come_and_go_while_the_others_go_on(stage: Stage) -> None:
    stage.works()
    stage.guest.ok("sh", "-c", f"ping -i 0.1 -I v200 {FAR} > {stage.one.folder}/pings 2>&1 &")
    stage.one.converge(spec_of(1, Subport(LATER.id, 300)))
    device = stage.vlan(300, LATER.mac)
    assert "192.168.1.7/24" in stage.lease(device)
    assert stage.reaches(device, FAR)
    removed = stage.one.steps(spec_of(1))
    assert {"bridge", "flows"} <= {step["kind"] for step in removed}
    assert not stage.reaches(device, FAR)
    stage.guest.ok("pkill", "-INT", "-f", f"ping -i 0.1 -I v200 {FAR}")
    pings = (stage.one.folder / "pings").read_text
    eventually(lambda: "packet loss" in pings(), "ping does not end")
    assert " 0% packet loss" in pings()
    stage.guest.ok("ip", "link", "delete", device)
    assert stage.one.steps(spec_of(1)) == []


SPOILED = {
    "bridge deleted": (("ovs-vsctl", "del-br", BRIDGE), "bridge", "there is no bridge"),
    "patch deleted": (("ovs-vsctl", "del-port", OUTER), "bridge", "no patch port"),
    "patch turned": (
        ("ovs-vsctl", "set", "Interface", INNER, "options:peer=x"), "bridge", "not connected"),
    "patch without its mark": (
        ("ovs-vsctl", "remove", "Port", INNER, "external_ids", "stackctl-trunk"),
        "bridge", "lost its mark"),
    "a port that left": (
        ("ovs-vsctl", "add-port", BRIDGE, "spt-old", "--", "set", "Interface", "spt-old",
         "type=patch", "options:peer=x", "--", "set", "Port", "spt-old",
         f"external_ids:stackctl-cloud={net.CLOUD}", f"external_ids:stackctl-trunk={BRIDGE}"),
        "bridge", "does not belong there"),
    "tap taken out": (("ovs-vsctl", "del-port", tap_name(PARENT.id)), "port", "is not in tbr-"),
    "subport's mark": (
        ("ovs-vsctl", "remove", "Interface", INNER, "external_ids", "iface-id"),
        "port", "iface-id"),
    "flows opened": (
        ("ovs-ofctl", "add-flow", BRIDGE, "priority=0,actions=NORMAL"), "flows", "missing"),
    "flows deleted": (("ovs-ofctl", "del-flows", BRIDGE), "flows", "none of our"),
}  # fmt: skip


USUAL = ("bridge deleted", "a port that left", "tap taken out", "flows opened")


@pytest.mark.parametrize("names", [USUAL, pytest.param(tuple(SPOILED), marks=pytest.mark.slow)])
def test_drift_is_told_and_healed(stage: Stage, names: tuple[str, ...]) -> None:
    for name in names:
        argv, kind, words = SPOILED[name]
        stage.one.ok(*argv)
        told = stage.one.steps(spec_of(1), observing=True)
        assert any(step["kind"] == kind and words in step["why"] for step in told), (name, told)
        stage.one.converge(spec_of(1))
        assert stage.one.steps(spec_of(1)) == [], name
    assert stage.works()


def test_a_killed_switch_is_given_everything_back(stage: Stage) -> None:
    stage.one.ask("restart-vswitchd")
    assert not stage.reaches("v200", NEAR)
    stage.one.converge(spec_of(1))
    assert stage.one.steps(spec_of(1)) == []
    assert stage.works()


def test_a_trunk_that_left_leaves_nothing(stage: Stage) -> None:
    full = spec_of(1)
    gone = replace(full, trunks=(), ports=tuple(p for p in full.ports if p.id != PARENT.id))
    stage.one.converge(replace(gone, ports=tuple(p for p in gone.ports if p.id != SUBPORT.id)))
    assert BRIDGE not in stage.one.ok("ovs-vsctl", "list-br")
    assert "pi-" not in stage.one.ok("ovs-vsctl", "list-ports", "br-int")
    assert tap_name(PARENT.id) not in stage.one.ok("ip", "-br", "link")


@pytest.mark.slow
def test_death_between_any_two_effects_is_repaired() -> None:
    with hosts(1) as (lone,):
        spec = spec_of(1)
        alone = replace(spec.settings, bridge_mappings=(), tunnel_address="10.78.0.1")
        parent = replace(PARENT, network_id=net.PRIVATE, addresses=LATER.addresses)
        full = replace(
            spec,
            settings=alone,
            networks=(net.private(1, flood=("10.78.0.2",)),),
            ports=(parent, SUBPORT),
        )
        empty = replace(full, networks=(), ports=(), trunks=())
        assert "transact" in list(lone.kills(empty, full, 1))
        for _ in lone.kills(full, empty, 1):
            nothing_left(lone)
