"""Put contents where they shall be, and take away what no image needs any more.

Into the cloud's own folder a content comes inside the transaction of its row. Into another store
it comes before that; a row of ``image_objects`` says so first, so what a killed command left
there is found and deleted by the next one. Whoever puts or deletes an object holds its lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from stackctl import killpoint
from stackctl.errors import Conflict, StackctlError
from stackctl.identity.context import Context
from stackctl.state import Reader, Writer, now, read, write
from stackctl.stores import LOCAL, WEB, checked_store, default_store, local, open_store
from stackctl.stores.contents import locked

_LIVE = (
    "SELECT count(*) FROM image_locations JOIN images ON images.id = image_id "
    "WHERE store = ? AND sha256 = ? AND deleted_at IS NULL"
)


@dataclass(frozen=True)
class Placement:
    """A content that is in its store, or will be by ``record``."""

    context: Context
    store: str
    part: local.Part
    url: str | None = None

    def record(self, writer: Writer, image_id: str) -> None:
        """Say where an image's content is; the last act of its transaction."""
        row = {"image_id": image_id, "store": self.store, "url": self.url, "created_at": now()}
        writer.insert("image_locations", row)
        if self.store == LOCAL:
            local.sweep(self.context.cloud, writer)
            if not self.context.dry_run:
                local.keep(self.context.cloud, self.part)


def chosen_store(context: Context, name: str | None, url: str | None) -> str:
    """The store that was asked for, or the default one, if it can take this content."""
    store = default_store(context.cloud) if name is None else checked_store(context.cloud, name)
    if store == WEB and url is None:
        raise Conflict("The store http keeps nothing: it needs --url, where the content stays.")
    return store


class Attempt(ExitStack):
    """What is open until a command ends; ``placing``: a content may have got to its place."""

    placing = False


@contextmanager
def swept_on_failure(context: Context) -> Iterator[Attempt]:
    """When the block fails, its row is not there: a content that got to its place goes, too."""
    with Attempt() as attempt:
        try:
            yield attempt
        except BaseException:
            attempt.close()
            if attempt.placing:
                sweep(context)
            raise


@contextmanager
def placed(
    context: Context, store: str, part: local.Part, url: str | None = None
) -> Iterator[Placement]:
    """Have a received content in its store, for as long as its row takes to be written."""
    placement = Placement(context, store, part, url if store == WEB else None)
    if store in (LOCAL, WEB) or context.dry_run:
        yield placement
        return
    with locked(context.cloud, f"object-{store}", part.sha256):
        put(context, store, part.stream, part.sha256, part.size_bytes)
        yield placement


def put(context: Context, store: str, stream: BinaryIO, sha256: str, size_bytes: int) -> None:
    """Put a content into a store that may lack it; only with the lock of the object."""
    with write(context.cloud) as writer:
        if writer.value(_LIVE, store, sha256):
            return
        row = {"store": store, "sha256": sha256, "created_at": now()}
        writer.insert_if_free("image_objects", row, "(store, sha256)")
    killpoint.reached("object-announced")
    stream.seek(0)
    context.watch.progress(f"image to store {store}", 0, size_bytes)
    open_store(context.cloud, store).put(sha256, stream, size_bytes)
    context.watch.progress(f"image to store {store}", size_bytes, size_bytes)
    killpoint.reached("object-put")


def sweep(context: Context) -> None:
    """Remove what no live image has, here and in other stores; a store that fails is warned of."""
    if context.dry_run:
        return
    with write(context.cloud) as writer:
        local.sweep(context.cloud, writer)
        orphans = _orphans(writer)
    for store, sha256 in orphans:
        try:
            _drop(context, store, sha256)
        except StackctlError as error:
            context.watch.warn(
                f"{error.message} What no image needs any more stays there until a later command."
            )


def _orphans(reader: Reader) -> list[tuple[str, str]]:
    rows = reader.all(
        "SELECT store, sha256 FROM image_objects AS object WHERE NOT EXISTS ("
        " SELECT 1 FROM image_locations AS place JOIN images ON images.id = place.image_id"
        " WHERE place.store = object.store AND images.sha256 = object.sha256"
        " AND images.deleted_at IS NULL)"
    )
    return [(row["store"], row["sha256"]) for row in rows]


def _drop(context: Context, store: str, sha256: str) -> None:
    with locked(context.cloud, f"object-{store}", sha256, wait=False) as got:
        if not got:
            return  # somebody puts it there at this moment
        with read(context.cloud) as reader:
            if reader.value(_LIVE, store, sha256):
                return
        open_store(context.cloud, store).delete(sha256)
        killpoint.reached("object-deleted")
        with write(context.cloud) as writer:
            writer.run("DELETE FROM image_objects WHERE store = ? AND sha256 = ?", store, sha256)
