"""What the network services return: networks, subnets and ports as values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agent.spec import FixedAddress, HostRoute
from stackctl.state import Reader, Row

DHCP_OWNER = "network:dhcp"
"""``device_owner`` of a subnet's DHCP server; such a port goes along with its subnet."""


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
    subnets: tuple[str, ...]
    cidrs: tuple[str, ...]
    created_at: str


@dataclass(frozen=True)
class Subnet:
    """A subnet of a network; ``dhcp`` says whether its DHCP server runs, ``ipv6_mode`` how guests
    get their IPv6 addresses (slaac, dhcpv6-stateful, dhcpv6-stateless; None: by hand, or IPv4)."""

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
    ipv6_mode: str | None
    created_at: str

    @property
    def ip_version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.cidr else 4


@dataclass(frozen=True)
class Port:
    """A port: a MAC address and its fixed addresses in one network; ``server_name`` is empty when
    no server has it."""

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


def network_from(reader: Reader, row: Row) -> Network:
    """The value of a ``networks`` row."""
    subnets = reader.all(
        "SELECT id, cidr FROM subnets WHERE network_id = ? AND deleted_at IS NULL ORDER BY rowid",
        row["id"],
    )
    values = _columns(Network, row, "shared", "external", "admin_up")
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
    return Port(**values)


def _columns(cls: Any, row: Row, *flags: str) -> dict[str, Any]:
    """The columns of a row that a class has as fields; ``flags`` become booleans."""
    values = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
    return values | {name: bool(row[name]) for name in flags}
