"""Files that are either there, complete and durable, or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Optional

from agent import killpoint

LOCK_POLL_S = 0.05


class LockHeld(Exception):
    """Somebody else holds a lock; the message is what the holder wrote into it."""


def make_folder(path: Path, mode: int = 0o700) -> Path:
    """Make a folder with exactly this mode, and its missing parents likewise; return it."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_folder(path.parent, mode)
        path.mkdir(exist_ok=True)
        path.chmod(mode)
    return path


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content``: a reader, or a crash, sees the old file or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        with create(part, mode) as file:
            file.write(content)
            sync(file)
        publish(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def create(path: Path, mode: int = 0o600) -> IO[bytes]:
    """Open a new file for writing; an existing one, or a symbolic link, is an OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, mode)  # whatever the umask says
    return os.fdopen(descriptor, "wb")


def sync(file: IO[bytes]) -> None:
    """Have the content of an open file on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_path(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(part: Path, path: Path) -> None:
    """Rename a finished file into place and make that durable."""
    part.replace(path)
    sync_path(path.parent)
    killpoint.reached(f"{path.name} written")


def link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, at once or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    publish(part, path)


def remove(path: Path) -> bool:
    """Remove a file for good; False when it was not there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_path(path.parent)
    return True


def remove_folder(path: Path) -> bool:
    """Remove a folder and what is in it (a link to a folder is not followed)."""
    if path.is_symlink() or not path.is_dir():
        return remove(path)
    shutil.rmtree(path)
    return True


def copy(source: Path, target: Path, mode: int) -> None:
    """Make ``target`` a copy of ``source``, complete or not at all."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    with source.open("rb") as reader, create(part, mode) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        sync(writer)
    publish(part, target)


def open_terminal(path: str) -> int:
    """A terminal that passes every byte on as it is; the descriptor."""
    import tty

    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        tty.setraw(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def tail(path: Path, max_bytes: int) -> bytes:
    """The last bytes of a file; nothing when it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            return file.read(max_bytes)
    except FileNotFoundError:
        return b""


def free_bytes(path: Path) -> tuple[int, int]:
    """Free and total bytes of the file system that holds ``path`` (or its nearest parent)."""
    while not path.exists():
        path = path.parent
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no space left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def locked(path: Path, timeout_s: float, note: str = "") -> Iterator[None]:
    """Hold the lock file ``path``, which says ``note`` meanwhile; LockHeld after ``timeout_s``.

    Lock files stay: removing one would let two processes hold "the" lock.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if not _acquire(descriptor, timeout_s):
            raise LockHeld(os.pread(descriptor, 500, 0).decode(errors="replace"))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(LOCK_POLL_S)


def read_bytes(path: Path) -> Optional[bytes]:
    """The content of a file, or None when it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
