"""Networks: create, list, show, change and delete them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from ipaddress import ip_network

from stackctl.errors import Conflict, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context
from stackctl.names import checked_name, some
from stackctl.network import addresses, segments, subnet_rules
from stackctl.network.finding import VISIBLE_NETWORK, own_network, visible_network
from stackctl.network.segments import Segment
from stackctl.network.subnets import NewSubnet, add_subnet, drop_subnet
from stackctl.network.types import (
    DHCP_OWNER,
    GATEWAY_OWNER,
    Network,
    floating_labels,
    network_from,
    port_label,
)
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, new_id, now, read

_DOMAIN = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True)
class NewNetwork:
    """What is asked for. Everything left None follows from the cloud's configuration.

    ``type`` is vxlan, gre, vlan or flat; ``mtu`` in bytes; ``subnet`` is made with the network.
    ``port_security`` is what its new ports have.
    """

    name: str
    type: str | None = None
    physical_network: str | None = None
    segmentation_id: int | None = None
    mtu: int | None = None
    domain: str | None = None
    shared: bool = False
    external: bool = False
    admin_up: bool = True
    port_security: bool = True
    subnet: NewSubnet | None = None


@dataclass(frozen=True)
class NetworkChange:
    """What shall be different; None leaves it as it is."""

    name: str | None = None
    domain: str | None = None
    mtu: int | None = None
    shared: bool | None = None
    external: bool | None = None
    admin_up: bool | None = None
    port_security: bool | None = None


def create_network(context: Context, wanted: NewNetwork) -> Done[Network]:
    """Make a network, and its first subnet where one is wanted, in one transaction.

    UsageError: words that do not go together. Conflict: segment in use or none left.
    QuotaExceeded: the project has its share.
    """
    name = checked_name("network", wanted.name)

    def work(writer: Writer) -> Network:
        return add_network(context, writer, wanted)

    done = change_one(context, "create", "network", name, asdict(wanted), work, network_from)
    _warn_unmapped(context, done.value)
    return done


def add_network(context: Context, writer: Writer, wanted: NewNetwork) -> Network:
    """Write a new network and its first subnet, for transactions that do more than this."""
    asked = Segment(wanted.type or "", wanted.physical_network, wanted.segmentation_id)
    segment = segments.wanted_type(context.cloud.config, asked)
    quota.require(writer, context.project_id, "networks", 1)
    taken = segments.take_segment(writer, context.cloud.config, segment)
    row = {
        "id": new_id(),
        "project_id": context.project_id,
        "created_at": now(),
        "name": checked_name("network", wanted.name),
        "mtu": segments.mtu_for(context.cloud.config, segment.type, wanted.mtu),
        "domain": checked_domain(wanted.domain or context.cloud.config["dns_domain"]),
        "shared": int(wanted.shared),
        "external": int(wanted.external),
        "admin_up": int(wanted.admin_up),
        "port_security": int(wanted.port_security),
        **asdict(taken),
    }
    writer.insert("networks", row)
    writer.change.networks.add(row["id"])
    network = writer.get("networks", row["id"])
    if wanted.subnet is not None:
        add_subnet(context, writer, network, wanted.subnet)
    return network_from(writer, network)


def list_networks(context: Context) -> list[Network]:
    """Networks that the asker may use, oldest first."""
    with read(context.cloud) as reader:
        rows = reader.all(
            f"SELECT * FROM networks WHERE deleted_at IS NULL AND {VISIBLE_NETWORK} ORDER BY rowid",
            context.project_id,
        )
        return [network_from(reader, row) for row in rows]


def show_network(context: Context, word: str) -> Network:
    """One network by name or id."""
    with read(context.cloud) as reader:
        return network_from(reader, visible_network(context, reader, word))


def set_network(context: Context, word: str, change: NetworkChange) -> Done[Network]:
    """Change a network; hosts that carry it are brought up to date.

    Conflict when it shall no longer be shared, but other projects have ports on it.
    """
    values = {key: value for key, value in asdict(change).items() if value is not None}
    if not values:
        raise UsageError("Nothing to change was given.", hint="stackctl net-set --help")
    if change.name is not None:
        checked_name("network", change.name)

    def work(writer: Writer) -> Network:
        network = own_network(context, writer, word)
        if change.shared is False:
            _refuse_strangers(writer, network)
        if change.external is False:
            _refuse_gateways(writer, network)
        columns = _changed_columns(context, writer, network, change)
        writer.update("networks", network["id"], **columns, version=network["version"] + 1)
        writer.change.networks.add(network["id"])
        return network_from(writer, writer.get("networks", network["id"]))

    return change_one(context, "set", "network", word, values, work, network_from)


def _changed_columns(
    context: Context, reader: Reader, network: Row, change: NetworkChange
) -> dict[str, object]:
    """The new values of a network's columns."""
    columns: dict[str, object] = {}
    if change.name is not None:
        columns["name"] = change.name
    if change.domain is not None:
        columns["domain"] = checked_domain(change.domain)
    if change.mtu is not None:
        columns["mtu"] = segments.mtu_for(context.cloud.config, network["type"], change.mtu)
        for subnet in addresses.subnets_of(reader, network["id"]):
            subnet_rules.refuse_small_mtu(network["name"], change.mtu, ip_network(subnet["cidr"]))
    for flag in ("shared", "external", "admin_up", "port_security"):
        if getattr(change, flag) is not None:
            columns[flag] = int(getattr(change, flag))
    return columns


def delete_network(context: Context, word: str) -> Done[Network]:
    """Delete a network with its subnets and their DHCP ports; Conflict while others are left."""

    def work(writer: Writer) -> Network:
        network = own_network(context, writer, word)
        value = network_from(writer, network)
        drop_network(writer, network)
        return value

    return change_one(context, "delete", "network", word, {}, work, network_from)


def drop_network(writer: Writer, network: Row) -> None:
    """Delete a network's rows, for transactions that do more than this; Conflict when in use."""
    _refuse_in_use(writer, network)
    for subnet in addresses.subnets_of(writer, network["id"]):
        drop_subnet(writer, subnet)
    writer.update("networks", network["id"], deleted_at=now(), version=network["version"] + 1)
    writer.change.networks.add(network["id"])


def checked_domain(text: str) -> str:
    """A DNS domain in lower case without its final dot; UsageError when it is not one."""
    domain = text.strip().lower().rstrip(".")
    if len(domain) > 190 or not _DOMAIN.fullmatch(domain):
        raise UsageError(f"'{text}' is not a DNS domain: labels of a-z, 0-9 and dashes, and dots.")
    return domain


def _refuse_in_use(writer: Writer, network: Row) -> None:
    ports = writer.all(
        "SELECT * FROM ports"
        " WHERE network_id = ? AND deleted_at IS NULL AND device_owner <> ? ORDER BY rowid",
        network["id"],
        DHCP_OWNER,
    )
    users = [port_label(writer, port) for port in ports]
    users += floating_labels(writer, "network_id", network["id"])
    if users:
        raise Conflict(
            f"Unable to complete operation on network {network['name']}. There are one or more "
            f"ports still in use on the network: {some(users)}.",
            hint=f"stackctl port-list --network {network['id']}",
        )


def _refuse_strangers(reader: Reader, network: Row) -> None:
    strangers = reader.value(
        "SELECT count(*) FROM ports WHERE network_id = ? AND deleted_at IS NULL"
        " AND project_id <> ?",
        network["id"],
        network["project_id"],
    )
    if strangers:
        raise Conflict(
            f"Unable to reconfigure sharing settings for network {network['name']}. "
            f"Multiple tenants are using it ({strangers} ports of other projects)."
        )


def _refuse_gateways(reader: Reader, network: Row) -> None:
    ports = reader.all(
        "SELECT * FROM ports WHERE network_id = ? AND device_owner = ? AND deleted_at IS NULL",
        network["id"],
        GATEWAY_OWNER,
    )
    users = [port_label(reader, port) for port in ports]
    users += floating_labels(reader, "network_id", network["id"])
    if users:
        raise Conflict(
            f"External network {network['name']} cannot be updated to be made non-external, since "
            f"it has existing gateway ports or floating IPs: {some(users)}.",
            hint="stackctl router-gateway-clear ROUTER",
        )


def _warn_unmapped(context: Context, network: Network) -> None:
    """A physical network that no host has is not wrong, but nothing can be placed on it yet."""
    if network.physical_network is None:
        return
    with read(context.cloud) as reader:
        hosts = reader.value(
            "SELECT count(*) FROM hosts, json_each(hosts.bridge_mappings_json) AS mapping"
            " WHERE hosts.deleted_at IS NULL"
            " AND json_extract(mapping.value, '$.physical_network') = ?",
            network.physical_network,
        )
    if not hosts:
        context.watch.warn(
            f"No host has the physical network {network.physical_network} yet, so no server can "
            "be placed on this network (see: stackctl host-set --help)."
        )
