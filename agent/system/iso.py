"""Byte-reproducible ISO 9660 images, made by xorriso."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.system import files
from agent.system.run import run

TIMESTAMP = "2000010100000000"
"""The time that all dates in an image show: equal content, equal bytes."""


def build(path: Path, label: str, tree: Mapping[str, bytes]) -> None:
    """Make ``path`` an ISO image with Rock Ridge and Joliet names that holds ``tree``."""
    staging = path.with_name(f".{path.name}.tree")
    part = path.with_name(f".{path.name}.part")
    files.remove_folder(staging)
    part.unlink(missing_ok=True)
    try:
        _write_tree(staging, tree)
        # Made first, so that its content is never readable by others while xorriso writes.
        files.create(part, 0o600).close()
        run(_argv(part, label, staging), timeout_s=60)
        files.sync_path(part)
        files.publish(part, path)
    finally:
        files.remove_folder(staging)
        part.unlink(missing_ok=True)


def _argv(part: Path, label: str, staging: Path) -> list[str]:
    dates = [f"--modification-date={TIMESTAMP}", "--set_all_file_dates", TIMESTAMP]
    return [
        *("xorriso", "-as", "mkisofs", "-quiet", "-no-pad", "-J", "-r", "-V", label),
        *dates,
        *("-o", str(part), str(staging)),
    ]


def _write_tree(staging: Path, tree: Mapping[str, bytes]) -> None:
    staging.mkdir(mode=0o700)
    for name in sorted(tree):
        path = staging / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.create(path) as file:
            file.write(tree[name])
