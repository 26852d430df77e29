"""Images made of servers' disks, while they run or not: snapshots, and backups with rotation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from stackctl.compute import lifecycle, volume_rows
from stackctl.compute.commanding import note_server
from stackctl.compute.disks import NVRAM, disks_of
from stackctl.compute.views import server_row
from stackctl.errors import AgentFailed, StackctlError, UsageError
from stackctl.identity.context import Context
from stackctl.image import captured
from stackctl.image.captured import Captured, Origin
from stackctl.image.types import Image, image_from
from stackctl.names import checked_name
from stackctl.operation import Done, Operation, begin
from stackctl.operation.convergence import acting_session
from stackctl.state import Reader, Row, Writer, read, write

_OF_VOLUME = "stackctl volume-snapshot-create NAME --volume {volume}"


@dataclass(frozen=True)
class Asked:
    """A copy that was asked for: whose, of which disk, where, and what image it becomes."""

    server: Row
    disk: Row
    host: Row
    origin: Origin


def snapshot(context: Context, word: str, name: str) -> Done[Image | None]:
    """Make an image of a server's root disk, as it is now; a guest that runs goes on.

    What its file systems had not written yet is missing, unless an agent in the guest could be
    asked to write it. None in a rehearsal.
    """
    return _capture(context, "snapshot", word, name, "", 0)


def backup(
    context: Context, word: str, name: str, backup_type: str, rotation: int
) -> Done[Image | None]:
    """The same, and only the newest ``rotation`` backups of this type and server are kept."""
    if rotation < 1:
        raise UsageError(f"A rotation of {rotation} would keep no backup: give at least 1.")
    checked_name("type of backups", backup_type)
    return _capture(context, "backup", word, name, backup_type, rotation)


def _capture(
    context: Context, kind: str, word: str, name: str, backup_type: str, rotation: int
) -> Done[Image | None]:
    checked_name("image", name)
    arguments = {"server": word, "name": name, "type": backup_type, "rotation": rotation}
    with begin(context, kind, f"{kind} {word} as {name}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _first_result(context, row))
        operation.phase = "undo (the disk is copied)"
        asked = operation.transact(
            lambda writer: _ask(context, writer, operation, kind, word, name)
        )
        if context.dry_run:
            return operation.finish(None)
        asked = replace(asked, origin=replace(asked.origin, backup_type=backup_type))
        try:
            image = receive(
                operation,
                asked,
                lambda writer, content: _insert(operation, writer, content, asked, rotation),
                lambda image: {"image": image.id},
            )
        except BaseException as error:
            _give_up(operation, asked, error)
            raise
        if rotation:
            captured.sweep(context)
        return operation.finish(image)


def _ask(
    context: Context, writer: Writer, operation: Operation, kind: str, word: str, name: str
) -> Asked:
    server = server_row(context, writer, word)
    transition = lifecycle.require(server, kind)
    volume_rows.refuse_root(writer, server, kind, _OF_VOLUME)
    writer.update(
        "servers", server["id"], task_state=transition.task_state, operation_id=operation.id
    )
    note_server(context, writer, operation.id, kind, server, f"{kind} asked for: image {name}")
    return asked_of(writer, server, name, kind)


def asked_of_variables(reader: Reader, server: Row, name: str) -> Asked:
    """The copy that makes an image of a server's UEFI variables, which nobody boots."""
    kept = next(disk for disk in disks_of(reader, server["id"]) if disk["kind"] == NVRAM)
    origin = Origin(name, server["id"], None, "snapshot", 0, hidden=True)
    return Asked(server, kept, reader.get("hosts", server["host_id"]), origin)


def asked_of(reader: Reader, server: Row, name: str, kind: str) -> Asked:
    """The copy that makes an image of a server's root disk."""
    root = next(disk for disk in disks_of(reader, server["id"]) if disk["kind"] == "root")
    base = reader.get("images", server["image_id"]) if server["image_id"] else None
    origin = Origin(name, server["id"], base, kind, server["disk_gb"])
    return Asked(server, root, reader.get("hosts", server["host_id"]), origin)


def receive(
    operation: Operation,
    asked: Asked,
    insert: Callable[[Writer, Captured], Image],
    remember: Callable[[Image], Row] | None = None,
    *,
    phase: str = "converge",
) -> Image:
    """Have the disk copied and sent, and make it an image in one transaction, with ``insert``,
    from which on the operation is in the given phase."""
    context = operation.context
    name, host = asked.origin.name, asked.host["name"]
    arguments = {"server_id": asked.server["id"], "disk_id": asked.disk["id"]}
    context.watch.progress(f"{host} copies the disk of {asked.server['name']}", 0, 0)
    with acting_session(context, asked.host) as session:
        incoming = session.stream("snapshot", arguments)
        with captured.captured(context, name, incoming.pieces(), incoming.size_bytes) as content:
            _check_sum(incoming.value, content, host)
            operation.phase = phase
            whole = replace(content, consistency=_consistency(incoming.value))
            return operation.transact(lambda writer: insert(writer, whole), remember)


def _check_sum(said: object, content: Captured, host: str) -> None:
    sha256 = said.get("sha256") if isinstance(said, dict) else None
    if sha256 != content.got.part.sha256:
        raise AgentFailed(
            f"The copy that arrived from host {host} is not the one that it made: its SHA-256 is "
            f"{content.got.part.sha256}, not {sha256}. Nothing was kept."
        )


def _consistency(said: object) -> str:
    """What the copy is worth: of a guest that was off, or brought to rest by its agent, or not."""
    quiesced = isinstance(said, dict) and said.get("quiesced") is True
    return "quiesced" if quiesced else "crash-consistent"


def _insert(
    operation: Operation, writer: Writer, content: Captured, asked: Asked, rotation: int
) -> Image:
    context, origin = operation.context, asked.origin
    # Room for the new one, which comes last: its content gets its name with the transaction.
    kept = rotation - 1
    gone = captured.rotate(writer, origin.server_id, origin.backup_type, kept) if rotation else []
    _end_task(writer, operation, asked.server)
    size, names = content.got.part.size_bytes, ", ".join(row["name"] for row in gone)
    words = f"image {origin.name} made, {size} bytes, {content.consistency}"
    words += f"; {names} deleted" if gone else ""
    note_server(context, writer, operation.id, origin.kind, asked.server, words, asked.host["name"])
    return captured.insert_captured(context, writer, content, origin)


def _give_up(operation: Operation, asked: Asked, error: BaseException) -> None:
    """No image: nothing goes on with the server any more."""
    why = error.message if isinstance(error, StackctlError) else "it was interrupted"
    with write(operation.context.cloud) as writer:
        _end_task(writer, operation, asked.server)
        words = f"no image {asked.origin.name} was made: {why}"
        note_server(
            operation.context,
            writer,
            operation.id,
            asked.origin.kind,
            asked.server,
            words,
            asked.host["name"],
        )
    operation.abandon("no image was made")


def _end_task(writer: Writer, operation: Operation, server: Row) -> None:
    writer.run(
        "UPDATE servers SET task_state = NULL WHERE id = ? AND operation_id = ?",
        server["id"],
        operation.id,
    )


def _first_result(context: Context, operation: Row) -> Image:
    with read(context.cloud) as reader:
        row = reader.get("images", json.loads(operation["result_json"])["image"])
        return image_from(reader, row)
