"""A cloud filled with many hosts and servers, by rows written straight into its database.

The servers look as if they had been booted and run; the hosts cannot be reached. Networks, ports,
addresses, bindings and disks are all there, so that every query meets what it would in a cloud
that grew by commands.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass

from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import Context, admin_context
from stackctl.network.membership import default_group
from stackctl.state import Cloud, Row, Writer, existing_cloud, find_cloud, new_id, now, write

GIB = 1024**3
NETWORK_SIZE = 50
"""Servers that share a network."""


@dataclass(frozen=True)
class Filled:
    """What was filled in: the cloud and the ids of its hosts."""

    cloud: Cloud
    context: Context
    host_ids: tuple[str, ...]


def fill(name: str, *, hosts: int, servers: int, crowded: int = 0) -> Filled:
    """Make the cloud ``name``; the first host gets ``crowded`` servers, the others the rest evenly.

    Servers are dealt to hosts one after another, so that a network spans many hosts.
    """
    cloud = find_cloud(name)
    create_cloud(cloud)
    context = admin_context(existing_cloud(name))
    with write(cloud) as writer:
        filler = _Filler(context, writer)
        host_ids = [filler.host(number) for number in range(hosts)]
        others = host_ids[1:] if crowded else host_ids
        for number in range(servers):
            host_id = host_ids[0] if number < crowded else others[number % len(others)]
            filler.server(number, host_id)
    return Filled(cloud, context, tuple(host_ids))


class _Filler:
    def __init__(self, context: Context, writer: Writer) -> None:
        self._context, self._writer = context, writer
        self._at = now()
        self._flavor = writer.all("SELECT * FROM flavors WHERE name = 'm1.tiny'")[0]
        self._image_id = self._image()
        self._group_id = default_group(writer, context.project_id)
        self._network: Row = {}
        self._subnet_id = ""
        self._vlans: dict[str, int] = {}
        self._known: set[tuple[str, str]] = set()

    def _image(self) -> str:
        image: Row = {"id": new_id(), "project_id": self._context.project_id, "name": "image"}
        image |= {"status": "active", "disk_format": "qcow2", "sha256": "0" * 64}
        sizes = {"size_bytes": 1 << 20, "virtual_size_bytes": 1 << 20, "created_at": self._at}
        self._writer.insert("images", image | sizes)
        return str(image["id"])

    def host(self, number: int) -> str:
        """A host with room for a hundred small servers and more."""
        address = ipaddress.IPv4Address("10.200.0.0") + number + 1
        row: Row = {"id": new_id(), "name": f"host{number}", "transport": "ssh"}
        row |= {"address": str(address), "ssh_port": 22, "ssh_user": "root"}
        row |= {"host_key": "ssh-ed25519 AAAA", "tunnel_address": str(address)}
        row |= {"vcpus": 64, "ram_mb": 262144, "disk_gb": 4000, "created_at": self._at}
        facts = {"machine_types": {"pc": "pc-i440fx-7.2"}}
        self._writer.insert("hosts", row | {"facts_json": json.dumps(facts), "seen_at": self._at})
        return str(row["id"])

    def server(self, number: int, host_id: str) -> None:
        """A server that runs, with its port, address, binding and disk."""
        if number % NETWORK_SIZE == 0:
            self._new_network(number // NETWORK_SIZE)
        server_id, name, flavor = new_id(), f"server-{number}", self._flavor
        row: Row = {"id": server_id, "project_id": self._context.project_id}
        row |= {"user_id": self._context.user_id, "name": name, "hostname": name}
        row |= {"host_id": host_id, "image_id": self._image_id, "flavor_id": flavor["id"]}
        row |= {"flavor_name": flavor["name"], "vcpus": 1, "ram_mb": 512, "disk_gb": 1}
        row |= {"vm_state": "active", "power_state": "RUNNING", "machine_type": "pc-i440fx-7.2"}
        row |= {"launched_at": self._at, "observed_at": self._at, "created_at": self._at}
        self._writer.insert("servers", row)
        self._disk(server_id, host_id)
        self._port(number, server_id, host_id, name)

    def _disk(self, server_id: str, host_id: str) -> None:
        row: Row = {"id": new_id(), "server_id": server_id, "host_id": host_id, "kind": "root"}
        row |= {"position": 0, "format": "qcow2", "size_bytes": GIB, "image_id": self._image_id}
        self._writer.insert("disks", row | {"state": "built", "created_at": self._at})

    def _port(self, number: int, server_id: str, host_id: str, hostname: str) -> None:
        row: Row = {"id": new_id(), "project_id": self._context.project_id}
        row |= {"network_id": self._network["id"], "mac": _mac(number), "device_id": server_id}
        row |= {"device_owner": "compute:nova", "hostname": hostname, "status": "ACTIVE"}
        self._writer.insert("ports", row | {"made_for_server": 1, "created_at": self._at})
        self._address(row["id"], "fixed", number % NETWORK_SIZE + 10)
        binding = {"port_id": row["id"], "host_id": host_id, "role": "active"}
        self._writer.insert("bindings", binding)
        member = {"port_id": row["id"], "group_id": self._group_id}
        self._writer.insert("port_security_groups", member)
        self._carry(host_id)

    def _carry(self, host_id: str) -> None:
        key = (host_id, str(self._network["id"]))
        if key in self._known:
            return
        self._known.add(key)
        vlan = self._vlans[host_id] = self._vlans.get(host_id, 0) + 1
        row = {"host_id": host_id, "network_id": self._network["id"], "local_vlan": vlan}
        self._writer.insert("host_networks", row)

    def _address(self, port_id: str, kind: str, offset: int) -> None:
        address = self._base + offset
        row: Row = {"network_id": self._network["id"], "subnet_id": self._subnet_id}
        row |= {"port_id": port_id, "kind": kind, "address": str(address)}
        self._writer.insert("addresses", row | {"number": f"{int(address):032x}"})

    def _new_network(self, number: int) -> None:
        project_id = self._context.project_id
        self._base = ipaddress.IPv4Address("10.0.0.0") + 256 * number
        network: Row = {"id": new_id(), "project_id": project_id, "name": f"net-{number}"}
        network |= {"type": "vxlan", "segmentation_id": number + 1, "mtu": 1450}
        network |= {"domain": "cloud.internal", "created_at": self._at}
        self._network = self._writer.insert("networks", network)
        self._subnet_id = new_id()
        pools = [{"start": str(self._base + 2), "end": str(self._base + 254)}]
        subnet: Row = {"id": self._subnet_id, "project_id": project_id, "name": ""}
        subnet |= {"network_id": network["id"], "number": number, "cidr": f"{self._base}/24"}
        subnet |= {"gateway": str(self._base + 1), "pools_json": json.dumps(pools)}
        self._writer.insert("subnets", subnet | {"created_at": self._at})
        self._dhcp_port(number)

    def _dhcp_port(self, number: int) -> None:
        row: Row = {"id": new_id(), "project_id": self._context.project_id}
        row |= {"network_id": self._network["id"], "mac": _mac(0x800000 + number)}
        row |= {"device_owner": "network:dhcp", "created_at": self._at}
        self._writer.insert("ports", row)
        self._address(row["id"], "dhcp", 3)


def _mac(number: int) -> str:
    return "fa:16:3e:" + number.to_bytes(3, "big").hex(":")
