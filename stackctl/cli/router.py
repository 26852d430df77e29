"""router-create, -list, -show, -set, -unset, -delete, -move; their interfaces and gateways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.port import FIXED_IP, fixed_ips_of
from stackctl.cli.render import Column
from stackctl.cli.several import each_of, settled

if TYPE_CHECKING:
    from agent.spec import HostRoute
    from stackctl.identity.context import Context
    from stackctl.network.service import Router


def _gateway_network(router: Router) -> str | None:
    return router.gateway.network_name if router.gateway else None


def _gateway_addresses(router: Router) -> list[str]:
    return [each.address for each in router.gateway.addresses] if router.gateway else []


def _interfaces(router: Router) -> list[str]:
    return [
        f"{address.address} in {port.network_name}"
        for port in router.interfaces
        for address in port.addresses
    ]


def _routes(router: Router) -> list[str]:
    return [f"{route.destination} via {route.nexthop}" for route in router.routes]


def _admin_state(router: Router) -> str:
    return "UP" if router.admin_up else "DOWN"


LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Status", "status"),
    Column("Admin State", _admin_state),
    Column("External Network", _gateway_network),
    Column("External IP", _gateway_addresses),
    Column("Interfaces", _interfaces),
    Column("Host", "host"),
    Column("SNAT", "snat", extra=True),
    Column("Routes", _routes, extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Status", "status"),
    Column("Admin State", _admin_state),
    Column("Host", "host"),
    Column("Pinned", "pinned"),
    Column("External Network", _gateway_network),
    Column("External IP", _gateway_addresses),
    Column("SNAT", "snat"),
    Column("Interfaces", _interfaces),
    Column("Interface Ports", lambda router: [port.port_id for port in router.interfaces]),
    Column("Routes", _routes),
    Column("Fault", lambda router: router.fault or None),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)

SNAT = click.option(
    "--enable-snat/--disable-snat",
    "snat",
    default=None,
    help="Whether what leaves without a floating IP gets the gateway's address (default: yes).",
)
GATEWAY_IP = click.option(
    "--fixed-ip",
    "fixed_ips",
    multiple=True,
    type=FIXED_IP,
    help="Of the gateway: subnet=SUBNET,ip-address=ADDRESS, or one of them; repeatable.",
)
ROUTE_FIELDS = words.Fields("destination", "gateway", "nexthop")


def _route_of(fields: dict[str, str]) -> HostRoute:
    from agent.spec import HostRoute

    nexthop = fields.get("gateway") or fields.get("nexthop")
    if "destination" not in fields or nexthop is None:
        raise click.UsageError("--route needs destination=CIDR,gateway=ADDRESS.")
    return HostRoute(fields["destination"], nexthop)


@command("router-create")
@changes
@shows(SHOW)
@click.argument("name")
@click.option(
    "--external-gateway", "gateway", type=words.NETWORK, help="External network of its gateway."
)
@GATEWAY_IP
@SNAT
@click.option("--disable", "--admin-state-down", is_flag=True, help="Forward nothing yet.")
@click.option("--host", type=words.HOST, help="Only on this host (default: chosen for it).")
def router_create(
    context: Context,
    output: Output,
    name: str,
    gateway: str | None,
    fixed_ips: tuple[dict[str, str], ...],
    snat: bool | None,
    disable: bool,
    host: str | None,
) -> None:
    """Create a router.

    Example: stackctl router-create edge --external-gateway public
    """
    from stackctl.network.service import NewRouter, create_router

    wanted = NewRouter(
        name=name,
        gateway=gateway,
        fixed_ips=fixed_ips_of(fixed_ips),
        snat=snat is not False,
        admin_up=not disable,
        host=host,
    )
    done = create_router(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("router-list")
@lists(LIST)
def router_list(context: Context, output: Output) -> None:
    """List the project's routers."""
    from stackctl.network.service import list_routers

    output.list(list_routers(context))


@command("router-show")
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
def router_show(context: Context, output: Output, router: str) -> None:
    """Show a router."""
    from stackctl.network.service import show_router

    output.show(show_router(context, router))


@command("router-set")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.option("--name", help="Another name.")
@click.option("--enable/--disable", "up", default=None, help="Whether it forwards anything.")
@click.option(
    "--external-gateway", "gateway", type=words.NETWORK, help="External network of its gateway."
)
@GATEWAY_IP
@SNAT
@click.option(
    "--route",
    "routes",
    multiple=True,
    type=ROUTE_FIELDS,
    help="One more static route: destination=CIDR,gateway=ADDRESS; repeatable, at most 30.",
)
@click.option("--no-route", "no_routes", is_flag=True, help="None of the routes it has any more.")
@settled("--host", why="router-move takes a router to another host, and its pin along.")
def router_set(
    context: Context,
    output: Output,
    router: str,
    name: str | None,
    up: bool | None,
    gateway: str | None,
    fixed_ips: tuple[dict[str, str], ...],
    snat: bool | None,
    routes: tuple[dict[str, str], ...],
    no_routes: bool,
) -> None:
    """Change a router. Routes that are given come to those it has; --no-route drops these."""
    from stackctl.network.service import RouterChange, set_router

    change = RouterChange(
        name=name,
        admin_up=up,
        snat=snat,
        gateway=gateway,
        fixed_ips=fixed_ips_of(fixed_ips),
        no_routes=no_routes,
        add_routes=tuple(_route_of(fields) for fields in routes),
    )
    done = set_router(context, router, change)
    output.show(done.value)
    finish(context, done)


@command("router-unset")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.option("--external-gateway", "no_gateway", is_flag=True, help="Its gateway.")
@click.option(
    "--route",
    "routes",
    multiple=True,
    type=ROUTE_FIELDS,
    help="A static route: destination=CIDR,gateway=ADDRESS; repeatable.",
)
def router_unset(
    context: Context,
    output: Output,
    router: str,
    no_gateway: bool,
    routes: tuple[dict[str, str], ...],
) -> None:
    """Take its gateway, or some of its routes, from a router."""
    from stackctl.network.service import RouterChange, set_router

    dropped = tuple(_route_of(fields) for fields in routes)
    done = set_router(context, router, RouterChange(no_gateway=no_gateway, drop_routes=dropped))
    output.show(done.value)
    finish(context, done)


@command("router-delete")
@changes
@click.argument("routers", nargs=-1, required=True, type=words.ROUTER)
def router_delete(context: Context, routers: tuple[str, ...]) -> None:
    """Delete routers; refused while they have interfaces."""
    from stackctl.network.service import delete_router

    each_of(context, routers, delete_router, "Deleted router")


@command("router-move")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.argument("host", required=False, type=words.HOST)
def router_move(context: Context, output: Output, router: str, host: str | None) -> None:
    """Move a router to HOST, or to the best other host.

    It is taken off its host before it comes up on the other one; connections through it that have
    no floating IP end. A host that does not answer has to be fenced first: host-fence.
    """
    from stackctl.network.service import move_router

    done = move_router(context, router, host)
    output.show(done.value)
    finish(context, done)


@command("router-interface-add")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.argument("subnet", metavar="SUBNET|port=PORT", type=words.SUBNET)
def router_interface_add(context: Context, output: Output, router: str, subnet: str) -> None:
    """Connect a router with a subnet: it gets the address of the subnet's gateway.

    With port=PORT it gets that port, with the addresses that the port has.
    """
    from stackctl.network.service import add_interface

    done = add_interface(context, router, **_which(subnet))
    output.show(done.value)
    finish(context, done)


@command("router-interface-delete")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.argument("subnet", metavar="SUBNET|port=PORT", type=words.SUBNET)
def router_interface_delete(context: Context, output: Output, router: str, subnet: str) -> None:
    """Disconnect a router from a subnet; refused while floating IPs or routes need that.

    The port goes, too; with port=PORT it is named itself.
    """
    from stackctl.network.service import remove_interface

    done = remove_interface(context, router, **_which(subnet))
    output.show(done.value)
    finish(context, done)


@command("router-port-add")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.argument("port", type=words.PORT)
def router_port_add(context: Context, output: Output, router: str, port: str) -> None:
    """Connect a router by a port that was made for it, with the addresses that the port has."""
    from stackctl.network.service import add_interface

    done = add_interface(context, router, port=port)
    output.show(done.value)
    finish(context, done)


@command("router-port-delete")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.argument("port", type=words.PORT)
def router_port_delete(context: Context, output: Output, router: str, port: str) -> None:
    """Take an interface from a router by its port, which goes, too."""
    from stackctl.network.service import remove_interface

    done = remove_interface(context, router, port=port)
    output.show(done.value)
    finish(context, done)


@command("router-gateway-set")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
@click.argument("network", type=words.NETWORK)
@GATEWAY_IP
@SNAT
def router_gateway_set(
    context: Context,
    output: Output,
    router: str,
    network: str,
    fixed_ips: tuple[dict[str, str], ...],
    snat: bool | None,
) -> None:
    """Give a router its gateway in an external network, in the place of the one it has.

    Example: stackctl router-gateway-set edge public --fixed-ip ip-address=203.0.113.7
    """
    from stackctl.network.service import set_gateway

    done = set_gateway(context, router, network, fixed_ips=fixed_ips_of(fixed_ips), snat=snat)
    output.show(done.value)
    finish(context, done)


@command("router-gateway-clear")
@changes
@shows(SHOW)
@click.argument("router", type=words.ROUTER)
def router_gateway_clear(context: Context, output: Output, router: str) -> None:
    """Take its gateway from a router; refused while floating IPs or routes need it."""
    from stackctl.network.service import clear_gateway

    done = clear_gateway(context, router)
    output.show(done.value)
    finish(context, done)


def _which(word: str) -> dict[str, str]:
    """What neutron's words mean: SUBNET, subnet=SUBNET or port=PORT."""
    key, sign, rest = word.partition("=")
    if sign and rest and key in ("subnet", "port"):
        return {key: rest}
    return {"subnet": word}
