"""Ports leave hosts: plain rows, so that recovery can do it for a dead command.

Everything here adds what it touches to ``writer.change``.
"""

from __future__ import annotations

from stackctl.state import Reader, Row, Writer


def subports_of(reader: Reader, port_id: str) -> list[str]:
    """The ports that are wherever a port is: it is the parent of their trunk."""
    return reader.column(
        "SELECT trunk_subports.port_id FROM trunks"
        " JOIN trunk_subports ON trunk_subports.trunk_id = trunks.id"
        " WHERE trunks.port_id = ? AND trunks.deleted_at IS NULL ORDER BY segmentation_id",
        port_id,
    )


def set_role(writer: Writer, port_id: str, host_id: str, role: str) -> None:
    """Give a port that a host carries another role there, and so its subports."""
    for id_ in (port_id, *subports_of(writer, port_id)):
        sql = "UPDATE bindings SET role = ? WHERE port_id = ? AND host_id = ?"
        writer.run(sql, role, id_, host_id)
        rebound(writer, writer.get("ports", id_), host_id)


def unbind_port(writer: Writer, port_id: str, host_id: str) -> None:
    """Take a port and its subports from a host. With its last port a network's tag is released on
    that host."""
    for subport_id in subports_of(writer, port_id):
        unbind_port(writer, subport_id, host_id)
        if not writer.one("SELECT 1 FROM bindings WHERE port_id = ?", subport_id):
            writer.update("ports", subport_id, status="DOWN")
    port = writer.get("ports", port_id)
    writer.run("DELETE FROM bindings WHERE port_id = ? AND host_id = ?", port_id, host_id)
    writer.run(
        "UPDATE host_networks SET released_serial = ?"
        " WHERE host_id = ? AND network_id = ? AND released_serial IS NULL AND NOT EXISTS ("
        "  SELECT 1 FROM bindings JOIN ports ON ports.id = bindings.port_id"
        "  WHERE bindings.host_id = ? AND ports.network_id = ?)",
        writer.serial,
        host_id,
        port["network_id"],
        host_id,
        port["network_id"],
    )
    rebound(writer, port, host_id)


def touch(writer: Writer, network_id: str, port_id: str) -> None:
    """Note a change of a port: names are the network's, so all its hosts hear of it.

    So do hosts whose rules admit the groups that it is in.
    """
    writer.change.ports.add(port_id)
    groups = writer.column("SELECT group_id FROM port_security_groups WHERE port_id = ?", port_id)
    writer.change.members.update(groups)
    writer.change.networks.add(network_id)


def rebound(writer: Writer, port: Row, host_id: str) -> None:
    """Note that a port came to a host, or left it."""
    writer.change.hosts.add(host_id)
    touch(writer, port["network_id"], port["id"])
