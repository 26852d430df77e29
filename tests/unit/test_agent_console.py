"""A guest's serial console joined to a channel; the guest is the other end of a terminal."""

import os
import time
import tty

import pytest

from agent.faults import StepFailed
from agent.relay import Console
from agent.resources.domain_xml import console_path
from agent.system import libvirt_conn
from tests.unit.test_agent_snapshots import Sent

ASKED = {"server_id": "server-1"}


@pytest.fixture
def guest(monkeypatch):
    """The guest's end of its serial port."""
    ours, theirs = os.openpty()
    tty.setraw(ours)
    serial = f'<serial type="pty"><source path="{os.ttyname(theirs)}"/></serial>'
    xml = f"<domain><devices>{serial}</devices></domain>"
    monkeypatch.setattr(libvirt_conn, "live_xml", lambda _: xml)
    yield ours
    os.close(ours)
    os.close(theirs)


def heard(channel, wanted: bytes) -> bytes:
    deadline = time.monotonic() + 10
    while wanted not in channel.data and time.monotonic() < deadline:
        time.sleep(0.02)
    return channel.data


def test_bytes_go_both_ways_as_they_are(guest, tmp_path):
    channel = Sent()
    console = Console(channel, tmp_path, ASKED)
    console.start()
    console.write(b"ls\r\x03\n\xff")
    assert os.read(guest, 100) == b"ls\r\x03\n\xff"
    os.write(guest, b"\x1b[1mfile\r\n")
    assert heard(channel, b"file") == b"\x1b[1mfile\r\n"
    console.write(b"")
    console.close()


def test_one_at_a_time(guest, tmp_path):
    first = Console(Sent(), tmp_path, ASKED)
    first.start()
    with pytest.raises(StepFailed, match="has the console open"):
        Console(Sent(), tmp_path, ASKED)
    first.close()
    second = Console(Sent(), tmp_path, ASKED)
    second.start()
    second.close()


def test_a_guest_that_is_off_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_conn, "live_xml", lambda _: "<domain><devices/></domain>")
    with pytest.raises(StepFailed, match="does not run"):
        Console(Sent(), tmp_path, ASKED)


def test_only_a_terminal_of_libvirts_own_is_a_console():
    assert (
        console_path('<d><devices><serial type="file"><source path="/x"/></serial></devices></d>')
        is None
    )
