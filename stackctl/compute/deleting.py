"""Deletion that can be taken back for a while, in clouds whose configuration says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stackctl.identity.context import Context
from stackctl.operation import Done, begin, keep, shelving
from stackctl.state import Reader, Row, Writer, now, read, seconds_since

if TYPE_CHECKING:
    from stackctl.compute.types import Server

# What deletes and commands servers is loaded where it is used: every converge comes by here, and
# seldom has something to delete.


def can_be_restored(context: Context, *, force: bool = False) -> bool:
    """Whether what is deleted now can be restored afterwards."""
    return not force and bool(context.cloud.config["reclaim_instance_interval"])


def delete(context: Context, words: Sequence[str], *, force: bool = False) -> Done[list[str]]:
    """Delete servers; returns their names.

    Where they can be restored they are switched off and wait for the interval's end, but those
    that never ran. Conflict when one waits already, unless ``force``.
    """
    from stackctl.compute.commanding import command
    from stackctl.compute.service import delete_servers
    from stackctl.compute.views import server_row

    if not can_be_restored(context, force=force):
        return delete_servers(context, words)
    with read(context.cloud) as reader:
        rows = [server_row(context, reader, word) for word in words]
    born = [row for row in rows if row["launched_at"] is not None]
    if len(born) < len(rows):
        unborn = [row["id"] for row in rows if row["launched_at"] is None]
        delete_servers(context, unborn).check()
    done = command(context, "soft-delete", [row["id"] for row in born], {}, _softly)
    return done.with_value([row["name"] for row in rows])


def restore(context: Context, words: Sequence[str]) -> Done[list[Server]]:
    """Start servers that were deleted softly."""
    from stackctl.compute.commanding import command

    return command(context, "restore", words, {}, _restored)


def converge_hosts(
    context: Context, words: Sequence[str], *, everything: bool = False
) -> Done[list[Row]]:
    """Delete what waits no longer, then bring hosts up to date."""
    reclaim(context)
    return keep.converge_hosts(context, words, everything=everything)


def reclaim(context: Context) -> list[str]:
    """Delete the servers whose interval is over; returns their names."""
    with read(context.cloud) as reader:
        due = _due(context, reader)
    if not due or context.dry_run:
        return []

    from stackctl.compute.service import delete_within

    def work(writer: Writer) -> list[str]:
        rows = _due(context, writer)
        for row in rows:
            delete_within(context, writer, operation.id, row)
        return [row["name"] for row in rows]

    with begin(context, "reclaim", f"reclaim {len(due)} servers", {}) as operation:
        names = operation.transact(work)
        operation.converge()
        operation.finish(names).check()
        return names


def _softly(_: Writer, server: Row) -> Row:
    # Of one that is on no host nobody will report anything.
    known = {"vm_state": "soft-delete"} if server["host_id"] is None else {}
    return {"kept_state": "soft-delete", "soft_deleted_at": now(), **known}


def _restored(_: Writer, server: Row) -> Row:
    kept = "resized" if server["before_resize_json"] is not None else None
    values: Row = {"kept_state": kept, "soft_deleted_at": None}
    if server["host_id"] is None:
        return values | {"kept_state": shelving.OFFLOADED, "vm_state": shelving.OFFLOADED}
    if server["shelved_image_id"] is not None:
        return values | {"kept_state": shelving.SHELVED, "power_action": "stop"}
    return values


def _due(context: Context, reader: Reader) -> list[Row]:
    """Those deleted longer ago than the cloud keeps them, and not locked meanwhile."""
    interval = context.cloud.config["reclaim_instance_interval"]
    rows = reader.all(
        "SELECT * FROM servers WHERE soft_deleted_at IS NOT NULL AND deleted_at IS NULL "
        "AND locked = 0 AND task_state IS NULL"
    )
    return [row for row in rows if seconds_since(row["soft_deleted_at"]) >= interval]
