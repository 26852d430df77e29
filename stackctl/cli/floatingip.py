"""floatingip-create, -list, -show, -delete, -associate, -disassociate; nova's spelling of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context

LIST = (
    Column("ID", "id"),
    Column("Floating IP Address", "address"),
    Column("Fixed IP Address", "fixed_address"),
    Column("Server", "server_name"),
    Column("Port", "port_id"),
    Column("Floating Network", "network_name"),
    Column("Router", "router_name"),
    Column("Status", "status"),
    Column("Description", "description", extra=True),
    Column("Floating Network ID", "network_id", extra=True),
    Column("Router ID", "router_id", extra=True),
    Column("Subnet ID", "subnet_id", extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (*(Column(column.title, column.value) for column in LIST), Column("Created", "created_at"))

FIXED = click.option(
    "--fixed-ip-address", "fixed_address", help="Which of the port's addresses (if several)."
)


@command("floatingip-create")
@changes
@shows(SHOW)
@click.argument("network", type=words.NETWORK)
@click.option("--port", type=words.PORT, help="Let it stand for this port at once.")
@click.option("--server", type=words.SERVER, help="Let it stand for this server at once.")
@FIXED
@click.option("--floating-ip-address", "address", help="This address (default: the next one).")
@click.option("--subnet", type=words.SUBNET, help="An address of this subnet.")
@click.option("--description", default="", help="What it is for.")
def floatingip_create(
    context: Context,
    output: Output,
    network: str,
    port: str | None,
    server: str | None,
    fixed_address: str | None,
    address: str | None,
    subnet: str | None,
    description: str,
) -> None:
    """Take an address of an external network.

    Example: stackctl floatingip-create public --server web
    """
    from stackctl.network.service import NewFloatingIp, Target, create_floating_ip

    if port and server:
        raise click.UsageError("Either --port or --server.")
    if fixed_address and not (port or server):
        raise click.UsageError("--fixed-ip-address needs --port or --server.")
    wanted = NewFloatingIp(
        network=network,
        address=address,
        subnet=subnet,
        target=Target(port, server, None, fixed_address) if port or server else None,
        description=description,
    )
    done = create_floating_ip(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("floatingip-list")
@lists(LIST)
@click.option("--network", type=words.NETWORK, help="Only those of this external network.")
@click.option("--port", type=words.PORT, help="Only those of this port.")
@click.option("--router", type=words.ROUTER, help="Only those that this router carries.")
@click.option("--status", type=click.Choice(["ACTIVE", "DOWN"]), help="Only those in this state.")
def floatingip_list(
    context: Context,
    output: Output,
    network: str | None,
    port: str | None,
    router: str | None,
    status: str | None,
) -> None:
    """List the project's floating IPs."""
    from stackctl.network.service import list_floating_ips

    found = list_floating_ips(context, network=network, port=port, router=router)
    output.list([each for each in found if status in (None, each.status)])


@command("floatingip-show")
@shows(SHOW)
@click.argument("floating_ip", metavar="FLOATING_IP", type=words.FLOATING_IP)
def floatingip_show(context: Context, output: Output, floating_ip: str) -> None:
    """Show a floating IP, given by its address or id."""
    from stackctl.network.service import show_floating_ip

    output.show(show_floating_ip(context, floating_ip))


@command("floatingip-delete")
@changes
@click.argument(
    "floating_ips", metavar="FLOATING_IP...", nargs=-1, required=True, type=words.FLOATING_IP
)
def floatingip_delete(context: Context, floating_ips: tuple[str, ...]) -> None:
    """Give floating IPs back; what they stood for is no longer reached by them."""
    from stackctl.network.service import delete_floating_ip

    each_of(context, floating_ips, delete_floating_ip, "Deleted floating IP")


@command("floatingip-associate")
@changes
@shows(SHOW)
@click.argument("floating_ip", metavar="FLOATING_IP", type=words.FLOATING_IP)
@click.argument("target", metavar="PORT|SERVER", required=False, type=words.SERVER)
@click.option("--port", type=words.PORT, help="Another way to give the port.")
@click.option("--server", type=words.SERVER, help="Another way to give the server.")
@FIXED
def floatingip_associate(
    context: Context,
    output: Output,
    floating_ip: str,
    target: str | None,
    port: str | None,
    server: str | None,
    fixed_address: str | None,
) -> None:
    """Let a floating IP stand for a port or a server, whatever it stood for before.

    Example: stackctl floatingip-associate 203.0.113.9 web
    """
    from stackctl.network.service import Target, associate

    if sum(1 for word in (target, port, server) if word) != 1:
        raise click.UsageError("Give PORT or SERVER, once.")
    done = associate(context, floating_ip, Target(port, server, target, fixed_address))
    output.show(done.value)
    finish(context, done)


@command("floatingip-disassociate")
@changes
@shows(SHOW)
@click.argument("floating_ip", metavar="FLOATING_IP", type=words.FLOATING_IP)
@click.option("--port", is_flag=True, hidden=True, help="As `floating ip unset --port` has it.")
def floatingip_disassociate(context: Context, output: Output, floating_ip: str, port: bool) -> None:
    """Let a floating IP stand for nothing; it stays the project's."""
    from stackctl.network.service import disassociate

    done = disassociate(context, floating_ip)
    output.show(done.value)
    finish(context, done)


@command("add-floating-ip")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
@click.argument("floating_ip", metavar="FLOATING_IP", type=words.FLOATING_IP)
@click.option(
    "--fixed-ip-address",
    "--fixed-address",
    "fixed_address",
    help="Which of the server's addresses (if several).",
)
def add_floating_ip(
    context: Context, output: Output, server: str, floating_ip: str, fixed_address: str | None
) -> None:
    """Give a server a floating IP that the project has."""
    from stackctl.network.service import Target, associate

    done = associate(context, floating_ip, Target(server=server, fixed_address=fixed_address))
    output.show(done.value)
    finish(context, done)


@command("remove-floating-ip")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
@click.argument("floating_ip", metavar="FLOATING_IP", type=words.FLOATING_IP)
def remove_floating_ip(context: Context, output: Output, server: str, floating_ip: str) -> None:
    """Take a floating IP from a server; it stays the project's."""
    from stackctl.network.service import disassociate

    done = disassociate(context, floating_ip, server=server)
    output.show(done.value)
    finish(context, done)
