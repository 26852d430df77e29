"""Commands to servers: a state that allows it, a task, a power command, other rows; or all of it
taken back when the host did not hear of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stackctl.compute import lifecycle, volume_rows
from stackctl.compute.disks import disks_of, restore_disks
from stackctl.compute.elsewhere import unreached_hosts
from stackctl.compute.types import SIZES, Server
from stackctl.compute.views import first_result, read_servers, server_row
from stackctl.errors import Conflict, PartlyDone
from stackctl.identity.context import Context
from stackctl.operation import Done, Operation, begin
from stackctl.operation.events import note
from stackctl.state import Row, Writer, read, write

T = TypeVar("T")

Prepare = Callable[[Writer, Row], Row]
"""What else a command changes about a server: does it, and returns columns of its row."""

_COMMANDED = (
    "name",
    "task_state",
    "vm_state",
    "kept_state",
    "soft_deleted_at",
    "power_action",
    "power_serial",
    "held",
    "image_id",
    "rescue_image_id",
    "before_resize_json",
    *SIZES,
    "key_name",
    "public_keys_json",
    "user_data_sha256",
    "metadata_json",
    "machine_type",
    "disk_bus",
    "nic_model",
    "vendor_data_sha256",
)
"""What commands set, and what is set back when one is taken back."""


@dataclass(frozen=True)
class IfUnreached:
    """What a change of a server's parts comes to when its host does not hear of it: sentences, of
    one that was taken back and of one that is carried out later. ``undo`` (None: it is never taken
    back) undoes its rows and says what it was.
    """

    later: str
    undone: str = ""
    undo: Callable[[Writer], str] | None = None


@dataclass(frozen=True)
class Before:
    """A server and its disks before a command."""

    server: Row
    disks: list[Row]


def nothing_else(_: Writer, __: Row) -> Row:
    """A command that changes nothing but power."""
    return {}


def command(
    context: Context,
    action: str,
    words: Sequence[str],
    arguments: dict[str, Any],
    prepare: Prepare = nothing_else,
) -> Done[list[Server]]:
    """Give servers a command and see it carried out; returns the servers afterwards.

    A command that could not be given to its host is taken back: nothing happens later behind
    anyone's back.
    """
    before: dict[str, Before] = {}

    def work(writer: Writer) -> list[str]:
        for word in words:
            row = server_row(context, writer, word)
            if row["id"] not in before:
                before[row["id"]] = Before(row, disks_of(writer, row["id"]))
                give(context, writer, operation.id, action, row, prepare)
        return list(before)

    summary = f"{action} {', '.join(words)}"
    with begin(context, action, summary, {"servers": list(words), **arguments}) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row))
        ids = operation.transact(work, lambda ids: {"servers": ids})
        unreached = unreached_hosts(operation.converge())
        if not context.dry_run:
            lost = [item for item in before.values() if item.server["host_id"] in unreached]
            take_back(operation, lost)
        return operation.finish(ids).with_value(read_servers(context, ids))


def note_server(
    context: Context,
    writer: Writer,
    operation_id: str,
    action: str,
    server: Row,
    message: str,
    host: str = "",
) -> None:
    """Write into the diary what somebody did to a server."""
    note(
        writer,
        action,
        "server",
        server,
        message,
        host=host,
        user_name=context.operator,
        operation_id=operation_id,
    )


def note_change(
    context: Context, writer: Writer, operation: Operation, server: Row, message: str
) -> None:
    """A server's row is another one: what its host reports of the old one is not written."""
    writer.update("servers", server["id"], version=server["version"] + 1, operation_id=operation.id)
    writer.change.servers.add(server["id"])
    note_server(context, writer, operation.id, operation.kind, server, message)


def see_through(operation: Operation, value: T, server_id: str, how: IfUnreached) -> Done[T]:
    """Bring a change of a server's parts to its host, and end the operation."""
    unreached = unreached_hosts(operation.converge())
    with read(operation.context.cloud) as reader:
        lost = not operation.context.dry_run and (
            reader.get("servers", server_id)["host_id"] in unreached
        )
    back = lost and operation.transact(lambda writer: _undone(operation, writer, server_id, how))
    done = operation.finish(value)
    if lost:
        words = how.undone if back else how.later
        done.failures = [
            dataclasses.replace(
                each,
                message=f"{each.message} {words}",
                error=each.error if back else PartlyDone,
            )
            for each in done.failures
        ]
    return done


def _undone(operation: Operation, writer: Writer, server_id: str, how: IfUnreached) -> bool:
    """Take back what its host has not heard of, from this process or another."""
    server = writer.get("servers", server_id)
    if how.undo is None or operation.is_known_to(writer, server["host_id"]):
        return False
    words = f"{how.undo(writer)} taken back: its host was not reached"
    note_change(operation.context, writer, operation, server, words)
    return True


def give(
    context: Context,
    writer: Writer,
    operation_id: str,
    action: str,
    server: Row,
    prepare: Prepare = nothing_else,
) -> None:
    """The transaction of a command, for operations that give one among other things."""
    _refuse_homeless(server, action)
    transition = lifecycle.require(server, action)
    values: Row = {"task_state": transition.task_state, "held": 0, "operation_id": operation_id}
    if server["launched_at"] is None:
        values["vm_state"] = "building"
    if transition.power_action and not _stays_off(transition, server):
        values["power_action"] = transition.power_action
        values["power_serial"] = server["power_serial"] + 1
    values |= prepare(writer, server)
    volume_rows.try_again(writer, server["id"])
    writer.update("servers", server["id"], **values, version=server["version"] + 1)
    writer.change.servers.add(server["id"])
    note_server(context, writer, operation_id, action, server, f"{action} asked for")


def _refuse_homeless(server: Row, action: str) -> None:
    if server["host_id"] is None and server["vm_state"] in ("building", "error"):
        raise Conflict(
            f"Cannot '{action}' instance {server['name']}: it is on no host, because none could "
            "build it.",
            hint=f"stackctl delete {server['name']}",
        )


def _stays_off(transition: lifecycle.Transition, server: Row) -> bool:
    """Whether the guest is off and has to stay so."""
    off = server["vm_state"] == "resized" and server["power_state"] != "RUNNING"
    return transition.keeps_off and (off or server["vm_state"] == "stopped")


def take_back(operation: Operation, lost: Sequence[Before]) -> None:
    """Undo commands that their host has not heard of, from this process or another."""
    if not lost:
        return
    with write(operation.context.cloud) as writer:
        for before in lost:
            server = before.server
            if operation.is_known_to(writer, server["host_id"]):
                continue
            writer.update(
                "servers",
                server["id"],
                **{name: server[name] for name in _COMMANDED} | {"task_state": None},
            )
            restore_disks(writer, server["id"], before.disks)
            words = "taken back: its host was not reached"
            note_server(operation.context, writer, operation.id, operation.kind, server, words)
