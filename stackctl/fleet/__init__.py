"""Reaching hosts: pinned SSH, agent delivery, exchanges with agents, many hosts in parallel.

Nothing here imports paramiko until a connection is opened.
"""

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
