"""Convergence over kinds made for the test."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent import converge
from agent.channel import ChannelLost
from agent.converge import Convergence, Reporter
from agent.faults import StepFailed
from agent.resources.base import Host, Step
from agent.spec import HostSettings, HostSpec
from agent.system.run import CommandFailed
from agent.wire import Fault

SPEC = HostSpec(1, "cloud", "host", 1, "n", HostSettings())


@dataclass
class FakeKind:
    """A kind that returns the steps it was given."""

    name: str
    steps: list[Step] = field(default_factory=list)
    removed: list[Step] = field(default_factory=list)
    error: Exception | None = None

    def removals(self, host: Host, spec: HostSpec) -> list[Step]:
        return self.removed

    def changes(self, host: Host, spec: HostSpec) -> list[Step]:
        if self.error is not None:
            raise self.error
        return self.steps


class Run:
    """One convergence and what it said."""

    def __init__(self, *kinds: FakeKind, observing: bool = False, check: Any = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.host = Host(None, "b", "b", lambda sha256: b"", observing=observing)
        self.reporter = Reporter(self.messages.append)
        Convergence(self.host, SPEC, self.reporter, check or (lambda: None)).run(kinds)

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [report for message in self.messages for report in message.get("reports", ())]

    @property
    def results(self) -> list[tuple[str, str, str]]:
        return [(report["kind"], report["id"], report["result"]) for report in self.reports]


def failing(error: Exception) -> Any:
    def apply() -> None:
        raise error

    return apply


def test_removals_come_first_and_backwards():
    done = []

    def step(kind: str, result: str) -> Step:
        return Step(kind, "1", result, apply=lambda: done.append((kind, result)))

    Run(
        FakeKind("a", [step("a", "made")], [step("a", "removed")]),
        FakeKind("b", [step("b", "made")], [step("b", "removed")]),
    )
    assert done == [("b", "removed"), ("a", "removed"), ("a", "made"), ("b", "made")]


def test_one_failure_stops_nothing_else():
    run = Run(
        FakeKind(
            "disk",
            [
                Step("disk", "1", "made", 7, apply=failing(StepFailed("no space", facts={"a": 1}))),
                Step("disk", "2", "made", apply=lambda: {"b": 2}),
                Step("disk", "3", "failed", fault=Fault("missing")),
            ],
        ),
        FakeKind("domain", [Step("domain", "9", "made", apply=lambda: None)]),
    )
    assert run.results == [
        ("disk", "1", "failed"),
        ("disk", "2", "made"),
        ("disk", "3", "failed"),
        ("domain", "9", "made"),
    ]
    assert run.reports[0]["fault"]["message"] == "no space"
    assert run.reports[0]["facts"] == {"a": 1}
    assert run.reports[0]["version"] == 7
    assert run.reports[1]["facts"] == {"b": 2}
    assert run.host.failed == {("disk", "1"), ("disk", "3")}
    assert run.reporter.counts == {"disk": {"failed": 2, "made": 1}, "domain": {"made": 1}}


def test_a_kind_that_cannot_look_is_a_failure_of_that_kind():
    run = Run(
        FakeKind("port", error=RuntimeError("no switch")),
        FakeKind("domain", [Step("domain", "9", "made", apply=lambda: None)]),
    )
    assert run.results == [("port", "host", "failed"), ("domain", "9", "made")]
    assert run.reports[0]["fault"]["message"] == "RuntimeError: no switch"
    assert "Traceback" in run.reports[0]["fault"]["detail"]


@pytest.mark.parametrize(
    ("error", "message", "command"),
    [
        (
            CommandFailed(["qemu-img", "a b"], "exit status 1: no"),
            "qemu-img: exit",
            "qemu-img 'a b'",
        ),
        (OSError(28, "No space left on device", "/x"), "No space left on device: /x", ""),
        (ValueError("odd"), "ValueError: odd", ""),
    ],
)
def test_faults_carry_the_words_of_the_engine(error, message, command):
    run = Run(FakeKind("disk", [Step("disk", "1", "made", apply=failing(error))]))
    fault = run.reports[0]["fault"]
    assert fault["message"].startswith(message)
    assert fault["command"] == command


def test_unchanged_is_counted_and_sent_only_where_wanted():
    run = Run(
        FakeKind("port", [Step("port", str(n), "unchanged") for n in range(5)]),
        FakeKind("domain", [Step("domain", "1", "unchanged", facts={"power_state": "RUNNING"})]),
    )
    assert run.results == [("domain", "1", "unchanged")]
    assert run.reporter.counts["port"] == {"unchanged": 5}


def test_observing_changes_nothing_and_says_what_would_be_done():
    step = Step("disk", "1", "made", why="not built yet", apply=failing(AssertionError()))
    run = Run(FakeKind("disk", [step, Step("disk", "2", "unchanged")]), observing=True)
    assert run.results == [("disk", "1", "made"), ("disk", "2", "unchanged")]
    assert run.reports[0]["facts"] == {"planned": True, "why": "not built yet"}
    assert run.reports[1]["facts"]["planned"] is False


def test_parallel_steps_run_at_once_and_all_report():
    barrier = threading.Barrier(3, timeout=10)

    def meet() -> None:
        barrier.wait()

    steps = [Step("domain", str(n), "made", apply=meet, parallel=True) for n in range(3)]
    steps.append(Step("domain", "x", "made", apply=failing(StepFailed("no")), parallel=True))
    run = Run(FakeKind("domain", [Step("domain", "u", "unchanged"), *steps]))
    assert sorted(run.results) == sorted(
        [("domain", "u", "unchanged"), ("domain", "x", "failed")]
        + [("domain", str(n), "made") for n in range(3)]
    )


def test_never_more_at_once_than_there_are_workers(monkeypatch):
    monkeypatch.setattr(converge, "workers", lambda: 2)
    running, peak, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    Run(
        FakeKind(
            "domain", [Step("domain", str(n), "made", apply=work, parallel=True) for n in range(8)]
        )
    )
    assert peak == 2


def test_what_is_ready_is_sent_before_the_next_effect():
    seen = []
    run_messages: list[dict[str, Any]] = []
    steps = [
        Step("port", "1", "made", apply=lambda: None),
        Step("port", "2", "made", why="w", apply=lambda: seen.extend(run_messages)),
    ]
    host = Host(None, "b", "b", lambda sha256: b"")
    Convergence(host, SPEC, Reporter(run_messages.append), lambda: None).run(
        [FakeKind("port", steps)]
    )
    kinds = [message["type"] for message in seen]
    assert kinds == ["step", "reports", "step"]
    assert seen[2] == {"type": "step", "kind": "port", "id": "2", "result": "made", "why": "w"}


def test_a_lost_channel_ends_it_after_the_resource_in_hand():
    done: list[str] = []

    def check() -> None:
        if done:
            raise ChannelLost("gone")

    steps = [Step("port", str(n), "made", apply=lambda n=n: done.append(str(n))) for n in range(3)]
    with pytest.raises(ChannelLost):
        Run(FakeKind("port", steps), check=check)
    assert done == ["0"]


def test_many_reports_go_in_batches():
    run = Run(FakeKind("disk", [Step("disk", str(n), "unchanged") for n in range(450)]))
    assert [len(message["reports"]) for message in run.messages] == [200, 200, 50]
