"""Bytes between two local file descriptors and a connection that an agent has opened."""

from __future__ import annotations

import os
import select
import threading

from agent import wire
from stackctl.errors import AgentFailed, StackctlError
from stackctl.fleet.channel import Channel


def pump(channel: Channel, from_fd: int, to_fd: int) -> None:
    """Carry bytes both ways until the far side ends (an empty frame, or ``relay-end``)."""
    ended = threading.Event()
    sender = threading.Thread(target=_send, args=(channel, from_fd, ended), daemon=True)
    sender.start()
    try:
        while True:
            frame = channel.receive()
            if frame.message is not None and frame.message["type"] != "relay-end":
                raise AgentFailed(f"The agent on host {channel.name} broke the relay off.")
            if not frame.data:
                return
            _write_all(to_fd, frame.data)
    except (BrokenPipeError, ConnectionResetError):
        return  # nobody reads any more: the end, like any other
    finally:
        ended.set()
        sender.join(1)


def _send(channel: Channel, from_fd: int, ended: threading.Event) -> None:
    poll = select.poll()
    poll.register(from_fd, select.POLLIN)
    while not ended.is_set():
        if not poll.poll(200):
            continue
        try:
            data = os.read(from_fd, wire.BLOB_CHUNK_BYTES)
        except ConnectionResetError:
            data = b""  # whoever was there has gone without a word
        try:
            channel.send_bytes(data)
        except StackctlError:
            return  # the receiving side notices, too, and says so
        if not data:
            return


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
