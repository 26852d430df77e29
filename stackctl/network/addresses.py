"""Addresses of networks as rows: choosing, taking, releasing and resting them.

Of each address of a network there is at most one row, live or released, so that counting rows is
counting addresses. The partial index over live rows is the last word on what is taken.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.network import choice
from stackctl.state import Reader, Row, Writer, now


@dataclass(frozen=True)
class WantedAddress:
    """What somebody asks for: an address, any address of a subnet (by id), or both."""

    subnet_id: str | None = None
    address: str | None = None


def reserve_gateway(writer: Writer, network: Row, subnet: Row) -> None:
    """Take the gateway's address, so that no port gets it; Conflict when a port has it."""
    take(writer, network, subnet, None, subnet["gateway"], "gateway")
    writer.change.networks.add(network["id"])


def lend_gateway(writer: Writer, network: Row, subnet: Row, port_id: str) -> None:
    """Make the reserved address of a subnet's gateway a router port's; Conflict when it is used."""
    lent = writer.run(
        "UPDATE addresses SET port_id = ?, kind = 'fixed' WHERE subnet_id = ? AND address = ?"
        " AND kind = 'gateway' AND released_serial IS NULL",
        port_id,
        subnet["id"],
        subnet["gateway"],
    )
    if not lent:
        take(writer, network, subnet, port_id, subnet["gateway"], "fixed")


def return_gateways(writer: Writer, port_id: str) -> None:
    """Reserve again what a port has of its subnets' gateway addresses: no other port gets them."""
    writer.run(
        "UPDATE addresses SET port_id = NULL, kind = 'gateway'"
        " WHERE port_id = ? AND released_serial IS NULL AND address ="
        "  (SELECT gateway FROM subnets WHERE subnets.id = addresses.subnet_id)",
        port_id,
    )


def take_floating(
    writer: Writer, network: Row, subnets: Sequence[Row], wanted: WantedAddress | None
) -> tuple[Row, str]:
    """Take an address that no port has: the wanted one, or the next; with the subnet it is in."""
    if wanted is not None:
        chosen = _wanted_subnet(network, subnets, wanted)
        subnets = [chosen]
    if wanted is not None and wanted.address is not None:
        address = _usable(chosen, wanted.address)
        _refuse_resting(writer, network, address)
        take(writer, network, chosen, None, address, "floating")
        return chosen, address
    for subnet in subnets:
        free = free_address(writer, network["id"], subnet)
        if free is not None:
            take(writer, network, subnet, None, free, "floating")
            return subnet, free
    raise _exhausted(writer, network, f"on network {network['name']}")


def release_addresses(writer: Writer, where: str, *parameters: Any) -> None:
    """Release live addresses; they rest until all hosts that knew them have moved on."""
    writer.run(
        "UPDATE addresses SET released_serial = ?, released_at = ?"
        f" WHERE released_serial IS NULL AND {where}",
        writer.serial,
        now(),
        *parameters,
    )


def subnets_of(reader: Reader, network_id: str) -> list[Row]:
    """The live subnets of a network, oldest first."""
    return reader.all(
        "SELECT * FROM subnets WHERE network_id = ? AND deleted_at IS NULL ORDER BY rowid",
        network_id,
    )


def give_any(writer: Writer, network: Row, subnets: Sequence[Row], port_id: str) -> Row:
    """Give a port the next address of the first subnet that has one; returns that subnet."""
    for subnet in subnets:
        address = free_address(writer, network["id"], subnet)
        if address is not None:
            take(writer, network, subnet, port_id, address, "fixed")
            return subnet
    raise _exhausted(writer, network, f"on network {network['name']}")


def give_wanted(
    writer: Writer, network: Row, subnets: Sequence[Row], port_id: str, wanted: WantedAddress
) -> Row:
    """Give a port the address it wants; returns the subnet that it is in."""
    subnet = _wanted_subnet(network, subnets, wanted)
    if wanted.address is None:
        address = free_address(writer, network["id"], subnet)
        if address is None:
            raise _exhausted(writer, network, f"for subnet {subnet_label(subnet)}")
    else:
        address = _usable(subnet, wanted.address)
        _refuse_resting(writer, network, address)
    take(writer, network, subnet, port_id, address, "fixed")
    return subnet


def _wanted_subnet(network: Row, subnets: Sequence[Row], wanted: WantedAddress) -> Row:
    if wanted.subnet_id is not None:
        for subnet in subnets:
            if subnet["id"] == wanted.subnet_id:
                return subnet
        raise NotFound(
            f"Network {network['name']} has no subnet {wanted.subnet_id}.",
            hint=f"stackctl net-show {network['name']}",
        )
    address = parsed(wanted.address or "")
    for subnet in subnets:
        if address in ipaddress.ip_network(subnet["cidr"]):
            return subnet
    raise UsageError(
        f"IP address {address} is not a valid IP for any of the subnets on the specified network "
        f"{network['name']}."
    )


def _usable(subnet: Row, text: str) -> str:
    """The canonical form of an address of this subnet that a port may have."""
    address, cidr = parsed(text), ipaddress.ip_network(subnet["cidr"])
    ends = () if cidr.num_addresses <= 2 else (cidr.network_address, cidr.broadcast_address)
    if address not in cidr or address in ends:
        raise UsageError(
            f"IP address {address} is not a valid IP for the specified subnet "
            f"{subnet_label(subnet)} ({subnet['cidr']})."
        )
    return str(address)


def parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address that a text says; UsageError when it says none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise UsageError(f"'{text}' is not a valid IP address.") from None


def take(
    writer: Writer, network: Row, subnet: Row, port_id: str | None, address: str, kind: str
) -> None:
    """Insert the row of an address in the place of its released one; Conflict when it is live."""
    row = {
        "network_id": network["id"],
        "subnet_id": subnet["id"],
        "port_id": port_id,
        "kind": kind,
        "address": address,
        "number": choice.sortable(address),
    }
    live = "(network_id, address) WHERE released_serial IS NULL"
    if not writer.insert_if_free("addresses", row, live):
        raise Conflict(
            f"Unable to complete operation for network {network['name']}. "
            f"The IP address {address} is in use."
        )
    writer.run(
        "DELETE FROM addresses WHERE network_id = ? AND number = ? AND released_serial IS NOT NULL",
        network["id"],
        row["number"],
    )


def free_address(writer: Writer, network_id: str, subnet: Row) -> str | None:
    """The lowest address of the subnet's pools that was never given, else the one released
    longest ago that no host can know any more."""
    pools = [_pool_numbers(pool) for pool in json.loads(subnet["pools_json"])]
    number = None
    for first, last in pools:
        number = choice.lowest_gap(first, last, _counter(writer, network_id))
        if number is not None:
            break
    if number is None:
        number = _longest_rested(writer, network_id, pools)
    if number is None:
        return None
    return str(type(ipaddress.ip_network(subnet["cidr"]).network_address)(number))


def _pool_numbers(pool: Mapping[str, str]) -> tuple[int, int]:
    return int(ipaddress.ip_address(pool["start"])), int(ipaddress.ip_address(pool["end"]))


def _counter(reader: Reader, network_id: str) -> Callable[[int, int], int]:
    def used(first: int, last: int) -> int:
        return int(
            reader.value(
                "SELECT count(*) FROM addresses WHERE network_id = ? AND number BETWEEN ? AND ?",
                network_id,
                choice.sortable_number(first),
                choice.sortable_number(last),
            )
        )

    return used


def _longest_rested(
    writer: Writer, network_id: str, pools: Sequence[tuple[int, int]]
) -> int | None:
    settled = _settled_serial(writer, network_id)
    rested = []
    for first, last in pools:
        row = writer.one(
            "SELECT released_serial, number FROM addresses"
            " WHERE network_id = ? AND number BETWEEN ? AND ? AND released_serial <= ?"
            " ORDER BY released_serial, number LIMIT 1",
            network_id,
            choice.sortable_number(first),
            choice.sortable_number(last),
            settled,
        )
        if row is not None:
            rested.append((int(row["released_serial"]), int(row["number"], 16)))
    return min(rested)[1] if rested else None


def _settled_serial(reader: Reader, network_id: str) -> int:
    """The newest serial that every host with this network has applied.

    A fenced or deleted host carries nothing and is not waited for.
    """
    waiting = reader.value(
        "SELECT min(hosts.applied_serial) FROM host_networks"
        " JOIN hosts ON hosts.id = host_networks.host_id"
        " WHERE host_networks.network_id = ? AND hosts.fenced = 0 AND hosts.deleted_at IS NULL",
        network_id,
    )
    return int(reader.value("SELECT serial FROM cloud")) if waiting is None else int(waiting)


def _refuse_resting(writer: Writer, network: Row, address: str) -> None:
    released = writer.value(
        "SELECT released_serial FROM addresses"
        " WHERE network_id = ? AND number = ? AND released_serial IS NOT NULL",
        network["id"],
        choice.sortable(address),
    )
    if released is None or released <= _settled_serial(writer, network["id"]):
        return
    raise Conflict(
        f"Unable to complete operation for network {network['name']}. The IP address {address} "
        f"was released, but may still be in use on {_waited_for(writer, network['id'], released)}.",
        hint="stackctl converge",
    )


def _exhausted(reader: Reader, network: Row, where: str) -> Conflict:
    newest = reader.value(
        "SELECT max(released_serial) FROM addresses WHERE network_id = ?", network["id"]
    )
    if newest is None or newest <= _settled_serial(reader, network["id"]):
        return Conflict(f"No more IP addresses available {where}.")
    hosts = _waited_for(reader, network["id"], newest)
    return Conflict(
        f"No more IP addresses available {where}: released ones may still be in use on {hosts}.",
        hint="stackctl converge",
    )


def _waited_for(reader: Reader, network_id: str, released_serial: int) -> str:
    names = reader.column(
        "SELECT hosts.name FROM host_networks JOIN hosts ON hosts.id = host_networks.host_id"
        " WHERE host_networks.network_id = ? AND hosts.fenced = 0 AND hosts.deleted_at IS NULL"
        " AND hosts.applied_serial < ? ORDER BY hosts.name",
        network_id,
        released_serial,
    )
    return ", ".join(["host " + name for name in names])


def subnet_label(subnet: Row) -> str:
    """What people call a subnet: its name, or its id where it has none."""
    return str(subnet["name"] or subnet["id"])
