"""Servers as people see them, read from the database alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from stackctl.compute.hardware import shown
from stackctl.compute.lifecycle import status
from stackctl.compute.types import Fault, Server, ServerAddress
from stackctl.identity.context import Context, find_own
from stackctl.state import Reader, Row, read

_SERVERS = """
SELECT servers.*, ifnull(hosts.name, '') AS host_name, ifnull(images.name, '') AS image_name
FROM servers LEFT JOIN hosts ON hosts.id = servers.host_id
LEFT JOIN images ON images.id = servers.image_id
WHERE {} ORDER BY servers.created_at DESC, servers.launch_index DESC, servers.name DESC
"""

_ADDRESSES = """
SELECT ports.device_id, ports.id AS port_id, ports.mac, networks.name AS network,
       ifnull(addresses.address, '') AS address, ifnull(addresses.subnet_id, '') AS subnet_id,
       (SELECT group_concat(address, ' ') FROM floating_ips WHERE port_id = ports.id
        AND fixed_address = addresses.address AND deleted_at IS NULL) AS floating
FROM servers JOIN ports ON ports.device_id = servers.id AND ports.deleted_at IS NULL
JOIN networks ON networks.id = ports.network_id
LEFT JOIN addresses ON addresses.port_id = ports.id AND addresses.released_serial IS NULL
WHERE {} ORDER BY ports.nic_index, addresses.id
"""

_GROUPS = """
SELECT DISTINCT ports.device_id, security_groups.name
FROM servers JOIN ports ON ports.device_id = servers.id AND ports.deleted_at IS NULL
JOIN port_security_groups AS held ON held.port_id = ports.id
JOIN security_groups ON security_groups.id = held.group_id
WHERE {} ORDER BY security_groups.name
"""


_VOLUMES = """
SELECT volumes.server_id, volumes.name || ' /dev/' || volumes.device AS volume
FROM servers JOIN volumes ON volumes.server_id = servers.id AND volumes.deleted_at IS NULL
WHERE {} ORDER BY volumes.device
"""


def server_row(context: Context, reader: Reader, word: str) -> Row:
    """The asker's live server of this name or id."""
    return find_own(context, reader, "servers", word, noun="server")


def list_servers(context: Context) -> list[Server]:
    """All servers of the asker's project, newest first, as last observed."""
    where = "servers.project_id = ? AND servers.deleted_at IS NULL"
    with read(context.cloud) as reader:
        return _servers(reader, where, context.project_id)


def show_server(context: Context, word: str) -> Server:
    """One server, as last observed."""
    with read(context.cloud) as reader:
        row = server_row(context, reader, word)
        return servers_by_id(reader, [row["id"]])[0]


def servers_by_id(reader: Reader, ids: Sequence[str]) -> list[Server]:
    """These servers, deleted or not, in this order."""
    marks = ", ".join("?" for _ in ids)
    found = {server.id: server for server in _servers(reader, f"servers.id IN ({marks})", *ids)}
    return [found[id_] for id_ in ids if id_ in found]


def read_servers(context: Context, ids: Sequence[str]) -> list[Server]:
    """The same, in a snapshot of its own."""
    with read(context.cloud) as reader:
        return servers_by_id(reader, ids)


def first_result(context: Context, operation: Row) -> list[Server]:
    """The servers that an operation returned, as they are now."""
    return read_servers(context, json.loads(operation["result_json"])["servers"])


def _servers(reader: Reader, where: str, *parameters: str) -> list[Server]:
    rows = reader.all(_SERVERS.format(where), *parameters)
    addresses: dict[str, list[ServerAddress]] = defaultdict(list)
    for row in reader.all(_ADDRESSES.format(where), *parameters):
        server_id = row.pop("device_id")
        floating = tuple((row.pop("floating") or "").split())
        addresses[server_id].append(ServerAddress(**row, floating=floating))
    groups: dict[str, list[str]] = defaultdict(list)
    for row in reader.all(_GROUPS.format(where), *parameters):
        groups[row["device_id"]].append(row["name"])
    volumes: dict[str, list[str]] = defaultdict(list)
    for row in reader.all(_VOLUMES.format(where), *parameters):
        volumes[row["server_id"]].append(row["volume"])
    dead = _interrupted(reader) if any(row["task_state"] for row in rows) else set()
    return [
        replace(
            _server(row, addresses[row["id"]], groups[row["id"]], row["operation_id"] in dead),
            volumes=tuple(volumes[row["id"]]),
        )
        for row in rows
    ]


def _interrupted(reader: Reader) -> set[str]:
    """Operations whose owner died. Looked for only by whoever has a reason to: what settles
    operations reaches hosts, too, and all that is nothing to load for a list."""
    from stackctl.operation.recover import interrupted

    return {row["id"] for row in interrupted(reader)}


def _server(row: Row, addresses: list[ServerAddress], groups: list[str], ownerless: bool) -> Server:
    told = json.loads(row["fault_json"]) if row["fault_json"] else None
    fault = Fault(told["message"], told["detail"], told["host"], told["at"]) if told else None
    return Server(
        id=row["id"],
        name=row["name"],
        hostname=row["hostname"],
        status=status(row["vm_state"], row["task_state"]),
        task_state=row["task_state"],
        vm_state=row["vm_state"],
        power_state=row["power_state"],
        addresses=tuple(addresses),
        image=row["image_name"],
        flavor=row["flavor_name"],
        vcpus=row["vcpus"],
        ram_mb=row["ram_mb"],
        disk_gb=row["disk_gb"],
        ephemeral_gb=row["ephemeral_gb"],
        key_name=row["key_name"],
        host=row["host_name"],
        host_id=row["host_id"],
        zone=row["zone"],
        metadata=json.loads(row["metadata_json"]),
        fault=fault,
        created_at=row["created_at"],
        launched_at=row["launched_at"],
        observed_at=row["observed_at"],
        interrupted=ownerless and row["task_state"] is not None,
        security_groups=tuple(groups),
        locked=bool(row["locked"]),
        lock_reason=row["lock_reason"],
        tags=tuple(json.loads(row["tags_json"])),
        adopted=_adopted(row),
        hardware=shown(json.loads(row["hardware_json"])),
    )


def _adopted(row: Row) -> str | None:
    if row["adopted_json"] is None:
        return None
    before = json.loads(row["adopted_json"])
    lost = ", ".join(before["lost"]) or "nothing else"
    return f"from domain {before['domain']}, whose definition ends with its next start: {lost}"
