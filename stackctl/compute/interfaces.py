"""NICs of servers that are there: ports are attached to them and detached again."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict

from stackctl.compute import lifecycle
from stackctl.compute.commanding import IfUnreached, note_change, see_through
from stackctl.compute.types import Nic
from stackctl.compute.views import server_row
from stackctl.errors import NotFound, UsageError
from stackctl.identity.context import Context
from stackctl.identity.quota import require
from stackctl.network.addresses import WantedAddress
from stackctl.network.allocation import (
    bind_port,
    free_hostname,
    join_server,
    leave_server,
    make_port,
)
from stackctl.network.carrying import refuse_out_of_reach
from stackctl.network.finding import own_port, visible_network
from stackctl.network.trunk_rows import networks_of_subports
from stackctl.network.types import Port, port_from
from stackctl.operation import Done, Operation, begin
from stackctl.state import Reader, Row, Writer, read


def attach_interface(context: Context, server: str, nic: Nic) -> Done[Port]:
    """Give a server another NIC, at once if it runs: a port made before, or one made for it.

    Conflict: its state does not allow it, something has the port, its host cannot carry the
    network. HostUnreachable, and nothing is left, when its host was not reached.
    """
    if (nic.port is None) == (nic.network is None):
        raise UsageError("A NIC is either a port or in a network: give one of the two.")
    if nic.port is not None and nic.address is not None:
        raise UsageError("A port has its address already: give one with a network only.")
    summary = f"attach {nic.port or nic.network} to {server}"
    with begin(
        context, "interface-attach", summary, {"server": server, **asdict(nic)}
    ) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _first_result(context, row))
        port = operation.transact(
            lambda writer: _attach(context, writer, operation, server, nic), _remembered
        )
        how = IfUnreached(
            f"Port {_label(port)} is attached when its host is converged.",
            f"Port {_label(port)} is not attached.",
            lambda writer: _take_back(writer, port),
        )
        return see_through(operation, port, port.device_id, how)


def detach_interface(context: Context, server: str, word: str) -> Done[Port]:
    """Take a NIC from a server, at once if it runs: by its port's id or name, MAC or address.

    A port made for the server is deleted, another one is free again. Returns the port as it was.
    """
    summary = f"detach {word} from {server}"
    with begin(context, "interface-detach", summary, {"server": server, "port": word}) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _first_result(context, row))
        port = operation.transact(
            lambda writer: _detach(context, writer, operation, server, word), _remembered
        )
        how = IfUnreached(
            f"Port {_label(port)} is detached; the guest loses it when its host is converged."
        )
        return see_through(operation, port, port.device_id, how)


def list_interfaces(context: Context, server: str) -> list[Port]:
    """The ports of a server in the order of its NICs."""
    with read(context.cloud) as reader:
        return _ports_of(reader, server_row(context, reader, server)["id"])


# --- attaching ----------------------------------------------------------------------------------


def _attach(context: Context, writer: Writer, operation: Operation, word: str, nic: Nic) -> Port:
    server = server_row(context, writer, word)
    lifecycle.require(server, "attach-interface")
    given = own_port(context, writer, nic.port) if nic.port is not None else None
    if given is not None:
        network = writer.get("networks", given["network_id"])
    else:
        network = visible_network(context, writer, nic.network or "")
    refusal = f"Network {network['name']} cannot be attached to server {server['name']}"
    refuse_out_of_reach(writer, server["host_id"], network, refusal)
    if given is not None:
        for each in networks_of_subports(writer, given["id"]):
            refusal = f"Subports in network {each['name']} cannot come to server {server['name']}"
            refuse_out_of_reach(writer, server["host_id"], each, refusal)
        port = _join(writer, server, given)
    else:
        port = _make(context, writer, server, network, nic.address)
    bind_port(writer, port.id, server["host_id"])
    note_change(context, writer, operation, server, f"port {_label(port)} attached")
    return port


def _join(writer: Writer, server: Row, port: Row) -> Port:
    return join_server(
        writer,
        port["id"],
        server_id=server["id"],
        device_owner=_owner(server),
        nic_index=_next_index(writer, server),
        hostname=_hostname_in(writer, port["network_id"], server),
    )


def _make(context: Context, writer: Writer, server: Row, network: Row, address: str | None) -> Port:
    require(writer, context.project_id, "ports", 1)
    return make_port(
        writer,
        project_id=context.project_id,
        network=network,
        wanted=[WantedAddress(address=address)] if address else (),
        device_owner=_owner(server),
        device_id=server["id"],
        nic_index=_next_index(writer, server),
        hostname=_hostname_in(writer, network["id"], server),
        made_for_server=True,
    )


def _owner(server: Row) -> str:
    return f"compute:{server['zone']}"


def _next_index(reader: Reader, server: Row) -> int:
    last = reader.value(
        "SELECT max(nic_index) FROM ports WHERE device_id = ? AND deleted_at IS NULL", server["id"]
    )
    return 0 if last is None else int(last) + 1


def _hostname_in(reader: Reader, network_id: str, server: Row) -> str:
    """What a server is called in a network: as elsewhere, unless another is called so there.

    It has one name in each network, so a second port there goes without.
    """
    sql = "SELECT 1 FROM ports WHERE network_id = ? AND deleted_at IS NULL AND hostname {}"
    if reader.one(sql.format("<> '' AND device_id = ?"), network_id, server["id"]):
        return ""
    if reader.one(sql.format("= ?"), network_id, server["hostname"]):
        return free_hostname(reader, [network_id], server["name"])
    return str(server["hostname"])


# --- detaching ----------------------------------------------------------------------------------


def _detach(
    context: Context, writer: Writer, operation: Operation, server_word: str, word: str
) -> Port:
    server = server_row(context, writer, server_word)
    port = _port_called(writer, server, word)
    lifecycle.require(server, "detach-interface")
    leave_server(writer, port.id)
    note_change(context, writer, operation, server, f"port {_label(port)} detached")
    return port


def _port_called(reader: Reader, server: Row, word: str) -> Port:
    """The port of a server with this id (or its beginning), name, MAC or address."""
    ports = _ports_of(reader, server["id"])
    named = _as_stored(word)
    found = [port for port in ports if word == port.name or named in _names(port)]
    if not found and len(word) >= SHORTEST_START:
        found = [port for port in ports if port.id.startswith(named)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(port.id for port in found)
        raise NotFound(
            f"More than one port of server {server['name']} is called '{word}': {ids}. Give the "
            "id instead."
        )
    raise NotFound(
        f"Server {server['name']} has no port '{word}' among its {len(ports)}.",
        hint=f"stackctl interface-list {server['name']}",
    )


SHORTEST_START = 4
"""Fewer digits are taken for a mistake, not for the beginning of an id."""


def _names(port: Port) -> list[str]:
    return [port.id, port.mac, *(each.address for each in port.addresses)]


def _as_stored(word: str) -> str:
    """An id, MAC or address as the database writes it."""
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return word.lower()


def _ports_of(reader: Reader, server_id: str) -> list[Port]:
    rows = reader.all(
        "SELECT * FROM ports WHERE device_id = ? AND deleted_at IS NULL ORDER BY nic_index, id",
        server_id,
    )
    return [port_from(reader, row) for row in rows]


# --- what both have in common -------------------------------------------------------------------


def _take_back(writer: Writer, port: Port) -> str:
    leave_server(writer, port.id)
    return f"port {_label(port)}"


def _label(port: Port) -> str:
    addresses = " ".join(each.address for each in port.addresses)
    return port.name or addresses or port.mac


def _remembered(port: Port) -> dict[str, str]:
    return {"port": port.id}


def _first_result(context: Context, operation: Row) -> Port:
    with read(context.cloud) as reader:
        return port_from(reader, reader.get("ports", json.loads(operation["result_json"])["port"]))
