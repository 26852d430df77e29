"""Snapshots of volumes: take, list, show and delete them."""

from __future__ import annotations

import dataclasses
import json

from stackctl.errors import Conflict, HostUnreachable
from stackctl.identity import quota
from stackctl.identity.context import Context, own_rows
from stackctl.operation import Done, Operation, begin
from stackctl.operation import volume_keepers as keeping
from stackctl.operation.events import note
from stackctl.operation.resource import as_it_became, change_one
from stackctl.state import Reader, Row, Writer, new_id, now, read
from stackctl.volume import room, service
from stackctl.volume.types import Snapshot, snapshot_from

NOUN = "volume snapshot"

_NAME_INDEX = "(project_id, name) WHERE deleted_at IS NULL"


def create_snapshot(
    context: Context, name: str, volume: str, description: str = ""
) -> Done[Snapshot]:
    """Copy a volume as it is now, under a name; whoever uses it goes on meanwhile.

    HostUnreachable, and nothing is left, when its host was not reached: a later moment is another
    snapshot.
    """
    service.check_words(NOUN, name, description)
    arguments = {"name": name, "volume": volume, "description": description}
    summary = f"snapshot {volume} as {name}"
    with begin(context, "volume-snapshot-create", summary, arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _first_result(context, row))

        def work(writer: Writer) -> Snapshot:
            row = _insert(context, writer, name, volume, description)
            _note(context, writer, operation, row, f"snapshot of {volume} asked for")
            return snapshot_from(writer, writer.get("volume_snapshots", row["id"]))

        made = operation.transact(work, lambda made: {"snapshot": made.id})
        unreached = [each for each in operation.converge() if each.error and not each.sent]
        back = bool(unreached and not context.dry_run) and operation.transact(
            lambda writer: _take_back(context, writer, operation, made)
        )
        done = operation.finish(made)
        if back:
            words = "No snapshot was taken."
            done.failures = [
                dataclasses.replace(each, message=f"{each.message} {words}", error=HostUnreachable)
                for each in done.failures
            ]
        return as_it_became(context, done, NOUN, snapshot_from)


def list_snapshots(context: Context, volume: str | None = None) -> list[Snapshot]:
    """The project's snapshots, oldest first; of one volume."""
    with read(context.cloud) as reader:
        rows = own_rows(context, reader, "volume_snapshots")
        if volume is not None:
            id_ = service.own_volume(context, reader, volume)["id"]
            rows = [row for row in rows if row["volume_id"] == id_]
        return [snapshot_from(reader, row) for row in rows]


def show_snapshot(context: Context, word: str) -> Snapshot:
    """One snapshot by name or id."""
    with read(context.cloud) as reader:
        return snapshot_from(reader, service.own_snapshot(context, reader, word))


def delete_snapshot(context: Context, word: str) -> Done[Snapshot]:
    """Delete a snapshot. Volumes that were made of it stay: they are copies."""

    def work(writer: Writer) -> Snapshot:
        row = service.own_snapshot(context, writer, word)
        service.refuse_needed(writer, row)
        row = keeping.with_able_keeper(writer, row, "volume_snapshots")
        service.bury(writer, row, "volume_snapshots")
        return snapshot_from(writer, writer.get("volume_snapshots", row["id"]))

    return change_one(context, "delete", NOUN, word, {}, work, snapshot_from)


def _insert(context: Context, writer: Writer, name: str, word: str, description: str) -> Row:
    volume = service.copyable(context, writer, word)
    quota.require(writer, context.project_id, "snapshots", 1)
    quota.require(writer, context.project_id, "gigabytes", volume["size_gb"])
    same = ("size_gb", "format", "host_id", "image_id", "type_id")
    row: Row = {"id": new_id(), "project_id": context.project_id, "name": name}
    row |= {"description": description, "volume_id": volume["id"], "status": "creating"}
    row |= {**{key: volume[key] for key in same}, "created_at": now()}
    room.require_room(writer, row, volume["size_gb"])
    if not writer.insert_if_free("volume_snapshots", row, _NAME_INDEX):
        raise Conflict(
            f"There is already a snapshot called {name}. Nothing was changed.",
            hint="stackctl volume-snapshot-list",
        )
    writer.change.volumes.add(row["id"])
    return row


def _take_back(context: Context, writer: Writer, operation: Operation, made: Snapshot) -> bool:
    """Undo a snapshot that its host has not heard of, from this process or another."""
    row = writer.get("volume_snapshots", made.id)
    if operation.is_known_to(writer, row["host_id"]):
        return False
    writer.update("volume_snapshots", made.id, status="deleted", deleted_at=now())
    writer.change.volumes.add(made.id)
    _note(context, writer, operation, row, "taken back: its host was not reached")
    return True


def _note(
    context: Context, writer: Writer, operation: Operation, snapshot: Row, message: str
) -> None:
    note(
        writer,
        operation.kind,
        NOUN,
        snapshot,
        message,
        user_name=context.operator,
        operation_id=operation.id,
    )


def _first_result(context: Context, operation: Row) -> Snapshot:
    with read(context.cloud) as reader:
        return _read(reader, json.loads(operation["result_json"])["snapshot"])


def _read(reader: Reader, id_: str) -> Snapshot:
    return snapshot_from(reader, reader.get("volume_snapshots", id_))
