"""port-create, -list, -show, -set, -delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import at_most, each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.network.service import FixedIp, Port


def _addresses(port: Port) -> list[str]:
    return [address.address for address in port.addresses]


LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("MAC Address", "mac"),
    Column("Fixed IP Addresses", _addresses),
    Column("Network", "network_name"),
    Column("Server", "server_name"),
    Column("Status", "status"),
    Column("Device Owner", "device_owner", extra=True),
    Column("Device ID", "device_id", extra=True),
    Column("Hostname", "hostname", extra=True),
    Column("Network ID", "network_id", extra=True),
    Column("Subnet IDs", lambda port: [each.subnet_id for each in port.addresses], extra=True),
    Column("Admin State", lambda port: "UP" if port.admin_up else "DOWN", extra=True),
    Column("Port Security", "port_security", extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (*(Column(column.title, column.value) for column in LIST), Column("Created", "created_at"))

FIXED_IP = words.Fields("subnet", "subnet_id", "ip-address", "ip_address")


def _fixed_ips(given: tuple[dict[str, str], ...]) -> tuple[FixedIp, ...]:
    from stackctl.network.service import FixedIp

    return tuple(
        FixedIp(
            fields.get("subnet") or fields.get("subnet_id"),
            fields.get("ip-address") or fields.get("ip_address"),
        )
        for fields in given
    )


@command("port-create")
@changes
@shows(SHOW)
@click.argument("given", nargs=-1, metavar="NETWORK", type=words.NETWORK)
@click.option("--network", type=words.NETWORK, help="Another way to give the network.")
@click.option("--name", help="Name of the port.")
@click.option(
    "--fixed-ip",
    "fixed_ips",
    multiple=True,
    type=FIXED_IP,
    help="subnet=SUBNET,ip-address=ADDRESS, or one of them; repeatable.",
)
@click.option("--mac-address", "mac", help="Its MAC address (default: a random fa:16:3e one).")
@click.option("--disable", "--admin-state-down", is_flag=True, help="Carry no traffic yet.")
def port_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    network: str | None,
    name: str | None,
    fixed_ips: tuple[dict[str, str], ...],
    mac: str | None,
    disable: bool,
) -> None:
    """Create a port, to boot a server with it: boot --nic port=PORT.

    Example: stackctl port-create local --name head --fixed-ip ip-address=192.168.1.2
    """
    from stackctl.network.service import NewPort, create_port

    left = list(given)
    at_most(left, 1, "NETWORK, or --network NETWORK [NAME]")
    if network is None and left:
        network = left.pop(0)
    if network is None or (left and name):
        raise click.UsageError("Give NETWORK, or --network NETWORK [NAME].")
    wanted = NewPort(
        network=network,
        name=name or (left[0] if left else ""),
        fixed_ips=_fixed_ips(fixed_ips),
        mac=mac,
        admin_up=not disable,
    )
    done = create_port(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("port-list")
@lists(LIST)
@click.option("--network", type=words.NETWORK, help="Only those of this network.")
@click.option("--server", type=words.SERVER, help="Only those of this server.")
def port_list(context: Context, output: Output, network: str | None, server: str | None) -> None:
    """List the project's ports."""
    from stackctl.compute.views import show_server
    from stackctl.network.service import list_ports

    server_id = show_server(context, server).id if server else None
    output.list(list_ports(context, network=network, server_id=server_id))


@command("port-show")
@shows(SHOW)
@click.argument("port", type=words.PORT)
def port_show(context: Context, output: Output, port: str) -> None:
    """Show a port."""
    from stackctl.network.service import show_port

    output.show(show_port(context, port))


@command("port-set")
@changes
@shows(SHOW)
@click.argument("port", type=words.PORT)
@click.option("--name", help="Another name.")
@click.option(
    "--fixed-ip",
    "fixed_ips",
    multiple=True,
    type=FIXED_IP,
    help="The addresses that it shall have, instead of those it has; repeatable.",
)
@click.option("--no-fixed-ip", "no_fixed_ips", is_flag=True, help="No address any more.")
@click.option("--mac-address", "mac", help="Another MAC address; not while a server has it.")
@click.option("--enable/--disable", "up", default=None, help="Whether it carries traffic.")
def port_set(
    context: Context,
    output: Output,
    port: str,
    name: str | None,
    fixed_ips: tuple[dict[str, str], ...],
    no_fixed_ips: bool,
    mac: str | None,
    up: bool | None,
) -> None:
    """Change a port."""
    from stackctl.network.service import PortChange, set_port

    change = PortChange(
        name=name,
        fixed_ips=() if no_fixed_ips else _fixed_ips(fixed_ips) or None,
        mac=mac,
        admin_up=up,
    )
    done = set_port(context, port, change)
    output.show(done.value)
    finish(context, done)


@command("port-delete")
@changes
@click.argument("ports", nargs=-1, required=True, type=words.PORT)
def port_delete(context: Context, ports: tuple[str, ...]) -> None:
    """Delete ports; refused while a server has them."""
    from stackctl.network.service import delete_port

    each_of(context, ports, delete_port, "Deleted port")
