"""Servers change their host, as rows: who may, where to, and what goes along.

These functions are common to all ways of moving (cold, resize, live, evacuate, unshelve); the
steps of a cold move are told in ``stackctl.operation.server_moves``, which recovery uses, too.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from stackctl.compute import volume_rows
from stackctl.compute.booking import another_host
from stackctl.compute.disks import bury
from stackctl.compute.placing import NoValidHost, record_decision
from stackctl.compute.scheduling.scheduler import no_valid_host
from stackctl.compute.types import SIZES
from stackctl.errors import Conflict
from stackctl.identity.context import Context
from stackctl.network.allocation import bind_port
from stackctl.operation import volume_keepers
from stackctl.operation.server_moves import OPEN, ports_of, set_role, set_status
from stackctl.operation.server_moves import settle_ports as settle_ports
from stackctl.state import Reader, Row, Writer, find, new_id, now

_PUT_BACK = (
    "vm_state",
    "kept_state",
    "power_action",
    "power_serial",
    "held",
    "fault_json",
    "zone",
    "host_asked",
    "before_resize_json",
)


def require_movable(reader: Reader, server: Row, action: str) -> None:
    """Conflict when a server has what cannot go along to another host."""
    for volume in volume_rows.of_server(reader, server["id"]):
        if volume_keepers.is_shared(reader, volume):
            volume_keepers.require_free_to_go(reader, volume)
            continue
        root = volume_rows.is_root(volume)
        hint = f"stackctl volume-detach {server['name']} {volume['name']}"
        raise Conflict(
            f"Cannot '{action}' instance {server['name']}: {'it boots from' if root else 'its'} "
            f"volume {volume['name']}, {'which' if root else 'and that'} is a file on host "
            f"{reader.get('hosts', volume['host_id'])['name']}. Nothing was done.",
            hint="" if root else hint,
        )


def require_host(reader: Reader, server: Row, action: str) -> Row:
    """The host that a server leaves; Conflict when it must not be thought alive."""
    host = reader.get("hosts", server["host_id"])
    if host["fenced"]:
        raise Conflict(
            f"Cannot '{action}' instance {server['name']}: its host {host['name']} is fenced. "
            "Nothing was done.",
            hint=f"stackctl host-return {host['name']}",
        )
    return host


def choose_host(
    context: Context,
    writer: Writer,
    server: Row,
    operation_id: str,
    host_word: str | None = None,
    without: Collection[str] = (),
    action: str = "migrate",
) -> Row:
    """The other host that a server goes to: the one that is named, or the best one.

    ``server`` is its row as it will be there. NoValidHost says of each host why not.
    """
    if host_word is not None:
        host = find(writer, "hosts", host_word, noun="host")
        if host["id"] == server["host_id"]:
            raise Conflict(f"Instance {server['name']} is on host {host['name']} already.")
        server = {**server, "host_asked": host["id"]}
    elif server["host_asked"] is not None:
        pinned = writer.get("hosts", server["host_asked"])["name"]
        raise Conflict(
            f"Instance {server['name']} was booted for host {pinned} (--host): it goes to another "
            "one only by name. Nothing was done.",
            hint=f"stackctl {action} {server['name']} --host HOST",
        )
    decision = another_host(context, writer, server, {server["host_id"], *without})
    context.watch.decided(decision)
    if decision.host_id is None:
        raise NoValidHost(f"{no_valid_host(decision, 0, 1)} Nothing was done.", [decision])
    record_decision(context, writer, decision, server["id"], operation_id)
    return writer.get("hosts", decision.host_id)


def room_of(sizes: Row) -> Row:
    """What a server of these sizes takes of a host, as columns of a move's claim."""
    disk_gb = sizes["disk_gb"] + sizes["ephemeral_gb"] + -(-sizes["swap_mb"] // 1024)
    return {"vcpus": sizes["vcpus"], "ram_mb": sizes["ram_mb"], "disk_gb": disk_gb}


def open_move(
    writer: Writer,
    server: Row,
    operation_id: str,
    *,
    kind: str,
    target_id: str,
    status: str,
    **more: Any,
) -> Row:
    """The row of a move that begins; ``more``: other columns, such as its claim."""
    row = {"id": new_id(), "server_id": server["id"], "operation_id": operation_id, "kind": kind}
    row |= {"source_host_id": server["host_id"], "target_host_id": target_id, "status": status}
    row |= {"ran": int(server["power_state"] == "RUNNING"), "created_at": now()}
    return writer.insert("migrations", row | more | {"updated_at": now()})


def end_moves(writer: Writer, server_id: str) -> None:
    """A server that is deleted moves no more, and holds no room anywhere."""
    rows = writer.all(
        "SELECT * FROM migrations WHERE server_id = ? AND (claim_host_id IS NOT NULL "
        "OR status NOT IN ('finished', 'confirmed', 'reverted', 'completed', 'cancelled', "
        "'failed', 'error'))",
        server_id,
    )
    for row in rows:
        # One whose move waited for a word has taken it by going.
        status = "confirmed" if row["status"] == "finished" else row["status"]
        ended = "cancelled" if status in (*OPEN, "queued", "preparing", "running") else status
        set_status(writer, row, ended, claim_host_id=None)
        if row["kind"] == "live" and ended == "cancelled":
            # A guest may be on its way there, or have come just now.
            bury(writer, "domain", server_id, server_id, row["target_host_id"])


def announce(writer: Writer, server_id: str, host_id: str) -> None:
    """Have a host make the ports of a server that is to come, and look for its volumes."""
    writer.change.volumes |= {row["id"] for row in volume_rows.of_server(writer, server_id)}
    for port_id in ports_of(writer, server_id):
        bind_port(writer, port_id, host_id, role="incoming")


def hand_over(writer: Writer, server: Row, host_id: str, **columns: Any) -> None:
    """A server is another host's, ``moving``: its old host destroys the domain and keeps the rest.

    Its ports are on both hosts until it has arrived.
    """
    for port_id in ports_of(writer, server["id"]):
        set_role(writer, port_id, server["host_id"], "outgoing")
    bury(writer, "domain", server["id"], server["id"], server["host_id"])
    rehome(writer, server, host_id, moving=1, **columns)


def rehome(writer: Writer, server: Row, host_id: str, **columns: Any) -> None:
    """A server's row is another host's; its disks and ports are the caller's business.

    One that was booted for a host by name stays so, with the new one.
    """
    host = writer.get("hosts", host_id)
    pin = host_id if server["host_asked"] is not None else None
    values = {"host_id": host_id, "zone": host["zone"], "host_asked": pin, **columns}
    writer.update("servers", server["id"], **values, version=server["version"] + 1)
    writer.change.servers.add(server["id"])
    volume_keepers.follow(writer, server["id"], host_id)


def before_moving(server: Row, disk_ids: Collection[str], stopped_serial: int | None) -> str:
    """What is put back when a move comes to nothing, as a move's row keeps it.

    ``stopped_serial``: of the transaction that has its host stop the guest.
    """
    kept = {name: server[name] for name in (*_PUT_BACK, *SIZES)}
    plain = {"server": kept, "disks": list(disk_ids), "stopped_serial": stopped_serial}
    return json.dumps(plain)
