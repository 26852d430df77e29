"""Flow tables: what is compiled, in which words, and what Open vSwitch does with packets."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.resources import flow_tables, flow_text, topology
from agent.resources.flow_text import Flow, Found, difference, parse_dump
from agent.resources.topology import Topology
from agent.spec import BridgeMapping, FixedAddress, HostSpec, Network, RemotePort
from tests import agent_networks as net
from tests.dummy_switch import DummySwitch

GOLDEN = Path(__file__).parents[1] / "golden" / "flows"
COOKIE = flow_tables.cookie_of(net.CLOUD)
LEARNED = flow_tables.learned_cookie_of(net.CLOUD)
HEAD, NODE = net.private_port(2, "head"), net.private_port(4, "node-1")
OUTER = net.provider_port(2, "head")


def tap(port_id: str) -> str:
    return topology.tap_name(port_id)


OFPORTS = {
    "patch-tun": 1,
    "int-br-eth1": 2,
    tap(net.uid("dhcp", 1)): 3,
    tap(net.uid("dhcp", 2)): 4,
    tap(HEAD.id): 5,
    tap(NODE.id): 6,
    tap(OUTER.id): 7,
    "patch-int": 1,
    "vxlan-0a4e0002": 2,
    "eth1": 1,
    "phy-br-eth1": 2,
    "int-br-ex": 8,
    "phy-br-ex": 1,
}


def compiled(spec: HostSpec, own: frozenset[str] = frozenset({"br-eth1"})) -> dict[str, list[Flow]]:
    return flow_tables.compile_flows(flow_tables.Plan(Topology(spec), OFPORTS, own))


def flat_spec() -> HostSpec:
    """Host 1 with the provider network flat, on a bridge that the operator made."""
    spec = net.host_spec(1)
    mapping = BridgeMapping("physnet2", "br-ex", "eth2")
    outer = replace(net.provider(1), type="flat", segmentation_id=None, physical_network="physnet2")
    return replace(
        spec,
        settings=replace(spec.settings, bridge_mappings=(mapping,)),
        networks=(outer, spec.networks[1]),
    )


def moving_spec() -> HostSpec:
    """Node 2 is on its way from one host to another: both get its frames."""
    spec = net.host_spec(1)
    first = spec.networks[1].remote_ports[0]
    remote = (first, replace(first, tunnel_address="10.78.0.9"))
    private = replace(spec.networks[1], remote_ports=remote, flood_to=("10.78.0.2", "10.78.0.9"))
    return replace(spec, networks=(spec.networks[0], private))


def arriving_spec() -> HostSpec:
    """A guest is on its way to this host: what is for it goes to the other one, too."""
    return net.with_port(net.host_spec(1), HEAD.id, role="incoming")


def open_spec() -> HostSpec:
    """Ports with security off, and ports that are down."""
    spec = net.with_port(net.host_spec(1), HEAD.id, port_security=False)
    return net.with_port(spec, NODE.id, admin_up=False)


CASES = {
    "two-networks": net.host_spec,
    "flat": lambda _: flat_spec(),
    "moving": lambda _: moving_spec(),
    "arriving": lambda _: arriving_spec(),
    "open-and-down": lambda _: open_spec(),
}


def text_of(tables: dict[str, list[Flow]]) -> str:
    lines = []
    for bridge, flows in tables.items():
        lines.append(f"# {bridge}")
        lines += [flow.text(COOKIE) for flow in sorted(flows, key=lambda f: (f[0], -f[1], f[2]))]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", sorted(CASES))
def test_golden(case: str, request: pytest.FixtureRequest) -> None:
    file = GOLDEN / f"{case}.txt"
    text = text_of(compiled(CASES[case](1)))
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        pytest.fail(f"{file.name} was not there; written: look at it and run again")
    assert text == file.read_text()


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_golden_line_is_one_flow(case: str, tmp_path: Path) -> None:
    file = tmp_path / "flows"
    lines = [x for x in (GOLDEN / f"{case}.txt").read_text().splitlines() if x[0] != "#"]
    file.write_text("\n".join(lines) + "\n")
    argv = ["ovs-ofctl", "-O", "OpenFlow13", "parse-flows", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ADD") + done.stdout.count("FLOW_MOD") >= len(lines)


def test_the_slides_conversion_stands_as_drawn() -> None:
    tables = compiled(net.host_spec(1))
    outward = [f for f in tables["br-eth1"] if f.priority == 4]
    inward = [f for f in tables["br-int"] if "dl_vlan=101" in f.match and f.priority == 3]
    assert [(f.match, f.actions) for f in outward] == [
        ("in_port=2,dl_vlan=1", "mod_vlan_vid:101,NORMAL")
    ]
    assert [(f.match, f.actions) for f in inward] == [
        ("in_port=2,dl_vlan=101", "mod_vlan_vid:1,goto_table:60")
    ]


def test_physical_bridges_come_first_and_br_int_last() -> None:
    assert list(compiled(net.host_spec(1))) == ["br-eth1", "br-tun", "br-int"]


def test_no_default_flow_in_an_operators_bridge() -> None:
    flows = compiled(flat_spec(), frozenset())["br-ex"]
    assert all("in_port=1" in flow.match for flow in flows)


def test_what_a_host_cannot_carry_gets_no_flows() -> None:
    spec = net.host_spec(1)
    bad = replace(spec.networks[1], remote_ports=(RemotePort("fa:16:3e actions=drop", (), "x"),))
    tables = compiled(replace(spec, networks=(spec.networks[0], bad)))
    text = text_of(tables)
    assert "fa:16:3e actions" not in text
    assert "in_port=5" not in text and "in_port=7" in text


def test_unplugged_devices_are_left_out() -> None:
    plan = flow_tables.Plan(Topology(net.host_spec(1)), {}, frozenset())
    for flows in flow_tables.compile_flows(plan).values():
        assert all("None" not in flow.match + flow.actions for flow in flows)


# --- difference ---------------------------------------------------------------------------------


def found(*lines: str) -> list[Found]:
    return parse_dump("\n".join(lines))


def test_spelling_makes_no_difference() -> None:
    there = found(
        f" cookie={COOKIE:#x}, priority=4,dl_vlan=1,in_port=2"
        " actions=set_field:4197->vlan_vid,NORMAL",
        f" cookie={COOKIE:#x}, table=20, priority=1,dl_vlan=1 actions=pop_vlan,output:3",
    )
    wanted = [
        Flow(0, 4, "in_port=2,dl_vlan=1", "mod_vlan_vid:101,NORMAL"),
        Flow(20, 1, "dl_vlan=1", "strip_vlan,output:3"),
    ]
    assert not difference(wanted, there, COOKIE, LEARNED)


def test_a_changed_action_is_added_once_and_nothing_removed() -> None:
    there = found(f" cookie={COOKIE:#x}, table=25, priority=5,ip,in_port=3 actions=drop")
    wanted = [Flow(25, 5, "ip,in_port=3", "goto_table:60")]
    change = difference(wanted, there, COOKIE, LEARNED)
    assert change.add == tuple(wanted) and change.remove == ()


def test_foreign_flows_are_counted_and_learned_ones_not_seen() -> None:
    there = found(
        " cookie=0x7, priority=9,in_port=1 actions=NORMAL",
        f" cookie={LEARNED:#x}, table=20, hard_timeout=300, priority=2,dl_vlan=1 actions=output:3",
        " cookie=0x8, priority=0 actions=NORMAL",
    )
    change = difference([Flow(0, 0, "", "drop")], there, COOKIE, LEARNED)
    assert [flow.match for flow in change.foreign] == ["in_port=1"]
    assert change.remove == () and len(change.add) == 1


def test_what_was_learned_goes_with_the_entry_that_changed() -> None:
    change = flow_text.Difference(add=(Flow(20, 1, "dl_vlan=1,dl_dst=fa:16:3e:00:00:05", "x"),))
    lines = flow_text.commands(change, COOKIE, LEARNED)
    assert lines[0] == (
        f"delete cookie={LEARNED:#x}/-1,table=20,vlan_tci=0x0001/0x0fff,dl_dst=fa:16:3e:00:00:05"
    )
    assert lines[1].startswith(f"add cookie={COOKIE:#x},table=20,")


def test_a_thousand_ports_are_quick() -> None:
    """Not a budget (bin/bench has those): it catches what grows with the square."""
    spec = thousand_ports(net.host_spec(1).networks[1])
    ofports = {**OFPORTS, **{tap(port.id): 100 + n for n, port in enumerate(spec.ports)}}
    begun = time.process_time()
    tables = flow_tables.compile_flows(flow_tables.Plan(Topology(spec), ofports, frozenset()))
    dump = "\n".join(
        f" cookie={COOKIE:#x}, table={f.table}, priority={f.priority}"
        + (f",{f.match}" if f.match else "")
        + f" actions={f.actions}"
        for f in tables["br-int"]
    )
    assert not difference(tables["br-int"], parse_dump(dump), COOKIE, LEARNED)
    assert len(tables["br-int"]) > 8000
    assert time.process_time() - begun < 3


def thousand_ports(network: Network) -> HostSpec:
    subnet = replace(network.subnets[0], cidr="10.0.0.0/16", id=net.uid("subn", 1))
    ports = tuple(
        replace(
            NODE,
            id=f"{number:08x}-{number % 251:02x}00-4000-8000-000000000000",
            mac=f"fa:16:3e:01:{number // 256:02x}:{number % 256:02x}",
            addresses=(FixedAddress(subnet.id, f"10.0.{1 + number // 200}.{number % 200}"),),
        )
        for number in range(1000)
    )
    network = replace(network, subnets=(subnet,))
    return replace(net.host_spec(1), networks=(net.provider(1), network), ports=ports)


# --- packets, in a switch of dummy devices ------------------------------------------------------


@pytest.fixture(scope="module")
def dummy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DummySwitch]:
    switch = DummySwitch(COOKIE, tmp_path_factory.mktemp("ovs"))
    switch.start()
    try:
        switch.build(compiled(net.host_spec(1)), {
            "br-eth1": {"eth1": (1, ""), "phy-br-eth1": (2, "type=patch options:peer=int-br-eth1")},
            "br-tun": {
                "patch-int": (1, "type=patch options:peer=patch-tun"),
                "vxlan-0a4e0002": (2, ""),
            },
            "br-int": {
                "patch-tun": (1, "type=patch options:peer=patch-int"),
                "int-br-eth1": (2, "type=patch options:peer=phy-br-eth1"),
                "dhcp1": (3, "tag=2"),
                "dhcp2": (4, "tag=1"),
                "head": (5, "tag=2"),
                "node": (6, "tag=2"),
                "outer": (7, "tag=1"),
            },
        })  # fmt: skip
        yield switch
    finally:
        switch.stop()


H, N, OUT, D1, D2 = HEAD.mac, NODE.mac, OUTER.mac, net.mac(3), net.mac(0x13)
REMOTE, ROUTER, BCAST = net.mac(5), "00:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"
PRIVATE, ENTERPRISE = "192.168.1.", "10.1.0."


def ip(dl: str, nw: str, kind: str = "icmp", ports: str = "", where: str = "") -> str:
    """An IPv4 packet; ``dl`` and ``nw`` are source and destination, ``ports`` such as "68 67"."""
    fields = [kind, where] if where else [kind]
    for name, pair in (("dl", dl), ("nw", nw)):
        fields += [f"{name}_{end}={value}" for end, value in zip(("src", "dst"), pair.split())]
    fields += [f"{kind}_{end}={value}" for end, value in zip(("src", "dst"), ports.split())]
    return ",".join(fields)


def arp(
    dl_src: str, sha: str, spa: str, tpa: str, op: int = 1, dst: str = BCAST, **more: str
) -> str:
    """An ARP packet; ``more`` may say ``where`` it enters and be of ``kind`` rarp."""
    where = f",{more['where']}" if "where" in more else ""
    fields = f"{more.get('kind', 'arp')}{where},dl_src={dl_src},dl_dst={dst},arp_op={op}"
    return f"{fields},arp_spa={spa},arp_tpa={tpa},arp_sha={sha}"


def dhcp(mac: str) -> str:
    return ip(f"{mac} {BCAST}", "0.0.0.0 255.255.255.255", "udp", "68 67")


P2, P3, P4, P5, P9 = (PRIVATE + last for last in "23459")
E1, E2, E3, E5 = (ENTERPRISE + last for last in "1235")
WIRE, VXLAN = "dl_vlan=101,dl_vlan_pcp=0", "tun_id=0x65"
V6 = "ipv6_src=fe80::1,ipv6_dst=ff02::1"

# What it is, bridge and port where it enters, the packet, the devices it must reach.
PACKETS = [
    ("honest unicast", "br-int", 5, ip(f"{H} {N}", f"{P2} {P4}"), "node"),
    ("spoofed MAC", "br-int", 5, ip(f"{N} {H}", f"{P2} {P4}"), ""),
    ("spoofed IPv4", "br-int", 5, ip(f"{H} {N}", f"{P9} {P4}"), ""),
    ("neighbour's IPv4", "br-int", 5, ip(f"{H} {N}", f"{P4} {P2}"), ""),
    ("zero IPv4, not DHCP", "br-int", 5, ip(f"{H} {N}", f"0.0.0.0 {P4}", "udp", "68 53"), ""),
    ("IPv6", "br-int", 5, f"icmp6,dl_src={H},dl_dst={N},{V6}", ""),
    ("router advertisement", "br-int", 5, f"icmp6,dl_src={H},{V6},icmpv6_type=134", ""),
    ("another ethertype", "br-int", 5, f"dl_src={H},dl_dst={N},dl_type=0x88cc", ""),
    ("VLAN tagged", "br-int", 5, ip(f"{H} {N}", f"{P2} {P4}", where="dl_vlan=1"), ""),
    ("priority tagged", "br-int", 5, ip(f"{H} {N}", f"{P2} {P4}", where="vlan_tci=0x7000"), ""),
    ("ARP request", "br-int", 5, arp(H, H, P2, P4), "node dhcp1 vxlan-0a4e0002"),
    ("ARP for a remote port", "br-int", 5, arp(H, H, P2, P5), "node dhcp1 head"),
    ("ARP reply", "br-int", 5, arp(H, H, P2, P4, 2, N), "node"),
    ("ARP with another's IP", "br-int", 5, arp(H, H, P4, P5), ""),
    ("ARP with the gateway's IP", "br-int", 5, arp(H, H, PRIVATE + "1", P4, 2), ""),
    ("ARP with another's sender MAC", "br-int", 5, arp(H, N, P2, P4), ""),
    ("ARP with another's source", "br-int", 5, arp(N, H, P2, P4), ""),
    ("ARP probe", "br-int", 5, arp(H, H, "0.0.0.0", P2), "node dhcp1 vxlan-0a4e0002"),
    ("ARP reply from nobody", "br-int", 5, arp(H, H, "0.0.0.0", P2, 2), ""),
    ("own RARP", "br-int", 5, arp(H, H, P2, P2, 3, kind="rarp"), "node dhcp1 vxlan-0a4e0002"),
    ("another's RARP", "br-int", 5, arp(N, N, P2, P2, 3, kind="rarp"), ""),
    ("DHCP discover", "br-int", 5, dhcp(H), "dhcp1"),
    ("DHCP discover, provider", "br-int", 7, dhcp(OUT), "dhcp2"),
    ("DHCP discover, spoofed MAC", "br-int", 5, dhcp(N), ""),
    ("DHCP renewal", "br-int", 5, ip(f"{H} {D1}", f"{P2} {P3}", "udp", "68 67"), "dhcp1"),
    ("DNS query, UDP", "br-int", 5, ip(f"{H} {D1}", f"{P2} {P3}", "udp", "5000 53"), "dhcp1"),
    ("DNS query, TCP", "br-int", 5, ip(f"{H} {D1}", f"{P2} {P3}", "tcp", "5000 53"), "dhcp1"),
    ("to the server's IP alone", "br-int", 5, ip(f"{H} {N}", f"{P2} {P3}"), "dhcp1"),
    ("ARP for the DHCP server", "br-int", 5, arp(H, H, P2, P3), "dhcp1"),
    ("rogue DHCP reply", "br-int", 5, ip(f"{H} {BCAST}", f"{P2} {P4}", "udp", "67 68"), ""),
    ("server's reply", "br-int", 3, ip(f"{D1} {H}", f"{P3} {P2}", "udp", "67 68"), "head"),
    ("server's broadcast", "br-int", 3,
     ip(f"{D1} {BCAST}", f"{P3} {P2}", "udp", "67 68"), "head node"),
    ("server's ARP", "br-int", 3, arp(D1, D1, P3, P9), "head node"),
    ("DHCP port with another MAC", "br-int", 3, ip(f"{H} {N}", f"{P2} {P4}"), ""),
    ("provider server's broadcast", "br-int", 4, ip(f"{D2} {BCAST}", f"{E3} {E2}"), "outer"),
    ("to a remote port", "br-int", 5,
     ip(f"{H} {REMOTE}", f"{P2} {P5}"), "vxlan-0a4e0002"),
    ("provider out", "br-int", 7, ip(f"{OUT} {ROUTER}", f"{E2} {E1}"), "eth1"),
    ("provider in", "br-eth1", 1, ip(f"{ROUTER} {OUT}", f"{E5} {E2}", where=WIRE), "outer"),
    ("provider in, no member", "br-eth1", 1,
     ip(f"{ROUTER} {OUT}", f"{E1} {E2}", where=WIRE), ""),
    ("in by VLAN 102", "br-eth1", 1, ip(f"{ROUTER} {OUT}", f"{E1} {E2}", where="dl_vlan=102"), ""),
    ("in by a local VLAN's number", "br-eth1", 1,
     ip(f"{ROUTER} {H}", f"{E1} {P2}", where="dl_vlan=2"), ""),
    ("in untagged", "br-eth1", 1, ip(f"{ROUTER} {OUT}", f"{E1} {E2}"), ""),
    ("in as the DHCP server", "br-eth1", 1, ip(f"{D2} {OUT}", f"{E3} {E2}", where=WIRE), ""),
    ("in with the server's IP", "br-eth1", 1, ip(f"{ROUTER} {OUT}", f"{E3} {E2}", where=WIRE), ""),
    ("in, a DHCP reply", "br-eth1", 1,
     ip(f"{ROUTER} {OUT}", f"{E1} {E2}", "udp", "67 68", WIRE), ""),
    ("in, ARP for the server", "br-eth1", 1, arp(ROUTER, ROUTER, E1, E3, where=WIRE), ""),
    ("tunnel in", "br-tun", 2, ip(f"{REMOTE} {H}", f"{P5} {P2}", where=VXLAN), "head"),
    ("tunnel in, other network", "br-tun", 2,
     ip(f"{REMOTE} {H}", f"{P5} {P2}", where="tun_id=0x66"), ""),
    ("tunnel in as the server", "br-tun", 2, arp(D1, D1, P3, P2, 2, where=VXLAN), ""),
    ("tunnel in to the server", "br-tun", 2, ip(f"{REMOTE} {D1}", f"{P5} {P3}", where=VXLAN), ""),
    ("tunnel in, a DHCP reply", "br-tun", 2,
     ip(f"{REMOTE} {BCAST}", f"{P5} {P2}", "udp", "67 68", VXLAN), ""),
]  # fmt: skip
DEVICES = {"head", "node", "outer", "dhcp1", "dhcp2", "eth1", "vxlan-0a4e0002"}


@pytest.mark.parametrize("packet", PACKETS, ids=[packet[0] for packet in PACKETS])
def test_packet(dummy: DummySwitch, packet: tuple[str, str, int, str, str]) -> None:
    _, bridge, port, fields, reached = packet
    actions = dummy.trace(bridge, f"in_port={port},{fields}")
    words = {word for word in actions.replace(",", " ").replace("(", " ").split()}
    assert words & DEVICES == set(reached.split()), actions


def test_vlan_101_is_on_the_wire_and_1_inside(dummy: DummySwitch) -> None:
    out = dummy.trace(
        "br-int", f"in_port=7,icmp,dl_src={OUT},dl_dst=00:00:5e:00:00:01,nw_src=10.1.0.2"
    )
    assert "push_vlan(vid=101,pcp=0)" in out and "eth1" in out
    fields = (
        f"icmp,dl_vlan=101,dl_src=00:00:5e:00:00:01,dl_dst={OUT},nw_src=10.1.0.5,nw_dst=10.1.0.2"
    )
    inward = dummy.trace("br-eth1", f"in_port=1,{fields}")
    assert "pop_vlan" in inward and inward.endswith("ct(commit,zone=1),outer")


def test_the_switch_prints_what_was_compiled(dummy: DummySwitch) -> None:
    """Else every convergence would find a difference."""
    tables = compiled(net.host_spec(1))
    for bridge in ("br-int", "br-tun", "br-eth1"):
        dump = dummy.run(
            "ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "--no-names", "dump-flows", bridge
        )
        there = parse_dump(dump)
        change = difference(tables[bridge], there, COOKIE, LEARNED)
        assert not change, change
        if bridge == "br-int":
            # Letter by letter: what differs in spelling alone costs time in every convergence.
            spelled = {found.flow for found in there}
            other = [flow for flow in tables[bridge] if flow not in spelled]
            assert all("vlan" in flow.actions for flow in other), other
