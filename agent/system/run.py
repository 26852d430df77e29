"""Run one external command: typed argv, no shell, always a timeout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Optional

OUTPUT_LIMIT = 4000
"""Characters of a command's own words kept in a fault."""


class CommandFailed(Exception):
    """A command did not do its work; holds its argv and the engine's own words."""

    def __init__(self, argv: Sequence[str], message: str, output: str = "") -> None:
        super().__init__(f"{argv[0]}: {message}")
        self.argv = tuple(argv)
        self.message = message
        self.output = output[-OUTPUT_LIMIT:]


def run(
    argv: Sequence[str], *, timeout_s: float = 30, stdin: str = "", netns: Optional[str] = None
) -> str:
    """Run ``argv`` (inside the network namespace ``netns``) and return its standard output."""
    full = ["ip", "netns", "exec", netns, *argv] if netns is not None else list(argv)
    try:
        done = subprocess.run(
            full,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise CommandFailed(full, "is not installed on this host") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(full, f"no answer within {timeout_s:g} s") from None
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip()
        raise CommandFailed(full, f"exit status {done.returncode}: {words[:500]}", words)
    return done.stdout
