"""Where a server is that was on its way to another host: asked of both before anybody decides.

Whoever moves a server here, or away from here, holds its lock for as long as that goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import layout
from agent.faults import StepFailed
from agent.spec import to_plain
from agent.store import Store
from agent.system import files, libvirt_conn, libvirt_moves

END_LIMIT_S = 60.0
"""How long a move whose agents are gone may take to come to an end by itself."""

POLL_S = 0.2

Args = dict[str, Any]


@contextmanager
def alone(data: Path, server_id: str, timeout_s: float) -> Iterator[None]:
    """Be the one who moves a server here; StepFailed while somebody else does."""
    files.make_folder(data / "locks")
    try:
        with files.locked(_lock(data, server_id), timeout_s, str(os.getpid())):
            yield
    except files.LockHeld as held:
        raise StepFailed(f"process {held} still moves this server") from None


@contextmanager
def unmoved(data: Path, server_id: str) -> Iterator[None]:
    """The same for who does not move it, once nobody else does. One that was never moved has no
    lock, and gets none."""
    if _lock(data, server_id).exists():
        with alone(data, server_id, END_LIMIT_S):
            yield
    else:
        yield


def _lock(data: Path, server_id: str) -> Path:
    return data / "locks" / f"move-{layout.checked(server_id)}"


def look(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """What is here of a server, when nothing goes on with it any more: {server_id}."""
    server_id = layout.checked(args["server_id"])
    deadline = time.monotonic() + END_LIMIT_S
    with alone(store.data, server_id, END_LIMIT_S):
        files.remove_folder(layout.passage(store.data, server_id))
        while True:
            place = libvirt_moves.place(server_id)
            if not (place.busy or place.arriving) or time.monotonic() > deadline:
                return {**to_plain(place), "on": place.on}
            check()
            time.sleep(POLL_S)


def resume(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Let a server go on that came here, or stayed, and stands still: {server_id}."""
    server_id = layout.checked(args["server_id"])
    with alone(store.data, server_id, END_LIMIT_S):
        libvirt_conn.unpause(server_id)
    return {}
