"""Servers without a host: plain rows, so that recovery can do it for a dead command, too.

Shelving switches a guest off and makes an image of its root disk. Until that image is there, the
server has its host and disk, and goes on as before if nothing comes of it. Only a later
transaction gives the host up and permits it to destroy the disk.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from stackctl.operation.bindings import unbind_port
from stackctl.operation.disk_rows import bury_all
from stackctl.operation.server_moves import ports_of
from stackctl.state import Row, Writer, now

SHELVED = "shelved"
OFFLOADED = "shelved_offloaded"

COPYING = "shelving"
"""The task until the image is there."""

LEAVING = "shelving-offloading"
"""The task from then on, until the host is given up."""


def offload(writer: Writer, server: Row) -> None:
    """Take a server from its host: what is there of it may go; it keeps its ports and addresses."""
    leave_host(writer, server)
    writer.update(
        "servers",
        server["id"],
        host_id=None,
        vm_state=OFFLOADED,
        kept_state=OFFLOADED,
        task_state=None,
        power_state="SHUTDOWN",
        held=0,
        fault_json=None,
        version=server["version"] + 1,
    )


def leave_host(writer: Writer, server: Row) -> None:
    """Tombstones for what a server has on its host, whose ports it carries no more."""
    for port_id in ports_of(writer, server["id"]):
        unbind_port(writer, port_id, server["host_id"])
        writer.update("ports", port_id, status="DOWN")
    bury_all(writer, server)
    writer.change.hosts.add(server["host_id"])
    writer.change.servers.add(server["id"])


def put_back(writer: Writer, server: Row, *, starts: bool) -> None:
    """Nothing came of shelving a server: it goes on where it is, running if it ran before."""
    drop_images(writer, server)
    values: Row = {"task_state": None}
    if starts:
        power = {"power_action": "start", "power_serial": server["power_serial"] + 1}
        values = {"task_state": "powering-on", "version": server["version"] + 1, **power}
        writer.change.servers.add(server["id"])
    writer.update("servers", server["id"], **values)


def next_phase(
    writer: Writer, operation: Row, behind: Collection[str], silent: Collection[str]
) -> str:
    """What a dead command had still to do, once its host has done what it was told."""
    if behind:
        return ""
    starts = bool(json.loads(operation["result_json"] or "{}").get("starts"))
    servers = writer.all(
        "SELECT * FROM servers WHERE operation_id = ? AND deleted_at IS NULL", operation["id"]
    )
    for server in servers:
        if server["task_state"] == LEAVING:
            offload(writer, server)
            return "converge"
        if server["task_state"] == COPYING:
            put_back(writer, server, starts=starts)
            return "undo (it goes on where it is)" if starts else ""
    return ""


def images_of(server: Row) -> list[str]:
    """The images that a server is while it is shelved: its root disk, its UEFI variables."""
    return [id_ for id_ in (server["shelved_image_id"], server["shelved_nvram_id"]) if id_]


def drop_images(writer: Writer, server: Row) -> None:
    """Delete the images that a server was shelved as, unless somebody protected them."""
    for image_id in images_of(server):
        writer.run(
            "UPDATE images SET status = 'deleted', deleted_at = ? "
            "WHERE id = ? AND deleted_at IS NULL AND protected = 0",
            now(),
            image_id,
        )
    writer.update("servers", server["id"], shelved_image_id=None, shelved_nvram_id=None)
