"""Forget cached images that nothing on this host is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent import inspection, layout
from agent.faults import StepFailed
from agent.spec import HostSpec
from agent.store import Store
from agent.system import files

LOCK_TIMEOUT_S = 30.0

Args = dict[str, Any]


def prune_images(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Remove the images that no disk on this host has under it and no spec names.

    What a disk has under it is read from the disk's own header, whatever a database says.
    """
    with store.lock(LOCK_TIMEOUT_S):
        needed = set(_in_disks(store.data)) | set(_in_spec(store.spec()))
        removed = [path for path in _cached(store.data) if path.name not in needed]
        freed = 0
        for path in removed:
            check()
            freed += path.stat().st_size
            path.unlink()
            files.remove(path.with_name(f"{path.name}.json"))
        return {"removed": [path.name for path in removed], "freed_bytes": freed}


def _cached(data: Path) -> Iterator[Path]:
    folder = layout.images(data)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if len(path.name) == 64 and "." not in path.name:
            yield path


def _in_disks(data: Path) -> Iterator[str]:
    folder = layout.disks(data)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.endswith(".qcow2"):
            continue
        try:
            backing = inspection.backing_file(path)
        except (inspection.UnsafeImage, OSError) as error:
            raise StepFailed(f"nothing is pruned: cannot read {path.name}: {error}") from None
        if backing is not None:
            yield Path(backing).name


def _in_spec(spec: Any) -> Iterator[str]:
    if isinstance(spec, HostSpec):
        yield from (image.sha256 for image in spec.images)
