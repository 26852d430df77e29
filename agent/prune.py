"""The images that this host has in its cache, and forgetting those that nothing is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from agent import images, inspection, layout
from agent.faults import StepFailed
from agent.spec import HostSpec
from agent.store import Store
from agent.system import files

LOCK_TIMEOUT_S = 30.0

Args = dict[str, Any]


@dataclass(frozen=True)
class Cached:
    """A file of the cache. ``disks``: how many disks of this host have it under them."""

    path: Path
    size_bytes: int
    idle_s: float
    disks: int
    in_spec: bool


def list_images(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """What is in the cache, what for, and for how long no exchange has needed it."""
    return {"images": [_told(store.data, item) for item in _cached(store)]}


def prune_images(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Remove images that no disk on this host has under it and no spec names.

    What a disk has under it is read from the disk's own header, whatever a database says.
    {idle_s}: only those not needed for so long; {keep_bytes}: only as many, the longest idle
    first, until the cache is that small; {rehearse}: only say which.
    """
    keep_bytes: Optional[int] = args.get("keep_bytes")
    with store.lock(LOCK_TIMEOUT_S):
        cache = _cached(store)
        total = sum(item.size_bytes for item in cache)
        removed, freed = [], 0
        for item in sorted(cache, key=lambda item: (-item.idle_s, item.path.name)):
            small = keep_bytes is not None and total - freed <= keep_bytes
            if item.disks or item.in_spec or small or item.idle_s < float(args.get("idle_s", 0)):
                continue
            check()
            if not args.get("rehearse"):
                item.path.unlink()
                files.remove(item.path.with_name(f"{item.path.name}.json"))
            removed.append(item.path.name)
            freed += item.size_bytes
        return {"removed": sorted(removed), "freed_bytes": freed}


def _cached(store: Store) -> list[Cached]:
    disks = Counter(_in_disks(store.data))
    named = set(_in_spec(store.spec()))
    folder = layout.images(store.data)
    return [
        Cached(
            path=path,
            size_bytes=path.stat().st_size,
            idle_s=images.idle_s(store.data, path.name),
            disks=disks[path.name],
            in_spec=path.name in named,
        )
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if len(path.name) == 64 and "." not in path.name
    ]


def _told(data: Path, item: Cached) -> Args:
    sidecar = images.cached(data, item.path.name)
    return {
        "sha256": item.path.name,
        "size_bytes": item.size_bytes,
        "idle_s": int(item.idle_s),
        "disks": item.disks,
        "in_spec": item.in_spec,
        # Without one, or with one that does not fit, it is fetched again when it is needed.
        "format": sidecar.format if sidecar is not None else "changed",
    }


def _in_disks(data: Path) -> Iterator[str]:
    folder = layout.disks(data)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.endswith(".qcow2"):
            continue
        try:
            backing = inspection.backing_file(layout.lies_at(path))
        except (inspection.UnsafeImage, OSError) as error:
            raise StepFailed(f"nothing is pruned: cannot read {path.name}: {error}") from None
        if backing is not None:
            yield Path(backing).name


def _in_spec(spec: Any) -> Iterator[str]:
    if isinstance(spec, HostSpec):
        yield from (image.sha256 for image in spec.images)
