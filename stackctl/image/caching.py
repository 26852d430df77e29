"""The images that hosts have: listed, brought before they are needed, removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agent import spec
from stackctl.errors import NotFound, ResourceFailed, StackctlError
from stackctl.fleet.types import Session
from stackctl.hostspec import image_spec
from stackctl.identity.context import Context
from stackctl.image import states
from stackctl.image.service import usable_image
from stackctl.operation.convergence import act_on_each
from stackctl.operation.outcome import Done, Failure, PlannedStep
from stackctl.state import Reader, Row, find, read


@dataclass(frozen=True)
class CachedImage:
    """An image on a host. ``name`` is empty when no image of the cloud has this content."""

    host: str
    name: str
    sha256: str
    size_bytes: int
    disks: int
    wanted: bool
    idle_s: int
    format: str


@dataclass(frozen=True)
class Pruned:
    """What was removed from one host, or would be."""

    host: str
    images: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True)
class Prefetched:
    """A host that has an image now."""

    host: str
    result: str


T = TypeVar("T")


def list_cached(context: Context, words: Sequence[str]) -> Done[list[CachedImage]]:
    """What hosts (none named: all) have in their caches, as they say now."""
    with read(context.cloud) as reader:
        hosts, names = _hosts(reader, words), _names(reader)

    def body(host: Row, session: Session) -> list[CachedImage]:
        told = session.act("list-images", {})
        return [_cached(host["name"], names, item) for item in told["images"]]

    done = _on_each(context, hosts, body)
    return done.with_value([item for items in done.value for item in items])


def prefetch(context: Context, word: str, words: Sequence[str]) -> Done[list[Prefetched]]:
    """Bring an image into the caches of hosts (none named: all that are enabled)."""
    with read(context.cloud) as reader:
        image = usable_image(context, reader, word)
        states.after(image, "fetch")
        parts = [image["id"], image["kernel_id"], image["ramdisk_id"]]
        rows = [reader.get("images", id_) for id_ in parts if id_ is not None]
        hosts = _hosts(reader, words, enabled=True)
    images = tuple(image_spec(row) for row in rows)

    def body(host: Row, session: Session) -> Prefetched:
        lacking = session.hello.lacking
        if lacking:
            raise ResourceFailed(f"Image {image['name']}: {'; '.join(lacking.values())}.")
        return Prefetched(host["name"], "there")

    if context.dry_run:
        return _rehearsed(image, hosts)
    return _on_each(context, hosts, body, images)


def prune(
    context: Context, words: Sequence[str], idle_s: int = 0, keep_bytes: int | None = None
) -> Done[list[Pruned]]:
    """Remove images from hosts (none named: all) that no disk there has under it."""
    with read(context.cloud) as reader:
        hosts, names = _hosts(reader, words), _names(reader)
    arguments: dict[str, Any] = {"idle_s": idle_s, "rehearse": context.dry_run}
    if keep_bytes is not None:
        arguments["keep_bytes"] = keep_bytes

    def body(host: Row, session: Session) -> Pruned:
        told = session.act("prune-images", arguments)
        removed = tuple(names.get(sha256) or sha256[:12] for sha256 in told["removed"])
        return Pruned(host["name"], removed, told["freed_bytes"])

    done = _on_each(context, hosts, body)
    if context.dry_run:
        done.planned = [
            PlannedStep(told.host, "image", name, "removed", "no disk needs it", name)
            for told in done.value
            for name in told.images
        ]
    return done


def _rehearsed(image: Row, hosts: Sequence[Row]) -> Done[list[Prefetched]]:
    done = Done([Prefetched(host["name"], "dry run") for host in hosts], "")
    for host in hosts:
        why = "unless it is in the cache"
        step = PlannedStep(host["name"], "image", image["id"], "made", why, image["name"])
        done.planned.append(step)
    return done


def _on_each(
    context: Context,
    hosts: Sequence[Row],
    body: Callable[[Row, Session], T],
    images: tuple[spec.Image, ...] = (),
) -> Done[list[T]]:
    results = act_on_each(context, hosts, body, images)
    done: Done[list[T]] = Done([], "")
    for host in hosts:
        result = results[host["id"]]
        if isinstance(result, StackctlError):
            kind, hint = type(result), result.hint
            name = host["name"]
            done.failures.append(
                Failure("host", host["id"], name, name, result.message, kind, hint)
            )
        else:
            done.value.append(result)
            done.succeeded += 1
    return done


def _hosts(reader: Reader, words: Sequence[str], *, enabled: bool = False) -> list[Row]:
    if words:
        return [find(reader, "hosts", word, noun="host") for word in dict.fromkeys(words)]
    rows = reader.all("SELECT * FROM hosts WHERE deleted_at IS NULL AND NOT fenced ORDER BY name")
    found = [row for row in rows if row["enabled"] or not enabled]
    if not found:
        raise NotFound(
            f"This cloud has no {'enabled ' if enabled else ''}hosts.", hint="stackctl host-list"
        )
    return found


def _names(reader: Reader) -> dict[str, str]:
    """What images are called, by the content that they have; several names side by side."""
    rows = reader.all(
        "SELECT sha256, group_concat(DISTINCT name) AS names FROM images "
        "WHERE deleted_at IS NULL AND sha256 <> '' GROUP BY sha256"
    )
    return {row["sha256"]: row["names"] for row in rows}


def _cached(host: str, names: dict[str, str], item: dict[str, Any]) -> CachedImage:
    return CachedImage(
        host=host,
        # Of an image that is gone the host still has a disk, or has not been pruned.
        name=names.get(item["sha256"]) or f"({item['sha256'][:12]})",
        sha256=item["sha256"],
        size_bytes=item["size_bytes"],
        disks=item["disks"],
        wanted=item["in_spec"],
        idle_s=item["idle_s"],
        format=item["format"],
    )
