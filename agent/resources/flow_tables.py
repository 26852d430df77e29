"""Compile a spec into flow tables for br-int, br-tun and the physical bridges. Pure.

Tables carry Neutron's numbers, so that whoever can read an OpenStack host can read this one.
Every table of br-int ends in a drop: a port without flows carries nothing. Register 6 holds the
local VLAN of a frame that came from an access port (its tag exists only outside the pipeline).

The DHCP and DNS server of a subnet has the same address on every host, so its frames never
leave: they are dropped where a host meets its tunnels and physical bridges, in both directions.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.resources import topology
from agent.resources.flow_text import LEARN_TABLE, Flow
from agent.resources.topology import DhcpServer, Topology
from agent.spec import BridgeMapping, HostSpec, Network, Port

LOCAL_SWITCHING, CANARY, ARP_SPOOF, MAC_SPOOF, TRANSIENT = 0, 23, 24, 25, 60
PATCH_IN, FROM_GRE, FROM_VXLAN, LEARN, ARP_RESPONDER, FLOOD = 2, 3, 4, 10, 21, 22
UCAST = LEARN_TABLE

LEARNED_SECONDS = 300
LEARNED_PRIORITY = 2
"""Above what the controller knows: a guest that moved is where its last frame came from."""

BROADCAST = "ff:ff:ff:ff:ff:ff"
DHCP_REQUEST = "tp_src=68,tp_dst=67"
DHCP_REPLY = "tp_src=67,tp_dst=68"


def cookie_of(cloud_id: str) -> int:
    """The cookie of a cloud's flows: 64 bits, odd."""
    return int(hashlib.sha256(cloud_id.encode()).hexdigest()[:16], 16) | 1


def learned_cookie_of(cloud_id: str) -> int:
    """The cookie of what br-tun learns by itself: even, so never the cloud's own."""
    return cookie_of(cloud_id) - 1 or 2


@dataclass(frozen=True)
class Plan:
    """What compiling needs: the topology, and OpenFlow numbers by device.

    ``own_bridges`` are those that stackctl made: only they get a default flow. Devices without
    a number are skipped, and so are ports and networks that this host cannot carry.
    """

    topology: Topology
    ofports: Mapping[str, int]
    own_bridges: frozenset[str]

    @property
    def spec(self) -> HostSpec:
        """The spec behind it."""
        return self.topology.spec

    def dhcp_servers(self, network: Network) -> list[DhcpServer]:
        """The DHCP servers of a network that answer on this host."""
        return [
            server
            for server in self.topology.servers
            if server.network.id == network.id and server.device in self.ofports
            if not self.topology.dhcp_problem(server)
        ]


def compile_flows(plan: Plan) -> dict[str, list[Flow]]:
    """All flows of this host, by bridge; bridges in the order in which to install them.

    Physical bridges come first and br-int last: what keeps local VLANs off the wire is there
    before anything can flow.
    """
    tables: dict[str, list[Flow]] = {}
    for mapping in plan.spec.settings.bridge_mappings:
        tables.setdefault(mapping.bridge, []).extend(_physical(plan, mapping))
    if plan.spec.settings.tunnel_address is not None:
        tables[topology.TUNNEL] = list(_tunnel(plan))
    tables[topology.INTEGRATION] = list(_integration(plan))
    return tables


def outer_drop(ofport: int) -> Flow:
    """What keeps everything from br-int off a physical bridge unless a network allows it."""
    return Flow(LOCAL_SWITCHING, 2, f"in_port={ofport}", "drop")


# --- physical bridges ---------------------------------------------------------------------------


def _physical(plan: Plan, mapping: BridgeMapping) -> Iterator[Flow]:
    """br-eth1: ``dl_vlan=1`` leaves as ``mod_vlan_vid:101``; nothing else gets out."""
    if mapping.bridge in plan.own_bridges:
        yield Flow(LOCAL_SWITCHING, 0, "", "NORMAL")
    patch = plan.ofports.get(topology.outer_patch(mapping.bridge))
    if patch is None:
        return
    yield outer_drop(patch)
    for network in plan.topology.live_networks(topology.PHYSICAL_TYPES):
        if network.physical_network == mapping.physical_network:
            local = f"in_port={patch},dl_vlan={network.local_vlan}"
            yield from _dhcp_stays(network, LOCAL_SWITCHING, 5, local)
            if network.type == "vlan":
                change = f"mod_vlan_vid:{network.segmentation_id},NORMAL"
            else:
                change = "strip_vlan,NORMAL"
            yield Flow(LOCAL_SWITCHING, 4, local, change)


def _dhcp_stays(network: Network, table: int, priority: int, where: str) -> Iterator[Flow]:
    """Drop every frame from or to a DHCP server of the network, and replies of any other."""
    servers = [subnet.dhcp for subnet in network.subnets if subnet.dhcp is not None]
    for server in servers:
        yield Flow(table, priority, f"{where},dl_src={server.mac}", "drop")
        yield Flow(table, priority, f"{where},dl_dst={server.mac}", "drop")
        if ":" not in server.address:
            for way in ("spa", "tpa"):
                yield Flow(table, priority, f"arp,{where},arp_{way}={server.address}", "drop")
            for way in ("src", "dst"):
                yield Flow(table, priority, f"ip,{where},nw_{way}={server.address}", "drop")
    if servers:
        yield Flow(table, priority, f"udp,{where},{DHCP_REPLY}", "drop")


# --- br-int -------------------------------------------------------------------------------------


def _integration(plan: Plan) -> Iterator[Flow]:
    yield Flow(LOCAL_SWITCHING, 65535, f"dl_vlan={topology.DEAD_VLAN}", "drop")
    yield Flow(LOCAL_SWITCHING, 0, "", "drop")
    yield Flow(CANARY, 0, "", "drop")
    yield Flow(ARP_SPOOF, 0, "", "drop")
    yield Flow(MAC_SPOOF, 20, f"udp,{DHCP_REPLY}", "drop")
    yield Flow(MAC_SPOOF, 0, "", "drop")
    yield Flow(TRANSIENT, 1, "", "NORMAL")
    yield from _from_physical(plan)
    yield from _from_tunnels(plan)
    yield from _from_ports(plan)
    for network in plan.topology.live_networks((*topology.TUNNEL_TYPES, *topology.PHYSICAL_TYPES)):
        yield from _local_dhcp(network, plan.dhcp_servers(network), plan.ofports)


def _from_physical(plan: Plan) -> Iterator[Flow]:
    """br-eth1 to br-int: ``dl_vlan=101`` comes in as ``mod_vlan_vid:1``."""
    for mapping in plan.spec.settings.bridge_mappings:
        patch = plan.ofports.get(topology.inner_patch(mapping.bridge))
        if patch is None:
            continue
        yield Flow(LOCAL_SWITCHING, 2, f"in_port={patch}", "drop")
        for network in plan.topology.live_networks(topology.PHYSICAL_TYPES):
            if network.physical_network == mapping.physical_network:
                yield from _from_provider(network, patch)


def _from_provider(network: Network, patch: int) -> Iterator[Flow]:
    tag = f"mod_vlan_vid:{network.local_vlan},goto_table:{TRANSIENT}"
    if network.type == "vlan":
        where = f"in_port={patch},dl_vlan={network.segmentation_id}"
    else:
        where = f"in_port={patch},vlan_tci=0x0000/0x1fff"
        tag = f"push_vlan:0x8100,{tag}"
    yield from _dhcp_stays(network, LOCAL_SWITCHING, 5, where)
    yield Flow(LOCAL_SWITCHING, 3, where, tag)


def _from_tunnels(plan: Plan) -> Iterator[Flow]:
    patch = plan.ofports.get(topology.PATCH_TO_TUNNEL)
    if patch is None:
        return
    for network in plan.topology.live_networks(topology.TUNNEL_TYPES):
        where = f"in_port={patch},dl_vlan={network.local_vlan}"
        yield Flow(LOCAL_SWITCHING, 3, where, f"goto_table:{TRANSIENT}")


def _from_ports(plan: Plan) -> Iterator[Flow]:
    for port in plan.spec.ports:
        ofport = plan.ofports.get(topology.tap_name(port.id))
        if ofport is None or plan.topology.port_problem(port):
            continue
        network = plan.topology.networks[port.network_id]
        if port.admin_up and network.admin_up:
            yield from _from_port(port, network, ofport)


def _from_port(port: Port, network: Network, ofport: int) -> Iterator[Flow]:
    """Frames of a guest: its own addresses only, unless port security is off."""
    here = f"in_port={ofport}"
    enter = f"load:{network.local_vlan:#x}->NXM_NX_REG6[],goto_table:"
    yield Flow(LOCAL_SWITCHING, 12, f"{here},vlan_tci=0x1000/0x1000", "drop")
    if not port.port_security:
        yield Flow(LOCAL_SWITCHING, 9, here, f"{enter}{TRANSIENT}")
        return
    yield Flow(LOCAL_SWITCHING, 10, f"arp,{here}", f"{enter}{ARP_SPOOF}")
    yield Flow(LOCAL_SWITCHING, 9, here, f"{enter}{MAC_SPOOF}")
    addresses = [fixed.address for fixed in port.addresses if ":" not in fixed.address]
    yield from _own_addresses(here, port.mac, addresses)


def _own_addresses(here: str, mac: str, addresses: Iterable[str]) -> Iterator[Flow]:
    own = f"{here},dl_src={mac}"
    onward, pass_on = f"goto_table:{MAC_SPOOF}", f"goto_table:{TRANSIENT}"
    # An address probe (RFC 5227) names no sender yet.
    yield Flow(ARP_SPOOF, 2, f"arp,{own},arp_spa=0.0.0.0,arp_op=1,arp_sha={mac}", onward)
    for address in addresses:
        yield Flow(ARP_SPOOF, 2, f"arp,{own},arp_spa={address},arp_sha={mac}", onward)
        yield Flow(MAC_SPOOF, 5, f"ip,{own},nw_src={address}", pass_on)
    yield Flow(MAC_SPOOF, 5, f"arp,{own}", pass_on)
    # QEMU announces a guest that has just moved with reverse ARP.
    yield Flow(MAC_SPOOF, 5, f"rarp,{own},arp_sha={mac}", pass_on)
    yield Flow(MAC_SPOOF, 5, f"udp,{own},nw_src=0.0.0.0,{DHCP_REQUEST}", pass_on)


def _local_dhcp(
    network: Network, servers: list[DhcpServer], ofports: Mapping[str, int]
) -> Iterator[Flow]:
    """Between this host's guests and this host's DHCP servers; nobody else may be one."""
    if not servers:
        return
    vlan = f"reg6={network.local_vlan:#x}"
    outputs = ",".join(f"output:{ofports[each.device]}" for each in servers if not each.ipv6)
    if outputs:
        yield Flow(TRANSIENT, 20, f"udp,{vlan},{DHCP_REQUEST}", outputs)
    yield Flow(TRANSIENT, 15, f"udp,{vlan},{DHCP_REPLY}", "drop")
    for server in servers:
        yield from _dhcp_server(server, vlan, ofports[server.device], network.local_vlan)


def _dhcp_server(server: DhcpServer, vlan: str, ofport: int, local_vlan: int) -> Iterator[Flow]:
    here, address, to_server = f"in_port={ofport}", server.address, f"output:{ofport}"
    enter = f"load:{local_vlan:#x}->NXM_NX_REG6[],goto_table:{TRANSIENT}"
    yield Flow(LOCAL_SWITCHING, 9, f"{here},dl_src={server.mac}", enter)
    yield Flow(TRANSIENT, 40, f"{vlan},{here}", "NORMAL")
    yield Flow(TRANSIENT, 30, f"{vlan},dl_src={server.mac}", "drop")
    yield Flow(TRANSIENT, 20, f"{vlan},dl_dst={server.mac}", to_server)
    if server.ipv6:
        yield Flow(TRANSIENT, 30, f"ipv6,{vlan},ipv6_src={address}", "drop")
        yield Flow(TRANSIENT, 20, f"ipv6,{vlan},ipv6_dst={address}", to_server)
        return
    yield Flow(TRANSIENT, 30, f"arp,{vlan},arp_spa={address}", "drop")
    yield Flow(TRANSIENT, 30, f"ip,{vlan},nw_src={address}", "drop")
    yield Flow(TRANSIENT, 20, f"arp,{vlan},arp_tpa={address}", to_server)
    yield Flow(TRANSIENT, 20, f"ip,{vlan},nw_dst={address}", to_server)


# --- br-tun -------------------------------------------------------------------------------------


def _tunnel(plan: Plan) -> Iterator[Flow]:
    patch = plan.ofports.get(topology.PATCH_TO_INTEGRATION)
    yield Flow(LOCAL_SWITCHING, 0, "", "drop")
    for table in (FROM_GRE, FROM_VXLAN, FLOOD):
        yield Flow(table, 0, "", "drop")
    yield Flow(PATCH_IN, 0, "dl_dst=00:00:00:00:00:00/01:00:00:00:00:00", f"goto_table:{UCAST}")
    yield Flow(PATCH_IN, 0, "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00", f"goto_table:{FLOOD}")
    yield Flow(PATCH_IN, 1, f"arp,dl_dst={BROADCAST}", f"goto_table:{ARP_RESPONDER}")
    yield Flow(UCAST, 0, "", f"goto_table:{FLOOD}")
    yield Flow(ARP_RESPONDER, 0, "", f"goto_table:{FLOOD}")
    for kind, remote in sorted(topology.tunnel_peers(plan.topology)):
        ofport = plan.ofports.get(topology.tunnel_device(kind, remote))
        if ofport is not None:
            table = FROM_VXLAN if kind == "vxlan" else FROM_GRE
            yield Flow(LOCAL_SWITCHING, 1, f"in_port={ofport}", f"goto_table:{table}")
    if patch is None:
        return
    yield Flow(LOCAL_SWITCHING, 1, f"in_port={patch}", f"goto_table:{PATCH_IN}")
    yield Flow(LEARN, 1, "", f"{_learn(plan.spec.cloud_id)},output:{patch}")
    for network in plan.topology.live_networks(topology.TUNNEL_TYPES):
        yield from _tunnel_network(plan, network)


def _learn(cloud_id: str) -> str:
    """Remember where a source address came from, for frames to it."""
    return (
        f"learn(table={UCAST},hard_timeout={LEARNED_SECONDS},priority={LEARNED_PRIORITY},"
        f"cookie={learned_cookie_of(cloud_id):#x},NXM_OF_VLAN_TCI[0..11],"
        "NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[],"
        "load:NXM_NX_TUN_ID[]->NXM_NX_TUN_ID[],output:NXM_OF_IN_PORT[])"
    )


def _tunnel_network(plan: Plan, network: Network) -> Iterator[Flow]:
    vlan, key = f"dl_vlan={network.local_vlan}", f"{network.segmentation_id:#x}"
    arrive = FROM_VXLAN if network.type == "vxlan" else FROM_GRE
    inward = f"push_vlan:0x8100,mod_vlan_vid:{network.local_vlan},goto_table:{LEARN}"
    yield Flow(arrive, 1, f"tun_id={key}", inward)
    yield from _dhcp_stays(network, arrive, 3, f"tun_id={key}")
    yield from _dhcp_stays(network, PATCH_IN, 3, vlan)
    outward = f"strip_vlan,set_field:{key}->tun_id,"
    flood = _outputs(plan, network, network.flood_to)
    if flood:
        yield Flow(FLOOD, 1, vlan, outward + flood)
    for mac, remotes in _remote_macs(network).items():
        unicast = _outputs(plan, network, remotes)
        if unicast:
            yield Flow(UCAST, 1, f"{vlan},dl_dst={mac}", outward + unicast)
    for address, mac in _remote_addresses(network).items():
        asked = f"arp,{vlan},arp_tpa={address},arp_op=1"
        yield Flow(ARP_RESPONDER, 1, asked, _arp_reply(mac, address))


def _outputs(plan: Plan, network: Network, remotes: Iterable[str]) -> str:
    devices = (topology.tunnel_device(network.type, remote) for remote in sorted(set(remotes)))
    return ",".join(f"output:{plan.ofports[name]}" for name in devices if name in plan.ofports)


def _remote_macs(network: Network) -> dict[str, list[str]]:
    """Where each known address lives: two places while its server moves."""
    places: dict[str, list[str]] = {}
    for port in network.remote_ports:
        places.setdefault(port.mac, []).append(port.tunnel_address)
    return places


def _remote_addresses(network: Network) -> dict[str, str]:
    return {
        address: port.mac
        for port in network.remote_ports
        for address in port.addresses
        if ":" not in address
    }


def _arp_reply(mac: str, address: str) -> str:
    """Turn an ARP request around into the answer (Neutron's responder)."""
    hardware = f"0x{int(mac.replace(':', ''), 16):x}"
    protocol = f"0x{int(ipaddress.IPv4Address(address)):x}"
    return (
        f"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src,"
        "load:0x2->NXM_OF_ARP_OP[],move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],"
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],"
        f"load:{hardware}->NXM_NX_ARP_SHA[],load:{protocol}->NXM_OF_ARP_SPA[],IN_PORT"
    )
