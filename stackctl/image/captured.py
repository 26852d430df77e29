"""Images whose content comes from a server's disk."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stackctl.identity.context import Context
from stackctl.image import placing
from stackctl.image.receiving import Expected, Received, received
from stackctl.image.types import Image, image_from
from stackctl.state import Row, Writer, new_id, now

NOT_INHERITED = ("base_image_ref", "instance_uuid", "image_type", "backup_type")
"""Properties of an image that the image of a disk made from it does not have."""


@dataclass(frozen=True)
class Origin:
    """What an image of a disk says of where it comes from. ``base`` is the image under it."""

    name: str
    server_id: str
    base: Row | None
    kind: str
    min_disk_gb: int
    backup_type: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Captured:
    """A content that was received and inspected, not yet an image; ``consistency``: what it is
    worth, being of a guest that may have written meanwhile."""

    got: Received
    place: placing.Placement
    consistency: str = ""


class _Pieces(io.RawIOBase):
    """Pieces as a stream."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), b""

    def readable(self) -> bool:
        """It is nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What is there of the next piece."""
        self._rest = self._rest or next(self._pieces, b"")
        given, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


@contextmanager
def captured(
    context: Context, name: str, pieces: Iterable[bytes], size_bytes: int
) -> Iterator[Captured]:
    """Receive a qcow2 file from a host, whose word counts for nothing: it is inspected.

    Its file is gone at the end, unless ``insert_captured`` made it an image.
    """
    store = placing.chosen_store(context, None, None)
    expected = Expected(name, "qcow2", size_hint=size_bytes)
    with placing.swept_on_failure(context) as attempt:
        source = attempt.enter_context(io.BufferedReader(_Pieces(pieces)))
        got = attempt.enter_context(received(context, source, expected))
        attempt.placing = True
        yield Captured(got, attempt.enter_context(placing.placed(context, store, got.part)))


def insert_captured(context: Context, writer: Writer, content: Captured, origin: Origin) -> Image:
    """The row of an image and its content; the last act of the operation's last transaction."""
    base = origin.base
    id_ = new_id()
    row = {
        "id": id_,
        "project_id": context.project_id,
        "name": origin.name,
        "status": "active",
        "visibility": "private",
        "hidden": int(origin.hidden),
        **content.got.columns(origin.min_disk_gb, "bare"),
        "min_ram_mb": base["min_ram_mb"] if base else 0,
        "kernel_id": base["kernel_id"] if base else None,
        "ramdisk_id": base["ramdisk_id"] if base else None,
        "properties_json": json.dumps(_properties(origin)),
        "created_at": now(),
    }
    writer.insert("images", row)
    content.place.record(writer, id_)
    return image_from(writer, writer.get("images", id_))


def rotate(writer: Writer, server_id: str, backup_type: str, kept: int) -> list[Row]:
    """Delete a server's backups of one type but the newest; returns those that went."""
    rows = writer.all(
        "SELECT * FROM images WHERE deleted_at IS NULL AND project_id IN "
        "(SELECT project_id FROM servers WHERE id = ?) ORDER BY rowid DESC",
        server_id,
    )
    wanted = {"instance_uuid": server_id, "image_type": "backup", "backup_type": backup_type}
    found = [row for row in rows if wanted.items() <= json.loads(row["properties_json"]).items()]
    gone = [row for row in found[kept:] if not row["protected"]]
    for row in gone:
        writer.update("images", row["id"], status="deleted", deleted_at=now())
    return gone


def sweep(context: Context) -> None:
    """Remove the contents of images that are deleted."""
    placing.sweep(context)


def _properties(origin: Origin) -> Mapping[str, str]:
    inherited = json.loads(origin.base["properties_json"]) if origin.base else {}
    kept = {key: value for key, value in inherited.items() if key not in NOT_INHERITED}
    kept |= {"image_type": origin.kind, "instance_uuid": origin.server_id}
    if origin.base is not None:
        kept["base_image_ref"] = origin.base["id"]
    if origin.backup_type:
        kept["backup_type"] = origin.backup_type
    return kept
