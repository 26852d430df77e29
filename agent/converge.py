"""Make the host be what a spec says: removals in reverse order, changes in order, a report each.

A failure concerns one resource and those that need it; everything else goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from agent import killpoint
from agent.faults import facts_of, fault_of
from agent.resources.base import Host, Kind, Step
from agent.spec import HostSpec, to_plain
from agent.wire import Report

ALWAYS_REPORTED = frozenset({"domain", "disk", "image", "volume", "attachment", "backend"})
"""Kinds whose reports are sent even when nothing changed: the controller keeps their state."""

BATCH = 200
"""Reports in one message at most."""

Send = Callable[[dict[str, Any]], None]


def workers() -> int:
    """How many steps of one kind may run at once: libvirt mostly waits, so never only one."""
    return min(8, max(4, os.cpu_count() or 1))


class Reporter:
    """Collects reports and sends those that are ready together; counts them all."""

    def __init__(self, send: Send) -> None:
        self.counts: dict[str, dict[str, int]] = {}
        self._send = send
        self._ready: list[dict[str, Any]] = []

    def add(self, report: Report) -> None:
        """Count a report, and send it with the next batch if the controller wants it."""
        of_kind = self.counts.setdefault(report.kind, {})
        of_kind[report.result] = of_kind.get(report.result, 0) + 1
        if report.result != "unchanged" or report.kind in ALWAYS_REPORTED:
            self._ready.append(to_plain(report))
        if len(self._ready) >= BATCH:
            self.flush()

    def begins(self, step: Step) -> None:
        """Say that a step is about to change the host (after all that was ready before)."""
        self.flush()
        names = ("kind", "id", "result", "why")
        self._send({"type": "step", **{name: getattr(step, name) for name in names}})

    def flush(self) -> None:
        """Send what is ready."""
        if self._ready:
            ready, self._ready = self._ready, []
            self._send({"type": "reports", "reports": ready})


class Convergence:
    """One run over a list of kinds. ``check`` raises when there is no use in going on."""

    def __init__(
        self, host: Host, spec: HostSpec, reporter: Reporter, check: Callable[[], None]
    ) -> None:
        self._host, self._spec = host, spec
        self._reporter, self._check = reporter, check

    def run(self, kinds: Sequence[Kind]) -> None:
        """Converge these kinds (in observing mode: tell what would be done)."""
        self.remove(kinds)
        for kind in kinds:
            self._run(kind, kind.changes)

    def remove(self, kinds: Sequence[Kind]) -> None:
        """Take away what the spec does not have, and make nothing."""
        for kind in reversed(kinds):
            self._run(kind, kind.removals)

    def _run(self, kind: Kind, look: Callable[[Host, HostSpec], Iterable[Step]]) -> None:
        self._check()
        try:
            steps = list(look(self._host, self._spec))
        except Exception as error:
            # Looking failed for the whole kind: the report names the host itself.
            self._finish(Report(kind.name, self._spec.host_id, "failed", fault=fault_of(error)))
            steps = []
        self._take(steps)
        self._reporter.flush()

    def _take(self, steps: Iterable[Step]) -> None:
        """All steps in their order; those between which nothing else changes may run together."""
        together: list[Step] = []
        for step in steps:
            if not self._changes_host(step):
                self._finish(self._standing(step))
            elif step.parallel:
                together.append(step)
            else:
                self._run_together(together)
                together = []
                self._run_alone(step)
        self._run_together(together)

    def _changes_host(self, step: Step) -> bool:
        return step.apply is not None and not self._host.observing

    def _run_alone(self, step: Step) -> None:
        self._check()
        self._reporter.begins(step)
        self._finish(apply(step))

    def _run_together(self, steps: Sequence[Step]) -> None:
        if len(steps) <= 1:
            for step in steps:
                self._run_alone(step)
            return
        from concurrent.futures import ThreadPoolExecutor, as_completed

        for step in steps:
            self._reporter.begins(step)
        pool = ThreadPoolExecutor(workers(), thread_name_prefix="step")
        try:
            for future in as_completed([pool.submit(apply, step) for step in steps]):
                self._finish(future.result())
                self._reporter.flush()
                self._check()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _standing(self, step: Step) -> Report:
        facts = dict(step.facts)
        if self._host.observing:
            facts.update(planned=step.apply is not None, why=step.why)
        return replace(_report(step), result=step.result, fault=step.fault, facts=facts)

    def _finish(self, report: Report) -> None:
        if report.result == "failed":
            self._host.failed.add((report.kind, report.id))
        self._reporter.add(report)


def apply(step: Step) -> Report:
    """Do what a step says; whatever goes wrong becomes its report's fault."""
    begun = time.monotonic()
    killpoint.reached(f"{step.kind} {step.id}")
    report = _report(step)
    try:
        facts = step.apply() if step.apply is not None else None
        report = replace(report, facts={**step.facts, **(facts or {})})
    except Exception as error:
        report = replace(report, result="failed", fault=fault_of(error), facts=facts_of(error))
    return replace(report, seconds=round(time.monotonic() - begun, 3))


def _report(step: Step) -> Report:
    return Report(step.kind, step.id, step.result, step.version)
