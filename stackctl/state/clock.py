"""Time and identifiers as they are stored."""

from __future__ import annotations

import datetime
import os
import uuid


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds: for display, never for order."""
    at = datetime.datetime.now(datetime.timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(stamp: str) -> float:
    """Seconds from a stored time until now."""
    then = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    return (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()


def later(stamp: str, seconds: float) -> str:
    """The time so many seconds after a stored one."""
    then = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    at = then + datetime.timedelta(seconds=seconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id() -> str:
    """A random UUID, the form of every id."""
    return str(uuid.uuid4())


def new_nonce() -> str:
    """What tells two transactions of the same serial apart."""
    return os.urandom(8).hex()
