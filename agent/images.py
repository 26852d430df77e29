"""The host's image cache: files named by their SHA-256, complete and inspected or not there.

An image is fetched before the host lock is taken (it may take long), by one agent at a time, from
its URL or from the controller. A sidecar tells what the file was when it was written, so that a
later use can notice with one stat that it is not that file any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Optional

from agent import inspection, killpoint, layout
from agent.faults import StepFailed
from agent.spec import HostSpec, Image
from agent.system import download, files
from agent.system.qemu_img import ImageFile

PROGRESS_INTERVAL_S = 0.5
LOCK_LIMIT_S = 3600.0
"""How long one agent waits for another one's transfer of the same image."""

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Offer:
    """What the controller answers to whoever lacks an image: its bytes, or who has them."""

    pieces: Generator[bytes, None, None]
    from_peer: bool = False


Ask = Callable[[Image, str], Offer]
"""Asks the controller for an image; the text says why its last offer was of no use, if any."""


@dataclass(frozen=True)
class Sidecar:
    """What a cached image was when it was written; ``virtual_size_bytes`` by its own header."""

    sha256: str
    format: str
    virtual_size_bytes: int
    size_bytes: int
    inode: int
    mtime_ns: int


def cached(data: Path, sha256: str) -> Optional[Sidecar]:
    """The sidecar of an image that is in the cache and still the file that was written."""
    content = files.read_bytes(_sidecar(data, sha256))
    if content is None:
        return None
    sidecar = Sidecar(**json.loads(content))
    try:
        status = layout.image(data, sha256).lstat()
    except FileNotFoundError:
        return None
    same = (status.st_size, status.st_ino, status.st_mtime_ns) == (
        sidecar.size_bytes,
        sidecar.inode,
        sidecar.mtime_ns,
    )
    return sidecar if same else None


def idle_s(data: Path, sha256: str) -> float:
    """For how long no exchange has needed a cached image."""
    try:
        return max(0.0, time.time() - _sidecar(data, sha256).stat().st_mtime)
    except FileNotFoundError:
        return 0.0


class Fetcher:
    """Brings images into the cache; one that failed is not tried twice in an exchange."""

    def __init__(self, data: Path, send: Send, ask: Ask, check: Callable[[], None]) -> None:
        self._data, self._send, self._ask, self._check = data, send, ask, check
        self._failures: dict[str, Exception] = {}

    def prepare(self, images: tuple[Image, ...]) -> None:
        """Fetch what is missing; failures are told when a spec asks for that image."""
        for image in images:
            try:
                self.fetch(image)
            except (StepFailed, OSError):
                continue

    def fetch(self, image: Image) -> None:
        """Have an image in the cache, or StepFailed with the reason."""
        known = self._failures.get(image.sha256)
        if known is not None:
            raise known
        if cached(self._data, image.sha256) is not None:
            os.utime(_sidecar(self._data, image.sha256))  # when it was needed last
            return
        try:
            self._fetch(image)
        except (StepFailed, OSError) as error:
            self._failures[image.sha256] = error
            raise

    def failures(self) -> dict[str, str]:
        """Why images could not be fetched, by their SHA-256."""
        return {sha256: str(error) for sha256, error in self._failures.items()}

    def _fetch(self, image: Image) -> None:
        files.make_folder(layout.images(self._data), 0o711)
        with self._locked(image):
            if cached(self._data, image.sha256) is None:
                self._quarantine(image.sha256)
                self._check_space(image)
                self._receive(image)

    @contextmanager
    def _locked(self, image: Image) -> Iterator[None]:
        lock = files.make_folder(self._data / "locks") / f"image-{image.sha256}"
        deadline = time.monotonic() + LOCK_LIMIT_S
        progress = Progress(self._send, image, "waiting for another transfer")
        while True:
            self._check()
            try:
                with files.locked(lock, PROGRESS_INTERVAL_S, str(os.getpid())):
                    yield
                    return
            except files.LockHeld as held:
                if time.monotonic() > deadline:
                    raise StepFailed(f"image {image.id}: process {held} holds it") from None
                progress.tell(0)

    def _quarantine(self, sha256: str) -> None:
        path = layout.image(self._data, sha256)
        if path.exists():
            # Running guests keep their open file; the name is free for a good copy.
            path.rename(path.with_name(f".{sha256}.changed-{time.time_ns()}"))
        files.remove(_sidecar(self._data, sha256))

    def _check_space(self, image: Image) -> None:
        free, _ = files.free_bytes(layout.images(self._data))
        if free < image.size_bytes:
            raise StepFailed(
                f"image {image.id} needs {image.size_bytes} bytes of disk; {free} are free"
            )

    def _receive(self, image: Image) -> None:
        path = layout.image(self._data, image.sha256)
        part = path.with_name(f".{image.sha256}.part")
        part.unlink(missing_ok=True)
        try:
            with files.create(part, 0o444) as file:
                self._fill(image, file)
                files.sync(file)
            found = self._inspect(image, part)
            killpoint.reached(f"image {image.id} written")
            self._publish(image, part, found)
        except OSError as error:
            if files.is_full(error):
                raise StepFailed(f"image {image.id}: the disk is full; nothing is kept") from None
            raise
        finally:
            part.unlink(missing_ok=True)

    def _fill(self, image: Image, file: IO[bytes]) -> None:
        if image.url is not None:
            self._write(image, file, download.stream(image.url))
            return
        offer = self._ask(image, "")
        try:
            self._write(image, file, offer.pieces)
        except (StepFailed, OSError) as error:
            if not offer.from_peer or (isinstance(error, OSError) and files.is_full(error)):
                raise
            file.seek(0)
            file.truncate()
            self._write(image, file, self._ask(image, str(error)).pieces)

    def _write(self, image: Image, file: IO[bytes], source: Generator[bytes, None, None]) -> None:
        received, digest = 0, hashlib.sha256()
        progress = Progress(self._send, image, "receiving")
        with closing(source) as pieces:
            for piece in pieces:
                self._check()
                received += len(piece)
                if received > image.size_bytes:
                    raise StepFailed(f"image {image.id} is longer than {image.size_bytes} bytes")
                file.write(piece)
                digest.update(piece)
                progress.tell(received)
        if received != image.size_bytes:
            raise StepFailed(f"image {image.id} ended after {received} of {image.size_bytes} bytes")
        if digest.hexdigest() != image.sha256:
            raise StepFailed(
                f"image {image.id} has the SHA-256 {digest.hexdigest()}, not {image.sha256}",
                facts={"reason": "checksum"},
            )

    def _inspect(self, image: Image, part: Path) -> inspection.Inspection:
        try:
            return inspection.inspect(part, image.disk_format, image.size_bytes)
        except inspection.UnsafeImage as error:
            raise StepFailed(
                f"image {image.id} is unsafe: {error}", facts={"reason": "unsafe"}
            ) from None

    def _publish(self, image: Image, part: Path, found: inspection.Inspection) -> None:
        status = part.stat()
        sidecar = Sidecar(
            sha256=image.sha256,
            format=found.format,
            virtual_size_bytes=found.virtual_size_bytes,
            size_bytes=status.st_size,
            inode=status.st_ino,
            mtime_ns=status.st_mtime_ns,
        )
        # The sidecar first: without its image it says nothing, the image without it is refetched.
        sidecar_path = _sidecar(self._data, image.sha256)
        files.write_atomic(sidecar_path, json.dumps(asdict(sidecar)).encode())
        killpoint.reached(f"image {image.id} described")
        files.publish(part, layout.image(self._data, image.sha256))


def base_of(
    data: Path, spec: HostSpec, what: str, image_id: Optional[str], size_bytes: int
) -> Optional[ImageFile]:
    """The cached image that something of ``size_bytes`` is made from; None when it is from none.

    StepFailed, in words about ``what``, when the image is not there or does not fit.
    """
    if image_id is None:
        return None
    image = next((image for image in spec.images if image.id == image_id), None)
    if image is None:
        raise StepFailed(f"{what} needs image {image_id}, which the spec does not have")
    sidecar = cached(data, image.sha256)
    if sidecar is None:
        raise StepFailed(f"image {image.id} is not in the cache any more")
    if sidecar.virtual_size_bytes > size_bytes:
        needed = sidecar.virtual_size_bytes
        raise StepFailed(f"{what} has {size_bytes} bytes; its image needs {needed}")
    return ImageFile(layout.image(data, image.sha256), sidecar.format)


class Progress:
    """Tells how far an image is, about twice a second, as a ``step`` with bytes."""

    def __init__(self, send: Send, image: Image, why: str) -> None:
        self._send, self._image, self._why = send, image, why
        self._told = time.monotonic()

    def tell(self, done_bytes: int) -> None:
        """Say so if the last word is old enough."""
        now = time.monotonic()
        if now - self._told < PROGRESS_INTERVAL_S:
            return
        self._told = now
        self._send(
            {
                "type": "step",
                "kind": "image",
                "id": self._image.id,
                "result": "made",
                "why": self._why,
                "done_bytes": done_bytes,
                "total_bytes": self._image.size_bytes,
            }
        )


def _sidecar(data: Path, sha256: str) -> Path:
    return layout.images(data) / f"{layout.checked_hash(sha256)}.json"
