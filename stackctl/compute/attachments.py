"""Volumes of servers: attached and detached, while the servers run or not."""

from __future__ import annotations

import json

from stackctl.compute import lifecycle, volume_rows
from stackctl.compute.commanding import IfUnreached, note_change, see_through
from stackctl.compute.views import server_row
from stackctl.errors import Conflict, NotFound
from stackctl.identity.context import Context
from stackctl.operation import Done, Operation, begin
from stackctl.operation import volume_keepers as keeping
from stackctl.operation.volume_reports import FREE
from stackctl.state import Reader, Row, Writer, read
from stackctl.volume import room, service, states
from stackctl.volume.types import Volume, volume_from


def attach_volume(
    context: Context,
    server: str,
    volume: str,
    *,
    device: str | None = None,
    delete_on_termination: bool = False,
) -> Done[Volume]:
    """Give a server a volume, at once if it runs; as ``device`` or under the next free name.

    Conflict: a state does not allow it, the volume is on another host, the name is taken.
    HostUnreachable, and nothing is left, when its host was not reached.
    """
    arguments: Row = {"server": server, "volume": volume, "device": device}
    arguments["delete_on_termination"] = delete_on_termination
    with begin(context, "volume-attach", f"attach {volume} to {server}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _first_result(context, row))
        before: list[Row] = []

        def work(writer: Writer) -> Volume:
            row = service.own_volume(context, writer, volume)
            before.append(row)
            chosen = {"delete_on_termination": int(delete_on_termination)}
            return _attach(context, writer, operation, server, row, device, chosen)

        made = operation.transact(work, _remembered)
        how = IfUnreached(
            f"Volume {made.name} is attached when its host is converged.",
            f"Volume {made.name} is not attached.",
            lambda writer: _take_back(writer, made, before[0]),
        )
        return _as_it_became(context, see_through(operation, made, str(made.server_id), how))


def detach_volume(context: Context, server: str, volume: str) -> Done[Volume]:
    """Take a volume from a server; a guest that runs is asked to release it first.

    ``volume`` is its name, its id or its device. It is free when its host has said so.
    """
    arguments = {"server": server, "volume": volume}
    with begin(context, "volume-detach", f"detach {volume} from {server}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _first_result(context, row))
        made = operation.transact(
            lambda writer: _detach(context, writer, operation, server, volume), _remembered
        )
        how = IfUnreached(f"Volume {made.name} is free when its host is converged.")
        return _as_it_became(context, see_through(operation, made, str(made.server_id), how))


def list_attachments(context: Context, server: str) -> list[Volume]:
    """The volumes of a server in the order of their devices."""
    with read(context.cloud) as reader:
        rows = volume_rows.of_server(reader, server_row(context, reader, server)["id"])
        return [volume_from(reader, row) for row in rows]


# --- attaching ----------------------------------------------------------------------------------


def _attach(
    context: Context,
    writer: Writer,
    operation: Operation,
    word: str,
    volume: Row,
    device: str | None,
    chosen: Row,
) -> Volume:
    server = server_row(context, writer, word)
    lifecycle.require(server, "attach-volume")
    status = states.require(writer, volume, "attach").status
    volume = _bring(writer, server, volume)
    name = volume_rows.device_for(writer, server, device)
    place = {"host_id": server["host_id"], "server_id": server["id"], "device": name}
    volume_rows.update(writer, volume, status=status, **place, **chosen)
    message = f"volume {volume['name']} attached as /dev/{name}"
    note_change(context, writer, operation, server, message)
    return volume_from(writer, writer.get("volumes", volume["id"]))


def _bring(writer: Writer, server: Row, volume: Row) -> Row:
    """A shared volume is given to the server's host, as is one that has no place yet; another is
    where it is."""
    host_id = server["host_id"]
    keeping.require_usable(writer, volume["type_id"], host_id, f"volume {volume['name']}")
    if volume["host_id"] is None:
        room.require_room(writer, volume, volume["size_gb"], host_id)
    elif keeping.is_shared(writer, volume):
        return keeping.give_to(writer, volume, host_id)
    elif volume["host_id"] != host_id:
        there = writer.get("hosts", volume["host_id"])["name"]
        here = writer.get("hosts", host_id)["name"]
        raise Conflict(
            f"Volume {volume['name']} is a file on host {there}, server {server['name']} runs on "
            f"{here}: only servers on {there} can have it. Nothing was changed.",
            hint=f"stackctl boot NAME --host {there} ...",
        )
    return volume


# --- detaching ----------------------------------------------------------------------------------


def _detach(
    context: Context, writer: Writer, operation: Operation, server_word: str, word: str
) -> Volume:
    server = server_row(context, writer, server_word)
    volume = _volume_called(context, writer, server, word)
    lifecycle.require(server, "detach-volume")
    status = states.require(writer, volume, "detach").status
    if volume_rows.is_root(volume):
        raise Conflict(
            f"Cannot detach a root device volume: server {server['name']} boots from volume "
            f"{volume['name']}. Nothing was changed.",
            hint=f"stackctl delete {server['name']}   (the volume stays)",
        )
    volume_rows.update(writer, volume, status=status, held=0)
    note_change(context, writer, operation, server, f"volume {volume['name']} detached")
    return volume_from(writer, writer.get("volumes", volume["id"]))


def _volume_called(context: Context, reader: Reader, server: Row, word: str) -> Row:
    """The server's volume with this device, name or id (or the beginning of an id)."""
    mine = volume_rows.of_server(reader, server["id"])
    device = volume_rows.DEVICE.fullmatch(word)
    found = [row for row in mine if device and row["device"] == device[1]]
    if found:
        return found[0]
    row = service.own_volume(context, reader, word)
    if row["id"] not in [each["id"] for each in mine]:
        raise NotFound(
            f"Server {server['name']} has no volume '{word}' among its {len(mine)}.",
            hint="stackctl volume-list",
        )
    return row


# --- what both have in common -------------------------------------------------------------------


def _take_back(writer: Writer, volume: Volume, before: Row) -> str:
    back = {**FREE, "status": before["status"], "host_id": before["host_id"]}
    volume_rows.update(writer, writer.get("volumes", volume.id), **back)
    return f"volume {volume.name}"


def _remembered(volume: Volume) -> dict[str, str]:
    return {"volume": volume.id}


def _first_result(context: Context, operation: Row) -> Volume:
    with read(context.cloud) as reader:
        return _read(reader, json.loads(operation["result_json"])["volume"])


def _as_it_became(context: Context, done: Done[Volume]) -> Done[Volume]:
    """With the volume as its host has reported it since."""
    if context.dry_run:
        return done
    with read(context.cloud) as reader:
        return done.with_value(_read(reader, done.value.id))


def _read(reader: Reader, volume_id: str) -> Volume:
    return volume_from(reader, reader.get("volumes", volume_id))
