"""Copies of images and disks from host to host: HTTPS for one operation, with keys made for it.

The controller makes a certificate for its operation and gives its key to the host that has a
file, the certificate to the host that lacks it, and to both a token that is good for one copy.
The giving host serves as long as its exchange lasts. What comes is hashed by whoever fetches it,
like anything else: an image has its hash for a name, a disk is followed by its own.
"""

from __future__ import annotations

import hmac
import http.client
import http.server
import os
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from agent import images, layout, tls
from agent.copies import sparse
from agent.faults import StepFailed
from agent.store import Store
from agent.system import files, libvirt_conn

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
PIECE_BYTES = 256 * 1024

Args = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A host that has an image or a disk, and what opens it."""

    address: str
    port: int
    token: str
    certificate: str


def fetch(peer: Peer, sha256: str) -> Generator[bytes, None, None]:
    """The image as another host has it; StepFailed when that one does not give it."""
    with opened(peer, sha256) as response:
        while True:
            piece = response.read(PIECE_BYTES)
            if not piece:
                return
            yield piece


@contextmanager
def opened(peer: Peer, name: str) -> Iterator[http.client.HTTPResponse]:
    """A file as another host gives it; StepFailed when that one does not."""
    connection = http.client.HTTPSConnection(
        peer.address,
        peer.port,
        timeout=CONNECT_TIMEOUT_S,
        context=tls.client_context(peer.certificate),
    )
    try:
        connection.connect()
        connection.sock.settimeout(READ_TIMEOUT_S)
        connection.request("GET", f"/{name}", headers={"Authorization": f"Bearer {peer.token}"})
        with connection.getresponse() as response:
            if response.status != 200:
                raise StepFailed(f"host {peer.address} answers {response.status} {response.reason}")
            yield response
    except (http.client.HTTPException, OSError) as error:
        if isinstance(error, OSError) and files.is_full(error):
            raise  # of whoever writes down what came
        raise StepFailed(f"host {peer.address}: {error}") from None
    finally:
        connection.close()


def share_image(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Let one other host fetch a cached image: {sha256, token, address, certificate, key}."""
    sha256 = layout.checked_hash(args["sha256"])
    if images.cached(store.data, sha256) is None:
        raise StepFailed(f"image {sha256} is not in the cache")
    return _share(args, _Given(layout.image(store.data, sha256)))


def share_disk(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Let one other host fetch a disk that no guest runs on: {disk_id, token, address, ...}."""
    spec = store.spec()
    disks = () if spec is None else spec.disks
    disk = next((each for each in disks if each.id == str(args["disk_id"])), None)
    if disk is None:
        raise StepFailed(f"this host has no disk {str(args['disk_id'])[:40]}")
    if libvirt_conn.state(disk.server_id) in ("RUNNING", "PAUSED", "SUSPENDED"):
        raise StepFailed(f"a guest runs on disk {disk.id}")
    path = layout.disk(store.data, disk.id, disk.format)
    if not path.exists():
        raise StepFailed(f"disk {disk.id} of server {disk.server_id} is missing")
    return _share(args, _Given(path, sparse=True))


def _share(args: Args, given: _Given) -> Args:
    server = _Server.running(args["address"], args["certificate"], args["key"])
    server.allow(str(args["token"]), given)
    return {"port": server.server_port}


@dataclass(frozen=True)
class _Given:
    """A file that may be fetched, as it is or without its holes."""

    path: Path
    sparse: bool = False


class _Server(http.server.ThreadingHTTPServer):
    """One for an exchange, which ends with the process."""

    daemon_threads = True
    _started: Optional[_Server] = None
    _starting = threading.Lock()

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self._allowed: dict[str, _Given] = {}
        self._lock = threading.Lock()
        if ":" in address:
            self.address_family = socket.AF_INET6
        super().__init__((address, 0), _Handler)
        # Whoever connects and says nothing keeps only a thread of its own waiting.
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    @classmethod
    def running(cls, address: str, certificate: str, key: str) -> _Server:
        """The server of this exchange, started when it is needed first."""
        with cls._starting:
            if cls._started is None:
                cls._started = cls(address, tls.server_context(certificate + key))
                serve = threading.Thread(target=cls._started.serve_forever, daemon=True)
                serve.start()
            return cls._started

    def allow(self, token: str, given: _Given) -> None:
        """Let whoever has the token fetch a file, once."""
        with self._lock:
            self._allowed[token] = given

    def spend(self, shown: str, name: str) -> Optional[_Given]:
        """The file that a token is good for; it is not good for anything any more."""
        with self._lock:
            for token, given in self._allowed.items():
                if hmac.compare_digest(token.encode(), shown.encode()) and given.path.name == name:
                    return self._allowed.pop(token)
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that breaks off says so itself."""


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 30

    def do_GET(self) -> None:
        """Send the file that the token is good for."""
        word = self.headers.get("Authorization", "")[len("Bearer ") :]
        server: Any = self.server
        given = server.spend(word, self.path[1:])
        if given is None:
            self.send_error(403)
            return
        with given.path.open("rb") as file:
            self.send_response(200)
            if given.sparse:
                self.end_headers()  # it says itself where it ends
                sparse.write(file, self.wfile.write)
                return
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            while True:
                piece = file.read(PIECE_BYTES)
                if not piece:
                    return
                self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged: stderr belongs to the exchange."""
