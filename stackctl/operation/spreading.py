"""What hosts give to one another: an image that many need, the disk of a server that moves.

The first host that lacks an image gets it from the controller; the others wait and are told which
host has it. Whoever has got it gives it on, to GIVEN_AT_ONCE others at a time, so the number of
givers doubles. What opens a giver is made for one operation: a certificate whose key only the
givers have, and a token for each copy (see agent.copies.peers). Whatever goes wrong with a giver,
the controller sends the image itself. What no image of the cloud has any more, but disks are still
based on, comes from a host of such a disk. A disk that moves comes from its host alone.
"""

from __future__ import annotations

import datetime
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from agent.spec import Image
from stackctl.errors import AgentFailed, Bug, HostUnreachable, StackctlError
from stackctl.fleet.types import Peer, Session
from stackctl.state import Row

Act = Callable[[Row], AbstractContextManager[Session]]
"""Opens one more exchange with a host, for actions."""


def _nobody(host_id: str) -> Row:
    raise Bug(f"nobody said how host {host_id} is reached")


def _kept_nowhere(sha256: str) -> Sequence[Row]:
    return ()


GIVEN_AT_ONCE = 2
MIB = 1 << 20
VALID_DAYS = 2


@dataclass
class _Giver:
    """A host that has images; ``busy``: to how many others it gives some now."""

    host: Row
    images: set[str] = field(default_factory=set)
    busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None
    useless: bool = False


class Spreading:
    """Who has which image, of the hosts of one operation. Used by their threads at once.

    ``least_mb``: smaller images are sent by the controller; None: all are. ``host_of``: the row of
    a host, by its id. ``keepers``: the hosts that alone have a content, by its SHA-256; none when
    the controller can send it.
    """

    def __init__(
        self,
        least_mb: int | None,
        act: Act,
        host_of: Callable[[str], Row] = _nobody,
        keepers: Callable[[str], Sequence[Row]] = _kept_nowhere,
    ) -> None:
        self._least_mb, self._act, self._host_of = least_mb, act, host_of
        self._keepers = keepers
        self._givers: dict[str, _Giver] = {}
        self._first: dict[str, str] = {}
        self._takes: dict[str, _Giver] = {}
        self._changed = threading.Condition()
        self._open = ExitStack()

    @contextmanager
    def part(self, host: Row, images: tuple[Image, ...]) -> Iterator[Part]:
        """What one host takes and gives while its exchange lasts, or while others need it."""
        try:
            yield Part(self, host, {image.sha256: image for image in images})
        finally:
            # However it ended: nobody waits for what it was to get.
            self._let_go(host["id"])

    def offer(self, host: Row, image: Image) -> Peer | None:
        """The host from which this one gets an image; None: from the controller."""
        keepers = self._keepers(image.sha256)
        if keepers:
            return self._kept(host, image.sha256, keepers)
        if self._least_mb is None or image.size_bytes < self._least_mb * MIB:
            return None
        while True:
            giver = self._free_giver(host, image.sha256)
            if giver is None:
                return None
            peer = self._peer(giver, image.sha256)
            if peer is not None:
                return peer
            self._let_go(host["id"])

    def disk(self, disk_id: str, host_id: str, failed: bool) -> Peer:
        """How a disk is fetched from its host; StackctlError when that does not give it.

        ``failed``: what was said before was of no use: the exchange may be dead.
        """
        host = self._host_of(host_id)
        address = _address(host)
        with self._changed:
            giver = self._givers.setdefault(host_id, _Giver(host))
            if failed:
                giver.session = None
        return self._asked(giver, "share-disk", {"disk_id": disk_id}, address)

    def failed(self, host: Row) -> None:
        """A host could not get it from its giver: nobody else is to lose time there."""
        with self._changed:
            giver = self._takes.get(host["id"])
            if giver is not None:
                giver.useless = True
        self._let_go(host["id"])

    def has(self, host: Row, images: set[str]) -> None:
        """A host has these images, and gives them on."""
        self._let_go(host["id"])
        with self._changed:
            if images and host["transport"] == "ssh":
                self._givers.setdefault(host["id"], _Giver(host)).images |= images
            self._changed.notify_all()

    def close(self) -> None:
        """End the givers' exchanges, and with them what they serve."""
        self._open.close()

    def _free_giver(self, host: Row, sha256: str) -> _Giver | None:
        """Wait for a giver with a free hand; None when this host is the first to get the image."""
        with self._changed:
            while True:
                able = [
                    giver
                    for giver in self._givers.values()
                    if sha256 in giver.images and not giver.useless
                ]
                free = min(able, key=lambda giver: giver.busy, default=None)
                if free is not None and free.busy < GIVEN_AT_ONCE:
                    free.busy += 1
                    self._takes[host["id"]] = free
                    return free
                if free is None and self._first.setdefault(sha256, host["id"]) == host["id"]:
                    return None
                self._changed.wait(1.0)

    def _let_go(self, host_id: str) -> None:
        with self._changed:
            giver = self._takes.pop(host_id, None)
            if giver is not None:
                giver.busy -= 1
            self._first = {key: first for key, first in self._first.items() if first != host_id}
            self._changed.notify_all()

    def _kept(self, host: Row, sha256: str, keepers: Sequence[Row]) -> Peer | None:
        """The first keeper that gives it; one may have lost it, or be down."""
        for keeper in keepers:
            if keeper["id"] != host["id"]:
                with self._changed:
                    giver = self._givers.setdefault(keeper["id"], _Giver(keeper))
                peer = None if giver.useless else self._peer(giver, sha256)
                if peer is not None:
                    return peer
        return None

    def _peer(self, giver: _Giver, sha256: str) -> Peer | None:
        try:
            return self._asked(giver, "share-image", {"sha256": sha256}, _address(giver.host))
        except StackctlError:
            giver.useless = True
            return None

    def _asked(self, giver: _Giver, action: str, what: dict[str, str], address: str) -> Peer:
        """Have a host give something to one other."""
        certificate, key = self._credentials
        token = secrets.token_urlsafe(32)
        opens = {"token": token, "address": address, "certificate": certificate, "key": key}
        with giver.lock:
            session = giver.session or self._session(giver)
            told = session.act(action, {**what, **opens})
        try:
            return Peer(address, int(told["port"]), token, certificate)
        except (KeyError, TypeError, ValueError):
            name = giver.host["name"]
            raise AgentFailed(f"Host {name} did not say where it gives what it has.") from None

    def _session(self, giver: _Giver) -> Session:
        giver.session = self._open.enter_context(self._act(giver.host))
        return giver.session

    @cached_property
    def _credentials(self) -> tuple[str, str]:
        return make_certificate()


def _address(host: Row) -> str:
    """Where other hosts reach this one."""
    address = host["address"] if host["transport"] == "ssh" else host["tunnel_address"]
    if address is None:
        raise HostUnreachable(
            f"Host {host['name']}, which is this machine, has no address for other hosts.",
            hint=f"stackctl host-set {host['name']} --tunnel-address ADDRESS",
        )
    return str(address)


@dataclass(frozen=True)
class Part:
    """One host's part in the spreading of its images."""

    spread: Spreading
    host: Row
    images: dict[str, Image]

    def peer(self, sha256: str, failed: bool = False) -> Peer | None:
        """The host from which it gets an image that it lacks; None: from the controller.

        ``failed``: the host that was named before did not give it.
        """
        if failed:
            self.spread.failed(self.host)
            return None
        image = self.images.get(sha256)
        return None if image is None else self.spread.offer(self.host, image)

    def arrived(self, lacking: Iterable[str]) -> None:
        """It says hello, and has all its images but those."""
        self.spread.has(self.host, set(self.images) - set(lacking))


def make_certificate() -> tuple[str, str]:
    """A new certificate that nobody but its key has signed, and the key; both as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stackctl copies")])
    now = datetime.datetime.now(datetime.timezone.utc)
    # Clocks of hosts may differ.
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_DAYS * day)
        .not_valid_after(now + VALID_DAYS * day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
