"""Named network namespaces: making them, and running a function inside one.

A thread that has called setns(2) does its sockets, sysctls and netlink in that namespace, so
looking into one costs no process. Namespaces are left by ending the thread.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Callable, Optional, TypeVar

from agent import killpoint
from agent.system.run import CommandFailed, run

FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def names() -> set[str]:
    """The named namespaces of this host."""
    try:
        return {entry.name for entry in FOLDER.iterdir()}
    except FileNotFoundError:
        return set()


def identity(name: str) -> Optional[int]:
    """What /proc/PID/ns/net of a process inside shows too; None when there is no such namespace.

    A name whose mount is gone (a plain file is left) counts as no namespace.
    """
    try:
        found = (FOLDER / name).stat()
        outside = FOLDER.stat()
    except FileNotFoundError:
        return None
    return found.st_ino if found.st_dev != outside.st_dev else None


def of_process(pid: int) -> Optional[int]:
    """The network namespace that a process is in; None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None


def make(name: str) -> None:
    """Make a namespace; a leftover name without a namespace is replaced."""
    if identity(name) is None:
        (FOLDER / name).unlink(missing_ok=True)
        run(["ip", "netns", "add", name], timeout_s=10)
        killpoint.reached(f"namespace {name} made")


def delete(name: str) -> None:
    """Remove a namespace's name; one that is gone is fine."""
    if name in names():
        run(["ip", "netns", "delete", name], timeout_s=10)
        killpoint.reached(f"namespace {name} deleted")


def inside(name: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread inside the namespace; its result or its exception comes back."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            _enter(name)
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name=f"netns {name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandFailed(("setns", name), error.strerror or str(error)) from None
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise CommandFailed(("setns", name), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
