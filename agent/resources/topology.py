"""What a spec means for this host's switch: names of devices, what plugs in where. Pure.

Names are those that an OpenStack operator knows: ``tap`` and the first 11 characters of a port's
id, ``int-br-eth1`` and ``phy-br-eth1``, ``vxlan-`` and the remote address in hex.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Optional, Union

from agent.resources import texts
from agent.spec import BridgeMapping, HostSpec, Network, Port, Router, RouterPort, Subnet, Trunk

INTEGRATION = "br-int"
TUNNEL = "br-tun"
MARK = "stackctl-cloud"
"""The key in OVS external_ids that says which cloud an object belongs to."""

TRUNK_MARK = "stackctl-trunk"
"""The key that says of a patch port to which trunk's bridge it belongs."""

TUNNEL_TYPES = ("vxlan", "gre")
PHYSICAL_TYPES = ("vlan", "flat")
DEAD_VLAN = 4095
"""The tag of ports through which nothing may flow; no network has it."""

SEGMENTS = {
    "vxlan": range(1, 2**24),
    "gre": range(1, 2**32),
    "vlan": range(1, DEAD_VLAN),
    "flat": range(0),
}
"""The segmentation ids that each type of network can have."""

MIN_MTU, MAX_MTU = 576, 65535
"""Bytes; less than 576 and IPv4 hosts need not accept a packet (RFC 791)."""

MIN_IPV6_PREFIX = 64
"""dnsmasq gives no addresses out of anything larger."""

PATCH_TO_TUNNEL = "patch-tun"
PATCH_TO_INTEGRATION = "patch-int"
MAX_BRIDGE_NAME = 11
"""``int-`` and the bridge's name must fit into the kernel's 15 characters."""


@dataclass(frozen=True)
class Plug:
    """What plugs into br-int: a server's tap, or the internal port of a DHCP server or router.

    ``tag`` is the local VLAN, or DEAD_VLAN while the port or its network is down; ``netns`` the
    namespace in which an internal port ends up. ``trunk`` is the bridge of its trunk: the tap of
    the trunk's parent plugs in there, a subport is no device but the patch from there (``patch``).
    """

    id: str
    version: int
    device: str
    mac: str
    mtu: int
    tag: Optional[int]
    internal: bool
    server_id: str = ""
    netns: str = ""
    trunk: str = ""
    patch: bool = False

    @property
    def bridge(self) -> str:
        """The bridge that it plugs into."""
        return self.trunk if self.trunk and not self.patch else INTEGRATION

    @property
    def dead(self) -> bool:
        """Whether nothing may flow through it."""
        return self.tag == DEAD_VLAN


@dataclass(frozen=True)
class DhcpServer:
    """A subnet whose DHCP and DNS this host answers, for the ports that it has itself."""

    network: Network
    subnet: Subnet
    ports: tuple[Port, ...]

    @property
    def port_id(self) -> str:
        """The id of its port: the same on every host."""
        return self.subnet.dhcp.port_id if self.subnet.dhcp else ""

    @property
    def address(self) -> str:
        """Its address in the subnet: the same on every host."""
        return self.subnet.dhcp.address if self.subnet.dhcp else ""

    @property
    def mac(self) -> str:
        """Its Ethernet address: the same on every host."""
        return self.subnet.dhcp.mac if self.subnet.dhcp else ""

    @property
    def ipv6(self) -> bool:
        """Whether it serves an IPv6 subnet."""
        return ":" in self.subnet.cidr

    @property
    def version(self) -> int:
        """The IP version that it serves: 4 or 6."""
        return 6 if self.ipv6 else 4

    @property
    def device(self) -> str:
        """Its internal port on br-int."""
        return tap_name(self.port_id)

    @property
    def netns(self) -> str:
        """The namespace it runs in."""
        return dhcp_netns(self.subnet.id)


@dataclass(frozen=True)
class RouterEnd:
    """Where a router meets a network: one of its interfaces, or its gateway."""

    router: Router
    port: RouterPort
    gateway: bool

    @property
    def device(self) -> str:
        """Its internal port on br-int."""
        return gateway_name(self.port.id) if self.gateway else interface_name(self.port.id)

    @property
    def netns(self) -> str:
        """The namespace of its router."""
        return router_netns(self.router.id)


@dataclass(frozen=True)
class Leg:
    """A port of a trunk: patched through from the trunk's bridge, where it has the tag ``vlan``
    (0: none, it is the parent's), to br-int, where it is a port like any other."""

    bridge: str
    port_id: str
    vlan: int

    @property
    def inner(self) -> str:
        """Its end in br-int."""
        return ("spi-" if self.vlan else "tpi-") + self.port_id[:11]

    @property
    def outer(self) -> str:
        """Its end in the bridge of the trunk."""
        return ("spt-" if self.vlan else "tpt-") + self.port_id[:11]


def dhcp_netns(subnet_id: str) -> str:
    """The namespace of a subnet's DHCP server."""
    return "qdhcp-" + subnet_id


def tap_name(port_id: str) -> str:
    """The device of a port."""
    return "tap" + port_id[:11]


def interface_name(port_id: str) -> str:
    """The device of a router's interface."""
    return "qr-" + port_id[:11]


def gateway_name(port_id: str) -> str:
    """The device of a router's gateway."""
    return "qg-" + port_id[:11]


def router_netns(router_id: str) -> str:
    """The namespace of a router."""
    return "qrouter-" + router_id


def inner_patch(bridge: str) -> str:
    """The end in br-int of the pair that leads to a physical bridge."""
    return "int-" + bridge


def outer_patch(bridge: str) -> str:
    """The end in the physical bridge of the pair that leads to br-int."""
    return "phy-" + bridge


def trunk_bridge(trunk_id: str) -> str:
    """The bridge of a trunk: the guest's tap on one side, a patch for each port on the other."""
    return "tbr-" + trunk_id[:11]


def legs(trunk: Trunk) -> tuple[Leg, ...]:
    """The ports of a trunk, its parent first."""
    bridge = trunk_bridge(trunk.id)
    subports = (Leg(bridge, each.port_id, each.vlan) for each in trunk.subports)
    return (Leg(bridge, trunk.port_id, 0), *subports)


def trunk_problem(trunk: Trunk) -> str:
    """Why a trunk cannot be made; empty when it can."""
    name, vlans = f"trunk {trunk.id!r}", [each.vlan for each in trunk.subports]
    try:
        for id_ in (trunk.id, trunk.port_id, *(each.port_id for each in trunk.subports)):
            texts.uuid(id_)
    except texts.BadText as error:
        return f"{name}: {error}"
    for vlan in vlans:
        if vlan not in SEGMENTS["vlan"]:
            return f"{name} has a subport with VLAN {vlan}; 1 to 4094 exist"
        if vlans.count(vlan) > 1:
            return f"{name} has more than one subport with VLAN {vlan}"
    return ""


def tunnel_device(kind: str, remote: str) -> str:
    """The tunnel port to a remote IPv4 address: ``vxlan-c0a80105``."""
    return f"{kind}-{int(ipaddress.IPv4Address(remote)):08x}"


def mapping_for(spec: HostSpec, physical_network: Optional[str]) -> Optional[BridgeMapping]:
    """This host's mapping for a physical network, if it has one."""
    mappings = spec.settings.bridge_mappings
    return next((m for m in mappings if m.physical_network == physical_network), None)


def network_problem(spec: HostSpec, network: Network) -> str:
    """Why this host cannot carry a network; empty when it can."""
    name = f"network {network.id!r}"
    if network.type not in SEGMENTS:
        return f"{name} has the unknown type {network.type!r}"
    # A network with nobody elsewhere needs no tunnel: a cloud of one host has no underlay.
    elsewhere = bool(network.flood_to or network.remote_ports)
    if network.type in TUNNEL_TYPES and elsewhere and spec.settings.tunnel_address is None:
        return f"{name} is {network.type}, but this host has no tunnel address"
    if network.type in PHYSICAL_TYPES and mapping_for(spec, network.physical_network) is None:
        return f"this host has no bridge for physical network {network.physical_network!r}"
    if not 1 <= network.local_vlan < DEAD_VLAN:
        return f"{name} has local VLAN {network.local_vlan}; 1 to 4094 exist"
    if not MIN_MTU <= network.mtu <= MAX_MTU:
        return f"{name} has an MTU of {network.mtu}; {MIN_MTU} to {MAX_MTU} are possible"
    if network.type != "flat" and network.segmentation_id not in SEGMENTS[network.type]:
        last = SEGMENTS[network.type][-1]
        return f"{name} has segment {network.segmentation_id}; {network.type} has 1 to {last}"
    return _texts_problem(network)


def _texts_problem(network: Network) -> str:
    try:
        for subnet in network.subnets:
            if subnet.dhcp is not None:
                texts.mac(subnet.dhcp.mac)
                texts.ip(subnet.dhcp.address)
        for port in network.remote_ports:
            texts.mac(port.mac)
            texts.ipv4(port.tunnel_address)
            for address in port.addresses:
                texts.ip(address)
        for address in network.flood_to:
            texts.ipv4(address)
    except texts.BadText as error:
        return f"network {network.id!r}: {error}"
    return ""


class Topology:
    """A spec with its questions answered once: which networks and ports this host can carry."""

    def __init__(self, spec: HostSpec) -> None:
        self.spec = spec
        self.networks = {network.id: network for network in spec.networks}
        self.problems = {n.id: network_problem(spec, n) for n in spec.networks}
        self.servers = tuple(dhcp_servers(spec))
        self.router_ends = tuple(end for router in spec.routers for end in router_ends(router))
        self.legs = {leg.port_id: leg for trunk in spec.trunks for leg in legs(trunk)}
        self._trunk_problems = {
            trunk_bridge(trunk.id): trunk_problem(trunk) for trunk in spec.trunks
        }
        self._port_problems = {port.id: self._port_problem(port) for port in spec.ports}

    def device(self, port: Port) -> str:
        """By what a server's port is known in br-int: its tap, or the patch from its trunk."""
        leg = self.legs.get(port.id)
        return tap_name(port.id) if leg is None else leg.inner

    def port_problem(self, port: Port) -> str:
        """Why a port of the spec cannot be plugged in; empty when it can."""
        return self._port_problems[port.id]

    def _port_problem(self, port: Port) -> str:
        try:
            for group_id in port.security_groups:
                texts.token(group_id)
            for pair in port.allowed_pairs:
                texts.prefix(pair.cidr)
                if pair.mac is not None:
                    texts.mac(pair.mac)
        except texts.BadText as error:
            return f"port {port.id!r}: {error}"
        leg = self.legs.get(port.id)
        problem = "" if leg is None else self._trunk_problems[leg.bridge]
        return problem or self._plug_problem(port, port.server_id)

    def _plug_problem(self, port: Union[Port, RouterPort], owner_id: str) -> str:
        if port.network_id not in self.networks:
            return f"the spec does not hold network {port.network_id!r}"
        try:
            texts.uuid(port.id)
            texts.uuid(owner_id)
            texts.mac(port.mac)
            for fixed in port.addresses:
                texts.ip(fixed.address)
        except texts.BadText as error:
            return f"port {port.id!r}: {error}"
        return self.problems[port.network_id]

    def end_problem(self, end: RouterEnd) -> str:
        """Why an end of a router cannot be plugged in; empty when it can."""
        problem = self._plug_problem(end.port, end.router.id)
        if problem:
            return problem
        subnets = {s.id: s.cidr for s in self.networks[end.port.network_id].subnets}
        for fixed in end.port.addresses:
            if fixed.subnet_id not in subnets:
                return f"port {end.port.id!r}: its network has no subnet {fixed.subnet_id!r}"
            try:
                texts.network(subnets[fixed.subnet_id])
            except texts.BadText as error:
                return f"subnet {fixed.subnet_id!r}: {error}"
        return ""

    def dhcp_problem(self, server: DhcpServer) -> str:
        """Why a DHCP server cannot be plugged in; empty when it can."""
        try:
            texts.uuid(server.subnet.id)
            texts.uuid(server.port_id)
            cidr = texts.network(server.subnet.cidr)
            (texts.ipv6 if server.ipv6 else texts.ipv4)(server.address)
            if server.ipv6 and cidr.prefixlen < MIN_IPV6_PREFIX:
                raise texts.BadText(f"{cidr} is larger than a /{MIN_IPV6_PREFIX}")
        except texts.BadText as error:
            return f"subnet {server.subnet.id!r}: {error}"
        return self.problems[server.network.id]

    def live_networks(self, types: tuple[str, ...]) -> Iterator[Network]:
        """Networks of these types that are up and that this host can carry."""
        for network in self.spec.networks:
            if network.admin_up and network.type in types and not self.problems[network.id]:
                yield network


def tunnel_peers(topology: Topology) -> set[tuple[str, str]]:
    """(type, address) of every host that a tunnel network here may send to."""
    own = topology.spec.settings.tunnel_address
    return {
        (network.type, address)
        for network in topology.spec.networks
        if network.type in TUNNEL_TYPES and not topology.problems[network.id]
        for address in (*network.flood_to, *(p.tunnel_address for p in network.remote_ports))
        if address != own
    }


def dhcp_servers(spec: HostSpec) -> Iterator[DhcpServer]:
    """The subnets that need a DHCP server here: those that a port of this host lies on.

    A port is served by the subnet of its first IPv4 address (a NIC has one lease), and by every
    IPv6 subnet that it has an address in.
    """
    served: dict[str, list[Port]] = {}
    versions = {s.id: 6 if ":" in s.cidr else 4 for n in spec.networks for s in n.subnets}
    for port in spec.ports:
        held = [f.subnet_id for f in port.addresses if f.subnet_id in versions]
        v4 = [subnet_id for subnet_id in held if versions[subnet_id] == 4]
        v6 = [subnet_id for subnet_id in held if versions[subnet_id] == 6]
        for home in dict.fromkeys((*v4[:1], *v6)):
            served.setdefault(home, []).append(port)
    for network in spec.networks:
        for subnet in network.subnets:
            if subnet.dhcp is not None and subnet.id in served:
                yield DhcpServer(network, subnet, tuple(served[subnet.id]))


def router_ends(router: Router) -> Iterator[RouterEnd]:
    """All ends of a router, its gateway last."""
    for port in router.interfaces:
        yield RouterEnd(router, port, False)
    if router.gateway is not None:
        yield RouterEnd(router, router.gateway, True)


def guest_plug(port: Port, network: Optional[Network], leg: Optional[Leg] = None) -> Plug:
    """The tap of a server's port (dead when its network is not known), or its leg of a trunk."""
    live = network is not None and port.admin_up and network.admin_up
    plug = Plug(
        id=port.id,
        version=port.version,
        device=tap_name(port.id),
        mac=port.mac,
        mtu=network.mtu if network is not None else 0,
        tag=network.local_vlan if network is not None and live else DEAD_VLAN,
        internal=False,
        server_id=port.server_id,
    )
    if leg is None:
        return plug
    # What a trunk's bridge carries has the guest's tags, or none.
    if not leg.vlan:
        return replace(plug, tag=None, trunk=leg.bridge)
    return replace(plug, tag=None, trunk=leg.bridge, device=leg.inner, patch=True)


def dhcp_plug(server: DhcpServer) -> Plug:
    """The internal port of a DHCP server."""
    return Plug(
        id=server.port_id,
        version=server.subnet.version,
        device=server.device,
        mac=server.mac,
        mtu=server.network.mtu,
        tag=server.network.local_vlan if server.network.admin_up else DEAD_VLAN,
        internal=True,
        netns=server.netns,
    )


def router_plug(end: RouterEnd, network: Optional[Network]) -> Plug:
    """The internal port of a router's end (dead when its network is not known)."""
    live = network is not None and network.admin_up and end.port.admin_up and end.router.admin_up
    return Plug(
        id=end.port.id,
        version=end.port.version,
        device=end.device,
        mac=end.port.mac,
        mtu=network.mtu if network is not None else 0,
        tag=network.local_vlan if network is not None and live else DEAD_VLAN,
        internal=True,
        netns=end.netns,
    )
