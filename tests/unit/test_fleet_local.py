"""This machine as a host: the same exchange over the pipes of a child process."""

import os
from pathlib import Path

import pytest

from agent import wire
from stackctl.fleet import (
    ChannelLost,
    HostRefused,
    Opening,
    counters,
    delivery,
    open_session,
    starting,
)
from stackctl.fleet.local import open_stream

from .fake_agent import target

STAND_IN = """
import os, sys
from agent import wire
read = lambda count: os.read(0, count)
say = lambda message: os.write(1, wire.encode_message(message))
assert wire.read_frame(read).message["type"] == "open"
facts = {"uid": os.getuid()}
say({"type": "hello", "protocol": 1, "accepted": None, "boot_id": "b", "facts": facts})
while True:
    message = wire.read_frame(read).message
    if message["type"] == "bye":
        break
    if message["type"] == "act" and message["name"] == "die":
        sys.exit("dying as told")
    if message["type"] == "act":
        say({"type": "result", "id": message["id"], "ok": True, "value": message["args"]})
"""


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A local host in a folder of its own, with a stand-in for the agent."""
    source = tmp_path / "main.py"
    source.write_text(STAND_IN)
    (tmp_path / "empty").write_text("")
    files = {
        "agent/__init__.py": tmp_path / "empty",
        "agent/__main__.py": source,
        "agent/wire.py": Path(wire.__file__),
    }
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(delivery, "_sources", lambda: iter(files.items()))
    monkeypatch.setattr(starting, "HOST_FOLDER", str(tmp_path / "host"))
    if os.geteuid() != 0:
        monkeypatch.setattr(starting, "runs_as_root", lambda _: True)
    counters.reset()
    return target(name="self", transport="local")


def test_an_exchange_with_this_machine(local):
    for _ in range(2):
        session = open_session(local, Opening("c", "act", claim=True))
        try:
            assert session.hello.facts["uid"] == os.getuid()
            assert session.act("echo", {"text": "x" * 300_000}) == {"text": "x" * 300_000}
        finally:
            session.close()
    assert counters.channels == {"self": 2}


def test_an_agent_that_dies_here_is_told_with_its_words(local):
    session = open_session(local, Opening("c", "act"))
    try:
        with pytest.raises(ChannelLost, match="dying as told"):
            session.act("die", {})
    finally:
        session.close()


def test_a_program_that_is_not_there_is_told():
    with pytest.raises(HostRefused, match="cannot run /no/such/python3"):
        open_stream("self", ["/no/such/python3"])


def test_a_command_that_cannot_become_root_is_told(local, monkeypatch):
    def refuse(*_, **__):
        return ["sh", "-c", "echo 'sudo: a password is required' >&2; exit 1"]

    monkeypatch.setattr(starting, "command_line", refuse)
    with pytest.raises(HostRefused, match="become root"):
        open_session(local, Opening("c", "act"))
