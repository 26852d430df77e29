"""The bridges of physical networks: what may leave this host, and as what. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.resources import flow_dhcp, topology
from agent.resources.flow_plan import LOCAL_SWITCHING, Plan
from agent.resources.flow_text import Flow
from agent.spec import BridgeMapping


def compile_physical(plan: Plan, mapping: BridgeMapping) -> Iterator[Flow]:
    """br-eth1: ``dl_vlan=1`` leaves as ``mod_vlan_vid:101``; nothing else gets out."""
    if mapping.bridge in plan.own_bridges:
        yield Flow(LOCAL_SWITCHING, 0, "", "NORMAL")
    patch = plan.ofports.get(topology.outer_patch(mapping.bridge))
    if patch is None:
        return
    yield outer_drop(patch)
    for net in plan.physical_nets(mapping.physical_network):
        local = f"in_port={patch},dl_vlan={net.vlan}"
        yield from flow_dhcp.stays(net.network, LOCAL_SWITCHING, 5, local)
        if net.network.type == "vlan":
            change = f"mod_vlan_vid:{net.network.segmentation_id},NORMAL"
        else:
            change = "strip_vlan,NORMAL"
        yield Flow(LOCAL_SWITCHING, 4, local, change)


def outer_drop(ofport: int) -> Flow:
    """What keeps everything from br-int off a physical bridge unless a network allows it."""
    return Flow(LOCAL_SWITCHING, 2, f"in_port={ofport}", "drop")
