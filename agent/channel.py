"""The agent's end of the channel: frames in, frames out, and noticing when nobody is there.

A thread reads, so that a ping is heard while a disk is made; another one says "ping" when there
is nothing else to say. Writes have a deadline: a controller that stops reading is gone.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from typing import Any, Optional

from agent import wire

WRITE_TIMEOUT_S = 30.0
POLL_S = 0.5
QUEUED_FRAMES = 64


class ChannelLost(Exception):
    """The controller is gone, silent for too long, or does not read."""


class Channel:
    """Frames over two file descriptors (which may be the same)."""

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        *,
        silence_limit_s: float = wire.SILENCE_LIMIT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self.lost = threading.Event()
        self._reason = ""
        self._read_fd, self._write_fd = read_fd, write_fd
        self._silence_limit_s, self._write_timeout_s = silence_limit_s, write_timeout_s
        self._frames: queue.Queue[Optional[wire.Frame]] = queue.Queue(QUEUED_FRAMES)
        self._write_lock = threading.Lock()
        self._heard = self._said = time.monotonic()
        self._delivering = False
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def start(self) -> None:
        """Begin to read and to ping."""
        for work in (self._read_frames, self._keep_alive):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        """Send a JSON message; ChannelLost when it cannot be written in time."""
        self._write(wire.encode_message(message))

    def send_bytes(self, data: bytes) -> None:
        """Send a piece of a stream (at most wire.BLOB_CHUNK_BYTES)."""
        self._write(wire.encode_bytes(data))

    def receive(self) -> wire.Frame:
        """The next frame that is not a ping; ChannelLost when there will be none."""
        while True:
            try:
                frame = self._frames.get(timeout=POLL_S)
            except queue.Empty:
                self.check()
                continue
            if frame is None:
                self._frames.put(None)
                raise ChannelLost(self._reason)
            return frame

    def check(self) -> None:
        """ChannelLost when there is no use in going on."""
        if self.lost.is_set():
            raise ChannelLost(self._reason)

    def close(self, reason: str) -> None:
        """Give the channel up; whoever waits on it stops."""
        self._reason = self._reason or reason
        self.lost.set()

    def _read_frames(self) -> None:
        try:
            while not self.lost.is_set():
                self._deliver(wire.read_frame(self._read))
        except (wire.WireError, OSError) as error:
            self.close(str(error))
        self._delivering = True
        self._frames.put(None)

    def _deliver(self, frame: wire.Frame) -> None:
        if frame.message is not None and frame.message["type"] == "ping":
            return
        # While the queue is full nobody reads the channel: that is our pause, not their silence.
        self._delivering = True
        self._frames.put(frame)
        self._heard, self._delivering = time.monotonic(), False

    def _read(self, count: int) -> bytes:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        while not self.lost.is_set():
            if not poll.poll(POLL_S * 1000):
                continue
            try:
                data = os.read(self._read_fd, count)
            except BlockingIOError:
                continue
            self._heard = time.monotonic()
            return data
        return b""

    def _keep_alive(self) -> None:
        while not self.lost.wait(min(1.0, self._silence_limit_s / 4)):
            now = time.monotonic()
            if not self._delivering and now - self._heard > self._silence_limit_s:
                self.close(f"no word from the controller for {self._silence_limit_s:g} s")
            elif now - self._said >= wire.PING_INTERVAL_S:
                self._ping()

    def _ping(self) -> None:
        try:
            self.send({"type": "ping"})
        except ChannelLost:
            return

    def _write(self, data: bytes) -> None:
        with self._write_lock:
            self.check()
            deadline = time.monotonic() + self._write_timeout_s
            view = memoryview(data)
            try:
                while view:
                    view = view[self._write_some(view, deadline) :]
            except OSError as error:
                self.close(f"cannot write: {error}")
                raise ChannelLost(self._reason) from None
            self._said = time.monotonic()

    def _write_some(self, view: memoryview, deadline: float) -> int:
        poll = select.poll()
        poll.register(self._write_fd, select.POLLOUT)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError(f"the controller did not read for {self._write_timeout_s:g} s")
        try:
            return os.write(self._write_fd, view)
        except BlockingIOError:
            return 0
