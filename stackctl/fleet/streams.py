"""A two-way stream of bytes to an agent process, whatever carries it."""

from __future__ import annotations

from typing import Protocol


class Stream(Protocol):
    """Standard input and output of a process on a host.

    Every call ends within the silence limit: ``receive`` and ``send`` raise TimeoutError when
    nothing moves for that long, OSError when the connection broke.
    """

    def receive(self, count: int) -> bytes:
        """At most ``count`` bytes; b'' when the process closed its output."""
        ...

    def send(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def last_words(self) -> str:
        """The end of what came over standard error."""
        ...

    def exit_status(self) -> int | None:
        """The exit status of the process, if it has ended (waits a little for it)."""
        ...

    def close(self) -> None:
        """End the connection; whoever waits in a call gets OSError or b''."""
        ...
