"""Bridges: br-int, br-tun, one for each physical network and each trunk, joined by patch ports.

br-int and br-tun are stackctl's own and fail secure: without flows they carry nothing. A bridge
to a physical network is made here unless the operator has one of that name already; an
operator's bridge gets a patch port and this cloud's flows, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Optional

from agent.resources import flow_tables, patches, switch, texts, topology, trunk
from agent.resources.base import Host, Step
from agent.resources.patches import Pair
from agent.spec import BridgeMapping, HostSpec, Trunk
from agent.system import links, ovs

DATAPATHS = ("auto", "system", "netdev")
_UNCONNECTED = "nonexistent-peer"
Command = list[str]


class Bridges:
    """The kind ``bridge``; ids are names of bridges."""

    name = "bridge"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Bridges and patch ports of mappings that were withdrawn, and of trunks that left."""
        found = switch.look(host)
        mapped = {mapping.bridge for mapping in spec.settings.bridge_mappings}
        if spec.settings.tunnel_address is not None:
            mapped.add(topology.TUNNEL)
        mapped |= {topology.trunk_bridge(trunk.id) for trunk in spec.trunks}
        for bridge in sorted(_bridges_in_use(host, spec, found)):
            if bridge not in mapped:
                apply = partial(_remove, host, spec, bridge)
                yield Step(self.name, bridge, "removed", why="no longer needed", apply=apply)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Bridges to make, NICs to plug in, patch ports to connect."""
        yield self._integration(host, spec)
        if spec.settings.tunnel_address is not None:
            yield self._tunnel(host, spec)
        for mapping in spec.settings.bridge_mappings:
            yield self._mapped(host, spec, mapping)
        for each in spec.trunks:
            yield self._trunk(host, spec, each)

    def _integration(self, host: Host, spec: HostSpec) -> Step:
        bridge = topology.INTEGRATION
        problem = _own_problem(spec, switch.look(host), bridge)
        if problem:
            return switch.failed(self.name, bridge, 0, problem)
        differences = _own_differences(spec, switch.look(host), bridge)
        return self._step(host, bridge, differences, partial(_make, host, spec, bridge))

    def _tunnel(self, host: Host, spec: HostSpec) -> Step:
        bridge, found = topology.TUNNEL, switch.look(host)
        problem = _own_problem(spec, found, bridge)
        if problem:
            return switch.failed(self.name, bridge, 0, problem)
        differences = _own_differences(spec, found, bridge)
        differences += patches.differences(spec, found, _tunnel_pair())
        return self._step(host, bridge, differences, partial(_make_tunnel, host, spec))

    def _mapped(self, host: Host, spec: HostSpec, mapping: BridgeMapping) -> Step:
        found = switch.look(host)
        problem = _mapping_problem(spec, found, mapping)
        if problem:
            return switch.failed(self.name, mapping.bridge, 0, problem)
        differences = _mapping_differences(spec, found, mapping)
        apply = partial(_make_mapped, host, spec, mapping)
        return self._step(host, mapping.bridge, differences, apply)

    def _trunk(self, host: Host, spec: HostSpec, wanted: Trunk) -> Step:
        bridge, found = topology.trunk_bridge(wanted.id), switch.look(host)
        problem = topology.trunk_problem(wanted) or _own_problem(spec, found, bridge)
        if problem:
            return switch.failed(self.name, bridge, 0, problem)
        differences = _own_differences(spec, found, bridge)
        differences += trunk.differences(spec, found, wanted)
        return self._step(host, bridge, differences, partial(_make_trunk, host, spec, wanted))

    def _step(self, host: Host, bridge: str, differences: list[str], apply: partial[None]) -> Step:
        if not differences:
            return Step(self.name, bridge, "unchanged")
        result = "changed" if bridge in switch.look(host).bridges else "made"
        return Step(self.name, bridge, result, why="; ".join(differences), apply=apply)


KIND = Bridges()


def own_bridges(spec: HostSpec, found: ovs.Switch) -> frozenset[str]:
    """The bridges that carry this cloud's mark."""
    ours = (b.name for b in found.bridges.values() if switch.is_ours(b.external_ids, spec))
    return frozenset(ours)


# --- what is there ------------------------------------------------------------------------------


def _bridges_in_use(host: Host, spec: HostSpec, found: ovs.Switch) -> set[str]:
    """Bridges beside br-int that carry our mark, our patch port, or unfinished work."""
    names = set(own_bridges(spec, found)) - {topology.INTEGRATION}
    names |= trunk.patched(spec, found).keys()
    for port in found.ports.values():
        if port.name == topology.outer_patch(port.bridge) and switch.is_ours(
            port.external_ids, spec
        ):
            names.add(port.bridge)
    folder = switch.pending_file(host, "")
    if folder.is_dir():
        names |= {f.name[len("bridge-") :] for f in folder.glob("bridge-*")}
    return names


def _own_problem(spec: HostSpec, found: ovs.Switch, name: str) -> str:
    try:
        texts.token(spec.cloud_id)
    except texts.BadText as error:
        return f"the cloud's id: {error}"
    if spec.settings.datapath not in DATAPATHS:
        return f"datapath {spec.settings.datapath!r} is none of {', '.join(DATAPATHS)}"
    bridge = found.bridges.get(name)
    if bridge is None or switch.is_ours(bridge.external_ids, spec):
        return ""
    owner = bridge.external_ids.get(topology.MARK)
    whose = f"belongs to cloud {owner}" if owner else "was not made by stackctl"
    return (
        f"{name} exists and {whose}; it is not taken over. If nothing needs it, remove it "
        f"with 'ovs-vsctl del-br {name}' and converge again"
    )


def _own_differences(spec: HostSpec, found: ovs.Switch, name: str) -> list[str]:
    bridge = found.bridges.get(name)
    if bridge is None:
        return [f"there is no bridge {name}"]
    differences = []
    if bridge.fail_mode != "secure":
        differences.append(f"fail mode is {bridge.fail_mode or 'standalone'}, should be secure")
    wanted = spec.settings.datapath
    if wanted not in ("auto", bridge.datapath_type):
        differences.append(f"datapath is {bridge.datapath_type}, should be {wanted}")
    return differences


def _tunnel_pair() -> Pair:
    return (
        (topology.INTEGRATION, topology.PATCH_TO_TUNNEL),
        (topology.TUNNEL, topology.PATCH_TO_INTEGRATION),
    )


def _mapped_pair(bridge: str) -> Pair:
    return (
        (topology.INTEGRATION, topology.inner_patch(bridge)),
        (bridge, topology.outer_patch(bridge)),
    )


def _mapping_problem(spec: HostSpec, found: ovs.Switch, mapping: BridgeMapping) -> str:
    try:
        texts.device(mapping.bridge)
        texts.device(mapping.nic)
    except texts.BadText as error:
        return f"physical network {mapping.physical_network!r}: {error}"
    if len(mapping.bridge) > topology.MAX_BRIDGE_NAME:
        return (
            f"{mapping.bridge}: a bridge's name has at most {topology.MAX_BRIDGE_NAME} characters"
        )
    if mapping.bridge in (topology.INTEGRATION, topology.TUNNEL):
        return f"{mapping.bridge} cannot be the bridge of a physical network"
    bridge = found.bridges.get(mapping.bridge)
    home = _bridge_of_nic(found, mapping.nic)
    if home == mapping.bridge:
        return ""
    if home is not None:
        return f"{mapping.nic} is already in bridge {home}"
    if bridge is not None and not switch.is_ours(bridge.external_ids, spec):
        return (
            f"{mapping.bridge} was not made by stackctl and {mapping.nic} is not in it; "
            f"run 'ovs-vsctl add-port {mapping.bridge} {mapping.nic}' or map another bridge"
        )
    return _nic_problem(mapping)


def _bridge_of_nic(found: ovs.Switch, nic: str) -> Optional[str]:
    for port in found.ports.values():
        if any(interface.name == nic for interface in port.interfaces):
            return port.bridge
    return None


def _nic_problem(mapping: BridgeMapping) -> str:
    """Why a NIC cannot go into a bridge: it would cut off whoever uses its address."""
    nic, link = mapping.nic, links.look(mapping.nic)
    if link is None:
        return f"this host has no NIC {nic}"
    if link.master:
        return f"{nic} is already in {link.master}"
    addresses = links.addresses(nic)
    if addresses or links.routes_by_default(nic):
        what = f"the address {', '.join(addresses)}" if addresses else "the default route"
        return (
            f"{nic} carries {what}, which would stop working inside a bridge; make a bridge "
            f"{mapping.bridge} with {nic} in it first, put the address on {mapping.bridge}, "
            "and converge again"
        )
    return ""


def _mapping_differences(spec: HostSpec, found: ovs.Switch, mapping: BridgeMapping) -> list[str]:
    bridge = found.bridges.get(mapping.bridge)
    differences = []
    if bridge is None or switch.is_ours(bridge.external_ids, spec):
        differences += _own_differences(spec, found, mapping.bridge)
        if mapping.nic not in found.ports:
            differences.append(f"{mapping.nic} is not in {mapping.bridge}")
        elif not switch.is_ours(found.ports[mapping.nic].external_ids, spec):
            differences.append(f"{mapping.nic} has lost its mark")
        differences += [f"{nic} does not belong there" for nic in _stray(spec, found, mapping)]
        link = links.look(mapping.nic)
        if link is not None and not link.up:
            differences.append(f"{mapping.nic} is down")
    return differences + patches.differences(spec, found, _mapped_pair(mapping.bridge))


def _stray(spec: HostSpec, found: ovs.Switch, mapping: BridgeMapping) -> list[str]:
    """NICs that an earlier mapping put into our bridge."""
    return [
        port.name
        for port in found.ports.values()
        if port.bridge == mapping.bridge and switch.is_ours(port.external_ids, spec)
        if port.name not in (mapping.nic, topology.outer_patch(mapping.bridge))
    ]


# --- making -------------------------------------------------------------------------------------


def _datapath(spec: HostSpec, found: ovs.Switch) -> str:
    if spec.settings.datapath != "auto":
        return spec.settings.datapath
    integration = found.bridges.get(topology.INTEGRATION)
    if integration is not None:
        return integration.datapath_type
    return "system" if ovs.kernel_datapath() else "netdev"


def _own_commands(spec: HostSpec, found: ovs.Switch, name: str) -> list[Command]:
    settings = ["fail_mode=secure", f"datapath_type={_datapath(spec, found)}", switch.mark(spec)]
    return [["--may-exist", "add-br", name], ["set", "Bridge", name, *settings]]


def _make(host: Host, spec: HostSpec, bridge: str) -> None:
    switch.change(host, _own_commands(spec, switch.look(host), bridge))


def _make_tunnel(host: Host, spec: HostSpec) -> None:
    found, pair = switch.look(host), _tunnel_pair()
    commands = _own_commands(spec, found, topology.TUNNEL)
    if patches.differences(spec, found, pair):
        for (bridge, name), (_, peer) in (pair, pair[::-1]):
            commands += patches.commands(spec, bridge, name, peer)
    switch.change(host, commands)


def _make_trunk(host: Host, spec: HostSpec, wanted: Trunk) -> None:
    found = switch.look(host)
    commands = _own_commands(spec, found, topology.trunk_bridge(wanted.id))
    switch.change(host, commands + trunk.commands(spec, found, wanted))


def _make_mapped(host: Host, spec: HostSpec, mapping: BridgeMapping) -> None:
    """The bridge with its NIC, then the patch pair: cut off first, connected last."""
    found = switch.look(host)
    bridge = found.bridges.get(mapping.bridge)
    if bridge is None or switch.is_ours(bridge.external_ids, spec):
        commands = _own_commands(spec, found, mapping.bridge)
        commands += [["del-port", nic] for nic in _stray(spec, found, mapping)]
        commands += [
            ["--may-exist", "add-port", mapping.bridge, mapping.nic],
            ["set", "Port", mapping.nic, switch.mark(spec)],
        ]
        switch.change(host, commands)
        links.set_up(mapping.nic)
    if patches.differences(spec, found, _mapped_pair(mapping.bridge)):
        _connect(host, spec, mapping.bridge)


def _connect(host: Host, spec: HostSpec, bridge: str) -> None:
    """Join a bridge to br-int; the flow that keeps local VLANs off the wire comes first."""
    (inside, inner), (_, outer) = _mapped_pair(bridge)
    commands = patches.commands(spec, inside, inner, _UNCONNECTED)
    switch.change(host, commands + patches.commands(spec, bridge, outer, _UNCONNECTED))
    ofport = switch.look(host).ofports().get(outer)
    if ofport is not None:
        cookie = flow_tables.cookie_of(spec.cloud_id)
        ovs.change_flows(bridge, [f"add {flow_tables.outer_drop(ofport).text(cookie)}"])
    peers = [
        ["set", "Interface", outer, ovs.pair("options", "peer", inner)],
        ["set", "Interface", inner, ovs.pair("options", "peer", outer)],
    ]
    switch.change(host, peers)


# --- removing -----------------------------------------------------------------------------------


def _remove(host: Host, spec: HostSpec, bridge: str) -> None:
    """Disconnect a bridge; remove it if it is ours, else take our flows out of it."""
    found = switch.look(host)
    with switch.pending(host, f"bridge-{bridge}"):
        switch.change(host, list(_removal_commands(spec, found, bridge)))
        left = switch.look(host).bridges.get(bridge)
        if left is not None:
            ovs.delete_flows(bridge, flow_tables.cookie_of(spec.cloud_id))


def _removal_commands(spec: HostSpec, found: ovs.Switch, bridge: str) -> Iterator[Command]:
    pair = _tunnel_pair() if bridge == topology.TUNNEL else _mapped_pair(bridge)
    for _, name in pair:
        if name in found.ports and switch.is_ours(found.ports[name].external_ids, spec):
            yield ["--if-exists", "del-port", name]
    for name in trunk.patched(spec, found).get(bridge, ()):
        yield ["--if-exists", "del-port", name]
    if bridge in own_bridges(spec, found):
        yield ["--if-exists", "del-br", bridge]
