"""What hosts report of the places for volumes: who has them, and that one has been claimed."""

from __future__ import annotations

from agent.wire import Report
from stackctl.state import Row, Writer, now


def backend_seen(writer: Writer, report: Report, host_id: str) -> str | None:
    """Keep what a host says of a volume type; returns the type's name."""
    row = writer.one(
        "SELECT * FROM volume_types WHERE id = ? AND version = ? AND deleted_at IS NULL",
        report.id,
        report.version,
    )
    if row is None:
        return None
    said = _said(report)
    before = writer.one(
        "SELECT usable, why, free_gb, total_gb FROM volume_type_hosts "
        "WHERE type_id = ? AND host_id = ?",
        row["id"],
        host_id,
    )
    if before != said:
        keys = {"type_id": row["id"], "host_id": host_id, "seen_at": now()}
        writer.upsert("volume_type_hosts", keys | said, pk=("type_id", "host_id"))
    if said["usable"] and host_id == row["host_id"] and not row["claimed"]:
        writer.update("volume_types", row["id"], claimed=1)
    return str(row["name"])


def _said(report: Report) -> Row:
    facts = report.facts
    why = report.fault.message if report.fault is not None else str(facts.get("why", ""))
    usable = report.result != "failed" and facts.get("usable") is True
    numbers = {key: _number(facts.get(key)) for key in ("free_gb", "total_gb")}
    return {"usable": int(usable), "why": "" if usable else why[:500], **numbers}


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 40 else 0
