"""What the network services return: networks, subnets and ports as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from agent.spec import (
    AddressPair,
    BandwidthLimit,
    DhcpOption,
    FixedAddress,
    HostRoute,
    SecurityRule,
)
from stackctl.network import rule_words
from stackctl.network.membership import groups_of
from stackctl.state import Reader, Row

DHCP_OWNER = "network:dhcp"
"""``device_owner`` of a subnet's DHCP server; such a port goes along with its subnet."""

TRUSTED_OWNERS = "network:"
"""How ``device_owner`` of our own ports begins (DHCP, routers): no groups, nothing filtered."""

LIMITS = ("egress_kbps", "egress_burst_kb", "ingress_kbps", "ingress_burst_kb")
"""The columns of a port's bandwidth limits."""

INTERFACE_OWNER = "network:router_interface"
GATEWAY_OWNER = "network:router_gateway"
"""``device_owner`` of the ports of a router; such a port goes with router-interface-delete or
router-gateway-clear."""


@dataclass(frozen=True)
class Pool:
    """A range of addresses that may be given to ports, both ends included (plain text)."""

    start: str
    end: str


@dataclass(frozen=True)
class Network:
    """A network. ``type`` is vxlan, gre, vlan or flat; ``mtu`` in bytes; ``subnets`` are ids and
    ``cidrs`` their ranges, oldest first."""

    id: str
    project_id: str
    name: str
    type: str
    physical_network: str | None
    segmentation_id: int | None
    mtu: int
    domain: str
    shared: bool
    external: bool
    admin_up: bool
    port_security: bool
    subnets: tuple[str, ...]
    cidrs: tuple[str, ...]
    created_at: str


@dataclass(frozen=True)
class Subnet:
    """A subnet of a network; ``dhcp`` says whether its DHCP server runs."""

    id: str
    project_id: str
    network_id: str
    network_name: str
    name: str
    cidr: str
    gateway: str | None
    dhcp: bool
    pools: tuple[Pool, ...]
    dns_nameservers: tuple[str, ...]
    host_routes: tuple[HostRoute, ...]
    created_at: str


@dataclass(frozen=True)
class Port:
    """A port: a MAC address and its fixed addresses in one network; ``server_name`` is empty when
    no server has it. ``group_ids`` and ``group_names`` are its security groups, by name."""

    id: str
    project_id: str
    network_id: str
    network_name: str
    name: str
    mac: str
    addresses: tuple[FixedAddress, ...]
    device_owner: str
    device_id: str
    server_name: str
    nic_index: int
    hostname: str
    admin_up: bool
    port_security: bool
    made_for_server: bool
    status: str
    created_at: str
    group_ids: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
    allowed_pairs: tuple[AddressPair, ...] = ()
    dhcp_options: tuple[DhcpOption, ...] = ()
    limit: BandwidthLimit = field(default_factory=BandwidthLimit)


@dataclass(frozen=True)
class GroupRule:
    """A rule of a security group; ``remote_group_name`` is empty without a remote group."""

    rule: SecurityRule
    project_id: str
    group_id: str
    group_name: str
    remote_group_name: str
    description: str
    created_at: str

    @property
    def id(self) -> str:
        """Its UUID."""
        return self.rule.id

    @property
    def name(self) -> str:
        """What it is called in lists of what happened: a rule has no name of its own."""
        return f"{self.group_name}: {self.words}"

    @property
    def words(self) -> str:
        """The rule as people say it."""
        return rule_words.in_words(self.rule, self.remote_group_name)


@dataclass(frozen=True)
class SecurityGroup:
    """A security group with its rules, the oldest first."""

    id: str
    project_id: str
    name: str
    description: str
    rules: tuple[GroupRule, ...]
    created_at: str


@dataclass(frozen=True)
class RouterPort:
    """An interface of a router, or its gateway. ``cidrs`` are the subnets that it is in."""

    port_id: str
    network_id: str
    network_name: str
    mac: str
    addresses: tuple[FixedAddress, ...]
    cidrs: tuple[str, ...]


@dataclass(frozen=True)
class Router:
    """A router. ``host`` is empty while it has no ports; ``pinned``: it may be on no other.

    ``fault`` is what its host said when it could not be made there, ``status`` then ERROR.
    """

    id: str
    project_id: str
    name: str
    status: str
    admin_up: bool
    host: str
    host_id: str | None
    pinned: bool
    gateway: RouterPort | None
    snat: bool
    interfaces: tuple[RouterPort, ...]
    routes: tuple[HostRoute, ...]
    fault: str
    created_at: str


@dataclass(frozen=True)
class FloatingIp:
    """An address of an external network; the rest is None while it stands for no port's."""

    id: str
    project_id: str
    network_id: str
    network_name: str
    subnet_id: str
    address: str
    fixed_address: str | None
    port_id: str | None
    server_name: str
    router_id: str | None
    router_name: str
    description: str
    status: str
    created_at: str

    @property
    def name(self) -> str:
        """What people call it."""
        return self.address


def network_from(reader: Reader, row: Row) -> Network:
    """The value of a ``networks`` row."""
    subnets = reader.all(
        "SELECT id, cidr FROM subnets WHERE network_id = ? AND deleted_at IS NULL ORDER BY rowid",
        row["id"],
    )
    values = _columns(Network, row, "shared", "external", "admin_up", "port_security")
    values["subnets"] = tuple(subnet["id"] for subnet in subnets)
    values["cidrs"] = tuple(subnet["cidr"] for subnet in subnets)
    return Network(**values)


def subnet_from(reader: Reader, row: Row) -> Subnet:
    """The value of a ``subnets`` row."""
    values = _columns(Subnet, row, "dhcp")
    values["network_name"] = reader.get("networks", row["network_id"])["name"]
    values["pools"] = pools_of(row)
    values["dns_nameservers"] = tuple(json.loads(row["dns_nameservers_json"]))
    routes = json.loads(row["host_routes_json"])
    values["host_routes"] = tuple(HostRoute(**route) for route in routes)
    return Subnet(**values)


def pools_of(subnet: Row) -> tuple[Pool, ...]:
    """The pools of a ``subnets`` row."""
    return tuple(Pool(**pool) for pool in json.loads(subnet["pools_json"]))


def port_from(reader: Reader, row: Row) -> Port:
    """The value of a ``ports`` row, with its addresses in the order they were given."""
    held = reader.all(
        "SELECT subnet_id, address FROM addresses"
        " WHERE port_id = ? AND released_serial IS NULL ORDER BY id",
        row["id"],
    )
    values = _columns(Port, row, "admin_up", "port_security", "made_for_server")
    values["network_name"] = reader.get("networks", row["network_id"])["name"]
    values["server_name"] = (
        reader.value("SELECT name FROM servers WHERE id = ?", row["device_id"]) or ""
    )
    values["addresses"] = tuple(FixedAddress(**address) for address in held)
    values["group_ids"] = tuple(groups_of(reader, row["id"]))
    names = [reader.get("security_groups", id_)["name"] for id_ in values["group_ids"]]
    values["group_names"] = tuple(names)
    values["allowed_pairs"] = pairs_of(row)
    values["dhcp_options"] = options_of(row)
    values["limit"] = BandwidthLimit(**{name: row[name] for name in LIMITS})
    return Port(**values)


def pairs_of(port: Row) -> tuple[AddressPair, ...]:
    """What a ``ports`` row may send from beside its own addresses."""
    return tuple(AddressPair(**pair) for pair in json.loads(port["allowed_pairs_json"]))


def options_of(port: Row) -> tuple[DhcpOption, ...]:
    """The DHCP options of a ``ports`` row."""
    return tuple(DhcpOption(**option) for option in json.loads(port["dhcp_options_json"]))


def group_from(reader: Reader, row: Row) -> SecurityGroup:
    """The value of a ``security_groups`` row."""
    rules = reader.all(
        "SELECT * FROM security_group_rules WHERE group_id = ? AND deleted_at IS NULL"
        " ORDER BY rowid",
        row["id"],
    )
    values = _columns(SecurityGroup, row)
    values["rules"] = tuple(rule_from(reader, rule) for rule in rules)
    return SecurityGroup(**values)


def rule_from(reader: Reader, row: Row) -> GroupRule:
    """The value of a ``security_group_rules`` row."""
    remote = row["remote_group_id"]
    values = _columns(GroupRule, row)
    values["rule"] = SecurityRule(**_columns(SecurityRule, row))
    values["group_name"] = reader.get("security_groups", row["group_id"])["name"]
    values["remote_group_name"] = reader.get("security_groups", remote)["name"] if remote else ""
    return GroupRule(**values)


def router_from(reader: Reader, row: Row) -> Router:
    """The value of a ``routers`` row, with its ports in the order they were made."""
    ports = router_ports(reader, row["id"])
    interfaces = [port for port in ports if port["device_owner"] == INTERFACE_OWNER]
    gateways = [port for port in ports if port["device_owner"] == GATEWAY_OWNER]
    routes = json.loads(row["routes_json"])
    fault = json.loads(row["fault_json"] or "{}")
    values = _columns(Router, row, "admin_up", "snat")
    values["host"] = reader.get("hosts", row["host_id"])["name"] if row["host_id"] else ""
    values["pinned"] = row["host_asked"] is not None
    values["gateway"] = _router_port_from(reader, gateways[0]) if gateways else None
    values["interfaces"] = tuple(_router_port_from(reader, port) for port in interfaces)
    values["routes"] = tuple(HostRoute(**route) for route in routes)
    values["fault"] = fault.get("message", "")
    return Router(**values)


def router_ports(reader: Reader, router_id: str) -> list[Row]:
    """The rows of a router's interfaces and gateway, oldest first."""
    return reader.all(
        "SELECT * FROM ports WHERE device_id = ? AND deleted_at IS NULL"
        " AND device_owner IN (?, ?) ORDER BY rowid",
        router_id,
        INTERFACE_OWNER,
        GATEWAY_OWNER,
    )


def _router_port_from(reader: Reader, row: Row) -> RouterPort:
    port = port_from(reader, row)
    return RouterPort(
        port_id=port.id,
        network_id=port.network_id,
        network_name=port.network_name,
        mac=port.mac,
        addresses=port.addresses,
        cidrs=tuple(reader.get("subnets", each.subnet_id)["cidr"] for each in port.addresses),
    )


def floating_ip_from(reader: Reader, row: Row) -> FloatingIp:
    """The value of a ``floating_ips`` row."""
    values = _columns(FloatingIp, row)
    values["network_name"] = reader.get("networks", row["network_id"])["name"]
    router = reader.get("routers", row["router_id"]) if row["router_id"] else None
    values["router_name"] = router["name"] if router else ""
    sql = "SELECT servers.name FROM ports JOIN servers ON servers.id = device_id WHERE ports.id = ?"
    values["server_name"] = reader.value(sql, row["port_id"]) or ""
    return FloatingIp(**values)


def is_router_port(port: Row) -> bool:
    """Whether a port is an interface or the gateway of a router."""
    return port["device_owner"] in (INTERFACE_OWNER, GATEWAY_OWNER)


def port_label(reader: Reader, port: Row) -> str:
    """What people call a port: its own name, its server's or router's, or its id."""
    if is_router_port(port):
        router = reader.value("SELECT name FROM routers WHERE id = ?", port["device_id"])
        return f"router {router}"
    return str(port["name"] or port["hostname"] or port["id"])


def floating_labels(reader: Reader, column: str, id_: str) -> list[str]:
    """What people call the floating IPs of a network (``network_id``) or subnet (``subnet_id``)."""
    rows = reader.column(
        f"SELECT address FROM floating_ips WHERE {column} = ? AND deleted_at IS NULL"
        " ORDER BY rowid",
        id_,
    )
    return [f"floating IP {address}" for address in rows]


def _columns(cls: Any, row: Row, *flags: str) -> dict[str, Any]:
    """The columns of a row that a class has as fields; ``flags`` become booleans."""
    values = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
    return values | {name: bool(row[name]) for name in flags}
