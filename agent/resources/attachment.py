"""Volumes of guests that run: plugged in while they run, released when the guest is asked.

As with NICs (``agent.resources.nic``), a domain's definition has the volumes of its next start;
here is what a running guest has. A guest that does not release one keeps it, since nothing may be
pulled from under a file system; it is asked again by each convergence, but not waited for any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from agent import killpoint, layout, store
from agent.resources import nic, switch
from agent.resources.base import Facts, Host, Step
from agent.resources.domain_inputs import volumes_of
from agent.resources.domain_xml import VolumeInput, volume_aliases, volume_xml
from agent.spec import HostSpec, Server
from agent.system.libvirt_conn import DomainView


class Attachments:
    """The kind ``attachment``; ids are those of the volumes."""

    name = "attachment"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Volumes that a guest has and should not have."""
        if not spec.backends and not layout.volumes(host.data).is_dir():
            return
        for server, view, described in nic.guests(host, spec):
            wanted = {each.volume_id for each in server.volumes}
            for volume in described.volumes:
                if volume.serial not in wanted:
                    yield self._release(host, server, view, volume)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Volumes that a guest should have; what does not run has them by its definition."""
        having = [server for server in spec.servers if server.volumes]
        guests = nic.guests(host, spec) if having else ()
        found_in = {server.id: described.volumes for server, _, described in guests}
        for server in having:
            found = {each.serial for each in found_in.get(server.id, ())}
            for each in server.volumes:
                step = Step(self.name, each.volume_id, "unchanged", server.version)
                if server.moving or server.held:
                    step = Step(self.name, each.volume_id, "busy" if server.moving else "held")
                elif each.volume_id not in found:
                    step = self._missing(host, spec, server, server.id in found_in, step)
                yield step

    def _release(self, host: Host, server: Server, view: DomainView, volume: VolumeInput) -> Step:
        asked = store.is_pending(host.data, release_mark(volume.serial))
        work = partial(
            _release, host, server, view, volume, nic.AGAIN_S if asked else nic.PATIENCE_S
        )
        why = f"{server.guest.name} shall not have {volume.serial}"
        return Step(
            self.name, volume.serial, "removed", server.version, why=why, apply=work, parallel=True
        )

    def _missing(self, host: Host, spec: HostSpec, server: Server, runs: bool, step: Step) -> Step:
        words = host.not_tried(("volume", step.id), ("domain", server.id))
        if words:
            return switch.failed(self.name, step.id, step.version, words)
        if (nic.KIND.name, spec.host_id) in host.failed:
            return switch.failed(self.name, step.id, step.version, "libvirt did not say what runs")
        if not runs:
            return step
        volume = next(each for each in volumes_of(host, spec, server) if each.serial == step.id)
        xml = volume_xml(volume, server.disk_bus)
        work = partial(nic.plug, host, server.id, f"volume {step.id}", xml, volume.target)
        why = f"{server.guest.name} runs without volume {step.id}"
        return Step(self.name, step.id, "made", step.version, why=why, apply=work)


KIND = Attachments()


def _release(
    host: Host, server: Server, view: DomainView, volume: VolumeInput, patience_s: float
) -> Facts:
    host.seen.pop(nic.RUNNING, None)
    mark = release_mark(volume.serial)
    store.mark_pending(host.data, mark)
    state = " (it is paused)" if view.state == "PAUSED" else ""
    words = (
        f"the guest did not release the volume {volume.serial} ({volume.target}) within "
        f"{patience_s:g} s{state}. It keeps it; it is asked again by each convergence, and loses "
        "it at its next start"
    )
    nic.let_go(server.id, lambda xml: volume_aliases(xml).get(volume.serial, ""), patience_s, words)
    killpoint.reached(f"volume {volume.serial} released")
    store.clear_pending(host.data, mark)
    return {"device": volume.target}


def release_mark(volume_id: str) -> str:
    """Names the mark that a guest was asked for a volume and has not been seen to let go of it."""
    return f"release-{volume_id}"
