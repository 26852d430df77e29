"""What can go wrong between the controller and a host, beyond the common vocabulary."""

from __future__ import annotations

from stackctl.errors import HostUnreachable, StateLocked


class HostRefused(HostUnreachable):
    """The host answers but does not let us work: login, sudo or its python3. Never retried."""


class ChannelLost(HostUnreachable):
    """The exchange broke off.

    ``spec_sent`` tells whether the agent may have the spec: if not, nothing was done there.
    """

    def __init__(self, message: str, *, hint: str = "", spec_sent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.spec_sent = spec_sent


class HostBusy(StateLocked):
    """Another exchange holds the host's lock; the message says whose."""
