"""Taps of adopted guests. libvirt made them, under names of its own, for as long as the guest runs.

What an adopted guest runs on is told by the kernel: libvirt goes on calling its taps by the names
that they had when the guest was started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.resources import topology
from agent.resources.base import Host
from agent.resources.domain_xml import describe
from agent.spec import HostSpec
from agent.system import libvirt_foreign, links, taps
from agent.system.libvirt_conn import DomainView

RUNNING = "running"
"""Under this name ``Host.seen`` keeps the domains that run, until one of them is changed."""

AS_ADOPTED = 'digest=""'
"""What the mark of a guest says that has not been started by a definition of ours yet."""


@dataclass(frozen=True)
class Stray:
    """A tap under another name than ours, and the process that holds it."""

    device: str
    mac: str
    pid: int
    descriptor: int


def runs_as_adopted(view: DomainView) -> bool:
    """Whether a guest that runs was started by somebody else's definition."""
    if AS_ADOPTED not in view.xml:
        return False
    mark = describe(view.xml).mark
    return mark is not None and mark.digest == ""


def devices_of(view: DomainView) -> dict[str, str]:
    """The devices that an adopted guest's NICs are on now, by their MACs."""
    return {stray.mac: stray.device for stray in _held(view)}


def strays(host: Host, spec: HostSpec) -> dict[str, Stray]:
    """Taps that are to get our names, by those; of the domains that were seen to run."""
    running: Mapping[str, DomainView] = host.seen.get(RUNNING) or {}
    ports = {port.id: port for port in spec.ports}
    found = {}
    for server in spec.servers:
        view = running.get(server.id)
        if view is None or not runs_as_adopted(view):
            continue
        held = {stray.mac: stray for stray in _held(view)}
        for port in (ports[port_id] for port_id in server.ports if port_id in ports):
            device, stray = topology.tap_name(port.id), held.get(port.mac)
            if stray is not None and stray.device != device:
                found[device] = stray
    return found


def tap_mac(mac: str) -> str:
    """The MAC that libvirt gives a tap: its guest's, but for the first byte."""
    return f"fe{mac[2:]}"


def _held(view: DomainView) -> list[Stray]:
    pid = libvirt_foreign.pid(view.name)
    held = {} if pid is None else taps.held_by(pid)
    by_mac = {links.mac(name)[2:]: name for name in held}
    found = []
    for nic in describe(view.xml).nics:
        mac = nic.mac.lower()
        device = nic.tap if nic.tap in held else by_mac.get(mac[2:], "")
        if pid is not None and device:
            found.append(Stray(device, mac, pid, held[device]))
    return found
