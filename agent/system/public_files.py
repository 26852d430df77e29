"""Small text files that an unprivileged daemon reads, written whole.

A reader sees the old text or the new one, never a part. They are not forced to the disk: what
stands in them can be made again.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Optional

from agent import killpoint
from agent.system.run import CommandFailed


def read(file: Path) -> Optional[str]:
    """The text of a file; None when it cannot be read."""
    try:
        return file.read_text()
    except (OSError, ValueError):
        return None


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step."""
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(text)
    temporary.chmod(mode)
    killpoint.reached(f"{file.name} about to be replaced")
    temporary.replace(file)


def make_public(top: Path, folder: Path) -> None:
    """Make ``folder`` beneath ``top`` and let an unprivileged reader pass through to it.

    ``top`` itself may be passed but not listed; CommandFailed when something above it is closed.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    step = folder
    while step != top:
        step.chmod(0o755)
        step = step.parent
    top.chmod(stat.S_IMODE(top.stat().st_mode) | stat.S_IXGRP | stat.S_IXOTH)
    for above in top.resolve().parents:
        if not above.stat().st_mode & stat.S_IXOTH:
            raise CommandFailed(
                ("chmod", "o+x", str(above)),
                f"{above} is closed to dnsmasq's account, which must read {folder}",
            )


def remove_tree(folder: Path) -> None:
    """Remove a folder with all it holds; one that is gone is fine."""
    if folder.is_dir():
        doomed = folder.with_name(folder.name + ".gone")
        folder.replace(doomed)
        killpoint.reached(f"{folder.name} set aside")
        shutil.rmtree(doomed)
