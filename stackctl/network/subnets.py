"""Subnets: create, list, show, change and delete them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from agent.spec import HostRoute
from stackctl.errors import Conflict, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context
from stackctl.names import checked_name, some
from stackctl.network import addresses, subnet_rules
from stackctl.network.allocation import dhcp_port_id, ensure_dhcp_port, release_port
from stackctl.network.choice import lowest_free
from stackctl.network.finding import own_network, own_subnet, visible_subnet, visible_subnets
from stackctl.network.types import (
    Pool,
    Subnet,
    floating_labels,
    is_router_port,
    pools_of,
    port_label,
    subnet_from,
)
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, new_id, now, read

NUMBERS = (1, 65535)
"""Subnets are numbered in the whole cloud, lowest free number first."""


@dataclass(frozen=True)
class NewSubnet:
    """What is asked for. ``gateway`` is an address, ``auto`` (the first one) or ``none``;
    without ``pools`` all hosts but the gateway may be given to ports. ``ip_version`` only checks
    the range; either mode says how IPv6 addresses come about, see ``subnet_rules.checked_mode``.
    """

    cidr: str
    name: str = ""
    gateway: str = subnet_rules.AUTO
    pools: tuple[Pool, ...] = ()
    dhcp: bool = True
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    ip_version: int | None = None
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None


@dataclass(frozen=True)
class SubnetChange:
    """What shall be different; None leaves it as it is."""

    name: str | None = None
    gateway: str | None = None
    pools: tuple[Pool, ...] | None = None
    dhcp: bool | None = None
    dns_nameservers: tuple[str, ...] | None = None
    host_routes: tuple[HostRoute, ...] | None = None


def create_subnet(context: Context, network_word: str, wanted: NewSubnet) -> Done[Subnet]:
    """Make a subnet in a network of the asker's project.

    UsageError: an address or range that makes no sense. Conflict: overlap with another subnet of
    the network, or between gateway and pools. QuotaExceeded: the project has its share.
    """
    arguments = {"network": network_word, **asdict(wanted)}

    def work(writer: Writer) -> Subnet:
        network = own_network(context, writer, network_word)
        return add_subnet(context, writer, network, wanted)

    word = wanted.name or wanted.cidr
    return change_one(context, "create", "subnet", word, arguments, work, subnet_from)


def list_subnets(context: Context) -> list[Subnet]:
    """Subnets of all networks that the asker may use, oldest first."""
    with read(context.cloud) as reader:
        return [subnet_from(reader, row) for row in visible_subnets(context, reader)]


def show_subnet(context: Context, word: str) -> Subnet:
    """One subnet by name or id."""
    with read(context.cloud) as reader:
        return subnet_from(reader, visible_subnet(context, reader, word))


def set_subnet(context: Context, word: str, change: SubnetChange) -> Done[Subnet]:
    """Change a subnet; hosts that have ports on it are brought up to date."""
    arguments = {key: value for key, value in asdict(change).items() if value is not None}
    if not arguments:
        raise UsageError("Nothing to change was given.", hint="stackctl subnet-set --help")

    def work(writer: Writer) -> Subnet:
        subnet = own_subnet(context, writer, word)
        network = writer.get("networks", subnet["network_id"])
        columns = _changed_columns(subnet, change)
        writer.update("subnets", subnet["id"], **columns, version=subnet["version"] + 1)
        changed = writer.get("subnets", subnet["id"])
        if changed["gateway"] != subnet["gateway"]:
            _move_gateway(writer, network, subnet, changed)
        if changed["dhcp"] != subnet["dhcp"]:
            _switch_dhcp(writer, network, changed)
        writer.change.networks.add(network["id"])
        return subnet_from(writer, changed)

    return change_one(context, "set", "subnet", word, arguments, work, subnet_from)


def delete_subnet(context: Context, word: str) -> Done[Subnet]:
    """Delete a subnet and its DHCP port; Conflict while ports have addresses in it."""

    def work(writer: Writer) -> Subnet:
        subnet = own_subnet(context, writer, word)
        _refuse_in_use(writer, subnet)
        drop_subnet(writer, subnet)
        return subnet_from(writer, subnet)

    return change_one(context, "delete", "subnet", word, {}, work, subnet_from)


def add_subnet(context: Context, writer: Writer, network: Row, wanted: NewSubnet) -> Subnet:
    """Check and insert a subnet of ``network`` within somebody's transaction."""
    cidr = subnet_rules.checked_cidr(wanted.cidr, wanted.ip_version)
    subnet_rules.refuse_small_mtu(network["name"], network["mtu"], cidr)
    mode = subnet_rules.checked_mode(
        cidr, wanted.dhcp, wanted.ipv6_ra_mode, wanted.ipv6_address_mode, bool(wanted.pools)
    )
    others = [subnet["cidr"] for subnet in addresses.subnets_of(writer, network["id"])]
    subnet_rules.refuse_overlap(network["name"], cidr, others)
    gateway = subnet_rules.checked_gateway(cidr, wanted.gateway)
    quota.require(writer, context.project_id, "subnets", 1)
    row = {
        "id": new_id(),
        "project_id": network["project_id"],
        "network_id": network["id"],
        "name": checked_name("subnet", wanted.name) if wanted.name else "",
        "number": _free_number(writer),
        "cidr": str(cidr),
        "gateway": gateway,
        "dhcp": int(wanted.dhcp),
        "pools_json": _as_json(subnet_rules.checked_pools(cidr, gateway, wanted.pools)),
        "dns_nameservers_json": _names_json(wanted.dns_nameservers, cidr.version),
        "host_routes_json": _as_json(
            subnet_rules.checked_routes(wanted.host_routes, cidr.version, wanted.dhcp)
        ),
        "ipv6_mode": mode,
        "created_at": now(),
    }
    writer.insert("subnets", row)
    if _is_inside(row):
        addresses.reserve_gateway(writer, network, row)
    writer.change.networks.add(network["id"])
    return subnet_from(writer, row)


def drop_subnet(writer: Writer, subnet: Row) -> None:
    """Delete a subnet that no port uses, with its DHCP port; its addresses rest."""
    port_id = dhcp_port_id(writer, subnet["id"])
    if port_id is not None:
        release_port(writer, port_id)
    addresses.release_addresses(writer, "subnet_id = ?", subnet["id"])
    writer.update("subnets", subnet["id"], deleted_at=now(), version=subnet["version"] + 1)
    writer.change.networks.add(subnet["network_id"])


def _changed_columns(subnet: Row, change: SubnetChange) -> dict[str, Any]:
    """The new values of a subnet's columns, checked against each other."""
    cidr = ip_network(subnet["cidr"])
    columns: dict[str, Any] = {}
    if change.name is not None:
        columns["name"] = checked_name("subnet", change.name)
    if change.dns_nameservers is not None:
        columns["dns_nameservers_json"] = _names_json(change.dns_nameservers, cidr.version)
    columns |= _changed_dhcp(subnet, change)
    gateway = subnet["gateway"]
    if change.gateway is not None:
        gateway = columns["gateway"] = subnet_rules.checked_gateway(cidr, change.gateway)
    if change.pools is not None or change.gateway is not None:
        pools = change.pools if change.pools is not None else pools_of(subnet)
        columns["pools_json"] = _as_json(subnet_rules.checked_pools(cidr, gateway, pools))
    return columns


def _changed_dhcp(subnet: Row, change: SubnetChange) -> dict[str, Any]:
    """DHCP and what hangs on it: routes that it cannot give out, and the way to IPv6 addresses."""
    cidr = ip_network(subnet["cidr"])
    dhcp = bool(subnet["dhcp"]) if change.dhcp is None else change.dhcp
    held = tuple(HostRoute(**route) for route in json.loads(subnet["host_routes_json"]))
    routes = held if change.host_routes is None else change.host_routes
    columns: dict[str, Any] = {}
    if change.host_routes is not None or change.dhcp is not None:
        columns["host_routes_json"] = _as_json(
            subnet_rules.checked_routes(routes, cidr.version, dhcp)
        )
    if change.dhcp is not None:
        columns["dhcp"] = int(dhcp)
        if dhcp != bool(subnet["dhcp"]):
            columns["ipv6_mode"] = _mode_again(cidr, dhcp)
    return columns


def _mode_again(cidr: subnet_rules.Range, dhcp: bool) -> str | None:
    """Ports that are there keep their addresses, which DHCPv6 can give whatever they are."""
    return subnet_rules.checked_mode(
        cidr, dhcp, None, subnet_rules.STATEFUL if dhcp and cidr.version == 6 else None
    )


def _is_inside(subnet: Row) -> bool:
    """Whether the gateway is an address of the subnet: a link-local one is nobody's to take."""
    gateway = subnet["gateway"]
    return gateway is not None and ip_address(gateway) in ip_network(subnet["cidr"])


def _move_gateway(writer: Writer, network: Row, before: Row, after: Row) -> None:
    router_port = writer.value(
        "SELECT ports.id FROM addresses JOIN ports ON ports.id = addresses.port_id"
        " WHERE addresses.subnet_id = ? AND addresses.address = ?"
        " AND addresses.released_serial IS NULL",
        before["id"],
        before["gateway"],
    )
    if router_port is not None:
        raise Conflict(
            f"Current gateway ip {before['gateway']} already in use by port {router_port}. "
            "Unable to update."
        )
    addresses.release_addresses(writer, "subnet_id = ? AND kind = 'gateway'", before["id"])
    if _is_inside(after):
        addresses.reserve_gateway(writer, network, after)


def _switch_dhcp(writer: Writer, network: Row, subnet: Row) -> None:
    """Switched off, the server's port goes; switched on, it comes if there are ports to serve."""
    port_id = dhcp_port_id(writer, subnet["id"])
    if port_id is not None:
        release_port(writer, port_id)
    served = [port for port in _ports_in(writer, subnet) if not is_router_port(port)]
    if subnet["dhcp"] and served:
        ensure_dhcp_port(writer, network, subnet)


def _refuse_in_use(reader: Reader, subnet: Row) -> None:
    users = [port_label(reader, port) for port in _ports_in(reader, subnet)]
    users += floating_labels(reader, "subnet_id", subnet["id"])
    if users:
        raise Conflict(
            f"Unable to complete operation on subnet {addresses.subnet_label(subnet)}: One or more "
            f"ports have an IP allocation from this subnet: {some(users)}.",
            hint=f"stackctl port-list --network {subnet['network_id']}",
        )


def _ports_in(reader: Reader, subnet: Row) -> list[Row]:
    return reader.all(
        "SELECT DISTINCT ports.* FROM addresses"
        " JOIN ports ON ports.id = addresses.port_id"
        " WHERE addresses.subnet_id = ? AND addresses.kind = 'fixed'"
        " AND addresses.released_serial IS NULL",
        subnet["id"],
    )


def _free_number(reader: Reader) -> int:
    taken = reader.column("SELECT number FROM subnets WHERE deleted_at IS NULL")
    number = lowest_free(*NUMBERS, set(taken))
    if number is None:
        raise Conflict(f"This cloud has {len(taken)} subnets and no number for another.")
    return number


def _names_json(wanted: Sequence[str], version: int) -> str:
    return json.dumps(subnet_rules.checked_nameservers(wanted, version))


def _as_json(items: Sequence[Any]) -> str:
    return json.dumps([asdict(item) for item in items])
