"""Copies of disks for images: complete by themselves, as the disk was at one moment.

The disk of a guest that runs is copied by qemu (libvirt's backup job, push mode): its content at
the moment of the start goes to a file of its own while the guest writes on, and the guest's chain
of files stays as it is. Whatever dies meanwhile, the disk has not moved. (An external snapshot
with a commit afterwards would have the guest write to a second file for a while, and lose data
with it.) The disk of a guest that is off is copied by qemu-img.

A copy is locked by its maker for as long as that lives; one without a maker is removed by the next
convergence.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import killpoint, layout
from agent.channel import Channel
from agent.faults import StepFailed
from agent.resources.domain_xml import backup_xml, disk_target, has_guest_agent
from agent.spec import Disk
from agent.store import Store
from agent.system import files, libvirt_conn, qemu_img
from agent.system.libvirt_conn import LibvirtError
from agent.system.qemu_img import ImageFile
from agent.wire import BLOB_CHUNK_BYTES

POLL_S = 0.2
LOCK_TIMEOUT_S = 5.0
LIMIT_S = 6 * 3600.0
"""How long qemu may take for one copy."""

FROZEN = "frozen-"
"""A pending mark: the file systems of this guest may be frozen."""

Args = dict[str, Any]
Check = Callable[[], None]


def serve(channel: Channel, store: Store, action_id: str, args: Args) -> Args:
    """Copy a disk and send it: {server_id, disk_id}; returns its {sha256, quiesced}.

    ``stream`` with the size comes first, then the bytes, then the result.
    """
    disk = _disk(store, args)
    try:
        with _locked(store.data, disk.server_id, LOCK_TIMEOUT_S):
            return _serve(channel, store.data, action_id, disk)
    except files.LockHeld as held:
        raise StepFailed(f"process {held} makes another copy of this server's disk") from None


def _serve(channel: Channel, data: Path, action_id: str, disk: Disk) -> Args:
    _clear(data, disk.server_id)
    copy = _file(data, disk.server_id)
    try:
        quiesced = _copy(data, disk, copy, channel.check)
        return {"sha256": _send(channel, action_id, copy), "quiesced": quiesced}
    except OSError as error:
        if files.is_full(error):
            raise StepFailed("the disk is full; nothing is kept") from None
        raise
    finally:
        _clear(data, disk.server_id)


def abandoned(data: Path) -> list[str]:
    """Servers with a copy, or frozen file systems, whose maker is gone."""
    pending = data / "pending"
    named = {path.stem for path in _entries(layout.snapshots(data))}
    named |= {
        path.name[len(FROZEN) :] for path in _entries(pending) if path.name.startswith(FROZEN)
    }
    return [server_id for server_id in sorted(named) if _is_free(data, server_id)]


def sweep(data: Path, server_id: str) -> None:
    """End what is left of a copy, unless somebody makes one now."""
    with suppress(files.LockHeld), _locked(data, server_id):
        _clear(data, server_id)


def _clear(data: Path, server_id: str) -> None:
    """End a copy: the job, the file, frozen file systems."""
    mark = data / "pending" / f"{FROZEN}{layout.checked(server_id)}"
    copy = _file(data, server_id)
    if mark.exists():
        with suppress(LibvirtError):
            libvirt_conn.thaw(server_id)
        files.remove(mark)
    if copy.exists():
        with suppress(LibvirtError):
            libvirt_conn.abort_job(server_id)
        files.remove(copy)


def _disk(store: Store, args: Args) -> Disk:
    spec = store.spec()
    disks = () if spec is None else spec.disks
    wanted = (str(args["server_id"]), str(args["disk_id"]))
    found = next((each for each in disks if (each.server_id, each.id) == wanted), None)
    if found is None:
        raise StepFailed(f"this host has no disk {wanted[1][:40]} of server {wanted[0][:40]}")
    return found


def _copy(data: Path, disk: Disk, copy: Path, check: Check) -> bool:
    """Make the copy; whether the guest's file systems were quiet meanwhile."""
    source = ImageFile(layout.disk(data, disk.id, disk.format), disk.format)
    _check_space(source.path, copy.parent, disk)
    runs = libvirt_conn.state(disk.server_id) in ("RUNNING", "PAUSED")
    if not runs:
        qemu_img.copy(source, ImageFile(copy, "qcow2"), dies_with_us=True)
        killpoint.reached(f"disk {disk.id} copied")
        return True
    target = disk_target(libvirt_conn.live_xml(disk.server_id), str(source.path))
    if target is None:
        raise StepFailed(f"the guest does not have the disk {disk.id}")
    quiet = _freeze(data, disk.server_id)
    try:
        libvirt_conn.begin_backup(disk.server_id, backup_xml(target, str(copy)))
    finally:
        if quiet:
            _thaw(data, disk.server_id)
    killpoint.reached(f"disk {disk.id} is being copied")
    _await(disk.server_id, check)
    killpoint.reached(f"disk {disk.id} copied")
    return quiet


def _check_space(source: Path, folder: Path, disk: Disk) -> None:
    """Refuse what cannot fit: the copy has at most the disk's size, and what lies under it."""
    needed = min(disk.size_bytes, source.stat().st_blocks * 512)
    free, _ = files.free_bytes(folder)
    if free < needed:
        raise StepFailed(f"a copy of the disk needs {needed} bytes; {free} are free")


def _freeze(data: Path, server_id: str) -> bool:
    """Have a guest with an agent write out what it has; False without one.

    The mark comes first: an agent that dies here leaves a guest that the next one thaws.
    """
    if not has_guest_agent(libvirt_conn.live_xml(server_id)):
        return False
    folder = files.make_folder(data / "pending", 0o700)
    files.write_atomic(folder / f"{FROZEN}{layout.checked(server_id)}", b"")
    try:
        libvirt_conn.freeze(server_id)
    except LibvirtError:
        _thaw(data, server_id)
        return False
    killpoint.reached(f"domain {server_id} frozen")
    return True


def _thaw(data: Path, server_id: str) -> None:
    with suppress(LibvirtError):
        libvirt_conn.thaw(server_id)
    files.remove(data / "pending" / f"{FROZEN}{server_id}")


def _await(server_id: str, check: Check) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        check()
        why = libvirt_conn.backup_ended(server_id)
        if why == "":
            return
        if why is not None:
            raise StepFailed(f"qemu did not finish the copy: {why}")
        if time.monotonic() > deadline:
            raise StepFailed(f"qemu did not finish the copy within {LIMIT_S:g} s")
        time.sleep(POLL_S)


def _send(channel: Channel, action_id: str, copy: Path) -> str:
    """Send a file in pieces; returns its SHA-256."""
    digest = hashlib.sha256()
    with copy.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        channel.send({"type": "stream", "id": action_id, "size_bytes": size})
        left = size
        while left > 0:
            piece = file.read(min(BLOB_CHUNK_BYTES, left))
            if not piece:
                raise StepFailed("the copy became shorter while it was sent")
            left -= len(piece)
            digest.update(piece)
            channel.send_bytes(piece)
    killpoint.reached("copy sent")
    return digest.hexdigest()


def _locked(data: Path, server_id: str, timeout_s: float = 0) -> Any:
    folder = files.make_folder(data / "locks")
    lock = folder / f"snapshot-{layout.checked(server_id)}"
    return files.locked(lock, timeout_s, str(os.getpid()))


def _is_free(data: Path, server_id: str) -> bool:
    try:
        with _locked(data, server_id):
            return True
    except files.LockHeld:
        return False


def _file(data: Path, server_id: str) -> Path:
    folder = files.make_folder(layout.snapshots(data), 0o711)
    return folder / f"{layout.checked(server_id)}.qcow2"


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
