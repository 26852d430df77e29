"""The agent's end of the channel, over a socket pair."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from agent import wire
from agent.channel import Channel, ChannelLost


class Pair:
    """A channel and the controller's end of it."""

    def __init__(self, **limits: float) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(10)
        self.channel = Channel(self.ours.fileno(), self.ours.fileno(), **limits)
        self.channel.start()

    def read(self) -> wire.Frame:
        return wire.read_frame(self.theirs.recv)

    def close(self) -> None:
        self.channel.close("test is over")
        self.theirs.close()
        for thread in threading.enumerate():
            if thread.name in ("_read_frames", "_keep_alive"):
                thread.join(3)
        self.ours.close()


@pytest.fixture
def pair():
    pair = Pair()
    yield pair
    pair.close()


def test_messages_and_bytes_go_both_ways(pair):
    pair.theirs.sendall(wire.encode_message({"type": "hello"}) + wire.encode_bytes(b"abc"))
    assert pair.channel.receive().message == {"type": "hello"}
    assert pair.channel.receive().data == b"abc"
    pair.channel.send({"type": "done"})
    pair.channel.send_bytes(b"xyz")
    assert pair.read().message == {"type": "done"}
    assert pair.read().data == b"xyz"


def test_pings_are_heard_but_not_delivered(pair):
    pair.theirs.sendall(wire.encode_message({"type": "ping"}) * 3)
    pair.theirs.sendall(wire.encode_message({"type": "bye"}))
    assert pair.channel.receive().message == {"type": "bye"}


def test_the_end_of_the_stream_loses_the_channel(pair):
    pair.theirs.shutdown(socket.SHUT_WR)
    for _ in range(2):
        with pytest.raises(ChannelLost, match="ended"):
            pair.channel.receive()
    with pytest.raises(ChannelLost):
        pair.channel.send({"type": "done"})


def test_half_a_frame_is_nothing(pair):
    pair.theirs.sendall(wire.encode_message({"type": "spec"})[:-1])
    pair.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelLost):
        pair.channel.receive()


def test_garbage_loses_the_channel(pair):
    pair.theirs.sendall(b"Last login: today from somewhere\n")
    with pytest.raises(ChannelLost, match="not a frame"):
        pair.channel.receive()


def test_silence_loses_the_channel():
    pair = Pair(silence_limit_s=0.3)
    try:
        begun = time.monotonic()
        with pytest.raises(ChannelLost, match="no word"):
            pair.channel.receive()
        assert time.monotonic() - begun < 5
    finally:
        pair.close()


def test_a_controller_that_does_not_read_is_gone():
    pair = Pair(write_timeout_s=0.3)
    try:
        with pytest.raises(ChannelLost, match="did not read"):
            for _ in range(100):
                pair.channel.send_bytes(bytes(wire.BLOB_CHUNK_BYTES))
    finally:
        pair.close()


def test_a_full_queue_is_not_silence():
    pair = Pair(silence_limit_s=1.0)
    try:
        sender = threading.Thread(
            target=pair.theirs.sendall, args=(wire.encode_bytes(b"x") * 300,), daemon=True
        )
        sender.start()
        time.sleep(2.0)
        assert [pair.channel.receive().data for _ in range(300)] == [b"x"] * 300
    finally:
        pair.close()


def test_pings_are_sent_when_there_is_nothing_to_say(monkeypatch):
    monkeypatch.setattr(wire, "PING_INTERVAL_S", 0.2)
    pair = Pair()
    try:
        assert pair.read().message == {"type": "ping"}
    finally:
        pair.close()


def test_pipes_serve_as_well():
    there_read, write = os.pipe()
    read, there_write = os.pipe()
    channel = Channel(read, write)
    channel.start()
    os.write(there_write, wire.encode_message({"type": "bye"}))
    assert channel.receive().message == {"type": "bye"}
    channel.send({"type": "done"})
    assert os.read(there_read, 100) == wire.encode_message({"type": "done"})
    os.close(there_write)
    with pytest.raises(ChannelLost):
        channel.receive()
    for descriptor in (there_read, read, write):
        os.close(descriptor)
