"""Tunnel ports: one on br-tun to every host that shares a tunnel network with this one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from agent.resources import switch, topology
from agent.resources.base import Facts, Host, Step
from agent.spec import HostSpec
from agent.system import ovs
from agent.system.run import CommandFailed

Peer = tuple[str, str]
"""Type of tunnel and remote address."""


class Tunnels:
    """The kind ``tunnel``; ids are device names such as ``vxlan-c0a80105``."""

    name = "tunnel"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Tunnels to hosts that share no network with this one any more."""
        wanted = {
            topology.tunnel_device(*p)
            for p in topology.tunnel_peers(switch.topology_of(host, spec))
        }
        gone = [
            port.name
            for port in switch.look(host).ports.values()
            if port.bridge == topology.TUNNEL and port.name not in wanted
            if switch.is_ours(port.external_ids, spec) and _is_tunnel(port)
        ]
        together = switch.Together(gone, partial(_remove, host))
        for device in gone:
            apply = partial(together.apply, device)
            yield Step(self.name, device, "removed", why="no network needs it", apply=apply)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Tunnels to make or to set right."""
        found = switch.look(host)
        wanted = sorted(topology.tunnel_peers(switch.topology_of(host, spec)))
        differing = {peer: _difference(spec, found, peer) for peer in wanted}
        work = [peer for peer in wanted if differing[peer]]
        together = switch.Together(work, partial(_make, host, spec), partial(_facts, host))
        for peer in wanted:
            device = topology.tunnel_device(*peer)
            if not differing[peer]:
                yield Step(self.name, device, "unchanged", facts=_facts(host, peer))
                continue
            result = "changed" if device in found.ports else "made"
            apply = partial(together.apply, peer)
            yield Step(self.name, device, result, why=differing[peer], apply=apply)


KIND = Tunnels()


def _is_tunnel(port: ovs.Port) -> bool:
    return port.interfaces[0].type in topology.TUNNEL_TYPES


def _options(spec: HostSpec, peer: Peer) -> dict[str, str]:
    return {
        "remote_ip": peer[1],
        "local_ip": spec.settings.tunnel_address or "",
        "in_key": "flow",
        "out_key": "flow",
        "df_default": "true",
    }


def _difference(spec: HostSpec, found: ovs.Switch, peer: Peer) -> str:
    device = topology.tunnel_device(*peer)
    port = found.ports.get(device)
    if port is None:
        return f"there is no tunnel {device}"
    interface = port.interfaces[0]
    if port.bridge != topology.TUNNEL or interface.type != peer[0]:
        return f"{device} is {interface.type!r} in {port.bridge}, should be {peer[0]} in br-tun"
    for key, value in _options(spec, peer).items():
        if interface.options.get(key) != value:
            return f"{key} of {device} is {interface.options.get(key)}, should be {value}"
    if not switch.is_ours(port.external_ids, spec):
        return f"{device} has lost its mark"
    return "" if interface.ofport is not None else f"{device} does not work: {interface.error}"


def _make(host: Host, spec: HostSpec, peers: Sequence[Peer]) -> None:
    commands: list[list[str]] = []
    for peer in peers:
        device = topology.tunnel_device(*peer)
        options = [ovs.pair("options", k, v) for k, v in _options(spec, peer).items()]
        commands += [
            ["--if-exists", "del-port", device],
            ["add-port", topology.TUNNEL, device],
            ["set", "Port", device, switch.mark(spec)],
            ["set", "Interface", device, f"type={peer[0]}", *options],
        ]
    switch.change(host, commands)


def _facts(host: Host, peer: Peer) -> Facts:
    device = topology.tunnel_device(*peer)
    port = switch.look(host).ports.get(device)
    if port is None or port.interfaces[0].ofport is None:
        error = port.interfaces[0].error if port else "it is gone again"
        raise CommandFailed(("ovs-vsctl", "add-port", device), error or "no OpenFlow number")
    return {"ofport": port.interfaces[0].ofport}


def _remove(host: Host, devices: Sequence[str]) -> None:
    switch.change(host, [["--if-exists", "del-port", device] for device in devices])
