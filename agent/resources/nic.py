"""NICs of guests that run: plugged in while they run, released when the guest is asked.

A domain's definition has the NICs of its next start and is the kind ``domain``'s; here is what a
running guest has. It gets those that it lacks, and is asked to release the others before their
taps go. A guest that does not release one is cut off (the tap leaves the switch) and asked again
by each convergence, but not waited for any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from agent import killpoint
from agent.faults import StepFailed
from agent.resources import stray, switch
from agent.resources.base import Facts, Host, Step
from agent.resources.domain_inputs import Platform, nics_of
from agent.resources.domain_xml import Described, NicInput, describe, nic_aliases, nic_xml
from agent.spec import HostSpec, Server
from agent.system import libvirt_conn
from agent.system.libvirt_conn import DomainView, LibvirtError

RUNNING = stray.RUNNING
"""Under this name ``Host.seen`` keeps the domains that run, until one of them is changed."""

PATIENCE_S = 20.0
"""What a guest has to release a NIC (Nova's time for one attempt)."""

AGAIN_S = 1.0
"""The same when it was waited for before."""

ASK_AGAIN_S = 5.0
"""A guest that is still booting misses the question."""

POLL_S = 0.1


@dataclass(frozen=True)
class Guest:
    """A server that runs, with the NICs that it shall have and those that it has."""

    server: Server
    state: str
    wanted: tuple[NicInput, ...]
    found: tuple[NicInput, ...]


class Nics:
    """The kind ``nic``; ids are those of the ports."""

    name = "nic"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """NICs that a guest has and should not have."""
        for guest in _guests(host, spec):
            wanted = set(map(_key, guest.wanted))
            for nic in guest.found:
                if _key(nic) not in wanted and nic.tap.startswith("tap"):
                    yield self._release(host, guest, nic)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """NICs that a guest should have."""
        platform = Platform(host, spec.settings)
        for guest in _guests(host, spec):
            found = set(map(_key, guest.found))
            for port_id, nic in zip(guest.server.ports, guest.wanted):
                step = Step(self.name, port_id, "unchanged", guest.server.version)
                yield step if _key(nic) in found else self._plug(host, step, guest, nic, platform)

    def _release(self, host: Host, guest: Guest, nic: NicInput) -> Step:
        asked = nic.tap not in switch.look(host).ports
        work = partial(_release, host, guest, nic, AGAIN_S if asked else PATIENCE_S)
        why = f"{guest.server.guest.name} shall not have {nic.mac}"
        id_ = _port_id(host, nic.tap)
        return Step(
            self.name, id_, "removed", guest.server.version, why=why, apply=work, parallel=True
        )

    def _plug(
        self, host: Host, step: Step, guest: Guest, nic: NicInput, platform: Platform
    ) -> Step:
        words = host.not_tried(("port", step.id), ("domain", guest.server.id))
        if words:
            return switch.failed(self.name, step.id, step.version, words)
        device = nic_xml(nic, guest.server.nic_model, platform.offload)
        work = partial(plug, host, guest.server.id, f"NIC {nic.mac}", device, nic.tap)
        why = f"{guest.server.guest.name} runs without {nic.mac}"
        return Step(self.name, step.id, "made", step.version, why=why, apply=work)


KIND = Nics()


def _guests(host: Host, spec: HostSpec) -> Iterator[Guest]:
    for server, view, described in guests(host, spec):
        try:
            wanted = nics_of(spec, server)
        except StepFailed:
            continue  # its domain's step says so
        yield Guest(server, view.state, wanted, _named_as_now(view, described.nics))


def guests(host: Host, spec: HostSpec) -> Iterator[tuple[Server, DomainView, Described]]:
    """The servers that run here. What cannot be said of a domain is said by its own kind."""
    try:
        found = running(host, spec)
    except LibvirtError:
        host.failed.add((KIND.name, spec.host_id))
        return
    for server in spec.servers:
        view = found.get(server.id)
        if view is None or server.moving or server.held:
            continue
        described = describe(view.xml)
        if described.mark is not None and described.mark.cloud_id == spec.cloud_id:
            yield server, view, described


def _named_as_now(view: DomainView, nics: tuple[NicInput, ...]) -> tuple[NicInput, ...]:
    """NICs with their taps' names: those of an adopted guest are not what libvirt calls them."""
    if not stray.runs_as_adopted(view):
        return nics
    devices = stray.devices_of(view)
    return tuple(replace(nic, tap=devices.get(nic.mac, nic.tap)) for nic in nics)


def running(host: Host, spec: HostSpec) -> dict[str, DomainView]:
    """Servers' domains that run, of deleted servers too."""
    found: dict[str, DomainView] = host.seen.get(RUNNING) or {}
    ids = {server.id for server in spec.servers}
    ids |= {tombstone.id for tombstone in spec.tombstones if tombstone.kind == "domain"}
    if RUNNING not in host.seen and ids:
        found = libvirt_conn.running(ids)
        host.seen[RUNNING] = found
    return found


def _key(nic: NicInput) -> tuple[str, str]:
    return nic.mac, nic.tap


def _port_id(host: Host, tap: str) -> str:
    """The port that a tap is, or was, for."""
    port = switch.look(host).ports.get(tap)
    if port is not None:
        return port.interfaces[0].external_ids.get("iface-id", tap)
    link = switch.devices(host).get(tap)
    return link.alias.rpartition(":")[2] if link is not None and link.alias else tap


def plug(host: Host, server_id: str, what: str, xml: str, device: str) -> Facts:
    """Give a running guest a device, ``what`` for people, made of this XML; StepFailed says why
    not."""
    host.seen.pop(RUNNING, None)
    try:
        libvirt_conn.plug(server_id, xml)
    except LibvirtError as error:
        words = f"the {what} could not be plugged into the running guest"
        raise StepFailed(f"{words}, which gets it at its next start: {error}") from None
    killpoint.reached(f"{what} plugged")
    return {"device": device}


def _release(host: Host, guest: Guest, nic: NicInput, patience_s: float) -> Facts:
    host.seen.pop(RUNNING, None)
    words = _unreleased(guest, nic, patience_s)
    let_go(guest.server.id, lambda xml: nic_aliases(xml).get(nic.mac, ""), patience_s, words)
    killpoint.reached(f"nic {nic.mac} released")
    return {"device": nic.tap}


def let_go(
    server_id: str, alias_in: Callable[[str], str], patience_s: float, unreleased: str
) -> None:
    """Ask a guest until it has let go of a device; StepFailed when it does not in time.

    ``alias_in`` finds in the domain's XML what qemu calls the device, as long as it is there.
    """
    deadline = time.monotonic() + patience_s
    ask_at = 0.0
    refusal = ""
    while alias := _alias(server_id, alias_in):
        now = time.monotonic()
        if now >= deadline:
            raise StepFailed(unreleased, detail=refusal)
        if now >= ask_at:
            ask_at = now + ASK_AGAIN_S
            refusal = _ask(server_id, alias)
        time.sleep(POLL_S)


def _alias(server_id: str, alias_in: Callable[[str], str]) -> str:
    view = libvirt_conn.running({server_id}).get(server_id)
    return "" if view is None else alias_in(view.xml)


def _ask(server_id: str, alias: str) -> str:
    """Have qemu ask the guest; what libvirt says against it (it may be asked already)."""
    try:
        libvirt_conn.unplug(server_id, alias)
    except LibvirtError as error:
        return str(error)
    return ""


def _unreleased(guest: Guest, nic: NicInput, patience_s: float) -> str:
    state = " (it is paused)" if guest.state == "PAUSED" else ""
    return (
        f"the guest did not release the NIC {nic.mac} within {patience_s:g} s{state}. Its traffic "
        "is cut off; it is asked again by each convergence, and loses it at its next start"
    )
