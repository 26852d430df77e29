"""What the compilers of flow tables share: table numbers, and what is plugged in where. Pure.

Tables carry Neutron's numbers where Neutron has such a table, so that whoever can read an
OpenStack host can read this one. Four registers travel with a packet through br-int:

- 4: 1 when it must not leave by an uplink: it came from there, or from a DHCP server
- 5: the OpenFlow number of the port that it goes to (0: to several)
- 6: the local VLAN of its network; there are no tags inside the pipeline
- 7: the profile (set of security groups) whose rules are asked: the sender's, then the receiver's
"""

from __future__ import annotations

import functools
import hashlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

from agent.resources import texts, topology
from agent.resources.flow_text import LEARN_TABLE
from agent.resources.topology import DhcpServer, Topology
from agent.spec import BandwidthLimit, HostSpec, Network, Port

LOCAL_SWITCHING, CANARY, ARP_SPOOF, MAC_SPOOF, OWN_SOURCE = 0, 23, 24, 25, 26
TRANSIENT, DESTINATION, FLOOD_ALL, FLOOD_CHECKED = 60, 61, 65, 66
RULES_EGRESS, ACCEPT_EGRESS, BASE_INGRESS, RULES_INGRESS = 72, 73, 81, 82
TO_UPLINK, ACCEPT_INGRESS, UPLINK_OUT, MULTICAST_OUT, LOCAL_OUT = 91, 92, 94, 95, 96
PATCH_IN, FROM_GRE, FROM_VXLAN, LEARN, ARP_RESPONDER, FLOOD = 2, 3, 4, 10, 21, 22
UCAST = LEARN_TABLE

TAGGED = "vlan_tci=0x1000/0x1000"
MULTICAST = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
ZONE = "zone=NXM_NX_REG6[0..15]"
DHCP_REQUEST, DHCP_REPLY = "tp_src=68,tp_dst=67", "tp_src=67,tp_dst=68"
DHCP6_REQUEST, DHCP6_REPLY = "tp_src=546,tp_dst=547", "tp_src=547,tp_dst=546"
IP_VERSIONS = ("ip", "ipv6")

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT = range(133, 138)
MLD_QUERY, MLD_REPORT, MLD_DONE, MLD2_REPORT = 130, 131, 132, 143
NEIGHBOUR_TALK = (
    MLD_QUERY,
    MLD_REPORT,
    MLD_DONE,
    ROUTER_SOLICITATION,
    ROUTER_ADVERTISEMENT,
    SOLICITATION,
    ADVERTISEMENT,
    MLD2_REPORT,
)
"""The types of ICMPv6 without which IPv6 does not work on a link: no rule is asked for them."""

MAX_METER = 0xFFFF
"""The highest number of a meter that we use: two for each port, numbered like it."""

BURST_SHARE = 0.8
"""The burst of a limit without one, in seconds of its rate: what TCP needs to reach it."""


def cookie_of(cloud_id: str) -> int:
    """The cookie of a cloud's flows: 64 bits, odd."""
    return int(hashlib.sha256(cloud_id.encode()).hexdigest()[:16], 16) | 1


def learned_cookie_of(cloud_id: str) -> int:
    """The cookie of what br-tun learns by itself: even, so never the cloud's own."""
    return cookie_of(cloud_id) - 1 or 2


def numbered(names: Iterable[str]) -> dict[str, int]:
    """A 32-bit number for each name, made from the name alone unless two have the same one."""
    numbers: dict[str, int] = {}
    taken = {0}
    for name in sorted(set(names)):
        attempt, number = name, 0
        while number in taken:
            digest = hashlib.sha256(attempt.encode()).digest()
            number, attempt = int.from_bytes(digest[:4], "big"), attempt + "+"
        numbers[name] = number
        taken.add(number)
    return numbers


def profile_name(port: Port) -> str:
    """The set of security groups that a port is in, as one text."""
    return ",".join(sorted(set(port.security_groups)))


@dataclass(frozen=True)
class Plan:
    """What compiling needs: the topology, and OpenFlow numbers by device.

    ``own_bridges`` are those that stackctl made: only they get a default flow. Devices without
    a number are skipped, and so are ports and networks that this host cannot carry. Without
    ``metered`` the datapath has no meters, and no port is limited.
    """

    topology: Topology
    ofports: Mapping[str, int]
    own_bridges: frozenset[str]
    metered: bool = True

    @property
    def spec(self) -> HostSpec:
        """The spec behind it."""
        return self.topology.spec

    @functools.cached_property
    def profiles(self) -> dict[str, int]:
        """The number of each set of groups that a protected port of this host is in."""
        return numbered(profile_name(port) for port in self.spec.ports if port.port_security)

    @functools.cached_property
    def nets(self) -> tuple[Net, ...]:
        """The networks that this host carries, with what is plugged in."""
        types = (*topology.TUNNEL_TYPES, *topology.PHYSICAL_TYPES)
        nets = {n.id: Net(n, self._uplink(n)) for n in self.topology.live_networks(types)}
        for port in self.spec.ports:
            self._add_port(nets.get(port.network_id), port)
        for server in self.topology.servers:
            net, ofport = nets.get(server.network.id), self.ofports.get(server.device)
            if net is not None and ofport is not None and not self.topology.dhcp_problem(server):
                net.servers.append(Server(server, ofport))
        for end in self.topology.router_ends:
            net, ofport = nets.get(end.port.network_id), self.ofports.get(end.device)
            if net is None or ofport is None or self.topology.end_problem(end):
                continue
            if end.router.admin_up and end.port.admin_up:
                net.routers.append(RouterEnd(end.port.mac, ofport))
        return tuple(nets.values())

    def _uplink(self, network: Network) -> Optional[int]:
        if network.type in topology.TUNNEL_TYPES:
            return self.ofports.get(topology.PATCH_TO_TUNNEL)
        mapping = topology.mapping_for(self.spec, network.physical_network)
        return self.ofports.get(topology.inner_patch(mapping.bridge)) if mapping else None

    def _add_port(self, net: Optional[Net], port: Port) -> None:
        ofport = self.ofports.get(self.topology.device(port))
        if net is None or ofport is None or self.topology.port_problem(port):
            return
        if port.admin_up:
            port = port if self.metered else replace(port, limit=BandwidthLimit())
            profile = self.profiles[profile_name(port)] if port.port_security else 0
            net.taps.append(Tap(port, ofport, net.vlan, profile))
        else:
            net.down.append(port.mac)

    def physical_nets(self, physical_network: str) -> list[Net]:
        """The networks that use a physical network of this host."""
        return [net for net in self.nets if net.network.physical_network == physical_network]

    def tunnel_nets(self) -> list[Net]:
        """The networks that use tunnels."""
        return [net for net in self.nets if net.network.type in topology.TUNNEL_TYPES]


@dataclass(frozen=True)
class Tap:
    """A guest's port that is up: its number, local VLAN and profile (0: not protected)."""

    port: Port
    ofport: int
    vlan: int
    profile: int

    @property
    def protected(self) -> bool:
        """Whether its sender addresses are checked and groups are asked."""
        return self.profile != 0

    @property
    def macs(self) -> tuple[str, ...]:
        """The addresses that it sends from: its own first, then those of allowed pairs."""
        extra = [pair.mac for pair in self.port.allowed_pairs if pair.mac]
        return tuple(dict.fromkeys((self.port.mac, *extra)))

    @property
    def sources(self) -> tuple[tuple[str, Prefix], ...]:
        """(MAC, address or prefix) of everything that it may send from."""
        mac = self.port.mac
        pairs = [(pair.mac or mac, pair.cidr) for pair in self.port.allowed_pairs]
        fixed = [(mac, fixed.address) for fixed in self.port.addresses]
        own = [(mac, link_local(mac)), *fixed, *pairs]
        return tuple(dict.fromkeys((sender, prefix(cidr)) for sender, cidr in own))

    @property
    def egress_meter(self) -> str:
        """The action that limits what it sends; empty when nothing does."""
        return self._meter(self.port.limit.egress_kbps, 0)

    @property
    def ingress_meter(self) -> str:
        """The action that limits what it receives; empty when nothing does."""
        return self._meter(self.port.limit.ingress_kbps, 1)

    def _meter(self, rate: Optional[int], way: int) -> str:
        limited = rate is not None and 2 * self.ofport < MAX_METER
        return f"meter:{2 * self.ofport + way}," if limited else ""


@dataclass(frozen=True)
class Server:
    """A DHCP server of this host and its port's number."""

    server: DhcpServer
    ofport: int

    @property
    def mac(self) -> str:
        """Its Ethernet address."""
        return self.server.mac

    @property
    def ipv6(self) -> bool:
        """Whether it serves an IPv6 subnet."""
        return self.server.ipv6


@dataclass(frozen=True)
class RouterEnd:
    """An end of a router that is up."""

    mac: str
    ofport: int


class Net:
    """A network of this host and everything that is plugged in and up."""

    def __init__(self, network: Network, uplink: Optional[int]) -> None:
        self.network = network
        self.uplink = uplink
        self.taps: list[Tap] = []
        self.servers: list[Server] = []
        self.routers: list[RouterEnd] = []
        self.down: list[str] = []

    @property
    def vlan(self) -> int:
        """Its local VLAN."""
        return self.network.local_vlan

    @property
    def here(self) -> str:
        """What matches its packets."""
        return f"reg6={self.vlan:#x}"

    @property
    def open_taps(self) -> list[Tap]:
        """Its ports without port security."""
        return [tap for tap in self.taps if not tap.protected]


def outputs(ofports: Iterable[int]) -> list[str]:
    """The actions that send a copy to each of these ports."""
    return [f"output:{number}" for number in ofports]


def load(value: int, register: int) -> str:
    """The action that sets a register."""
    text = f"{value:#x}" if value else "0"
    return f"load:{text}->NXM_NX_REG{register}[]"


def link_local(mac: str) -> str:
    """The IPv6 address that a NIC gives itself (EUI-64)."""
    numbers = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([numbers[0] ^ 2]) + numbers[1:3] + b"\xff\xfe" + numbers[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + identifier)


class Prefix(NamedTuple):
    """An address or prefix as the switch prints it; ``text`` is empty when it is every address."""

    version: int
    text: str

    def match(self, v4_field: str, v6_field: str) -> str:
        """``,nw_src=192.168.1.0/24``, or nothing."""
        return f",{v4_field if self.version == 4 else v6_field}={self.text}" if self.text else ""

    @property
    def ip(self) -> str:
        """The word for its version: ``ip`` or ``ipv6``."""
        return "ip" if self.version == 4 else "ipv6"


def prefix(cidr: str) -> Prefix:
    """An address or prefix without its host bits; BadText when it is none."""
    network = texts.prefix(cidr)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    text = socket.inet_ntop(family, network.network_address.packed)
    if network.prefixlen < network.max_prefixlen:
        text = f"{text}/{network.prefixlen}" if network.prefixlen else ""
    return Prefix(network.version, text)


def limits(plan: Plan) -> dict[int, tuple[int, int]]:
    """The meters of br-int: id -> kilobits a second, and the burst in kilobits."""
    found = {}
    for net in plan.nets:
        for tap in net.taps:
            for way, (rate, burst) in enumerate(_rates(tap.port.limit)):
                if rate is not None and 2 * tap.ofport < MAX_METER:
                    found[2 * tap.ofport + way] = (rate, burst or max(1, int(rate * BURST_SHARE)))
    return found


def _rates(limit: BandwidthLimit) -> tuple[tuple[Optional[int], Optional[int]], ...]:
    return (
        (limit.egress_kbps, limit.egress_burst_kb),
        (limit.ingress_kbps, limit.ingress_burst_kb),
    )
