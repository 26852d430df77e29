"""subnet-create, -list, -show, -set, -delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled, at_most, each_of, settled

if TYPE_CHECKING:
    from agent.spec import HostRoute
    from stackctl.identity.context import Context
    from stackctl.network.service import Pool, Subnet

USAGE = "NETWORK CIDR, or --network NETWORK --subnet-range CIDR [NAME]"


def _pools(subnet: Subnet) -> list[str]:
    return [f"{pool.start}-{pool.end}" for pool in subnet.pools]


def _routes(subnet: Subnet) -> list[str]:
    return [f"{route.destination} via {route.nexthop}" for route in subnet.host_routes]


LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Network", "network_name"),
    Column("CIDR", "cidr"),
    Column("Gateway", "gateway"),
    Column("Allocation Pools", _pools),
    Column("DHCP", "dhcp"),
    Column("IP Version", "ip_version", extra=True),
    Column("IPv6 Mode", "ipv6_mode", extra=True),
    Column("DNS Nameservers", "dns_nameservers", extra=True),
    Column("Host Routes", _routes, extra=True),
    Column("Network ID", "network_id", extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (*(Column(column.title, column.value) for column in LIST), Column("Created", "created_at"))


def _pool_of(fields: dict[str, str]) -> Pool:
    from stackctl.network.service import Pool

    if fields.keys() != {"start", "end"}:
        raise click.UsageError("--allocation-pool needs start=ADDRESS,end=ADDRESS.")
    return Pool(fields["start"], fields["end"])


def _route_of(fields: dict[str, str]) -> HostRoute:
    from agent.spec import HostRoute

    nexthop = fields.get("nexthop") or fields.get("gateway")
    if "destination" not in fields or nexthop is None:
        raise click.UsageError("--host-route needs destination=CIDR,nexthop=ADDRESS.")
    return HostRoute(fields["destination"], nexthop)


POOL = click.option(
    "--allocation-pool",
    "pools",
    multiple=True,
    type=words.Fields("start", "end"),
    help="Addresses for ports (default: all but the gateway); repeatable.",
)
NAMESERVER = click.option(
    "--dns-nameserver",
    "nameservers",
    multiple=True,
    help="Name server for its instances; repeatable, at most 5.",
)
ROUTE = click.option(
    "--host-route",
    "routes",
    multiple=True,
    type=words.Fields("destination", "nexthop", "gateway"),
    help="Static route for its instances; repeatable, at most 20.",
)


IP_VERSION = click.option(
    "--ip-version", type=click.IntRange(4, 6), help="Checked against the range, which says it."
)
MODE = click.Choice(["slaac", "dhcpv6-stateful", "dhcpv6-stateless"])
RA_MODE = click.option(
    "--ipv6-ra-mode",
    "ra_mode",
    type=MODE,
    help="How instances get IPv6 addresses (default: slaac in a /64, else dhcpv6-stateful).",
)
ADDRESS_MODE = click.option(
    "--ipv6-address-mode",
    "address_mode",
    type=MODE,
    help="The same as --ipv6-ra-mode; with both, they must be equal.",
)


@command("subnet-create")
@changes
@shows(SHOW)
@click.argument("given", nargs=-1, metavar="NETWORK CIDR", type=words.NETWORK)
@click.option("--name", help="Name of the subnet.")
@click.option("--network", type=words.NETWORK, help="Another way to give the network.")
@click.option("--subnet-range", metavar="CIDR", help="Another way to give the range.")
@click.option("--gateway", default="auto", help="An address, auto (the first) or none.")
@click.option("--no-gateway", is_flag=True, help="The same as --gateway none.")
@POOL
@click.option(
    "--dhcp/--no-dhcp",
    " /--disable-dhcp",
    default=True,
    cls=Spelled,
    older=("--disable-dhcp",),
    help="Whether instances get their addresses by DHCP.",
)
@NAMESERVER
@ROUTE
@IP_VERSION
@RA_MODE
@ADDRESS_MODE
def subnet_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    name: str | None,
    network: str | None,
    subnet_range: str | None,
    gateway: str,
    no_gateway: bool,
    pools: tuple[dict[str, str], ...],
    dhcp: bool,
    nameservers: tuple[str, ...],
    routes: tuple[dict[str, str], ...],
    ip_version: int | None,
    ra_mode: str | None,
    address_mode: str | None,
) -> None:
    """Create a subnet in a network. A network can have IPv4 and IPv6 ones side by side.

    Example: stackctl subnet-create local 192.168.1.0/24 --dns-nameserver 9.9.9.9
    """
    from stackctl.network.service import NewSubnet, create_subnet

    network, cidr, name = _which(given, network, subnet_range, name)
    wanted = NewSubnet(
        cidr=cidr,
        name=name or "",
        gateway="none" if no_gateway else gateway,
        pools=tuple(_pool_of(fields) for fields in pools),
        dhcp=dhcp,
        dns_nameservers=nameservers,
        host_routes=tuple(_route_of(fields) for fields in routes),
        ip_version=ip_version,
        ipv6_ra_mode=ra_mode,
        ipv6_address_mode=address_mode,
    )
    done = create_subnet(context, network, wanted)
    output.show(done.value)
    finish(context, done)


@command("subnet-list")
@lists(LIST)
@click.option("--network", type=words.NETWORK, help="Only those of this network.")
@click.option("--ip-version", type=click.Choice(["4", "6"]), help="Only those of IPv4, or of IPv6.")
def subnet_list(
    context: Context, output: Output, network: str | None, ip_version: str | None
) -> None:
    """List subnets of the networks that the project may use."""
    from stackctl.network.service import list_subnets, show_network

    only = show_network(context, network).subnets if network else None
    found = [each for each in list_subnets(context) if only is None or each.id in only]
    output.list([each for each in found if ip_version in (None, str(each.ip_version))])


@command("subnet-show")
@shows(SHOW)
@click.argument("subnet", type=words.SUBNET)
def subnet_show(context: Context, output: Output, subnet: str) -> None:
    """Show a subnet."""
    from stackctl.network.service import show_subnet

    output.show(show_subnet(context, subnet))


@command("subnet-set")
@changes
@shows(SHOW)
@click.argument("subnet", type=words.SUBNET)
@click.option("--name", help="Another name.")
@click.option("--gateway", help="An address, auto (the first) or none.")
@POOL
@click.option("--dhcp/--no-dhcp", default=None, help="Whether addresses come by DHCP.")
@NAMESERVER
@click.option(
    "--no-dns-nameservers", "no_nameservers", is_flag=True, help="None but those given here."
)
@ROUTE
@click.option(
    "--no-host-routes",
    "--no-host-route",
    "no_routes",
    cls=Spelled,
    older=("--no-host-route",),
    is_flag=True,
    help="None but those given here.",
)
@settled(
    "--ipv6-ra-mode",
    "--ipv6-address-mode",
    "--ip-version",
    "--subnet-range",
    "--cidr",
    "--network",
    why="the addresses that instances have were made by it. Make another subnet for new ones.",
)
def subnet_set(
    context: Context,
    output: Output,
    subnet: str,
    name: str | None,
    gateway: str | None,
    pools: tuple[dict[str, str], ...],
    dhcp: bool | None,
    nameservers: tuple[str, ...],
    no_nameservers: bool,
    routes: tuple[dict[str, str], ...],
    no_routes: bool,
) -> None:
    """Change a subnet. Pools, name servers and routes that are given replace all earlier ones."""
    from stackctl.network.service import SubnetChange, set_subnet

    change = SubnetChange(
        name=name,
        gateway=gateway,
        pools=tuple(_pool_of(fields) for fields in pools) or None,
        dhcp=dhcp,
        dns_nameservers=nameservers or (() if no_nameservers else None),
        host_routes=tuple(_route_of(fields) for fields in routes) or (() if no_routes else None),
    )
    done = set_subnet(context, subnet, change)
    output.show(done.value)
    finish(context, done)


@command("subnet-delete")
@changes
@click.argument("subnets", nargs=-1, required=True, type=words.SUBNET)
def subnet_delete(context: Context, subnets: tuple[str, ...]) -> None:
    """Delete subnets; refused while ports have addresses in them."""
    from stackctl.network.service import delete_subnet

    each_of(context, subnets, delete_subnet, "Deleted subnet")


def _which(
    given: tuple[str, ...], network: str | None, cidr: str | None, name: str | None
) -> tuple[str, str, str | None]:
    """Network, range and name, in neutron's order of words or with openstack's options."""
    left = list(given)
    at_most(left, 2, USAGE)
    if network is None and left:
        network = left.pop(0)
    if cidr is None and left:
        cidr = left.pop(0)
    if name is None and left:
        name = left.pop(0)
    if left or network is None or cidr is None:
        raise click.UsageError(f"Give {USAGE}.")
    return network, cidr, name
