"""port-create, -list, -show, -set, -delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled, at_most, each_of
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.network.service import (
        AddressPair,
        FixedIp,
        NewDhcpOption,
        Port,
    )


def _addresses(port: Port) -> list[str]:
    return [address.address for address in port.addresses]


def _pairs(port: Port) -> list[dict[str, str]]:
    return [
        {"ip-address": pair.cidr} | ({"mac-address": pair.mac} if pair.mac else {})
        for pair in port.allowed_pairs
    ]


def _options(port: Port) -> list[dict[str, Any]]:
    from stackctl.network.dhcp_options import option_name

    return [
        {"name": option_name(each), "value": each.value, "ip-version": each.ip_version}
        for each in port.dhcp_options
    ]


def _lines(items: list[dict[str, Any]]) -> str:
    return "\n".join(",".join(f"{key}={value}" for key, value in item.items()) for item in items)


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
    Column("Security Groups", "group_names", extra=True),
    Column("Security Group IDs", "group_ids", extra=True),
    Column("Allowed Addresses", _pairs, text=_lines, extra=True),
    Column("DHCP Options", _options, text=_lines, extra=True),
    Column("Egress kbps", lambda port: port.limit.egress_kbps, extra=True),
    Column("Egress Burst kbit", lambda port: port.limit.egress_burst_kb, extra=True),
    Column("Ingress kbps", lambda port: port.limit.ingress_kbps, extra=True),
    Column("Ingress Burst kbit", lambda port: port.limit.ingress_burst_kb, extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (
    *(Column(column.title, column.value, column.text) for column in LIST),
    Column("Created", "created_at"),
)

FIXED_IP = words.Fields("subnet", "subnet_id", "ip-address", "ip_address")


def fixed_ips_of(given: tuple[dict[str, str], ...]) -> tuple[FixedIp, ...]:
    """The wanted addresses that --fixed-ip options mean."""
    from stackctl.network.service import FixedIp

    return tuple(
        FixedIp(
            fields.get("subnet") or fields.get("subnet_id"),
            fields.get("ip-address") or fields.get("ip_address"),
        )
        for fields in given
    )


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of port-create and port-set about who may reach a port, and how."""
    for option in reversed(_TOLD):
        function = option(function)
    return function


_TOLD = (
    click.option(
        "--security-group",
        "groups",
        multiple=True,
        type=words.SECURITY_GROUP,
        help="The groups that it shall be in, and no others (a new one: default); repeatable.",
    ),
    click.option("--no-security-group", "no_groups", is_flag=True, help="In no group."),
    click.option(
        "--enable-port-security/--disable-port-security",
        "port_security",
        default=None,
        help="Whether it is held to its own addresses and to its groups (default: as its network).",
    ),
    click.option(
        "--allowed-address",
        "--allowed-address-pair",
        "pairs",
        cls=Spelled,
        older=("--allowed-address-pair",),
        multiple=True,
        type=words.Fields("ip-address", "mac-address", "ip_address", "mac_address"),
        help="ip-address=CIDR[,mac-address=MAC]: what it may send from, too; repeatable.",
    ),
    click.option(
        "--extra-dhcp-option",
        "--extra-dhcp-opt",
        "options",
        cls=Spelled,
        older=("--extra-dhcp-opt",),
        multiple=True,
        type=words.Fields("name", "value", "ip-version", list_key="value"),
        help="name=NAME,value=VALUE[,ip-version=6]: a DHCP option for it; repeatable.",
    ),
    click.option("--egress-kbps", type=int, help="It sends at most so many kilobits a second."),
    click.option("--egress-burst", "egress_burst_kb", type=int, help="Kilobits at once beyond it."),
    click.option("--ingress-kbps", type=int, help="It receives at most so many."),
    click.option("--ingress-burst", "ingress_burst_kb", type=int, help="Kilobits at once beyond."),
)


def _said(
    groups: tuple[str, ...],
    no_groups: bool,
    port_security: bool | None,
    pairs: tuple[dict[str, str], ...],
    options: tuple[dict[str, str], ...],
    **limits: int | None,
) -> dict[str, Any]:
    """What those options say, for NewPort and PortChange; only what was given."""
    from stackctl.network.service import BandwidthLimit

    if groups and no_groups:
        raise UsageError("Either --security-group or --no-security-group.")
    said: dict[str, Any] = {}
    if groups or no_groups:
        said["security_groups"] = groups
    if port_security is not None:
        said["port_security"] = port_security
    if pairs:
        said["allowed_pairs"] = tuple(_pair_of(fields) for fields in pairs)
    if options:
        said["dhcp_options"] = tuple(_option_of(fields) for fields in options)
    if any(value is not None for value in limits.values()):
        said["limit"] = BandwidthLimit(**limits)
    return said


def _pair_of(fields: dict[str, str]) -> AddressPair:
    from stackctl.network.service import AddressPair

    cidr = fields.get("ip-address") or fields.get("ip_address")
    if cidr is None:
        raise UsageError("--allowed-address needs ip-address=CIDR.")
    return AddressPair(cidr, fields.get("mac-address") or fields.get("mac_address"))


def _option_of(fields: dict[str, str]) -> NewDhcpOption:
    from stackctl.network.service import NewDhcpOption

    version = fields.get("ip-version", "4")
    if "name" not in fields or "value" not in fields or version not in ("4", "6"):
        raise UsageError("--extra-dhcp-option needs name=NAME,value=VALUE[,ip-version=4|6].")
    return NewDhcpOption(fields["name"], fields["value"], int(version))


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
@_told
def port_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    network: str | None,
    name: str | None,
    fixed_ips: tuple[dict[str, str], ...],
    mac: str | None,
    disable: bool,
    **told: Any,
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
        fixed_ips=fixed_ips_of(fixed_ips),
        mac=mac,
        admin_up=not disable,
        **_said(**told),
    )
    done = create_port(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("port-list")
@lists(LIST)
@click.option("--network", type=words.NETWORK, help="Only those of this network.")
@click.option("--server", type=words.SERVER, help="Only those of this server.")
@click.option(
    "--security-group", "group", type=words.SECURITY_GROUP, help="Only those in this group."
)
@click.option("--router", type=words.ROUTER, help="Only those of this router.")
@click.option("--device-owner", "owner", help="Only those with this owner: network:dhcp, ...")
@click.option("--mac-address", "mac", help="Only the one with this MAC address.")
def port_list(
    context: Context,
    output: Output,
    network: str | None,
    server: str | None,
    group: str | None,
    router: str | None,
    owner: str | None,
    mac: str | None,
) -> None:
    """List the project's ports."""
    from stackctl.compute.views import show_server
    from stackctl.network.service import list_ports, show_router

    server_id = show_server(context, server).id if server else None
    found = list_ports(context, network=network, server_id=server_id, group=group)
    wanted = {
        "device_id": show_router(context, router).id if router else None,
        "device_owner": owner,
        "mac": mac.lower() if mac else None,
    }
    for attribute, value in wanted.items():
        found = [port for port in found if value in (None, getattr(port, attribute))]
    output.list(found)


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
@click.option(
    "--no-fixed-ip", "no_fixed_ips", is_flag=True, help="No address but those given here."
)
@click.option("--mac-address", "mac", help="Another MAC address; not while a server has it.")
@click.option("--enable/--disable", "up", default=None, help="Whether it carries traffic.")
@_told
@click.option(
    "--no-allowed-address",
    "--no-allowed-address-pair",
    "no_pairs",
    cls=Spelled,
    older=("--no-allowed-address-pair",),
    is_flag=True,
    help="Only its own addresses any more.",
)
@click.option("--no-extra-dhcp-option", "no_options", is_flag=True, help="No DHCP option any more.")
@click.option("--no-limit", is_flag=True, help="No limit any more but those given here.")
def port_set(
    context: Context,
    output: Output,
    port: str,
    name: str | None,
    fixed_ips: tuple[dict[str, str], ...],
    no_fixed_ips: bool,
    mac: str | None,
    up: bool | None,
    no_pairs: bool,
    no_options: bool,
    no_limit: bool,
    **told: Any,
) -> None:
    """Change a port. What is given takes the place of what it has."""
    from stackctl.network.service import PortChange, set_port

    said = _said(**told)
    for flag, key in ((no_pairs, "allowed_pairs"), (no_options, "dhcp_options")):
        if flag:
            said.setdefault(key, ())
    change = PortChange(
        name=name,
        fixed_ips=fixed_ips_of(fixed_ips) or (() if no_fixed_ips else None),
        mac=mac,
        admin_up=up,
        no_limit=no_limit or None,
        **said,
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
