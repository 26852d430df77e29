"""Incarnations of disks: made by a row, destroyed by a tombstone."""

from __future__ import annotations

from typing import Any

from stackctl.state import Reader, Row, Writer, new_id, now

RESCUE_POSITION = -1
"""A rescue disk stands before the server's own ones: the guest boots from it."""


def disks_of(reader: Reader, server_id: str) -> list[Row]:
    """A server's live disks in the order in which the guest sees them."""
    return reader.all(
        "SELECT * FROM disks WHERE server_id = ? AND deleted_at IS NULL ORDER BY aside, position",
        server_id,
    )


def add_disk(writer: Writer, like: Row, **differing: Any) -> str:
    """A new disk of a server, like another one but for some columns; it is built empty or from
    its image. Returns its id."""
    names = ("server_id", "host_id", "kind", "position", "format", "size_bytes", "image_id")
    row = {name: like[name] for name in names} | differing
    id_ = new_id()
    writer.insert("disks", {"id": id_, **row, "state": "build", "created_at": now()})
    return id_


def drop_disk(writer: Writer, disk: Row) -> None:
    """The end of an incarnation: its host may destroy it when no guest has it any more."""
    writer.update("disks", disk["id"], state="deleted", deleted_at=now())
    bury(writer, "disk", disk["id"], disk["server_id"], disk["host_id"])


def bury_all(writer: Writer, server: Row) -> None:
    """Tombstones for a server's domain and disks on its host; its disks' rows are deleted."""
    bury(writer, "domain", server["id"], server["id"], server["host_id"])
    for disk in disks_of(writer, server["id"]):
        bury(writer, "disk", disk["id"], server["id"], server["host_id"])
    writer.run(
        "UPDATE disks SET state = 'deleted', deleted_at = ? "
        "WHERE server_id = ? AND deleted_at IS NULL",
        now(),
        server["id"],
    )


def bury(writer: Writer, kind: str, id_: str, server_id: str, host_id: str | None) -> None:
    """Permit a host to destroy a domain or disk."""
    if host_id is None:
        return
    # A server can have been on a host before: then its tombstone there counts anew.
    writer.run(
        "INSERT INTO tombstones (kind, id, host_id, server_id, created_serial, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (kind, id, host_id) DO UPDATE SET "
        "created_serial = excluded.created_serial, created_at = excluded.created_at, "
        "acknowledged_at = NULL",
        kind,
        id_,
        host_id,
        server_id,
        writer.serial,
        now(),
    )


def restore_disks(writer: Writer, server_id: str, before: list[Row]) -> None:
    """Give a server back the disks that it had, as no host has heard of another wish."""
    ids = {disk["id"] for disk in before}
    for disk in disks_of(writer, server_id):
        if disk["id"] not in ids:
            writer.update("disks", disk["id"], state="deleted", deleted_at=now())
    for disk in before:
        writer.update("disks", disk["id"], **disk)
        writer.run(
            "DELETE FROM tombstones WHERE kind = 'disk' AND id = ? AND acknowledged_at IS NULL",
            disk["id"],
        )
