"""A stream to an agent that is a function in this process."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

from agent import wire
from stackctl.fleet.channel import Channel
from stackctl.fleet.session import AgentSession
from stackctl.fleet.types import Opening, Target

HELLO = {
    "type": "hello",
    "protocol": wire.PROTOCOL,
    "agent_version": "f" * 64,
    "accepted": {"serial": 7, "nonce": "n7"},
    "boot_id": "boot",
    "facts": {"vcpus": 4},
}


class FakeStream:
    """The controller's end of a socket pair; ``sent`` holds all that it sent."""

    def __init__(self, timeout_s: float = 5.0, last_words: str = "") -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.settimeout(timeout_s)
        self.theirs.settimeout(10)
        self._last_words = last_words
        self.sent = b""

    def receive(self, count: int) -> bytes:
        return self._ours.recv(count)

    def send(self, data: bytes) -> None:
        self._ours.sendall(data)
        self.sent += data

    def last_words(self) -> str:
        return self._last_words

    def exit_status(self) -> int | None:
        return 1

    def close(self) -> None:
        for end in (self._ours, self.theirs):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ours.close()


class Agent:
    """The agent's end, for the function that plays it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def say(self, *messages: dict) -> None:
        for message in messages:
            self._connection.sendall(wire.encode_message(message))

    def say_bytes(self, data: bytes) -> None:
        self._connection.sendall(wire.encode_bytes(data))

    def raw(self, data: bytes) -> None:
        self._connection.sendall(data)

    def hear(self) -> wire.Frame:
        """The next frame that is not a ping."""
        while True:
            frame = wire.read_frame(self._connection.recv)
            if frame.message is None or frame.message["type"] != "ping":
                return frame

    def hear_any(self) -> wire.Frame:
        return wire.read_frame(self._connection.recv)

    def blob(self) -> tuple[dict, bytes]:
        head = self.hear().message
        data = b""
        while len(data) < head.get("size_bytes", 0):
            data += self.hear().data
        return head, data


def target(**values) -> Target:
    fields = {
        "host_id": "h1",
        "name": "node1",
        "transport": "ssh",
        "address": "192.0.2.1",
        "ssh_port": 22,
        "ssh_user": "root",
        "host_key": "",
        "key_file": Path("/nowhere"),
    }
    return Target(**{**fields, **values})


def opening(**values) -> Opening:
    return Opening(**{"cloud_id": "c1", "mode": "converge", **values})


class Exchange:
    """A session with a fake agent: ``with Exchange(play) as session``."""

    def __init__(self, play, *, timeout_s=5.0, last_words="", open_image=None, begin=True, **how):
        self.stream = FakeStream(timeout_s, last_words)
        self._play, self._how, self._begin = play, how, begin
        self._open_image = open_image
        self.problem = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._play(Agent(self.stream.theirs))
        except (wire.WireError, OSError):
            pass
        except BaseException as error:
            self.problem = error
        finally:
            self.stream.theirs.close()

    def __enter__(self) -> AgentSession:
        self._thread.start()
        try:
            self.session = AgentSession(
                Channel("node1", self.stream), **self._how.pop("session", {})
            )
            if self._begin:
                self.session.begin(target(), opening(**self._how), self._open_image)
        except BaseException:
            self.__exit__()
            raise
        return self.session

    def __exit__(self, *_) -> None:
        self.session.close()
        self._thread.join(10)
        if self.problem is not None:
            raise self.problem
