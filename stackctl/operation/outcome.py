"""What became of an operation: its value, and what failed on which host in the engine's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stackctl.errors import HostUnreachable, PartlyDone, ResourceFailed, StackctlError

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """One resource of this operation that is not as it should be.

    ``lost`` is set when its host stopped answering, so what is there now is not known.
    """

    kind: str
    id: str
    name: str
    host: str
    message: str
    lost: bool = False


@dataclass(frozen=True)
class PlannedStep:
    """What a host would do (--dry-run, drift)."""

    host: str
    kind: str
    id: str
    result: str
    why: str


@dataclass
class Done(Generic[T]):
    """The end of an operation. ``succeeded`` counts resources of it that are as they should be."""

    value: T
    operation_id: str
    failures: list[Failure] = field(default_factory=list)
    succeeded: int = 0
    planned: list[PlannedStep] = field(default_factory=list)
    hint: str = ""

    def check(self) -> None:
        """Raise what the command must end with: nothing, 20, 30 or 40."""
        if not self.failures:
            return
        message = " ".join(f"{_subject(failure)}: {failure.message}" for failure in self.failures)
        raise _error_class(self)(message, hint=self.hint or "stackctl events")


def _subject(failure: Failure) -> str:
    name = f" {failure.name}" if failure.name else ""
    return f"{failure.kind}{name} on host {failure.host}"


def _error_class(done: Done[T]) -> type[StackctlError]:
    if done.succeeded:
        return PartlyDone
    if all(failure.kind == "host" for failure in done.failures):
        return HostUnreachable
    return ResourceFailed
