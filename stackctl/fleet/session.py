"""An exchange with the agent of one host, as the controller sees it.

Connect, start the agent, ``open``, hello; then any of converge, act and relay; then bye. All that
comes from the host is untrusted (see untrusted.py).
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import IO, Any, BinaryIO

from agent import wire
from agent.spec import to_plain
from stackctl.errors import AgentFailed, Bug, NotFound, ResourceFailed, StackctlError
from stackctl.fleet import untrusted
from stackctl.fleet.channel import Channel
from stackctl.fleet.relay import pump
from stackctl.fleet.starting import Progress, start_agent
from stackctl.fleet.types import Accepted, Hello, Opening, Peer, Target

_SHA256 = re.compile(r'"([0-9a-f]{64})"')

OpenImage = Callable[[str], BinaryIO]
OfferPeer = Callable[[str, bool], Peer | None]
OfferDisk = Callable[[str, str, bool], Peer]


def _no_file(sha256: str) -> BinaryIO:
    raise NotFound(f"nobody said where the image {sha256[:12]} lies")


def _no_peer(sha256: str, failed: bool) -> Peer | None:
    return None


def _no_giver(disk_id: str, host_id: str, failed: bool) -> Peer:
    raise NotFound(f"nobody said how to reach the host of disk {disk_id}")


def _ignore(*_: Any) -> None:
    return None


class AgentSession:
    """Implements ``stackctl.fleet.types.Session``."""

    hello: Hello

    def __init__(
        self,
        channel: Channel,
        *,
        progress: Progress = _ignore,
        on_step: Callable[[dict[str, Any]], None] = _ignore,
        peer: OfferPeer = _no_peer,
        disk_peer: OfferDisk = _no_giver,
    ) -> None:
        self._peer, self._disk_peer = peer, disk_peer
        self.name = channel.name
        self._channel = channel
        self._progress = progress
        self._on_step = on_step
        self._results: dict[str, dict[str, Any]] = {}
        self._results_changed = threading.Condition()
        self._somebody_reads = False
        self._open_image: OpenImage = _no_file
        self._early: dict[str, Any] | None = None

    def begin(self, target: Target, opening: Opening, open_image: OpenImage) -> None:
        """Open the exchange: push the images that the agent lacks, hear its hello."""
        self._open_image = open_image
        self._channel.send(open_message(target, opening))
        self._channel.start_pings()
        allowed = {image.sha256 for image in opening.images}
        sources = {disk.source_id: disk.source_host_id for disk in opening.copies}
        while True:
            message = self._channel.receive_message("want", "step", "hello")
            if message["type"] == "want" and "disk" in message:
                self._send_giver(message["disk"], sources, again="why" in message)
            elif message["type"] == "want":
                for sha256 in untrusted.hashes(message.get("hashes"), allowed):
                    self._send_image(sha256, again="why" in message)
            elif message["type"] == "step":
                self._on_step(untrusted.mapping(message))
            else:
                self.hello = read_hello(self.name, message)
                return

    def converge(
        self,
        spec: dict[str, Any],
        blob: Callable[[str], bytes],
        on_reports: Callable[[list[wire.Report]], None],
    ) -> dict[str, Any]:
        """Send the spec, answer what the agent wants, hand on reports; returns ``done``."""
        frame = wire.encode_message({"type": "spec", "spec": spec})
        if len(frame) > wire.MAX_JSON_BYTES:
            raise Bug(f"The spec of host {self.name} has {len(frame)} bytes, too many to send.")
        allowed = set(_SHA256.findall(frame[5:].decode()))
        # One that was pruned, or became part of the spec, since the exchange began.
        images = {image["sha256"] for image in spec.get("images", ())}
        sources = {disk["source_id"]: disk["source_host_id"] for disk in spec.get("disks", ())}
        self._channel.spec_sent = True
        self._channel.send_raw(frame)
        while True:
            message = self._channel.receive_message("want", "reports", "step", "done")
            if message["type"] == "want" and "disk" in message:
                self._send_giver(message["disk"], sources, again="why" in message)
            elif message["type"] == "want":
                for sha256 in untrusted.hashes(message.get("hashes"), allowed):
                    if sha256 in images:
                        self._send_file(sha256)
                    else:
                        self._send_content(sha256, blob)
            elif message["type"] == "reports":
                on_reports(untrusted.reports(message.get("reports")))
            elif message["type"] == "step":
                self._on_step(untrusted.mapping(message))
            else:
                return untrusted.mapping(message)

    def act(self, name: str, arguments: dict[str, Any], timeout_s: float = 60) -> Any:
        """Have the agent do one action; raises ResourceFailed with its words.

        ``arguments["action_id"]``, where given, makes a repeated action harmless. Several
        threads may wait for actions of one session at once.
        """
        action_id = self._send_action(name, arguments)
        message = self._result_of(action_id, time.monotonic() + timeout_s)
        if message is None:
            raise AgentFailed(
                f"{name} on host {self.name} has not ended after {timeout_s:g} s. "
                "What it does there may still go on."
            )
        return self._value(name, message)

    def _send_action(self, name: str, arguments: dict[str, Any]) -> str:
        arguments = dict(arguments)
        action_id = str(arguments.pop("action_id", uuid.uuid4()))
        self._channel.send({"type": "act", "id": action_id, "name": name, "args": arguments})
        return action_id

    def _result_of(self, action_id: str, deadline: float) -> dict[str, Any] | None:
        """The result of an action; whoever waits reads the channel, for all who wait."""
        while time.monotonic() < deadline:
            with self._results_changed:
                if action_id in self._results:
                    return self._results.pop(action_id)
                if self._somebody_reads:
                    self._results_changed.wait(1)
                    continue
                self._somebody_reads = True
            try:
                message = self._channel.receive_message("step", "result", "ping")
            finally:
                with self._results_changed:
                    self._somebody_reads = False
                    self._results_changed.notify_all()
            self._take(message)
        return None

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "step":
            self._on_step(untrusted.mapping(message))
        elif message["type"] == "result":
            with self._results_changed:
                self._results[untrusted.line(message.get("id"), 64)] = message
                self._results_changed.notify_all()

    def _value(self, name: str, message: dict[str, Any]) -> Any:
        if message.get("ok") is True:
            return untrusted.plain(message.get("value"), untrusted.VALUE_LIMIT)
        fault = untrusted.fault(message.get("fault"))
        raise ResourceFailed(f"{name} on host {self.name} failed: {fault.message}.")

    def stream(self, name: str, arguments: dict[str, Any]) -> IncomingFile:
        """Have the agent do an action that sends a file; nothing else goes on meanwhile.

        ResourceFailed with its words when there is none.
        """
        self._send_action(name, arguments)
        message = self.stream_message("stream", "result")
        if message["type"] == "result":
            self._value(name, message)
            raise AgentFailed(f"{name} on host {self.name} ended without a file.")
        return IncomingFile(self, name, untrusted.number(message.get("size_bytes")))

    def stream_message(self, *expected: str) -> dict[str, Any]:
        """The next of these messages; steps on the way are handed on."""
        while True:
            message = self._channel.receive_message("step", *expected)
            if message["type"] != "step":
                return message
            self._on_step(untrusted.mapping(message))

    def stream_pieces(self, size_bytes: int) -> Iterator[bytes]:
        """So many bytes from the agent; fewer when its result comes before, which stays."""
        left = size_bytes
        while left > 0:
            frame = self._channel.receive()
            if frame.message is not None:
                self._early = frame.message
                return
            if not frame.data or len(frame.data) > left:
                raise AgentFailed(f"Host {self.name} did not send what it announced.")
            left -= len(frame.data)
            yield frame.data

    def stream_result(self, name: str) -> Any:
        """What the action says after its file."""
        message = self._early or self.stream_message("result")
        if message["type"] != "result":
            raise AgentFailed(f"Host {self.name} broke the file off. Nothing of it was kept.")
        return self._value(name, message)

    def relay(self, subnet_id: str, address: str, port: int, from_fd: int, to_fd: int) -> None:
        """Carry bytes between two file descriptors and a TCP port inside a subnet.

        Ends when the other side has said all it had to say.
        """
        where = {"subnet_id": subnet_id, "address": address, "port": port}
        self._send_action("relay", where)
        self._value("relay", self._channel.receive_message("result"))
        pump(self._channel, from_fd, to_fd)

    def console(self, server_id: str, from_fd: int, to_fd: int) -> None:
        """Carry bytes between two file descriptors and a server's serial console."""
        self._send_action("console", {"server_id": server_id})
        self._value("console", self._channel.receive_message("result"))
        pump(self._channel, from_fd, to_fd)

    def _send_image(self, sha256: str, *, again: bool) -> None:
        """Say which other host has an image, or send it; ``again``: that host was of no use."""
        peer = self._peer(sha256, again)
        if peer is None:
            self._send_file(sha256)
        else:
            self._channel.send({"type": "blob", "sha256": sha256, "peer": asdict(peer)})

    def _send_giver(
        self, disk_id: Any, sources: Mapping[str | None, str | None], *, again: bool
    ) -> None:
        """Say which other host has the disk that one of this host is to be a copy of."""
        host_id = sources.get(disk_id) if isinstance(disk_id, str) else None
        if host_id is None:
            raise AgentFailed(f"Host {self.name} asks for a disk that is not for it.")
        answer: dict[str, Any] = {"type": "peer", "disk": disk_id}
        try:
            peer = self._disk_peer(disk_id, host_id, again)
            self._channel.send({**answer, "peer": asdict(peer)})
        except StackctlError as error:
            self._channel.send({**answer, "error": error.message.rstrip(".")})

    def _send_file(self, sha256: str) -> None:
        """Send an image; one that cannot be read is said to be missing, others go on."""
        try:
            file = self._open_image(sha256)
        except (OSError, StackctlError) as error:
            self._send_excuse(sha256, error)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            what = f"sending image {sha256[:12]} to {self.name}"
            self._channel.send({"type": "blob", "sha256": sha256, "size_bytes": size})
            for sent, piece in _pieces(file, size):
                self._channel.send_bytes(piece)
                self._progress(what, sent, size)

    def _send_content(self, sha256: str, blob: Callable[[str], bytes]) -> None:
        try:
            content = blob(sha256)
        except (OSError, StackctlError) as error:
            self._send_excuse(sha256, error)
            return
        self._channel.send({"type": "blob", "sha256": sha256, "size_bytes": len(content)})
        for _, piece in _pieces(io.BytesIO(content), len(content)):
            self._channel.send_bytes(piece)

    def _send_excuse(self, sha256: str, error: Exception) -> None:
        self._channel.send({"type": "blob", "sha256": sha256, "error": str(error)})

    def close(self) -> None:
        """Say bye and end the connection."""
        self._channel.close()

    def abort(self) -> None:
        """End the connection at once, from any thread; whoever waits gets ChannelLost."""
        self._channel.abort()


class IncomingFile:
    """Implements ``stackctl.fleet.types.Incoming``."""

    def __init__(self, session: AgentSession, name: str, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.value: Any = None
        self._session, self._name = session, name

    def pieces(self) -> Iterator[bytes]:
        """Its content; nothing in memory but one piece."""
        received = 0
        for piece in self._session.stream_pieces(self.size_bytes):
            received += len(piece)
            yield piece
        self.value = self._session.stream_result(self._name)
        if received != self.size_bytes:
            raise AgentFailed(
                f"Only {received} of {self.size_bytes} bytes arrived. None were kept."
            )


def open_session(
    target: Target,
    opening: Opening,
    *,
    open_image: OpenImage = _no_file,
    progress: Progress = _ignore,
    on_step: Callable[[dict[str, Any]], None] = _ignore,
    peer: OfferPeer = _no_peer,
    disk_peer: OfferDisk = _no_giver,
) -> AgentSession:
    """Connect to a host and begin an exchange with its agent.

    ``open_image(sha256)`` opens the content of an image of the opening that the host lacks;
    ``peer(sha256, failed)`` names another host that gives it, if any; ``failed``: the last one
    was of no use; ``disk_peer(disk_id, host_id, failed)`` opens a disk of another host.
    ``progress(what, bytes_done, bytes_total)`` during transfers; ``on_step`` gets
    the agent's steps. Raises HostUnreachable, HostKeyMismatch, HostBusy, Conflict, HostAhead or
    AgentFailed.
    """
    channel = start_agent(target, progress)
    session = AgentSession(
        channel, progress=progress, on_step=on_step, peer=peer, disk_peer=disk_peer
    )
    try:
        session.begin(target, opening, open_image)
    except BaseException:
        session.abort()
        raise
    return session


def open_message(target: Target, opening: Opening) -> dict[str, Any]:
    """The ``open`` message of an exchange."""
    return {
        "type": "open",
        "protocol": wire.PROTOCOL,
        "mode": opening.mode,
        "cloud_id": opening.cloud_id,
        "host_id": target.host_id,
        "images": to_plain(opening.images),
        "copies": to_plain(opening.copies),
        "claim": opening.claim,
        "lock_timeout_s": opening.lock_timeout_s,
        "kill_at": opening.kill_at,
    }


def read_hello(name: str, message: dict[str, Any]) -> Hello:
    """An agent's hello, checked."""
    if message.get("protocol", wire.PROTOCOL) != wire.PROTOCOL:
        raise AgentFailed(f"The agent on host {name} speaks another protocol.")
    accepted = message.get("accepted")
    if accepted is not None:
        pair = untrusted.mapping(accepted)
        accepted = Accepted(
            untrusted.number(pair.get("serial")), untrusted.line(pair.get("nonce", ""), 64)
        )
    agent = untrusted.line(message.get("agent_version", ""), 64)
    return Hello(
        accepted=accepted,
        boot_id=untrusted.line(message.get("boot_id", ""), 64),
        facts={**untrusted.mapping(message.get("facts")), "agent": agent},
        lacking={
            key: untrusted.line(words)
            for key, words in untrusted.mapping(message.get("lacking")).items()
        },
    )


def _pieces(file: IO[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """The first ``size`` bytes of a file in pieces, each with how much that makes so far."""
    sent = 0
    while sent < size:
        piece = file.read(min(wire.BLOB_CHUNK_BYTES, size - sent))
        if not piece:
            raise Bug("A file became shorter while it was sent.")
        sent += len(piece)
        yield sent, piece
