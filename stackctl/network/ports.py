"""Ports as first-class things: create, list, show, change and delete them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agent.spec import AddressPair, BandwidthLimit, DhcpOption
from stackctl.errors import Conflict, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context
from stackctl.names import checked_name
from stackctl.network import addresses, allocation, choice, membership
from stackctl.network.addresses import WantedAddress
from stackctl.network.dhcp_options import NewDhcpOption, checked_options
from stackctl.network.finding import own_group, own_groups, own_port, subnet_in, visible_network
from stackctl.network.floating_rows import free_floating_ips
from stackctl.network.port_rules import checked_limit, checked_pairs
from stackctl.network.trunk_rows import refuse_in_trunk
from stackctl.network.types import (
    DHCP_OWNER,
    GATEWAY_OWNER,
    LIMITS,
    Port,
    is_router_port,
    port_from,
)
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, read


@dataclass(frozen=True)
class FixedIp:
    """A wanted address: a subnet by name or id, an address, or both."""

    subnet: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class NewPort:
    """What is asked for. Without ``fixed_ips`` the port gets the network's next free address;
    without ``mac`` a random one; without ``security_groups`` (None) the default group; without
    ``port_security`` what its network says."""

    network: str
    name: str = ""
    fixed_ips: tuple[FixedIp, ...] = ()
    mac: str | None = None
    admin_up: bool = True
    security_groups: tuple[str, ...] | None = None
    port_security: bool | None = None
    allowed_pairs: tuple[AddressPair, ...] = ()
    dhcp_options: tuple[NewDhcpOption, ...] = ()
    limit: BandwidthLimit = field(default_factory=BandwidthLimit)


@dataclass(frozen=True)
class PortChange:
    """What shall be different; None leaves it as it is.

    Of ``limit`` only the numbers that are given are changed; ``no_limit`` takes all away first.
    """

    name: str | None = None
    fixed_ips: tuple[FixedIp, ...] | None = None
    mac: str | None = None
    admin_up: bool | None = None
    security_groups: tuple[str, ...] | None = None
    port_security: bool | None = None
    allowed_pairs: tuple[AddressPair, ...] | None = None
    dhcp_options: tuple[NewDhcpOption, ...] | None = None
    limit: BandwidthLimit | None = None
    no_limit: bool | None = None


def create_port(context: Context, wanted: NewPort) -> Done[Port]:
    """Make a port for later use by a server (boot --nic port-id=...).

    Conflict: address or MAC taken, none left. QuotaExceeded: the project has its share.
    """
    name = checked_name("port", wanted.name) if wanted.name else ""
    pairs = checked_pairs(wanted.allowed_pairs)
    more = _pairs_and_options(pairs, checked_options(wanted.dhcp_options))
    more |= asdict(checked_limit(wanted.limit))

    def work(writer: Writer) -> Port:
        network = visible_network(context, writer, wanted.network)
        quota.require(writer, context.project_id, "ports", 1)
        groups = wanted.security_groups
        made = allocation.make_port(
            writer,
            project_id=context.project_id,
            network=network,
            wanted=resolve_fixed_ips(writer, network, wanted.fixed_ips),
            mac=wanted.mac,
            name=name,
            admin_up=wanted.admin_up,
            port_security=wanted.port_security,
            security_groups=None if groups is None else own_groups(context, writer, groups),
            more=more,
        )
        _refuse_open_pairs(made.port_security, pairs)
        return made

    word = wanted.name or f"on {wanted.network}"
    return change_one(context, "create", "port", word, asdict(wanted), work, port_from)


def list_ports(
    context: Context,
    *,
    network: str | None = None,
    server_id: str | None = None,
    group: str | None = None,
) -> list[Port]:
    """The project's ports, oldest first; all, or those of a network, server or security group."""
    with read(context.cloud) as reader:
        where, parameters = "project_id = ?", [context.project_id]
        if network is not None:
            where += " AND network_id = ?"
            parameters.append(visible_network(context, reader, network)["id"])
        if server_id is not None:
            where += " AND device_id = ?"
            parameters.append(server_id)
        if group is not None:
            where += " AND id IN (SELECT port_id FROM port_security_groups WHERE group_id = ?)"
            parameters.append(own_group(context, reader, group)["id"])
        rows = reader.all(
            f"SELECT * FROM ports WHERE deleted_at IS NULL AND {where} ORDER BY rowid", *parameters
        )
        return [port_from(reader, row) for row in rows]


def show_port(context: Context, word: str) -> Port:
    """One port by name or id."""
    with read(context.cloud) as reader:
        return port_from(reader, own_port(context, reader, word))


def set_port(context: Context, word: str, change: PortChange) -> Done[Port]:
    """Change a port; the host that carries it is brought up to date.

    Conflict: address or MAC taken, or another MAC for a port that a server has.
    """
    arguments = {key: value for key, value in asdict(change).items() if value is not None}
    if not arguments:
        raise UsageError("Nothing to change was given.", hint="stackctl port-set --help")
    pairs = None if change.allowed_pairs is None else checked_pairs(change.allowed_pairs)
    options = None if change.dhcp_options is None else checked_options(change.dhcp_options)
    columns = _pairs_and_options(pairs, options)

    def work(writer: Writer) -> Port:
        port = own_port(context, writer, word)
        _refuse_owned(writer, port, "changed")
        network = writer.get("networks", port["network_id"])
        if change.mac is not None:
            _change_mac(writer, network, port, change.mac)
        if change.fixed_ips is not None:
            wanted = resolve_fixed_ips(writer, network, change.fixed_ips)
            _change_addresses(writer, network, port, wanted)
        values: dict[str, object] = {"version": port["version"] + 1, **columns}
        values |= _limits(port, change)
        values |= _security(context, writer, port, change)
        if change.name is not None:
            values["name"] = checked_name("port", change.name) if change.name else ""
        if change.admin_up is not None:
            values["admin_up"] = int(change.admin_up)
        writer.update("ports", port["id"], **values)
        allocation.touch(writer, network["id"], port["id"])
        return port_from(writer, writer.get("ports", port["id"]))

    return change_one(context, "set", "port", word, arguments, work, port_from)


def delete_port(context: Context, word: str) -> Done[Port]:
    """Delete a port that nothing uses; Conflict when a server has it."""

    def work(writer: Writer) -> Port:
        port = own_port(context, writer, word)
        _refuse_owned(writer, port, "deleted")
        refuse_in_trunk(writer, port["id"])
        if port["device_id"]:
            raise Conflict(
                f"Unable to complete operation on port {port['name'] or port['id']}. It is still "
                f"attached to {_device_name(writer, port)}; it goes with that, or once detached."
            )
        value = port_from(writer, port)
        allocation.release_port(writer, port["id"])
        return value

    return change_one(context, "delete", "port", word, {}, work, port_from)


def resolve_fixed_ips(
    reader: Reader, network: Row, wanted: Sequence[FixedIp]
) -> list[WantedAddress]:
    """Wanted addresses with the ids of the subnets that their words mean."""
    found = []
    for each in wanted:
        if each.subnet is None and each.address is None:
            raise UsageError("A fixed address needs a subnet, an address, or both.")
        subnet = subnet_in(reader, network, each.subnet) if each.subnet is not None else None
        found.append(WantedAddress(subnet["id"] if subnet else None, each.address))
    return found


def _change_mac(writer: Writer, network: Row, port: Row, text: str) -> None:
    mac = choice.checked_mac(text)
    if mac == port["mac"]:
        return
    if port["device_id"]:
        raise Conflict(
            f"Unable to complete operation on port {port['name'] or port['id']}: its MAC address "
            f"cannot change while it is attached to {_device_name(writer, port)}."
        )
    if writer.value("SELECT id FROM ports WHERE mac = ? AND deleted_at IS NULL", mac):
        raise allocation.mac_in_use(network, mac)
    writer.update("ports", port["id"], mac=mac)
    addresses.renew_eui64(writer, network, port, writer.get("ports", port["id"]))


def _change_addresses(
    writer: Writer, network: Row, port: Row, wanted: Sequence[WantedAddress]
) -> None:
    """Keep the addresses that are still wanted, release the others, give the new ones."""
    held = {address.address: address.subnet_id for address in port_from(writer, port).addresses}
    kept, new = set(), []
    for each in wanted:
        address = str(addresses.parsed(each.address)) if each.address is not None else None
        if address in held and each.subnet_id in (None, held[address]):
            kept.add(address)
        else:
            new.append(each)
    for address in held.keys() - kept:
        free_floating_ips(writer, port["id"], address)
        addresses.release_addresses(writer, "port_id = ? AND address = ?", port["id"], address)
    if new:
        allocation.give_addresses(writer, network, port["id"], new)


def _pairs_and_options(
    pairs: Sequence[AddressPair] | None, options: Sequence[DhcpOption] | None
) -> dict[str, Any]:
    """The columns of what is given."""
    columns: dict[str, Any] = {}
    if pairs is not None:
        columns["allowed_pairs_json"] = json.dumps([asdict(pair) for pair in pairs])
    if options is not None:
        columns["dhcp_options_json"] = json.dumps([asdict(option) for option in options])
    return columns


def _limits(port: Row, change: PortChange) -> dict[str, Any]:
    """The columns of the bandwidth limits, when they change."""
    if change.limit is None and not change.no_limit:
        return {}
    held = dict.fromkeys(LIMITS) if change.no_limit else {name: port[name] for name in LIMITS}
    given = asdict(change.limit or BandwidthLimit())
    wanted = held | {name: value for name, value in given.items() if value is not None}
    return asdict(checked_limit(BandwidthLimit(**wanted)))


def _security(context: Context, writer: Writer, port: Row, change: PortChange) -> dict[str, Any]:
    """Put the port into its groups; returns the column of its security when that changes."""
    secured = bool(port["port_security"])
    if change.port_security is not None:
        secured = change.port_security
    groups = membership.groups_of(writer, port["id"])
    if change.security_groups is not None:
        groups = own_groups(context, writer, change.security_groups)
    if groups and not secured:
        # Asked for both at once, or left in the groups that it has.
        raise Conflict(
            membership.NEEDS_SECURITY if change.security_groups else _STILL_IN_GROUPS,
            hint=f"stackctl port-set {port['name'] or port['id']} --no-security-group "
            "--disable-port-security",
        )
    pairs = change.allowed_pairs
    _refuse_open_pairs(secured, json.loads(port["allowed_pairs_json"]) if pairs is None else pairs)
    if change.security_groups is not None:
        membership.put_in_groups(writer, port["id"], groups)
    return {} if change.port_security is None else {"port_security": int(secured)}


_STILL_IN_GROUPS = (
    "Port has security group associated. Cannot disable port security or ip address until "
    "security group is removed."
)


def _refuse_open_pairs(secured: bool, pairs: Sequence[object]) -> None:
    if pairs and not secured:
        raise Conflict(
            "Port Security must be enabled in order to have allowed address pairs on a port."
        )


def _refuse_owned(reader: Reader, port: Row, verb: str) -> None:
    """Ports of DHCP servers and routers go along with those."""
    if is_router_port(port):
        router = reader.get("routers", port["device_id"])["name"]
        gateway = port["device_owner"] == GATEWAY_OWNER
        verb_of = "gateway-clear" if gateway else "interface-delete"
        what = "" if gateway else f" port={port['id']}"
        raise Conflict(
            f"Port {port['id']} cannot be {verb} directly via the port API: has device owner "
            f"{port['device_owner']}. It belongs to router {router}.",
            hint=f"stackctl router-{verb_of} {router}{what}",
        )
    if port["device_owner"] == DHCP_OWNER:
        raise Conflict(
            f"Port {port['id']} cannot be {verb} directly: it has device owner {DHCP_OWNER} and "
            "belongs to its subnet.",
            hint="stackctl subnet-set --no-dhcp ...",
        )


def _device_name(reader: Reader, port: Row) -> str:
    name = port_from(reader, port).server_name
    return f"server {name}" if name else f"{port['device_owner']} {port['device_id']}"
