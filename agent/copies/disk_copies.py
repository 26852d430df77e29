"""Disks of other hosts, on their way here: complete, hashed and inspected, or not there.

Like an image, such a copy is made before the host lock is taken, for it may take long. It lies
beside the disks until its disk is built of it. Whoever receives one holds a lock on the file: one
that nobody holds is what a dead agent left.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Optional

from agent import inspection, killpoint, layout
from agent.copies import sparse
from agent.faults import StepFailed
from agent.spec import Disk
from agent.system import files

if TYPE_CHECKING:
    from agent.copies.peers import Peer

PROGRESS_INTERVAL_S = 0.5
LOCK_LIMIT_S = 60.0
"""How long an agent waits for another one that receives the same disk: alone it leaves sooner."""

LOCK_POLL_S = 0.2

Send = Callable[[dict[str, Any]], None]
Ask = Callable[[Disk, str], "Peer"]
"""Asks the controller who has what a disk is to be a copy of, and what opens it there; the text
says why its last answer was of no use, if any."""


class NoRoom(StepFailed):
    """It would not fit here, whoever gave it."""


def name_of(disk_id: str, disk_format: str) -> str:
    """The name of a disk's file."""
    return f"{layout.checked(disk_id)}.{layout.checked(disk_format)}"


def received(path: Path) -> Path:
    """Where the complete copy lies that a disk is to be built of."""
    return path.with_name(f".{path.name}.copy")


def unfinished(path: Path) -> Path:
    """Where it lies while it comes."""
    return path.with_name(f".{path.name}.copy.part")


def discard(path: Path) -> None:
    """Remove what came for a disk, and what is coming; StepFailed while somebody receives it."""
    part = unfinished(path)
    if part.exists():
        with _mine(part, 0, lambda: None):
            files.remove(part)
    files.remove(received(path))


class Copier:
    """Receives disks; one that failed is not tried twice in an exchange."""

    def __init__(self, data: Path, send: Send, ask: Ask, check: Callable[[], None]) -> None:
        self._data, self._send, self._ask, self._check = data, send, ask, check
        self._failures: dict[str, Exception] = {}

    def prepare(self, disks: tuple[Disk, ...]) -> None:
        """Receive what is missing; failures are told when a spec asks for that disk."""
        for disk in disks:
            try:
                self.fetch(disk)
            except (StepFailed, OSError):
                continue

    def fetch(self, disk: Disk) -> None:
        """Have what a disk is to be built of, or StepFailed with the reason."""
        known = self._failures.get(disk.id)
        if known is not None:
            raise known
        path = layout.disk(self._data, disk.id, disk.format)
        if path.exists() or received(path).exists():
            return
        try:
            self._receive(disk, path)
        except (StepFailed, OSError) as error:
            self._failures[disk.id] = error
            raise

    def _receive(self, disk: Disk, path: Path) -> None:
        files.make_folder(layout.disks(self._data), 0o711)
        part = unfinished(path)
        with _mine(part, LOCK_LIMIT_S, self._check) as file:
            try:
                if received(path).exists():
                    return
                self._fill(disk, file)
                files.sync(file)
                killpoint.reached(f"disk {disk.id} received")
                files.publish(part, received(path))
            except OSError as error:
                if files.is_full(error):
                    words = f"its disk is full; of disk {disk.id} nothing is kept"
                    raise StepFailed(words) from None
                raise
            finally:
                part.unlink(missing_ok=True)

    def _fill(self, disk: Disk, file: IO[bytes]) -> None:
        peer = self._ask(disk, "")
        try:
            self._copy(disk, peer, file)
        except NoRoom:
            raise
        except StepFailed as error:
            file.seek(0)
            file.truncate()
            self._copy(disk, self._ask(disk, str(error)), file)

    def _copy(self, disk: Disk, peer: Peer, file: IO[bytes]) -> None:
        from agent.copies import peers

        told = time.monotonic()
        with peers.opened(peer, name_of(disk.source_id or "", disk.format)) as response:
            stream = sparse.Reader(response.read)
            self._check_space(disk, stream.sizes)
            done = 0
            for offset, piece in stream.pieces():
                self._check()
                if piece.count(0) != len(piece):
                    file.seek(offset)
                    file.write(piece)
                done += len(piece)
                if time.monotonic() - told >= PROGRESS_INTERVAL_S:
                    told = time.monotonic()
                    self._tell(disk, done, stream.sizes.data_bytes)
        file.truncate(stream.sizes.size_bytes)

    def _check_space(self, disk: Disk, sizes: sparse.Sizes) -> None:
        free, _ = files.free_bytes(layout.disks(self._data))
        if free < sizes.data_bytes:
            raise NoRoom(
                f"disk {disk.id} needs {sizes.data_bytes} bytes; {free} are free on this host"
            )

    def _tell(self, disk: Disk, done: int, total: int) -> None:
        step = {"type": "step", "kind": "disk", "id": disk.id, "result": "made"}
        self._send({**step, "why": "receiving", "done_bytes": done, "total_bytes": total})


def inspect(path: Path, disk_format: str, base: Optional[str]) -> None:
    """Refuse a copy that is not plainly a disk on its own image (``base``: its SHA-256)."""
    if disk_format != "qcow2":
        return  # a raw disk is all its guest's; nothing ever looks for a format in it
    try:
        inspection.inspect_overlay(path, path.stat().st_size, base)
    except inspection.UnsafeImage as error:
        raise StepFailed(f"what came of the other host is unsafe: {error}") from None


@contextmanager
def _mine(part: Path, limit_s: float, check: Callable[[], None]) -> Iterator[IO[bytes]]:
    """An empty file that only we write to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    deadline = time.monotonic() + limit_s
    while True:
        with os.fdopen(os.open(part, flags, 0o600), "wb") as file:
            if _locked(file, part):
                file.truncate(0)
                yield file
                return
        if time.monotonic() >= deadline:
            raise StepFailed(f"another agent receives {part.name}")
        check()
        time.sleep(LOCK_POLL_S)


def _locked(file: IO[bytes], part: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    try:
        # Whoever had it before may have removed it, or given it its name.
        return os.fstat(file.fileno()).st_ino == part.stat().st_ino
    except FileNotFoundError:
        return False
