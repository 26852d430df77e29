"""qemu-img, which is never left to guess a format.

A guest that rewrites the first bytes of its raw disk could otherwise make qemu-img take it for a
qcow2 that names any file of the host. Only ``_run`` builds an argv, and it requires the formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from agent.system.run import run

COPY_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class ImageFile:
    """A file and the format it is known to have."""

    path: Path
    format: str


def create(target: ImageFile, size_bytes: int, base: Optional[ImageFile] = None) -> None:
    """Make a disk: empty, or an overlay (qcow2) on ``base``."""
    backing = [] if base is None else ["-b", str(base.path), "-F", base.format]
    _run("create", ["-f", target.format, *backing], target, [str(size_bytes)])


def copy(source: ImageFile, target: ImageFile, *, dies_with_us: bool = False) -> None:
    """Make ``target`` a copy of ``source``, and of what lies under it, in its own format."""
    formats = ["-f", source.format, "-O", target.format, str(source.path)]
    _run("convert", formats, target, [], dies_with_us)


def clone(source: Path, target: Path) -> None:
    """Copy the file of a disk as it is, its holes and what it names as base included."""
    argv = ["cp", "--reflink=auto", "--sparse=always", "--", str(source), str(target)]
    run(argv, timeout_s=COPY_TIMEOUT_S)


def resize(target: ImageFile, size_bytes: int) -> None:
    """Grow a disk."""
    _run("resize", ["-f", target.format], target, [str(size_bytes)])


def rebase(target: ImageFile, base: ImageFile) -> None:
    """Have a disk name ``base`` as what lies under it; the content there must be the same."""
    names = ["-u", "-f", target.format, "-b", str(base.path), "-F", base.format]
    _run("rebase", names, target, [])


def _run(
    verb: str,
    formats: Sequence[str],
    target: ImageFile,
    rest: Sequence[str],
    dies_with_us: bool = False,
) -> None:
    # A copy that outlived us would keep its source locked against the guest.
    before = ["setpriv", "--pdeathsig", "KILL"] if dies_with_us else []
    argv = [*before, "qemu-img", verb, "-q", *formats, str(target.path), *rest]
    run(argv, timeout_s=COPY_TIMEOUT_S)
