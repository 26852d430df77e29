"""Moving a router to another host: off the old one first, then up on the new one."""

from __future__ import annotations

import json

from stackctl.errors import Conflict, HostUnreachable, StackctlError
from stackctl.identity.context import Context
from stackctl.network import router_placing
from stackctl.network.allocation import bind_port
from stackctl.network.finding import own_router
from stackctl.network.floating_rows import touch_router
from stackctl.network.types import Router, router_from, router_ports
from stackctl.operation import Done, Operation, begin
from stackctl.operation.events import note
from stackctl.operation.exchange import Exchange
from stackctl.operation.resource import as_it_became
from stackctl.operation.router_moves import bring_up
from stackctl.state import Reader, Row, Writer, find, read


def move_router(context: Context, word: str, host_word: str | None = None) -> Done[Router]:
    """Move a router to a host, or to the best other one.

    HostUnreachable: the present host does not answer and is not fenced; the router stays there.
    NoCapacity: the other host has not all its networks.
    """
    summary = f"move router {word}" + (f" to {host_word}" if host_word else "")
    arguments = {"router": word, "host": host_word}
    with begin(context, "router-move", summary, arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _repeated(context, row))
        with read(context.cloud) as reader:
            before = _movable(reader, context, word)
            _leave_out_fenced(operation, reader, before)
        value = operation.transact(
            lambda writer: _take_off(context, writer, before["id"], host_word),
            lambda value: {"table": "routers", "id": value.id},
        )
        exchanges = operation.converge()
        if context.dry_run:
            return operation.finish(value)
        error = _not_let_go(exchanges, before)
        if error is not None:
            _put_back(operation, before, exchanges)
            raise error
        value = operation.transact(lambda writer: _bring_up(context, writer, operation, before))
        operation.converge()
        return as_it_became(context, operation.finish(value), "router", router_from)


def _movable(reader: Reader, context: Context, word: str) -> Row:
    router = own_router(context, reader, word)
    if router["host_id"] is None:
        raise Conflict(
            f"Router {router['name']} has neither interfaces nor a gateway, so it is on no host.",
            hint=f"stackctl router-interface-add {router['name']} SUBNET",
        )
    return router


def _leave_out_fenced(operation: Operation, reader: Reader, router: Row) -> None:
    if reader.get("hosts", router["host_id"])["fenced"]:
        operation.leave_out(router["host_id"])


def _take_off(context: Context, writer: Writer, router_id: str, host_word: str | None) -> Router:
    """The first phase: nowhere active, and on its way to the new host."""
    router = writer.get("routers", router_id)
    ports = router_ports(writer, router_id)
    asked = find(writer, "hosts", host_word, noun="host")["id"] if host_word is not None else None
    if asked == router["host_id"]:
        raise Conflict(f"Router {router['name']} is on host {host_word} already.")
    sought = {**router, "host_asked": asked}
    host_id = router_placing.find_host(writer, sought, ports, without=router["host_id"])
    router_placing.take_off(writer, ports)
    for port in ports:
        bind_port(writer, port["id"], host_id, role="incoming")
    # Who pinned it moves the pin; without another host's name it is free to go anywhere.
    pin = asked if router["host_asked"] is not None else None
    values = {"host_id": host_id, "host_asked": pin, "status": "DOWN", "fault_json": None}
    writer.update("routers", router_id, **values)
    touch_router(writer, router_id)
    return router_from(writer, writer.get("routers", router_id))


def _not_let_go(exchanges: list[Exchange], router: Row) -> StackctlError | None:
    """Why the second phase must not follow: a host was not reached, or kept the router."""
    for exchange in exchanges:
        kept = [item for item in exchange.failures if item.id == router["id"]]
        if exchange.error is None and not kept:
            continue
        why = exchange.error.message if exchange.error is not None else kept[0].message
        if exchange.host_id != router["host_id"]:
            return HostUnreachable(f"{why} Router {router['name']} stays where it was.")
        return HostUnreachable(
            f"{why} Router {router['name']} stays on it: on another host as well it would answer "
            "twice.",
            hint=f"if the host is off: stackctl host-fence {exchange.host_name}",
        )
    return None


def _put_back(operation: Operation, before: Row, exchanges: list[Exchange]) -> None:
    """Undo the first phase: what it took off is on its old host as it was.

    Who was not reached knows of nothing, and is not asked again.
    """
    for exchange in exchanges:
        if exchange.error is not None and not exchange.sent:
            operation.leave_out(exchange.host_id)

    def work(writer: Writer) -> None:
        ports = router_ports(writer, before["id"])
        router_placing.take_off(writer, ports)
        values = {name: before[name] for name in ("host_id", "host_asked", "fault_json")}
        writer.update("routers", before["id"], **values)
        for port in ports:
            bind_port(writer, port["id"], before["host_id"])
        touch_router(writer, before["id"])

    operation.transact(work)
    operation.converge()
    operation.abandon("a host was not reached")


def _bring_up(context: Context, writer: Writer, operation: Operation, before: Row) -> Router:
    bring_up(writer, before["id"])
    value = router_from(writer, writer.get("routers", before["id"]))
    note(
        writer,
        "move",
        "router",
        {"id": value.id, "name": value.name},
        f"moved to host {value.host}",
        host=value.host,
        user_name=context.operator,
        operation_id=operation.id,
    )
    return value


def _repeated(context: Context, operation: Row) -> Router:
    with read(context.cloud) as reader:
        router_id = json.loads(operation["result_json"])["id"]
        return router_from(reader, reader.get("routers", router_id))
