"""Servers as people see them, read from the database alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from stackctl.compute.hardware import shown
from stackctl.compute.lifecycle import status
from stackctl.compute.types import Fault, Server, ServerAddress, ServerFilter
from stackctl.identity.context import Context, find_own
from stackctl.state import Reader, Row, find, later, read

ALL = ServerFilter()

_SERVERS = """
SELECT servers.*, ifnull(hosts.name, '') AS host_name, ifnull(images.name, '') AS image_name,
       ifnull(server_groups.name, '') AS group_name
FROM servers LEFT JOIN hosts ON hosts.id = servers.host_id
LEFT JOIN images ON images.id = servers.image_id
LEFT JOIN server_groups ON server_groups.id = servers.group_id
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

_MOVES = """
SELECT migrations.*, source.name AS source, target.name AS target
FROM servers JOIN migrations ON migrations.server_id = servers.id
JOIN hosts AS source ON source.id = migrations.source_host_id
JOIN hosts AS target ON target.id = migrations.target_host_id
WHERE migrations.status IN ('queued', 'preparing', 'running', 'pre-migrating', 'migrating',
  'post-migrating', 'reverting') AND {}
"""


def server_row(context: Context, reader: Reader, word: str) -> Row:
    """The asker's live server of this name or id."""
    return find_own(context, reader, "servers", word, noun="server")


def list_servers(context: Context, wanted: ServerFilter = ALL) -> list[Server]:
    """The servers of the asker's project, newest first, as last observed.

    NotFound when the host of the filter does not exist.
    """
    with read(context.cloud) as reader:
        where, parameters = _conditions(context, reader, wanted)
        found = _servers(reader, where, *parameters)
    status_, tags = wanted.status.upper(), {*wanted.tags}
    return [each for each in found if status_ in ("", each.status) and tags <= {*each.tags}]


def _conditions(context: Context, reader: Reader, wanted: ServerFilter) -> tuple[str, list[str]]:
    conditions: dict[str, str | None] = {
        "servers.project_id = ?": context.project_id,
        "servers.deleted_at IS NULL": None,
    }
    if wanted.name:
        conditions["instr(servers.name, ?) > 0"] = wanted.name
    if wanted.flavor:
        conditions["servers.flavor_name = ?"] = wanted.flavor
    if wanted.host:
        host = find(reader, "hosts", wanted.host, noun="host")
        conditions["servers.host_id = ?"] = host["id"]
    if wanted.image:
        # By name also what was made of images that are gone since.
        made_of = "servers.image_id IN (SELECT id FROM images WHERE ? IN (name, id))"
        conditions[made_of] = wanted.image
    parameters = [value for value in conditions.values() if value is not None]
    return " AND ".join(conditions), parameters


def show_server(context: Context, word: str) -> Server:
    """One server, as last observed, with where a move under way brings it and when it is gone."""
    with read(context.cloud) as reader:
        row = server_row(context, reader, word)
        server = servers_by_id(reader, [row["id"]])[0]
    if row["soft_deleted_at"] is None:
        return server
    interval = context.cloud.config["reclaim_instance_interval"]
    return replace(server, restorable_until=later(row["soft_deleted_at"], interval))


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
    moves = reader.all(_MOVES.format(where), *parameters)
    heading = {
        row["server_id"]: row["source" if row["status"] == "reverting" else "target"]
        for row in moves
    }
    dead = _interrupted(reader) if any(row["task_state"] for row in rows) else set()
    return [
        replace(
            _server(row, addresses[row["id"]], groups[row["id"]], row["operation_id"] in dead),
            volumes=tuple(volumes[row["id"]]),
            moving_to=heading.get(row["id"], ""),
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
        project_id=row["project_id"],
        group=row["group_name"],
        hints=json.loads(row["hints_json"]),
    )


def _adopted(row: Row) -> str | None:
    if row["adopted_json"] is None:
        return None
    before = json.loads(row["adopted_json"])
    lost = ", ".join(before["lost"]) or "nothing else"
    return f"from domain {before['domain']}, whose definition ends with its next start: {lost}"
