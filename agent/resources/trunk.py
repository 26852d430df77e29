"""The bridge of a trunk and its patches into br-int, one for each port. Pure.

The guest's tap is the kind ``port``'s, what leads where the kind ``flows``'.
"""

from __future__ import annotations

from collections import defaultdict

from agent.resources import patches, switch, topology
from agent.resources.patches import Pair
from agent.resources.topology import Leg
from agent.spec import HostSpec, Trunk
from agent.system import ovs


def patched(spec: HostSpec, found: ovs.Switch) -> dict[str, list[str]]:
    """Our patch ports that belong to trunks, by the bridge of the trunk."""
    names = defaultdict(list)
    for port in found.ports.values():
        bridge = port.external_ids.get(topology.TRUNK_MARK)
        if bridge and switch.is_ours(port.external_ids, spec):
            names[bridge].append(port.name)
    return names


def differences(spec: HostSpec, found: ovs.Switch, trunk: Trunk) -> list[str]:
    """What is not as it should be with a trunk's patches, in words."""
    unlike = []
    for leg in topology.legs(trunk):
        unlike += _leg_differences(spec, found, leg)
    return unlike + [f"{name} does not belong there" for name in _strays(spec, found, trunk)]


def _leg_differences(spec: HostSpec, found: ovs.Switch, leg: Leg) -> list[str]:
    pair = _pair(leg)
    unlike = patches.differences(spec, found, pair)
    if not unlike:
        marks = {found.ports[name].external_ids.get(topology.TRUNK_MARK) for _, name in pair}
        unlike = [f"{leg.inner} or {leg.outer} has lost its mark"] if marks != {leg.bridge} else []
    return unlike


def _pair(leg: Leg) -> Pair:
    return (topology.INTEGRATION, leg.inner), (leg.bridge, leg.outer)


def _strays(spec: HostSpec, found: ovs.Switch, trunk: Trunk) -> list[str]:
    """Patch ports of subports that left."""
    legs = topology.legs(trunk)
    wanted = {name for leg in legs for _, name in _pair(leg)}
    there = patched(spec, found).get(topology.trunk_bridge(trunk.id), [])
    return [name for name in there if name not in wanted]


def commands(spec: HostSpec, found: ovs.Switch, trunk: Trunk) -> list[list[str]]:
    """What sets a trunk's patches right; those that are right are not touched."""
    lines = [["--if-exists", "del-port", name] for name in _strays(spec, found, trunk)]
    for leg in topology.legs(trunk):
        if not _leg_differences(spec, found, leg):
            continue
        pair = _pair(leg)
        for (bridge, name), (_, peer) in (pair, pair[::-1]):
            lines += patches.commands(spec, bridge, name, peer)
            mark = ovs.pair("external_ids", topology.TRUNK_MARK, leg.bridge)
            lines.append(["set", "Port", name, mark])
    return lines
