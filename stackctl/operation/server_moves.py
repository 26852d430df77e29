"""A server on its way to another host: plain rows, so that recovery can go on for a dead command.

On the way there (and, with a resize reverted, on the way back) a server is in one of three steps:

1. It is still where it was, and is being switched off there. Its ports are bound to the other host
   as well, incoming: one that cannot take it is found before anything has moved.
2. It is the other host's, but ``moving``: no domain is made of it. Its old host destroys the domain
   that is off, and keeps the disks, of which the other host makes copies.
3. It has arrived: the other host makes its domain, and starts it if it ran before.

Until the third step all can be taken back, and nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from stackctl.operation import volume_keepers
from stackctl.operation.bindings import rebound, unbind_port
from stackctl.operation.disk_rows import disks_of, drop_disk
from stackctl.operation.events import note
from stackctl.state import Reader, Row, Writer, now

OPEN = ("pre-migrating", "migrating", "post-migrating", "reverting")
"""What the status of a move is while a command is at work on it."""

_ACTIONS = {"cold": "migrate", "resize": "resize", "live": "live-migrate"}

_LEFT_OFF = """
SELECT * FROM migrations WHERE operation_id = ? AND kind IN ('cold', 'resize')
  AND status IN ('pre-migrating', 'migrating', 'post-migrating', 'reverting')
"""


def set_status(writer: Writer, migration: Row, status: str, **values: Any) -> None:
    """Write what became of a move."""
    writer.update("migrations", migration["id"], status=status, updated_at=now(), **values)


def ends(migration: Row) -> tuple[str, str]:
    """The hosts that a move leads from and to."""
    hosts: tuple[str, str] = migration["source_host_id"], migration["target_host_id"]
    return hosts if migration["status"] != "reverting" else (hosts[1], hosts[0])


def ports_of(reader: Reader, server_id: str) -> list[str]:
    """The ids of a server's ports."""
    return reader.column(
        "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL ORDER BY nic_index",
        server_id,
    )


def set_role(writer: Writer, port_id: str, host_id: str, role: str) -> None:
    """Give a port that a host carries another role there."""
    writer.run(
        "UPDATE bindings SET role = ? WHERE port_id = ? AND host_id = ?", role, port_id, host_id
    )
    rebound(writer, writer.get("ports", port_id), host_id)


def settle_ports(writer: Writer, server_id: str, host_id: str) -> None:
    """A server's ports are active on this host, which has them already, and on no other."""
    owner = f"compute:{writer.get('hosts', host_id)['zone']}"
    for port_id in ports_of(writer, server_id):
        others = "SELECT host_id FROM bindings WHERE port_id = ? AND host_id <> ?"
        for other in writer.column(others, port_id, host_id):
            unbind_port(writer, port_id, other)
        writer.update("ports", port_id, device_owner=owner)
        set_role(writer, port_id, host_id, "active")


def left_off(reader: Reader, operation_id: str) -> list[Row]:
    """The moves of a command that have not come to their end."""
    return reader.all(_LEFT_OFF, operation_id)


def has_arrived(reader: Reader, migration: Row) -> bool:
    """Whether the other host has all its disks, and the old one has no domain of it any more."""
    server_id = migration["server_id"]
    origin, there = ends(migration)
    left = reader.value(
        "SELECT count(*) FROM tombstones WHERE kind = 'domain' AND id = ? AND host_id = ? "
        "AND acknowledged_at IS NULL",
        server_id,
        origin,
    )
    unbuilt = [
        disk
        for disk in disks_of(reader, server_id)
        if disk["host_id"] == there and disk["state"] == "build"
    ]
    return not left and not unbuilt


def arrive(writer: Writer, migration: Row) -> None:
    """The third step: the server is the other host's alone, and runs there if it ran before."""
    server = writer.get("servers", migration["server_id"])
    origin, there = ends(migration)
    settle_ports(writer, server["id"], there)
    values: Row = {"moving": 0, "fault_json": None, "power_state": "NOSTATE"}
    values |= _power(server, migration)
    if migration["status"] == "reverting":
        for disk in disks_of(writer, server["id"]):
            if disk["host_id"] == origin:
                drop_disk(writer, disk)
        _take_up(writer, server["id"], json.loads(migration["before_json"])["disks"])
        values |= {"kept_state": None, "before_resize_json": None}
        values |= {"vm_state": "active" if migration["ran"] else "stopped"}
        set_status(writer, migration, "reverted", claim_host_id=None)
    else:
        values |= {"kept_state": "resized", "vm_state": "resized", "task_state": "resize-finish"}
        set_status(writer, migration, "post-migrating")
    _update(writer, server, **values)
    note_move(writer, server, migration, f"came from {writer.get('hosts', origin)['name']}", there)


def take_back(writer: Writer, migration: Row, why: str) -> None:
    """The end of a move that did not come to its third step: the server is where it was."""
    server = writer.get("servers", migration["server_id"])
    origin, there = ends(migration)
    before = json.loads(migration["before_json"])
    for port_id in ports_of(writer, server["id"]):
        unbind_port(writer, port_id, there)
        set_role(writer, port_id, origin, "active")
    if migration["status"] != "reverting":
        for disk in disks_of(writer, server["id"]):
            if disk["id"] not in before["disks"] and not disk["aside"]:
                drop_disk(writer, disk)
        _take_up(writer, server["id"], before["disks"])
    volume_keepers.follow(writer, server["id"], origin)
    _spare_domain(writer, server["id"], origin)
    values = {"host_id": origin, "moving": 0, "task_state": None, **before["server"]}
    if _was_told(writer, origin, before["stopped_serial"]):
        values |= _power(server, migration)
    _update(writer, server, **values)
    if migration["status"] == "reverting":
        # The room of its old disks is still taken, where they wait for the next word.
        set_status(writer, migration, "finished", reason=why, **before["claim"])
    else:
        set_status(writer, migration, "error", reason=why, claim_host_id=None)
    note_move(writer, server, migration, f"not moved: {why}", origin, "warning")


def conclude(writer: Writer, migration: Row) -> None:
    """The end of a move whose server has arrived, as its new host says."""
    server = writer.get("servers", migration["server_id"])
    fault = json.loads(server["fault_json"] or "{}")
    failed = server["vm_state"] == "error"
    reason = str(fault.get("message", "")) if failed else ""
    set_status(writer, migration, "error" if failed else "finished", reason=reason)


def next_phase(
    writer: Writer, operation: Row, behind: Collection[str], silent: Collection[str]
) -> str:
    """Go on with what a dead command left; the operation's phase then, empty if it had come to its
    end or waits for a host.

    ``behind``: hosts that have not applied what it wrote; ``silent``: those that did not answer
    just now, to which nothing is moved.
    """
    phase = ""
    for migration in left_off(writer, operation["id"]):
        phase = _go_on(writer, migration, behind, silent) or phase
    return phase


def _go_on(writer: Writer, migration: Row, behind: Collection[str], silent: Collection[str]) -> str:
    origin, there = ends(migration)
    if migration["status"] == "post-migrating":
        if there not in behind:
            conclude(writer, migration)
        return ""
    if origin in behind or (there in behind and there not in silent):
        return ""
    moving = writer.get("servers", migration["server_id"])["moving"]
    if moving and there not in {*behind, *silent} and has_arrived(writer, migration):
        arrive(writer, migration)
        return "converge"
    take_back(writer, migration, "the command was interrupted")
    return "undo (taking back)"


def _power(server: Row, migration: Row) -> Row:
    """The power command by which a guest goes on as it was."""
    action = "start" if migration["ran"] else "stop"
    return {"power_action": action, "power_serial": server["power_serial"] + 1}


def _take_up(writer: Writer, server_id: str, ids: Collection[str]) -> None:
    """A server has these disks again that were set aside."""
    for disk in disks_of(writer, server_id):
        if disk["id"] in ids:
            writer.update("disks", disk["id"], aside=0, version=disk["version"] + 1)


def _spare_domain(writer: Writer, server_id: str, host_id: str) -> None:
    writer.run(
        "DELETE FROM tombstones WHERE kind = 'domain' AND id = ? AND host_id = ? "
        "AND acknowledged_at IS NULL",
        server_id,
        host_id,
    )


def _was_told(reader: Reader, host_id: str, serial: int | None) -> bool:
    """Whether a host may have stopped a guest, as a transaction wanted it."""
    return serial is not None and bool(reader.get("hosts", host_id)["sent_serial"] >= serial)


def _update(writer: Writer, server: Row, **values: Any) -> None:
    writer.update("servers", server["id"], **values, version=server["version"] + 1)
    writer.change.servers.add(server["id"])


def note_move(
    writer: Writer, server: Row, migration: Row, message: str, host_id: str, level: str = "info"
) -> None:
    """Write into the diary what became of a move, in the name of who asked for it."""
    id_ = migration["operation_id"]
    user_name = writer.value("SELECT user_name FROM operations WHERE id = ?", id_) or ""
    note(
        writer,
        _ACTIONS[migration["kind"]],
        "server",
        server,
        message,
        level=level,
        host=writer.get("hosts", host_id)["name"],
        user_name=user_name,
        operation_id=id_,
    )
