"""What volumes begin with: an image, or another volume as it is at one moment, whoever uses that
meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent import store
from agent.copies import live_copy, snapshots
from agent.resources.base import Facts
from agent.system import files, qemu_img
from agent.system.qemu_img import Image, ImageFile

LOCK_TIMEOUT_S = 5.0
LIMIT_S = 3600.0
"""How long a convergence waits for one copy."""


@dataclass(frozen=True)
class Still:
    """What nobody writes to."""

    source: Image

    def write(self, target: Image, *, exists: bool) -> None:
        """By qemu-img."""
        (qemu_img.copy_into if exists else qemu_img.copy)(self.source, target)


@dataclass(frozen=True)
class AtRest:
    """A volume that no guest has; ``facts`` say of which moment the copy is."""

    source: Image
    facts: Facts = field(default_factory=dict)

    def write(self, target: Image, *, exists: bool) -> None:
        """By qemu-img."""
        self.facts.update(taken=store.now(), consistency="at-rest")
        Still(self.source).write(target, exists=exists)


@dataclass(frozen=True)
class InUse:
    """A volume that a guest has; ``facts`` say of which moment the copy is and how consistent.

    ``quiesced``: the guest's agent brought its file systems to rest for that moment.
    ``crash-consistent``: as after a power failure, which file systems recover from.
    """

    data: Path
    volume_id: str
    server_id: str
    facts: Facts = field(default_factory=dict)

    def write(self, target: Image, *, exists: bool) -> None:
        """By the guest's qemu, which writes to new files only: others get it from there."""
        with live_copy.alone(self.data, self.server_id, LOCK_TIMEOUT_S):
            live_copy.thaw_left(self.data, self.server_id)
            if isinstance(target, ImageFile) and not exists:
                self._copy(target)
                return
            scratch = ImageFile(snapshots.file_of(self.data, self.server_id), "qcow2")
            try:
                self._copy(scratch)
                Still(scratch).write(target, exists=exists)
            finally:
                files.remove(scratch.path)

    def _copy(self, target: ImageFile) -> None:
        moment = live_copy.copy(
            self.data, self.server_id, self.volume_id, target, _unasked, LIMIT_S
        )
        consistency = "quiesced" if moment.quiet else "crash-consistent"
        self.facts.update(taken=moment.taken, consistency=consistency)


def _unasked() -> None:
    """A convergence goes on when its controller is gone."""
