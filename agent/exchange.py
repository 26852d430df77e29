"""One exchange with a controller, as ``wire`` tells it: open, hello, spec, reports, actions."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from agent import actions, facts, killpoint, restore, wire
from agent.channel import Channel, ChannelLost
from agent.converge import Convergence, Reporter
from agent.copies.disk_copies import Copier
from agent.faults import StepFailed, fault_of
from agent.images import Fetcher, Offer
from agent.resources.base import Host
from agent.resources.registry import KINDS
from agent.spec import SPEC_FORMAT, Disk, HostSpec, Image, SpecError, from_plain
from agent.store import Refused, Store, boot_id

if TYPE_CHECKING:
    from agent.copies.peers import Peer

MODES = ("converge", "observe", "act")
DEFAULT_LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Opening:
    """What the controller wants: the fields of ``open``.

    ``copies``: disks to be made of disks that other hosts have; ``claim``: this cloud may claim a
    host that nobody has; ``kill_at``: see killpoint.
    """

    cloud_id: str
    host_id: str
    mode: str
    claim: bool = False
    images: tuple[Image, ...] = ()
    copies: tuple[Disk, ...] = ()
    lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S
    kill_at: int = 0


def serve(channel: Channel, data: Path) -> None:
    """Hold one exchange and return when the controller is done or gone."""
    try:
        Exchange(channel, data).run()
    except ChannelLost as error:
        sys.stderr.write(f"channel lost: {error}\n")
    except Refused as error:
        _send_error(channel, error.code, str(error))
    except (SpecError, wire.WireError) as error:
        _send_error(channel, "protocol", str(error))
    except Exception as error:
        fault = fault_of(error)
        sys.stderr.write(f"{fault.message}\n{fault.detail}\n")
        _send_error(channel, "bug", fault.message, fault.detail)


def _send_error(channel: Channel, code: str, message: str, detail: str = "") -> None:
    try:
        channel.send({"type": "error", "code": code, "message": message, "detail": detail})
    except ChannelLost:
        sys.stderr.write(f"nobody to tell: {message}\n")


class Exchange:
    """The agent's side of one exchange."""

    def __init__(self, channel: Channel, data: Path) -> None:
        self._channel, self._store = channel, Store(data)
        self._fetcher = Fetcher(data, channel.send, self._offered, channel.check)
        self._copier = Copier(data, channel.send, self._peer_of, channel.check)

    def run(self) -> None:
        """Everything from ``open`` to ``bye``."""
        opening = self._receive_opening()
        killpoint.arm(opening.kill_at)
        self._claim(opening)
        if opening.mode == "act":
            self._fetcher.prepare(opening.images)
            self._hello()
        else:
            self._converge(opening)
        actions.serve(self._channel, self._store)

    def _receive_opening(self) -> Opening:
        message = self._expect("open")
        if message.pop("protocol", None) != wire.PROTOCOL:
            raise Refused("protocol", f"this agent speaks protocol {wire.PROTOCOL}")
        seconds = float(message.pop("lock_timeout_s", DEFAULT_LOCK_TIMEOUT_S))
        opening = from_plain(Opening, {**message, "lock_timeout_s": seconds})
        if opening.mode not in MODES:
            raise Refused("protocol", f"unknown mode {opening.mode[:40]!r}")
        return opening

    def _claim(self, opening: Opening) -> None:
        if self._store.check_claim(opening.cloud_id, opening.host_id):
            return
        if not opening.claim:
            raise Refused("claim", "this host does not belong to any cloud yet")
        if opening.mode == "converge":
            self._store.claim(opening.cloud_id, opening.host_id)

    def _hello(self) -> None:
        accepted = self._store.accepted()
        self._channel.send(
            {
                "type": "hello",
                "protocol": wire.PROTOCOL,
                "spec_formats": [SPEC_FORMAT],
                "agent_version": facts.agent_version(),
                "accepted": None
                if accepted is None
                else {"serial": accepted.serial, "nonce": accepted.nonce},
                "boot_id": boot_id(),
                "facts": facts.gather(self._store.data),
                "lacking": self._fetcher.failures(),
            }
        )

    def _converge(self, opening: Opening) -> None:
        observing = opening.mode == "observe"
        if not observing:
            self._fetcher.prepare(opening.images)
            self._copier.prepare(opening.copies)
        with self._store.lock(opening.lock_timeout_s):
            self._hello()
            spec = self._receive_spec(opening, observing)
            self._run(spec, observing)

    def _receive_spec(self, opening: Opening, observing: bool) -> HostSpec:
        plain = self._expect("spec").get("spec")
        if not isinstance(plain, dict) or plain.get("format") != SPEC_FORMAT:
            raise Refused("format", f"this agent knows the spec format {SPEC_FORMAT} only")
        spec = from_plain(HostSpec, plain)
        if (spec.cloud_id, spec.host_id) != (opening.cloud_id, opening.host_id):
            raise Refused("protocol", "the spec is for another host than the one that was opened")
        if not observing:
            self._store.check_newer(spec)
            self._store.accept(plain)
            killpoint.reached("spec accepted")
            self._receive_blobs(spec)
        return spec

    def _run(self, spec: HostSpec, observing: bool) -> None:
        begun = time.monotonic()
        host = Host(
            data=self._store.data,
            boot_id=boot_id(),
            boot_id_before=self._store.boot_id_before(),
            blob=self._store.blob,
            observing=observing,
            fetch_image=self._fetcher.fetch,
            fetch_disk=self._copier.fetch,
        )
        reporter = Reporter(self._channel.send)
        Convergence(host, spec, reporter, self._channel.check).run(KINDS)
        if not observing:
            self._store.record_boot(host.boot_id)
            restore.install()
        self._channel.send(
            {
                "type": "done",
                "counts": reporter.counts,
                "seconds": round(time.monotonic() - begun, 3),
                "points": killpoint.passed(),
            }
        )

    def _receive_blobs(self, spec: HostSpec) -> None:
        needed = set(needed_blobs(spec))
        lacking = self._store.lacking(needed)
        if lacking:
            self._channel.send({"type": "want", "hashes": lacking})
        for _ in lacking:
            try:
                sha256, size_bytes = self._expect_blob(lacking)
                self._store.put_blob(sha256, b"".join(self._pieces(size_bytes)))
            except StepFailed:
                continue  # the server that needs it will say so
            except ValueError as error:
                raise Refused("protocol", str(error)) from None
        self._store.drop_blobs(needed)

    def _expect_blob(self, hashes: list[str]) -> tuple[str, int]:
        return self._checked_blob(self._expect("blob"), hashes)

    def _checked_blob(self, message: dict[str, Any], hashes: list[str]) -> tuple[str, int]:
        sha256, size_bytes = message.get("sha256"), message.get("size_bytes")
        if sha256 in hashes and "error" in message:
            raise StepFailed(f"the controller cannot send {sha256}: {message['error']}")
        if sha256 not in hashes or not isinstance(size_bytes, int) or size_bytes < 0:
            raise Refused("protocol", f"a blob that nobody asked for: {sha256!r}")
        return sha256, size_bytes

    def _offered(self, image: Image, why: str) -> Offer:
        """What the controller answers to a want: bytes, or another host that has the image."""
        want = {"type": "want", "hashes": [image.sha256]}
        self._channel.send({**want, "why": why} if why else want)
        message = self._expect("blob")
        if "peer" in message and message.get("sha256") == image.sha256:
            from agent.copies import peers

            peer = from_plain(peers.Peer, message["peer"])
            return Offer(peers.fetch(peer, image.sha256), from_peer=True)
        _, size_bytes = self._checked_blob(message, [image.sha256])
        return Offer(self._drained(size_bytes))

    def _peer_of(self, disk: Disk, why: str) -> Peer:
        """Who has what a disk is to be a copy of, as the controller says."""
        from agent.copies import peers

        want = {"type": "want", "disk": disk.source_id}
        self._channel.send({**want, "why": why} if why else want)
        message = self._expect("peer")
        if message.get("disk") != disk.source_id:
            raise Refused("protocol", "a peer that nobody asked for")
        if "error" in message:
            raise StepFailed(str(message["error"]))
        return from_plain(peers.Peer, message["peer"])

    def _drained(self, size_bytes: int) -> Generator[bytes, None, None]:
        pieces = self._pieces(size_bytes)
        try:
            # A loop, since "yield from" would close the pieces before the rest of them is read.
            for piece in pieces:  # noqa: UP028
                yield piece
        finally:
            # Whoever stopped early (disk full) must not find the rest where a message should be.
            for _ in pieces:
                self._channel.check()

    def _pieces(self, size_bytes: int) -> Iterator[bytes]:
        missing = size_bytes
        while missing > 0:
            data = self._channel.receive().data
            if not data or len(data) > missing:
                raise wire.WireError("a blob does not have the announced size")
            missing -= len(data)
            yield data

    def _expect(self, kind: str) -> dict[str, Any]:
        message: Optional[dict[str, Any]] = self._channel.receive().message
        if message is None:
            raise wire.WireError(f"expected {kind}, got bytes")
        if message["type"] == "bye":
            raise ChannelLost("the controller said bye")
        if message["type"] != kind:
            raise wire.WireError(f"expected {kind}, got {message['type'][:40]!r}")
        return {name: value for name, value in message.items() if name != "type"}


def needed_blobs(spec: HostSpec) -> Iterator[str]:
    """The hashes of all contents that a spec's servers need."""
    for server in spec.servers:
        if server.guest.user_data_sha256 is not None:
            yield server.guest.user_data_sha256
        for file in server.guest.files:
            yield file.sha256
