"""Named moments at which a test may end this process with SIGKILL.

Between any two effects that others can see there is a ``reached``. A test counts them once
(STACKCTL_KILL_COUNT_FILE) and then dies at each in turn (STACKCTL_KILL_AT=N): a new point is
covered without being named anywhere. Unarmed, it costs one comparison.

The agents have points of their own: STACKCTL_AGENT_KILL_AT=N has them die at theirs.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

_KILL_AT = int(os.environ.get("STACKCTL_KILL_AT", "0"))
_COUNT_FILE = os.environ.get("STACKCTL_KILL_COUNT_FILE", "")
_lock = threading.Lock()
_count = 0


def reached(name: str) -> None:
    """Say that this moment was reached; die here if a test asked for it."""
    global _count
    if not _KILL_AT and not _COUNT_FILE:
        return
    with _lock:
        _count += 1
        if _COUNT_FILE:
            with Path(_COUNT_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{_count} {name}\n")
        if _count == _KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def for_agents() -> int:
    """The point at which a test wants agents to die; 0 for none."""
    return int(os.environ.get("STACKCTL_AGENT_KILL_AT", "0"))
