"""A transaction, then a convergence: the one way in which commands change the world.

An operation of several phases is several transactions, each followed by a convergence of the
hosts that it touched. Whatever happens to this process, the next command finds the operation's
row with a free lock and brings the hosts to what the rows say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from agent.spec import HostSpec, digest
from stackctl import killpoint
from stackctl.errors import (
    Bug,
    Conflict,
    HostAhead,
    HostUnreachable,
    PartlyDone,
    StackctlError,
)
from stackctl.hostspec import Affected, affected_hosts, build_spec, load_snapshot
from stackctl.identity.context import Context
from stackctl.operation import convergence
from stackctl.operation.exchange import Exchange
from stackctl.operation.outcome import Done, Failure
from stackctl.operation.owner import take_ownership
from stackctl.operation.recover import settle_interrupted
from stackctl.operation.requests import earlier_request, find_request, go_on, still_at_work
from stackctl.operation.settle import settle_servers
from stackctl.state import Change, Reader, Row, Writer, new_id, now, read, write

T = TypeVar("T")

_OF_SERVERS = ("server", "domain", "disk", "port", "nic", "image", "dhcp", "router")
_WITH_ROWS = frozenset((*_OF_SERVERS, "volume", "attachment", "backend"))
"""Kinds whose failures carry the id of a row, somebody's own."""


class Operation:
    """One command's work. Made by ``begin``; see ``run`` for the common case of one phase.

    ``phase`` goes into its row with each transaction. While it begins with "undo", whoever finds
    the operation without its owner takes it for one that did nothing.
    """

    def __init__(self, context: Context, kind: str, summary: str, arguments: dict[str, Any]):
        self.context = context
        self.kind = kind
        self.summary = summary
        self.arguments_sha256 = digest({"kind": kind, "arguments": arguments})
        self.id = new_id()
        self.change = Change()
        self.exchanges: dict[str, Exchange] = {}
        self.repeated: Row | None = None
        self.phase = "converge"
        self.serial = 0
        self._worked_around: set[str] = set()
        self._lock_file = ""
        self._recorded = False
        self._pending = Affected(frozenset(), frozenset())
        self._hosts: set[str] = set()
        self._rehearsed: dict[str, HostSpec] = {}

    def transact(
        self, work: Callable[[Writer], T], remember: Callable[[T], dict[str, Any]] | None = None
    ) -> T:
        """Do one phase's transaction; ``remember`` says what a repeated request returns."""
        with write(self.context.cloud, dry_run=self.context.dry_run) as writer:
            value = work(writer)
            affected = affected_hosts(writer, writer.change)
            fenced = set(writer.column("SELECT id FROM hosts WHERE fenced = 1"))
            for host_id in affected.all:
                writer.update("hosts", host_id, issued_serial=writer.serial)
            self._hosts |= affected.all
            self._record(writer, remember(value) if remember else None)
            if self.context.dry_run:
                asked = affected.without(self._worked_around).carrying
                self._rehearsed = {id_: _spec(writer, id_) for id_ in asked}
        self.serial = writer.serial
        # A fenced host is told when it returns: nobody waits for its silence meanwhile.
        self._pending = affected.without(self._worked_around | (fenced & affected.peripheral))
        self._note_change(writer.change)
        return value

    def converge(self) -> list[Exchange]:
        """Bring the hosts of the last transaction up to date, in parallel; returns their exchanges.

        In a rehearsal the hosts are only asked what they would do.
        """
        if self.context.dry_run:
            exchanges = convergence.observe(
                self.context, self._rehearsed, self._rehearsed.__getitem__
            )
            for exchange in exchanges:
                if exchange.error is not None:
                    self.context.watch.warn(exchange.error.message)
        else:
            exchanges = convergence.converge(
                self.context, self._pending.carrying, self._pending.peripheral, self.id
            )
        self.exchanges |= {exchange.host_id: exchange for exchange in exchanges}
        return [exchange for exchange in exchanges if exchange.host_id in self._pending.carrying]

    def work_around(self, host_id: str) -> None:
        """Go on without a host that was not reached: its servers are given to others."""
        exchange = self.exchanges[host_id]
        exchange.peripheral = True
        self._worked_around.add(host_id)
        if exchange.error is not None:
            self.context.watch.warn(f"{exchange.error.message} Trying other hosts.")

    def leave_out(self, host_id: str) -> None:
        """Do not ask a host (fenced, or not reached): it learns of all when it returns."""
        self._worked_around.add(host_id)

    def go_back_to(self, host_id: str) -> None:
        """Ask a host again after all."""
        self._worked_around.discard(host_id)

    def is_known_to(self, reader: Reader, host_id: str, serial: int | None = None) -> bool:
        """Whether a host was sent what this operation wrote (last, or at an earlier ``serial``), by
        whichever command.

        A spec is always read from the newest rows: a stranger's command that reaches the host
        takes along what this one could not deliver.
        """
        wanted = self.serial if serial is None else serial
        return bool(reader.get("hosts", host_id)["sent_serial"] >= wanted)

    def abandon(self, why: str) -> None:
        """End an operation whose rows were taken back."""
        with write(self.context.cloud) as writer:
            # Nothing of it is left to return, so its request id is free for the next try.
            end = {"outcome": "failed", "phase": f"undone ({why})", "finished_at": now()}
            writer.update("operations", self.id, request_id=None, **end)

    def finish(self, value: T) -> Done[T]:
        """Settle what is still open, record the outcome, and say what became of it."""
        done = Done(value, self.id)
        done.planned = [step for item in self.exchanges.values() for step in item.planned]
        if self.context.dry_run:
            return done
        done.failures = self._host_failures()
        killpoint.reached("before-finish")
        with write(self.context.cloud) as writer:
            broken, well = settle_servers(writer, self.change.servers, self.exchanges, self.id)
            done.failures += broken
            done.succeeded = well
            outcome = "done" if not done.failures else "partly" if well else "failed"
            writer.update("operations", self.id, outcome=outcome, finished_at=now())
        settle_interrupted(self.context)
        return done

    def again(self, load: Callable[[Row], T]) -> Done[T]:
        """The end of the earlier operation with the same request id, carried on if it died.

        ``load`` makes the value from that operation's row, when all is settled.
        """
        row = self.repeated
        if row is None:
            raise Bug("There is no earlier request.")
        failures, well = go_on(self.context, row)
        return Done(load(row), row["id"], failures, well)

    def _host_failures(self) -> list[Failure]:
        failures = []
        with_servers = self._hosts_of_servers()
        for exchange in self.exchanges.values():
            ours = [item for item in exchange.failures if self.concerns(item)]
            failures += self._without_remains(exchange, ours)
            # What a lost host means for servers is said server by server.
            if exchange.error is None or exchange.host_id in with_servers:
                continue
            if not exchange.peripheral or isinstance(exchange.error, HostAhead):
                failures.append(self._host_failure(exchange, exchange.error))
        return failures

    def _host_failure(self, exchange: Exchange, error: StackctlError) -> Failure:
        kind = type(error)
        if isinstance(error, HostUnreachable) and self.kind != "converge":
            # What was asked for is committed, and carried out when the host is back.
            kind = PartlyDone
        name = exchange.host_name
        return Failure("host", exchange.host_id, name, name, error.message, kind, error.hint)

    def _without_remains(self, exchange: Exchange, failures: list[Failure]) -> list[Failure]:
        """The failures without those to remove what is left of a server that is elsewhere now."""
        with read(self.context.cloud) as reader:
            rows = [reader.get("servers", id_) for id_ in self.change.servers]
        gone = {
            row["id"]
            for row in rows
            if row["deleted_at"] is None and row["host_id"] != exchange.host_id
        }
        left = [item for item in failures if item.id in gone and item.kind in ("domain", "disk")]
        for name in sorted({item.name for item in left}):
            self.context.watch.warn(
                f"What host {exchange.host_name} made of {name} goes when it is converged: "
                f"{next(item.message for item in left if item.name == name)}."
            )
        return [item for item in failures if item not in left]

    def concerns(self, failure: Failure) -> bool:
        """Whether a failure on a host belongs to what this operation changed.

        Its own servers are left out: what became of them is read from their rows. What has no
        row of its own (a bridge, its flows) is the host's, and matters to all that is on it.
        """
        change = self.change
        if failure.kind == "server" and failure.id in change.servers:
            return False
        named = change.servers | change.ports | change.networks | change.routers
        named |= change.volumes | change.volume_types
        if not named | change.security_groups:
            return bool(change.hosts)
        if failure.kind in _WITH_ROWS:
            return failure.id in named | self._subnets()
        return bool(change.hosts | change.routers | change.security_groups | change.altered)

    def _subnets(self) -> set[str]:
        with read(self.context.cloud) as reader:
            rows = reader.all("SELECT id, network_id FROM subnets")
        return {row["id"] for row in rows if row["network_id"] in self.change.networks}

    def _hosts_of_servers(self) -> set[str]:
        with read(self.context.cloud) as reader:
            rows = (reader.get("servers", server_id) for server_id in self.change.servers)
            return {row["host_id"] for row in rows}

    def _note_change(self, change: Change) -> None:
        self.change.hosts |= change.hosts
        self.change.underlays |= change.underlays
        self.change.networks |= change.networks
        self.change.altered |= change.altered
        self.change.ports |= change.ports
        self.change.servers |= change.servers
        self.change.routers |= change.routers
        self.change.security_groups |= change.security_groups
        self.change.members |= change.members
        self.change.volumes |= change.volumes
        self.change.left |= change.left
        self.change.volume_types |= change.volume_types

    def _record(self, writer: Writer, result: dict[str, Any] | None) -> None:
        """Write the operation's row with its first transaction, and keep it up with the others."""
        values: dict[str, Any] = {"hosts_json": json.dumps(sorted(self._hosts))}
        values |= {"serial": writer.serial, "phase": self.phase}
        if result is not None:
            values["result_json"] = json.dumps(result)
        if self._recorded:
            writer.update("operations", self.id, **values)
            return
        if self.context.request_id is not None and find_request(writer, self.context):
            raise still_at_work(self.context)  # since we looked; this transaction is undone
        writer.insert("operations", self._row() | values)
        self._recorded = not self.context.dry_run

    def _row(self) -> Row:
        context = self.context
        return {
            "id": self.id,
            "kind": self.kind,
            "summary": self.summary,
            "project_id": context.project_id,
            "user_name": context.operator,
            "request_id": context.request_id,
            "arguments_sha256": self.arguments_sha256,
            "outcome": "running",
            "lock_file": self._lock_file,
            "owner_pid": os.getpid(),
            "started_at": now(),
        }


@contextmanager
def begin(
    context: Context, kind: str, summary: str, arguments: dict[str, Any]
) -> Iterator[Operation]:
    """An operation, owned by this process while the block runs.

    ``operation.repeated`` is the row of an earlier one with the same request id: the block then
    only has to return ``operation.again(its value)``. A block that ends
    by an exception after its first transaction leaves a row without an owner, which is what a
    killed process leaves: the next command goes on from there.
    """
    operation = Operation(context, kind, summary, arguments)
    owner = take_ownership(context.cloud, operation.id)
    operation._lock_file = str(owner.path)
    try:
        if context.request_id is not None:
            operation.repeated = earlier_request(context, operation.arguments_sha256)
        yield operation
    finally:
        owner.release()


def run(
    context: Context,
    kind: str,
    summary: str,
    arguments: dict[str, Any],
    work: Callable[[Writer], T],
    again: Callable[[Row], T] | None = None,
    remember: Callable[[T], dict[str, Any]] | None = None,
) -> Done[T]:
    """One transaction, then the convergence of the hosts it touched.

    ``remember`` turns the value into what is stored with the request id, ``again`` turns the
    stored operation row back into the value when the request is repeated.
    """
    with begin(context, kind, summary, arguments) as operation:
        if operation.repeated is not None:
            if again is None:
                raise Conflict(
                    f"The request '{context.request_id}' was carried out before, at "
                    f"{operation.repeated['started_at']}. Nothing was done."
                )
            return operation.again(lambda row: again(row))
        value = operation.transact(work, remember)
        operation.converge()
        return operation.finish(value)


def _spec(writer: Writer, host_id: str) -> HostSpec:
    return build_spec(load_snapshot(writer, host_id), writer.serial, writer.nonce)
