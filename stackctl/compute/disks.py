"""Incarnations of disks: made by a row, destroyed by a tombstone."""

from __future__ import annotations

from typing import Any

from stackctl.operation.disk_rows import bury as bury
from stackctl.operation.disk_rows import bury_all as bury_all
from stackctl.operation.disk_rows import disks_of as disks_of
from stackctl.operation.disk_rows import drop_disk as drop_disk
from stackctl.state import Row, Writer, new_id, now

RESCUE_POSITION = -1
"""A rescue disk stands before the server's own ones: the guest boots from it."""


def add_disk(writer: Writer, like: Row, **differing: Any) -> str:
    """A new disk of a server, like another one but for some columns; it is built empty or from
    its image. Returns its id."""
    names = ("server_id", "host_id", "kind", "position", "format", "size_bytes", "image_id")
    row = {name: like[name] for name in names} | differing
    id_ = new_id()
    writer.insert("disks", {"id": id_, **row, "state": "build", "created_at": now()})
    return id_


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
