"""Domains: servers as libvirt runs them.

A definition is compared by the digest of its inputs and by what people like to edit; a running
guest is redefined at most, never restarted. Power is commanded: the agent acts once on a power
serial newer than the one in the domain's mark, and leaves alone a guest that went off by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from agent import killpoint, layout, store
from agent.faults import StepFailed, fault_of
from agent.moves import whereabouts
from agent.resources import adoption, configdrive, domain_power, nic, stray
from agent.resources.base import Facts, Host, Step
from agent.resources.domain_inputs import (
    Platform,
    boot_files,
    domain_input,
    missing_needs,
)
from agent.resources.domain_xml import (
    Described,
    DomainInput,
    Mark,
    compile_domain,
    describe,
    essentials,
    input_digest,
)
from agent.spec import HostSpec, Server, Tombstone
from agent.system import files, libvirt_conn
from agent.system.libvirt_conn import DomainView, LibvirtError
from agent.wire import Fault


@dataclass(frozen=True)
class Existing:
    """A domain that libvirt has, and what its XML says."""

    view: DomainView
    described: Described

    @property
    def runs(self) -> bool:
        """Whether its guest is there (paused ones are)."""
        return self.view.state in ("RUNNING", "PAUSED", "SUSPENDED")


class DomainKind:
    """Domains named ``sc-<server id>`` that carry our mark."""

    name = "domain"

    def removals(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Domains with a tombstone, and what lies around them; a wanted server stays."""
        wanted = {server.id for server in spec.servers}
        for tombstone in spec.tombstones:
            if tombstone.kind == self.name and tombstone.id not in wanted:
                yield self._removal(host, spec, tombstone)

    def changes(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Domains to define, redefine, start or stop, and orphans."""
        wanted = {server.id for server in spec.servers}
        try:
            views = libvirt_conn.observe(wanted)
            # Looked at anew when it was changed: adopted guests are told by it.
            nic.running(host, spec)
        except LibvirtError as error:
            for server in spec.servers:
                yield Step(self.name, server.id, "failed", server.version, fault=fault_of(error))
            return
        found = {key: Existing(view, describe(view.xml)) for key, view in views.items()}
        platform = Platform(host, spec.settings)
        for server in spec.servers:
            existing = found.get(server.id)
            # What is to be taken over and was not, says so itself: it is never made anew.
            if not server.adopts or (existing and adoption.is_ours(existing.described, spec)):
                yield self._wanted(host, spec, server, existing, platform)
        gone = {tombstone.id for tombstone in spec.tombstones if tombstone.kind == self.name}
        for domain_id in sorted(found.keys() - wanted - gone):
            mark = found[domain_id].described.mark
            if mark is not None and mark.cloud_id == spec.cloud_id:
                yield Step(self.name, domain_id, "orphan", facts=_facts(found[domain_id]))

    def _removal(self, host: Host, spec: HostSpec, tombstone: Tombstone) -> Step:
        step = Step(self.name, tombstone.id, "removed", tombstone.version, why="already absent")
        try:
            view = libvirt_conn.observe_one(tombstone.id)
        except LibvirtError as error:
            return replace(step, result="failed", fault=fault_of(error))
        if view is not None and not _is_ours(describe(view.xml).mark, spec):
            return replace(step, result="failed", fault=Fault(f"domain {view.name} is not ours"))
        left = [path for path in _belongings(host, tombstone.id) if path.exists()]
        if view is None and not left:
            return step

        def remove() -> Facts:
            # One that is on its way here now comes to its end first, wherever that is.
            with whereabouts.unmoved(host.data, tombstone.id):
                if libvirt_conn.observe_one(tombstone.id) is not None:
                    host.seen.pop(nic.RUNNING, None)
                    libvirt_conn.destroy(tombstone.id)
                    killpoint.reached(f"domain {tombstone.id} destroyed")
                    libvirt_conn.undefine(tombstone.id)
                    killpoint.reached(f"domain {tombstone.id} undefined")
                for path in _belongings(host, tombstone.id):
                    files.remove_folder(path)
            return {"exists": False}

        return replace(step, why="deleted", apply=remove, parallel=True)

    def _wanted(
        self,
        host: Host,
        spec: HostSpec,
        server: Server,
        existing: Optional[Existing],
        platform: Platform,
    ) -> Step:
        facts = {**_facts(existing), **_as_adopted(host, server)}
        step = Step(self.name, server.id, "unchanged", server.version, facts=facts)
        if server.moving or server.held:
            return replace(step, result="busy" if server.moving else "held")
        if existing is not None and not _is_ours(existing.described.mark, spec):
            words = f"libvirt has a domain {existing.view.name} with this id that is not ours"
            return replace(step, result="failed", fault=Fault(words))
        try:
            change = plan(host, spec, server, existing, platform)
        except Exception as error:
            return replace(step, result="failed", fault=fault_of(error))
        if not change.why:
            return step
        needs = missing_needs(host, spec, server) if change.needs_parts else ""
        if needs:
            return replace(step, result="failed", fault=Fault(f"not tried: {needs}"))
        result = "made" if existing is None else "changed"
        work = _Work(host, spec, server, existing, change)
        return replace(step, result=result, why=change.why, apply=work.apply, parallel=True)


@dataclass(frozen=True)
class Change:
    """What must happen to a domain: a new definition, a power command, or both.

    ``waits``: a guest that runs sees of the definition only what can be plugged (its NICs and
    volumes), the rest when it is started next.
    """

    why: str
    define: bool
    power: domain_power.Command
    domain: DomainInput

    new: bool
    waits: bool

    @property
    def needs_parts(self) -> bool:
        """Whether disks, ports and images must be there for it."""
        return self.new or self.power.starts or self.power.act == "restore"


def plan(
    host: Host, spec: HostSpec, server: Server, existing: Optional[Existing], platform: Platform
) -> Change:
    """The difference between a server and its domain (``why`` is empty when there is none)."""
    described = None if existing is None else existing.described
    domain = domain_input(host, spec, server, platform, described)
    if existing is not None:
        domain = replace(domain, name=existing.view.name)
    difference = _difference(domain, described)
    rebooted = host.boot_id_before is not None and host.boot_id_before != host.boot_id
    command = domain_power.command(
        server.power,
        served=described.mark.power_serial if described and described.mark else None,
        runs=existing is not None and existing.runs,
        host_rebooted=rebooted and spec.settings.on_boot == "all",
    )
    plugs = bool(difference) and _only_plugged_differ(domain, described)
    if plugs and described is not None:
        difference = _plugged_difference(domain, described)
    reasons = [reason for reason in (difference, command.why) if reason]
    return Change(
        "; ".join(reasons),
        bool(difference),
        command,
        domain,
        new=described is None,
        waits=bool(difference) and not plugs,
    )


def _only_plugged_differ(domain: DomainInput, described: Optional[Described]) -> bool:
    """Whether a domain differs in NICs and volumes that are there or not, which a guest sees at
    once."""
    if described is None or described.mark is None:
        return False
    wanted = {(nic.mac, nic.tap) for nic in domain.nics}
    kept = {nic for nic in described.nics if (nic.mac, nic.tap) in wanted}
    serials = {volume.serial for volume in domain.volumes}
    same = {volume for volume in described.volumes if volume.serial in serials}
    nics, volumes = described.nics, described.volumes
    before = replace(domain, nics=nics, volumes=volumes, offload=domain.offload or not nics)
    return (
        kept <= set(domain.nics)
        and same <= set(domain.volumes)
        and not _difference(before, described)
    )


def _plugged_difference(domain: DomainInput, described: Described) -> str:
    reasons = []
    if domain.volumes != described.volumes:
        volumes = ", ".join(f"{each.target} {each.serial}" for each in domain.volumes)
        reasons.append(f"its volumes should be {volumes or 'none'}")
    if domain.nics != described.nics or not reasons:
        macs = ", ".join(nic.mac for nic in domain.nics)
        reasons.insert(0, f"its NICs should be {macs or 'none'}")
    return "; ".join(reasons)


def _difference(domain: DomainInput, described: Optional[Described]) -> str:
    if described is None or described.mark is None:
        return "not defined"
    if described.mark.digest != input_digest(domain):
        return "its definition is an older one"
    wanted, found = set(essentials(domain)), set(described.essentials)
    if wanted != found:
        return f"has {sorted(found - wanted)}, should have {sorted(wanted - found)}"
    return ""


class _Work:
    """Carries out one change. Each effect can be found again by the next convergence."""

    def __init__(
        self,
        host: Host,
        spec: HostSpec,
        server: Server,
        existing: Optional[Existing],
        change: Change,
    ) -> None:
        self._host, self._spec, self._server = host, spec, server
        self._existing, self._change = existing, change
        self._as_adopted = _as_adopted(host, server)
        self._mark = Mark(
            cloud_id=spec.cloud_id,
            server_id=server.id,
            project_id=server.guest.project_id,
            power_serial=_served(existing),
            digest=input_digest(change.domain),
        )

    def apply(self) -> Facts:
        """Define, obey the power command, and mark it as obeyed."""
        command = self._change.power
        self._host.seen.pop(nic.RUNNING, None)
        try:
            if command.stops:
                domain_power.stop(self._server.id, command.grace_s)
                killpoint.reached(f"domain {self._server.id} stopped")
            if command.forgets and self._existing is not None:
                libvirt_conn.forget_saved(self._server.id)
            self._define(command.starts)
            if command.starts:
                domain_power.start(self._server.id)
                killpoint.reached(f"domain {self._server.id} started")
            if command.act:
                self._act(command)
                killpoint.reached(f"domain {self._server.id} {command.act}d")
            if command.obeyed_serial is not None:
                domain_power.remember(replace(self._mark, power_serial=command.obeyed_serial))
        except LibvirtError as error:
            raise StepFailed(str(error), facts=self._facts_now()) from None
        except StepFailed as error:
            error.facts = {**self._facts_now(), **error.facts}
            raise
        return self._facts_now()

    def _act(self, command: domain_power.Command) -> None:
        """One that cannot be obeyed is not tried again: the guest is as it was, and whoever asked
        for it is told."""
        try:
            domain_power.act(self._server.id, command.act)
        except StepFailed as error:
            served = command.obeyed_serial or self._mark.power_serial
            domain_power.remember(replace(self._mark, power_serial=served))
            error.facts["declined"] = True
            raise

    def _define(self, starts: bool) -> None:
        domain = self._change.domain
        stopped = self._existing is None or not self._existing.runs or self._change.power.stops
        if stopped and (starts or self._existing is None):
            folder = files.make_folder(layout.server(self._host.data, self._server.id), 0o711)
            boot_files(self._host, self._spec, self._server, folder)
            configdrive.build(self._host.data, self._spec, self._server, self._host.blob)
            killpoint.reached(f"domain {self._server.id} has its drive")
        if self._change.define:
            libvirt_conn.define(compile_domain(domain, self._mark))
            killpoint.reached(f"domain {self._server.id} defined")

    def _facts_now(self) -> Facts:
        """What libvirt says now; what it said before when it does not answer any more."""
        try:
            view = libvirt_conn.observe_one(self._server.id)
        except LibvirtError:
            return _facts(self._existing)
        now = _facts(None if view is None else Existing(view, describe(view.xml)))
        still = self._existing is not None and self._existing.runs and not self._change.power.stops
        now |= {key: still for key in self._as_adopted}
        return {**now, "restart_pending": True} if still and self._change.waits else now


def _served(existing: Optional[Existing]) -> int:
    if existing is None or existing.described.mark is None:
        return 0
    return existing.described.mark.power_serial


def _facts(existing: Optional[Existing]) -> Facts:
    if existing is None:
        return {"exists": False, "power_state": "NOSTATE", "observed": store.now()}
    described = existing.described
    return {
        "exists": True,
        "power_state": existing.view.state,
        "observed": store.now(),
        "machine_type": described.machine_type,
        "virt_type": described.virt_type,
        "cpu": described.cpu,
    }


def _as_adopted(host: Host, server: Server) -> Facts:
    """Whether a guest that was adopted still runs by the definition that it had before."""
    view = (host.seen.get(nic.RUNNING) or {}).get(server.id)
    return {"as_adopted": True} if view is not None and stray.runs_as_adopted(view) else {}


def _is_ours(mark: Optional[Mark], spec: HostSpec) -> bool:
    return mark is not None and mark.cloud_id == spec.cloud_id


def _belongings(host: Host, server_id: str) -> Iterator[Path]:
    drive = layout.drive(host.data, server_id)
    yield drive
    yield drive.with_name(f".{drive.name}.tree")
    yield drive.with_name(f".{drive.name}.part")
    yield layout.server(host.data, server_id)
    yield layout.passage(host.data, server_id)


KIND = DomainKind()
