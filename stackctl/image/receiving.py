"""Receive an image's content: written beside, hashed, inspected, before any row is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from agent import inspection
from stackctl.errors import Conflict, UnsafeImage
from stackctl.identity.context import Context
from stackctl.image.types import GIB, Url
from stackctl.stores import local

Source = BinaryIO | Url

_QCOW2_MAGIC = b"QFI\xfb"


@dataclass(frozen=True)
class Expected:
    """What is known of a content before it comes. ``disk_format`` None: told by its header."""

    name: str
    disk_format: str | None = None
    sha256: str | None = None
    sha512: str | None = None
    size_hint: int = 0


@dataclass(frozen=True)
class Received:
    """A content that is whole and plainly what its header says."""

    part: local.Part
    disk_format: str
    virtual_size_bytes: int

    def columns(self, min_disk_gb: int | None, container_format: str) -> dict[str, Any]:
        """What a row says of it. ``min_disk_gb`` None: as large as the disk that a guest sees."""
        boots = self.disk_format in ("aki", "ari")
        fits_gb = 0 if boots else -(-self.virtual_size_bytes // GIB)
        return {
            "disk_format": self.disk_format,
            "container_format": container_format or (self.disk_format if boots else "bare"),
            "size_bytes": self.part.size_bytes,
            "virtual_size_bytes": self.virtual_size_bytes,
            "sha256": self.part.sha256,
            "min_disk_gb": fits_gb if min_disk_gb is None else min_disk_gb,
        }


@contextmanager
def received(context: Context, source: Source, expected: Expected) -> Iterator[Received]:
    """Receive from a stream or URL; the file is gone at the end unless it was kept."""

    def progress_to(total: int) -> Callable[[int], None]:
        return lambda done: context.watch.progress(f"image {expected.name}", done, total)

    with ExitStack() as stack:
        if isinstance(source, Url):
            from stackctl.stores.web import download

            limit = context.cloud.config["image_size_limit_gb"] * GIB
            response = stack.enter_context(download(source.address, limit))
            pieces, total = response.pieces(), response.size_bytes
        else:
            pieces, total = local.pieces_of(source), expected.size_hint
        written = local.received(
            context.cloud,
            pieces,
            progress_to(total),
            with_sha512=expected.sha512 is not None,
        )
        part = stack.enter_context(written)
        _check_sums(expected, part)
        yield Received(part, *_inspected(expected, part))


def _check_sums(expected: Expected, part: local.Part) -> None:
    for name, wanted, found in (
        ("SHA-256", expected.sha256, part.sha256),
        ("SHA-512", expected.sha512, part.sha512),
    ):
        if wanted is not None and wanted.lower() != found:
            raise Conflict(
                f"The image {expected.name} is not the one expected: its {name} is {found}, not "
                f"{wanted.lower()} ({part.size_bytes} bytes were read). Nothing was kept."
            )


def _inspected(expected: Expected, part: local.Part) -> tuple[str, int]:
    """Disk format and virtual size by the file's own header, which must be plain."""
    disk_format = expected.disk_format
    if disk_format is None:
        part.stream.seek(0)
        disk_format = "qcow2" if part.stream.read(4) == _QCOW2_MAGIC else "raw"
    plain = "qcow2" if disk_format == "qcow2" else "raw"
    try:
        found = inspection.inspect(part.stream, plain, part.size_bytes)
    except inspection.UnsafeImage as refusal:
        raise UnsafeImage(
            f"The image {expected.name} was refused and nothing of it kept: {refusal}."
        ) from None
    return disk_format, found.virtual_size_bytes
