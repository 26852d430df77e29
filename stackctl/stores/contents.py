"""Contents wherever they are: read from the nearest place that has them whole.

What comes from a store is written to a file of the controller, hashed, and only then handed on:
an object that is missing, cut or altered there goes nowhere. That file stays as a copy until an
image command sweeps the folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from stackctl.errors import NotFound, ResourceFailed, StackctlError
from stackctl.state import Cloud, Reader
from stackctl.stores import local
from stackctl.stores.registry import LOCAL, WEB, open_store


@dataclass(frozen=True)
class Location:
    """Where a content is. ``url``: for the store ``http``, where that is."""

    store: str
    url: str | None = None


@dataclass(frozen=True)
class Content:
    """A content and all places where it is kept, the nearest first."""

    sha256: str
    size_bytes: int
    locations: tuple[Location, ...]


Progress = Callable[[int], None]


def content_of(reader: Reader, sha256: str) -> Content:
    """A content of a live image; NotFound when there is none."""
    rows = reader.all(
        "SELECT DISTINCT store, url, size_bytes FROM image_locations "
        "JOIN images ON images.id = image_id WHERE sha256 = ? AND deleted_at IS NULL "
        "ORDER BY store <> ?, store = ?, store",
        sha256,
        LOCAL,
        WEB,
    )
    if not rows:
        raise NotFound(f"No image has the SHA-256 {sha256} any more.")
    places = tuple(Location(row["store"], row["url"]) for row in rows)
    return Content(sha256, rows[0]["size_bytes"], places)


def opened(cloud: Cloud, content: Content, progress: Progress) -> BinaryIO:
    """The whole content as an open file; ResourceFailed with what each of its stores said."""
    here = _open_here(cloud, content)
    if here is not None:
        return here
    with locked(cloud, "content", content.sha256):
        # Somebody else may have brought it while we waited.
        return _open_here(cloud, content) or _fetched(cloud, content, progress)


@contextmanager
def locked(cloud: Cloud, what: str, sha256: str, *, wait: bool = True) -> Iterator[bool]:
    """Be the only one who brings or drops a content; yields whether we are.

    One of 256 lock files that stay: two contents that share one wait for each other in vain, once.
    """
    cloud.locks.mkdir(mode=0o700, exist_ok=True)
    path = cloud.locks / f"{what}-{sha256[:2]}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        got = True
    except BlockingIOError:
        got = False
    try:
        yield got
    finally:
        os.close(descriptor)


def _open_here(cloud: Cloud, content: Content) -> BinaryIO | None:
    try:
        return local.image_file(cloud, content.sha256).open("rb")
    except (NotFound, FileNotFoundError):
        return None


def _fetched(cloud: Cloud, content: Content, progress: Progress) -> BinaryIO:
    failures = []
    for location in content.locations:
        if location.store == LOCAL:
            failures.append(f"its file is not in {cloud.images}")
            continue
        try:
            return _fetch(cloud, content, location, progress)
        except StackctlError as error:
            failures.append(error.message.rstrip("."))
    raise ResourceFailed(
        f"The image with the SHA-256 {content.sha256} cannot be read: {'; '.join(failures)}. "
        "Nothing was kept."
    )


def _fetch(cloud: Cloud, content: Content, location: Location, progress: Progress) -> BinaryIO:
    with local.received(cloud, _pieces(cloud, content, location), progress) as part:
        if (part.size_bytes, part.sha256) != (content.size_bytes, content.sha256):
            raise ResourceFailed(
                f"the store {location.store} gave {part.size_bytes} bytes with the SHA-256 "
                f"{part.sha256}, not the {content.size_bytes} that were kept there"
            )
        stream = part.path.open("rb")
        local.publish(cloud, part)
        return stream


def _pieces(cloud: Cloud, content: Content, location: Location) -> Iterator[bytes]:
    left = content.size_bytes
    for piece in stored(cloud, content, location):
        left -= len(piece)
        if left < 0:
            raise ResourceFailed(
                f"the store {location.store} gives more than the {content.size_bytes} bytes "
                "that were kept there"
            )
        yield piece


def stored(cloud: Cloud, content: Content, location: Location) -> Iterator[bytes]:
    """What a store other than the local one holds under the content's name, unchecked."""
    if location.store != WEB:
        yield from open_store(cloud, location.store).get(content.sha256)
        return
    # Loaded late: what talks to web servers takes a while to load, and most contents are here.
    from stackctl.stores.web import download

    with download(location.url or "", content.size_bytes) as response:
        yield from response.pieces()
