"""Copies of disks for images: complete by themselves, as the disk was at one moment.

The disk of a guest that runs is copied by qemu (``agent.copies.live_copy``), that of a guest that
is off by qemu-img.

A copy is locked by its maker for as long as that lives; one without a maker is removed by the next
convergence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import killpoint, layout
from agent.channel import Channel
from agent.copies import live_copy
from agent.faults import StepFailed
from agent.spec import Disk
from agent.store import Store
from agent.system import files, libvirt_conn, qemu_img
from agent.system.qemu_img import ImageFile
from agent.wire import BLOB_CHUNK_BYTES

LOCK_TIMEOUT_S = 5.0
LIMIT_S = 6 * 3600.0
"""How long qemu may take for one copy."""

Args = dict[str, Any]
Check = Callable[[], None]


def serve(channel: Channel, store: Store, action_id: str, args: Args) -> Args:
    """Copy a disk and send it: {server_id, disk_id}; returns its {sha256, quiesced}.

    ``stream`` with the size comes first, then the bytes, then the result.
    """
    disk = _disk(store, args)
    strict = live_copy.must_be_quiet(store.spec(), disk.server_id)
    with live_copy.alone(store.data, disk.server_id, LOCK_TIMEOUT_S):
        return _serve(channel, store.data, action_id, disk, strict)


def _serve(channel: Channel, data: Path, action_id: str, disk: Disk, strict: bool) -> Args:
    _clear(data, disk.server_id)
    copy = file_of(data, disk.server_id)
    try:
        quiesced = _copy(data, disk, copy, channel.check, strict)
        return {"sha256": _send(channel, action_id, copy), "quiesced": quiesced}
    except OSError as error:
        if files.is_full(error):
            raise StepFailed("the disk is full; nothing is kept") from None
        raise
    finally:
        _clear(data, disk.server_id)


def abandoned(data: Path) -> list[str]:
    """Servers with a copy, or frozen file systems, whose maker is gone."""
    named = {path.stem for path in _entries(layout.snapshots(data))} | live_copy.left_frozen(data)
    return [server_id for server_id in sorted(named) if _is_free(data, server_id)]


def sweep(data: Path, server_id: str) -> None:
    """End what is left of a copy, unless somebody makes one now."""
    with suppress(files.LockHeld), live_copy.locked(data, server_id):
        _clear(data, server_id)


def _clear(data: Path, server_id: str) -> None:
    """End a copy: the job, the file, frozen file systems."""
    copy = file_of(data, server_id)
    live_copy.thaw_left(data, server_id)
    if copy.exists():
        live_copy.abort(server_id)
        files.remove(copy)


def _disk(store: Store, args: Args) -> Disk:
    spec = store.spec()
    disks = () if spec is None else spec.disks
    wanted = (str(args["server_id"]), str(args["disk_id"]))
    found = next((each for each in disks if (each.server_id, each.id) == wanted), None)
    if found is None:
        raise StepFailed(f"this host has no disk {wanted[1][:40]} of server {wanted[0][:40]}")
    return found


def _copy(data: Path, disk: Disk, copy: Path, check: Check, strict: bool) -> bool:
    """Make the copy; whether the guest's file systems were quiet meanwhile."""
    source = ImageFile(layout.lies_at(layout.disk(data, disk.id, disk.format)), disk.format)
    _check_space(source.path, copy.parent, disk)
    runs = libvirt_conn.state(disk.server_id) in ("RUNNING", "PAUSED")
    if not runs:
        qemu_img.copy(source, ImageFile(copy, "qcow2"), dies_with_us=True)
        killpoint.reached(f"disk {disk.id} copied")
        return True
    target = ImageFile(copy, "qcow2")
    moment = live_copy.copy(data, disk.server_id, str(source.path), target, check, LIMIT_S, strict)
    killpoint.reached(f"disk {disk.id} copied")
    return moment.quiet


def _check_space(source: Path, folder: Path, disk: Disk) -> None:
    """Refuse what cannot fit: the copy has at most the disk's size, and what lies under it."""
    needed = min(disk.size_bytes, source.stat().st_blocks * 512)
    free, _ = files.free_bytes(folder)
    if free < needed:
        raise StepFailed(f"a copy of the disk needs {needed} bytes; {free} are free")


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


def _is_free(data: Path, server_id: str) -> bool:
    try:
        with live_copy.locked(data, server_id):
            return True
    except files.LockHeld:
        return False


def file_of(data: Path, server_id: str) -> Path:
    """Where a copy of a server's disk is made; its lock is held."""
    folder = files.make_folder(layout.snapshots(data), 0o711)
    return folder / f"{layout.checked(server_id)}.qcow2"


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
