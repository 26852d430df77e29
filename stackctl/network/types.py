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
    """A network. ``type`` is vxlan, gre, vlan or flat; ``mtu`` in bytes."""

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
    created_at: str


@dataclass(frozen=True)
class Subnet:
    """A subnet of a network; ``dhcp`` says whether its DHCP server runs."""

    id: str
    project_id: str
    network_id: str
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
    """A port: a MAC address and its fixed addresses in one network."""

    id: str
    project_id: str
    network_id: str
    name: str
    mac: str
    addresses: tuple[FixedAddress, ...]
    device_owner: str
    device_id: str
    nic_index: int
    hostname: str
    admin_up: bool
    port_security: bool
    made_for_server: bool
    status: str
    created_at: str


def network_from(reader: Reader, row: Row) -> Network:
    """The value of a ``networks`` row, with the ids of its subnets, oldest first."""
    subnets = reader.column(
        "SELECT id FROM subnets WHERE network_id = ? AND deleted_at IS NULL ORDER BY rowid",
        row["id"],
    )
    flags = {name: bool(row[name]) for name in ("shared", "external", "admin_up")}
    return Network(**_columns(Network, row, {**flags, "subnets": tuple(subnets)}))


def subnet_from(row: Row) -> Subnet:
    """The value of a ``subnets`` row."""
    lists = {
        "pools": tuple(Pool(**pool) for pool in json.loads(row["pools_json"])),
        "dns_nameservers": tuple(json.loads(row["dns_nameservers_json"])),
        "host_routes": tuple(HostRoute(**route) for route in json.loads(row["host_routes_json"])),
    }
    return Subnet(**_columns(Subnet, row, {**lists, "dhcp": bool(row["dhcp"])}))


def port_from(reader: Reader, row: Row) -> Port:
    """The value of a ``ports`` row, with its addresses in the order they were given."""
    addresses = tuple(
        FixedAddress(subnet_id=held["subnet_id"], address=held["address"])
        for held in reader.all(
            "SELECT subnet_id, address FROM addresses"
            " WHERE port_id = ? AND released_serial IS NULL ORDER BY id",
            row["id"],
        )
    )
    flags = {name: bool(row[name]) for name in ("admin_up", "port_security", "made_for_server")}
    return Port(**_columns(Port, row, {**flags, "addresses": addresses}))


def _columns(cls: Any, row: Row, computed: dict[str, Any]) -> dict[str, Any]:
    return {name: computed.get(name, row.get(name)) for name in cls.__dataclass_fields__}
