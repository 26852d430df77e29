"""Frames over a stream to an agent, with pings, deadlines and a clear end."""

from __future__ import annotations

import threading
import time
from typing import Any

from agent import wire
from stackctl.errors import AgentFailed, Conflict, HostAhead, StackctlError
from stackctl.fleet import untrusted
from stackctl.fleet.errors import ChannelLost, HostBusy
from stackctl.fleet.streams import Stream


class Channel:
    """The controller's end of one exchange with the agent of the host ``name``."""

    def __init__(self, name: str, stream: Stream) -> None:
        self.name = name
        self.spec_sent = False
        self._stream = stream
        self._send_lock = threading.Lock()
        self._sending_since: float | None = None
        self._said = time.monotonic()
        self._closed = threading.Event()

    def start_pings(self) -> None:
        """From now on say "ping" whenever there was nothing to say for a while."""
        threading.Thread(target=self._keep_alive, name=f"pings-{self.name}", daemon=True).start()

    def _keep_alive(self) -> None:
        ping = wire.encode_message({"type": "ping"})
        while not self._closed.wait(1.0):
            since = self._sending_since
            if since is not None and time.monotonic() - since > wire.SILENCE_LIMIT_S:
                # Whoever sends is stuck below SSH; only ending the connection wakes them.
                self._stream.close()
                return
            if time.monotonic() - self._said >= wire.PING_INTERVAL_S:
                try:
                    self._send(ping, wait=False)
                except ChannelLost:
                    return

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; ChannelLost when the host does not take it."""
        self._send(wire.encode_message(message))

    def send_bytes(self, data: bytes) -> None:
        """Send a piece of a blob or stream, at most wire.BLOB_CHUNK_BYTES."""
        self._send(wire.encode_bytes(data))

    def send_raw(self, data: bytes) -> None:
        """Send bytes that are not a frame (before there is an agent)."""
        self._send(data)

    def _send(self, data: bytes, *, wait: bool = True) -> None:
        if not self._send_lock.acquire(timeout=wire.SILENCE_LIMIT_S if wait else 0):
            if wait:
                raise self.lost("it takes nothing more")
            return
        try:
            self._sending_since = time.monotonic()
            self._stream.send(data)
            self._said = time.monotonic()
        except TimeoutError:
            raise self.lost(f"it took nothing for {wire.SILENCE_LIMIT_S:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise self.lost(str(error) or "the connection broke") from None
        finally:
            self._sending_since = None
            self._send_lock.release()

    def receive(self, *, pings: bool = False) -> wire.Frame:
        """The next frame. An ``error`` message is raised as what it means."""
        while True:
            frame = self._read_frame()
            kind = "bytes" if frame.message is None else frame.message["type"]
            if frame.message is not None and kind == "error":
                raise agent_error(self.name, frame.message)
            if kind != "ping" or pings:
                return frame

    def receive_message(self, *expected: str) -> dict[str, Any]:
        """The next message; AgentFailed unless its type is one of ``expected``.

        Pings are left out unless expected, too.
        """
        message = self.receive(pings="ping" in expected).message
        if message is None or message["type"] not in expected:
            said = "bytes" if message is None else untrusted.line(message["type"], 40)
            raise AgentFailed(
                f"The agent on host {self.name} said '{said}' where only "
                f"{' or '.join(expected)} makes sense. The exchange was ended."
            )
        return message

    def _read_frame(self) -> wire.Frame:
        try:
            return wire.read_frame(self._stream.receive, wire.MAX_REPLY_BYTES)
        except TimeoutError:
            raise self.lost(f"not a word for {wire.SILENCE_LIMIT_S:g} s") from None
        except wire.StreamClosed:
            raise self.lost(self._end_in_words()) from None
        except wire.WireError as error:
            raise AgentFailed(
                f"What host {self.name} sent is not the agent's language: "
                f"{untrusted.line(str(error), 200)}. The exchange was ended."
            ) from None
        except (OSError, EOFError, ValueError) as error:
            raise self.lost(str(error) or "the connection broke") from None

    def read_raw(self, count: int) -> bytes:
        """Bytes that are not a frame; b'' at the end."""
        try:
            return self._stream.receive(count)
        except TimeoutError:
            raise self.lost(f"not a word for {wire.SILENCE_LIMIT_S:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise self.lost(str(error) or "the connection broke") from None

    def _end_in_words(self) -> str:
        words = untrusted.text(self._stream.last_words()).strip().splitlines()
        return f"the agent ended ({words[-1].strip()})" if words else "the agent ended"

    def lost(self, why: str) -> ChannelLost:
        """The error for an exchange that broke off."""
        state = (
            "What it had in hand may be done or not."
            if self.spec_sent
            else "Nothing was changed there."
        )
        return ChannelLost(
            f"The exchange with host {self.name} broke off: {why}. {state}",
            hint=f"stackctl converge {self.name}",
            spec_sent=self.spec_sent,
        )

    def end(self) -> tuple[int | None, str]:
        """Exit status and last words of a process that ended before it became an agent."""
        return self._stream.exit_status(), untrusted.text(self._stream.last_words()).strip()

    def close(self) -> None:
        """Say bye if that is possible, and end the connection."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            self._send(wire.encode_message({"type": "bye"}), wait=False)
        except ChannelLost:
            pass
        finally:
            self._stream.close()

    def abort(self) -> None:
        """End the connection at once, from any thread."""
        self._closed.set()
        self._stream.close()


def agent_error(name: str, message: dict[str, Any]) -> StackctlError:
    """What an agent's ``error`` means here."""
    code = message.get("code")
    words = untrusted.line(message.get("message", ""), 1000) or "no reason given"
    if code == "busy":
        return HostBusy(
            f"Host {name} is busy with another exchange: {words}. Nothing was done there.",
            hint="try again when it has ended",
        )
    if code == "claim":
        return Conflict(
            f"Host {name} does not take our word: {words}. Nothing was done there.",
            hint="a host belongs to one cloud; delete it from the other one first",
        )
    if code == "stale":
        return HostAhead(
            f"Host {name} is ahead of this database: {words}. Nothing was done there.",
            hint="stackctl recover --adopt",
        )
    where = {"bug": "The agent failed", "environment": "The agent cannot work"}
    return AgentFailed(
        f"{where.get(str(code), 'The agent refused')} on host {name}: {words}.",
        hint=f"stackctl host-prepare {name} --check" if code == "environment" else "",
    )
