"""Many hosts at once: each its own result, and Ctrl-C ends them all."""

import _thread
import threading
import time

import pytest

from stackctl.fleet import Interrupted, OpenSessions, for_each

from .fake_agent import target


def targets(count: int):
    return [target(host_id=f"h{n}", name=f"node{n}") for n in range(count)]


def test_results_and_exceptions_belong_to_their_hosts():
    def work(host):
        if host.host_id == "h1":
            raise ValueError("broken")
        return host.name

    results = for_each(targets(3), work)
    assert (results["h0"], results["h2"]) == ("node0", "node2")
    assert isinstance(results["h1"], ValueError)
    assert for_each([], work) == {}


def test_hosts_are_worked_on_side_by_side_but_not_too_many():
    lock, now, most = threading.Lock(), [0], [0]

    def work(_):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1

    for_each(targets(20), work, max_threads=4)
    assert most[0] == 4


class FakeSession:
    def __init__(self) -> None:
        self.ended = threading.Event()

    def abort(self) -> None:
        self.ended.set()


def test_ctrl_c_ends_what_is_open_and_begins_nothing_more():
    sessions, begun = OpenSessions(), []

    def press() -> None:
        _thread.interrupt_main()

    both_open = threading.Barrier(2, action=press)

    def work(host):
        begun.append(host.host_id)
        if host.host_id == "h0":
            return "done"
        session = FakeSession()
        sessions.add(session)
        both_open.wait(5)
        assert session.ended.wait(5)
        raise ConnectionError("ended")

    with pytest.raises(Interrupted) as caught:
        for_each(targets(10), work, sessions=sessions, max_threads=2)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.results["h0"] == "done"
    assert begun == ["h0", "h1", "h2"]
    late = FakeSession()
    sessions.add(late)
    assert late.ended.is_set()
