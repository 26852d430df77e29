"""Disks: made once, while their row says ``build``; never made again, never removed unasked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Optional

from agent import images, inspection, killpoint, layout
from agent.copies import disk_copies
from agent.faults import StepFailed
from agent.resources import domain_power, nic, variables
from agent.resources.base import Host, Step
from agent.resources.domain_xml import disk_files
from agent.spec import Disk, HostSpec, Server, Tombstone
from agent.system import files, libvirt_conn, mkfs, qemu_img
from agent.system.qemu_img import ImageFile
from agent.wire import Fault

FORMATS = ("qcow2", "raw")
EPHEMERAL_LABEL = "ephemeral0"


class DiskKind:
    """Files in the disks folder, named by the id of one incarnation and its format."""

    name = "disk"

    def removals(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Disks with a tombstone; one that is wanted again stays."""
        wanted = {disk.id for disk in spec.disks}
        # A tombstone does not say whose disk it was, so one guest that may still run keeps all.
        alive = [key for kind, key in sorted(host.failed) if kind == "domain"]
        graves = [each for each in spec.tombstones if each.kind == self.name]
        kept = still_used(host, spec, graves)
        for tombstone in graves:
            if tombstone.id in wanted or tombstone.id in kept:
                continue
            step = self._removal(host, tombstone)
            if alive and step.apply is not None:
                fault = Fault(f"not tried: domain {alive[0]} failed")
                step = replace(step, result="failed", fault=fault, apply=None)
            yield step

    def changes(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Disks to build, disks that are missing, and files that no row explains."""
        servers = {server.id: server for server in spec.servers}
        for disk in spec.disks:
            yield self._wanted(host, spec, disk, servers.get(disk.server_id))
        known = {disk.id for disk in spec.disks} | {
            tombstone.id for tombstone in spec.tombstones if tombstone.kind == self.name
        }
        for disk_id, path in _present(host.data):
            if disk_id not in known and path.is_symlink():
                yield self._let_go(disk_id, path)
            elif disk_id not in known:
                yield Step(self.name, disk_id, "orphan", facts={"file": path.name})

    def _removal(self, host: Host, tombstone: Tombstone) -> Step:
        paths = _files(host, tombstone.id)

        def remove() -> None:
            for disk_format in FORMATS:
                disk_copies.discard(layout.disk(host.data, tombstone.id, disk_format))
            for path in paths:
                # An adopted one lies elsewhere; the link that says so goes last.
                files.remove(layout.lies_at(path))
                files.remove(path)

        return Step(
            self.name,
            tombstone.id,
            "removed",
            tombstone.version,
            why="deleted" if paths else "already absent",
            apply=remove if paths else None,
        )

    def _let_go(self, disk_id: str, path: Path) -> Step:
        """A link to a disk that was not adopted after all: a name, no data."""

        def remove() -> None:
            files.remove(path)

        why = f"{layout.lies_at(path)} is not ours"
        return Step(self.name, disk_id, "removed", why=why, apply=remove)

    def _wanted(self, host: Host, spec: HostSpec, disk: Disk, server: Optional[Server]) -> Step:
        path = layout.disk(host.data, disk.id, disk.format)
        if path.exists():
            return self._step(disk, "unchanged")
        let_be = _let_be(disk, server)
        if let_be:
            return self._step(disk, let_be)
        if disk.kind == variables.KIND and variables.from_before(host.data, disk).exists():
            return self._given_its_place(host, disk)
        if not disk.build:
            return self._step(
                disk, "failed", Fault(f"disk {disk.id} of server {disk.server_id} is missing")
            )
        words = host.not_tried(("image", disk.image_id))
        if words:
            return self._step(disk, "failed", Fault(words))

        def make() -> None:
            if disk.source_host_id is not None:
                take_over(host, spec, disk)
                return
            if disk.source_id is not None and server is not None:
                host.seen.pop(nic.RUNNING, None)
                _stop_for_copy(server)
            build(host.data, spec, disk)

        why = "not built yet" if disk.source_host_id is None else "on another host"
        return Step(self.name, disk.id, "made", disk.version, why=why, apply=make, parallel=True)

    def _given_its_place(self, host: Host, disk: Disk) -> Step:
        """A guest that runs has the file itself, and does not care for its name."""
        path = layout.disk(host.data, disk.id, disk.format)

        def move() -> None:
            files.make_folder(path.parent, 0o711)
            files.publish(variables.from_before(host.data, disk), path)

        return replace(self._step(disk, "changed"), why="lies where it was before", apply=move)

    def _step(self, disk: Disk, result: str, fault: Optional[Fault] = None) -> Step:
        return Step(self.name, disk.id, result, disk.version, fault=fault)


def _let_be(disk: Disk, server: Optional[Server]) -> str:
    """Why nothing is done about a file that is not there, as the result of a report."""
    if server is not None and server.held:
        return "held"
    moves = server is not None and server.moving and not disk.build
    # One to be adopted is told of with its domain.
    return "busy" if moves or disk.adopts is not None else ""


class ReplacedKind(DiskKind):
    """Disks that servers had until just now: rebuilt and rescued ones let go of them only when
    their domains have others."""

    def removals(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """None: these come after the domains have changed."""
        return iter(())

    def changes(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Disks with a tombstone that no domain has any more."""
        wanted = {disk.id for disk in spec.disks}
        graves = [
            each
            for each in spec.tombstones
            if each.kind == self.name and each.id not in wanted and _files(host, each.id)
        ]
        kept = still_used(host, spec, graves)
        failed = any(kind == "domain" for kind, _ in host.failed)
        for tombstone in graves:
            step = self._removal(host, tombstone)
            busy = tombstone.id in kept or failed
            yield replace(step, result="busy", apply=None) if busy else step


def still_used(host: Host, spec: HostSpec, graves: Iterable[Tombstone]) -> set[str]:
    """Deleted disks that a domain still has, by its definition or as it runs."""
    there = {each.id for each in graves if _files(host, each.id)}
    if not there or not spec.servers:
        return set()
    views = libvirt_conn.observe({server.id for server in spec.servers})
    live = libvirt_conn.running(views.keys())
    used = {path for view in (*views.values(), *live.values()) for path in disk_files(view.xml)}
    return {
        id_ for id_ in there if any(str(layout.lies_at(path)) in used for path in _files(host, id_))
    }


def build(data: Path, spec: HostSpec, disk: Disk) -> None:
    """Make the file of a disk, complete or not at all."""
    files.make_folder(layout.disks(data), 0o711)
    path = layout.disk(data, disk.id, disk.format)
    part = ImageFile(_with_part(path)[1], disk.format)
    part.path.unlink(missing_ok=True)
    try:
        if disk.source_id is not None:
            _clone(data, disk, part)
        elif disk.kind == variables.KIND:
            _fill_variables(data, spec, disk, part)
        else:
            _fill(data, part, base_of(data, spec, disk), disk)
        part.path.chmod(0o600)
        files.sync_path(part.path)
        killpoint.reached(f"disk {disk.id} written")
        files.publish(part.path, path)
    finally:
        part.path.unlink(missing_ok=True)


def take_over(host: Host, spec: HostSpec, disk: Disk) -> None:
    """Make the file of a disk of what another host has, complete or not at all."""
    path = layout.disk(host.data, disk.id, disk.format)
    base = base_of(host.data, spec, disk)
    if host.fetch_disk is None:
        raise StepFailed(f"disk {disk.source_id} is on another host")
    host.fetch_disk(disk)
    copy = ImageFile(disk_copies.received(path), disk.format)
    try:
        disk_copies.inspect(copy.path, disk.format, base.path.name if base else None)
        if base is not None and inspection.backing_file(copy.path) != str(base.path):
            qemu_img.rebase(copy, base)
        if inspection.virtual_size_bytes(copy.path, disk.format) < disk.size_bytes:
            qemu_img.resize(copy, disk.size_bytes)
        files.sync_path(copy.path)
    except (StepFailed, inspection.UnsafeImage):
        files.remove(copy.path)
        raise
    killpoint.reached(f"disk {disk.id} written")
    files.publish(copy.path, path)


def base_of(data: Path, spec: HostSpec, disk: Disk) -> Optional[ImageFile]:
    """The cached image that a disk is made from; StepFailed when it does not fit."""
    # UEFI variables have the size that they have.
    most = inspection.MAX_VIRTUAL_BYTES if disk.kind == variables.KIND else disk.size_bytes
    return images.base_of(data, spec, f"disk {disk.id}", disk.image_id, most)


def _fill(data: Path, part: ImageFile, base: Optional[ImageFile], disk: Disk) -> None:
    if base is None and disk.kind in ("ephemeral", "swap"):
        _format(data, part, disk)
    elif base is None or disk.format == "qcow2":
        qemu_img.create(part, disk.size_bytes, base)
    else:
        qemu_img.copy(base, part)
        qemu_img.resize(part, disk.size_bytes)


def _fill_variables(data: Path, spec: HostSpec, disk: Disk, part: ImageFile) -> None:
    """What a firmware keeps has the size that it has."""
    base = base_of(data, spec, disk)
    if base is None:
        qemu_img.clone(variables.template(spec, disk), part.path)
    else:
        qemu_img.copy(base, part)


def _format(data: Path, part: ImageFile, disk: Disk) -> None:
    """A disk with a file system, or swap, as Nova gives it to guests; made all hole first."""
    path = layout.disk(data, disk.id, disk.format)
    plain = ImageFile(_with_part(path)[2], "raw")
    try:
        qemu_img.create(plain, disk.size_bytes)
        if disk.kind == "swap":
            mkfs.make_swap(plain.path)
        else:
            mkfs.make_ext4(plain.path, EPHEMERAL_LABEL)
        qemu_img.copy(plain, part)
    finally:
        plain.path.unlink(missing_ok=True)


def _stop_for_copy(server: Server) -> None:
    """A guest whose disk is to be copied goes off first, as its power command wants it.

    It is started by its domain's step, which finds the command not yet obeyed.
    """
    if libvirt_conn.state(server.id) not in ("RUNNING", "PAUSED", "SUSPENDED"):
        return
    if server.power.action not in ("reboot", "reboot-hard", "stop"):
        raise StepFailed("the guest runs on the disk that is to be copied")
    domain_power.stop(server.id, server.power.timeout_s)
    killpoint.reached(f"domain {server.id} stopped")


def _clone(data: Path, disk: Disk, part: ImageFile) -> None:
    source = layout.lies_at(layout.disk(data, disk.source_id or "", disk.format))
    if not source.exists():
        raise StepFailed(f"disk {disk.source_id}, which it is a copy of, is missing")
    free, _ = files.free_bytes(source)
    needed = source.stat().st_blocks * 512
    if free < needed:
        raise StepFailed(f"a copy of the disk needs {needed} bytes; {free} are free")
    qemu_img.clone(source, part.path)
    if disk.kind != variables.KIND:
        qemu_img.resize(part, disk.size_bytes)


def _files(host: Host, disk_id: str) -> list[Path]:
    """What there is of a disk, whatever its format."""
    return [
        path
        for disk_format in FORMATS
        for path in _all_of(layout.disk(host.data, disk_id, disk_format))
        if path.exists() or path.is_symlink()
    ]


def _all_of(path: Path) -> tuple[Path, ...]:
    return (*_with_part(path), disk_copies.received(path), disk_copies.unfinished(path))


def _with_part(path: Path) -> tuple[Path, Path, Path]:
    """A file, what it is while it is made, and what that is made of."""
    part = path.with_name(f".{path.name}.part")
    return path, part, part.with_name(f"{part.name}.raw")


def _present(data: Path) -> Iterator[tuple[str, Path]]:
    folder = layout.disks(data)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):
            yield path.stem, path


KIND = DiskKind()
REPLACED = ReplacedKind()
