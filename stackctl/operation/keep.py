"""Keeping order: converge hosts on request, see what differs, read the diary."""

from __future__ import annotations

from collections.abc import Sequence

from stackctl.errors import NotFound, StackctlError
from stackctl.identity.context import Context
from stackctl.operation import convergence
from stackctl.operation.exchange import spec_now
from stackctl.operation.outcome import Done, PlannedStep
from stackctl.operation.run import begin
from stackctl.state import Reader, Row, Writer, find, read

_BEHIND = "issued_serial > applied_serial"


def converge_hosts(
    context: Context, words: Sequence[str], *, everything: bool = False
) -> Done[list[Row]]:
    """Bring hosts up to date: those named, or all that are behind, or all; returns their rows."""

    def work(writer: Writer) -> list[Row]:
        rows = _chosen(writer, words, everything)
        # A rehearsal or a look must not make a host look behind that is not.
        writer.change.hosts |= {row["id"] for row in rows}
        return rows

    summary = f"converge {' '.join(words) or ('all' if everything else 'hosts behind')}"
    with begin(context, "converge", summary, {"hosts": list(words)}) as operation:
        rows = operation.transact(work)
        operation.converge()
        done = operation.finish(rows)
    done.succeeded = len(rows) - len({failure.host for failure in done.failures})
    return done.with_value(_again(context, rows))


def drift(context: Context, words: Sequence[str]) -> tuple[list[PlannedStep], list[StackctlError]]:
    """What differs on hosts, without touching them: (steps, why others could not be asked)."""
    with read(context.cloud) as reader:
        rows = _chosen(reader, words, True)
    exchanges = convergence.observe(
        context, [row["id"] for row in rows], lambda host_id: spec_now(context, host_id)
    )
    steps = [step for exchange in exchanges for step in exchange.planned]
    return steps, [exchange.error for exchange in exchanges if exchange.error is not None]


def list_events(
    context: Context, *, resource: str | None = None, errors_only: bool = False, limit: int = 50
) -> list[Row]:
    """The newest events, oldest first; of one resource (name or id), or only what went wrong."""
    where, parameters = ["1"], []
    if resource is not None:
        where.append("(resource_id = ? OR name = ? OR operation_id = ?)")
        parameters += [resource, resource, resource]
    if errors_only:
        where.append("level <> 'info'")
    with read(context.cloud) as reader:
        rows = reader.all(
            f"SELECT * FROM events WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?",
            *parameters,
            limit,
        )
    return list(reversed(rows))


def _chosen(reader: Reader, words: Sequence[str], everything: bool) -> list[Row]:
    if words:
        found = [find(reader, "hosts", word, noun="host") for word in words]
        return list({row["id"]: row for row in found}.values())
    which = "1" if everything else _BEHIND
    rows = reader.all(f"SELECT * FROM hosts WHERE deleted_at IS NULL AND {which} ORDER BY name")
    if not rows and everything:
        raise NotFound("This cloud has no hosts.", hint="stackctl host-add NAME --address ADDRESS")
    return rows


def _again(context: Context, rows: Sequence[Row]) -> list[Row]:
    with read(context.cloud) as reader:
        return [reader.get("hosts", row["id"]) for row in rows]
