"""Routers: create, list, show, change and delete them; their interfaces and gateways."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from agent.spec import HostRoute
from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context, named, own_rows
from stackctl.names import checked_name
from stackctl.network import addresses, router_placing, router_ports
from stackctl.network.finding import own_port, own_router, visible_network, visible_subnet
from stackctl.network.floating_rows import touch_router
from stackctl.network.ports import FixedIp
from stackctl.network.router_rules import checked_routes
from stackctl.network.types import INTERFACE_OWNER, Router, router_from
from stackctl.operation.outcome import Done
from stackctl.operation.resource import as_it_became, change_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read

_LIVE_NAME = "(project_id, name) WHERE deleted_at IS NULL"


@dataclass(frozen=True)
class NewRouter:
    """What is asked for. ``gateway`` is an external network, ``fixed_ips`` its addresses there;
    ``host`` is the only one that the router may be on."""

    name: str
    gateway: str | None = None
    fixed_ips: tuple[FixedIp, ...] = ()
    snat: bool = True
    admin_up: bool = True
    host: str | None = None


@dataclass(frozen=True)
class RouterChange:
    """What shall be different; None leaves it as it is.

    ``gateway`` is another external network, or this one with other ``fixed_ips``;
    ``no_gateway`` takes it away. ``no_routes`` drops all routes, then ``drop_routes`` those that
    are named, then ``add_routes`` come.
    """

    name: str | None = None
    admin_up: bool | None = None
    snat: bool | None = None
    gateway: str | None = None
    fixed_ips: tuple[FixedIp, ...] = ()
    no_gateway: bool = False
    no_routes: bool = False
    drop_routes: tuple[HostRoute, ...] = ()
    add_routes: tuple[HostRoute, ...] = ()


def create_router(context: Context, wanted: NewRouter) -> Done[Router]:
    """Make a router, and its gateway where one is wanted.

    Conflict: the name is taken, or the gateway cannot be. NoCapacity: no host has its networks.
    QuotaExceeded: the project has its share.
    """
    name = checked_name("router", wanted.name)
    _refuse_homeless_addresses(wanted.fixed_ips, wanted.gateway)

    def work(writer: Writer) -> Router:
        quota.require(writer, context.project_id, "routers", 1)
        router = _insert(context, writer, wanted)
        if wanted.gateway is not None:
            network = visible_network(context, writer, wanted.gateway)
            router_ports.set_gateway(context, writer, router, network, wanted.fixed_ips)
        return _settled(writer, router)

    done = change_one(context, "create", "router", name, asdict(wanted), work, router_from)
    return as_it_became(context, done, "router", router_from)


def list_routers(context: Context) -> list[Router]:
    """The project's routers, oldest first."""
    with read(context.cloud) as reader:
        return [router_from(reader, row) for row in own_rows(context, reader, "routers")]


def show_router(context: Context, word: str) -> Router:
    """One router by name or id."""
    with read(context.cloud) as reader:
        return router_from(reader, own_router(context, reader, word))


def set_router(context: Context, word: str, change: RouterChange) -> Done[Router]:
    """Change a router; its host is brought up to date.

    Conflict: the name is taken, or floating IPs or routes need the gateway. UsageError: routes
    that lead nowhere.
    """
    if change == RouterChange():
        raise UsageError("Nothing to change was given.", hint="stackctl router-set --help")
    _refuse_homeless_addresses(change.fixed_ips, change.gateway)
    if change.no_gateway and change.gateway is not None:
        raise UsageError("Either another gateway or none.")

    def work(writer: Writer, router: Row) -> None:
        _set_columns(writer, router, change)
        # Routes that go with the gateway must not keep it.
        dropped = _left_routes(router, change)
        writer.update("routers", router["id"], routes_json=_routes_json(dropped))
        if change.no_gateway:
            router_ports.clear_gateway(writer, writer.get("routers", router["id"]))
        if change.gateway is not None:
            network = visible_network(context, writer, change.gateway)
            current = writer.get("routers", router["id"])
            router_ports.set_gateway(context, writer, current, network, change.fixed_ips)
        _add_routes(writer, router["id"], change.add_routes)

    return _change(context, "set", word, asdict(change), work)


def delete_router(context: Context, word: str) -> Done[Router]:
    """Delete a router with its gateway; Conflict while it has interfaces."""

    def work(writer: Writer) -> Router:
        router = own_router(context, writer, word)
        value = router_from(writer, router)
        if value.interfaces:
            nets = ", ".join(cidr for port in value.interfaces for cidr in port.cidrs)
            raise Conflict(
                f"Router {router['name']} still has ports: interfaces in {nets}.",
                hint=f"stackctl router-interface-delete {router['name']} SUBNET",
            )
        router_ports.drop_gateway(writer, router)
        _settled(writer, router)
        writer.update("routers", router["id"], deleted_at=now(), status="DOWN")
        return value

    return change_one(context, "delete", "router", word, {}, work, router_from)


def add_interface(
    context: Context, word: str, *, subnet: str | None = None, port: str | None = None
) -> Done[Router]:
    """Connect a router with a subnet, by its gateway's address, or by a port made for it.

    Conflict: no gateway, address or port in use, or an overlap with another of its subnets.
    NoCapacity: no host has all its networks.
    """
    _require_one(subnet, port)

    def work(writer: Writer, router: Row) -> None:
        if port is not None:
            router_ports.add_port_interface(writer, router, own_port(context, writer, port))
        elif subnet is not None:
            row = visible_subnet(context, writer, subnet)
            router_ports.add_subnet_interface(context, writer, router, row)

    return _change(context, "interface-add", word, {"subnet": subnet, "port": port}, work)


def remove_interface(
    context: Context, word: str, *, subnet: str | None = None, port: str | None = None
) -> Done[Router]:
    """Disconnect a router from a subnet; Conflict while floating IPs or routes need it."""
    _require_one(subnet, port)

    def work(writer: Writer, router: Row) -> None:
        if port is not None:
            found = _interface_port(context, writer, router, port)
        else:
            found = _interface_in(context, writer, router, str(subnet))
        router_ports.remove_interface(writer, router, found)

    return _change(context, "interface-delete", word, {"subnet": subnet, "port": port}, work)


def set_gateway(
    context: Context,
    word: str,
    network_word: str,
    *,
    fixed_ips: tuple[FixedIp, ...] = (),
    snat: bool | None = None,
) -> Done[Router]:
    """Give a router its gateway in an external network, in the place of the one it has.

    Conflict: not external, an overlap, address in use, or floating IPs need the present one.
    """
    change = RouterChange(gateway=network_word, fixed_ips=fixed_ips, snat=snat)
    return set_router(context, word, change)


def clear_gateway(context: Context, word: str) -> Done[Router]:
    """Take a router's gateway; Conflict while floating IPs or routes need it."""
    return set_router(context, word, RouterChange(no_gateway=True))


def _insert(context: Context, writer: Writer, wanted: NewRouter) -> Row:
    host = find(writer, "hosts", wanted.host, noun="host") if wanted.host is not None else None
    row = {
        "id": new_id(),
        "project_id": context.project_id,
        "name": wanted.name,
        "host_asked": host["id"] if host else None,
        "admin_up": int(wanted.admin_up),
        "snat": int(wanted.snat),
        "created_at": now(),
    }
    if not writer.insert_if_free("routers", row, _LIVE_NAME):
        raise _name_taken(wanted.name)
    return writer.get("routers", str(row["id"]))


def _change(
    context: Context,
    action: str,
    word: str,
    arguments: dict[str, object],
    work: Callable[[Writer, Row], None],
) -> Done[Router]:
    """One operation on a router: what it does, then where the router is because of it."""

    def whole(writer: Writer) -> Router:
        router = own_router(context, writer, word)
        work(writer, router)
        return _settled(writer, router)

    done = change_one(context, action, "router", word, arguments, whole, router_from)
    return as_it_became(context, done, "router", router_from)


def _settled(writer: Writer, router: Row) -> Router:
    router_placing.settle(writer, router["id"])
    return router_from(writer, writer.get("routers", router["id"]))


def _set_columns(writer: Writer, router: Row, change: RouterChange) -> None:
    touch_router(writer, router["id"])
    if change.name is not None and change.name != router["name"]:
        name = checked_name("router", change.name)
        if named(writer, "routers", router["project_id"], name):
            raise _name_taken(name)
        writer.update("routers", router["id"], name=name)
    if change.admin_up is not None:
        writer.update("routers", router["id"], admin_up=int(change.admin_up))
    if change.snat is not None:
        writer.update("routers", router["id"], snat=int(change.snat))


def _left_routes(router: Row, change: RouterChange) -> tuple[HostRoute, ...]:
    if change.no_routes:
        return ()
    routes = router_ports.routes_of(router)
    for route in change.drop_routes:
        if route not in routes:
            raise NotFound(
                f"Router {router['name']} has no route to {route.destination} via {route.nexthop}.",
                hint=f"stackctl router-show {router['name']}",
            )
    return tuple(route for route in routes if route not in change.drop_routes)


def _add_routes(writer: Writer, router_id: str, new: tuple[HostRoute, ...]) -> None:
    if not new:
        return
    router = writer.get("routers", router_id)
    have = router_ports.routes_of(router)
    cidrs = [each.cidr for each in router_ports.connected(writer, router)]
    own = router_ports.own_addresses(writer, router)
    routes = checked_routes((*have, *(route for route in new if route not in have)), cidrs, own)
    writer.update("routers", router_id, routes_json=_routes_json(routes))


def _routes_json(routes: tuple[HostRoute, ...]) -> str:
    return json.dumps([asdict(route) for route in routes])


def _interface_port(context: Context, reader: Reader, router: Row, word: str) -> Row:
    port = own_port(context, reader, word)
    if port["device_id"] != router["id"] or port["device_owner"] != INTERFACE_OWNER:
        raise _no_interface(router, f"with port {port['name'] or port['id']}")
    return port


def _interface_in(context: Context, reader: Reader, router: Row, word: str) -> Row:
    subnet = visible_subnet(context, reader, word)
    found = router_ports.interface_in(reader, router, subnet)
    if found is None:
        raise _no_interface(router, f"on subnet {addresses.subnet_label(subnet)}")
    return found


def _no_interface(router: Row, where: str) -> NotFound:
    return NotFound(
        f"Router {router['name']} does not have an interface {where}.",
        hint=f"stackctl router-show {router['name']}",
    )


def _name_taken(name: str) -> Conflict:
    return Conflict(f"There is a router called '{name}' already.", hint="stackctl router-list")


def _require_one(subnet: str | None, port: str | None) -> None:
    if (subnet is None) == (port is None):
        raise UsageError("An interface is given by its subnet or by its port.")


def _refuse_homeless_addresses(fixed_ips: tuple[FixedIp, ...], network: str | None) -> None:
    if fixed_ips and network is None:
        raise UsageError("An address of the gateway needs its network: --external-gateway NET.")
