"""Servers: boot, delete, and the actions that change their power."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from stackctl.compute import booking, lifecycle
from stackctl.compute.elsewhere import carry_out, unreached_hosts
from stackctl.compute.resolving import resolve
from stackctl.compute.types import BootRequest, Server
from stackctl.compute.views import first_result, read_servers, server_row
from stackctl.identity.context import Context
from stackctl.network.allocation import leave_server
from stackctl.operation import Done, Operation, begin
from stackctl.operation.events import note
from stackctl.state import Row, Writer, now, write


def boot(context: Context, request: BootRequest) -> Done[list[Server]]:
    """Boot ``request.count`` servers and wait until their hosts have answered.

    NoCapacity with each host's numbers when they do not all fit; HostUnreachable, and nothing
    left, when no host could be reached.
    """
    what = f"{request.count} x {request.name}" if request.count > 1 else request.name
    with begin(context, "boot", f"boot {what}", _arguments(request)) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row))
        return carry_out(operation, lambda writer: boot_within(context, writer, operation, request))


def boot_within(
    context: Context, writer: Writer, operation: Operation, request: BootRequest
) -> list[str]:
    """The transaction of boot, for operations that boot among other things."""
    resolved = resolve(context, writer, request)
    ids = booking.book(context, writer, resolved, operation.id)
    for id_ in ids:
        server = writer.get("servers", id_)
        host = writer.get("hosts", server["host_id"])["name"]
        _note(context, writer, operation.id, "boot", server, f"asked for; placed on {host}", host)
    return ids


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
            return operation.again(lambda _: list(words))
        names = operation.transact(work)
        operation.converge()
        return operation.finish(names)


def delete_within(context: Context, writer: Writer, operation_id: str, server: Row) -> None:
    """The transaction of delete: rows go, tombstones let the host destroy what was theirs."""
    lifecycle.refuse_locked(server, "delete")
    ports = writer.column(
        "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL", server["id"]
    )
    for port_id in ports:
        leave_server(writer, port_id)
    disks = writer.all(
        "SELECT * FROM disks WHERE server_id = ? AND deleted_at IS NULL", server["id"]
    )
    for kind, id_ in [("domain", server["id"])] + [("disk", disk["id"]) for disk in disks]:
        _bury(writer, kind, id_, server)
    writer.run(
        "UPDATE disks SET state = 'deleted', deleted_at = ? "
        "WHERE server_id = ? AND deleted_at IS NULL",
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
            return operation.again(lambda row: first_result(context, row))
        ids = operation.transact(work, lambda ids: {"servers": ids})
        unreached = unreached_hosts(operation.converge())
        if not context.dry_run:
            _take_back(operation, [row for row in before.values() if row["host_id"] in unreached])
        return operation.finish(ids).with_value(read_servers(context, ids))


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


def _take_back(operation: Operation, servers: Sequence[Row]) -> None:
    """Undo commands that their host has not heard of, from this process or another."""
    if not servers:
        return
    with write(operation.context.cloud) as writer:
        for server in servers:
            if operation.is_known_to(writer, server["host_id"]):
                continue
            writer.update(
                "servers",
                server["id"],
                task_state=None,
                vm_state=server["vm_state"],
                power_action=server["power_action"],
                power_serial=server["power_serial"],
                held=server["held"],
            )
            words = "taken back: its host was not reached"
            _note(operation.context, writer, operation.id, operation.kind, server, words)


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
