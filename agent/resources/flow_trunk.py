"""The bridges of trunks: each tag of a guest's frames leads to one port, and no other does. Pure.

Nothing is learned and nothing flooded here: behind every patch is one port of br-int, and behind
the tap one guest. A frame with a tag that no subport has is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.resources import topology
from agent.resources.flow_plan import LOCAL_SWITCHING, Plan
from agent.resources.flow_text import Flow
from agent.spec import Trunk


def compile_trunk(plan: Plan, trunk: Trunk) -> Iterator[Flow]:
    """tbr-...: ``dl_vlan=101`` of the guest goes untagged to the port that is its VLAN 101."""
    yield Flow(LOCAL_SWITCHING, 0, "", "drop")
    tap = plan.ofports.get(topology.tap_name(trunk.port_id))
    for leg in topology.legs(trunk) if tap is not None else ():
        outer = plan.ofports.get(leg.outer)
        if outer is None:
            continue
        tagged = f"dl_vlan={leg.vlan}" if leg.vlan else "vlan_tci=0x0000/0x1fff"
        pop = "strip_vlan," if leg.vlan else ""
        push = f"push_vlan:0x8100,mod_vlan_vid:{leg.vlan}," if leg.vlan else ""
        yield Flow(LOCAL_SWITCHING, 10, f"in_port={tap},{tagged}", f"{pop}output:{outer}")
        yield Flow(LOCAL_SWITCHING, 10, f"in_port={outer}", f"{push}output:{tap}")
