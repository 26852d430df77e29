"""The same work for many hosts at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from stackctl.fleet.session import AgentSession
from stackctl.fleet.types import Target

MAX_THREADS = 32

R = TypeVar("R")


class Interrupted(KeyboardInterrupt, Generic[R]):
    """Ctrl-C came: nothing more is sent. ``results`` holds what each host had come to."""

    def __init__(self, results: dict[str, R | Exception]) -> None:
        super().__init__("interrupted")
        self.results = results


class OpenSessions:
    """The exchanges that are open, so that Ctrl-C can end them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: set[AgentSession] = set()
        self.stopped = threading.Event()

    def add(self, session: AgentSession) -> None:
        """Remember a session; it is ended at once when Ctrl-C came before."""
        with self._lock:
            self._sessions.add(session)
        if self.stopped.is_set():
            session.abort()

    def discard(self, session: AgentSession) -> None:
        """Forget a session that was closed."""
        with self._lock:
            self._sessions.discard(session)

    def stop(self) -> None:
        """End all of them; agents finish the resource in hand and leave."""
        self.stopped.set()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.abort()


def for_each(
    targets: Iterable[Target],
    work: Callable[[Target], R],
    *,
    sessions: OpenSessions | None = None,
    max_threads: int = MAX_THREADS,
) -> dict[str, R | Exception]:
    """``work(target)`` for every target, in threads: its result or exception by host id.

    On Ctrl-C no further host is begun, the sessions in ``sessions`` are ended, and Interrupted
    is raised with what there is; a second Ctrl-C does not wait for that.
    """
    waiting: queue.SimpleQueue[Target] = queue.SimpleQueue()
    count = 0
    for target in targets:
        waiting.put(target)
        count += 1
    results: dict[str, R | Exception] = {}
    stopped = threading.Event()

    def take() -> None:
        while not stopped.is_set():
            try:
                target = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results[target.host_id] = work(target)
            except Exception as error:  # every kind of failure belongs to its host
                results[target.host_id] = error

    # Daemons: a second Ctrl-C ends the process although a host has not answered.
    threads = [threading.Thread(target=take, daemon=True) for _ in range(min(count, max_threads))]
    try:
        for thread in threads:
            thread.start()
        _join(threads)
    except KeyboardInterrupt:
        stopped.set()
        if sessions is not None:
            sessions.stop()
        _join(threads)
        raise Interrupted(results) from None
    return results


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        # In small pieces: a join without end would not hear Ctrl-C everywhere.
        while thread.is_alive():
            thread.join(0.5)
