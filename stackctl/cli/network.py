"""net-create, -list, -show, -set, -delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled, each_of, settled
from stackctl.cli.subnet import ADDRESS_MODE, IP_VERSION, RA_MODE

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.network.service import Network


def _status(network: Network) -> str:
    return "ACTIVE" if network.admin_up else "DOWN"


def _admin_state(network: Network) -> str:
    return "UP" if network.admin_up else "DOWN"


# The columns of the slides' table of networks.
LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Subnets", "cidrs"),
    Column("Shared", "shared"),
    Column("Status", _status),
    Column("Admin State", _admin_state),
    Column("External", "external", extra=True),
    Column("Type", "type", extra=True),
    Column("Physical Network", "physical_network", extra=True),
    Column("Segmentation ID", "segmentation_id", extra=True),
    Column("MTU", "mtu", extra=True),
    Column("Subnet IDs", "subnets", extra=True),
    Column("Port Security", "port_security", extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Status", _status),
    Column("Admin State", _admin_state),
    Column("Type", "type"),
    Column("Physical Network", "physical_network"),
    Column("Segmentation ID", "segmentation_id"),
    Column("MTU", "mtu"),
    Column("DNS Domain", "domain"),
    Column("Shared", "shared"),
    Column("External", "external"),
    Column("Port Security", "port_security"),
    Column("Subnets", "cidrs"),
    Column("Subnet IDs", "subnets"),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)


_SETTLED = settled(
    "--type",
    "--physical-network",
    "--segmentation-id",
    "--provider-network-type",
    "--provider-physical-network",
    "--provider-segment",
    "--provider:network_type",
    "--provider:physical_network",
    "--provider:segmentation_id",
    why="what carries a network is settled when it is made, since hosts that have heard of it and "
    "hosts that have not would be apart. Make another network and attach servers to it.",
)


@command("net-create")
@changes
@shows(SHOW)
@click.argument("name")
@click.option("--subnet", metavar="CIDR", help="Its first subnet: 192.168.1.0/24, or fd00:1::/64.")
@click.option("--gateway", default="auto", help="Of the subnet: an address, auto or none.")
@click.option(
    "--dns-nameserver", "nameservers", multiple=True, help="Name server of the subnet; repeatable."
)
@IP_VERSION
@RA_MODE
@ADDRESS_MODE
@click.option("--shared", "--share", is_flag=True, help="All projects may use it.")
@click.option(
    "--external",
    "--router:external",
    "external",
    cls=Spelled,
    is_flag=True,
    help="It leads outside: routers may have their gateway on it.",
)
@click.option(
    "--type",
    "--provider-network-type",
    "--provider:network_type",
    "kind",
    cls=Spelled,
    metavar="TYPE",
    help="vxlan, gre, vlan or flat (default: the cloud's own, vxlan).",
)
@click.option(
    "--physical-network",
    "--provider-physical-network",
    "--provider:physical_network",
    "physical_network",
    cls=Spelled,
    help="What a flat or vlan network is on: host-set --bridge-mapping.",
)
@click.option(
    "--segmentation-id",
    "--provider-segment",
    "--provider:segmentation_id",
    "segmentation_id",
    cls=Spelled,
    type=int,
    help="VLAN or tunnel id (default: the lowest free one).",
)
@click.option("--mtu", type=int, help="Bytes in a packet (default: the largest that fits).")
@click.option("--dns-domain", help="Domain of its instances' names.")
@click.option(
    "--enable-port-security/--disable-port-security",
    "port_security",
    default=True,
    help="Whether new ports of it are protected (the default).",
)
@click.option("--disable", "--admin-state-down", is_flag=True, help="Carry no traffic yet.")
def net_create(
    context: Context,
    output: Output,
    name: str,
    subnet: str | None,
    gateway: str,
    nameservers: tuple[str, ...],
    ip_version: int | None,
    ra_mode: str | None,
    address_mode: str | None,
    shared: bool,
    external: bool,
    kind: str | None,
    physical_network: str | None,
    segmentation_id: int | None,
    mtu: int | None,
    dns_domain: str | None,
    port_security: bool,
    disable: bool,
) -> None:
    """Create a network, and with --subnet its first subnet in one step.

    Example: stackctl net-create local --subnet 192.168.1.0/24
    """
    from stackctl.network.service import NewNetwork, NewSubnet, create_network

    of_subnet = (nameservers, gateway != "auto", ip_version, ra_mode, address_mode)
    if subnet is None and any(of_subnet):
        raise click.UsageError(
            "--gateway, --dns-nameserver, --ip-version and the IPv6 modes belong to --subnet CIDR."
        )
    first = NewSubnet(
        subnet or "",
        gateway=gateway,
        dns_nameservers=nameservers,
        ip_version=ip_version,
        ipv6_ra_mode=ra_mode,
        ipv6_address_mode=address_mode,
    )
    wanted = NewNetwork(
        name=name,
        type=kind,
        physical_network=physical_network,
        segmentation_id=segmentation_id,
        mtu=mtu,
        domain=dns_domain,
        shared=shared,
        external=external,
        admin_up=not disable,
        port_security=port_security,
        subnet=first if subnet else None,
    )
    done = create_network(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("net-list")
@lists(LIST)
@click.option(
    "--external/--internal", default=None, help="Only those that lead outside, or do not."
)
def net_list(context: Context, output: Output, external: bool | None) -> None:
    """List the project's networks, and those that others share."""
    from stackctl.network.service import list_networks

    found = list_networks(context)
    output.list([each for each in found if external in (None, each.external)])


@command("net-show")
@shows(SHOW)
@click.argument("network", type=words.NETWORK)
def net_show(context: Context, output: Output, network: str) -> None:
    """Show a network."""
    from stackctl.network.service import show_network

    output.show(show_network(context, network))


@command("net-set")
@changes
@shows(SHOW)
@click.argument("network", type=words.NETWORK)
@click.option("--name", help="Another name.")
@click.option("--share/--no-share", default=None, help="Whether all projects may use it.")
@click.option("--external/--internal", default=None, help="Whether it leads outside.")
@click.option(
    "--enable-port-security/--disable-port-security",
    "port_security",
    default=None,
    help="Whether new ports of it are protected.",
)
@click.option("--enable/--disable", "up", default=None, help="Whether it carries traffic.")
@click.option("--dns-domain", help="Another domain of its instances' names.")
@click.option("--mtu", type=int, help="Bytes in a packet; instances hear of it by DHCP.")
@_SETTLED
def net_set(
    context: Context,
    output: Output,
    network: str,
    name: str | None,
    share: bool | None,
    external: bool | None,
    port_security: bool | None,
    up: bool | None,
    dns_domain: str | None,
    mtu: int | None,
) -> None:
    """Change a network."""
    from stackctl.network.service import NetworkChange, set_network

    change = NetworkChange(
        name=name,
        domain=dns_domain,
        mtu=mtu,
        shared=share,
        external=external,
        admin_up=up,
        port_security=port_security,
    )
    done = set_network(context, network, change)
    output.show(done.value)
    finish(context, done)


@command("net-delete")
@changes
@click.argument("networks", nargs=-1, required=True, type=words.NETWORK)
def net_delete(context: Context, networks: tuple[str, ...]) -> None:
    """Delete networks with their subnets; refused while ports use them."""
    from stackctl.network.service import delete_network

    each_of(context, networks, delete_network, "Deleted network")
