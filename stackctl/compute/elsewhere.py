"""Seeing booked servers to their hosts, and to other hosts when one cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stackctl.compute import booking
from stackctl.compute.placing import NoValidHost, record_decision
from stackctl.compute.types import Server
from stackctl.compute.views import read_servers, servers_by_id
from stackctl.errors import HostUnreachable, StackctlError
from stackctl.identity.context import Context
from stackctl.network.allocation import leave_server
from stackctl.operation import Done, Operation
from stackctl.operation.events import note
from stackctl.operation.exchange import Exchange
from stackctl.operation.settle import fail_build
from stackctl.state import Row, Writer, now, write

PLACEMENT_ATTEMPTS = 3
"""How many hosts a server may be given to before it is refused (Nova's max_attempts)."""

Undo = Callable[[Writer], None]


def nothing_else(_: Writer) -> None:
    """What a boot made beside its servers."""


def carry_out(
    operation: Operation, work: Callable[[Writer], list[str]], undo: Undo = nothing_else
) -> Done[list[Server]]:
    """Do the booking transaction ``work(writer) -> ids`` and see its servers to their hosts.

    ``undo`` takes back what ``work`` made beside servers, when no host could be reached.
    """
    context = operation.context
    rehearsed: list[Server] = []

    def transaction(writer: Writer) -> list[str]:
        ids = work(writer)
        if context.dry_run:
            rehearsed.extend(servers_by_id(writer, ids))
        return ids

    try:
        ids = operation.transact(transaction, lambda ids: {"servers": ids})
    except NoValidHost as error:
        _remember_refusal(context, error)
        raise
    unreached = unreached_hosts(operation.converge())
    if context.dry_run:
        return operation.finish(rehearsed)
    for attempt in range(1, PLACEMENT_ATTEMPTS + 1):
        if not unreached:
            break
        give_up = attempt == PLACEMENT_ATTEMPTS
        unreached = _place_elsewhere(operation, ids, unreached, undo, give_up)
    return operation.finish(ids).with_value(read_servers(context, ids))


def unreached_hosts(exchanges: Sequence[Exchange]) -> set[str]:
    """Hosts that never got to know the spec: what was meant for them can go elsewhere."""
    return {item.host_id for item in exchanges if item.error is not None and not item.sent}


def _place_elsewhere(
    operation: Operation, ids: Sequence[str], unreached: set[str], undo: Undo, give_up: bool
) -> set[str]:
    """Give the servers of unreached hosts to others; returns hosts that were not reached now.

    ``give_up``: they were given to enough hosts, and are not to be tried on another one.
    """
    context = operation.context
    for host_id in unreached:
        operation.work_around(host_id)

    def work(writer: Writer) -> bool:
        booked = _booked(writer, operation, ids)
        homeless = _homeless(writer, operation, [r for r in booked if r["host_id"] in unreached])
        tried = set(unreached) | {
            item.host_id for item in operation.exchanges.values() if item.error is not None
        }
        left = homeless
        if not give_up:
            left = booking.place_again(context, writer, homeless, tried, operation.id)
        if left and len(left) == len(booked):
            _unbook(writer, left)
            undo(writer)
            return True
        for id_ in left:
            _fail_homeless(writer, operation, id_, give_up)
        return False

    if operation.transact(work):
        operation.abandon("no host could be reached")
        raise _nobody_there(operation)
    return unreached_hosts(operation.converge())


def _booked(writer: Writer, operation: Operation, ids: Sequence[str]) -> list[Row]:
    """Servers that this operation books; others that it returns were there before it."""
    rows = (writer.get("servers", id_) for id_ in ids)
    return [row for row in rows if row["operation_id"] == operation.id]


def _homeless(writer: Writer, operation: Operation, servers: Sequence[Row]) -> list[str]:
    """Those whose host was told by nobody. Moving the others would make them twice: their host
    is asked again."""
    homeless = []
    for server in servers:
        if operation.is_known_to(writer, server["host_id"]):
            operation.go_back_to(server["host_id"])
            writer.change.servers.add(server["id"])
        elif server["vm_state"] == "building":
            homeless.append(server["id"])
    return homeless


def _unbook(writer: Writer, ids: Sequence[str]) -> None:
    """Take back a boot that no host has heard of: no tombstones, nothing to remove anywhere."""
    for id_ in ids:
        for port_id in writer.column(
            "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL", id_
        ):
            leave_server(writer, port_id)
        writer.run(
            "UPDATE disks SET state = 'deleted', deleted_at = ? WHERE server_id = ?", now(), id_
        )
        writer.update("servers", id_, vm_state="deleted", task_state=None, deleted_at=now())


def _nobody_there(operation: Operation) -> StackctlError:
    errors = [item.error for item in operation.exchanges.values() if item.error is not None]
    words = " ".join(dict.fromkeys(error.message for error in errors))
    message = f"{words} No other host can take the servers. Nothing was booted."
    if len({type(error) for error in errors}) == 1:
        return type(errors[0])(message, hint=errors[0].hint or "stackctl host-list")
    return HostUnreachable(message, hint="stackctl host-list")


def _fail_homeless(writer: Writer, operation: Operation, server_id: str, give_up: bool) -> None:
    server = writer.get("servers", server_id)
    exchange = operation.exchanges.get(server["host_id"])
    why = exchange.error.message if exchange and exchange.error else ""
    host = exchange.host_name if exchange else ""
    rest = "No other host has room for it"
    if give_up:
        rest = f"It was given to {PLACEMENT_ATTEMPTS} hosts, none of which could be reached"
    message = f"{why} {rest} (stackctl explain {server['name']})."
    fail_build(writer, server, host, message, operation.id)


def _remember_refusal(context: Context, error: NoValidHost) -> None:
    """Why nowhere: kept although the transaction was rolled back, for explain."""
    if context.dry_run:
        return
    with write(context.cloud) as writer:
        decision = error.decisions[-1]
        record_decision(context, writer, decision, None, None)
        note(
            writer,
            action="boot",
            kind="server",
            resource_id="",
            name=decision.request.name,
            message=error.message,
            level="error",
            user_name=context.operator,
        )
