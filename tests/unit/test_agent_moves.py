"""The agents' part in moving a server, without libvirt: who is alone, what is called off, when."""

import threading
import time

import pytest

from agent import layout
from agent.channel import ChannelLost
from agent.faults import StepFailed
from agent.moves import departure, whereabouts
from agent.store import Store
from agent.system import files, libvirt_conn, libvirt_moves, links
from agent.system.libvirt_conn import LibvirtError
from agent.system.libvirt_moves import Journey, Place, Progress

JOURNEY = Journey("uri", "memory", "disks", ("vda",), "<domain/>", "<domain/>")


class FakeChannel:
    """A controller that listens until it does not."""

    def __init__(self, patience=1000):
        self.sent, self.patience = [], patience

    def check(self):
        self.patience -= 1
        if self.patience < 0:
            raise ChannelLost("gone")

    def send(self, message):
        self.sent.append(message)


@pytest.fixture
def engine(monkeypatch):
    """A migration that goes on until it is let go, or called off."""

    class Engine:
        end, error, called_off = threading.Event(), None, 0

        def migrate(self, domain_id, journey, limit_s):
            assert self.end.wait(20)
            if self.error is not None:
                raise self.error

        def call_off(self, domain_id):
            self.called_off += 1
            self.error = self.error or LibvirtError("operation aborted")
            self.end.set()
            return True

    made = Engine()
    made.end.clear()
    monkeypatch.setattr(departure, "TELL_EVERY_S", 0.02)
    monkeypatch.setattr(libvirt_moves, "migrate", made.migrate)
    monkeypatch.setattr(libvirt_moves, "call_off", made.call_off)
    monkeypatch.setattr(libvirt_moves, "progress", lambda _: Progress(1, 2, 3, 4))
    return made


def test_it_tells_how_far_it_is(engine):
    channel = FakeChannel()
    threading.Timer(0.2, engine.end.set).start()
    departure._travel(channel, "vm", JOURNEY, 100)
    assert channel.sent
    told = {"memory_bytes": 1, "memory_total": 2, "disk_bytes": 3, "disk_total": 4}
    assert channel.sent[0] == {"type": "step", "kind": "move", "id": "vm", **told}
    assert engine.called_off == 0


def test_it_is_called_off_when_nobody_listens_any_more(engine):
    with pytest.raises(ChannelLost):
        departure._travel(FakeChannel(patience=2), "vm", JOURNEY, 100)
    assert engine.called_off == 1


def test_it_is_called_off_at_its_limit(engine):
    with pytest.raises(StepFailed, match=r"within 0\.1 s"):
        departure._travel(FakeChannel(), "vm", JOURNEY, 0.1)
    assert engine.called_off == 1


def test_one_that_was_called_off_too_late_has_gone(engine, monkeypatch):
    """It is gone here: whoever asked must let it go on there, heard or not."""
    monkeypatch.setattr(libvirt_moves, "call_off", lambda _: engine.end.set())
    departure._travel(FakeChannel(patience=1), "vm", JOURNEY, 100)


def test_what_libvirt_says_is_said(engine):
    engine.error = LibvirtError("no space left")
    engine.end.set()
    with pytest.raises(LibvirtError, match="no space left"):
        departure._travel(FakeChannel(), "vm", JOURNEY, 100)


def test_abort_waits_for_a_move_that_is_about_to_begin(engine, monkeypatch, tmp_path):
    asked = iter([False, False, True])
    monkeypatch.setattr(libvirt_moves, "call_off", lambda _: next(asked))
    monkeypatch.setattr(whereabouts, "POLL_S", 0)
    assert departure.abort_move(Store(tmp_path), {"server_id": "vm"}, lambda: None) == {
        "aborted": True
    }


def test_abort_of_nothing_says_so(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_moves, "call_off", lambda _: False)
    monkeypatch.setattr(departure, "ABORT_PATIENCE_S", 0)
    told = departure.abort_move(Store(tmp_path), {"server_id": "vm"}, lambda: None)
    assert told == {"aborted": False}


def test_a_guest_that_is_off_is_not_described(monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_conn, "state", lambda _: "SHUTDOWN")
    with pytest.raises(StepFailed, match="does not run"):
        departure.describe_server(Store(tmp_path), {"server_id": "vm"}, lambda: None)


# --- where it is --------------------------------------------------------------------------------


def look(tmp_path):
    return whereabouts.look(Store(tmp_path), {"server_id": "vm"}, lambda: None)


def test_a_look_waits_until_nothing_goes_on(monkeypatch, tmp_path):
    there = Place(True, "PAUSED", persistent=True, arriving=True, busy=True)
    places = iter([there, there, Place(True, "RUNNING", persistent=True)])
    monkeypatch.setattr(libvirt_moves, "place", lambda _: next(places))
    monkeypatch.setattr(whereabouts, "POLL_S", 0)
    told = look(tmp_path)
    assert (told["on"], told["state"], told["persistent"]) == (True, "RUNNING", True)


def test_a_look_takes_away_the_sockets_of_who_died(monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_moves, "place", lambda _: Place(False))
    files.make_folder(layout.passage(tmp_path, "vm"))
    assert look(tmp_path)["on"] is False
    assert not layout.passage(tmp_path, "vm").exists()


def test_who_looks_while_it_is_moved_waits(monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_moves, "place", lambda _: Place(False))
    moved = threading.Event()

    def move():
        with whereabouts.alone(tmp_path, "vm", 0):
            moved.set()
            time.sleep(0.3)

    files.make_folder(tmp_path / "locks")
    mover = threading.Thread(target=move)
    mover.start()
    assert moved.wait(5)
    begun = time.monotonic()
    look(tmp_path)
    assert time.monotonic() - begun > 0.2
    mover.join()


def test_two_do_not_move_it_at_once(tmp_path):
    with (
        whereabouts.alone(tmp_path, "vm", 0),
        pytest.raises(StepFailed, match="still moves this server"),
        whereabouts.alone(tmp_path, "vm", 0),
    ):
        raise AssertionError


def test_a_tap_is_emptied_and_as_long_as_before(monkeypatch, tmp_path):
    folder = tmp_path / "tap1"
    folder.mkdir()
    (folder / "tx_queue_len").write_text("1000\n")
    monkeypatch.setattr(links, "SYSFS", tmp_path)
    links.drain("tap1")
    assert (folder / "tx_queue_len").read_text() == "1000"
    links.drain("tap-that-is-gone")
