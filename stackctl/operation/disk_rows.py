"""The end of domains and disks, as rows: recovery ends some for dead commands, too."""

from __future__ import annotations

from stackctl.state import Reader, Row, Writer, now


def disks_of(reader: Reader, server_id: str) -> list[Row]:
    """A server's live disks in the order in which the guest sees them."""
    return reader.all(
        "SELECT * FROM disks WHERE server_id = ? AND deleted_at IS NULL ORDER BY aside, position",
        server_id,
    )


def drop_disk(writer: Writer, disk: Row) -> None:
    """The end of an incarnation: its host may destroy it when no guest has it any more."""
    writer.update("disks", disk["id"], state="deleted", deleted_at=now())
    bury(writer, "disk", disk["id"], disk["server_id"], disk["host_id"])


def bury_all(writer: Writer, server: Row) -> None:
    """Tombstones for a server's domain and disks, wherever each is; its disks' rows are deleted."""
    bury(writer, "domain", server["id"], server["id"], server["host_id"])
    for disk in disks_of(writer, server["id"]):
        bury(writer, "disk", disk["id"], server["id"], disk["host_id"])
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
