"""The transaction of boot: place, allocate, write. All or nothing for the whole count."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Collection, Sequence

from stackctl.compute import volume_rows
from stackctl.compute.capacity import candidates
from stackctl.compute.disks import add_variables, bury_all
from stackctl.compute.hardware import display_wanted, hardware_of, has_nvram, wish_of
from stackctl.compute.placing import place_all, placement_of, record_decision
from stackctl.compute.resolving import Resolved
from stackctl.compute.sayings import with_properties, with_tags
from stackctl.compute.scheduling.policy import policy_of
from stackctl.compute.scheduling.scheduler import Decision, place
from stackctl.compute.types import GIB, BootRequest, Nic
from stackctl.errors import Conflict
from stackctl.identity.context import Context
from stackctl.identity.quota import require
from stackctl.names import some
from stackctl.network.addresses import WantedAddress
from stackctl.network.allocation import (
    bind_port,
    free_hostname,
    join_server,
    make_port,
    unbind_port,
)
from stackctl.state import Reader, Row, Writer, new_id, now

SEED_BYTES = 64
"""Random bytes that a guest finds on its config drive."""


def book(context: Context, writer: Writer, resolved: Resolved, operation_id: str) -> list[str]:
    """Write everything about the new servers; returns their ids in order of their names."""
    request, flavor = resolved.request, resolved.flavor
    require(writer, context.project_id, "instances", request.count)
    require(writer, context.project_id, "cores", request.count * flavor["vcpus"])
    require(writer, context.project_id, "ram_mb", request.count * flavor["ram_mb"])
    require(writer, context.project_id, "ports", request.count * resolved.ports.count(None))
    ids = [new_id() for _ in range(request.count)]
    names = [_server_name(request, index, id_) for index, id_ in enumerate(ids)]
    _refuse_taken_names(context, writer, request, names)
    _require_room_in_group(context, writer, resolved)
    decisions = place_all(context, writer, resolved, names)
    for index, (id_, name, decision) in enumerate(zip(ids, names, decisions, strict=True)):
        _write_server(context, writer, resolved, operation_id, index, id_, name, decision)
        record_decision(context, writer, decision, id_, operation_id)
    return ids


def place_again(
    context: Context,
    writer: Writer,
    server_ids: Sequence[str],
    without: Collection[str],
    operation_id: str,
) -> list[str]:
    """Move servers of which no host has anything to others; returns those that fit nowhere."""
    left, leaving = [], set(server_ids)
    for server_id in server_ids:
        server = writer.get("servers", server_id)
        decision = another_host(context, writer, server, without, leaving)
        record_decision(context, writer, decision, server_id, operation_id)
        context.watch.decided(decision)
        if decision.host_id is None:
            left.append(server_id)
        else:
            _move_unborn(writer, server, decision.host_id)
            leaving.discard(server_id)
    return left


def another_host(
    context: Context,
    reader: Reader,
    server: Row,
    without: Collection[str],
    leaving: Collection[str] = (),
) -> Decision:
    """Where a server would go if some hosts were not there."""
    request = placement_of(reader, server, leaving)
    policy = policy_of(context.cloud.config["scheduler"])
    return place([request], candidates(reader, without), policy)[0]


def clear_away(writer: Writer, server: Row) -> None:
    """Take a server that never ran from the host that could not build it.

    Its row stays, on no host; tombstones let the host destroy what it made of it.
    """
    for port_id in writer.column(
        "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL", server["id"]
    ):
        unbind_port(writer, port_id, server["host_id"])
    bury_all(writer, server)
    values = {"host_id": None, "vm_state": "building", "task_state": "spawning", "held": 0}
    writer.update("servers", server["id"], **values, version=server["version"] + 1)
    writer.change.servers.add(server["id"])


def store_blob(writer: Writer, content: bytes) -> str:
    """Keep a content for hosts to ask for; returns its SHA-256."""
    sha256 = hashlib.sha256(content).hexdigest()
    writer.run(
        "INSERT OR IGNORE INTO blobs (sha256, content, created_at) VALUES (?, ?, ?)",
        sha256,
        content,
        now(),
    )
    return sha256


def store_vendor_data(writer: Writer, vendor_data: bytes | None) -> str | None:
    """Keep what the cloud says to its guests; returns its SHA-256, None for nothing."""
    return None if vendor_data is None else store_blob(writer, vendor_data)


def _require_room_in_group(context: Context, reader: Reader, resolved: Resolved) -> None:
    if resolved.hints.group_id is None:
        return
    members = reader.value(
        "SELECT count(*) FROM servers WHERE group_id = ? AND deleted_at IS NULL",
        resolved.hints.group_id,
    )
    count = resolved.request.count
    require(reader, context.project_id, "server_group_members", count, members)


def _server_name(request: BootRequest, index: int, id_: str) -> str:
    if request.count == 1 and not request.always_numbered:
        return request.name
    if request.naming == "uuid":
        return f"{request.name}-{id_}"
    return f"{request.name}-{request.first_index + index}"


def _refuse_taken_names(
    context: Context, reader: Reader, request: BootRequest, names: Sequence[str]
) -> None:
    """Nova allows two servers of one name; nobody at a command line is helped by it."""
    marks = ", ".join("?" for _ in names)
    taken = reader.column(
        f"SELECT name FROM servers WHERE project_id = ? AND deleted_at IS NULL "
        f"AND name IN ({marks}) ORDER BY name",
        context.project_id,
        *names,
    )
    if taken:
        raise Conflict(
            f"There is already a server called {some(taken)}. Nothing was booted.",
            hint="stackctl delete NAME, or boot under another name",
        )


def _write_server(
    context: Context,
    writer: Writer,
    resolved: Resolved,
    operation_id: str,
    index: int,
    id_: str,
    name: str,
    decision: Decision,
) -> None:
    network_ids = [row["id"] for row in resolved.networks]
    hostname = free_hostname(writer, network_ids, name)
    host = writer.get("hosts", decision.host_id or "")
    writer.insert(
        "servers",
        _identity(context, resolved, operation_id, id_, name, hostname)
        | _sizes(resolved)
        | resolved.hints.columns()
        | _guest(writer, resolved, index)
        | _engine(context, resolved, host),
    )
    context.watch.trace("server placed", host["name"], name, 0.0)
    write_disks(writer, writer.get("servers", id_))
    if resolved.volume is not None:
        volume_rows.be_root(writer, resolved.volume, writer.get("servers", id_))
    owner = f"compute:{host['zone']}"
    for nic_index, (nic, network, port) in enumerate(
        zip(resolved.request.nics, resolved.networks, resolved.ports, strict=True)
    ):
        port_id = _write_port(
            context, writer, resolved, nic, network, port, id_, owner, nic_index, hostname
        )
        bind_port(writer, port_id, host["id"])
        _trace_port(context, writer, host["name"], port_id, name)
    writer.change.servers.add(id_)


def _identity(
    context: Context, resolved: Resolved, operation_id: str, id_: str, name: str, hostname: str
) -> Row:
    return {
        "id": id_,
        "project_id": context.project_id,
        "user_id": context.user_id,
        "name": name,
        "hostname": hostname,
        "image_id": resolved.image["id"],
        "key_name": resolved.request.key_name,
        "cluster_id": resolved.request.cluster_id,
        "operation_id": operation_id,
        "vm_state": "building",
        "task_state": "spawning",
        "created_at": now(),
    }


def _sizes(resolved: Resolved) -> Row:
    flavor = resolved.flavor
    return {
        "flavor_id": flavor["id"],
        "flavor_name": flavor["name"],
        "vcpus": flavor["vcpus"],
        "ram_mb": flavor["ram_mb"],
        "disk_gb": resolved.disk_gb,
        "ephemeral_gb": flavor["ephemeral_gb"],
        "swap_mb": flavor["swap_mb"],
        "extra_specs_json": flavor["extra_specs_json"],
    }


def _guest(writer: Writer, resolved: Resolved, index: int) -> Row:
    request = resolved.request
    files = [
        {"path": file.path, "sha256": store_blob(writer, file.content), "mode": file.mode}
        for file in request.files
    ]
    user_data = request.user_data
    return {
        "public_keys_json": json.dumps([{"name": n, "key": k} for n, k in resolved.public_keys]),
        "metadata_json": json.dumps(with_properties({}, request.metadata)),
        "tags_json": json.dumps(with_tags((), request.tags)),
        "files_json": json.dumps(files),
        "user_data_sha256": store_blob(writer, user_data) if user_data is not None else None,
        "vendor_data_sha256": store_vendor_data(writer, resolved.vendor_data),
        "random_seed": base64.b64encode(secrets.token_bytes(SEED_BYTES)).decode(),
        "launch_index": index,
    }


def _engine(context: Context, resolved: Resolved, host: Row) -> Row:
    """What the domain is made of is fixed now, so that it stays the same wherever it goes."""
    request = resolved.request
    vnc = display_wanted(request.vnc, resolved.image, context.cloud.config["vnc"])
    return {
        "host_id": host["id"],
        "zone": host["zone"],
        "zone_asked": int(request.zone is not None),
        "host_asked": host["id"] if request.host is not None else None,
        "vnc_asked": None if request.vnc is None else int(request.vnc),
        **engine_of(resolved.image, host, resolved.flavor, vnc),
    }


def engine_of(image: Row, host: Row, sizes: Row, vnc: bool | None) -> Row:
    """The columns of a server that the properties of its image and of its flavor (or its own
    ``sizes``) decide; ``vnc``: whether it shall have a display, if anybody said so."""
    properties = json.loads(image["properties_json"])
    return {
        "hardware_json": json.dumps(hardware_of(wish_of(image, sizes, vnc)), sort_keys=True),
        "machine_type": _machine_type(image, host),
        "disk_bus": properties.get("hw_disk_bus", "virtio"),
        "nic_model": properties.get("hw_vif_model", "virtio"),
    }


def _machine_type(image: Row, host: Row) -> str | None:
    """A versioned one: ``pc`` and ``q35`` mean another machine with each new qemu."""
    asked: str = json.loads(image["properties_json"]).get("hw_machine_type", "")
    offered = json.loads(host["facts_json"]).get("machine_types", {})
    newest: str | None = offered.get(asked or "pc") if asked in ("", "pc", "q35") else None
    return newest or asked or None


def write_disks(writer: Writer, server: Row) -> None:
    """New disks for a server, to be built on its host; its root disk is again what it was when it
    was shelved, and so are its UEFI variables."""
    disks: list[tuple[str, int, str | None]] = []
    # A server that boots from a volume has no root disk of its own.
    if server["disk_gb"]:
        image_id = server["shelved_image_id"] or server["image_id"]
        disks.append(("root", server["disk_gb"] * GIB, image_id))
    if server["ephemeral_gb"]:
        disks.append(("ephemeral", server["ephemeral_gb"] * GIB, None))
    if server["swap_mb"]:
        disks.append(("swap", server["swap_mb"] * 1024**2, None))
    for position, (kind, size_bytes, image_id) in enumerate(disks):
        row: Row = {"id": new_id(), "server_id": server["id"], "host_id": server["host_id"]}
        row["kind"] = kind
        row |= {"position": position, "format": "qcow2", "size_bytes": size_bytes}
        writer.insert("disks", row | {"image_id": image_id, "state": "build", "created_at": now()})
    if has_nvram(server):
        add_variables(writer, server)


def _write_port(
    context: Context,
    writer: Writer,
    resolved: Resolved,
    nic: Nic,
    network: Row,
    port: Row | None,
    server_id: str,
    owner: str,
    nic_index: int,
    hostname: str,
) -> str:
    if port is not None:
        joined = join_server(
            writer,
            port["id"],
            server_id=server_id,
            device_owner=owner,
            nic_index=nic_index,
            hostname=hostname,
        )
        return joined.id
    made = make_port(
        writer,
        project_id=context.project_id,
        network=network,
        wanted=[WantedAddress(address=nic.address)] if nic.address else (),
        device_owner=owner,
        device_id=server_id,
        nic_index=nic_index,
        hostname=hostname,
        made_for_server=True,
        security_groups=resolved.group_ids,
    )
    return made.id


def _trace_port(context: Context, reader: Reader, host: str, port_id: str, name: str) -> None:
    """The slides' steps 2 and 3: the port is made, and has its address."""
    context.watch.trace(
        "port allocated", host, f"{name} {reader.get('ports', port_id)['mac']}", 0.0
    )
    addresses = reader.column(
        "SELECT address FROM addresses WHERE port_id = ? AND released_serial IS NULL", port_id
    )
    context.watch.trace("address allocated", host, f"{name} {' '.join(addresses)}", 0.0)


def _move_unborn(writer: Writer, server: Row, host_id: str) -> None:
    """Give a server of which no host has anything to another host."""
    ports = writer.column(
        "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL", server["id"]
    )
    owner = f"compute:{writer.get('hosts', host_id)['zone']}"
    for port_id in ports:
        writer.update("ports", port_id, device_owner=owner)
        if server["host_id"] is not None:
            unbind_port(writer, port_id, server["host_id"])
        bind_port(writer, port_id, host_id)
    volume_rows.move_unbuilt(writer, server["id"], host_id)
    moved = writer.run(
        "UPDATE disks SET host_id = ? WHERE server_id = ? AND deleted_at IS NULL",
        host_id,
        server["id"],
    )
    host, image = writer.get("hosts", host_id), writer.get("images", server["image_id"])
    writer.update(
        "servers",
        server["id"],
        host_id=host_id,
        zone=host["zone"],
        machine_type=_machine_type(image, host),
        build_attempts=server["build_attempts"] + 1,
        version=server["version"] + 1,
    )
    if not moved:
        write_disks(writer, writer.get("servers", server["id"]))
    writer.change.servers.add(server["id"])
