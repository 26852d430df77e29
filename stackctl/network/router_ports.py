"""Interfaces and gateways of routers as rows: made, refused and taken away in a transaction.

Everything here adds what it touches to ``writer.change``, and leaves it to its caller to have the
router's ports bound (``router_placing.settle``).
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Sequence

from agent.spec import HostRoute
from stackctl.errors import Conflict
from stackctl.identity import quota
from stackctl.identity.context import Context
from stackctl.names import some
from stackctl.network import addresses, allocation, membership
from stackctl.network.floating_rows import touch_router
from stackctl.network.ports import FixedIp, resolve_fixed_ips
from stackctl.network.router_rules import Connected, refuse_overlap, routes_through
from stackctl.network.types import (
    GATEWAY_OWNER,
    INTERFACE_OWNER,
    port_from,
    router_ports,
)
from stackctl.state import Reader, Row, Writer, new_id, now


def add_subnet_interface(context: Context, writer: Writer, router: Row, subnet: Row) -> None:
    """Give a router a port in a subnet, with the address of the subnet's gateway.

    Conflict: no gateway, its address in use, or an overlap with what the router has already.
    """
    if subnet["gateway"] is None:
        raise Conflict(
            f"Subnet {addresses.subnet_label(subnet)} ({subnet['cidr']}) must have a gateway IP, "
            "which the router then has.",
            hint=f"stackctl subnet-set {addresses.subnet_label(subnet)} --gateway auto, or "
            f"router-interface-add {router['name']} port=PORT",
        )
    _refuse_overlap(writer, router, [subnet])
    network = writer.get("networks", subnet["network_id"])
    port_id = _insert(context, writer, router, network, INTERFACE_OWNER)
    addresses.lend_gateway(writer, network, subnet, port_id)
    _touch(writer, router, network["id"], port_id)


def add_port_interface(writer: Writer, router: Row, port: Row) -> None:
    """Make a free port an interface of a router, with the addresses that it has."""
    if port["device_id"] or port["device_owner"]:
        raise Conflict(
            f"Unable to complete operation on port {port['name'] or port['id']} for network "
            f"{port['network_id']}. Port already has an attached device "
            f"{port['device_id'] or port['device_owner']}."
        )
    held = [address.subnet_id for address in port_from(writer, port).addresses]
    if not held:
        raise Conflict(f"Router port {port['name'] or port['id']} must have at least one fixed IP.")
    _refuse_overlap(writer, router, [writer.get("subnets", subnet_id) for subnet_id in held])
    # What goes through a router is not its own: it can be in no group.
    membership.put_in_groups(writer, port["id"], [])
    writer.update(
        "ports",
        port["id"],
        device_owner=INTERFACE_OWNER,
        device_id=router["id"],
        port_security=0,
        version=port["version"] + 1,
    )
    _touch(writer, router, port["network_id"], port["id"])


def remove_interface(writer: Writer, router: Row, port: Row) -> None:
    """Take an interface from a router; Conflict while floating IPs or routes need it."""
    _refuse_needed(writer, router, port)
    _drop(writer, router, port)


def interface_in(reader: Reader, router: Row, subnet: Row) -> Row | None:
    """The interface that a router has in a subnet."""
    for port in router_ports(reader, router["id"]):
        held = [address.subnet_id for address in port_from(reader, port).addresses]
        if port["device_owner"] == INTERFACE_OWNER and subnet["id"] in held:
            return port
    return None


def gateway_of(reader: Reader, router: Row) -> Row | None:
    """The port of a router in its external network."""
    ports = router_ports(reader, router["id"])
    return next((port for port in ports if port["device_owner"] == GATEWAY_OWNER), None)


def set_gateway(
    context: Context, writer: Writer, router: Row, network: Row, fixed_ips: Sequence[FixedIp]
) -> None:
    """Give a router its port in an external network: an IPv4 and an IPv6 address where there are.

    Conflict: not external, without subnets, an overlap, addresses in use, or another one that
    floating IPs need.
    """
    if not network["external"]:
        raise Conflict(
            f"Network {network['name']} is not a valid external network.",
            hint=f"stackctl net-set {network['name']} --external",
        )
    before = gateway_of(writer, router)
    wanted = resolve_fixed_ips(writer, network, fixed_ips)
    if before is not None and before["network_id"] == network["id"]:
        if _has_all(writer, before, wanted):
            return
        _drop(writer, router, before)
    elif before is not None:
        clear_gateway(writer, router)
    subnets = addresses.subnets_of(writer, network["id"])
    if not subnets:
        raise Conflict(
            f"Network {network['name']} has no subnet to take the gateway's address from.",
            hint=f"stackctl subnet-create {network['name']} CIDR --no-dhcp",
        )
    _refuse_overlap(writer, router, subnets)
    port_id = _insert(context, writer, router, network, GATEWAY_OWNER)
    if wanted:
        for each in wanted:
            addresses.give_wanted(writer, network, subnets, port_id, each)
    else:
        for family in _by_family(subnets):
            addresses.give_any(writer, network, family, port_id)
    _touch(writer, router, network["id"], port_id)


def drop_gateway(writer: Writer, router: Row) -> None:
    """Take the gateway of a router that goes, if it has one."""
    port = gateway_of(writer, router)
    if port is not None:
        _drop(writer, router, port)


def clear_gateway(writer: Writer, router: Row) -> None:
    """Take a router's gateway; Conflict while floating IPs or routes need it."""
    port = gateway_of(writer, router)
    if port is None:
        raise Conflict(f"Router {router['name']} has no gateway.")
    network = writer.get("networks", port["network_id"])
    needing = writer.column(
        "SELECT address FROM floating_ips WHERE router_id = ? AND network_id = ?"
        " AND deleted_at IS NULL ORDER BY rowid",
        router["id"],
        network["id"],
    )
    if needing:
        raise Conflict(
            f"Gateway cannot be updated for router {router['name']}, since a gateway to external "
            f"network {network['name']} is required by one or more floating IPs: "
            f"{some(needing)}.",
            hint=f"stackctl floatingip-disassociate {needing[0]}",
        )
    _refuse_routes(writer, router, port, f"Gateway of router {router['name']}")
    _drop(writer, router, port)


def connected(reader: Reader, router: Row) -> list[Connected]:
    """The subnets that a router's ports have addresses in."""
    ports = (port_from(reader, port) for port in router_ports(reader, router["id"]))
    held = [address.subnet_id for port in ports for address in port.addresses]
    return [_connected(reader.get("subnets", subnet_id)) for subnet_id in held]


def own_addresses(reader: Reader, router: Row) -> list[str]:
    """The addresses of a router's ports."""
    ports = (port_from(reader, port) for port in router_ports(reader, router["id"]))
    return [address.address for port in ports for address in port.addresses]


def routes_of(router: Row) -> tuple[HostRoute, ...]:
    """The static routes of a ``routers`` row."""
    return tuple(HostRoute(**route) for route in json.loads(router["routes_json"]))


def _insert(context: Context, writer: Writer, router: Row, network: Row, owner: str) -> str:
    quota.require(writer, context.project_id, "ports", 1)
    row = {
        "id": new_id(),
        "project_id": router["project_id"],
        "network_id": network["id"],
        "device_owner": owner,
        "device_id": router["id"],
        "port_security": 0,
        "created_at": now(),
    }
    allocation.insert_port(writer, network, row, None, secrets.token_bytes)
    return str(row["id"])


def _touch(writer: Writer, router: Row, network_id: str, port_id: str) -> None:
    touch_router(writer, router["id"])
    allocation.touch(writer, network_id, port_id)


def _drop(writer: Writer, router: Row, port: Row) -> None:
    addresses.return_gateways(writer, port["id"])
    allocation.release_port(writer, port["id"])
    touch_router(writer, router["id"])


def _has_all(reader: Reader, port: Row, wanted: Sequence[addresses.WantedAddress]) -> bool:
    """Whether a port has what is wanted already, so that it can stay."""
    held = port_from(reader, port).addresses
    return all(
        any(
            each.subnet_id in (None, have.subnet_id) and each.address in (None, have.address)
            for have in held
        )
        for each in wanted
    )


def _by_family(subnets: Sequence[Row]) -> list[list[Row]]:
    """IPv4 subnets and IPv6 subnets, as far as there are any."""
    families: dict[int, list[Row]] = {}
    for subnet in subnets:
        version = ipaddress.ip_network(subnet["cidr"]).version
        families.setdefault(version, []).append(subnet)
    return [families[version] for version in sorted(families)]


def _refuse_overlap(reader: Reader, router: Row, subnets: Sequence[Row]) -> None:
    """Interfaces are compared with all subnets of the gateway's network: any of them may get a
    floating IP."""
    others = {each.subnet_id: each for each in connected(reader, router)}
    gateway = gateway_of(reader, router)
    if gateway is not None:
        outside = addresses.subnets_of(reader, gateway["network_id"])
        others |= {each["id"]: _connected(each) for each in outside}
    for subnet in subnets:
        refuse_overlap(router["name"], _connected(subnet), others.values())


def _connected(subnet: Row) -> Connected:
    return Connected(subnet["id"], addresses.subnet_label(subnet), subnet["cidr"])


def _refuse_needed(reader: Reader, router: Row, port: Row) -> None:
    held = port_from(reader, port).addresses
    subnets = [reader.get("subnets", each.subnet_id) for each in held]
    what = (
        f"Router interface for subnet {', '.join(map(addresses.subnet_label, subnets))} on router "
        f"{router['name']}"
    )
    nets = [ipaddress.ip_network(subnet["cidr"]) for subnet in subnets]
    tied = reader.all(
        "SELECT address, fixed_address, port_id FROM floating_ips WHERE router_id = ?"
        " AND deleted_at IS NULL AND port_id IS NOT NULL ORDER BY rowid",
        router["id"],
    )
    needing = [
        row["address"]
        for row in tied
        if any(ipaddress.ip_address(row["fixed_address"]) in net for net in nets)
    ]
    if needing:
        raise Conflict(
            f"{what} cannot be deleted, as it is required by one or more floating IPs: "
            f"{some(needing)}.",
            hint=f"stackctl floatingip-disassociate {needing[0]}",
        )
    _refuse_routes(reader, router, port, what)


def _refuse_routes(reader: Reader, router: Row, port: Row, what: str) -> None:
    held = port_from(reader, port).addresses
    cidrs = [reader.get("subnets", each.subnet_id)["cidr"] for each in held]
    needing = routes_through(routes_of(router), cidrs)
    if needing:
        said = some([f"{route.destination} via {route.nexthop}" for route in needing])
        raise Conflict(
            f"{what} cannot be deleted, as it is required by one or more routes: {said}.",
            hint=f"stackctl router-set {router['name']} --no-route",
        )
