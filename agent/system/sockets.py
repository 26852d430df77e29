"""TCP connections that begin inside a network namespace, and those to sockets of this host."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path
from typing import Optional

NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def connect(namespace: str, address: str, port: int, timeout_s: float) -> socket.socket:
    """A connection from ``namespace`` to an address there; OSError when there is none in time.

    A socket belongs to the namespace that its thread was in when it was made, so a short-lived
    thread enters the namespace and this process stays where it is.
    """
    outcome: list[Optional[socket.socket]] = []
    errors: list[OSError] = []

    def work() -> None:
        try:
            _enter(namespace)
            outcome.append(socket.create_connection((address, port), timeout_s))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="connect", daemon=True)
    thread.start()
    thread.join(timeout_s + 5)
    if errors:
        raise errors[0]
    if not outcome or outcome[0] is None:
        raise TimeoutError(f"no connection to {address} port {port} within {timeout_s:g} s")
    return outcome[0]


def connect_local(path: str, timeout_s: float) -> socket.socket:
    """A connection to a Unix socket; OSError when nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _enter(namespace: str) -> None:
    descriptor = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)
    finally:
        os.close(descriptor)
