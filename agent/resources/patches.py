"""Pairs of patch ports: what joins two bridges. Pure."""

from __future__ import annotations

from agent.resources import switch
from agent.spec import HostSpec
from agent.system import ovs

Pair = tuple[tuple[str, str], tuple[str, str]]
"""(bridge, port) of both ends."""


def differences(spec: HostSpec, found: ovs.Switch, pair: Pair) -> list[str]:
    """What is not as it should be with a pair, in words."""
    unlike = []
    for (bridge, name), (_, peer) in (pair, pair[::-1]):
        port = found.ports.get(name)
        if port is None or port.bridge != bridge:
            unlike.append(f"there is no patch port {name} in {bridge}")
        elif port.interfaces[0].type != "patch":
            unlike.append(f"{name} is of type {port.interfaces[0].type!r}, should be patch")
        elif port.interfaces[0].options.get("peer") != peer:
            unlike.append(f"{name} is not connected to {peer}")
        elif not switch.is_ours(port.external_ids, spec):
            unlike.append(f"{name} has lost its mark")
        elif port.tag is not None or port.trunks or port.vlan_mode:
            unlike.append(f"{name} has VLAN settings, should be a plain trunk")
    return unlike


def commands(spec: HostSpec, bridge: str, name: str, peer: str) -> list[list[str]]:
    """One end of a pair, made again if something else has its name."""
    options = ["type=patch", ovs.pair("options", "peer", peer)]
    return [
        ["--if-exists", "del-port", name],
        ["add-port", bridge, name],
        ["set", "Port", name, switch.mark(spec)],
        ["set", "Interface", name, *options],
    ]
