"""The error vocabulary and its exit statuses.

StackctlError
 ├ UsageError 2          ├ QuotaExceeded 5    ├ StateCorrupt 11      ├ HostKeyMismatch 21
 ├ NotFound 3            ├ NoCapacity 6       ├ HostAhead 11         ├ ResourceFailed 30
 ├ Conflict 4            ├ Forbidden 7        ├ HostUnreachable 20   ├ UnsafeImage 31
 └ Bug 70                ├ StateLocked 10     └ AgentFailed 30       └ PartlyDone 40

A message is one paragraph: what failed, where, what state things are in now; ``hint`` is the
command to type next.
"""

from __future__ import annotations

from typing import ClassVar


class StackctlError(Exception):
    """A refusal or failure that the user can read; ``exit_status`` is what the shell gets."""

    exit_status: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(StackctlError):
    """The words of the command do not make sense."""

    exit_status = 2


class NotFound(StackctlError):
    """Nothing has this name or id (or more than one thing has)."""

    exit_status = 3


class Conflict(StackctlError):
    """Taken, in use, or in a state that does not allow this."""

    exit_status = 4


class QuotaExceeded(StackctlError):
    """The project would have more than it may."""

    exit_status = 5


class NoCapacity(StackctlError):
    """No valid host; the message holds each host's numbers."""

    exit_status = 6


class Forbidden(StackctlError):
    """Not with this role."""

    exit_status = 7


class StateLocked(StackctlError):
    """Another command holds the state for too long."""

    exit_status = 10


class StateCorrupt(StackctlError):
    """The state file is damaged, not ours, or written by a newer version."""

    exit_status = 11


class HostAhead(StackctlError):
    """A host has accepted a spec that this database never wrote."""

    exit_status = 11


class HostUnreachable(StackctlError):
    """A host does not answer and nothing was committed, or nothing was done there."""

    exit_status = 20


class HostKeyMismatch(StackctlError):
    """A host shows another key than the pinned one."""

    exit_status = 21


class ResourceFailed(StackctlError):
    """A host could not make a resource; the message holds the engine's words."""

    exit_status = 30


class AgentFailed(ResourceFailed):
    """The agent on a host refused or failed as a whole."""


class UnsafeImage(StackctlError):
    """An image whose header asks for something we do not allow."""

    exit_status = 31


class PartlyDone(StackctlError):
    """Some of it is done; the message says what is not."""

    exit_status = 40


class Bug(StackctlError):
    """Something that should not happen did."""

    exit_status = 70
