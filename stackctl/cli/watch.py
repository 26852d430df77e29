"""What a person sees meanwhile: progress bars, the trace, warnings. All of it on stderr."""

from __future__ import annotations

import datetime
import json
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from stackctl.cli.render import printable, size
from stackctl.identity.context import Watch

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Whatever is over sooner needs no bar.
PATIENCE_S = 1.0
# Totals from here on are bytes, below it things.
_BYTES_FROM = 1 << 16


class Terminal:
    """The watcher of one command. Its methods may be called from several threads."""

    def __init__(self, *, trace: str | None, colour: bool) -> None:
        self._trace = trace
        self._colour = colour
        self._bars = sys.stderr.isatty() and trace is None
        self._lock = threading.Lock()
        self._begun: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._progress: Progress | None = None

    def watch(self) -> Watch:
        """What services are given."""
        return Watch(progress=self.progress, trace=self.trace, warn=self.warn)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far something is, once it has taken longer than PATIENCE_S."""
        if not self._bars:
            return
        with self._lock:
            begun = self._begun.setdefault(what, time.monotonic())
            if what in self._tasks or time.monotonic() - begun >= PATIENCE_S:
                self._draw(what, done, total)

    def trace(self, step: str, host: str, resource: str, seconds: float) -> None:
        """Print a step of --trace: time, host, resource, step, how long it took."""
        if self._trace is None:
            return
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        at = at.replace("+00:00", "Z")
        if self._trace == "json":
            parts = {"at": at, "host": host, "resource": resource, "step": step}
            line = json.dumps({**parts, "seconds": round(seconds, 6)}, ensure_ascii=False)
        else:
            line = f"{at} {host or '-':<12} {resource or '-':<24} {step} {seconds:.3f}s"
        self._print(line)

    def warn(self, text: str) -> None:
        """Print a warning for the operator."""
        self._print(f"Warning: {text}")

    def close(self) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, line: str) -> None:
        with self._lock:
            click.echo(printable(line), err=True)

    def _draw(self, what: str, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = _new_progress(colour=self._colour)
            self._progress.start()
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(printable(what), count="")
        self._progress.update(
            self._tasks[what], completed=done, total=total or None, count=amount(done, total)
        )


def amount(done: int, total: int) -> str:
    """How far, in words: bytes for large totals, a plain count for small ones."""
    if max(done, total) >= _BYTES_FROM:
        return f"{size(done)} of {size(total)}" if total else size(done)
    return f"{done} of {total}" if total else str(done)


def _new_progress(*, colour: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True, no_color=not colour or None),
        transient=True,
    )
