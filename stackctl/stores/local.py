"""Image files of a cloud: written beside, checked, then renamed to their SHA-256.

The rename happens inside the transaction that writes the row, as its last act. So under the
write lock a file without a live row belongs to nobody, and whoever holds the lock may sweep it:
what a killed process left goes with the next image command. A ``.part`` file is locked by its
writer for as long as it lives.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stackctl import killpoint
from stackctl.errors import Conflict, NotFound, ResourceFailed
from stackctl.state import Cloud, Reader
from stackctl.stores.types import PIECE_BYTES

GIB = 1 << 30

_PART = ".part-"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Part:
    """A file that is being written: its open stream, and what is known of it so far."""

    path: Path
    stream: BinaryIO
    size_bytes: int
    sha256: str
    sha512: str = ""


def image_file(cloud: Cloud, sha256: str) -> Path:
    """The file of an image; NotFound when this controller does not have it."""
    path = cloud.images / sha256
    if not _HASH.fullmatch(sha256) or not path.is_file():
        raise NotFound(
            f"The file of the image with SHA-256 {sha256} is not in {cloud.images}.",
            hint="stackctl image-create (the same file once more)",
        )
    return path


@contextmanager
def received(
    cloud: Cloud,
    pieces: Iterable[bytes],
    progress: Callable[[int], None],
    *,
    with_sha512: bool = False,
) -> Iterator[Part]:
    """Write pieces to a new file of the cloud, hashing them, and hand it out for inspection.

    The file is gone when the block ends, unless ``keep`` has renamed it. Conflict: larger than
    the cloud's limit. ResourceFailed: the disk is full or broken.
    """
    path, stream = _new_part(cloud)
    with stream:
        try:
            sums = {"sha256": hasher()}
            if with_sha512:
                sums["sha512"] = hashlib.sha512()
            size = _write(cloud, stream, _hashed(pieces, list(sums.values())), progress)
            digests = {name: hashed.hexdigest() for name, hashed in sums.items()}
            yield Part(path, stream, size, **digests)
        finally:
            path.unlink(missing_ok=True)


def keep(cloud: Cloud, part: Part) -> None:
    """Give an inspected file its name, durably; only inside the transaction of its row."""
    killpoint.reached("image-received")
    publish(cloud, part)
    killpoint.reached("image-kept")


def publish(cloud: Cloud, part: Part) -> None:
    """Give a whole file its name. Without a row that says so it stays until the next sweep."""
    os.fchmod(part.stream.fileno(), 0o400)
    part.path.rename(cloud.images / part.sha256)
    _sync_folder(cloud.images)


def sweep(cloud: Cloud, reader: Reader) -> None:
    """Remove what no live row and no living writer has; only under the write lock.

    Copies of what other stores keep go, too: whoever reads one has it open.
    """
    live = set(
        reader.column(
            "SELECT DISTINCT sha256 FROM images JOIN image_locations ON image_id = images.id "
            "WHERE deleted_at IS NULL AND store = 'local'"
        )
    )
    for path in cloud.images.iterdir():
        orphan = _HASH.fullmatch(path.name) and path.name not in live
        if orphan or (path.name.startswith(_PART) and not _has_writer(path)):
            path.unlink(missing_ok=True)


def hasher() -> hashlib._Hash:
    """What names contents."""
    return hashlib.sha256()


def pieces_of(stream: BinaryIO) -> Iterator[bytes]:
    """The content of a stream, piece by piece; ResourceFailed when it cannot be read to its end."""
    while True:
        try:
            piece = stream.read(PIECE_BYTES)
        except OSError as error:
            raise ResourceFailed(f"The image cannot be read: {error}. Nothing was kept.") from None
        if not piece:
            return
        yield piece


def _hashed(pieces: Iterable[bytes], sums: Sequence[hashlib._Hash]) -> Iterator[bytes]:
    for piece in pieces:
        for hashed in sums:
            hashed.update(piece)
        yield piece


def _write(
    cloud: Cloud, stream: BinaryIO, pieces: Iterable[bytes], progress: Callable[[int], None]
) -> int:
    limit_gb = cloud.config["image_size_limit_gb"]
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit_gb * GIB:
            raise Conflict(
                f"The image is larger than this cloud's limit of {limit_gb} GiB. Nothing was kept.",
                hint=f"image_size_limit_gb in {cloud.folder}/config.yaml",
            )
        with _disk_errors(cloud):
            stream.write(piece)
        progress(size)
    with _disk_errors(cloud):
        stream.flush()
        os.fsync(stream.fileno())
    return size


def _new_part(cloud: Cloud) -> tuple[Path, BinaryIO]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        path = cloud.images / f"{_PART}{secrets.token_hex(8)}"
        with _disk_errors(cloud):
            descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between open and flock somebody may have swept it as a dead writer's.
        if os.fstat(descriptor).st_nlink:
            return path, os.fdopen(descriptor, "w+b")
        os.close(descriptor)


def _has_writer(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def _disk_errors(cloud: Cloud) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceFailed(
            f"The image cannot be written to {cloud.images}: {error.strerror}. Nothing was kept.",
            hint=f"df -h {cloud.images}",
        ) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
