"""br-int, table 0: where a frame comes from, and with that its network. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.resources import flow_dhcp, flow_spoofing, topology
from agent.resources.flow_plan import (
    ARP_SPOOF,
    CANARY,
    LOCAL_SWITCHING,
    MAC_SPOOF,
    TAGGED,
    TRANSIENT,
    Net,
    Plan,
    RouterEnd,
    Tap,
    load,
)
from agent.resources.flow_text import Flow
from agent.spec import Network


def compile_classification(plan: Plan) -> Iterator[Flow]:
    """Uplinks, guests, DHCP servers and routers; whoever is none of these is dropped."""
    yield Flow(LOCAL_SWITCHING, 65535, f"dl_vlan={topology.DEAD_VLAN}", "drop")
    yield Flow(LOCAL_SWITCHING, 0, "", "drop")
    yield Flow(CANARY, 0, "", "drop")
    yield from _from_physical(plan)
    yield from _from_tunnels(plan)
    yield from flow_spoofing.checks()
    for net in plan.nets:
        yield from flow_dhcp.compile_dhcp(net)
        for end in net.routers:
            yield from _from_router(end, net)
        for tap in net.taps:
            yield from _from_guest(tap)


def _from_physical(plan: Plan) -> Iterator[Flow]:
    """br-eth1 to br-int: ``dl_vlan=101`` comes in as ``mod_vlan_vid:1``."""
    for mapping in plan.spec.settings.bridge_mappings:
        patch = plan.ofports.get(topology.inner_patch(mapping.bridge))
        if patch is None:
            continue
        yield Flow(LOCAL_SWITCHING, 2, f"in_port={patch}", "drop")
        for net in plan.physical_nets(mapping.physical_network):
            yield from _from_provider(net.network, patch)


def _from_provider(network: Network, patch: int) -> Iterator[Flow]:
    tag = f"mod_vlan_vid:{network.local_vlan},goto_table:{TRANSIENT}"
    if network.type == "vlan":
        where = f"in_port={patch},dl_vlan={network.segmentation_id}"
    else:
        where = f"in_port={patch},vlan_tci=0x0000/0x1fff"
        tag = f"push_vlan:0x8100,{tag}"
    yield from flow_dhcp.stays(network, LOCAL_SWITCHING, 5, where)
    yield Flow(LOCAL_SWITCHING, 3, where, tag)


def _from_tunnels(plan: Plan) -> Iterator[Flow]:
    patch = plan.ofports.get(topology.PATCH_TO_TUNNEL)
    for net in plan.tunnel_nets() if patch is not None else ():
        where = f"in_port={patch},dl_vlan={net.vlan}"
        yield Flow(LOCAL_SWITCHING, 3, where, f"goto_table:{TRANSIENT}")


def _from_router(end: RouterEnd, net: Net) -> Iterator[Flow]:
    """A router speaks for others: no addresses but its own Ethernet one are asked."""
    here = f"in_port={end.ofport}"
    yield Flow(LOCAL_SWITCHING, 12, f"{here},{TAGGED}", "drop")
    onward = f"{load(net.vlan, 6)},goto_table:{TRANSIENT}"
    yield Flow(LOCAL_SWITCHING, 9, f"{here},dl_src={end.mac}", onward)


def _from_guest(tap: Tap) -> Iterator[Flow]:
    """Frames of a guest: its own addresses only, unless port security is off."""
    here, enter = f"in_port={tap.ofport}", f"{tap.egress_meter}{load(tap.vlan, 6)},"
    yield Flow(LOCAL_SWITCHING, 12, f"{here},{TAGGED}", "drop")
    if not tap.protected:
        yield Flow(LOCAL_SWITCHING, 9, here, f"{enter}goto_table:{TRANSIENT}")
        return
    yield Flow(LOCAL_SWITCHING, 10, f"arp,{here}", f"{enter}goto_table:{ARP_SPOOF}")
    profile = load(tap.profile, 7)
    yield Flow(LOCAL_SWITCHING, 9, here, f"{enter}{profile},goto_table:{MAC_SPOOF}")
    yield from flow_spoofing.senders(tap)
