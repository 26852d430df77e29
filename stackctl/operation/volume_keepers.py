"""Which host cares for a volume that several hosts can reach.

Exactly one host has it in its spec, and that one alone makes, grows, copies and removes it, so no
two hosts ever do. Another one takes over when nothing of it is under way on the first: that has
reported of the row as it is, or is fenced. A volume that was not made yet stays where it is begun.
"""

from __future__ import annotations

from stackctl.errors import Conflict, NoCapacity
from stackctl.state import Reader, Row, Writer

_ABLE = """
SELECT hosts.* FROM hosts
WHERE hosts.deleted_at IS NULL AND enabled = 1 AND fenced = 0 {}
ORDER BY unreachable_since IS NOT NULL, applied_serial = 0,
  (SELECT count(*) FROM volumes WHERE host_id = hosts.id AND deleted_at IS NULL), name
"""

_USABLE = (
    "AND EXISTS (SELECT 1 FROM volume_type_hosts AS said "
    "WHERE said.host_id = hosts.id AND said.type_id = ? AND said.usable = 1)"
)


def able_hosts(reader: Reader, type_id: str | None = None) -> list[Row]:
    """Hosts that can make volumes (of a type), the best first: reachable, with few volumes."""
    if type_id is None:
        return reader.all(_ABLE.format(""))
    return reader.all(_ABLE.format(_USABLE), type_id)


def is_shared(reader: Reader, row: Row) -> bool:
    """Whether a volume or snapshot can be cared for by several hosts."""
    return row["type_id"] is not None and bool(reader.get("volume_types", row["type_id"])["shared"])


def require_usable(reader: Reader, type_id: str | None, host_id: str, what: str) -> None:
    """Conflict when a host does not have a type of volumes, with its own reason."""
    if type_id is None:
        return
    said = reader.one(
        "SELECT * FROM volume_type_hosts WHERE type_id = ? AND host_id = ?", type_id, host_id
    )
    if said is not None and said["usable"]:
        return
    kind, host = reader.get("volume_types", type_id), reader.get("hosts", host_id)
    why = said["why"] if said else "it has not said so yet"
    raise Conflict(
        f"Host {host['name']} does not have volume type {kind['name']} ({kind['driver']} "
        f"{kind['location']}), which {what} is of: {why}. Nothing was changed.",
        hint=f"stackctl converge {host['name']}   (asks it again)",
    )


def first_keeper(reader: Reader, kind: Row) -> str:
    """The host that makes a new volume of a shared type; NoCapacity when no host can."""
    able = able_hosts(reader, kind["id"])
    if not able:
        raise NoCapacity(
            f"No host that is enabled has volume type {kind['name']} ({kind['driver']} "
            f"{kind['location']}). Nothing was made.",
            hint=f"stackctl volume-type-show {kind['name']}",
        )
    return str(able[0]["id"])


def may_move(reader: Reader, row: Row) -> bool:
    """Whether another host may take over: nothing of it is under way on the one that has it."""
    if not row["built"] or not is_shared(reader, row) or _unbuilt_copies(reader, row):
        return False
    settled = row["settled_version"] == row["version"]
    return settled or bool(reader.get("hosts", row["host_id"])["fenced"])


def give_to(writer: Writer, row: Row, host_id: str, table: str = "volumes") -> Row:
    """Have another host care for a shared volume; Conflict when that is not possible (now)."""
    if row["host_id"] == host_id:
        return row
    require_usable(writer, row["type_id"], host_id, row["name"])
    require_free_to_go(writer, row)
    return _hand_over(writer, row, host_id, table)


def require_free_to_go(reader: Reader, row: Row) -> None:
    """Conflict when the host of a shared volume has still to do with it."""
    if not may_move(reader, row):
        host = reader.get("hosts", row["host_id"])["name"]
        raise Conflict(
            f"Host {host} is at work on {row['name']}, or has not said that it has finished: no "
            "other host takes it over before. Nothing was changed.",
            hint=f"stackctl converge {host}   (if it is off: stackctl host-fence {host})",
        )


def follow(writer: Writer, server_id: str, host_id: str) -> None:
    """The shared volumes of a server go where it goes; that they may was required before."""
    for row in writer.all(
        "SELECT * FROM volumes WHERE server_id = ? AND deleted_at IS NULL", server_id
    ):
        if row["host_id"] != host_id and is_shared(writer, row):
            _hand_over(writer, row, host_id, "volumes")


def with_able_keeper(writer: Writer, row: Row, table: str = "volumes") -> Row:
    """A volume or snapshot that nobody uses, with a host that can be asked if there is one."""
    if row["host_id"] is None or row.get("server_id") is not None:
        return row
    host = writer.get("hosts", row["host_id"])
    gone = host["fenced"] or host["unreachable_since"] is not None
    if not gone or not may_move(writer, row):
        return row
    others = [each for each in able_hosts(writer, row["type_id"]) if each["id"] != host["id"]]
    others = [each for each in others if each["unreachable_since"] is None]
    return _hand_over(writer, row, others[0]["id"], table) if others else row


def destroyer(reader: Reader, row: Row) -> str:
    """The host that destroys a volume or snapshot: the one that has it, unless that is off."""
    host_id = str(row["host_id"])
    if is_shared(reader, row) and reader.get("hosts", host_id)["fenced"]:
        return _other(reader, row["type_id"], host_id) or host_id
    return host_id


def leave(writer: Writer, host_id: str) -> None:
    """A host is off, or leaves: others care for the shared volumes that nobody uses, and destroy
    what is to be destroyed of them."""
    others = _leave_volumes(writer, host_id) | _leave_tombstones(writer, host_id)
    for other in others:
        writer.update("hosts", other, issued_serial=writer.serial)


def _leave_volumes(writer: Writer, host_id: str) -> set[str]:
    others = set()
    for table in ("volumes", "volume_snapshots"):
        where = "host_id = ? AND type_id IS NOT NULL AND deleted_at IS NULL"
        for row in writer.all(f"SELECT * FROM {table} WHERE {where}", host_id):
            other = _other(writer, row["type_id"], host_id)
            free = not _is_in_use(writer, row) and may_move(writer, row)
            if other is not None and free:
                _hand_over(writer, row, other, table)
                others.add(other)
    return others


def _is_in_use(reader: Reader, row: Row) -> bool:
    """Whether a server has it that was not deleted."""
    id_ = row.get("server_id")
    return id_ is not None and reader.get("servers", id_)["deleted_at"] is None


def past_the_fence(writer: Writer, row: Row) -> Row:
    """A volume whose server goes away: if its host is off, another one says that it is free."""
    if not writer.get("hosts", row["host_id"])["fenced"] or not may_move(writer, row):
        return row
    other = _other(writer, row["type_id"], row["host_id"])
    return row if other is None else _hand_over(writer, row, other, "volumes")


def _leave_tombstones(writer: Writer, host_id: str) -> set[str]:
    others = set()
    stones = writer.all(
        "SELECT tombstones.* FROM tombstones JOIN volume_types ON volume_types.id = type_id "
        "WHERE tombstones.host_id = ? AND acknowledged_at IS NULL AND shared = 1",
        host_id,
    )
    for stone in stones:
        other = _other(writer, stone["type_id"], host_id)
        if other is not None:
            writer.run(
                "UPDATE tombstones SET host_id = ?, created_serial = ? "
                "WHERE kind = 'volume' AND id = ? AND host_id = ?",
                other,
                writer.serial,
                stone["id"],
                host_id,
            )
            others.add(other)
    return others


def _other(reader: Reader, type_id: str, host_id: str) -> str | None:
    able = [row["id"] for row in able_hosts(reader, type_id) if row["id"] != host_id]
    return able[0] if able else None


def _hand_over(writer: Writer, row: Row, host_id: str, table: str) -> Row:
    writer.update(table, row["id"], host_id=host_id, version=row["version"] + 1)
    writer.change.left.add(row["host_id"])
    writer.change.volumes.add(row["id"])
    return writer.get(table, row["id"])


def _unbuilt_copies(reader: Reader, row: Row) -> int:
    """Copies that the host that has it is still to make."""
    return int(
        reader.value(
            "SELECT (SELECT count(*) FROM volumes WHERE source_id = ?1 AND built = 0 "
            "AND held = 0 AND deleted_at IS NULL) + (SELECT count(*) FROM volume_snapshots "
            "WHERE volume_id = ?1 AND built = 0 AND status = 'creating' AND deleted_at IS NULL)",
            row["id"],
        )
    )
