"""A running server on its way to another host: rows, and what both hosts are asked, so that
recovery can settle it for a dead command.

While it is on its way the server is where it was, ``moving``, and its ports are on both hosts. The
guest arrives paused and goes on there only when it is gone here: wherever it is, it is once. So
whatever died, both hosts together say where it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from stackctl.errors import StackctlError
from stackctl.identity.context import Context
from stackctl.operation import convergence, volume_keepers
from stackctl.operation.bindings import unbind_port
from stackctl.operation.disk_rows import bury, disks_of, drop_disk
from stackctl.operation.server_moves import (
    note_move,
    ports_of,
    set_role,
    set_status,
    settle_ports,
)
from stackctl.state import Reader, Row, Writer, read, write

OPEN = ("preparing", "running")
"""What the status of a live move is while a command is at work on it."""

LOOK_LIMIT_S = 150
"""An agent waits for what still goes on with the server."""

WAITS = "waits"
"""The next phase of a move of which a host did not say where its server is."""

_ENDS = ("source", "target")

_LEFT_OFF = """
SELECT * FROM migrations WHERE operation_id = ? AND kind = 'live'
  AND status IN ('preparing', 'running')
"""


def of_operation(reader: Reader, operation_id: str) -> Row | None:
    """The live move that an operation is at work on, or was when it died."""
    return reader.one(_LEFT_OFF, operation_id)


def of_server(reader: Reader, server_id: str) -> Row | None:
    """The live move that a server is on."""
    return reader.one(
        "SELECT * FROM migrations WHERE server_id = ? AND kind = 'live' "
        "AND status IN ('preparing', 'running')",
        server_id,
    )


# --- where it is --------------------------------------------------------------------------------


def find_out(context: Context, migration: Row) -> bool:
    """Whether a server has arrived, as both hosts say; a guest that stands still goes on there.

    StackctlError when a host does not say: nobody must decide then.
    """
    with read(context.cloud) as reader:
        origin, there = (reader.get("hosts", migration[f"{end}_host_id"]) for end in _ENDS)
    # It goes on there only when it is gone here: what is here needs no other word.
    if _is_on(context, origin, migration, whole=False):
        return False
    return _is_on(context, there, migration, whole=True)


def _is_on(context: Context, host: Row, migration: Row, *, whole: bool) -> bool:
    """Whether a server's guest is on a host, and goes on there if it ran before. ``whole``: what
    is only on its way there does not count; it is not defined yet, and goes by itself."""
    if host["fenced"]:
        return False
    arguments = {"server_id": migration["server_id"]}
    with convergence.acting_session(context, host) as session:
        told = session.act("look-server", arguments, timeout_s=LOOK_LIMIT_S)
        is_on = bool(told["on"] and (told["persistent"] or not whole))
        if is_on and migration["ran"] and told["state"] != "RUNNING":
            session.act("resume-server", arguments, timeout_s=LOOK_LIMIT_S)
    return is_on


def look_for(context: Context, operation: Row) -> None:
    """Note where the server of a dead command is, for ``next_phase``; no note: nobody knows."""
    with read(context.cloud) as reader:
        migration = of_operation(reader, operation["id"])
    if migration is None or migration["status"] != "running":
        return
    try:
        arrived = find_out(context, migration)
    except StackctlError as error:
        context.watch.warn(f"{error.message} Nobody knows where the server is that moved.")
        return
    with write(context.cloud) as writer:
        progress(writer, migration["id"], arrived=arrived)


# --- rows ---------------------------------------------------------------------------------------


def progress(writer: Writer, migration_id: str, **values: Any) -> None:
    """Note how far a move is, or what was found out or asked about it."""
    row = writer.get("migrations", migration_id)
    kept = {**json.loads(row["progress_json"]), **values}
    set_status(writer, row, row["status"], progress_json=json.dumps(kept))


def arrive(writer: Writer, migration: Row) -> None:
    """A server is the other host's alone; what is left of it on the old one may go."""
    server, there = writer.get("servers", migration["server_id"]), migration["target_host_id"]
    settle_ports(writer, server["id"], there)
    for disk in disks_of(writer, server["id"]):
        if disk["host_id"] != there:
            drop_disk(writer, disk)
    bury(writer, "domain", server["id"], server["id"], migration["source_host_id"])
    host = writer.get("hosts", there)
    pin = there if server["host_asked"] is not None else None
    values = {"host_id": there, "zone": host["zone"], "host_asked": pin}
    _end(writer, server, migration, **values)
    volume_keepers.follow(writer, server["id"], there)
    set_status(writer, migration, "completed", claim_host_id=None)
    note_move(writer, server, migration, f"migrated live to {host['name']}", there)


def stay(writer: Writer, migration: Row, why: str, status: str = "failed") -> None:
    """The end of a move that came to nothing: the server is where it was, the other host clears
    away what it had made ready."""
    server, there = writer.get("servers", migration["server_id"]), migration["target_host_id"]
    origin = migration["source_host_id"]
    for port_id in ports_of(writer, server["id"]):
        unbind_port(writer, port_id, there)
        # Its host made it known as one that leaves.
        set_role(writer, port_id, origin, "active")
    for disk in disks_of(writer, server["id"]):
        if disk["host_id"] == there:
            drop_disk(writer, disk)
    bury(writer, "domain", server["id"], server["id"], there)
    writer.change.hosts |= {origin, there}
    _end(writer, server, migration)
    set_status(writer, migration, status, claim_host_id=None, reason=why)
    note_move(writer, server, migration, f"not migrated: {why}", origin, "warning")


def next_phase(
    writer: Writer, operation: Row, behind: Collection[str], silent: Collection[str]
) -> str:
    """Go on with what a dead command left; the operation's phase then, empty when all is done."""
    migration = of_operation(writer, operation["id"])
    if migration is None:
        return ""
    found = json.loads(migration["progress_json"]).get("arrived")
    if migration["status"] == "running" and found is None:
        return WAITS
    if found:
        arrive(writer, migration)
        return "converge"
    stay(writer, migration, "the command was interrupted")
    return "undo (taking back)"


def _end(writer: Writer, server: Row, migration: Row, **values: Any) -> None:
    ended = {"moving": 0, "task_state": None, "version": server["version"] + 1}
    writer.update("servers", server["id"], **ended, **values)
    writer.change.servers.add(server["id"])
