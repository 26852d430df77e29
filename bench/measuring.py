"""Running commands and taking their times; rows of the table that come of it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Taken:
    """What one run took: seconds by the clock, of CPU of the command itself, and on its hosts."""

    wall: float
    cpu: float = 0.0
    output: str = ""
    hosts_cpu: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table: a budget, and what was measured beside it.

    ``budget`` is None for what has none. ``note`` says what the numbers alone do not.
    """

    name: str
    what: str
    budget: float | None
    unit: str
    values: tuple[float, ...]
    cpu: tuple[float, ...] = ()
    note: str = ""
    hosts_cpu: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The middle one of all runs."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """ok or over; empty where there is no budget."""
        if self.budget is None:
            return ""
        return "ok" if self.median <= self.budget else "over"

    def plain(self) -> dict[str, Any]:
        """The row for JSON."""
        return {
            "name": self.name,
            "what": self.what,
            "budget": self.budget,
            "unit": self.unit,
            "median": round(self.median, 4),
            "min": round(min(self.values), 4),
            "max": round(max(self.values), 4),
            "runs": len(self.values),
            "cpu": _middle(self.cpu),
            "hosts_cpu": _middle(self.hosts_cpu),
            "verdict": self.verdict,
            "note": self.note,
        }


def _middle(values: tuple[float, ...]) -> float | None:
    return round(statistics.median(values), 4) if any(values) else None


class CommandFailed(Exception):
    """A command that is measured did not succeed; the message has its words."""


def take(argv: Sequence[str], env: Mapping[str, str], timeout_s: float = 600) -> Taken:
    """Run a command to its end: how long it took, what CPU it used, what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=dict(env)
        )
        try:
            status, used = _wait(process, begun + timeout_s)
        except BaseException:
            process.terminate()
            process.wait(10)
            raise
        wall = time.monotonic() - begun
        words = _content(out)
        if status != 0:
            said = (_content(err) or words).strip()[-600:]
            raise CommandFailed(f"{' '.join(argv)} ended with status {status}: {said}")
    return Taken(wall, used, words)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[int, float]:
    """Its exit status and the CPU seconds of it alone (wait4 knows, Popen.wait does not)."""
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            raise CommandFailed(f"process {process.pid} did not end in time")
        time.sleep(0.001)


def _content(file: Any) -> str:
    file.seek(0)
    return bytes(file.read()).decode(errors="replace")


def repeat(runs: int, work: Callable[[], Taken]) -> list[Taken]:
    """The same work several times."""
    return [work() for _ in range(runs)]


def timed(work: Callable[[], object]) -> Taken:
    """What a function of this process takes."""
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return Taken(time.monotonic() - wall, time.process_time() - cpu)


def row(name: str, what: str, budget: float | None, taken: Sequence[Taken], note: str = "") -> Row:
    """A row of seconds."""
    walls, cpus = tuple(t.wall for t in taken), tuple(t.cpu for t in taken)
    return Row(name, what, budget, "s", walls, cpus, note, tuple(t.hosts_cpu for t in taken))


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
