"""Floating IPs: take, list, show, associate, disassociate and give them back."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from stackctl.errors import Conflict, NotFound, StackctlError, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context, own_rows
from stackctl.names import refuse_control_characters
from stackctl.network import addresses
from stackctl.network.addresses import WantedAddress
from stackctl.network.finding import (
    own_floating_ip,
    own_port,
    own_server,
    subnet_in,
    visible_network,
)
from stackctl.network.floating_rows import tie, untie
from stackctl.network.types import (
    GATEWAY_OWNER,
    INTERFACE_OWNER,
    FloatingIp,
    floating_ip_from,
    port_from,
    port_label,
)
from stackctl.operation.outcome import Done
from stackctl.operation.resource import as_it_became, change_one
from stackctl.state import Reader, Row, Writer, new_id, now, read

DESCRIPTION_MAX = 255
NOUN = "floating ip"


@dataclass(frozen=True)
class Target:
    """What a floating IP shall stand for: a port or a server, by name or id, or whichever of them
    ``word`` means; ``fixed_address`` says which of its addresses."""

    port: str | None = None
    server: str | None = None
    word: str | None = None
    fixed_address: str | None = None


@dataclass(frozen=True)
class NewFloatingIp:
    """What is asked for: the next address of an external network (or of a subnet of it), or
    ``address``; tied to a ``target`` at once where one is given."""

    network: str
    address: str | None = None
    subnet: str | None = None
    target: Target | None = None
    description: str = ""


@dataclass(frozen=True)
class _Way:
    """How packets from outside can reach an address of a port."""

    port: Row
    fixed_address: str
    router_id: str


def create_floating_ip(context: Context, wanted: NewFloatingIp) -> Done[FloatingIp]:
    """Take an address of an external network.

    Conflict: not external, none left, in use, or no way from there to the target.
    QuotaExceeded: the project has its share.
    """
    refuse_control_characters("description of a floating IP", wanted.description)
    if len(wanted.description) > DESCRIPTION_MAX:
        raise UsageError(f"A description has at most {DESCRIPTION_MAX} characters.")

    def work(writer: Writer) -> FloatingIp:
        network = visible_network(context, writer, wanted.network)
        _require_external(network)
        quota.require(writer, context.project_id, "floating_ips", 1)
        row = _insert(context, writer, network, wanted)
        if wanted.target is not None:
            _associate(context, writer, row, wanted.target)
        return floating_ip_from(writer, writer.get("floating_ips", row["id"]))

    word = wanted.address or wanted.network
    done = change_one(context, "create", NOUN, word, asdict(wanted), work, floating_ip_from)
    return as_it_became(context, done, NOUN, floating_ip_from)


def list_floating_ips(
    context: Context,
    *,
    network: str | None = None,
    port: str | None = None,
    router: str | None = None,
) -> list[FloatingIp]:
    """The project's floating IPs, oldest first; of one network, port or router."""
    with read(context.cloud) as reader:
        rows = own_rows(context, reader, "floating_ips")
        if network is not None:
            id_ = visible_network(context, reader, network)["id"]
            rows = [row for row in rows if row["network_id"] == id_]
        if port is not None:
            id_ = own_port(context, reader, port)["id"]
            rows = [row for row in rows if row["port_id"] == id_]
        found = [floating_ip_from(reader, row) for row in rows]
    return [each for each in found if router in (None, each.router_name, each.router_id)]


def show_floating_ip(context: Context, word: str) -> FloatingIp:
    """One floating IP by its address or id."""
    with read(context.cloud) as reader:
        return floating_ip_from(reader, own_floating_ip(context, reader, word))


def delete_floating_ip(context: Context, word: str) -> Done[FloatingIp]:
    """Give a floating IP back; what it stood for is no longer reached by it."""

    def work(writer: Writer) -> FloatingIp:
        row = own_floating_ip(context, writer, word)
        value = floating_ip_from(writer, row)
        untie(writer, row)
        addresses.release_addresses(
            writer, "network_id = ? AND address = ?", row["network_id"], row["address"]
        )
        writer.update("floating_ips", row["id"], deleted_at=now())
        return value

    return change_one(context, "delete", NOUN, word, {}, work, floating_ip_from)


def associate(context: Context, word: str, target: Target) -> Done[FloatingIp]:
    """Let a floating IP stand for an address of a port, whatever it stood for before.

    Conflict: no router leads from the external network to that address, or it has one already.
    UsageError: the port has several addresses and none is named.
    """

    def work(writer: Writer) -> FloatingIp:
        row = own_floating_ip(context, writer, word)
        _associate(context, writer, row, target)
        return floating_ip_from(writer, writer.get("floating_ips", row["id"]))

    done = change_one(context, "associate", NOUN, word, asdict(target), work, floating_ip_from)
    return as_it_became(context, done, NOUN, floating_ip_from)


def disassociate(context: Context, word: str, *, server: str | None = None) -> Done[FloatingIp]:
    """Let a floating IP stand for nothing; ``server`` is whose it must have been.

    Conflict: it stands for nothing, or for another server.
    """

    def work(writer: Writer) -> FloatingIp:
        row = own_floating_ip(context, writer, word)
        _require_tied(context, writer, row, server)
        untie(writer, row)
        return floating_ip_from(writer, writer.get("floating_ips", row["id"]))

    given = {"server": server}
    return change_one(context, "disassociate", NOUN, word, given, work, floating_ip_from)


def _require_external(network: Row) -> None:
    if not network["external"]:
        raise Conflict(
            f"Network {network['name']} is not a valid external network.",
            hint=f"stackctl net-set {network['name']} --external",
        )


def _insert(context: Context, writer: Writer, network: Row, wanted: NewFloatingIp) -> Row:
    subnets = [
        subnet
        for subnet in addresses.subnets_of(writer, network["id"])
        if ipaddress.ip_network(subnet["cidr"]).version == 4
    ]
    if not subnets:
        raise Conflict(
            f"Network {network['name']} does not contain any IPv4 subnet.",
            hint=f"stackctl subnet-create {network['name']} CIDR --no-dhcp",
        )
    asked = None
    if wanted.subnet is not None or wanted.address is not None:
        within = subnet_in(writer, network, wanted.subnet)["id"] if wanted.subnet else None
        asked = WantedAddress(within, wanted.address)
    subnet, address = addresses.take_floating(writer, network, subnets, asked)
    row = {
        "id": new_id(),
        "project_id": context.project_id,
        "network_id": network["id"],
        "subnet_id": subnet["id"],
        "address": address,
        "description": wanted.description,
        "created_at": now(),
    }
    writer.insert("floating_ips", row)
    return writer.get("floating_ips", str(row["id"]))


def _associate(context: Context, writer: Writer, floating: Row, target: Target) -> None:
    ports = _target_ports(context, writer, target)
    way = _first_way(writer, floating, ports, target.fixed_address)
    _refuse_second(writer, floating, way)
    tie(writer, floating, way.port["id"], way.fixed_address, way.router_id)


def _target_ports(context: Context, reader: Reader, target: Target) -> list[Row]:
    """The port that is meant, or those of the server that is, first NIC first."""
    if target.port is not None:
        return [own_port(context, reader, target.port)]
    if target.server is not None:
        return _ports_of(reader, own_server(context, reader, target.server))
    if target.word is None:
        raise UsageError("A port or a server is needed.", hint="stackctl port-list")
    try:
        return [own_port(context, reader, target.word)]
    except NotFound:
        pass
    try:
        return _ports_of(reader, own_server(context, reader, target.word))
    except NotFound:
        raise NotFound(
            f"There is no port and no server '{target.word}'.", hint="stackctl port-list"
        ) from None


def _ports_of(reader: Reader, server: Row) -> list[Row]:
    ports = reader.all(
        "SELECT * FROM ports WHERE device_id = ? AND deleted_at IS NULL ORDER BY nic_index",
        server["id"],
    )
    if not ports:
        raise Conflict(f"Server {server['name']} has no port.", hint="stackctl port-list")
    return ports


def _first_way(
    reader: Reader, floating: Row, ports: Sequence[Row], fixed_address: str | None
) -> _Way:
    """The first port that the external network leads to; else why the first one is not it."""
    errors: list[StackctlError] = []
    for port in ports:
        try:
            return _way(reader, floating, port, fixed_address)
        except (Conflict, UsageError) as error:
            errors.append(error)
    raise errors[0]


def _way(reader: Reader, floating: Row, port: Row, fixed_address: str | None) -> _Way:
    label = port_label(reader, port)
    if port["device_owner"].startswith("network:"):
        raise Conflict(
            f"Port {port['id']} has device owner {port['device_owner']}: no floating IP can stand "
            "for it."
        )
    subnet_id, address = _chosen_address(reader, port, label, fixed_address)
    router_id = reader.value(_ROUTER_BETWEEN, subnet_id, floating["network_id"])
    if router_id is None:
        outside = reader.get("networks", floating["network_id"])["name"]
        subnet = addresses.subnet_label(reader.get("subnets", subnet_id))
        raise Conflict(
            f"External network {outside} is not reachable from subnet {subnet}. Therefore, cannot "
            f"associate Port {label} with a Floating IP.",
            hint=f"stackctl router-create ROUTER --external-gateway {outside}, then "
            f"stackctl router-interface-add ROUTER {subnet}",
        )
    return _Way(port, address, str(router_id))


# A router with an interface in the subnet and its gateway in the external network; the one that
# is the subnet's own gateway before others.
_ROUTER_BETWEEN = f"""
SELECT routers.id FROM addresses
JOIN ports AS inside ON inside.id = addresses.port_id AND inside.device_owner = '{INTERFACE_OWNER}'
JOIN routers ON routers.id = inside.device_id AND routers.deleted_at IS NULL
JOIN ports AS outside ON outside.device_id = routers.id AND outside.deleted_at IS NULL
  AND outside.device_owner = '{GATEWAY_OWNER}'
JOIN subnets ON subnets.id = addresses.subnet_id
WHERE addresses.subnet_id = ? AND addresses.released_serial IS NULL AND outside.network_id = ?
ORDER BY addresses.address IS NOT subnets.gateway, routers.rowid LIMIT 1
"""


def _chosen_address(reader: Reader, port: Row, label: str, wanted: str | None) -> tuple[str, str]:
    """(subnet id, address) of the port's IPv4 address that is meant."""
    held = {
        each.address: each.subnet_id
        for each in port_from(reader, port).addresses
        if ":" not in each.address
    }
    if wanted is not None:
        address = str(addresses.parsed(wanted))
        if address not in held:
            raise Conflict(f"Port {label} does not have fixed ip {address}.")
        return held[address], address
    if not held:
        raise Conflict(f"Cannot add floating IP to port {label} that has no fixed IPv4 addresses.")
    if len(held) > 1:
        raise UsageError(
            f"Port {label} has multiple fixed IPv4 addresses: {', '.join(held)}. Must provide a "
            "specific IPv4 address when assigning a floating IP (--fixed-ip-address)."
        )
    address, subnet_id = held.popitem()
    return subnet_id, address


def _refuse_second(reader: Reader, floating: Row, way: _Way) -> None:
    other = reader.one(
        "SELECT * FROM floating_ips WHERE network_id = ? AND port_id = ? AND fixed_address = ?"
        " AND id <> ? AND deleted_at IS NULL",
        floating["network_id"],
        way.port["id"],
        way.fixed_address,
        floating["id"],
    )
    if other is not None:
        network = reader.get("networks", floating["network_id"])["name"]
        raise Conflict(
            f"Cannot associate floating IP {floating['address']} with port "
            f"{port_label(reader, way.port)} using fixed IP {way.fixed_address}, as that fixed IP "
            f"already has a floating IP on external network {network}: {other['address']}.",
            hint=f"stackctl floatingip-disassociate {other['address']}",
        )


def _require_tied(context: Context, reader: Reader, floating: Row, server: str | None) -> None:
    if floating["port_id"] is None:
        raise Conflict(f"Floating IP {floating['address']} is not associated with any port.")
    if server is None:
        return
    owner = own_server(context, reader, server)
    if reader.get("ports", floating["port_id"])["device_id"] != owner["id"]:
        raise Conflict(
            f"Floating IP {floating['address']} is not associated with server {owner['name']}."
        )
