"""Ports on br-int: a persistent tap for each server's port, an internal port for each DHCP server
and for each end of a router.

The tap is there before the server starts and outlives its restarts. Everything that differs is
changed in one OVS transaction. A port that is down keeps its tap, in a VLAN that leads nowhere.
In a trunk, its parent's tap is in the trunk's bridge; a subport is the patch from there, which
comes with the bridge and gets its port's marks here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Optional

from agent.resources import stray, switch, topology
from agent.resources.base import Facts, Host, Step
from agent.resources.stray import Stray
from agent.resources.topology import Plug, Topology
from agent.spec import HostSpec
from agent.system import links, netns, ovs, taps
from agent.system.run import CommandFailed


class Ports:
    """The kind ``port``; ids are those of ports, DHCP servers' and routers' among them."""

    name = "port"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Taps and switch ports whose ports are not here any more."""
        wanted = {plug.device for plug, _ in _plugs(switch.topology_of(host, spec))}
        gone = _leftovers(host, spec, wanted)
        held = {device for device, port_id in gone.items() if _is_held(host, spec, port_id)}
        plugged = switch.look(host).ports
        gone = {name: id_ for name, id_ in gone.items() if name in plugged or name not in held}
        together = switch.Together(list(gone), partial(_remove, host, held))
        for device, resource in gone.items():
            apply = partial(together.apply, device)
            yield Step(self.name, resource, "removed", why=f"{device} has no port", apply=apply)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Taps and switch ports to make or to set right."""
        found = switch.look(host)
        devices = switch.devices(host)
        work: list[Plug] = []
        strays = stray.strays(host, spec)
        make = partial(_make, host, spec, strays)
        together = switch.Together(work, make, partial(_facts, host))
        for plug, problem in list(_plugs(switch.topology_of(host, spec))):
            problem = problem or _foreign(host, spec, plug, found, devices)
            if problem:
                yield switch.failed(self.name, plug.id, plug.version, problem)
                continue
            why = _stray_difference(plug, strays) or _difference(spec, plug, found, devices)
            if not why:
                facts = _facts(host, plug)
                yield Step(self.name, plug.id, "unchanged", plug.version, facts=facts)
                continue
            work.append(plug)
        for plug in work:
            why = _stray_difference(plug, strays) or _difference(spec, plug, found, devices)
            result = "changed" if plug.device in found.ports else "made"
            apply = partial(together.apply, plug)
            yield Step(self.name, plug.id, result, plug.version, why, apply=apply)


KIND = Ports()


def _all_plugs(known: Topology) -> Iterator[tuple[Plug, str]]:
    for port in known.spec.ports:
        network = known.networks.get(port.network_id)
        plug = topology.guest_plug(port, network, known.legs.get(port.id))
        yield plug, known.port_problem(port)
    for server in known.servers:
        yield topology.dhcp_plug(server), known.dhcp_problem(server)
    for end in known.router_ends:
        network = known.networks.get(end.port.network_id)
        yield topology.router_plug(end, network), known.end_problem(end)


def _plugs(known: Topology) -> Iterator[tuple[Plug, str]]:
    """Everything that plugs into br-int here, with the reason why it cannot."""
    taken: dict[str, str] = {}
    for plug, problem in _all_plugs(known):
        other = taken.setdefault(plug.device, plug.id)
        if other != plug.id:
            problem = problem or f"port {other} already has the device name {plug.device}"
        yield plug, problem


# --- what is there ------------------------------------------------------------------------------


def _alias(spec: HostSpec, plug_id: str) -> str:
    """What is written into a tap's ifalias: whose it is."""
    return f"stackctl:{spec.cloud_id}:{plug_id}"


def _foreign(
    host: Host,
    spec: HostSpec,
    plug: Plug,
    found: ovs.Switch,
    devices: Mapping[str, links.Link],
) -> str:
    """Why the name of a device cannot be used: somebody else has it."""
    for bridge in filter(None, (topology.INTEGRATION, plug.trunk)):
        if ("bridge", bridge) in host.failed:
            return f"{bridge} is not usable"
    port = found.ports.get(plug.device)
    if port is not None and not switch.is_ours(port.external_ids, spec):
        return f"a port {plug.device} that stackctl did not make is in bridge {port.bridge}"
    link = devices.get(plug.device)
    if link is None or plug.internal:
        return ""
    begun = switch.pending_file(host, plug.device).exists()
    if link.alias == _alias(spec, plug.id) or (begun and not link.alias):
        return ""
    return (
        f"a device {plug.device} that stackctl did not make is on this host; "
        f"it is not reused: remove it ('ip link delete {plug.device}') and converge again"
    )


def _external_ids(spec: HostSpec, plug: Plug) -> dict[str, str]:
    ids = {"iface-id": plug.id, "attached-mac": plug.mac, "iface-status": "active"}
    if plug.server_id:
        ids["vm-uuid"] = plug.server_id
    return {**ids, topology.MARK: spec.cloud_id}


def _difference(
    spec: HostSpec, plug: Plug, found: ovs.Switch, devices: Mapping[str, links.Link]
) -> str:
    """What is not as it should be, in words; empty when all is."""
    port = found.ports.get(plug.device)
    if plug.internal:
        lost = port is not None and _is_lost(plug, devices)
        return f"{plug.device} has vanished" if lost else _port_difference(spec, plug, port)
    link_difference = "" if plug.patch else _link_difference(plug, devices.get(plug.device))
    return link_difference or _port_difference(spec, plug, port)


def _stray_difference(plug: Plug, strays: Mapping[str, Stray]) -> str:
    if plug.device not in strays:
        return ""
    return f"its guest runs on {strays[plug.device].device}, should be on {plug.device}"


def _is_lost(plug: Plug, devices: Mapping[str, links.Link]) -> bool:
    """Whether an internal port's device is neither here nor in its namespace."""
    if plug.device in devices:
        return False
    if netns.identity(plug.netns) is None:
        return True
    return netns.inside(plug.netns, partial(links.configured, plug.device)) is None


def _link_difference(plug: Plug, link: Optional[links.Link]) -> str:
    if link is None:
        return f"there is no device {plug.device}"
    if not link.alias:
        return f"{plug.device} was not finished"
    if not link.tap:
        return f"{plug.device} is not a tap"
    if link.mtu != plug.mtu:
        return f"MTU of {plug.device} is {link.mtu}, should be {plug.mtu}"
    if not link.up:
        return f"{plug.device} is down"
    return "" if link.ipv6_off else f"this host takes part in IPv6 on {plug.device}"


def _port_difference(spec: HostSpec, plug: Plug, port: Optional[ovs.Port]) -> str:
    if port is None:
        return f"{plug.device} is not in {plug.bridge}"
    if port.bridge != plug.bridge:
        return f"{plug.device} is in {port.bridge}, should be in {plug.bridge}"
    if port.tag != plug.tag:
        return f"tag of {plug.device} is {port.tag or 'none'}, should be {plug.tag or 'none'}"
    if port.trunks or port.vlan_mode:
        return f"{plug.device} has trunk settings, should be an access port"
    interface = port.interfaces[0]
    if _type(interface) != ("internal" if plug.internal else "patch" if plug.patch else ""):
        return f"{plug.device} has the interface type {interface.type!r}"
    for key, value in _external_ids(spec, plug).items():
        if interface.external_ids.get(key) != value:
            return f"{key} of {plug.device} is {interface.external_ids.get(key)}, should be {value}"
    if interface.ofport is None:
        return f"{plug.device} has no OpenFlow number: {interface.error or 'not opened'}"
    return ""


def _type(interface: ovs.Interface) -> str:
    """What the switch makes by itself; empty: it opens a device that is there."""
    return interface.type if interface.type in ("internal", "patch") else ""


def _leftovers(host: Host, spec: HostSpec, wanted: set[str]) -> dict[str, str]:
    """Our devices that no port needs: name -> id of the port that it was for."""
    gone = {}
    for port in switch.look(host).ports.values():
        ours = port.bridge == topology.INTEGRATION and switch.is_ours(port.external_ids, spec)
        if ours and port.name not in wanted and port.interfaces[0].type != "patch":
            gone[port.name] = port.interfaces[0].external_ids.get("iface-id", port.name)
    alias = _alias(spec, "")
    for link in switch.devices(host).values():
        if link.name in wanted:
            continue
        if link.alias.startswith(alias):
            gone[link.name] = link.alias[len(alias) :]
        elif not link.alias and switch.pending_file(host, link.name).exists():
            gone[link.name] = link.name
    return gone


# --- making and removing ------------------------------------------------------------------------


def _make(host: Host, spec: HostSpec, strays: Mapping[str, Stray], plugs: Sequence[Plug]) -> None:
    moved = {plug.device: strays[plug.device] for plug in plugs if plug.device in strays}
    _unplug(host, [name for ours, their in moved.items() for name in (ours, their.device)])
    _make_taps(host, spec, moved, [plug for plug in plugs if not plug.internal and not plug.patch])
    switch.devices_changed(host, [plug.device for plug in plugs])
    switch.devices_changed(host, [their.device for their in moved.values()])
    found, devices = switch.look(host), switch.devices(host)
    # The switch notices a change of device only when the old port was gone for a moment.
    stale = [
        plug.device
        for plug in plugs
        if not plug.patch and _needs_replacing(plug, found.ports.get(plug.device), devices)
    ]
    if stale:
        switch.change(host, [["--if-exists", "del-port", device] for device in stale])
    commands: list[list[str]] = []
    for plug in plugs:
        commands += _commands(spec, plug)
    switch.change(host, commands)


def _unplug(host: Host, devices: Sequence[str]) -> None:
    """Take devices out of whichever bridge of Open vSwitch they are in."""
    plugged = [device for device in devices if device in switch.look(host).ports]
    if plugged:
        switch.change(host, [["--if-exists", "del-port", device] for device in plugged])


def _needs_replacing(
    plug: Plug, port: Optional[ovs.Port], devices: Mapping[str, links.Link]
) -> bool:
    if port is None:
        return False
    if port.bridge != plug.bridge or port.interfaces[0].ofport is None:
        return True
    return plug.internal and _is_lost(plug, devices)


def _make_taps(
    host: Host, spec: HostSpec, strays: Mapping[str, Stray], plugs: Sequence[Plug]
) -> None:
    """Taps with their marks; a pending file says whose an unmarked one is."""
    found = {plug.device: links.look(plug.device) for plug in plugs}
    links.delete_all([name for name, link in found.items() if link is not None and not link.tap])
    wanted = [links.Tap(plug.device, _alias(spec, plug.id), plug.mtu) for plug in plugs]
    if wanted:
        with switch.pending(host, *found):
            for device, their in strays.items():
                _take_over(device, their)
            links.make_taps(wanted)


def _take_over(device: str, their: Stray) -> None:
    """Have the tap that a guest runs on be ours: it outlives the guest, and has our name."""
    if not links.exists(their.device):
        return  # it has, by a try of several ports that failed for another one
    taps.keep(their.pid, their.descriptor)
    links.delete(device)
    links.take_over(their.device, device, stray.tap_mac(their.mac))


def _commands(spec: HostSpec, plug: Plug) -> list[list[str]]:
    name = plug.device
    ids = [ovs.pair("external_ids", k, v) for k, v in _external_ids(spec, plug).items()]
    if plug.patch:
        return [["set", "Interface", name, *ids]]
    kind = "internal" if plug.internal else '""'
    tag = [] if plug.tag is None else [f"tag={plug.tag}"]
    commands = [
        ["--may-exist", "add-port", plug.bridge, name],
        ["clear", "Port", name, "tag", "trunks", "vlan_mode"],
        ["set", "Port", name, *tag, switch.mark(spec)],
        ["set", "Interface", name, f"type={kind}", *ids],
    ]
    if plug.internal:
        commands.append(["set", "Interface", name, f"mtu_request={plug.mtu}"])
    return commands


def _facts(host: Host, plug: Plug) -> Facts:
    """The port's OpenFlow number; CommandFailed when the switch could not open the device."""
    port = switch.look(host).ports.get(plug.device)
    interface = port.interfaces[0] if port is not None else None
    if interface is None or interface.ofport is None:
        words = interface.error if interface is not None else "the port is gone again"
        raise CommandFailed(("ovs-vsctl", "add-port", plug.device), words or "no OpenFlow number")
    return {"device": plug.device, "ofport": interface.ofport}


def _is_held(host: Host, spec: HostSpec, port_id: str) -> bool:
    """Whether a guest has not released a NIC: qemu cannot do without its tap."""
    return not host.failed.isdisjoint({("nic", port_id), ("nic", spec.host_id)})


def _remove(host: Host, held: Collection[str], devices: Sequence[str]) -> None:
    switch.change(host, [["--if-exists", "del-port", device] for device in devices])
    free = [device for device in devices if device not in held]
    links.delete_all(free)
    switch.devices_changed(host, free)
    for device in free:
        switch.pending_file(host, device).unlink(missing_ok=True)
