"""What all filters are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stackctl.compute.scheduling.types import Candidate, Request


@dataclass(frozen=True)
class Filter:
    """What all filters have. ``limits``: the settings that make it stricter or not."""

    limits: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """Its name in messages and in the configuration."""
        return type(self).__name__

    def concerns(self, request: Request) -> bool:
        """Whether it matters for this request."""
        return True

    def refusal(self, host: Candidate, request: Request) -> str:
        """Why the host cannot take the request, with numbers; empty when it can."""
        raise NotImplementedError

    def note(self, host: Candidate, request: Request) -> str:
        """What it saw on a host that can."""
        return "passes"
