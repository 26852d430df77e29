"""Sockets of one host that end at sockets of another: real TLS on loopback."""

import hashlib
import socket
import threading
import time
from contextlib import suppress

import pytest

from agent.faults import StepFailed
from agent.moves import passage
from agent.moves.passage import Entrance, Ways, joined_to, received_as
from stackctl.operation.spreading import make_certificate

CERTIFICATE, KEY = make_certificate()
LONG = bytes(range(256)) * 40_000


@pytest.fixture
def far(tmp_path):
    """A UNIX socket at the far end that says back what it hears, and its path."""
    path = tmp_path / "far"
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(path))
    door.listen()

    def answer(connection):
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def serve():
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(door.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield path
    passage._shut(door)


@pytest.fixture
def entrance(far, tmp_path):
    ways = {"echo": joined_to(far), "file": received_as(tmp_path / "file", 1000)}
    made = Entrance("127.0.0.1", CERTIFICATE, KEY, "secret", ways)
    yield made
    made.close()


@pytest.fixture
def ways(entrance):
    made = Ways("127.0.0.1", entrance.port, "secret", CERTIFICATE)
    yield made
    made.close()


def connect(path):
    near = socket.socket(socket.AF_UNIX)
    near.settimeout(20)
    near.connect(str(path))
    return near


def received(near, count):
    data = b""
    while len(data) < count and (piece := near.recv(65536)):
        data += piece
    return data


def test_what_is_said_here_arrives_there_and_back(ways, tmp_path):
    ways.open(tmp_path / "near", "echo")
    with connect(tmp_path / "near") as near:
        sender = threading.Thread(target=near.sendall, args=(LONG,))
        sender.start()
        assert hashlib.sha256(received(near, len(LONG))).digest() == hashlib.sha256(LONG).digest()
        sender.join()


def test_several_connections_go_side_by_side(ways, tmp_path):
    ways.open(tmp_path / "near", "echo")
    ends = [connect(tmp_path / "near") for _ in range(5)]
    for number, near in enumerate(ends):
        near.sendall(f"{number}".encode())
    assert [received(near, 1) for near in ends] == [b"0", b"1", b"2", b"3", b"4"]
    for near in ends:
        near.close()


def test_the_last_words_of_one_who_hangs_up_are_delivered(entrance, ways, tmp_path):
    heard = tmp_path / "heard"
    got = []
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(heard))
    door.listen()

    def listen():
        with door.accept()[0] as connection:
            while data := connection.recv(65536):
                got.append(data)
        got.append(None)

    listener = threading.Thread(target=listen)
    listener.start()
    entrance._ways = {"one-way": joined_to(heard)}
    ways.open(tmp_path / "near", "one-way")
    with connect(tmp_path / "near") as near:
        near.sendall(LONG)
    listener.join(20)
    door.close()
    assert got[-1] is None
    assert b"".join(got[:-1]) == LONG


def test_who_hangs_up_there_is_gone_here(ways, tmp_path, entrance):
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(tmp_path / "short"))
    door.listen()
    entrance._ways = {"echo": joined_to(tmp_path / "short")}
    ways.open(tmp_path / "near", "echo")
    with connect(tmp_path / "near") as near:
        door.accept()[0].close()
        assert near.recv(10) == b""
    door.close()


@pytest.mark.parametrize(("token", "way"), [("wrong", "echo"), ("secret", "other"), ("", "")])
def test_without_the_token_or_by_another_way_nobody_gets_in(entrance, tmp_path, token, way):
    ways = Ways("127.0.0.1", entrance.port, token, CERTIFICATE)
    ways.open(tmp_path / "near", way)
    with connect(tmp_path / "near") as near, suppress(ConnectionError):
        assert near.recv(10) == b""
    ways.close()


def test_another_certificate_is_not_trusted(entrance):
    ways = Ways("127.0.0.1", entrance.port, "secret", make_certificate()[0])
    with pytest.raises(StepFailed, match="certificate verify failed"):
        ways.send("file", b"x")


def test_a_socket_is_its_owners_alone(ways, tmp_path):
    ways.open(tmp_path / "near", "echo")
    assert (tmp_path / "near").stat().st_mode & 0o777 == 0o600


def test_a_file_arrives_whole(ways, tmp_path):
    ways.send("file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    ways.send("file", b"")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_that_is_too_large_is_not_taken(ways, tmp_path):
    with pytest.raises(StepFailed):
        ways.send("file", b"x" * 1001)
    assert not (tmp_path / "file").exists()


def test_a_closed_entrance_lets_nobody_in(entrance):
    entrance.close()
    with pytest.raises(StepFailed):
        Ways("127.0.0.1", entrance.port, "secret", CERTIFICATE).send("file", b"x")


def test_one_who_waits_for_the_other_takes_no_time(ways, tmp_path):
    """A side that is full, while the other one has hung up, must not keep a processor busy."""
    ways.open(tmp_path / "near", "echo")
    with connect(tmp_path / "near") as near:
        near.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                near.send(b"x" * 65536)
        time.sleep(0.5)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.3
