"""File systems on new disks: guests find what they need without making it themselves."""

from __future__ import annotations

from pathlib import Path

from agent.system.run import run

TIMEOUT_S = 300.0


def make_ext4(path: Path, label: str) -> None:
    """Make a file (of its full size, all hole) an ext4 file system."""
    lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    run(["mkfs.ext4", "-q", "-F", "-L", label, "-E", lazy, str(path)], timeout_s=TIMEOUT_S)


def make_swap(path: Path) -> None:
    """Make it swap space."""
    run(["mkswap", "-L", "swap", str(path)], timeout_s=TIMEOUT_S)
