"""Points between two effects, where a test can have the agent killed.

Production never arms them. A test arms the n-th point in its ``open`` message, repeats with the
next n until an exchange completes, and has thereby killed the agent between any two effects
without knowing their names.
"""

from __future__ import annotations

import os
import signal
import threading

_lock = threading.Lock()
_passed = 0
_armed_at = 0


def arm(number: int) -> None:
    """Kill this process with SIGKILL at the ``number``-th point from now; 0 disarms."""
    global _passed, _armed_at
    with _lock:
        _passed, _armed_at = 0, number


def reached(name: str) -> None:
    """Mark the place between two effects; ``name`` is for people who read a trace."""
    global _passed
    with _lock:
        _passed += 1
        if _passed == _armed_at:
            os.kill(os.getpid(), signal.SIGKILL)


def passed() -> int:
    """How many points were passed since the exchange began."""
    return _passed
