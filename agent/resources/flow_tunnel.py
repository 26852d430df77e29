"""br-tun: to and from other hosts, unicast from what the controller knows. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from agent.resources import flow_dhcp, topology
from agent.resources.flow_plan import (
    ARP_RESPONDER,
    FLOOD,
    FROM_GRE,
    FROM_VXLAN,
    LEARN,
    LOCAL_SWITCHING,
    PATCH_IN,
    UCAST,
    Plan,
    learned_cookie_of,
)
from agent.resources.flow_text import Flow
from agent.spec import Network

LEARNED_SECONDS = 300
LEARNED_PRIORITY = 2
"""Above what the controller knows: a guest that moved is where its last frame came from."""

BROADCAST = "ff:ff:ff:ff:ff:ff"


def compile_tunnel(plan: Plan) -> Iterator[Flow]:
    """All flows of br-tun."""
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
    for net in plan.tunnel_nets():
        yield from _tunnel_network(plan, net.network)


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
    yield from flow_dhcp.stays(network, arrive, 3, f"tun_id={key}")
    yield from flow_dhcp.stays(network, PATCH_IN, 3, vlan)
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
