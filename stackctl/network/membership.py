"""Which groups ports are in, and the default group of a project, as rows.

The writers here run in the transactions of those who make and change ports and groups. Everything
here adds what it touches to ``writer.change``.
"""

from __future__ import annotations

from collections.abc import Iterable

from stackctl.errors import Conflict
from stackctl.identity.context import named
from stackctl.state import Reader, Writer, new_id, now

DEFAULT = "default"
DEFAULT_DESCRIPTION = "Default security group"

NEEDS_SECURITY = (
    "Port security must be enabled and port must have an IP address in order to use security "
    "groups."
)


def default_group(writer: Writer, project_id: str) -> str:
    """The id of a project's default group, which is made when it is first asked for."""
    held = named(writer, "security_groups", project_id, DEFAULT)
    if held is not None:
        return str(held["id"])
    group_id = insert_group(writer, project_id, DEFAULT, DEFAULT_DESCRIPTION)
    for ethertype in ("IPv4", "IPv6"):
        _insert_open_rule(writer, project_id, group_id, "ingress", ethertype, group_id)
    return group_id


def insert_group(writer: Writer, project_id: str, name: str, description: str) -> str:
    """A new group, from which everything may leave; Conflict when the name is taken."""
    row = {"id": new_id(), "project_id": project_id, "name": name}
    row |= {"description": description, "created_at": now()}
    unique = "(project_id, name) WHERE deleted_at IS NULL"
    if not writer.insert_if_free("security_groups", row, unique):
        raise Conflict(f"There is already a security group called {name}. Nothing was made.")
    for ethertype in ("IPv4", "IPv6"):
        _insert_open_rule(writer, project_id, row["id"], "egress", ethertype, None)
    return row["id"]


def groups_of(reader: Reader, port_id: str) -> list[str]:
    """The ids of the groups that a port is in, by name."""
    return reader.column(
        "SELECT security_groups.id FROM port_security_groups"
        " JOIN security_groups ON security_groups.id = port_security_groups.group_id"
        " WHERE port_id = ? ORDER BY security_groups.name, security_groups.id",
        port_id,
    )


def put_in_groups(writer: Writer, port_id: str, group_ids: Iterable[str]) -> None:
    """Put a port into these groups and no others.

    Those that it leaves and those that it joins have other members now.
    """
    had, wanted = set(groups_of(writer, port_id)), set(group_ids)
    for group_id in sorted(had - wanted):
        writer.run(
            "DELETE FROM port_security_groups WHERE port_id = ? AND group_id = ?", port_id, group_id
        )
    for group_id in sorted(wanted - had):
        writer.insert("port_security_groups", {"port_id": port_id, "group_id": group_id})
    writer.change.members |= had ^ wanted


def _insert_open_rule(
    writer: Writer,
    project_id: str,
    group_id: str,
    direction: str,
    ethertype: str,
    remote_group_id: str | None,
) -> None:
    row = {"id": new_id(), "project_id": project_id, "group_id": group_id}
    row |= {"direction": direction, "ethertype": ethertype, "created_at": now()}
    writer.insert("security_group_rules", {**row, "remote_group_id": remote_group_id})
