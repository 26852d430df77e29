"""Ports leave hosts: plain rows, so that recovery can do it for a dead command.

Everything here adds what it touches to ``writer.change``.
"""

from __future__ import annotations

from stackctl.state import Row, Writer


def unbind_port(writer: Writer, port_id: str, host_id: str) -> None:
    """Take a port from a host. With its last port a network's tag is released on that host."""
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
