"""A volume becomes the copy of another one as it is at one moment, whoever uses that meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent import live_copy, store
from agent.resources.base import Facts
from agent.system import qemu_img
from agent.system.qemu_img import ImageFile

LOCK_TIMEOUT_S = 5.0
LIMIT_S = 3600.0
"""How long a convergence waits for one copy."""


def copy(data: Path, source: ImageFile, target: ImageFile, users: Sequence[str]) -> Facts:
    """Copy a volume; the facts say of which moment the copy is and how consistent.

    ``at-rest``: nobody had it. ``quiesced``: the guest's agent brought its file systems to rest
    for that moment. ``crash-consistent``: as after a power failure, which file systems recover
    from.
    """
    if not users:
        taken = store.now()
        qemu_img.copy(source, target)
        return {"taken": taken, "consistency": "at-rest"}
    with live_copy.alone(data, users[0], LOCK_TIMEOUT_S):
        live_copy.thaw_left(data, users[0])
        moment = live_copy.copy(data, users[0], source.path, target, _unasked, LIMIT_S)
    consistency = "quiesced" if moment.quiet else "crash-consistent"
    return {"taken": moment.taken, "consistency": consistency}


def _unasked() -> None:
    """A convergence goes on when its controller is gone."""
