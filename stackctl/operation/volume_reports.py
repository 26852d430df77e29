"""What hosts report of volumes, as their states: Cinder's words, from what is there."""

from __future__ import annotations

from typing import Any

from agent.wire import Report
from stackctl.state import Row, Writer

FREE: dict[str, Any] = {"server_id": None, "device": None, "delete_on_termination": 0}
"""The columns of a volume that no server has."""


def volume_seen(writer: Writer, volume: Row, report: Report) -> None:
    """Its file is there; who runs with it decides whether it is free of a server yet."""
    values: Row = {"built": 1, "held": 0, "fault_json": None}
    values["settled_version"] = volume["version"]
    if volume["status"] in ("creating", "error"):
        values["status"] = "available" if volume["server_id"] is None else "in-use"
    elif volume["status"] == "detaching" and _is_let_go(writer, volume, report):
        values |= {**FREE, "status": "available"}
    elif volume["status"] in ("attaching", "detaching"):
        # The file is well; what keeps the guest from getting it, or giving it back, still holds.
        del values["fault_json"]
    _update(writer, volume, values)


def _is_let_go(writer: Writer, volume: Row, report: Report) -> bool:
    """Whether no guest has it: none here, nor one on another host that its server was moving to,
    where what is left of it waits to be destroyed (a fenced one is off)."""
    left = writer.value(
        "SELECT count(*) FROM tombstones JOIN hosts ON hosts.id = host_id WHERE kind = 'domain' "
        "AND tombstones.id = ? AND host_id <> ? AND acknowledged_at IS NULL AND fenced = 0",
        volume["server_id"],
        volume["host_id"],
    )
    return report.facts.get("used_by") == [] and not left


def volume_failed(writer: Writer, volume: Row, fault_json: str) -> None:
    """It could not be made or found, or did not grow; a volume with a server keeps its state.

    One that could not be made is left alone until somebody names it.
    """
    values: Row = {"fault_json": fault_json, "held": int(not volume["built"])}
    if volume["built"]:
        values["settled_version"] = volume["version"]
    if volume["status"] == "detaching" and not volume["built"]:
        values |= {**FREE, "status": "error"}  # what is not there, no guest has
    elif volume["server_id"] is None:
        values["status"] = "error"
    _update(writer, volume, values)


def snapshot_seen(writer: Writer, snapshot: Row, report: Report, fault_json: str | None) -> None:
    """A snapshot was taken, is there, or is not (``fault_json``)."""
    values: Row = {"fault_json": fault_json, "status": "error"}
    if fault_json is None:
        values |= {"status": "available", "built": 1, "settled_version": snapshot["version"]}
    if "taken" in report.facts:
        values["taken_at"] = str(report.facts["taken"])
        values["consistency"] = str(report.facts.get("consistency", ""))
    _update(writer, snapshot, values, table="volume_snapshots")


def attachment_seen(writer: Writer, report: Report, host_id: str, fault_json: str) -> None:
    """A server has it, by its definition or plugged in; or could not get it, or not let go."""
    volume = writer.one(
        "SELECT volumes.* FROM volumes JOIN servers ON servers.id = volumes.server_id "
        "WHERE volumes.id = ? AND volumes.host_id = ? AND servers.version = ? "
        "AND volumes.deleted_at IS NULL",
        report.id,
        host_id,
        report.version,
    )
    if volume is None:
        return
    if report.result == "failed":
        _update(writer, volume, {"fault_json": fault_json})
    elif report.result in ("unchanged", "made") and volume["status"] == "attaching":
        _update(writer, volume, {"status": "in-use", "fault_json": None})


def _update(writer: Writer, volume: Row, values: Row, table: str = "volumes") -> None:
    if any(volume[name] != value for name, value in values.items()):
        writer.update(table, volume["id"], **values)
