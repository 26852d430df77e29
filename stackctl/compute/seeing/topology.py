"""The project's networks as a graph: networks, and the routers and servers that hang on them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from stackctl.compute.lifecycle import status
from stackctl.identity.context import Context
from stackctl.network.finding import VISIBLE_NETWORK
from stackctl.state import Reader, Row, read

GATEWAY_OWNER = "network:router_gateway"


@dataclass(frozen=True)
class SubnetNode:
    """A subnet as it is drawn."""

    id: str
    name: str
    cidr: str
    gateway: str | None
    dhcp: bool


@dataclass(frozen=True)
class NetworkNode:
    """A network with its subnets, oldest first; ``up`` is its admin state."""

    id: str
    name: str
    type: str
    physical_network: str | None
    segmentation_id: int | None
    mtu: int
    external: bool
    shared: bool
    up: bool
    subnets: tuple[SubnetNode, ...]


@dataclass(frozen=True)
class Link:
    """A port: where a device meets a network. ``gateway`` marks a router's way out; ``floating``
    are the addresses of another network that stand for this port's own."""

    port_id: str
    network_id: str
    mac: str
    addresses: tuple[str, ...]
    floating: tuple[str, ...]
    gateway: bool
    up: bool


@dataclass(frozen=True)
class Device:
    """A router or a server (``kind``). ``host`` is empty while it is nowhere; a router's ``status``
    is ACTIVE or DOWN, a server's as ``list`` shows it."""

    id: str
    kind: str
    name: str
    status: str
    host: str
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Topology:
    """A graph: the links of ``devices`` lead to ``networks``. Routers come before servers."""

    networks: tuple[NetworkNode, ...]
    devices: tuple[Device, ...]


def topology(context: Context) -> Topology:
    """Everything of the asker's project, on its own networks and on those that it may use."""
    with read(context.cloud) as reader:
        return Topology(_networks(context, reader), _devices(context, reader))


def _networks(context: Context, reader: Reader) -> tuple[NetworkNode, ...]:
    rows = reader.all(
        f"SELECT * FROM networks WHERE deleted_at IS NULL AND {VISIBLE_NETWORK} ORDER BY rowid",
        context.project_id,
    )
    subnets: dict[str, list[SubnetNode]] = defaultdict(list)
    for row in reader.all("SELECT * FROM subnets WHERE deleted_at IS NULL ORDER BY rowid"):
        subnets[row["network_id"]].append(
            SubnetNode(row["id"], row["name"], row["cidr"], row["gateway"], bool(row["dhcp"]))
        )
    return tuple(
        NetworkNode(
            id=row["id"],
            name=row["name"],
            type=row["type"],
            physical_network=row["physical_network"],
            segmentation_id=row["segmentation_id"],
            mtu=row["mtu"],
            external=bool(row["external"]),
            shared=bool(row["shared"]),
            up=bool(row["admin_up"]),
            subnets=tuple(subnets[row["id"]]),
        )
        for row in rows
    )


_ROUTERS = """
SELECT routers.*, ifnull(hosts.name, '') AS host_name FROM routers
LEFT JOIN hosts ON hosts.id = routers.host_id
WHERE routers.project_id = ? AND routers.deleted_at IS NULL ORDER BY routers.name, routers.id
"""

_SERVERS = """
SELECT servers.*, ifnull(hosts.name, '') AS host_name FROM servers
LEFT JOIN hosts ON hosts.id = servers.host_id
WHERE servers.project_id = ? AND servers.deleted_at IS NULL
ORDER BY servers.created_at, servers.launch_index, servers.name
"""

_PORTS = """
SELECT * FROM ports WHERE deleted_at IS NULL AND device_id IN (
  SELECT id FROM servers WHERE project_id = ?1 UNION ALL
  SELECT id FROM routers WHERE project_id = ?1)
ORDER BY nic_index, rowid
"""

_ADDRESSES = """
SELECT addresses.port_id, addresses.address FROM addresses
JOIN ports ON ports.id = addresses.port_id
WHERE addresses.released_serial IS NULL AND ports.device_id <> '' ORDER BY addresses.id
"""

_FLOATING = """
SELECT port_id, address FROM floating_ips
WHERE project_id = ? AND port_id IS NOT NULL AND deleted_at IS NULL ORDER BY rowid
"""


def _devices(context: Context, reader: Reader) -> tuple[Device, ...]:
    links = _links(context, reader)
    routers = [
        _device("router", row, row["status"], links)
        for row in reader.all(_ROUTERS, context.project_id)
    ]
    servers = [
        _device("server", row, status(row["vm_state"], row["task_state"]), links)
        for row in reader.all(_SERVERS, context.project_id)
    ]
    return (*routers, *servers)


def _device(kind: str, row: Row, state: str, links: dict[str, list[Link]]) -> Device:
    return Device(
        id=row["id"],
        kind=kind,
        name=row["name"],
        status=state,
        host=row["host_name"],
        links=tuple(links.get(row["id"], ())),
    )


def _links(context: Context, reader: Reader) -> dict[str, list[Link]]:
    """The links of all devices, by device."""
    addresses = _pairs(reader.all(_ADDRESSES))
    floating = _pairs(reader.all(_FLOATING, context.project_id))
    links: dict[str, list[Link]] = defaultdict(list)
    for row in reader.all(_PORTS, context.project_id):
        links[row["device_id"]].append(
            Link(
                port_id=row["id"],
                network_id=row["network_id"],
                mac=row["mac"],
                addresses=tuple(addresses[row["id"]]),
                floating=tuple(floating[row["id"]]),
                gateway=row["device_owner"] == GATEWAY_OWNER,
                up=bool(row["admin_up"]),
            )
        )
    return links


def _pairs(rows: list[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row["port_id"]].append(row["address"])
    return found
