"""Servers: boot, delete, and the actions that change their power."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from stackctl.compute import booking, lifecycle, volume_rows
from stackctl.compute.commanding import command, note_server
from stackctl.compute.disks import bury_all
from stackctl.compute.elsewhere import carry_out
from stackctl.compute.moves.moving import end_moves
from stackctl.compute.resolving import resolve
from stackctl.compute.types import BootRequest, Server
from stackctl.compute.views import first_result, server_row
from stackctl.identity.context import Context
from stackctl.image import captured
from stackctl.network.allocation import leave_server
from stackctl.operation import Done, Operation, begin, shelving
from stackctl.state import Row, Writer, now


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
        note_server(
            context, writer, operation.id, "boot", server, f"asked for; placed on {host}", host
        )
    return ids


def delete_servers(context: Context, words: Sequence[str]) -> Done[list[str]]:
    """Delete servers and wait until nothing is left of them on their hosts.

    Returns their names. NotFound before anything is deleted if one of them does not exist.
    """
    shelved: list[str] = []

    def work(writer: Writer) -> list[str]:
        rows = [server_row(context, writer, word) for word in words]
        shelved.extend(row["id"] for row in rows if shelving.images_of(row))
        for row in {row["id"]: row for row in rows}.values():
            delete_within(context, writer, operation.id, row)
        return [row["name"] for row in rows]

    with begin(context, "delete", f"delete {', '.join(words)}", {"servers": words}) as operation:
        if operation.repeated is not None:
            return operation.again(lambda _: list(words))
        names = operation.transact(work)
        operation.converge()
        if shelved:
            captured.sweep(context)
        return operation.finish(names)


def delete_within(context: Context, writer: Writer, operation_id: str, server: Row) -> None:
    """The transaction of delete: rows go, tombstones let the host destroy what was theirs."""
    lifecycle.refuse_locked(server, "delete")
    if server["adopting"] == 1:
        # Loaded late: few servers are adopted, and every boot and delete would pay for it.
        from stackctl.compute.adoption.rows import take_back

        take_back(writer, server)
        words = "deleted; its domain was not taken over, and is as it was"
        note_server(context, writer, operation_id, "delete", server, words)
        return
    ports = writer.column(
        "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL", server["id"]
    )
    for port_id in ports:
        leave_server(writer, port_id)
    volume_rows.let_go(writer, server)
    bury_all(writer, server)
    shelving.drop_images(writer, server)
    end_moves(writer, server["id"])
    writer.update(
        "servers",
        server["id"],
        vm_state="deleted",
        task_state=None,
        moving=0,
        deleted_at=now(),
        operation_id=operation_id,
        version=server["version"] + 1,
    )
    writer.change.servers.add(server["id"])
    note_server(context, writer, operation_id, "delete", server, "deleted")


def change_power(context: Context, action: str, words: Sequence[str]) -> Done[list[Server]]:
    """start, stop, reboot, pause ...; returns the servers afterwards."""
    return command(context, action, words, {})


def _arguments(request: BootRequest) -> dict[str, object]:
    """What makes two boots the same request; contents by their hash."""
    plain = dataclasses.asdict(request)
    for file in plain["files"]:
        file["content"] = hashlib.sha256(file["content"]).hexdigest()
    if request.user_data is not None:
        plain["user_data"] = hashlib.sha256(request.user_data).hexdigest()
    return plain
