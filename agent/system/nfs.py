"""NFS in user space, by libnfs, which qemu uses too: no mount, and nothing of the kernel's.

libnfs is called through ctypes. Its calls have a timeout of their own, so a server that is gone
costs seconds and is an error in words.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Optional

TIMEOUT_S = 10
LIBRARIES = ("libnfs.so.14", "libnfs.so.13", "libnfs.so.12", "libnfs.so.11")
HEADER_BYTES = 1 << 16
_STAT_FIELDS = (
    "dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks",
    "atime", "mtime", "ctime", "atime_nsec", "mtime_nsec", "ctime_nsec", "used",
)  # fmt: skip


class NfsError(OSError):
    """The server refused, or did not answer; the message is libnfs's."""


class _Stat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _STAT_FIELDS]


class _Statvfs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulong) for name in ("bsize", "frsize", "blocks", "bfree", "bavail")]
    _fields_ += [("rest", ctypes.c_ubyte * 256)]


class Mount:
    """An export, reached; made by ``mounted``. Paths are beneath it and begin with ``/``."""

    def __init__(self, library: Any, context: Any) -> None:
        self._library, self._context = library, context

    def size_bytes(self, path: str) -> Optional[int]:
        """How large a file is; None when it is not there."""
        stat = _Stat()
        if self._call("nfs_lstat64", path.encode(), ctypes.byref(stat), missing=True) is None:
            return None
        return int(stat.size)

    def head(self, path: str) -> io.BytesIO:
        """The beginning of a file."""
        handle, buffer = ctypes.c_void_p(), ctypes.create_string_buffer(HEADER_BYTES)
        self._call("nfs_open", path.encode(), os.O_RDONLY, ctypes.byref(handle))
        try:
            size = ctypes.c_uint64(HEADER_BYTES)
            count = self._call("nfs_pread", handle, ctypes.c_uint64(0), size, buffer)
        finally:
            self._library.nfs_close(self._context, handle)
        return io.BytesIO(buffer.raw[: count or 0])

    def make_folder(self, path: str) -> None:
        """Make a folder; well if it is there."""
        if self.size_bytes(path) is None:
            self._call("nfs_mkdir", path.encode())

    def rename(self, path: str, to: str) -> None:
        """Give a file another name."""
        self._call("nfs_rename", path.encode(), to.encode())

    def remove(self, path: str) -> bool:
        """Remove a file; False when it was not there."""
        return self._call("nfs_unlink", path.encode(), missing=True) is not None

    def free_bytes(self) -> tuple[int, int]:
        """Free and total bytes of the export."""
        found = _Statvfs()
        self._call("nfs_statvfs", b"/", ctypes.byref(found))
        unit = int(found.frsize or found.bsize)
        return int(found.bavail) * unit, int(found.blocks) * unit

    def _call(self, name: str, *arguments: Any, missing: bool = False) -> Optional[int]:
        result = int(getattr(self._library, name)(self._context, *arguments))
        if result == -errno.ENOENT and missing:
            return None
        if result < 0:
            raise NfsError(-result, _words(self._library, self._context))
        return result


@contextmanager
def mounted(server: str, export: str) -> Iterator[Mount]:
    """Reach an export for as long as the block runs."""
    library = _library()
    context = ctypes.c_void_p(library.nfs_init_context())
    try:
        library.nfs_set_timeout(context, TIMEOUT_S * 1000)
        library.nfs_set_uid(context, 0)
        library.nfs_set_gid(context, 0)
        if library.nfs_mount(context, server.encode(), export.encode()) < 0:
            raise NfsError(errno.EIO, f"{server}:{export}: {_words(library, context)}")
        yield Mount(library, context)
    finally:
        library.nfs_destroy_context(context)


@lru_cache(maxsize=1)
def _library() -> Any:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nfs_init_context.restype = ctypes.c_void_p
        library.nfs_get_error.restype = ctypes.c_char_p
        return library
    raise NfsError(
        errno.ENOSYS, f"libnfs is not installed on this host (none of {', '.join(LIBRARIES)})"
    )


def _words(library: Any, context: Any) -> str:
    return bytes(library.nfs_get_error(context) or b"no reason").decode(errors="replace")
