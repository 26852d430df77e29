"""Security groups of servers: those of their ports, added to and taken from all of them at once."""

from __future__ import annotations

from collections.abc import Callable

from stackctl.compute.types import Server
from stackctl.compute.views import server_row, servers_by_id
from stackctl.errors import Conflict, NotFound
from stackctl.identity.context import Context
from stackctl.network import allocation
from stackctl.network.finding import own_group
from stackctl.network.membership import groups_of, put_in_groups
from stackctl.network.types import SecurityGroup, group_from
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, read


def add_group(context: Context, server: str, group: str) -> Done[Server]:
    """Put every port of a server that can be in groups into this one, too.

    Conflict when it has no such port.
    """
    return _change(context, "add-secgroup", server, group, _added)


def remove_group(context: Context, server: str, group: str) -> Done[Server]:
    """Take every port of a server out of a group; NotFound when none is in it."""
    return _change(context, "remove-secgroup", server, group, _removed)


def list_groups_of(context: Context, server: str) -> list[SecurityGroup]:
    """The groups that any port of a server is in, by name."""
    with read(context.cloud) as reader:
        ports = _ports(reader, server_row(context, reader, server)["id"])
        ids = {group_id for port in ports for group_id in groups_of(reader, port["id"])}
        groups = [group_from(reader, reader.get("security_groups", id_)) for id_ in ids]
        return sorted(groups, key=lambda group: (group.name, group.id))


def _change(
    context: Context,
    action: str,
    server: str,
    group: str,
    wanted: Callable[[Row, Row, list[Row], dict[str, list[str]]], dict[str, list[str]]],
) -> Done[Server]:
    def work(writer: Writer) -> Server:
        row, joined = server_row(context, writer, server), own_group(context, writer, group)
        ports = _ports(writer, row["id"])
        held = {port["id"]: groups_of(writer, port["id"]) for port in ports}
        for port_id, group_ids in wanted(row, joined, ports, held).items():
            put_in_groups(writer, port_id, group_ids)
            port = writer.get("ports", port_id)
            writer.update("ports", port_id, version=port["version"] + 1)
            allocation.touch(writer, port["network_id"], port_id)
        return _load(writer, row)

    return change_one(context, action, "server", server, {"group": group}, work, _load)


def _added(
    server: Row, group: Row, ports: list[Row], held: dict[str, list[str]]
) -> dict[str, list[str]]:
    secured = [port["id"] for port in ports if port["port_security"]]
    if not secured:
        raise Conflict(
            f"Security group {group['name']} cannot be applied to server {server['name']}: it has "
            "no port with port security."
        )
    return {id_: [*held[id_], group["id"]] for id_ in secured if group["id"] not in held[id_]}


def _removed(
    server: Row, group: Row, ports: list[Row], held: dict[str, list[str]]
) -> dict[str, list[str]]:
    inside = [port["id"] for port in ports if group["id"] in held[port["id"]]]
    if not inside:
        raise NotFound(
            f"Security group {group['name']} not associated with the instance {server['name']}.",
            hint=f"stackctl list-secgroup {server['name']}",
        )
    return {id_: [each for each in held[id_] if each != group["id"]] for id_ in inside}


def _ports(reader: Reader, server_id: str) -> list[Row]:
    return reader.all(
        "SELECT * FROM ports WHERE device_id = ? AND deleted_at IS NULL ORDER BY nic_index",
        server_id,
    )


def _load(reader: Reader, row: Row) -> Server:
    return servers_by_id(reader, [row["id"]])[0]
