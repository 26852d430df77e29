"""Volumes: made once, while their row says ``build``; grown; removed by tombstone alone.

A volume stands by itself: what it is made of is copied, so that neither an image nor another
volume has to stay for it. A snapshot is such a copy. Each report says which servers have it now
(``used_by``): by that the controller knows that a guest has let go of one. Where volumes are kept
is their home's business (``agent.resources.home``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Optional

from agent import images, killpoint, store
from agent.faults import StepFailed, fault_of
from agent.resources import attachment, backend, nic
from agent.resources.base import Facts, Host, Step
from agent.resources.domain_xml import disk_target
from agent.resources.home import Content, Home, home_of
from agent.resources.volume_copy import AtRest, InUse, Still
from agent.spec import HostSpec, Tombstone, Volume
from agent.system import libvirt_conn
from agent.system.libvirt_conn import LibvirtError
from agent.wire import Fault


class VolumeKind:
    """Volumes by their ids, in the homes that their backends describe."""

    name = "volume"

    def removals(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Volumes with a tombstone; one that is wanted again, or that a guest has, stays."""
        wanted = {volume.id for volume in spec.volumes}
        stones = [stone for stone in spec.tombstones if stone.kind == self.name]
        for stone in stones:
            if stone.id not in wanted:
                yield self._removal(host, spec, stone)

    def changes(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Volumes to build or grow, those that are missing, and files that no row explains."""
        for volume in spec.volumes:
            yield self._wanted(host, spec, volume)
        known = {volume.id for volume in spec.volumes} | {
            stone.id for stone in spec.tombstones if stone.kind == self.name
        }
        for backend_id in (None, *backend.usable(host, spec)):
            with suppress(LibvirtError):
                for volume_id, name in home_of(host, spec, backend_id).strangers(known):
                    yield Step(self.name, volume_id, "orphan", facts={"file": name})

    def _removal(self, host: Host, spec: HostSpec, stone: Tombstone) -> Step:
        step = Step(self.name, stone.id, "removed", stone.version, why="already absent")
        try:
            home = home_of(host, spec, stone.backend_id)
            if stone.backend_id is not None:
                home.check()
            remains = home.remains(stone.id)
            users = _users(host, spec, stone.id) if remains else []
        except Exception as error:
            return replace(step, result="failed", fault=fault_of(error))
        if not remains:
            return step
        if users:
            return replace(step, result="failed", fault=Fault(f"not tried: {users[0]} has it"))

        def remove() -> None:
            home.remove(stone.id, remains)
            store.clear_pending(host.data, attachment.release_mark(stone.id))

        return replace(step, why="deleted", apply=remove)

    def _wanted(self, host: Host, spec: HostSpec, volume: Volume) -> Step:
        step = Step(self.name, volume.id, "unchanged", volume.version)
        if volume.backend_id is not None and (backend.KIND.name, volume.backend_id) in host.failed:
            words = backend.why_not(host, volume.backend_id)
            return replace(step, result="failed", fault=Fault(f"not tried: {words}"))
        try:
            home = home_of(host, spec, volume.backend_id)
            size_bytes = home.size_bytes(volume)
            users = [] if size_bytes is None else _users(host, spec, volume.id)
        except Exception as error:
            return replace(step, result="failed", fault=fault_of(error))
        if size_bytes is None:
            return self._missing(host, spec, volume, home, step)
        return self._there(host, volume, home, size_bytes, users, step)

    def _there(
        self,
        host: Host,
        volume: Volume,
        home: Home,
        size_bytes: int,
        users: list[str],
        step: Step,
    ) -> Step:
        facts: Facts = {"used_by": users}
        mark = attachment.release_mark(volume.id)
        forgets = not users and store.is_pending(host.data, mark)
        if size_bytes >= volume.size_bytes and not forgets:
            return replace(step, facts=facts)

        def change() -> Facts:
            if forgets:
                store.clear_pending(host.data, mark)
            if size_bytes < volume.size_bytes:
                grow(home, volume, users)
            return facts

        why = f"has {size_bytes} bytes, should have {volume.size_bytes}"
        if forgets:
            why = "no guest has it any more"
        return replace(step, result="changed", why=why, apply=change)

    def _missing(self, host: Host, spec: HostSpec, volume: Volume, home: Home, step: Step) -> Step:
        if not volume.build:
            return replace(step, result="failed", fault=Fault(f"volume {volume.id} is missing"))
        if volume.held:
            # Nothing that needs it can be made, either.
            host.failed.add((self.name, volume.id))
            return replace(step, result="held")
        words = host.not_tried(("image", volume.image_id), (self.name, volume.source_id))
        if words:
            return replace(step, result="failed", fault=Fault(words))

        # A guest's qemu makes one copy at a time.
        together = volume.source_id is None

        def make() -> Facts:
            return {"used_by": [], **build(host, spec, volume, home)}

        return replace(step, result="made", why="not built yet", apply=make, parallel=together)


def build(host: Host, spec: HostSpec, volume: Volume, home: Home) -> Facts:
    """Make a volume, complete or not at all; what is to be said of its content."""
    facts: Facts = {}
    home.build(volume, _content(host, spec, volume, facts))
    return facts


def grow(home: Home, volume: Volume, users: list[str]) -> None:
    """Make a volume larger, by the guest's own qemu where one has it open."""
    if users:
        device = disk_target(libvirt_conn.live_xml(users[0]), volume.id)
        if device is None:
            raise StepFailed(
                f"the guest {users[0]} does not run with volume {volume.id} (any more)"
            )
        libvirt_conn.resize_disk(users[0], device, volume.size_bytes)
    else:
        home.grow(volume)
    killpoint.reached(f"volume {volume.id} grown")


def _content(host: Host, spec: HostSpec, volume: Volume, facts: Facts) -> Optional[Content]:
    if volume.source_id is not None:
        return _copied(host, spec, volume, facts)
    what = f"volume {volume.id}"
    base = images.base_of(host.data, spec, what, volume.image_id, volume.size_bytes)
    return None if base is None else Still(base)


def _copied(host: Host, spec: HostSpec, volume: Volume, facts: Facts) -> Content:
    found = next((each for each in spec.volumes if each.id == volume.source_id), None)
    if found is None:
        raise StepFailed(
            f"volume {volume.id} needs volume {volume.source_id}, which the spec does not have"
        )
    host.seen.pop(nic.RUNNING, None)
    users = _users(host, spec, found.id)
    if users:
        return InUse(host.data, found.id, users[0], facts)
    return AtRest(home_of(host, spec, found.backend_id).image(found), facts)


def _users(host: Host, spec: HostSpec, volume_id: str) -> list[str]:
    """The ids of servers that run with this volume as a disk."""
    found = nic.running(host, spec)
    return sorted(
        id_
        for id_, view in found.items()
        if volume_id in view.xml and disk_target(view.xml, volume_id) is not None
    )


KIND = VolumeKind()
