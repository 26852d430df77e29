"""How a failure becomes the ``Fault`` of a report: the engine's own words first."""

from __future__ import annotations

import shlex
import traceback
from typing import Any, Optional

from agent.system.libvirt_conn import LibvirtError
from agent.system.run import CommandFailed
from agent.wire import Fault

DETAIL_LIMIT = 8000
"""Characters of detail kept in a fault."""


class StepFailed(Exception):
    """A resource could not be made what it should be; ``facts`` tell what is known of it."""

    def __init__(
        self,
        message: str,
        *,
        command: str = "",
        detail: str = "",
        facts: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.command = command
        self.detail = detail
        self.facts = facts or {}


def fault_of(error: Exception) -> Fault:
    """The fault that tells of ``error``; one we did not foresee carries its traceback."""
    if isinstance(error, StepFailed):
        return Fault(str(error), error.command, error.detail[-DETAIL_LIMIT:])
    if isinstance(error, LibvirtError):
        return Fault(str(error))
    if isinstance(error, CommandFailed):
        return Fault(str(error), shlex.join(error.argv), error.output)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return Fault(f"{error.strerror}{where}")
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Fault(f"{type(error).__name__}: {error}", detail=trace[-DETAIL_LIMIT:])


def facts_of(error: Exception) -> dict[str, Any]:
    """What is known of the resource although it failed."""
    return error.facts if isinstance(error, StepFailed) else {}
