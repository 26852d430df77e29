"""How many connections and channels this process opened, per host: tests count them."""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
connections: Counter[str] = Counter()
"""Connections that were opened and logged in, by host name."""

channels: Counter[str] = Counter()
"""Channels (agent processes) that were opened, by host name."""


def count(counter: Counter[str], host: str) -> None:
    """Add one for a host."""
    with _lock:
        counter[host] += 1


def reset() -> None:
    """Begin again at zero."""
    with _lock:
        connections.clear()
        channels.clear()
