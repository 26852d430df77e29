"""What hosts report, written into the rows that it is about.

A report about an older version of a row is not written; nor is one about a row of another host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from agent.spec import HostSpec
from agent.wire import Fault, Report
from stackctl.operation import shelving
from stackctl.operation.backend_reports import backend_seen
from stackctl.operation.events import note
from stackctl.operation.outcome import Failure
from stackctl.operation.volume_reports import (
    attachment_seen,
    snapshot_seen,
    volume_failed,
    volume_seen,
)
from stackctl.state import Row, Writer, now

WELL = ("unchanged", "made", "changed")

# Power state of a domain -> vm_state of its server (Nova's pairs).
VM_STATES = {
    "RUNNING": "active",
    "PAUSED": "paused",
    "SHUTDOWN": "stopped",
    "CRASHED": "stopped",
    "SUSPENDED": "suspended",
    "SAVED": "suspended",
}

# Nova has no word for a guest whose memory lies on disk: it is off.
POWER_STATES = {"SAVED": "SHUTDOWN"}

LASTING_TASKS = (
    "image-snapshot",
    "image-backup",
    "migrating",
    "resize-prep",
    "revert-prep",
    shelving.COPYING,
    shelving.LEAVING,
)
"""Tasks that end with their command: what a convergence sees meanwhile is no news of them."""

KEPT_KINDS = ("domain", "disk", "port", "router", "volume", "attachment", "backend")


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
    _failed_servers: set[str] = field(default_factory=set)
    _told_failed: set[tuple[str, str]] = field(default_factory=set)

    def write(self, writer: Writer, reports: Iterable[Report]) -> None:
        """Write a batch of reports in one transaction."""
        for report in reports:
            if report.result == "failed":
                self._told_failed.add((report.kind, report.id))
            if report.result == "removed" and report.kind in ("domain", "disk", "volume"):
                self._acknowledge(writer, report)
            elif report.kind in self._WRITERS:
                self._WRITERS[report.kind](self, writer, report)
            elif report.result == "failed":
                self._part_failed(writer, report)

    def conclude(self, writer: Writer, spec: HostSpec) -> None:
        """What the host said nothing of is as it should be.

        It does not say so again when the report of an earlier exchange was lost on the way.
        """
        ports = {port.id for port in spec.ports if not self._is_told_failed("port", port.id)}
        for port_id in writer.column(_DOWN_HERE, self.host_id):
            if port_id in ports:
                writer.update("ports", port_id, status="ACTIVE")
        for router in spec.routers:
            if not self._is_told_failed("router", router.id):
                self._router(writer, Report("router", router.id, "unchanged", router.version))

    def _is_told_failed(self, kind: str, id_: str) -> bool:
        """Whether a resource failed, or all of its kind (reported with the host's own id)."""
        return not self._told_failed.isdisjoint({(kind, id_), (kind, self.host_id)})

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
            self._not_removed(writer, report)
        elif report.result == "failed" and report.facts.get("declined"):
            self._server_declined(writer, server, report)
        elif report.result == "failed":
            self._server_failed(writer, server, _fault(report))
        elif report.result in WELL or _runs_though_held(report):
            self._server_seen(writer, server, report)

    def _server_seen(self, writer: Writer, server: Row, report: Report) -> None:
        power_state = str(report.facts.get("power_state", "NOSTATE"))
        vm_state = server["kept_state"] or VM_STATES.get(power_state, str(server["vm_state"]))
        if server["id"] in self._failed_servers:
            # A guest may run on without a part that failed: that part is no less a fault.
            vm_state = str(server["vm_state"])
        shown = POWER_STATES.get(power_state, power_state)
        values: Row = {"power_state": shown, "vm_state": vm_state}
        if server["task_state"] not in LASTING_TASKS:
            values["task_state"] = None
        if vm_state != "error":
            values |= {"fault_json": None, "held": 0}
        values |= self._adoption_seen(server, report)
        if server["launched_at"] is None and vm_state == "active":
            values["launched_at"] = now()
            writer.update("hosts", self.host_id, build_failures=0)
        if vm_state == "active" and shelving.images_of(server):
            # Its guest runs from disks made of them: what it was shelved as has done its duty.
            shelving.drop_images(writer, server)
        if any(server[name] != value for name, value in values.items()):
            self._note(writer, server, "info", _sentence(server, vm_state, report), report.seconds)
        writer.update("servers", server["id"], **values, observed_at=now())

    def _adoption_seen(self, server: Row, report: Report) -> Row:
        """Its domain is ours; what it had before counts as long as its guest runs by that."""
        values: Row = {}
        if server["adopting"]:
            values["adopting"] = 2 if server["id"] in self._failed_servers else 0
        saved = report.facts.get("power_state") == "SAVED"
        if server["adopted_json"] and not saved and not report.facts.get("as_adopted"):
            values["adopted_json"] = None
        return values

    def _server_declined(self, writer: Writer, server: Row, report: Report) -> None:
        """A command that could not be obeyed leaves a server as it was."""
        message = _fault(report).message
        failure = Failure("server", server["id"], server["name"], self.host_name, message)
        self.failures.append(failure)
        self._note(writer, server, "error", message)
        self._server_seen(writer, server, report)

    def _server_failed(self, writer: Writer, server: Row, fault: Fault) -> None:
        """The first fault of a convergence stands: later ones only follow from it."""
        if server["id"] in self._failed_servers:
            return
        self._failed_servers.add(server["id"])
        failure = Failure("server", server["id"], server["name"], self.host_name, fault.message)
        self.failures.append(failure)
        # What never ran is left alone until somebody names it; what did is mended like the rest.
        held = int(server["launched_at"] is None)
        if server["vm_state"] == "building":
            writer.run(
                "UPDATE hosts SET build_failures = build_failures + 1, build_failed_at = ? "
                "WHERE id = ?",
                now(),
                self.host_id,
            )
        values: Row = {"vm_state": "error", "task_state": None, "held": held}
        if server["vm_state"] != "error" or _told(server) != fault.message:
            values["fault_json"] = self._fault_json(fault)
            self._note(writer, server, "error", fault.message)
        writer.update("servers", server["id"], **values)

    def _fault_json(self, fault: Fault) -> str:
        told = {"message": fault.message, "detail": fault.detail, "command": fault.command}
        return json.dumps({**told, "host": self.host_name, "at": now()})

    def _disk(self, writer: Writer, report: Report) -> None:
        disk = self._row_here(writer, "disks", report)
        if disk is None:
            self._not_removed(writer, report)
        elif report.result in WELL:
            if disk["state"] == "build":
                writer.update("disks", disk["id"], state="built")
        elif report.result == "failed":
            server = writer.get("servers", disk["server_id"])
            if server["host_id"] == self.host_id:
                self._server_failed(writer, server, _fault(report))
            else:  # it was to come here, and is as well as ever where it is
                self._failed(writer, report, server["id"], server["name"])

    def _not_removed(self, writer: Writer, report: Report) -> None:
        """A deleted domain or disk that could not be destroyed."""
        server_id = writer.value(
            "SELECT server_id FROM tombstones "
            "WHERE kind = ? AND id = ? AND host_id = ? AND acknowledged_at IS NULL",
            report.kind,
            report.id,
            self.host_id,
        )
        if server_id is not None and report.result == "failed":
            name = str(writer.get("servers", server_id)["name"])
            self._failed(writer, report, str(server_id), name)

    def _port(self, writer: Writer, report: Report) -> None:
        if report.result == "failed":
            self._part_failed(writer, report)
        status = {"failed": "DOWN", "removed": "DOWN"}.get(report.result, "ACTIVE")
        # A port that moved is told of by two hosts: only where it is active counts.
        writer.run(
            "UPDATE ports SET status = ? WHERE id = ? AND status <> ? AND EXISTS (SELECT 1 "
            "FROM bindings WHERE port_id = ports.id AND host_id = ? AND role = 'active')",
            status,
            report.id,
            status,
            self.host_id,
        )

    def _router(self, writer: Writer, report: Report) -> None:
        router = self._row_here(writer, "routers", report)
        if report.result == "failed":
            self._router_failed(writer, router, report)
        elif router is not None and report.result in WELL:
            status = "ACTIVE" if router["admin_up"] else "DOWN"
            if (router["status"], router["fault_json"]) != (status, None):
                writer.update("routers", router["id"], status=status, fault_json=None)
            self._router_parts(writer, router, status)

    def _router_failed(self, writer: Writer, router: Row | None, report: Report) -> None:
        name = writer.value("SELECT name FROM routers WHERE id = ?", report.id) or ""
        self._failed(writer, report, report.id, str(name))
        if router is not None:
            fault = self._fault_json(_fault(report))
            writer.update("routers", router["id"], status="ERROR", fault_json=fault)
            self._router_parts(writer, router, "DOWN")

    def _router_parts(self, writer: Writer, router: Row, status: str) -> None:
        """Its floating IPs and ports are what it is."""
        writer.run(
            "UPDATE floating_ips SET status = ? WHERE router_id = ? AND status <> ?"
            " AND deleted_at IS NULL",
            status,
            router["id"],
            status,
        )
        writer.run(
            "UPDATE ports SET status = ? WHERE device_id = ? AND status <> ?"
            " AND deleted_at IS NULL",
            status,
            router["id"],
            status,
        )

    def _volume(self, writer: Writer, report: Report) -> None:
        """Of an attachment the version is its server's: it is compared where it is used."""
        name = writer.value(
            "SELECT name FROM volumes WHERE id = ? "
            "UNION SELECT name FROM volume_snapshots WHERE id = ?",
            report.id,
            report.id,
        )
        if report.result == "failed":
            sql = _WAITING.get(report.kind)
            waiting = writer.all(sql, report.id, self.host_id) if sql else []
            for server in waiting:
                self._server_failed(writer, server, _fault(report))
            if not waiting:
                self._failed(writer, report, report.id, str(name or ""))
        if report.kind == "attachment":
            attachment_seen(writer, report, self.host_id, self._fault_json(_fault(report)))
            return
        volume = self._row_here(writer, "volumes", report)
        if volume is not None and report.result == "failed":
            volume_failed(writer, volume, self._fault_json(_fault(report)))
        elif volume is not None and report.result in WELL:
            volume_seen(writer, volume, report)
        snapshot = self._row_here(writer, "volume_snapshots", report)
        if snapshot is not None:
            fault_json = self._fault_json(_fault(report)) if report.result == "failed" else None
            snapshot_seen(writer, snapshot, report, fault_json)

    def _backend(self, writer: Writer, report: Report) -> None:
        name = backend_seen(writer, report, self.host_id)
        if report.result == "failed":
            self._failed(writer, report, report.id, name or "")

    def _part_failed(self, writer: Writer, report: Report) -> None:
        """What fails for want of a part fails with the part's reason, not with "not tried"."""
        sql = _WAITING.get(report.kind)
        servers = writer.all(sql, report.id, self.host_id) if sql else []
        for server in servers:
            self._server_failed(writer, server, _fault(report))
        if not servers:
            self._failed(writer, report, report.id, "")

    def _failed(self, writer: Writer, report: Report, id_: str, name: str) -> None:
        message = _fault(report).message
        self.failures.append(Failure(report.kind, id_, name, self.host_name, message))
        note(
            writer,
            "converge",
            report.kind,
            {"id": id_, "name": name},
            message,
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
            "converge",
            "server",
            server,
            message,
            level=level,
            host=self.host_name,
            user_name=self.user_name,
            operation_id=self.operation_id,
            seconds=seconds,
        )

    _WRITERS: ClassVar[Mapping[str, Callable[[Reporter, Writer, Report], None]]] = {
        "domain": _server,
        "disk": _disk,
        "port": _port,
        "router": _router,
        "volume": _volume,
        "attachment": _volume,
        "backend": _backend,
    }


_DOWN_HERE = """
SELECT ports.id FROM bindings JOIN ports ON ports.id = bindings.port_id
WHERE bindings.host_id = ? AND role = 'active' AND status <> 'ACTIVE' AND deleted_at IS NULL
"""

# Servers that cannot be built (or rebuilt) without a part, by the part's kind: its id, the host.
_WAITING = {
    "port": """
SELECT * FROM servers WHERE id = (SELECT device_id FROM device_ports WHERE port_id = ?)
  AND host_id = ? AND (vm_state = 'building' OR task_state IS NOT NULL) AND deleted_at IS NULL
""",
    "image": """
SELECT servers.* FROM servers
JOIN images ON images.id IN
  (ifnull(servers.rescue_image_id, servers.image_id), shelved_image_id, shelved_nvram_id)
WHERE ? IN (images.id, images.kernel_id, images.ramdisk_id)
  AND host_id = ? AND (vm_state = 'building' OR task_state IS NOT NULL)
  AND servers.deleted_at IS NULL
""",
    "volume": """
SELECT * FROM servers WHERE id = (SELECT server_id FROM volumes WHERE id = ?)
  AND host_id = ? AND (vm_state = 'building' OR task_state IS NOT NULL) AND deleted_at IS NULL
""",
}


def _runs_though_held(report: Report) -> bool:
    """Its build was given up when the host fell silent, yet the host had finished it."""
    return report.result == "held" and report.facts.get("power_state") == "RUNNING"


def _fault(report: Report) -> Fault:
    return report.fault or Fault("the host gave no reason")


def _told(server: Row) -> str:
    """The reason that a server in ERROR already shows."""
    fault = json.loads(server["fault_json"] or "{}")
    return str(fault.get("message", ""))


def _sentence(server: Row, vm_state: str, report: Report) -> str:
    if server["vm_state"] == "building" and vm_state == "active":
        return "built and running"
    if server["vm_state"] == vm_state and server["task_state"] is not None:
        return f"{server['task_state']}: done"
    return f"{server['vm_state']} -> {vm_state} (power state {report.facts.get('power_state')})"
