"""Compile a spec into flow tables for br-int, br-tun, physical bridges and trunks. Pure.

Every table ends in a drop: a port without flows carries nothing. What the tables of br-int do,
in the order in which a packet meets them (``flow_plan`` has their numbers):

===== ===================================================================== ==================
0     where it comes from                                                   flow_classification
24-26 whether the sender's addresses are its own                            flow_spoofing
60    DHCP and DNS, which stay on this host                                 flow_dhcp
61-66 which port has its address, or whether it is for all                  flow_forwarding
72-73 what the sender's security groups allow                               flow_rules
81-82 what the receiver's security groups allow                             flow_rules
91-96 out by a port or an uplink, the connection remembered                 flow_forwarding
===== ===================================================================== ==================
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.resources import topology
from agent.resources.flow_classification import compile_classification
from agent.resources.flow_forwarding import compile_forwarding
from agent.resources.flow_physical import compile_physical, outer_drop
from agent.resources.flow_plan import MAX_METER, Plan, cookie_of, learned_cookie_of, limits
from agent.resources.flow_rules import compile_rules
from agent.resources.flow_text import Flow
from agent.resources.flow_trunk import compile_trunk
from agent.resources.flow_tunnel import compile_tunnel

__all__ = [
    "MAX_METER",
    "Plan",
    "compile_flows",
    "cookie_of",
    "learned_cookie_of",
    "limits",
    "outer_drop",
]


def compile_flows(plan: Plan) -> dict[str, list[Flow]]:
    """All flows of this host, by bridge; bridges in the order in which to install them.

    Physical bridges come first and br-int last: what keeps local VLANs off the wire is there
    before anything can flow.
    """
    tables: dict[str, list[Flow]] = {}
    for mapping in plan.spec.settings.bridge_mappings:
        tables.setdefault(mapping.bridge, []).extend(compile_physical(plan, mapping))
    if plan.spec.settings.tunnel_address is not None:
        tables[topology.TUNNEL] = list(compile_tunnel(plan))
    for trunk in plan.spec.trunks:
        if not topology.trunk_problem(trunk):
            tables[topology.trunk_bridge(trunk.id)] = list(compile_trunk(plan, trunk))
    tables[topology.INTEGRATION] = list(_integration(plan))
    return tables


def _integration(plan: Plan) -> Iterator[Flow]:
    yield from compile_classification(plan)
    yield from compile_forwarding(plan)
    yield from compile_rules(plan)
