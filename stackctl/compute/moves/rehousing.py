"""New homes for servers that have none, or lost theirs: their disks are made anew there.

Which host, and what the rows are then; and what becomes of those whose new host is silent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from stackctl.compute import volume_rows
from stackctl.compute.booking import write_disks
from stackctl.compute.capacity import candidates
from stackctl.compute.commanding import Before
from stackctl.compute.disks import restore_disks
from stackctl.compute.elsewhere import unreached_hosts
from stackctl.compute.placing import placement_of, record_decision
from stackctl.compute.scheduling.policy import policy_of
from stackctl.compute.scheduling.scheduler import Request, no_valid_host, place
from stackctl.errors import Conflict, HostUnreachable, NoCapacity, StackctlError
from stackctl.identity.context import Context
from stackctl.network.allocation import bind_port, unbind_port
from stackctl.operation import Operation, volume_keepers
from stackctl.operation.exchange import Exchange
from stackctl.operation.server_moves import ports_of
from stackctl.state import Reader, Row, Writer, find, read


@dataclass(frozen=True)
class Wish:
    """Where somebody wants a server to go: a host by name or id, a zone."""

    host: str | None = None
    zone: str | None = None


class Places(Protocol):
    """How servers of some kind get other homes."""

    def choose(self, writer: Writer, server: Row, without: Collection[str]) -> str:
        """The id of a host that is none of these; raises why there is none, and writes nothing."""
        ...

    def settle(self, writer: Writer, server: Row, host_id: str) -> None:
        """Write that this is its home."""
        ...


def graves_of(reader: Reader, server: Row) -> set[str]:
    """Hosts that may still have what the server left there: perhaps its guest runs on."""
    return set(
        reader.column(
            "SELECT host_id FROM tombstones WHERE kind = 'domain' AND id = ? "
            "AND acknowledged_at IS NULL",
            server["id"],
        )
    )


def find_host(
    context: Context,
    writer: Writer,
    server: Row,
    wish: Wish,
    without: Collection[str],
    operation_id: str,
) -> str:
    """The id of the best host for a server, or of the one that was wished for if it can have it.

    Conflict: its volumes tie it to another one, or what it left there waits to be removed.
    NoCapacity: each host's reason.
    """
    request = _request(writer, server, wish)
    graves = graves_of(writer, server)
    if request.host in graves:
        name = writer.get("hosts", str(request.host))["name"]
        raise Conflict(
            f"What server {server['name']} left on host {name} is not removed there yet. Nothing "
            "was changed.",
            hint=f"stackctl converge {name}",
        )
    policy = policy_of(context.cloud.config["scheduler"])
    decision = place([request], candidates(writer, {*without, *graves}), policy)[0]
    context.watch.decided(decision)
    if decision.host_id is None:
        raise NoCapacity(
            f"{no_valid_host(decision, 0, 1)} Nothing was changed.",
            hint="stackctl host-list   (what each host has and has given)",
        )
    record_decision(context, writer, decision, server["id"], operation_id)
    return decision.host_id


def move_in(writer: Writer, server: Row, host_id: str, **values: object) -> None:
    """Give a server without host and disks both: its ports are bound there, its disks are built."""
    take_host(writer, server, host_id, **values)
    write_disks(writer, writer.get("servers", server["id"]))


def take_host(writer: Writer, server: Row, host_id: str, **values: object) -> None:
    """A server without a host is this one's, which has or makes its disks.

    One that was booted for a host by name stays so, with the new one.
    """
    host = writer.get("hosts", host_id)
    for port_id in ports_of(writer, server["id"]):
        writer.update("ports", port_id, device_owner=f"compute:{host['zone']}")
        bind_port(writer, port_id, host_id)
    volume_rows.move_unbuilt(writer, server["id"], host_id)
    here = {"host_id": host_id, "zone": host["zone"], "held": 0, "fault_json": None}
    here |= {"host_asked": host_id if server["host_asked"] is not None else None}
    here |= {"vm_state": "building", "kept_state": None, "power_state": "NOSTATE"}
    writer.update("servers", server["id"], **here, version=server["version"] + 1, **values)
    writer.change.servers.add(server["id"])


def move_out(writer: Writer, before: Before) -> None:
    """Take back that a server moved in with a host which has not heard of it."""
    now_there, then = writer.get("servers", before.server["id"]), before.server
    for port_id in ports_of(writer, then["id"]):
        unbind_port(writer, port_id, now_there["host_id"])
        if then["host_id"] is not None:
            bind_port(writer, port_id, then["host_id"])
    restore_disks(writer, then["id"], before.disks)
    writer.run(
        "DELETE FROM tombstones WHERE kind = 'domain' AND id = ? AND host_id = ? "
        "AND acknowledged_at IS NULL",
        then["id"],
        then["host_id"],
    )
    values = {name: value for name, value in then.items() if name != "id"}
    # What anybody reports of the row as it was meanwhile is not of this one.
    writer.update("servers", then["id"], **values | {"version": now_there["version"] + 1})
    if then["host_id"] is not None:
        volume_keepers.follow(writer, then["id"], then["host_id"])
    writer.change.servers.add(then["id"])


class Homes:
    """Servers that moved in with hosts: converged, and given to others when theirs is silent."""

    def __init__(self, operation: Operation, moved: Mapping[str, Before], places: Places) -> None:
        self._operation, self._moved, self._places = operation, dict(moved), places
        self._most = policy_of(operation.context.cloud.config["scheduler"]).max_attempts
        self._bad: set[str] = set()
        self.homeless: dict[str, StackctlError] = {}
        """Servers that were taken back, because no host could be reached: why, by id."""

    def converge(self) -> None:
        """Bring the hosts up to date; each server is given to so many hosts at most."""
        operation = self._operation
        exchanges: Sequence[Exchange] = operation.converge()
        for attempt in range(1, self._most + 1):
            silent = unreached_hosts(exchanges)
            lost = self._lost(silent)
            if not lost:
                return
            self._bad |= silent
            for host_id in silent:
                operation.work_around(host_id)
            serial = operation.serial
            last = attempt == self._most
            operation.transact(lambda w: self._elsewhere(w, lost, serial, last))  # noqa: B023
            exchanges = operation.converge()

    def _lost(self, silent: Collection[str]) -> list[Before]:
        if not silent or self._operation.context.dry_run:
            return []
        with read(self._operation.context.cloud) as reader:
            return [
                before
                for id_, before in self._moved.items()
                if reader.get("servers", id_)["host_id"] in silent
            ]

    def _elsewhere(self, writer: Writer, lost: Sequence[Before], serial: int, last: bool) -> None:
        for before in lost:
            server_id = before.server["id"]
            host_id = writer.get("servers", server_id)["host_id"]
            if self._operation.is_known_to(writer, host_id, serial):
                # A stranger's command told it: elsewhere as well, the server would be twice.
                self._operation.go_back_to(host_id)
                writer.change.servers.add(server_id)
                continue
            move_out(writer, before)
            try:
                if last:
                    raise self._silence(host_id)
                server = writer.get("servers", server_id)
                another = self._places.choose(writer, server, self._bad)
            except (Conflict, NoCapacity, HostUnreachable):
                self.homeless[server_id] = self._silence(host_id)
                del self._moved[server_id]
            else:
                self._places.settle(writer, server, another)

    def _silence(self, host_id: str) -> StackctlError:
        error = self._operation.exchanges[host_id].error
        why = error.message if error is not None else "Its host did not answer."
        return HostUnreachable(why, hint="stackctl host-list")


def _request(reader: Reader, server: Row, wish: Wish) -> Request:
    request = placement_of(reader, server, {server["id"]})
    tied = volume_rows.tie(reader, server["id"])
    if tied is None or not tied["built"]:
        # Its shared volumes go along, when nothing is to be done with them where they were.
        tied = volume_rows.at_work(reader, server["id"])
    asked = find(reader, "hosts", wish.host, noun="host")["id"] if wish.host is not None else None
    if tied is not None and asked not in (None, tied["host_id"]):
        there = reader.get("hosts", tied["host_id"])["name"]
        raise Conflict(
            f"Volume {tied['name']} of server {server['name']} is a file on host {there}: the "
            f"server can only be there, not on {wish.host}. Nothing was changed.",
            hint=f"stackctl unshelve {server['name']}",
        )
    # That it was booted for a host (--host) was about its boot.
    host = tied["host_id"] if tied is not None else asked
    return replace(request, host=host, zone=wish.zone or request.zone)
