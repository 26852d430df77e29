"""Packets and their verdicts: what a host's flows let through, as data.

``honest and spoofed`` is asked of every protected port, with the port as ``me`` and another one
as ``peer``; the other tables are about security groups, DHCP servers, routers and the wire. Each
row says which devices a frame must reach, and no others may see it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.resources.flow_plan import link_local
from agent.spec import (
    AddressPair,
    FixedAddress,
    HostSpec,
    Members,
    Port,
    Router,
    RouterPort,
    SecurityGroup,
)
from tests import agent_networks as net
from tests.frames import (
    ACK,
    BROADCAST,
    QINQ,
    RARP,
    SYN_ACK,
    VLAN,
    arp,
    eth,
    icmp,
    multicast_mac,
    neighbour,
    packet,
    solicited,
    tcp,
    udp,
)

WEB, STRICT, RANGES = net.uid("grou", 2), net.uid("grou", 3), net.uid("grou", 4)
PAIR_MAC = "00:00:5e:00:01:e6"
BEYOND = "00:00:5e:00:00:01"
"""The MAC of whoever answers for the world, out on the wire."""


# --- the host -----------------------------------------------------------------------------------


def _port(number: int, name: str, *groups: str, **changes: object) -> Port:
    port = net.private_port(number, name, security_groups=groups, **changes)
    v6 = FixedAddress(net.uid("six", 1), net.ipv6_of(1, port.mac))
    return replace(port, addresses=(*port.addresses, v6))


HEAD = _port(2, "head", net.DEFAULT)
NODE = _port(4, "node", net.DEFAULT, WEB)
SHUT = _port(6, "shut")
STRICTLY = _port(7, "strict", STRICT)
OPEN = _port(8, "open", port_security=False)
VIP = _port(
    9,
    "vip",
    net.DEFAULT,
    RANGES,
    allowed_pairs=(AddressPair("192.168.1.240/28"), AddressPair("192.168.1.230", PAIR_MAC)),
)
OUTER = net.provider_port(2, "outer")
GUESTS = {"head": HEAD, "node": NODE, "shut": SHUT, "strict": STRICTLY, "open": OPEN, "vip": VIP}
ROUTER = RouterPort(
    net.uid("qr", 1),
    1,
    net.PRIVATE,
    net.mac(0x41),
    (FixedAddress(net.uid("subn", 1), "192.168.1.1"),),
)
EVERYBODY = frozenset([*GUESTS, "router", "dhcp4", "dhcp6"])
"""Everything that is plugged into the private network."""


def groups() -> tuple[SecurityGroup, ...]:
    """The default group, and three that allow less and more."""
    rule = net.rule
    v4, v6 = "IPv4", "IPv6"
    web = (
        rule(11, "ingress", v4, protocol=6, port_min=80, port_max=80),
        rule(12, "ingress", v4, protocol=6, port_min=8000, port_max=8010),
        rule(13, "ingress", v4, protocol=1, port_min=8, port_max=0, remote_cidr="192.168.1.0/24"),
        rule(14, "ingress", v6, protocol=6, port_min=80, port_max=80),
        rule(15, "ingress", v6, protocol=58, port_min=128),
        rule(16, "ingress", v4, protocol=50, remote_cidr="192.168.1.1/32"),
    )
    strict = (
        rule(21, "egress", v4, protocol=17, port_min=53, port_max=53, remote_cidr="192.168.1.4/32"),
        rule(22, "egress", v4, protocol=6, port_min=443, port_max=443, remote_group_id=net.DEFAULT),
        rule(23, "egress", v6, protocol=6, remote_cidr="fd00:1::/64"),
    )
    ranges = (
        rule(31, "ingress", v4, protocol=17, port_min=1, port_max=65535, remote_cidr="10.9.0.0/16"),
        rule(32, "ingress", v4, protocol=17, port_min=30000, port_max=32767),
        rule(33, "ingress", v6, remote_cidr="fd00:9::/32"),
    )
    return (
        net.default_group(),
        SecurityGroup(WEB, 1, web),
        SecurityGroup(STRICT, 1, strict),
        SecurityGroup(RANGES, 1, ranges),
    )


def spec() -> HostSpec:
    """Host 1 with two networks, seven guests and a router."""
    base = net.host_spec(1)
    outer, inner = base.networks
    inner = replace(inner, subnets=(*inner.subnets, net.ipv6_subnet(1, "slaac")))
    inner = replace(inner, remote_ports=(), flood_to=())
    inside = [HEAD, NODE, VIP]
    addresses = [f.address for port in inside for f in port.addresses]
    pairs = [pair.cidr for pair in VIP.allowed_pairs]
    members = (
        Members(net.DEFAULT, net.PRIVATE, tuple(addresses + pairs)),
        Members(net.DEFAULT, net.PROVIDER, ("10.1.0.2", "10.1.0.5")),
    )
    return replace(
        base,
        networks=(outer, inner),
        ports=(*GUESTS.values(), OUTER),
        routers=(Router(net.uid("rout", 1), 1, True, (ROUTER,)),),
        security_groups=groups(),
        members=members,
    )


# --- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A frame, who sends it, and whom it must reach.

    ``after`` names the row whose packet made the connection; ``state`` is what tracking says
    then, for those who only follow flows.
    """

    name: str
    sender: str
    frame: bytes
    reached: frozenset[str]
    after: str = ""
    state: str = "trk,new"


def v4(name: str) -> str:
    """The IPv4 address of a guest."""
    return GUESTS[name].addresses[0].address


def v6(name: str) -> str:
    """The IPv6 address of a guest."""
    return GUESTS[name].addresses[1].address


def mac(name: str) -> str:
    """The Ethernet address of a guest."""
    return GUESTS[name].mac


D4, D6 = net.mac(3), net.mac(0xF1)
DHCP4, DHCP6 = "192.168.1.3", "fd00:1::2"
ALL_NODES, ALL_ROUTERS, MLD, SERVERS = "ff02::1", "ff02::2", "ff02::16", "ff02::1:2"
NOBODY: frozenset[str] = frozenset()
_TALKERS = frozenset({"dhcp6", "router", "open"})


def honest_and_spoofed(me: str, peer: str) -> list[Row]:
    """What a protected port may send, and what it may not, whatever its rules."""
    mine, own4, own6, local = mac(me), v4(me), v6(me), link_local(mac(me))
    its, its4, its6 = mac(peer), v4(peer), v6(peer)
    there, back, everybody = (mine, its), (its, mine), (mine, BROADCAST)
    others = EVERYBODY - {me}
    to = frozenset({peer})
    like_all = frozenset({"head", "node", "vip", "open", "router"}) - {me}

    def many(address: str) -> tuple[str, str]:
        return mine, multicast_mac(address)

    port = iter(range(2000, 3000))

    def talk(ends: tuple[str, str], macs: tuple[str, str] = there, *tags: tuple[int, int]) -> bytes:
        return udp(macs, ends, (next(port), 5000), *tags)

    dhcp = ("0.0.0.0", "255.255.255.255")
    rows: list[tuple[str, bytes, frozenset[str]]] = [
        ("UDP from its own address", talk((own4, its4)), to),
        ("UDP from its own IPv6 address", talk((own6, its6)), to),
        ("from another MAC", talk((own4, its4), (net.mac(0x99), its)), NOBODY),
        ("from the peer's MAC", talk((own4, its4), back), NOBODY),
        ("from a router's MAC", talk((own4, its4), (ROUTER.mac, its)), NOBODY),
        ("from a free address", talk(("192.168.1.99", its4)), NOBODY),
        ("from the peer's address", talk((its4, own4)), NOBODY),
        ("from the gateway's address", talk(("192.168.1.1", its4)), NOBODY),
        ("from an address of the world", talk(("203.0.113.7", its4)), NOBODY),
        ("from 0.0.0.0, no DHCP", talk(("0.0.0.0", its4)), NOBODY),
        ("from the peer's IPv6 address", talk((its6, its6)), NOBODY),
        ("from a free IPv6 address", talk(("fd00:1::99", its6)), NOBODY),
        ("from :: , no neighbour talk", talk(("::", its6)), NOBODY),
        ("its own IPv6 address, another MAC", talk((own6, its6), (net.mac(0x99), its)), NOBODY),
        ("from another's link-local", talk((link_local(its), its6)), NOBODY),
        ("echo", icmp(there, (own4, its4), 8, number=7), to),
        ("spoofed echo", icmp(there, (its4, own4), 8, number=8), NOBODY),
        ("echo over IPv6", icmp(there, (own6, its6), 128, number=9), to),
        ("redirect", neighbour(there, (local, its6), 137, its6), NOBODY),
        ("IPv4 redirect", icmp(there, (its4, own4), 5, 1), NOBODY),
        ("VLAN tag", talk((own4, its4), there, (VLAN, 2)), NOBODY),
        ("priority tag", talk((own4, its4), there, (VLAN, 0x6000)), NOBODY),
        ("service tag", talk((own4, its4), there, (QINQ, 2)), NOBODY),
        ("two tags", talk((own4, its4), there, (QINQ, 101), (VLAN, 2)), NOBODY),
        ("tagged ARP", arp(mine, mine, own4, its4, tags=((VLAN, 2),)), NOBODY),
        ("another ethertype", eth(*there, 0x88CC, b"LLDP"), NOBODY),
        ("spanning tree", eth(mine, "01:80:c2:00:00:00", 0x88B5, b"x"), NOBODY),
        ("PPPoE discovery", eth(*everybody, 0x8863, b"PADI"), NOBODY),
        ("ARP request", arp(mine, mine, own4, "192.168.1.99"), others),
        ("gratuitous ARP", arp(mine, mine, own4, own4), others),
        ("ARP reply", arp(mine, mine, own4, its4, op=2, target=its), to),
        ("ARP probe", arp(mine, mine, "0.0.0.0", own4), others),
        ("ARP reply from nobody", arp(mine, mine, "0.0.0.0", its4, op=2, target=its), NOBODY),
        ("ARP as the peer", arp(mine, mine, its4, own4), NOBODY),
        ("ARP as the gateway", arp(mine, mine, "192.168.1.1", its4, op=2, target=its), NOBODY),
        ("ARP as the DHCP server", arp(mine, mine, DHCP4, its4, op=2, target=its), NOBODY),
        ("ARP with the peer's MAC inside", arp(mine, its, own4, its4), NOBODY),
        ("ARP with the peer's MAC outside", arp(its, mine, own4, its4), NOBODY),
        ("ARP for the DHCP server", arp(mine, mine, own4, DHCP4), frozenset({"dhcp4"})),
        ("own reverse ARP", arp(mine, mine, own4, own4, op=3, kind=RARP), others),
        ("another's reverse ARP", arp(its, its, its4, its4, op=3, kind=RARP), NOBODY),
        ("reverse ARP with another inside", arp(mine, its, own4, own4, op=3, kind=RARP), NOBODY),
        ("DHCP discover", udp(everybody, dhcp, (68, 67)), frozenset({"dhcp4"})),
        ("DHCP renewal", udp((mine, D4), (own4, DHCP4), (68, 67)), frozenset({"dhcp4"})),
        ("DHCP from another MAC", udp((its, BROADCAST), dhcp, (68, 67)), NOBODY),
        ("DHCP from another address", udp((mine, D4), (its4, DHCP4), (68, 67)), NOBODY),
        ("DHCP reply", udp(everybody, (own4, "255.255.255.255"), (67, 68)), NOBODY),
        ("DHCP reply to the peer", udp(there, (own4, its4), (67, 68)), NOBODY),
        ("DHCP reply as the server", udp(there, (DHCP4, its4), (67, 68)), NOBODY),
        ("DHCPv6 solicit", udp(many(SERVERS), (local, SERVERS), (546, 547)), frozenset({"dhcp6"})),
        ("DHCPv6 from another address", udp(many(SERVERS), (its6, SERVERS), (546, 547)), NOBODY),
        ("DHCPv6 reply", udp(there, (local, link_local(its)), (547, 546)), NOBODY),
        ("DNS", udp((mine, D4), (own4, DHCP4), (next(port), 53)), frozenset({"dhcp4"})),
        ("DNS over IPv6", udp((mine, D6), (own6, DHCP6), (next(port), 53)), frozenset({"dhcp6"})),
        ("metadata", tcp((mine, ROUTER.mac), (own4, "169.254.169.254"), (next(port), 80)), NOBODY),
        ("metadata over IPv6", tcp(there, (own6, "fe80::a9fe:a9fe"), (next(port), 80)), NOBODY),
        ("router solicitation", neighbour(many(ALL_ROUTERS), (local, ALL_ROUTERS), 133), _TALKERS),
        ("router solicitation from ::", neighbour(many(ALL_ROUTERS), ("::", ALL_ROUTERS), 133),
         _TALKERS),
        ("router advertisement", neighbour(many(ALL_NODES), (local, ALL_NODES), 134), NOBODY),
        ("router advertisement to one", neighbour(there, (local, its6), 134), NOBODY),
        ("looking for a neighbour",
         neighbour(many(solicited("fd00:1::99")), (own6, solicited("fd00:1::99")), 135,
                   "fd00:1::99", mine), others),
        ("looking for the server",
         neighbour(many(solicited(DHCP6)), (own6, solicited(DHCP6)), 135, DHCP6, mine),
         frozenset({"dhcp6"})),
        ("is my address taken",
         neighbour(many(solicited(own6)), ("::", solicited(own6)), 135, own6), others),
        ("looking as the peer",
         neighbour(many(solicited(own6)), (its6, solicited(own6)), 135, own6, mine), NOBODY),
        ("here I am", neighbour(there, (own6, its6), 136, own6, mine), to),
        ("here is my link-local", neighbour(many(ALL_NODES), (local, ALL_NODES), 136, local, mine),
         others),
        ("here am I, the peer", neighbour(there, (own6, its6), 136, its6, mine), NOBODY),
        ("here I am, at another's MAC", neighbour(there, (own6, its6), 136, own6, its), NOBODY),
        ("here I am, at no MAC", neighbour(there, (own6, its6), 136, own6), NOBODY),
        ("the server's address is mine",
         neighbour(many(ALL_NODES), (own6, ALL_NODES), 136, DHCP6, mine), NOBODY),
        ("here I am from ::", neighbour(there, ("::", its6), 136, own6, mine), NOBODY),
        ("multicast report", neighbour(many(MLD), ("::", MLD), 143), others),
        ("multicast report from its own", neighbour(many(MLD), (local, MLD), 143), others),
        ("multicast query", neighbour(many(ALL_NODES), (local, ALL_NODES), 130), NOBODY),
        ("IPv4 multicast",
         udp((mine, "01:00:5e:00:00:fb"), (own4, "224.0.0.251"), (next(port), 5353)), like_all),
        ("IPv6 multicast", udp(many("ff02::fb"), (own6, "ff02::fb"), (next(port), 5353)), like_all),
        ("subnet broadcast", udp(everybody, (own4, "192.168.1.255"), (next(port), 137)), like_all),
        ("spoofed multicast",
         udp((mine, "01:00:5e:00:00:fb"), (its4, "224.0.0.251"), (next(port), 5353)), NOBODY),
        ("to the router", talk((own4, "203.0.113.80"), (mine, ROUTER.mac)), frozenset({"router"})),
        ("to a MAC of nobody", talk((own4, its4), (mine, net.mac(0x98))), frozenset({"open"})),
        ("to the open port", talk((own4, v4("open")), (mine, mac("open"))), frozenset({"open"})),
        ("to a port without rules", talk((own4, v4("shut")), (mine, mac("shut"))), NOBODY),
    ]  # fmt: skip
    return [Row(f"{me}: {name}", me, frame, reached) for name, frame, reached in rows]


def by_rules() -> list[Row]:
    """What security groups allow, from guest to guest and from beside."""

    def way(source: str, target: str) -> tuple[tuple[str, str], tuple[str, str]]:
        return (mac(source), mac(target)), (v4(source), v4(target))

    def way6(source: str, target: str) -> tuple[tuple[str, str], tuple[str, str]]:
        return (mac(source), mac(target)), (v6(source), v6(target))

    def from_router(
        target: str, source: str = "203.0.113.7"
    ) -> tuple[tuple[str, str], tuple[str, str]]:
        return (ROUTER.mac, mac(target)), (source, v4(target))

    beside = (ROUTER.mac, mac("node")), ("fd00:7::1", v6("node"))
    to_vip = (ROUTER.mac, mac("vip"))
    rows = [
        ("members may talk", "head", tcp(*way("head", "node"), (4001, 22)), "node"),
        ("members may talk over IPv6", "head", tcp(*way6("head", "node"), (4002, 22)), "node"),
        ("one that is no member", "open", tcp(*way("open", "head"), (4003, 22)), ""),
        ("the world to an open service", "router", tcp(*from_router("node"), (4004, 80)), "node"),
        ("the world to another port", "router", tcp(*from_router("node"), (4005, 81)), ""),
        ("the world below a range", "router", tcp(*from_router("node"), (4006, 7999)), ""),
        ("the world at a range's start", "router", tcp(*from_router("node"), (4007, 8000)), "node"),
        ("the world inside a range", "router", tcp(*from_router("node"), (4008, 8007)), "node"),
        ("the world at a range's end", "router", tcp(*from_router("node"), (4009, 8010)), "node"),
        ("the world above a range", "router", tcp(*from_router("node"), (4010, 8011)), ""),
        ("UDP where TCP is allowed", "router", udp(*from_router("node"), (4011, 80)), ""),
        ("the world to a member", "router", tcp(*from_router("head"), (4012, 80)), ""),
        ("IPv6 to an open service", "router", tcp(*beside, (4013, 80)), "node"),
        ("IPv6 to another port", "router", tcp(*beside, (4014, 8001)), ""),
        ("IPv6 echo", "router", icmp(*beside, 128, number=41), "node"),
        ("IPv6 echo reply unasked", "router", icmp(*beside, 129, number=42), ""),
        ("echo from the prefix", "open", icmp(*way("open", "node"), 8, number=43), "node"),
        ("echo from elsewhere", "router", icmp(*from_router("node"), 8, number=44), ""),
        ("timestamp from the prefix", "open", icmp(*way("open", "node"), 13, number=45), ""),
        ("another protocol, allowed", "router",
         packet(*from_router("node", "192.168.1.1"), 50, b"ESP....."), "node"),
        ("another protocol, from elsewhere", "router",
         packet(*from_router("node"), 50, b"ESP....."), ""),
        ("another protocol", "router",
         packet(*from_router("node", "192.168.1.1"), 51, b"AH..."), ""),
        ("nothing out without rules", "shut", tcp(*way("shut", "node"), (4020, 80)), ""),
        ("not even DNS", "shut", udp((mac("shut"), D4), (v4("shut"), DHCP4), (4021, 53)), ""),
        ("ARP without rules", "shut",
         arp(mac("shut"), mac("shut"), v4("shut"), v4("node"), op=2, target=mac("node")), "node"),
        ("DHCP without rules", "shut",
         udp((mac("shut"), BROADCAST), ("0.0.0.0", "255.255.255.255"), (68, 67)), "dhcp4"),
        ("a spoof without rules", "shut",
         arp(mac("shut"), mac("shut"), v4("head"), v4("node"), op=2, target=mac("node")), ""),
        ("strict: to its one server", "strict", udp(*way("strict", "node"), (4030, 53)), ""),
        ("strict: to another", "strict", udp(*way("strict", "open"), (4031, 53)), ""),
        ("strict: to the open port's web", "strict", tcp(*way("strict", "open"), (4032, 443)), ""),
        ("strict: to a member's web", "strict", tcp(*way("strict", "node"), (4033, 443)), ""),
        ("strict: to a member's open web", "strict", tcp(*way("strict", "node"), (4034, 80)), ""),
        ("strict: IPv6 to the prefix", "strict", tcp(*way6("strict", "open"), (4035, 22)), "open"),
        ("strict: IPv6 to a service", "strict", tcp(*way6("strict", "node"), (4036, 80)), "node"),
        ("strict: IPv6 beyond", "strict",
         tcp((mac("strict"), mac("open")), (v6("strict"), "2001:db8::1"), (4037, 22)), ""),
        ("the DHCP server's host knocks", "dhcp4",
         tcp((D4, mac("shut")), (DHCP4, v4("shut")), (4040, 22)), "shut"),
        ("so it does over IPv6", "dhcp6",
         tcp((D6, mac("shut")), (DHCP6, v6("shut")), (4041, 22)), "shut"),
        ("with another MAC it does not", "dhcp4",
         tcp((net.mac(0x99), mac("shut")), (DHCP4, v4("shut")), (4042, 22)), ""),
        ("a DHCP offer", "dhcp4", udp((D4, mac("shut")), (DHCP4, v4("shut")), (67, 68)), "shut"),
        ("the server looks for a guest", "dhcp4", arp(D4, D4, DHCP4, v4("node")),
         "head node shut strict open vip router"),
        ("the server advertises a prefix", "dhcp6",
         neighbour((D6, multicast_mac(ALL_NODES)), (link_local(D6), ALL_NODES), 134),
         "head node shut strict open vip router"),
        ("a router advertises itself", "router",
         neighbour((ROUTER.mac, multicast_mac(ALL_NODES)),
                   (link_local(ROUTER.mac), ALL_NODES), 134),
         "head node shut strict open vip dhcp4 dhcp6"),
        ("somebody speaks as the server", "open",
         udp((mac("open"), mac("node")), (DHCP4, v4("node")), (4050, 5000)), ""),
        ("somebody advertises the server", "open",
         neighbour((mac("open"), mac("node")), (v6("open"), v6("node")), 136, DHCP6, mac("open")),
         ""),
        ("an open port as a DHCP server", "open",
         udp((mac("open"), mac("node")), (v4("open"), v4("node")), (67, 68)), ""),
        ("an open port with a foreign address", "open",
         udp((net.mac(0x97), mac("vip")), ("203.0.113.9", v4("vip")), (4051, 30001)), "vip"),
        ("a tag from an open port", "open",
         udp(*way("open", "vip"), (4052, 30001), (VLAN, 2)), ""),
        ("an allowed pair's prefix", "vip",
         tcp((mac("vip"), mac("node")), ("192.168.1.245", v4("node")), (4060, 22)), "node"),
        ("beside the pair's prefix", "vip",
         tcp((mac("vip"), mac("node")), ("192.168.1.239", v4("node")), (4061, 22)), ""),
        ("a pair with its MAC", "vip",
         tcp((PAIR_MAC, mac("node")), ("192.168.1.230", v4("node")), (4062, 22)), "node"),
        ("a pair with the port's MAC", "vip",
         tcp((mac("vip"), mac("node")), ("192.168.1.230", v4("node")), (4063, 22)), ""),
        ("the port with the pair's MAC", "vip",
         tcp((PAIR_MAC, mac("node")), (v4("vip"), v4("node")), (4064, 22)), ""),
        ("ARP for a pair", "vip",
         arp(mac("vip"), mac("vip"), "192.168.1.241", v4("node"), op=2, target=mac("node")),
         "node"),
        ("ARP for a pair with its MAC", "vip",
         arp(PAIR_MAC, PAIR_MAC, "192.168.1.230", v4("node"), op=2, target=mac("node")), "node"),
        ("ARP beside a pair", "vip",
         arp(mac("vip"), mac("vip"), "192.168.1.230", v4("node"), op=2, target=mac("node")), ""),
        ("to a pair's MAC", "head",
         tcp((mac("head"), PAIR_MAC), (v4("head"), "192.168.1.230"), (4065, 22)), "vip"),
        ("a prefix and any port", "router",
         udp(to_vip, ("10.9.3.3", v4("vip")), (4070, 9)), "vip"),
        ("beside the prefix", "router", udp(to_vip, ("10.8.3.3", v4("vip")), (4071, 9)), ""),
        ("any prefix in a range", "router",
         udp(to_vip, ("10.8.3.3", v4("vip")), (4072, 32767)), "vip"),
        ("any prefix beyond a range", "router",
         udp(to_vip, ("10.8.3.3", v4("vip")), (4073, 32768)), ""),
        ("an IPv6 prefix", "router", udp(to_vip, ("fd00:9::5", v6("vip")), (4074, 9)), "vip"),
        ("beside an IPv6 prefix", "router", udp(to_vip, ("fd01:9::5", v6("vip")), (4075, 9)), ""),
        ("from a pair's prefix, a member", "vip",
         udp((mac("vip"), mac("head")), ("192.168.1.250", v4("head")), (4076, 9)), "head"),
    ]  # fmt: skip
    return [
        Row(f"rules: {name}", sender, frame, frozenset(reached.split()))
        for name, sender, frame, reached in rows
    ]


def replies() -> list[Row]:
    """Second packets of connections that rows before have made, and some that nobody made."""

    def back(source: str, target: str, ports: tuple[int, int], **more: object) -> bytes:
        macs, ends = (mac(source), mac(target)), (v4(source), v4(target))
        return tcp(macs, ends, ports, flags=SYN_ACK, seq=(9, 2), **more)  # type: ignore[arg-type]

    to_world = (mac("node"), ROUTER.mac)
    established = "trk,est,rpl"
    return [
        Row("replies: to the world", "node",
            tcp(to_world, (v4("node"), "203.0.113.7"), (80, 4004), flags=SYN_ACK, seq=(9, 2)),
            frozenset({"router"}), "rules: the world to an open service", established),
        Row("replies: to a member", "node", back("node", "head", (22, 4001)),
            frozenset({"head"}), "rules: members may talk", established),
        Row("replies: an answer without a question", "open", back("open", "head", (22, 4999)),
            NOBODY, "", "trk,inv"),
        Row("replies: to the host's knock", "shut",
            tcp((mac("shut"), D4), (v4("shut"), DHCP4), (22, 4040), flags=SYN_ACK, seq=(9, 2)),
            frozenset({"dhcp4"}), "rules: the DHCP server's host knocks", established),
        Row("replies: of a strict one's IPv6", "open",
            tcp((mac("open"), mac("strict")), (v6("open"), v6("strict")), (22, 4035),
                flags=SYN_ACK, seq=(9, 2)),
            frozenset({"strict"}), "rules: strict: IPv6 to the prefix", established),
        Row("replies: an echo's answer", "node",
            icmp((mac("node"), mac("open")), (v4("node"), v4("open")), 0, number=43),
            frozenset({"open"}), "rules: echo from the prefix", established),
        Row("replies: spoofed", "node",
            tcp(to_world, (v4("head"), "203.0.113.7"), (80, 4004), flags=ACK, seq=(9, 2)),
            NOBODY, "", established),
    ]  # fmt: skip


def on_the_wire() -> list[Row]:
    """The provider network: VLAN 101 on the wire, and nothing else."""
    macs, inward = (OUTER.mac, BEYOND), (BEYOND, OUTER.mac)
    own, office, world = "10.1.0.2", "10.1.0.5", "10.1.0.1"
    vlan, server = (VLAN, 101), net.mac(0x13)
    rows = [
        ("out", "outer", udp(macs, (own, world), (5001, 53)), "wire"),
        ("out, spoofed", "outer", udp(macs, (office, world), (5002, 53)), ""),
        ("a member comes in", "wire", udp(inward, (office, own), (5003, 9), vlan), "outer"),
        ("a stranger comes in", "wire", udp(inward, (world, own), (5004, 9), vlan), ""),
        ("in by another VLAN", "wire", udp(inward, (office, own), (5005, 9), (VLAN, 102)), ""),
        ("in by the local VLAN's number", "wire",
         udp(inward, (office, own), (5006, 9), (VLAN, 1)), ""),
        ("in without a tag", "wire", udp(inward, (office, own), (5007, 9)), ""),
        ("in with a second tag", "wire",
         udp(inward, (office, own), (5008, 9), vlan, (VLAN, 2)), ""),
        ("into the private network by a second tag", "wire",
         udp((BEYOND, mac("vip")), ("10.9.1.1", v4("vip")), (5009, 9), vlan, (VLAN, 2)), ""),
        ("in as the DHCP server", "wire",
         udp((server, OUTER.mac), ("10.1.0.3", own), (5010, 9), vlan), ""),
        ("in with its address", "wire", udp(inward, ("10.1.0.3", own), (5011, 9), vlan), ""),
        ("a DHCP reply comes in", "wire", udp(inward, (office, own), (67, 68), vlan), ""),
        ("ARP comes in", "wire", arp(BEYOND, BEYOND, world, own, tags=(vlan,)), "outer"),
        ("ARP as the DHCP server", "wire", arp(BEYOND, BEYOND, "10.1.0.3", own, tags=(vlan,)), ""),
        ("ARP for the DHCP server", "wire",
         arp(BEYOND, BEYOND, world, "10.1.0.3", tags=(vlan,)), ""),
        ("ARP goes out", "outer", arp(OUTER.mac, OUTER.mac, own, world), "wire dhcp2"),
        ("a router of the wire advertises itself", "wire",
         neighbour((BEYOND, multicast_mac(ALL_NODES)), (link_local(BEYOND), ALL_NODES), 134,
                   "::", "", vlan), "outer"),
        ("spanning tree of the wire", "wire",
         eth(BEYOND, "01:80:c2:00:00:00", 0x88B5, b"x", vlan), ""),
    ]  # fmt: skip
    return [
        Row(f"wire: {name}", sender, frame, frozenset(reached.split()))
        for name, sender, frame, reached in rows
    ]


TABLE = [
    *honest_and_spoofed("head", "node"),
    *honest_and_spoofed("node", "head"),
    *honest_and_spoofed("vip", "node"),
    *by_rules(),
    *replies(),
    *on_the_wire(),
]
assert len({row.name for row in TABLE}) == len(TABLE)
