"""Volumes: made once, while their row says ``build``; grown; removed by tombstone alone.

A volume stands by itself: what it is made of is copied, so that neither an image nor another
volume has to stay for it. A snapshot is such a copy. Each report says which servers have it now
(``used_by``): by that the controller knows that a guest has let go of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent import images, inspection, killpoint, layout, store
from agent.faults import StepFailed, fault_of
from agent.resources import attachment, nic, volume_copy
from agent.resources.base import Facts, Host, Step
from agent.resources.domain_xml import disk_files
from agent.spec import HostSpec, Tombstone, Volume
from agent.system import files, libvirt_conn, qemu_img
from agent.system.libvirt_conn import LibvirtError
from agent.system.qemu_img import ImageFile
from agent.wire import Fault

FORMATS = ("qcow2", "raw")


class VolumeKind:
    """Files in the volumes folder, named by the volume's id and format."""

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
        for volume_id, path in _present(host.data):
            if volume_id not in known:
                yield Step(self.name, volume_id, "orphan", facts={"file": path.name})

    def _removal(self, host: Host, spec: HostSpec, stone: Tombstone) -> Step:
        paths = [
            path
            for disk_format in FORMATS
            for path in _with_part(layout.volume(host.data, stone.id, disk_format))
            if path.exists()
        ]
        step = Step(self.name, stone.id, "removed", stone.version, why="already absent")
        if not paths:
            return step
        try:
            users = _users(host, spec, paths[0])
        except LibvirtError as error:
            return replace(step, result="failed", fault=fault_of(error))
        if users:
            return replace(step, result="failed", fault=Fault(f"not tried: {users[0]} has it"))

        def remove() -> None:
            for path in paths:
                files.remove(path)
            store.clear_pending(host.data, attachment.release_mark(stone.id))

        return replace(step, why="deleted", apply=remove)

    def _wanted(self, host: Host, spec: HostSpec, volume: Volume) -> Step:
        step = Step(self.name, volume.id, "unchanged", volume.version)
        path = layout.volume(host.data, volume.id, volume.format)
        if not path.exists():
            return self._missing(host, spec, volume, step)
        try:
            users = _users(host, spec, path)
            size_bytes = inspection.virtual_size_bytes(path, volume.format)
        except (LibvirtError, OSError, inspection.UnsafeImage) as error:
            return replace(step, result="failed", fault=fault_of(error))
        facts: Facts = {"used_by": users}
        mark = attachment.release_mark(volume.id)
        forgets = not users and store.is_pending(host.data, mark)
        if size_bytes >= volume.size_bytes and not forgets:
            return replace(step, facts=facts)

        def change() -> Facts:
            if forgets:
                store.clear_pending(host.data, mark)
            if size_bytes < volume.size_bytes:
                grow(path, volume, users)
            return facts

        why = f"has {size_bytes} bytes, should have {volume.size_bytes}"
        if forgets:
            why = "no guest has it any more"
        return replace(step, result="changed", why=why, apply=change)

    def _missing(self, host: Host, spec: HostSpec, volume: Volume, step: Step) -> Step:
        if not volume.build:
            return replace(step, result="failed", fault=Fault(f"volume {volume.id} is missing"))
        if volume.image_id is not None and ("image", volume.image_id) in host.failed:
            fault = Fault(f"not tried: image {volume.image_id} failed")
            return replace(step, result="failed", fault=fault)

        if volume.source_id is not None and (self.name, volume.source_id) in host.failed:
            fault = Fault(f"not tried: volume {volume.source_id} failed")
            return replace(step, result="failed", fault=fault)

        # A guest's qemu makes one copy at a time.
        together = volume.source_id is None

        def make() -> Facts:
            return {"used_by": [], **build(host, spec, volume)}

        return replace(step, result="made", why="not built yet", apply=make, parallel=together)


def build(host: Host, spec: HostSpec, volume: Volume) -> Facts:
    """Make the file of a volume, complete or not at all; what is to be said of its content."""
    files.make_folder(layout.volumes(host.data), 0o711)
    path = layout.volume(host.data, volume.id, volume.format)
    part = ImageFile(_with_part(path)[1], volume.format)
    part.path.unlink(missing_ok=True)
    try:
        facts = _fill(host, spec, volume, part)
        part.path.chmod(0o600)
        files.sync_path(part.path)
        killpoint.reached(f"volume {volume.id} written")
        files.publish(part.path, path)
        return facts
    finally:
        part.path.unlink(missing_ok=True)


def grow(path: Path, volume: Volume, users: list[str]) -> None:
    """Make a volume larger, by the guest's own qemu where one has it open."""
    if users:
        libvirt_conn.resize_disk(users[0], str(path), volume.size_bytes)
    else:
        qemu_img.resize(ImageFile(path, volume.format), volume.size_bytes)
    killpoint.reached(f"volume {volume.id} grown")


def _fill(host: Host, spec: HostSpec, volume: Volume, part: ImageFile) -> Facts:
    facts: Facts = {}
    if volume.source_id is not None:
        source = _source(host.data, spec, volume)
        host.seen.pop(nic.RUNNING, None)
        facts = volume_copy.copy(host.data, source, part, _users(host, spec, source.path))
    elif volume.image_id is not None:
        qemu_img.copy(_image(host.data, spec, volume), part)
    else:
        qemu_img.create(part, volume.size_bytes)
    if inspection.virtual_size_bytes(part.path, part.format) < volume.size_bytes:
        qemu_img.resize(part, volume.size_bytes)
    return facts


def _source(data: Path, spec: HostSpec, volume: Volume) -> ImageFile:
    found = next((each for each in spec.volumes if each.id == volume.source_id), None)
    if found is None:
        raise StepFailed(
            f"volume {volume.id} needs volume {volume.source_id}, which the spec does not have"
        )
    return ImageFile(layout.volume(data, found.id, found.format), found.format)


def _image(data: Path, spec: HostSpec, volume: Volume) -> ImageFile:
    image = next((image for image in spec.images if image.id == volume.image_id), None)
    if image is None:
        raise StepFailed(
            f"volume {volume.id} needs image {volume.image_id}, which the spec does not have"
        )
    sidecar = images.cached(data, image.sha256)
    if sidecar is None:
        raise StepFailed(f"image {image.id} is not in the cache any more")
    if sidecar.virtual_size_bytes > volume.size_bytes:
        raise StepFailed(
            f"volume {volume.id} has {volume.size_bytes} bytes; "
            f"its image needs {sidecar.virtual_size_bytes}"
        )
    return ImageFile(layout.image(data, image.sha256), sidecar.format)


def _users(host: Host, spec: HostSpec, path: Path) -> list[str]:
    """The ids of servers that run with this file as a disk."""
    found = nic.running(host, spec)
    name = str(path)
    return sorted(
        id_ for id_, view in found.items() if name in view.xml and name in disk_files(view.xml)
    )


def _with_part(path: Path) -> tuple[Path, Path]:
    return path, path.with_name(f".{path.name}.part")


def _present(data: Path) -> Iterator[tuple[str, Path]]:
    folder = layout.volumes(data)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):
            yield path.stem, path


KIND = VolumeKind()
