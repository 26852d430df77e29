"""A disk of a guest that runs, copied as it is at one moment; for images and for volumes.

qemu copies it (libvirt's backup job, push mode): its content at the moment of the start goes to a
file of its own while the guest writes on, and the guest's chain of files stays as it is. Whatever
dies meanwhile, the disk has not moved. (An external snapshot with a commit afterwards would have
the guest write to a second file for a while, and lose data with it.)

A guest's qemu makes one copy at a time: its maker holds a lock for as long as it lives. Whoever
has the lock may therefore break off what is still under way, and thaw what is still frozen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from agent import killpoint, layout, store
from agent.faults import StepFailed
from agent.resources.disk_source import backup_xml
from agent.resources.domain_xml import disk_target, has_guest_agent
from agent.spec import HostSpec
from agent.system import files, libvirt_conn
from agent.system.libvirt_conn import LibvirtError
from agent.system.qemu_img import ImageFile

POLL_S = 0.2

FROZEN = "frozen-"
"""A pending mark: the file systems of this guest may be frozen."""


@dataclass(frozen=True)
class Moment:
    """When a copy was taken, and whether the guest's file systems were quiet then."""

    taken: str
    quiet: bool


@contextmanager
def alone(data: Path, server_id: str, timeout_s: float) -> Iterator[None]:
    """Be the one who copies from a guest; StepFailed while somebody else does."""
    try:
        with locked(data, server_id, timeout_s):
            yield
    except files.LockHeld as held:
        raise StepFailed(f"process {held} makes another copy of this server's disk") from None


def locked(data: Path, server_id: str, timeout_s: float = 0) -> Any:
    """The same, with LockHeld."""
    folder = files.make_folder(data / "locks")
    lock = folder / f"snapshot-{layout.checked(server_id)}"
    return files.locked(lock, timeout_s, str(os.getpid()))


def copy(
    data: Path,
    server_id: str,
    source: str,
    target: ImageFile,
    check: Callable[[], None],
    limit_s: float,
    must_be_quiet: bool = False,
) -> Moment:
    """Copy a disk of a running guest, whose lock is held; ``check`` is asked meanwhile.

    ``source`` is the disk's file, or the serial of a volume. A copy that was not finished goes on
    no longer. ``must_be_quiet``: StepFailed when the agent in the guest does not help.
    """
    xml = libvirt_conn.live_xml(server_id)
    device, name = disk_target(xml, source), source.rpartition("/")[2]
    if device is None:
        raise StepFailed(f"the guest does not run with {name} (any more)")
    quiet = has_guest_agent(xml) and _freeze(data, server_id)
    if must_be_quiet and not quiet:
        raise StepFailed(
            "the image of this server says that its file systems must be quiet "
            "(os_require_quiesce), and no agent in the guest could see to that"
        )
    try:
        moment = Moment(store.now(), quiet)
        job = backup_xml(device, str(target.path), target.format)
        libvirt_conn.backup_begin(server_id, job)
    finally:
        if quiet:
            _thaw(data, server_id)
    killpoint.reached(f"copy of {name} begun")
    try:
        _await(server_id, check, limit_s)
    except BaseException:
        abort(server_id)
        raise
    return moment


def must_be_quiet(spec: Optional[HostSpec], server_id: str) -> bool:
    """Whether a server's disk may be copied with the help of its agent only."""
    servers = () if spec is None else spec.servers
    return any(each.hardware.quiesce for each in servers if each.id == server_id)


def abort(server_id: str) -> None:
    """Break off a copy, if there is one."""
    with suppress(LibvirtError):
        libvirt_conn.backup_abort(server_id)


def thaw_left(data: Path, server_id: str) -> None:
    """Thaw what a maker that died may have left frozen; the lock is held."""
    if _mark(data, server_id).exists():
        _thaw(data, server_id)


def left_frozen(data: Path) -> set[str]:
    """Servers whose file systems may be frozen, be it by a maker that lives."""
    folder = data / "pending"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {name[len(FROZEN) :] for name in names if name.startswith(FROZEN)}


def _freeze(data: Path, server_id: str) -> bool:
    """The mark comes first: an agent that dies here leaves a guest that the next one thaws."""
    mark = _mark(data, server_id)
    files.make_folder(mark.parent, 0o700)
    files.write_atomic(mark, b"")
    if not libvirt_conn.freeze(server_id):
        # It may have done so for a part of them.
        _thaw(data, server_id)
        return False
    killpoint.reached(f"domain {server_id} frozen")
    return True


def _thaw(data: Path, server_id: str) -> None:
    with suppress(LibvirtError):
        libvirt_conn.thaw(server_id)
    files.remove(_mark(data, server_id))


def _mark(data: Path, server_id: str) -> Path:
    return data / "pending" / f"{FROZEN}{layout.checked(server_id)}"


def _await(server_id: str, check: Callable[[], None], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        check()
        why = libvirt_conn.backup_ended(server_id)
        if why == "":
            return
        if why is not None:
            raise StepFailed(f"qemu did not finish the copy: {why}")
        if time.monotonic() > deadline:
            raise StepFailed(f"qemu did not finish the copy within {limit_s:g} s")
        time.sleep(POLL_S)
