"""Where everything is that a packet can meet: ports by address and device, hosts by tunnel."""

from __future__ import annotations

import ipaddress
import json
from collections import defaultdict
from dataclasses import dataclass

from stackctl.compute.seeing.reachability import load_world
from stackctl.identity.context import Context
from stackctl.network.reach import PortEnd, World
from stackctl.network.traffic import Address
from stackctl.state import Reader, Row

DEVICES = {"network:router_interface": "qr-", "network:router_gateway": "qg-"}
"""What the devices of ports begin with; of all others with tap."""

TUNNELS = ("vxlan", "gre")


@dataclass(frozen=True)
class PortSpot:
    """A port and where it is. ``host_id`` is None while it is nowhere; a DHCP server's port is on
    every host that has its network."""

    id: str
    network_id: str
    mac: str
    owner: str
    device_id: str
    device_name: str
    host_id: str | None
    addresses: tuple[Address, ...]

    @property
    def device(self) -> str:
        """What it is called on its host."""
        return DEVICES.get(self.owner, "tap") + self.id[:11]

    @property
    def is_router(self) -> bool:
        """Whether a router has it."""
        return self.owner in DEVICES

    @property
    def words(self) -> str:
        """Whose it is, as people say it."""
        if self.is_router:
            return f"router {self.device_name}"
        return "the DHCP server" if self.owner == "network:dhcp" else f"server {self.device_name}"


class Cloudmap:
    """One snapshot of it all."""

    def __init__(self, context: Context, reader: Reader) -> None:
        self.world: World = load_world(context, reader)
        self.networks: dict[str, Row] = {
            row["id"]: row for row in reader.all("SELECT * FROM networks WHERE deleted_at IS NULL")
        }
        self.hosts: dict[str, Row] = {
            row["id"]: row for row in reader.all("SELECT * FROM hosts WHERE deleted_at IS NULL")
        }
        self.ports = _ports(reader)
        self._ends = {port.id: port for end in self.world.ends for port in end.ports}
        self._owners = _owners(reader, self.ports)

    def end(self, port: PortSpot | None) -> PortEnd | None:
        """A server's port with its groups."""
        return None if port is None else self._ends.get(port.id)

    def by_device(self, device: str) -> PortSpot | None:
        """The port behind the name of a device."""
        for port in self.ports.values():
            if port.device == device:
                return port
        return None

    def by_mac(self, network_id: str, mac: str) -> PortSpot | None:
        """The port of a network that has an Ethernet address."""
        for port in self.ports.values():
            if (port.network_id, port.mac) == (network_id, mac):
                return port
        return None

    def by_address(self, network_id: str, address: Address) -> PortSpot | None:
        """The port that answers for an address in a network: its own, or a floating one."""
        return self._owners.get((network_id, address))

    def network_name(self, network_id: str) -> str:
        """The name of a network."""
        return str(self.networks[network_id]["name"])

    def host_by_tunnel(self, address: str) -> Row | None:
        """The host with a tunnel address."""
        return next((row for row in self.hosts.values() if row["tunnel_address"] == address), None)

    def nic(self, host: Row, network_id: str) -> str:
        """The device by which a network leaves a host; empty when there is none."""
        physical = self.networks[network_id]["physical_network"]
        for item in json.loads(host["bridge_mappings_json"]):
            if item["physical_network"] == physical:
                return str(item["nic"])
        return ""

    def vlan(self, network_id: str) -> int:
        """The tag that a network has outside its hosts; 0: none."""
        row = self.networks[network_id]
        return int(row["segmentation_id"]) if row["type"] == "vlan" else 0

    def is_tunnelled(self, network_id: str) -> bool:
        """Whether hosts carry a network in tunnels."""
        return self.networks[network_id]["type"] in TUNNELS


_PORTS = """
SELECT ports.*, bindings.host_id AS bound_to,
  coalesce(servers.name, routers.name, '') AS device_name
FROM ports
LEFT JOIN bindings ON bindings.port_id = ports.id AND bindings.role = 'active'
LEFT JOIN servers ON servers.id = ports.device_id
LEFT JOIN routers ON routers.id = ports.device_id
WHERE ports.deleted_at IS NULL
"""


def _ports(reader: Reader) -> dict[str, PortSpot]:
    addresses: dict[str, list[Address]] = defaultdict(list)
    sql = (
        "SELECT * FROM addresses WHERE released_serial IS NULL AND port_id IS NOT NULL ORDER BY id"
    )
    for row in reader.all(sql):
        addresses[row["port_id"]].append(ipaddress.ip_address(row["address"]))
    return {
        row["id"]: PortSpot(
            id=row["id"],
            network_id=row["network_id"],
            mac=row["mac"],
            owner=row["device_owner"],
            device_id=row["device_id"],
            device_name=row["device_name"],
            host_id=row["bound_to"],
            addresses=tuple(addresses[row["id"]]),
        )
        for row in reader.all(_PORTS)
    }


def _owners(reader: Reader, ports: dict[str, PortSpot]) -> dict[tuple[str, Address], PortSpot]:
    owners = {
        (port.network_id, address): port for port in ports.values() for address in port.addresses
    }
    gateways = {
        port.device_id: port for port in ports.values() if port.owner == "network:router_gateway"
    }
    sql = "SELECT * FROM floating_ips WHERE router_id IS NOT NULL AND deleted_at IS NULL"
    for row in reader.all(sql):
        gateway = gateways.get(row["router_id"])
        if gateway is not None:
            owners[row["network_id"], ipaddress.ip_address(row["address"])] = gateway
    return owners
