"""One exchange with one host: hello, the newest spec, its reports into the database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from agent.spec import Disk, HostSpec, Image, to_plain
from agent.wire import Report
from stackctl import killpoint
from stackctl.errors import HostAhead, StackctlError
from stackctl.fleet.types import Accepted, Hello, Opening, Session
from stackctl.hostspec import build_spec, load_snapshot
from stackctl.identity.context import Context
from stackctl.operation.events import note
from stackctl.operation.outcome import Failure, PlannedStep
from stackctl.operation.reports import Reporter, concerns_a_row
from stackctl.state import Reader, Row, Writer, now, read, write

LOCK_TIMEOUT_S = 120.0
NOTHING_TO_DO = ("unchanged", "held", "busy")
"""Results of resources that a convergence leaves as they are."""


@dataclass
class Exchange:
    """What became of one exchange. ``sent`` tells whether the host got to know the spec.

    ``sent_before``: the serial of what the host had been sent when it began; ``begun``: domains
    that the host said it began to change.
    """

    host_id: str
    host_name: str
    sent: bool = False
    sent_before: int = 0
    begun: set[str] = field(default_factory=set)
    peripheral: bool = False
    error: StackctlError | None = None
    failures: list[Failure] = field(default_factory=list)
    planned: list[PlannedStep] = field(default_factory=list)


def wanted_before(context: Context, host_id: str) -> tuple[tuple[Image, ...], tuple[Disk, ...]]:
    """Images that the host will need, and disks that it will copy from other hosts: told before it
    takes its lock."""
    with read(context.cloud) as reader:
        spec = build_spec(load_snapshot(reader, host_id), 0, "")
    return spec.images, tuple(disk for disk in spec.disks if disk.source_host_id is not None)


def converge_host(
    context: Context, session: Session, exchange: Exchange, operation_id: str
) -> None:
    """Send the newest spec over an open session and write what comes back."""
    host_spec = _issue(context, exchange, session.hello)
    killpoint.reached("spec-issued")
    reporter = Reporter(exchange.host_id, exchange.host_name, operation_id, context.operator)

    def on_reports(reports: list[Report]) -> None:
        _trace_reports(context, exchange.host_name, reports, labels)
        told = [report for report in reports if concerns_a_row(report)]
        if told:
            killpoint.reached("reports-received")
            with write(context.cloud) as writer:
                reporter.write(writer, told)

    labels = _labels(host_spec)
    started = time.monotonic()
    exchange.sent = True
    session.converge(to_plain(host_spec), lambda sha256: blob(context, sha256), on_reports)
    killpoint.reached("host-done")
    exchange.failures += reporter.failures
    context.watch.trace("converged", exchange.host_name, "", time.monotonic() - started)
    with write(context.cloud) as writer:
        reporter.conclude(writer, host_spec)
        _applied(writer, exchange.host_id, host_spec.serial)


def observe_host(
    context: Context,
    session: Session,
    exchange: Exchange,
    spec_of: Callable[[str], HostSpec],
) -> None:
    """Ask what the host would do to become a spec; nothing is changed there or here.

    The spec is made while the host is locked: one that is older than the host's would only show
    what another command has done in between.
    """
    with read(context.cloud) as reader:
        _refuse_if_ahead(reader.get("hosts", exchange.host_id), session.hello)
    host_spec = spec_of(exchange.host_id)
    labels = _labels(host_spec)

    def on_reports(reports: list[Report]) -> None:
        for report in reports:
            if report.result in NOTHING_TO_DO:
                continue
            why = str(report.facts.get("why", ""))
            if report.fault is not None:
                why = report.fault.message
            name = labels.get(report.id, report.id)
            step = PlannedStep(exchange.host_name, report.kind, report.id, report.result, why, name)
            exchange.planned.append(step)

    session.converge(to_plain(host_spec), lambda sha256: blob(context, sha256), on_reports)
    exchange.sent = True


def spec_now(context: Context, host_id: str) -> HostSpec:
    """The spec of a host as the database stands, for a look that changes nothing."""
    with read(context.cloud) as reader:
        snapshot = load_snapshot(reader, host_id)
    return build_spec(snapshot, snapshot.cloud["serial"], snapshot.cloud["nonce"])


def blob(context: Context, sha256: str) -> bytes:
    """A stored content by its SHA-256."""
    with read(context.cloud) as reader:
        content = reader.value("SELECT content FROM blobs WHERE sha256 = ?", sha256)
    return bytes(content)


def open_image(context: Context, sha256: str) -> BinaryIO:
    """The content of an image that a host asks for, from wherever it is kept."""
    # Most hosts lack nothing, and ways to web servers take a while to load.
    from stackctl.stores.contents import content_of, opened

    with read(context.cloud) as reader:
        content = content_of(reader, sha256)
    what = f"fetching image {sha256[:12]}"

    def progress(done: int) -> None:
        context.watch.progress(what, done, content.size_bytes)

    return opened(context.cloud, content, progress)


_KEEPERS = """SELECT DISTINCT hosts.* FROM hosts
  JOIN disks ON disks.host_id = hosts.id JOIN images ON images.id = disks.image_id
  WHERE images.sha256 = ? AND disks.state = 'built' AND disks.deleted_at IS NULL
    AND hosts.fenced = 0 AND NOT EXISTS (
      SELECT 1 FROM image_locations JOIN images AS live ON live.id = image_id
      WHERE live.sha256 = images.sha256 AND live.deleted_at IS NULL)
  ORDER BY hosts.unreachable_since IS NOT NULL, hosts.name"""


def keepers_of(reader: Reader, sha256: str) -> list[Row]:
    """The hosts with disks that are based on a content which the cloud's images have no more."""
    return reader.all(_KEEPERS, sha256)


def opening(
    context: Context,
    mode: str,
    images: tuple[Image, ...],
    kill_at: int,
    *,
    copies: tuple[Disk, ...] = (),
    claim: bool = False,
) -> Opening:
    """How to begin an exchange in this cloud; ``claim``: a host that nobody has may become ours."""
    with read(context.cloud) as reader:
        cloud_id = reader.value("SELECT id FROM cloud")
    return Opening(
        cloud_id, mode, images, copies, claim=claim, lock_timeout_s=LOCK_TIMEOUT_S, kill_at=kill_at
    )


def mark_unreachable(context: Context, host_id: str, why: str) -> None:
    """Remember that a host did not answer, and since when."""
    with write(context.cloud) as writer:
        writer.run(
            "UPDATE hosts SET unreachable_since = ifnull(unreachable_since, ?), "
            "unreachable_why = ? WHERE id = ?",
            now(),
            why,
            host_id,
        )
        name = writer.get("hosts", host_id)["name"]
        note(
            writer,
            "connect",
            "host",
            {"id": host_id, "name": name},
            why,
            level="error",
            host=name,
            user_name=context.operator,
        )


def _issue(context: Context, exchange: Exchange, hello: Hello) -> HostSpec:
    """Read the newest snapshot for a host whose lock we hold, and remember what it is sent."""
    host_id = exchange.host_id
    with write(context.cloud) as writer:
        host = writer.get("hosts", host_id)
        exchange.sent_before = host["sent_serial"]
        _refuse_if_ahead(host, hello)
        host_spec = build_spec(load_snapshot(writer, host_id), writer.serial, writer.nonce)
        writer.update(
            "hosts",
            host_id,
            sent_serial=writer.serial,
            sent_nonce=writer.nonce,
            boot_id=hello.boot_id,
            facts_json=json.dumps(hello.facts) if hello.facts else host["facts_json"],
            seen_at=now(),
            unreachable_since=None,
            unreachable_why="",
        )
    return host_spec


def is_ahead(host: Row, accepted: Accepted | None) -> bool:
    """Whether a host has accepted a spec that this database never sent to it."""
    if accepted is None or accepted.serial < host["sent_serial"]:
        return False
    return (accepted.serial, accepted.nonce) != (host["sent_serial"], host["sent_nonce"])


def _refuse_if_ahead(host: Row, hello: Hello) -> None:
    accepted = hello.accepted
    if accepted is None or not is_ahead(host, accepted):
        return
    raise HostAhead(
        f"Host {host['name']} has accepted serial {accepted.serial}, which this database never "
        f"sent to it (last sent: {host['sent_serial']}): it is an older copy, or a second one. "
        "Nothing was changed on the host.",
        hint="stackctl recover --adopt   (after making sure that no newer database exists)",
    )


def _applied(writer: Writer, host_id: str, serial: int) -> None:
    # Of two exchanges one after the other, the later one may come here first.
    writer.run(
        "UPDATE hosts SET applied_serial = max(applied_serial, ?) WHERE id = ?", serial, host_id
    )
    writer.run(
        "DELETE FROM host_networks WHERE host_id = ? AND released_serial <= ?", host_id, serial
    )
    writer.run(
        "UPDATE disks SET state = 'deleted', deleted_at = ifnull(deleted_at, ?) WHERE id IN "
        "(SELECT id FROM tombstones WHERE kind = 'disk' AND host_id = ? "
        " AND acknowledged_at IS NOT NULL)",
        now(),
        host_id,
    )


def _trace_reports(
    context: Context, host: str, reports: list[Report], labels: dict[str, str]
) -> None:
    for report in reports:
        label = labels.get(report.id, report.id)
        context.watch.trace(f"{report.kind} {report.result}", host, label, report.seconds)


def _labels(host_spec: HostSpec) -> dict[str, str]:
    """What people call the resources of a spec, by id."""
    labels = {server.id: server.guest.name for server in host_spec.servers}
    for disk in host_spec.disks:
        labels[disk.id] = f"{labels.get(disk.server_id, disk.server_id)} {disk.kind}"
    tags = {network.id: network.local_vlan for network in host_spec.networks}
    for port in host_spec.ports:
        addresses = " ".join(item.address for item in port.addresses)
        name = labels.get(port.server_id, port.server_id)
        labels[port.id] = f"{name} {addresses} (local VLAN {tags[port.network_id]})"
    for network in host_spec.networks:
        for subnet in network.subnets:
            labels[subnet.id] = subnet.cidr
            if subnet.dhcp is not None:
                labels[subnet.dhcp.port_id] = f"DHCP of {subnet.cidr}"
    for router in host_spec.routers:
        ends = [*router.interfaces, *([router.gateway] if router.gateway else [])]
        for end in ends:
            labels[end.id] = f"router's port {' '.join(item.address for item in end.addresses)}"
        held = " ".join(item.address for end in ends for item in end.addresses)
        labels[router.id] = f"router {held}"
    return labels
