"""Ways from one host to another while a guest moves: UNIX sockets here that end at UNIX sockets
there, over TLS.

The host that a guest comes to listens, with a certificate made for this operation; whoever shows
the operation's token and names a way is joined to what that way leads to. The host that it leaves
has a socket for each way; every connection to it becomes one to the other host.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from agent import tls
from agent.faults import StepFailed
from agent.system import files

CONNECT_TIMEOUT_S = 10.0
GREETING_BYTES = 200
PIECE_BYTES = 256 * 1024
SILENT_MS = 20_000
"""After so long without an answer the other host counts as gone."""

KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))

End = Union[socket.socket, ssl.SSLSocket]
Serve = Callable[[ssl.SSLSocket], None]
"""What is done with a connection that came by a way; it closes it."""


class _Ended(Exception):
    """A side has said all that it had to say."""


# --- the host that a guest comes to -------------------------------------------------------------


class Entrance:
    """Listens until this process ends; ``ways``: what each of them leads to, by name."""

    def __init__(
        self, address: str, certificate: str, key: str, token: str, ways: Mapping[str, Serve]
    ) -> None:
        self._context = tls.server_context(certificate + key)
        # Nobody comes back with a ticket, and one that is left unread would cut a stream's end.
        self._context.num_tickets = 0
        self._token, self._ways = token, ways
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._door = socket.create_server((address, 0), family=family)
        self.port = int(self._door.getsockname()[1])
        threading.Thread(target=self._listen, name="entrance", daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        _shut(self._door)

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._door.accept()[0]
                threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: socket.socket) -> None:
        try:
            _watch_over(connection)
            connection.settimeout(CONNECT_TIMEOUT_S)
            far = self._context.wrap_socket(connection, server_side=True)
            serve = self._way(_read_line(far))
            if serve is None:
                far.close()
            else:
                serve(far)
        except OSError:
            connection.close()

    def _way(self, greeting: str) -> Serve | None:
        token, _, name = greeting.partition(" ")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        return self._ways.get(name)


def joined_to(path: Path, then: Callable[[], None] = lambda: None) -> Serve:
    """A way to a UNIX socket; ``then``: what is done when all that was said has arrived."""

    def serve(far: ssl.SSLSocket) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
            local.connect(str(path))
            join(local, far)
        then()

    return serve


def received_as(path: Path, limit_bytes: int) -> Serve:
    """A way to a file: what comes replaces it, whole or not at all. Answers when it is there."""

    def serve(far: ssl.SSLSocket) -> None:
        with far:
            size_bytes = int(_read_line(far))
            if not 0 <= size_bytes <= limit_bytes:
                return
            content = bytearray()
            while len(content) < size_bytes:
                piece = far.recv(min(PIECE_BYTES, size_bytes - len(content)))
                if not piece:
                    return
                content += piece
            files.write_atomic(path, bytes(content))
            far.sendall(b"ok\n")

    return serve


# --- the host that it leaves --------------------------------------------------------------------


@dataclass
class Ways:
    """The other host: where it listens, and what opens it. ``close`` ends what was opened here."""

    address: str
    port: int
    token: str
    certificate: str
    _doors: list[socket.socket] = field(default_factory=list)

    def open(self, path: Path, name: str, owner: tuple[int, int] = (0, 0)) -> None:
        """Make a UNIX socket, its owner's alone, whose connections go by a way."""
        path.unlink(missing_ok=True)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._doors.append(door)
        door.bind(str(path))
        path.chmod(0o600)
        os.chown(path, *owner)
        door.listen()
        threading.Thread(target=self._listen, args=(door, name), name=name, daemon=True).start()

    def send(self, name: str, content: bytes) -> None:
        """Have the other host keep a file; StepFailed when it does not."""
        try:
            with self.dial(name) as far:
                far.sendall(f"{len(content)}\n".encode())
                far.sendall(content)
                answer = _read_line(far)
        except OSError as error:
            raise StepFailed(f"host {self.address}: {error}") from None
        if answer != "ok":
            raise StepFailed(f"host {self.address} did not take {name}")

    def dial(self, name: str) -> ssl.SSLSocket:
        """A connection to what a way leads to."""
        plain = socket.create_connection((self.address, self.port), CONNECT_TIMEOUT_S)
        try:
            _watch_over(plain)
            far = tls.client_context(self.certificate).wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
        far.sendall(f"{self.token} {name}\n".encode())
        return far

    def close(self) -> None:
        """Let nobody go there any more."""
        for door in self._doors:
            _shut(door)

    def _listen(self, door: socket.socket, name: str) -> None:
        with suppress(OSError):
            while True:
                local = door.accept()[0]
                threading.Thread(target=self._go, args=(local, name), daemon=True).start()

    def _go(self, local: socket.socket, name: str) -> None:
        with local, suppress(OSError):
            join(local, self.dial(name))


# --- both ---------------------------------------------------------------------------------------


def join(local: socket.socket, far: ssl.SSLSocket) -> None:
    """Carry bytes both ways until either side ends; what it said before is delivered.

    One thread for both directions: a TLS connection is not for two at once.
    """
    with local, far, suppress(_Ended, OSError):
        local.setblocking(False)
        far.setblocking(False)
        outward = inward = memoryview(b"")
        while True:
            outward = outward or _read(local)
            inward = inward or _read(far)
            outward = _write(far, outward)
            inward = _write(local, inward)
            if inward or not far.pending():
                _wait(local, far, bool(outward), bool(inward))


def _read(end: End) -> memoryview:
    """What has come, nothing when nothing has; _Ended at its end."""
    try:
        data = end.recv(PIECE_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return memoryview(b"")
    if not data:
        raise _Ended
    return memoryview(data)


def _write(end: End, data: memoryview) -> memoryview:
    """What is left of it when the other side takes no more for now."""
    try:
        while data:
            data = data[end.send(data) :]
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    return data


def _wait(local: socket.socket, far: ssl.SSLSocket, outward: bool, inward: bool) -> None:
    """Until one of the sides can go on. A side of which nothing is wanted is not asked: that it
    hung up would be said again and again."""
    poll = select.poll()
    wanted = {
        local: (0 if outward else select.POLLIN) | (select.POLLOUT if inward else 0),
        far: (0 if inward else select.POLLIN) | (select.POLLOUT if outward else 0),
    }
    for end, events in wanted.items():
        if events:
            poll.register(end, events)
    poll.poll()


def _shut(door: socket.socket) -> None:
    """Close a socket that a thread waits at."""
    with suppress(OSError):
        door.shutdown(socket.SHUT_RDWR)
    door.close()


def _watch_over(connection: socket.socket) -> None:
    """Have the kernel notice a host that fell silent, and send small pieces at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
    for option, value in KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _read_line(far: ssl.SSLSocket) -> str:
    """The line that a connection begins with; what follows it stays unread."""
    line = bytearray()
    while len(line) < GREETING_BYTES:
        piece = far.recv(1)
        if not piece or piece == b"\n":
            break
        line += piece
    return line.decode(errors="replace")
