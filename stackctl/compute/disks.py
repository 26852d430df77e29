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


NVRAM = "nvram"
"""The kind of UEFI variables: a disk for its host, none for its guest."""

NVRAM_POSITION = 1000


def add_variables(writer: Writer, server: Row) -> None:
    """New UEFI variables of a server, on its host: those that it was shelved with, if any."""
    place = {"server_id": server["id"], "host_id": server["host_id"], "position": NVRAM_POSITION}
    like = {**place, "kind": NVRAM, "format": "raw", "size_bytes": 0, "image_id": None}
    add_disk(writer, like, image_id=server["shelved_nvram_id"])


def add_disk(writer: Writer, like: Row, **differing: Any) -> str:
    """A new disk of a server, like another one but for some columns; it is built empty or from
    its image. Returns its id."""
    names = ("server_id", "host_id", "kind", "position", "format", "size_bytes", "image_id")
    row = {name: like[name] for name in names}
    if like["kind"] == NVRAM:
        row["image_id"] = None  # they stand on nothing
    row |= differing
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
