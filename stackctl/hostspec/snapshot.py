"""The rows that one host's spec is made of, and only those: nothing here grows with the cloud.

Everything is reached from the host: its bindings, their networks, the servers and disks on it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

from stackctl.state import Reader, Row


@dataclass
class Groups:
    """Security groups of a host's ports. ``of_port``: group ids by port id; ``rules`` by group id;
    ``members``: rows of ``group_id``, ``network_id``, ``address`` (None: it has none) and
    ``allowed_pairs_json``, as this host must know them.
    """

    of_port: dict[str, list[str]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    rules: dict[str, list[Row]] = field(default_factory=dict)
    members: list[Row] = field(default_factory=list)


@dataclass
class HostSnapshot:
    """Rows around one host, from one transaction."""

    cloud: Row
    host: Row
    networks: list[Row]
    subnets: dict[str, list[Row]]
    ports: list[Row]
    """Servers' ports bound to this host, with the binding's ``role``, the server's id, and, of a
    subport, its ``vlan``."""
    addresses: dict[str, list[Row]]
    """By port id, for every port of these networks."""
    neighbours: list[Row]
    """All live ports of these networks that have a name or live on another host; with
    ``tunnel_address`` of their active host (None: here, or nowhere)."""
    second_places: list[Row]
    """Where else, on other hosts, ports of these networks are whose servers move."""
    flood_to: dict[str, list[str]]
    servers: list[Row]
    disks: list[Row]
    images: dict[str, Row]
    tombstones: list[Row] = field(default_factory=list)
    routers: list[Row] = field(default_factory=list)
    router_ports: dict[str, list[Row]] = field(default_factory=dict)
    """By router id: its interfaces and its gateway."""
    floating_ips: dict[str, list[Row]] = field(default_factory=dict)
    """By router id."""
    groups: Groups = field(default_factory=Groups)
    volumes: list[Row] = field(default_factory=list)
    volume_snapshots: list[Row] = field(default_factory=list)
    volume_types: list[Row] = field(default_factory=list)
    """With ``known``: whether the host has said that it has them."""

    trunks: list[Row] = field(default_factory=list)
    """Those whose parents are among the ports."""
    subports: dict[str, list[Row]] = field(default_factory=dict)
    """By trunk id."""

    @property
    def adopting(self) -> set[str]:
        """Servers whose domains are still to become ours."""
        return {row["id"] for row in self.servers if row["adopting"]}


def load_snapshot(reader: Reader, host_id: str) -> HostSnapshot:
    """Read what ``build_spec`` needs about one host."""
    networks = reader.all(_NETWORKS, host_id)
    network_ids = [row["id"] for row in networks]
    disks = reader.all(_DISKS, host_id)
    servers = reader.all(_SERVERS, host_id, host_id)
    ports = reader.all(_PORTS, host_id)
    volumes = reader.all(_VOLUMES, host_id, host_id)
    routers = reader.all(_ROUTERS, host_id)
    router_ids = [row["id"] for row in routers]
    trunks = reader.all(_TRUNKS, host_id)
    return HostSnapshot(
        cloud=reader.all("SELECT * FROM cloud")[0],
        host=reader.get("hosts", host_id),
        networks=networks,
        subnets=_grouped(reader, _SUBNETS, network_ids, "network_id"),
        ports=ports,
        addresses=_grouped(reader, _ADDRESSES, network_ids, "port_id"),
        neighbours=_neighbours(reader, host_id, network_ids),
        second_places=reader.all(_SECOND_PLACES.format(_marks(network_ids)), host_id, *network_ids),
        flood_to=_flood_to(reader, host_id, network_ids),
        servers=servers,
        disks=disks,
        images=_images(reader, servers, disks, volumes),
        tombstones=reader.all(_TOMBSTONES, host_id),
        routers=routers,
        router_ports=_grouped(reader, _ROUTER_PORTS, router_ids, "device_id"),
        floating_ips=_grouped(reader, _FLOATING_IPS, router_ids, "router_id"),
        groups=_groups(reader, ports),
        volumes=volumes,
        volume_snapshots=reader.all(_VOLUME_SNAPSHOTS, host_id),
        volume_types=reader.all(_VOLUME_TYPES, host_id, host_id),
        trunks=trunks,
        subports=_grouped(reader, _SUBPORTS, [row["id"] for row in trunks], "trunk_id"),
    )


# With the host of what a disk is a copy of, when that is another one.
_DISKS = """
SELECT disks.*, source.host_id AS source_host_id FROM disks
LEFT JOIN disks AS source ON source.id = disks.source_id AND source.host_id <> disks.host_id
WHERE disks.host_id = ? AND disks.deleted_at IS NULL
"""

# Those that run here, and those that are on their way here while they run elsewhere.
_SERVERS = """
SELECT * FROM servers WHERE host_id = ? AND deleted_at IS NULL
UNION ALL SELECT servers.* FROM migrations JOIN servers ON servers.id = migrations.server_id
WHERE migrations.target_host_id = ? AND migrations.kind = 'live'
  AND migrations.status IN ('preparing', 'running') AND servers.deleted_at IS NULL
ORDER BY id
"""

# Those of a server that is on its way here are shared: its old host has them, too.
_VOLUMES = """
SELECT * FROM volumes WHERE host_id = ? AND deleted_at IS NULL
UNION SELECT volumes.* FROM migrations JOIN volumes ON volumes.server_id = migrations.server_id
WHERE migrations.target_host_id = ? AND migrations.kind = 'live'
  AND migrations.status IN ('preparing', 'running') AND volumes.deleted_at IS NULL
ORDER BY id
"""

# One that failed is not tried again: it would be of another moment than was asked for.
_VOLUME_SNAPSHOTS = """
SELECT *, volume_id AS source_id FROM volume_snapshots WHERE host_id = ? AND deleted_at IS NULL
  AND (built = 1 OR status = 'creating') ORDER BY id
"""

# What is not claimed yet, only its claimant can have.
_VOLUME_TYPES = """
SELECT volume_types.*, ifnull(said.usable, 0) AS known FROM volume_types
LEFT JOIN volume_type_hosts AS said ON said.type_id = volume_types.id AND said.host_id = ?
WHERE deleted_at IS NULL AND (claimed = 1 OR volume_types.host_id = ?) ORDER BY id
"""

_NETWORKS = """
SELECT networks.*, host_networks.local_vlan FROM host_networks
JOIN networks ON networks.id = host_networks.network_id
WHERE host_networks.host_id = ? AND host_networks.released_serial IS NULL
  AND networks.deleted_at IS NULL
ORDER BY networks.id
"""

# Where a port is active while it is to come to another host, it is on its way out. A subport's
# server is that of its trunk's parent.
_PORTS = """
SELECT ports.*, ifnull(parent.device_id, ports.device_id) AS server_id,
  ifnull(parent.nic_index, ports.nic_index) AS nic, trunk_subports.segmentation_id AS vlan,
  CASE WHEN bindings.role = 'active' AND EXISTS (
    SELECT 1 FROM bindings AS other WHERE other.port_id = ports.id AND other.role = 'incoming')
  THEN 'outgoing' ELSE bindings.role END AS role
FROM bindings JOIN ports ON ports.id = bindings.port_id
LEFT JOIN trunk_subports ON trunk_subports.port_id = ports.id
LEFT JOIN trunks ON trunks.id = trunk_subports.trunk_id
LEFT JOIN ports AS parent ON parent.id = trunks.port_id
WHERE bindings.host_id = ? AND ports.deleted_at IS NULL
  AND ports.device_owner NOT LIKE 'network:%' ORDER BY ports.id
"""

_TRUNKS = """
SELECT trunks.* FROM bindings JOIN trunks ON trunks.port_id = bindings.port_id
WHERE bindings.host_id = ? AND trunks.deleted_at IS NULL ORDER BY trunks.id
"""

_SUBPORTS = "SELECT * FROM trunk_subports WHERE trunk_id IN ({}) ORDER BY segmentation_id"

# Not those that are still on their way here: their old host may have them yet.
_ROUTERS = """
SELECT * FROM routers WHERE host_id = ? AND deleted_at IS NULL AND NOT EXISTS (
  SELECT 1 FROM ports JOIN bindings ON bindings.port_id = ports.id
  WHERE ports.device_id = routers.id AND ports.deleted_at IS NULL AND bindings.role = 'incoming')
ORDER BY id
"""

_ROUTER_PORTS = """
SELECT * FROM ports WHERE device_id IN ({}) AND deleted_at IS NULL
  AND device_owner IN ('network:router_interface', 'network:router_gateway') ORDER BY id
"""

_FLOATING_IPS = """
SELECT * FROM floating_ips WHERE router_id IN ({}) AND deleted_at IS NULL ORDER BY id
"""

_SUBNETS = """
SELECT * FROM subnets WHERE network_id IN ({}) AND deleted_at IS NULL ORDER BY id
"""

_ADDRESSES = """
SELECT * FROM addresses WHERE network_id IN ({}) AND released_serial IS NULL
  AND port_id IS NOT NULL ORDER BY id
"""

# One row per port; the host it is active on, when that is another one with a tunnel address.
_NEIGHBOURS = """
SELECT ports.id, ports.network_id, ports.mac, ports.hostname, ports.device_owner,
       hosts.tunnel_address
FROM ports
LEFT JOIN bindings ON bindings.port_id = ports.id AND bindings.role = 'active'
LEFT JOIN hosts ON hosts.id = bindings.host_id AND hosts.id <> ?
WHERE ports.network_id IN ({}) AND ports.deleted_at IS NULL
ORDER BY ports.id
"""

_SECOND_PLACES = """
SELECT ports.id, ports.network_id, ports.mac, hosts.tunnel_address
FROM bindings JOIN ports ON ports.id = bindings.port_id JOIN hosts ON hosts.id = bindings.host_id
WHERE bindings.role <> 'active' AND hosts.id <> ? AND ports.network_id IN ({})
  AND ports.deleted_at IS NULL AND ports.device_owner NOT LIKE 'network:%'
  AND hosts.tunnel_address IS NOT NULL
ORDER BY ports.id
"""

_FLOOD_TO = """
SELECT host_networks.network_id, hosts.tunnel_address FROM host_networks
JOIN hosts ON hosts.id = host_networks.host_id
WHERE host_networks.network_id IN ({}) AND host_networks.released_serial IS NULL
  AND hosts.id <> ? AND hosts.tunnel_address IS NOT NULL AND hosts.deleted_at IS NULL
ORDER BY hosts.tunnel_address
"""

_GROUPS_OF_PORTS = "SELECT * FROM port_security_groups WHERE port_id IN ({}) ORDER BY group_id"

_GROUPS = "SELECT * FROM security_groups WHERE id IN ({}) AND deleted_at IS NULL ORDER BY id"

_RULES = """
SELECT * FROM security_group_rules WHERE group_id IN ({}) AND deleted_at IS NULL ORDER BY id
"""

# Whose packets can arrive with their own addresses: members in the network itself, and in those
# that routers connect with it.
_MEMBERS = """
WITH RECURSIVE joined(here, there) AS (
  SELECT value, value FROM json_each(?)
  UNION
  SELECT joined.here, far.network_id FROM joined
  JOIN ports AS near ON near.network_id = joined.there AND near.deleted_at IS NULL
    AND near.device_owner = 'network:router_interface'
  JOIN ports AS far ON far.device_id = near.device_id AND far.deleted_at IS NULL
    AND far.device_owner = 'network:router_interface'
), used(network_id, group_id) AS (
  SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)
)
SELECT DISTINCT used.group_id, used.network_id, addresses.address, ports.allowed_pairs_json
FROM used
CROSS JOIN joined ON joined.here = used.network_id
CROSS JOIN ports ON ports.network_id = joined.there AND ports.deleted_at IS NULL
CROSS JOIN port_security_groups AS member
  ON member.port_id = ports.id AND member.group_id = used.group_id
LEFT JOIN addresses ON addresses.port_id = ports.id AND addresses.released_serial IS NULL
ORDER BY used.group_id, used.network_id, addresses.number
"""

_TOMBSTONES = """
SELECT * FROM tombstones WHERE host_id = ? AND acknowledged_at IS NULL ORDER BY kind, id
"""


def _marks(items: list[str]) -> str:
    return ", ".join("?" for _ in items)


def _grouped(reader: Reader, sql: str, ids: list[str], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in reader.all(sql.format(_marks(ids)), *ids):
        groups[row[key]].append(row)
    return groups


def _neighbours(reader: Reader, host_id: str, network_ids: list[str]) -> list[Row]:
    return reader.all(_NEIGHBOURS.format(_marks(network_ids)), host_id, *network_ids)


def _flood_to(reader: Reader, host_id: str, network_ids: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for row in reader.all(_FLOOD_TO.format(_marks(network_ids)), *network_ids, host_id):
        groups[row["network_id"]].append(row["tunnel_address"])
    return groups


def _groups(reader: Reader, ports: list[Row]) -> Groups:
    """The groups of these ports, their rules, and the members of groups that rules name."""
    of_port: dict[str, list[str]] = defaultdict(list)
    secured = [port["id"] for port in ports if port["port_security"]]
    for row in reader.all(_GROUPS_OF_PORTS.format(_marks(secured)), *secured):
        of_port[row["port_id"]].append(row["group_id"])
    ids = sorted({group_id for group_ids in of_port.values() for group_id in group_ids})
    rules = _grouped(reader, _RULES, ids, "group_id")
    used = {
        (port["network_id"], rule["remote_group_id"])
        for port in ports
        for group_id in of_port.get(port["id"], [])
        for rule in rules.get(group_id, [])
        if rule["remote_group_id"]
    }
    networks = sorted({network_id for network_id, _ in used})
    return Groups(
        of_port=of_port,
        rows=reader.all(_GROUPS.format(_marks(ids)), *ids),
        rules=rules,
        members=reader.all(_MEMBERS, json.dumps(networks), json.dumps(sorted(used))),
    )


def _is_copy(volume: Row) -> bool:
    """Whether the image that a volume began with is not needed for it (any more)."""
    return bool(volume["built"]) or volume["source_id"] is not None


def stands_on_image(disk: Row) -> bool:
    """Whether a disk needs its image; UEFI variables are a whole copy once they are built."""
    return bool(disk["kind"] != "nvram" or disk["state"] == "build")


def _images(
    reader: Reader, servers: list[Row], disks: list[Row], volumes: list[Row]
) -> dict[str, Row]:
    """Images that disks stand on, those that volumes are still to be made of, and the kernels that
    servers boot from."""
    wanted = {disk["image_id"] for disk in disks if stands_on_image(disk)}
    wanted |= {volume["image_id"] for volume in volumes if not _is_copy(volume)}
    booted = {server["rescue_image_id"] or server["image_id"] for server in servers} - {None}
    with_kernel = reader.all(
        f"SELECT * FROM images WHERE id IN ({_marks(sorted(booted))}) AND kernel_id IS NOT NULL",
        *sorted(booted),
    )
    for image in with_kernel:
        wanted |= {image["id"], image["kernel_id"], image["ramdisk_id"]}
    ids = sorted(wanted - {None})
    rows = reader.all(f"SELECT * FROM images WHERE id IN ({_marks(ids)})", *ids)
    return {row["id"]: row for row in rows}
