"""The controller itself as a host: the same frames over the pipes of a child process."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, cast

from agent.wire import SILENCE_LIMIT_S
from stackctl.fleet import counters
from stackctl.fleet.errors import HostRefused

END_TIMEOUT_S = 5.0
LAST_WORDS_BYTES = 4096


class LocalStream:
    """Standard input and output of a process on this machine."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the stream
        try:
            self._process = _start(argv, self._errors)
        except OSError:
            self._errors.close()
            raise
        self._input = cast("IO[bytes]", self._process.stdin)
        self._output = cast("IO[bytes]", self._process.stdout)
        os.set_blocking(self._input.fileno(), False)

    def receive(self, count: int) -> bytes:
        """At most ``count`` bytes; b'' at the end; TimeoutError after the silence limit."""
        _wait(self._output.fileno(), select.POLLIN)
        return os.read(self._output.fileno(), count)

    def send(self, data: bytes) -> None:
        """Send all of it; TimeoutError when the process takes nothing for the silence limit."""
        view = memoryview(data)
        while view:
            _wait(self._input.fileno(), select.POLLOUT)
            with suppress(BlockingIOError):
                view = view[os.write(self._input.fileno(), view) :]

    def last_words(self) -> str:
        """The end of what came over standard error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - LAST_WORDS_BYTES))
        return self._errors.read().decode(errors="replace")

    def exit_status(self) -> int | None:
        """The exit status of the process, if it has ended (waits at most 2 s)."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(2)
        return None

    def close(self) -> None:
        """Close its input; it has a moment to leave by itself."""
        with suppress(OSError):
            self._input.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # One under sudo is not ours to end; it leaves when it notices.
            with suppress(PermissionError):
                self._process.terminate()
                self._process.wait(END_TIMEOUT_S)
        self._output.close()
        self._errors.close()


def _start(argv: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    # Its own session: Ctrl-C is for us; the agent finishes what it has in hand.
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
        bufsize=0,
    )


def _wait(descriptor: int, event: int) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(SILENCE_LIMIT_S * 1000):
        raise TimeoutError(f"nothing moved for {SILENCE_LIMIT_S:g} s")


def open_stream(name: str, argv: Sequence[str]) -> LocalStream:
    """Run a command on this machine."""
    try:
        stream = LocalStream(argv)
    except OSError as error:
        raise HostRefused(
            f"Host {name} (this machine) cannot run {argv[0]}: {error.strerror}. "
            "Nothing was done there.",
            hint="apt-get install python3 sudo",
        ) from None
    counters.count(counters.channels, name)
    return stream
