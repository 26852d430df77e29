"""What the scheduler said, for ``boot --explain``: every host, filter and weigher."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from stackctl.cli import render
from stackctl.cli.frame import settings

if TYPE_CHECKING:
    from stackctl.compute.scheduling.scheduler import Decision, Policy, Verdict
    from stackctl.identity.context import Context

HOSTS_SHOWN = 20


@contextmanager
def explained(context: Context, wanted: bool) -> Iterator[Context]:
    """A context in which the scheduler's decisions are kept, and printed at the end whatever it is.

    Programs read the result from stdout: for them the explanation goes to stderr.
    """
    if not wanted:
        yield context
        return
    decisions: list[Decision] = []
    watch = dataclasses.replace(context.watch, decided=decisions.append)
    try:
        yield dataclasses.replace(context, watch=watch)
    finally:
        aside = settings().format != "table"
        for text in texts(context, decisions):
            click.echo(render.printable(text), err=aside)


def texts(context: Context, decisions: list[Decision]) -> Iterator[str]:
    """A paragraph and a table for each decision."""
    from stackctl.compute.placing import needs
    from stackctl.compute.scheduling.policy import policy_of

    policy = policy_of(context.cloud.config["scheduler"])
    for decision in decisions:
        went = f"goes to {decision.host}" if decision.host_id else "fits nowhere"
        yield f"{decision.request.name} {went}; it needs {needs(decision.request)}."
        shown = decision.verdicts[:HOSTS_SHOWN]
        cells = [_line(decision, verdict, policy) for verdict in shown]
        titles = ["Host", "Weight", "Filters", "Weighers"]
        yield render.table(titles, cells).rstrip("\n")
        if len(decision.verdicts) > len(shown):
            yield f"And {len(decision.verdicts) - len(shown)} more hosts."


def _line(decision: Decision, verdict: Verdict, policy: Policy) -> list[str]:
    from stackctl.compute.scheduling.scheduler import examine

    said = examine(decision, verdict.host_id, policy)
    filters = [f"{'' if item.passes else 'NO '}{item.filter}: {item.words}" for item in said]
    weights = [f"{name} {weight:g}" for name, weight in verdict.weights]
    chosen = " *" if verdict.host_id == decision.host_id else ""
    total = "" if verdict.refused_by else f"{verdict.weight:g}"
    return [f"{verdict.host}{chosen}", total, "\n".join(filters), "\n".join(weights)]
