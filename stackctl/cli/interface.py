"""interface-attach, -detach, -list: the NICs of servers that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, say, shows
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.network.types import Port

LIST = (
    Column("Port State", "status"),
    Column("Port ID", "id"),
    Column("Network", "network_name"),
    Column("IP Addresses", lambda port: [each.address for each in port.addresses]),
    Column("MAC Address", "mac"),
    Column("Name", "name", extra=True),
    Column("Network ID", "network_id", extra=True),
    Column("Hostname", "hostname", extra=True),
)

SHOW = (
    Column("Server", "server_name"),
    *(Column(column.title, column.value) for column in LIST[1:]),
)


@command("interface-attach")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
@click.argument("port_word", metavar="[PORT]", required=False, type=words.PORT)
@click.option("--port", "--port-id", "port", type=words.PORT, help="A port made before.")
@click.option(
    "--net", "--net-id", "--network", "network", type=words.NETWORK, help="A new port in there."
)
@click.option(
    "--fixed-ip",
    "--fixed-ip-address",
    "address",
    cls=Spelled,
    older=("--fixed-ip-address",),
    help="With --net: this address instead of the next free one.",
)
@click.option(
    "--by",
    type=click.Choice(["port", "net"]),
    default="port",
    hidden=True,
    help="What the second word is.",
)
def interface_attach(
    context: Context,
    output: Output,
    server: str,
    port_word: str | None,
    port: str | None,
    network: str | None,
    address: str | None,
    by: str,
) -> None:
    """Give a server another NIC; one that runs gets it at once.

    Example: stackctl interface-attach web --net storage --fixed-ip 10.9.0.20
    """
    from stackctl.compute import interfaces
    from stackctl.compute.types import Nic

    ports = [word for word in (port, port_word if by == "port" else None) if word]
    networks = [word for word in (network, port_word if by == "net" else None) if word]
    if len(ports) + len(networks) != 1:
        raise UsageError("Give either a port (--port PORT) or a network (--net NETWORK).")
    nic = Nic(network="".join(networks) or None, address=address, port="".join(ports) or None)
    done = interfaces.attach_interface(context, server, nic)
    output.show(done.value)
    finish(context, done)


@command("interface-detach")
@changes
@click.argument("server", type=words.SERVER)
@click.argument("port", type=words.PORT)
def interface_detach(context: Context, server: str, port: str) -> None:
    """Take a NIC from a server: PORT is its port's id or name, its MAC or an address.

    A guest that runs is asked to release it. A port that was made for the server is deleted,
    one that was made before is free again.
    """
    from stackctl.compute import interfaces

    done = interfaces.detach_interface(context, server, port)
    finish(context, done)
    if not context.dry_run:
        say(f"Detached port {_label(done.value)} from {done.value.server_name}.")


def _label(port: Port) -> str:
    return " ".join([port.name or port.id, *(each.address for each in port.addresses)])


@command("interface-list")
@lists(LIST)
@click.argument("server", type=words.SERVER)
def interface_list(context: Context, output: Output, server: str) -> None:
    """List a server's ports in the order of its NICs."""
    from stackctl.compute import interfaces

    output.list(interfaces.list_interfaces(context, server))
