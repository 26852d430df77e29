"""Running this machine's tools: a typed argv, no shell, always a timeout."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from stackctl.lab.errors import LabError

TIMEOUT = 30.0


def run(
    argv: Sequence[str],
    *,
    text: str = "",
    timeout: float = TIMEOUT,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a tool, give it ``text`` on stdin, return its stdout; a failure carries its words."""
    try:
        done = subprocess.run(
            argv,
            input=text,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            # The locks of store.py go along: a tool that outlives its caller still holds the lab.
            close_fds=False,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed on this machine.") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"'{shlex.join(argv)}' did not end within {timeout:g} s.") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise LabError(f"'{shlex.join(argv)}' failed: {words}")
    return done.stdout


def succeeds(argv: Sequence[str], *, text: str = "", timeout: float = TIMEOUT) -> bool:
    """Whether the tool ends with status 0."""
    try:
        run(argv, text=text, timeout=timeout)
    except LabError:
        return False
    return True
