"""Who owns an operation: a process that holds a lock file, and nothing that a clock could tell.

A process takes the first free ``owner-N.lock`` for its life and writes the operation's id into
it. An operation is alive while its lock file is held and names it; the kernel lets go of the
lock whenever and however the process ends. Lock files are never unlinked.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from stackctl.state import Cloud

MAX_OWNERS = 4096


class Owner:
    """A held lock file. Kept open until ``release``."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self.path = path

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._descriptor)


def take_ownership(cloud: Cloud, operation_id: str) -> Owner:
    """Hold a free lock file in the name of an operation."""
    cloud.locks.mkdir(mode=0o700, exist_ok=True)
    for number in range(MAX_OWNERS):
        path = cloud.locks / f"owner-{number}.lock"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, operation_id.encode(), 0)
        return Owner(descriptor, path)
    raise OSError(f"all {MAX_OWNERS} lock files in {cloud.locks} are held")


def owner_is_alive(lock_file: str, operation_id: str) -> bool:
    """Whether the process that began this operation still runs."""
    try:
        descriptor = os.open(lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: two who ask at once must not take each other for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        named = os.pread(descriptor, 64, 0).decode(errors="replace")
        return named == operation_id
    finally:
        with suppress(OSError):
            os.close(descriptor)
    return False
