"""Reaching hosts: pinned SSH, agent delivery, exchanges with agents, many hosts in parallel.

Nothing here imports paramiko until a connection is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stackctl.fleet import counters
    from stackctl.fleet.errors import ChannelLost, HostBusy, HostRefused
    from stackctl.fleet.parallel import Interrupted, OpenSessions, for_each
    from stackctl.fleet.session import AgentSession, open_session
    from stackctl.fleet.target import target_of
    from stackctl.fleet.types import Accepted, Hello, Opening, Session, Target

__all__ = [
    "Accepted",
    "AgentSession",
    "ChannelLost",
    "Hello",
    "HostBusy",
    "HostRefused",
    "Interrupted",
    "OpenSessions",
    "Opening",
    "Session",
    "Target",
    "counters",
    "for_each",
    "open_session",
    "target_of",
]

_HOMES = {
    "AgentSession": "session",
    "Accepted": "types",
    "ChannelLost": "errors",
    "Hello": "types",
    "HostBusy": "errors",
    "HostRefused": "errors",
    "Interrupted": "parallel",
    "OpenSessions": "parallel",
    "Opening": "types",
    "Session": "types",
    "Target": "types",
    "for_each": "parallel",
    "open_session": "session",
    "target_of": "target",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for: the types alone are wanted by commands that reach no host."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
