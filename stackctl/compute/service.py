"""Servers: boot, delete, and the actions that change their power."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

from stackctl.compute import booking, lifecycle
from stackctl.compute.booking import NoValidHost
from stackctl.compute.types import BootRequest, Server
from stackctl.compute.views import server_row, servers_by_id
from stackctl.errors import HostUnreachable, StackctlError
from stackctl.identity.context import Context
from stackctl.network.allocation import leave_server, release_port
from stackctl.operation import Done, Operation, begin
from stackctl.operation.events import note
from stackctl.operation.exchange import Exchange
from stackctl.operation.settle import fail_build
from stackctl.state import Row, Writer, now, read, write

PLACEMENT_ATTEMPTS = 3
"""How many hosts a server may be given to before it is refused (Nova's max_attempts)."""


def boot(context: Context, request: BootRequest) -> Done[list[Server]]:
    """Boot ``request.count`` servers and wait until their hosts have answered.

    NoCapacity with each host's numbers when they do not all fit; HostUnreachable, and nothing
    left, when no host could be reached.
    """
    what = f"{request.count} x {request.name}" if request.count > 1 else request.name
    with begin(context, "boot", f"boot {what}", _arguments(request)) as operation:
        if operation.repeated is not None:
            ids = json.loads(operation.repeated["result_json"])["servers"]
            return Done(_read_servers(context, ids), operation.repeated["id"])
        return carry_out(operation, lambda writer: boot_within(context, writer, operation, request))


def boot_within(
    context: Context, writer: Writer, operation: Operation, request: BootRequest
) -> list[str]:
    """The transaction of boot, for operations that boot among other things."""
    resolved = booking.resolve(context, writer, request)
    ids = booking.book(context, writer, resolved, operation.id)
    for id_ in ids:
        server = writer.get("servers", id_)
        host = writer.get("hosts", server["host_id"])["name"]
        _note(context, writer, operation.id, "boot", server, f"asked for; placed on {host}", host)
    return ids


def carry_out(operation: Operation, work: Callable[[Writer], list[str]]) -> Done[list[Server]]:
    """Do the booking transaction ``work(writer) -> ids`` and see its servers to their hosts."""
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
    unreached = _unreached(operation.converge())
    if context.dry_run:
        return operation.finish(rehearsed)
    for _ in range(PLACEMENT_ATTEMPTS - 1):
        if not unreached:
            break
        unreached = _place_elsewhere(operation, ids, unreached)
    return operation.finish(ids).with_value(_read_servers(context, ids))


def delete_servers(context: Context, words: Sequence[str]) -> Done[list[str]]:
    """Delete servers and wait until nothing is left of them on their hosts.

    Returns their names. NotFound before anything is deleted if one of them does not exist.
    """

    def work(writer: Writer) -> list[str]:
        rows = [server_row(context, writer, word) for word in words]
        for row in {row["id"]: row for row in rows}.values():
            delete_within(context, writer, operation.id, row)
        return [row["name"] for row in rows]

    with begin(context, "delete", f"delete {', '.join(words)}", {"servers": words}) as operation:
        if operation.repeated is not None:
            return Done(list(words), operation.repeated["id"])
        names = operation.transact(work)
        operation.converge()
        return operation.finish(names)


def delete_within(context: Context, writer: Writer, operation_id: str, server: Row) -> None:
    """The transaction of delete: rows go, tombstones let the host destroy what was theirs."""
    ports = writer.all(
        "SELECT * FROM ports WHERE device_id = ? AND deleted_at IS NULL", server["id"]
    )
    for port in ports:
        if port["made_for_server"]:
            release_port(writer, port["id"])
        else:
            leave_server(writer, port["id"])
    disks = writer.all(
        "SELECT * FROM disks WHERE server_id = ? AND deleted_at IS NULL", server["id"]
    )
    for kind, id_ in [("domain", server["id"])] + [("disk", disk["id"]) for disk in disks]:
        _bury(writer, kind, id_, server)
    writer.run(
        "UPDATE disks SET state = 'deleted', deleted_at = ? WHERE server_id = ?",
        now(),
        server["id"],
    )
    writer.update(
        "servers",
        server["id"],
        vm_state="deleted",
        task_state=None,
        deleted_at=now(),
        operation_id=operation_id,
        version=server["version"] + 1,
    )
    writer.change.servers.add(server["id"])
    _note(context, writer, operation_id, "delete", server, "deleted")


def change_power(context: Context, action: str, words: Sequence[str]) -> Done[list[Server]]:
    """start, stop, reboot or reboot-hard; returns the servers afterwards.

    A command that could not be given to its host is taken back: nothing happens later behind
    anyone's back.
    """
    before: dict[str, Row] = {}

    def work(writer: Writer) -> list[str]:
        for word in words:
            row = server_row(context, writer, word)
            if row["id"] not in before:
                before[row["id"]] = row
                _command(context, writer, operation.id, action, row)
        return list(before)

    summary = f"{action} {', '.join(words)}"
    with begin(context, action, summary, {"servers": words}) as operation:
        if operation.repeated is not None:
            ids = json.loads(operation.repeated["result_json"])["servers"]
            return Done(_read_servers(context, ids), operation.repeated["id"])
        ids = operation.transact(work, lambda ids: {"servers": ids})
        unreached = _unreached(operation.converge())
        if not context.dry_run:
            _take_back(context, [row for row in before.values() if row["host_id"] in unreached])
        return operation.finish(ids).with_value(_read_servers(context, ids))


def _command(context: Context, writer: Writer, operation_id: str, action: str, server: Row) -> None:
    transition = lifecycle.require(server, action)
    writer.update(
        "servers",
        server["id"],
        task_state=transition.task_state,
        power_action=transition.power_action,
        power_serial=server["power_serial"] + 1,
        version=server["version"] + 1,
        held=0,
        operation_id=operation_id,
        vm_state="building" if server["launched_at"] is None else server["vm_state"],
    )
    writer.change.servers.add(server["id"])
    _note(context, writer, operation_id, action, server, f"{action} asked for")


def _take_back(context: Context, servers: Sequence[Row]) -> None:
    if not servers:
        return
    with write(context.cloud) as writer:
        for server in servers:
            writer.update(
                "servers",
                server["id"],
                task_state=None,
                vm_state=server["vm_state"],
                power_action=server["power_action"],
                power_serial=server["power_serial"],
                held=server["held"],
            )


def _bury(writer: Writer, kind: str, id_: str, server: Row) -> None:
    if server["host_id"] is None:
        return
    writer.insert(
        "tombstones",
        {
            "kind": kind,
            "id": id_,
            "host_id": server["host_id"],
            "server_id": server["id"],
            "created_serial": writer.serial,
            "created_at": now(),
        },
    )


def _unreached(exchanges: Sequence[Exchange]) -> set[str]:
    """Hosts that never got to know the spec: what was meant for them can go elsewhere."""
    return {item.host_id for item in exchanges if item.error is not None and not item.sent}


def _place_elsewhere(operation: Operation, ids: Sequence[str], unreached: set[str]) -> set[str]:
    """Give the servers of unreached hosts to others; returns hosts that failed now."""
    context = operation.context

    for host_id in unreached:
        operation.work_around(host_id)

    def work(writer: Writer) -> list[str]:
        rows = [writer.get("servers", id_) for id_ in ids]
        homeless = [row["id"] for row in rows if row["host_id"] in unreached]
        tried = set(unreached) | {
            item.host_id for item in operation.exchanges.values() if item.error is not None
        }
        left = booking.place_again(context, writer, homeless, tried, operation.id)
        if len(left) == len(ids):
            _unbook(context, writer, operation, left)
            return left
        for id_ in left:
            _fail_homeless(writer, operation, id_)
        return []

    if operation.transact(work):
        operation.abandon("no host could be reached")
        raise _nobody_there(operation)
    return _unreached(operation.converge())


def _unbook(context: Context, writer: Writer, operation: Operation, ids: Sequence[str]) -> None:
    """Take back a boot that no host has heard of: no tombstones, nothing to remove anywhere."""
    for id_ in ids:
        for port in writer.all("SELECT * FROM ports WHERE device_id = ?", id_):
            if port["made_for_server"]:
                release_port(writer, port["id"])
            else:
                leave_server(writer, port["id"])
        writer.run(
            "UPDATE disks SET state = 'deleted', deleted_at = ? WHERE server_id = ?", now(), id_
        )
        writer.update("servers", id_, vm_state="deleted", task_state=None, deleted_at=now())


def _nobody_there(operation: Operation) -> StackctlError:
    errors = [item.error for item in operation.exchanges.values() if item.error is not None]
    words = " ".join(dict.fromkeys(error.message for error in errors))
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else HostUnreachable
    message = f"{words} No other host can take the servers. Nothing was booted."
    return kind(message, hint="stackctl host-list")


def _fail_homeless(writer: Writer, operation: Operation, server_id: str) -> None:
    server = writer.get("servers", server_id)
    exchange = operation.exchanges.get(server["host_id"])
    why = exchange.error.message if exchange and exchange.error else ""
    host = exchange.host_name if exchange else ""
    message = f"{why} No other host has room for it (stackctl explain {server['name']})."
    fail_build(writer, server, host, message, operation.id)


def _remember_refusal(context: Context, error: NoValidHost) -> None:
    """Why nowhere: kept although the transaction was rolled back, for explain."""
    if context.dry_run:
        return
    with write(context.cloud) as writer:
        decision = error.decisions[-1]
        booking.record_decision(context, writer, decision, None, None)
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


def _read_servers(context: Context, ids: Sequence[str]) -> list[Server]:
    with read(context.cloud) as reader:
        return servers_by_id(reader, ids)


def _note(
    context: Context,
    writer: Writer,
    operation_id: str,
    action: str,
    server: Row,
    message: str,
    host: str = "",
) -> None:
    note(
        writer,
        action=action,
        kind="server",
        resource_id=server["id"],
        name=server["name"],
        message=message,
        host=host,
        user_name=context.operator,
        operation_id=operation_id,
    )


def _arguments(request: BootRequest) -> dict[str, object]:
    """What makes two boots the same request; contents by their hash."""
    plain = dataclasses.asdict(request)
    for file in plain["files"]:
        file["content"] = hashlib.sha256(file["content"]).hexdigest()
    if request.user_data is not None:
        plain["user_data"] = hashlib.sha256(request.user_data).hexdigest()
    return plain
