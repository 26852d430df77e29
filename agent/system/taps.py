"""Taps that another process holds: which they are, and keeping them when it leaves.

A tap that libvirt made for a guest goes with the guest's process. One that is to outlive it must be
told so through a descriptor that is attached to it: the process's own, of which the kernel gives
root a copy (Linux 5.6).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.system.run import CommandFailed

_PIDFD_GETFD = 438
"""The number of the system call, the same on every architecture."""

_TUNSETPERSIST = 0x400454CB


def held_by(pid: int) -> dict[str, int]:
    """The taps that a process holds, by the names that they have now, with its descriptors."""
    found = {}
    folder = Path(f"/proc/{pid}/fdinfo")
    for entry in _entries(folder):
        with suppress(OSError):
            for line in entry.read_text().splitlines():
                if line.startswith("iff:"):
                    found[line.partition(":")[2].strip()] = int(entry.name)
    return found


def can_be_kept(pid: int, descriptor: int) -> str:
    """Why a tap that a process holds could not outlive it; empty when it could."""
    try:
        with _copied(pid, descriptor):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def keep(pid: int, descriptor: int) -> None:
    """Have a tap outlive the process that holds it."""
    try:
        with _copied(pid, descriptor) as copy:
            fcntl.ioctl(copy, _TUNSETPERSIST, 1)
    except OSError as error:
        words = error.strerror or str(error)
        raise CommandFailed(("pidfd_getfd", str(pid)), f"the tap cannot be kept: {words}") from None


@contextmanager
def _copied(pid: int, descriptor: int) -> Iterator[int]:
    """A copy of another process's descriptor."""
    process = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        copy = int(libc.syscall(_PIDFD_GETFD, process, descriptor, 0))
        if copy < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        try:
            yield copy
        finally:
            os.close(copy)
    finally:
        os.close(process)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
