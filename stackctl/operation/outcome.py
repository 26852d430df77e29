"""What became of an operation: its value, and what failed on which host in the engine's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stackctl.errors import PartlyDone, ResourceFailed, StackctlError

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Failure:
    """One resource of this operation that is not as it should be.

    ``error`` is the class that the command ends with when nothing else succeeded.
    """

    kind: str
    id: str
    name: str
    host: str
    message: str
    error: type[StackctlError] = ResourceFailed
    hint: str = ""


@dataclass(frozen=True)
class PlannedStep:
    """What a host would do (--dry-run, drift); ``name`` is what people call the resource."""

    host: str
    kind: str
    id: str
    result: str
    why: str
    name: str = ""


@dataclass
class Done(Generic[T]):
    """The end of an operation. ``succeeded`` counts what of it is as it should be."""

    value: T
    operation_id: str
    failures: list[Failure] = field(default_factory=list)
    succeeded: int = 0
    planned: list[PlannedStep] = field(default_factory=list)
    hint: str = ""

    def with_value(self, value: U) -> Done[U]:
        """The same end of the same operation, told with another value."""
        return Done(
            value, self.operation_id, self.failures, self.succeeded, self.planned, self.hint
        )

    def check(self) -> None:
        """Raise what the command must end with: nothing, the failures' own status, or 40."""
        if not self.failures:
            return
        message = " ".join(_sentences(self.failures))
        kinds = {failure.error for failure in self.failures}
        if self.succeeded or PartlyDone in kinds:
            kinds = {PartlyDone}
        error = kinds.pop() if len(kinds) == 1 else ResourceFailed
        hints = [failure.hint for failure in self.failures if failure.hint]
        raise error(message, hint=self.hint or next(iter(hints), "stackctl events"))


def _sentences(failures: list[Failure]) -> list[str]:
    """One sentence for each thing that went wrong, with all that it went wrong for."""
    victims: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        named = victims.setdefault((failure.host, failure.message), [])
        if failure.kind != "host":
            named.append(f"{failure.kind} {failure.name or failure.id[:8]}")
    return [_sentence(host, message, named) for (host, message), named in victims.items()]


def _sentence(host: str, message: str, victims: list[str]) -> str:
    if not victims:
        return message
    # What says itself that the host is silent needs no more of where.
    where = f" on host {host}" if host and not message.startswith(f"Host {host} ") else ""
    end = "" if message.endswith((".", "!", "?")) else "."
    return f"{', '.join(dict.fromkeys(victims))}{where}: {message}{end}"
