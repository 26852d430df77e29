"""Adoption: a domain that somebody else made becomes a server's, while its guest runs on.

This is the one exception to "nothing foreign is touched", and it needs the word of the spec
(``Server.adopts``). Until libvirt has our definition of the domain nothing of it is another: only
links of our names to its disks are made, and they go when that fails. Afterwards the other kinds
find a server of ours, and bring its taps and flows to what they should be.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Optional

from agent import adopting, killpoint, layout, store
from agent.adopting import Candidate
from agent.faults import StepFailed, fault_of
from agent.resources import nic
from agent.resources.base import Facts, Host, Step
from agent.resources.domain_inputs import Platform, domain_input
from agent.resources.domain_xml import (
    MARK_KEY,
    MARK_URI,
    Described,
    Mark,
    compile_domain,
    describe,
    input_digest,
    mark_xml,
)
from agent.spec import Disk, HostSpec, Server
from agent.system import files, libvirt_conn, libvirt_foreign
from agent.system.libvirt_conn import DomainView, LibvirtError
from agent.system.run import CommandFailed
from agent.wire import Fault

POWER_SERIAL = 1
"""The power command that an adopted guest counts as having obeyed: the one its row begins with."""


class Adoptions:
    """Domains to take over, before anything else is done; they are of the kind ``domain``."""

    name = "domain"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """None."""
        return ()

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Domains that are to become ours; what is said of those that are, the kind itself says."""
        with suppress(LibvirtError):
            # Anew when something was removed: ports tell by it on which taps adopted guests are.
            nic.running(host, spec)
        for server in spec.servers:
            if server.adopts:
                step = self._wanted(host, spec, server)
                if step is not None:
                    yield step

    def _wanted(self, host: Host, spec: HostSpec, server: Server) -> Optional[Step]:
        step = Step(self.name, server.id, "changed", server.version)
        try:
            view = libvirt_conn.observe_one(server.id)
            if view is None:
                words = f"libvirt has no domain {server.id} any more"
                return replace(step, result="failed", fault=Fault(words))
            described = describe(view.xml)
            if is_ours(described, spec):
                return self._rest(host, spec, step, view, described)
            candidate = adopting.look(host.data, server.id)
            words = adopting.problem(candidate, spec, server)
        except (LibvirtError, CommandFailed, StepFailed, OSError) as error:
            return replace(step, result="failed", fault=fault_of(error))
        if words:
            return replace(step, result="failed", fault=Fault(words))
        take = partial(_take, host, spec, server, candidate, described)
        return replace(step, why=f"domain {view.name} is taken over", apply=take)

    def _rest(
        self, host: Host, spec: HostSpec, step: Step, view: DomainView, described: Described
    ) -> Optional[Step]:
        """What an agent that died after the definition did not come to."""
        mark = described.mark
        running = nic.running(host, spec).get(view.id)
        marked = running is None or describe(running.xml).mark is not None
        if mark is None or (marked and not libvirt_foreign.autostarts(view.id)):
            return None
        finish = partial(_finish, host, spec, mark, view.state)
        return replace(step, why=f"domain {view.name} is not wholly taken over", apply=finish)


KIND = Adoptions()


def is_ours(described: Described, spec: HostSpec) -> bool:
    """Whether a domain carries the mark of this cloud."""
    return described.mark is not None and described.mark.cloud_id == spec.cloud_id


def _take(
    host: Host, spec: HostSpec, server: Server, candidate: Candidate, described: Described
) -> Facts:
    """The definition is the point of no return: before it the domain is what it was."""
    claimed = [disk for disk in spec.disks if disk.server_id == server.id]
    try:
        for disk in claimed:
            _claim(host, disk)
        domain = domain_input(host, spec, server, Platform(host, spec.settings), described)
        domain = replace(domain, name=candidate.name)
        mark = Mark(
            cloud_id=spec.cloud_id,
            server_id=server.id,
            project_id=server.guest.project_id,
            power_serial=POWER_SERIAL,
            digest=input_digest(domain),
        )
        libvirt_conn.define(compile_domain(domain, mark))
    except Exception:
        for disk in claimed:
            _let_go(host, disk)
        raise
    killpoint.reached(f"domain {server.id} taken over")
    return _finish(host, spec, mark, candidate.state)


def _finish(host: Host, spec: HostSpec, mark: Mark, state: str) -> Facts:
    """The guest that runs is marked as one that was not started by our definition."""
    host.seen.pop(nic.RUNNING, None)
    element = mark_xml(replace(mark, digest=""))
    libvirt_foreign.set_live_metadata(mark.server_id, element, MARK_KEY, MARK_URI)
    killpoint.reached(f"domain {mark.server_id} marked")
    libvirt_foreign.no_autostart(mark.server_id)
    killpoint.reached(f"domain {mark.server_id} has no autostart")
    # The kinds that follow look at what runs.
    runs = mark.server_id in nic.running(host, spec)
    known = {"exists": True, "power_state": state, "observed": store.now()}
    return {**known, "as_adopted": runs}


def _claim(host: Host, disk: Disk) -> None:
    """Say by a link of our name which file a disk is."""
    if disk.adopts is None:
        raise StepFailed(f"the spec does not say where disk {disk.id} is")
    path = layout.disk(host.data, disk.id, disk.format)
    if path.exists() and not path.is_symlink():
        raise StepFailed(f"there is a disk {disk.id} already")
    files.make_folder(path.parent, 0o711)
    files.link(path, disk.adopts)


def _let_go(host: Host, disk: Disk) -> None:
    path = layout.disk(host.data, disk.id, disk.format)
    if path.is_symlink():
        files.remove(path)
