"""The rows of a server whose domain was there before it: written, and taken back."""

from __future__ import annotations

import json

from stackctl.compute.adoption.plan import Found, Plan
from stackctl.compute.disks import disks_of
from stackctl.identity.context import Context
from stackctl.identity.quota import require
from stackctl.network.addresses import WantedAddress
from stackctl.network.allocation import bind_port, free_hostname, leave_server, make_port
from stackctl.operation.reports import POWER_STATES, VM_STATES
from stackctl.state import Row, Writer, new_id, now

_POWER_ACTIONS = {"RUNNING": "start", "PAUSED": "pause"}
"""The command that a guest counts as having obeyed, by its state; without one it was stopped."""


def write_server(context: Context, writer: Writer, plan: Plan, operation_id: str) -> None:
    """The server, its disks where they lie, its ports with the MACs that they have."""
    found = plan.found
    require(writer, context.project_id, "instances", 1)
    require(writer, context.project_id, "cores", found.vcpus)
    require(writer, context.project_id, "ram_mb", found.ram_mb)
    require(writer, context.project_id, "ports", len(plan.nics))
    _forget_earlier(writer, found.id)
    flavor = plan.flavor or _make_flavor(writer, plan)
    hostname = free_hostname(writer, [nic.network["id"] for nic in plan.nics], plan.name)
    identity = {
        "id": found.id,
        "project_id": context.project_id,
        "user_id": context.user_id,
        "name": plan.name,
        "hostname": hostname,
        "operation_id": operation_id,
        "adopted_json": json.dumps({"domain": found.name, "at": now(), "lost": found.lost}),
    }
    writer.insert("servers", identity | _sizes(found, flavor) | _engine(plan) | _state(found))
    _write_disks(writer, plan)
    _write_ports(context, writer, plan, hostname)
    writer.change.servers.add(found.id)


def take_back(writer: Writer, server: Row) -> None:
    """The end of a server whose domain is still somebody else's: nothing of that is destroyed."""
    for port_id in writer.column(
        "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL", server["id"]
    ):
        leave_server(writer, port_id)
    for disk in disks_of(writer, server["id"]):
        writer.update("disks", disk["id"], state="deleted", deleted_at=now())
    gone = {"vm_state": "deleted", "task_state": None, "adopting": 0, "deleted_at": now()}
    writer.update("servers", server["id"], **gone, version=server["version"] + 1)
    writer.change.hosts.add(server["host_id"])


def _forget_earlier(writer: Writer, server_id: str) -> None:
    """A domain keeps its id, so it can have been a server before, or nearly."""
    writer.run("UPDATE clusters SET head_id = NULL WHERE head_id = ?", server_id)
    writer.run("UPDATE volumes SET server_id = NULL WHERE server_id = ?", server_id)
    writer.run("DELETE FROM disks WHERE server_id = ?", server_id)
    writer.run("DELETE FROM servers WHERE id = ?", server_id)


def _make_flavor(writer: Writer, plan: Plan) -> Row:
    """One of exactly the domain's sizes; the name may be a flavor's with other extra specs."""
    found = plan.found
    row: Row = {
        "id": new_id(),
        "name": plan.flavor_name,
        "vcpus": found.vcpus,
        "ram_mb": found.ram_mb,
        "disk_gb": found.disk_gb,
        "ephemeral_gb": found.ephemeral_gb,
        "created_at": now(),
    }
    if not writer.insert_if_free("flavors", row, "(name) WHERE deleted_at IS NULL"):
        row["name"] = f"{row['name']}-{row['id'][:8]}"
        writer.insert("flavors", row)
    return row


def _sizes(found: Found, flavor: Row) -> Row:
    return {
        "flavor_id": flavor["id"],
        "flavor_name": flavor["name"],
        "vcpus": found.vcpus,
        "ram_mb": found.ram_mb,
        "disk_gb": found.disk_gb,
        "ephemeral_gb": found.ephemeral_gb,
    }


def _engine(plan: Plan) -> Row:
    found, host = plan.found, plan.host
    return {
        "host_id": host["id"],
        "zone": host["zone"],
        "machine_type": found.machine_type or None,
        "cpu_mode": found.cpu_mode or None,
        "disk_bus": found.disk_bus,
        "nic_model": found.nic_model,
    }


def _state(found: Found) -> Row:
    return {
        "vm_state": VM_STATES.get(found.state, "stopped"),
        "power_state": POWER_STATES.get(found.state, found.state),
        "power_action": _POWER_ACTIONS.get(found.state, "stop"),
        "task_state": "adopting",
        "adopting": 1,
        "launched_at": now(),
        "created_at": now(),
    }


def _write_disks(writer: Writer, plan: Plan) -> None:
    for position, disk in enumerate(plan.found.disks):
        row: Row = {"id": new_id(), "server_id": plan.found.id, "host_id": plan.host["id"]}
        row |= {"kind": "ephemeral" if position else "root", "position": position}
        row |= {"format": disk.format, "size_bytes": disk.size_bytes, "path": disk.path}
        writer.insert("disks", row | {"state": "built", "created_at": now()})


def _write_ports(context: Context, writer: Writer, plan: Plan, hostname: str) -> None:
    for index, nic in enumerate(plan.nics):
        port = make_port(
            writer,
            project_id=context.project_id,
            network=nic.network,
            wanted=[WantedAddress(address=each) for each in nic.addresses],
            mac=nic.found.mac,
            device_owner=f"compute:{plan.host['zone']}",
            device_id=plan.found.id,
            nic_index=index,
            hostname=hostname,
            made_for_server=True,
            security_groups=plan.group_ids,
        )
        bind_port(writer, port.id, plan.host["id"])
