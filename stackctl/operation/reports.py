"""What hosts report, written into the rows that it is about.

A report about an older version of a row is not written; nor is one about a row of another host.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.wire import Fault, Report
from stackctl.operation.events import note
from stackctl.operation.outcome import Failure
from stackctl.state import Row, Writer, now

WELL = ("unchanged", "made", "changed")

# Power state of a domain -> vm_state of its server (Nova's pairs).
VM_STATES = {
    "RUNNING": "active",
    "PAUSED": "paused",
    "SHUTDOWN": "stopped",
    "CRASHED": "stopped",
    "SUSPENDED": "suspended",
}

KEPT_KINDS = ("domain", "disk", "port")


def concerns_a_row(report: Report) -> bool:
    """Whether a report changes what the database says: most of them need no transaction."""
    return report.kind in KEPT_KINDS or report.result == "failed"


@dataclass
class Reporter:
    """Writes the reports of one host in one convergence."""

    host_id: str
    host_name: str
    operation_id: str
    user_name: str
    failures: list[Failure] = field(default_factory=list)

    def write(self, writer: Writer, reports: Iterable[Report]) -> None:
        """Write a batch of reports in one transaction."""
        for report in reports:
            if report.result == "removed" and report.kind in ("domain", "disk"):
                self._acknowledge(writer, report)
            elif report.kind == "domain":
                self._server(writer, report)
            elif report.kind == "disk":
                self._disk(writer, report)
            elif report.kind == "port":
                self._port(writer, report)
            elif report.result == "failed":
                self._failed(writer, report, "")

    def _acknowledge(self, writer: Writer, report: Report) -> None:
        writer.run(
            "UPDATE tombstones SET acknowledged_at = ? "
            "WHERE kind = ? AND id = ? AND host_id = ? AND acknowledged_at IS NULL",
            now(),
            report.kind,
            report.id,
            self.host_id,
        )

    def _server(self, writer: Writer, report: Report) -> None:
        server = self._row_here(writer, "servers", report)
        if server is None:
            return
        if report.result == "failed":
            self._server_failed(writer, server, _fault(report))
        elif report.result in WELL:
            self._server_seen(writer, server, report)

    def _server_seen(self, writer: Writer, server: Row, report: Report) -> None:
        power_state = str(report.facts.get("power_state", "NOSTATE"))
        vm_state = VM_STATES.get(power_state, str(server["vm_state"]))
        values: Row = {"power_state": power_state, "vm_state": vm_state, "task_state": None}
        if vm_state != "error":
            values |= {"fault_json": None, "held": 0}
        if server["launched_at"] is None and vm_state == "active":
            values["launched_at"] = now()
        if any(server[name] != value for name, value in values.items()):
            self._note(writer, server, "info", _sentence(server, vm_state, report), report.seconds)
        writer.update("servers", server["id"], **values, observed_at=now())

    def _server_failed(self, writer: Writer, server: Row, fault: Fault) -> None:
        """The first fault of a version stands: later ones only follow from it."""
        if server["vm_state"] == "error" and server["fault_json"]:
            return
        told = {"message": fault.message, "detail": fault.detail, "command": fault.command}
        told |= {"host": self.host_name, "at": now()}
        # What never ran is left alone until somebody names it; what did is mended like the rest.
        held = int(server["launched_at"] is None)
        values = {"vm_state": "error", "task_state": None, "held": held}
        writer.update("servers", server["id"], **values, fault_json=json.dumps(told))
        self._note(writer, server, "error", fault.message)
        failure = Failure("server", server["id"], server["name"], self.host_name, fault.message)
        self.failures.append(failure)

    def _disk(self, writer: Writer, report: Report) -> None:
        disk = self._row_here(writer, "disks", report)
        if disk is None:
            return
        if report.result in WELL:
            if disk["state"] == "build":
                writer.update("disks", disk["id"], state="built")
        elif report.result == "failed":
            server = writer.get("servers", disk["server_id"])
            self._server_failed(writer, server, _fault(report))

    def _port(self, writer: Writer, report: Report) -> None:
        if report.result == "failed":
            self._failed(writer, report, "")
        status = {"failed": "DOWN", "removed": "DOWN"}.get(report.result, "ACTIVE")
        writer.run(
            "UPDATE ports SET status = ? WHERE id = ? AND status <> ?", status, report.id, status
        )

    def _failed(self, writer: Writer, report: Report, name: str) -> None:
        message = _fault(report).message
        failure = Failure(report.kind, report.id, name, self.host_name, message)
        self.failures.append(failure)
        note(
            writer,
            action="converge",
            kind=report.kind,
            resource_id=report.id,
            name=name,
            message=message,
            level="error",
            host=self.host_name,
            user_name=self.user_name,
            operation_id=self.operation_id,
        )

    def _row_here(self, writer: Writer, table: str, report: Report) -> Row | None:
        return writer.one(
            f"SELECT * FROM {table} WHERE id = ? AND host_id = ? AND version = ? "
            "AND deleted_at IS NULL",
            report.id,
            self.host_id,
            report.version,
        )

    def _note(
        self, writer: Writer, server: Row, level: str, message: str, seconds: float | None = None
    ) -> None:
        note(
            writer,
            action="converge",
            kind="server",
            resource_id=server["id"],
            name=server["name"],
            message=message,
            level=level,
            host=self.host_name,
            user_name=self.user_name,
            operation_id=self.operation_id,
            seconds=seconds,
        )


def _fault(report: Report) -> Fault:
    return report.fault or Fault("the host gave no reason")


def _sentence(server: Row, vm_state: str, report: Report) -> str:
    if server["vm_state"] == "building" and vm_state == "active":
        return "built and running"
    if server["vm_state"] == vm_state and server["task_state"] is not None:
        return f"{server['task_state']}: done"
    return f"{server['vm_state']} -> {vm_state} (power state {report.facts.get('power_state')})"
