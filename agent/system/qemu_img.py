"""qemu-img, which is never left to guess a format.

A guest that rewrites the first bytes of its raw disk could otherwise make qemu-img take it for a
qcow2 that names any file of the host. Only ``_run`` builds an argv, and it requires the formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from agent.system.run import run

COPY_TIMEOUT_S = 3600.0
QUERY_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ImageFile:
    """A file and the format it is known to have."""

    path: Path
    format: str

    @property
    def name(self) -> str:
        """What qemu calls it."""
        return str(self.path)


@dataclass(frozen=True)
class Remote:
    """What qemu reaches by itself, under a name that is no file of this host."""

    name: str
    format: str


Image = Union[ImageFile, Remote]


def create(target: Image, size_bytes: int, base: Optional[ImageFile] = None) -> None:
    """Make a disk: empty, or an overlay (qcow2) on ``base``."""
    backing = [] if base is None else ["-b", str(base.path), "-F", base.format]
    _run("create", ["-f", target.format, *backing], target, [str(size_bytes)])


def copy(source: Image, target: Image, *, dies_with_us: bool = False) -> None:
    """Make ``target`` a copy of ``source``, and of what lies under it, in its own format."""
    formats = ["-f", source.format, "-O", target.format, source.name]
    _run("convert", formats, target, [], dies_with_us)


def copy_into(source: Image, target: Image) -> None:
    """Write the content of ``source`` to a disk that is there already and large enough."""
    _run("convert", ["-n", "-f", source.format, "-O", target.format, source.name], target, [])


def clone(source: Path, target: Path) -> None:
    """Copy the file of a disk as it is, its holes and what it names as base included."""
    argv = ["cp", "--reflink=auto", "--sparse=always", "--", str(source), str(target)]
    run(argv, timeout_s=COPY_TIMEOUT_S)


def resize(target: Image, size_bytes: int) -> None:
    """Grow a disk."""
    _run("resize", ["-f", target.format], target, [str(size_bytes)])


def has_driver(name: str) -> bool:
    """Whether qemu here knows a driver; some are packed apart."""
    words = run(["qemu-img", "--help"], timeout_s=QUERY_TIMEOUT_S)
    return name in words.partition("Supported formats:")[2].split()


def rebase(target: ImageFile, base: ImageFile) -> None:
    """Have a disk name ``base`` as what lies under it; the content there must be the same."""
    names = ["-u", "-f", target.format, "-b", str(base.path), "-F", base.format]
    _run("rebase", names, target, [])


def _run(
    verb: str,
    formats: Sequence[str],
    target: Image,
    rest: Sequence[str],
    dies_with_us: bool = False,
) -> None:
    # A copy that outlived us would keep its source locked against the guest.
    before = ["setpriv", "--pdeathsig", "KILL"] if dies_with_us else []
    argv = [*before, "qemu-img", verb, "-q", *formats, target.name, *rest]
    run(argv, timeout_s=COPY_TIMEOUT_S)
