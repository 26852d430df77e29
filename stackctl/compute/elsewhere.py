"""Seeing booked servers to their hosts, and to others when one is silent or cannot build them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from stackctl.compute import booking, volume_rows
from stackctl.compute.placing import NoValidHost, record_decision
from stackctl.compute.scheduling.policy import policy_of
from stackctl.compute.scheduling.scheduler import reasons
from stackctl.compute.types import Server
from stackctl.compute.views import read_servers, servers_by_id
from stackctl.errors import HostUnreachable, StackctlError
from stackctl.identity.context import Context
from stackctl.network.allocation import leave_server
from stackctl.operation import Done, Operation
from stackctl.operation.events import note
from stackctl.operation.exchange import Exchange
from stackctl.operation.settle import fail_build
from stackctl.state import Reader, Row, Writer, now, read, write

Undo = Callable[[Writer], None]


def nothing_else(_: Writer) -> None:
    """What a boot made beside its servers."""


def carry_out(
    operation: Operation, work: Callable[[Writer], list[str]], undo: Undo = nothing_else
) -> Done[list[Server]]:
    """Do the booking transaction ``work(writer) -> ids`` and see its servers to their hosts.

    ``undo`` takes back what ``work`` made beside servers, when no host could be reached.
    """
    context = operation.context
    rehearsed: list[Server] = []

    def transaction(writer: Writer) -> list[str]:
        ids = work(writer)
        if context.dry_run:
            rehearsed.extend(servers_by_id(writer, ids))
        return ids

    try:
        ids = operation.transact(transaction, lambda ids: {"servers": ids})
    except NoValidHost as error:
        _remember_refusal(context, error)
        raise
    exchanges = operation.converge()
    if context.dry_run:
        return operation.finish(rehearsed)
    _Retries(operation, ids, undo).run(exchanges)
    return operation.finish(ids).with_value(read_servers(context, ids))


def unreached_hosts(exchanges: Sequence[Exchange]) -> set[str]:
    """Hosts that never got to know the spec: what was meant for them can go elsewhere."""
    return {item.host_id for item in exchanges if item.error is not None and not item.sent}


class _Retries:
    """One boot's servers on their way to hosts that can be reached and can build them."""

    def __init__(self, operation: Operation, ids: Sequence[str], undo: Undo) -> None:
        self._operation, self._ids, self._undo = operation, ids, undo
        self._context = operation.context
        self._most = policy_of(self._context.cloud.config["scheduler"]).max_attempts
        self._serial = operation.serial
        # Hosts that are not to be tried again: they failed to build something, or to answer.
        self._bad: set[str] = set()

    def run(self, exchanges: Sequence[Exchange]) -> None:
        """Go on until nothing is left to try; each server is given to so many hosts at most."""
        for _ in range(self._most):
            unreached = unreached_hosts(exchanges)
            cleared = self._clear_failed(exchanges)
            if not unreached and not cleared:
                break
            exchanges = self._place_elsewhere(unreached, cleared)

    def _clear_failed(self, exchanges: Sequence[Exchange]) -> dict[str, Exchange]:
        """Take what hosts could not build from them, if others can take it; by id, with the
        exchange in which the host failed.

        Nothing is built elsewhere before its first host was asked to destroy what it made of it.
        """
        failed = self._failed_builds(exchanges)
        if not failed:
            return {}
        self._bad |= {exchange.host_id for exchange in failed.values()}

        def work(writer: Writer) -> list[str]:
            rows = [writer.get("servers", id_) for id_ in failed]
            movable = [row for row in rows if self._may_go(writer, row, failed)]
            for row in movable:
                booking.clear_away(writer, row)
                self._note_failed(writer, row, failed[row["id"]].host_name)
            return [row["id"] for row in movable]

        ids = self._operation.transact(work)
        if ids:
            self._operation.converge()
        return {id_: failed[id_] for id_ in ids}

    def _failed_builds(self, exchanges: Sequence[Exchange]) -> dict[str, Exchange]:
        """Servers of ours that a host which answered to the end could not build."""
        found: dict[str, Exchange] = {}
        with read(self._context.cloud) as reader:
            for row in _booked(reader, self._operation, self._ids):
                for exchange in exchanges:
                    here = exchange.host_id == row["host_id"] and exchange.error is None
                    if here and row["held"] and row["launched_at"] is None:
                        found[row["id"]] = exchange
        return found

    def _may_go(self, writer: Writer, server: Row, failed: Mapping[str, Exchange]) -> bool:
        """Whether another host may try it; if not, its fault says why."""
        if server["host_asked"] is not None or volume_rows.of_server(writer, server["id"]):
            return False
        if server["build_attempts"] >= self._most:
            words = "Exceeded maximum number of retries"
            _add_to_fault(writer, server, f"{words}: {self._most} hosts could not build it.")
            return False
        decision = booking.another_host(self._context, writer, server, self._bad, failed)
        if decision.host_id is None:
            why = f" ({reasons(decision)})" if decision.verdicts else ""
            _add_to_fault(writer, server, f"No valid host was found for another try{why}.")
            return False
        return True

    def _note_failed(self, writer: Writer, server: Row, host: str) -> None:
        words = _told(server)
        self._context.watch.warn(
            f"Host {host} could not build {server['name']}: {words}. Trying other hosts."
        )
        note(
            writer,
            "boot",
            "server",
            server,
            f"taken from {host}, which could not build it: {words}",
            level="warning",
            host=host,
            user_name=self._context.operator,
            operation_id=self._operation.id,
        )

    def _place_elsewhere(
        self, unreached: set[str], cleared: Mapping[str, Exchange]
    ) -> Sequence[Exchange]:
        """Give servers of unreached hosts, and those that were cleared away, to others."""
        operation = self._operation
        for host_id in unreached:
            operation.work_around(host_id)
        self._bad |= unreached | {
            item.host_id for item in operation.exchanges.values() if item.error is not None
        }

        def work(writer: Writer) -> bool:
            booked = _booked(writer, operation, self._ids)
            lost = [row for row in booked if row["host_id"] in unreached]
            homeless = self._homeless(writer, lost) + self._clean(writer, cleared)
            rows = [writer.get("servers", id_) for id_ in homeless]
            spent = [row["id"] for row in rows if row["build_attempts"] >= self._most]
            going = [id_ for id_ in homeless if id_ not in spent]
            left = booking.place_again(self._context, writer, going, self._bad, operation.id)
            if spent + left and len(spent + left) == len(booked) and not cleared:
                _unbook(writer, spent + left)
                self._undo(writer)
                return True
            for id_ in spent + left:
                _fail_homeless(writer, operation, id_, self._most if id_ in spent else 0)
            return False

        if operation.transact(work):
            operation.abandon("no host could be reached")
            raise _nobody_there(operation)
        self._serial = operation.serial
        return operation.converge()

    def _homeless(self, writer: Writer, servers: Sequence[Row]) -> list[str]:
        """Those whose host was told by nobody. Moving the others would make them twice: their host
        is asked again."""
        homeless = []
        for server in servers:
            if self._operation.is_known_to(writer, server["host_id"], self._serial):
                self._operation.go_back_to(server["host_id"])
                writer.change.servers.add(server["id"])
            elif server["vm_state"] == "building":
                homeless.append(server["id"])
        return homeless

    def _clean(self, writer: Writer, cleared: Mapping[str, Exchange]) -> list[str]:
        """Those of which nothing runs where they failed; the others fail here and now."""
        clean = []
        for id_, exchange in cleared.items():
            waiting = writer.value(
                "SELECT count(*) FROM tombstones WHERE kind = 'domain' AND id = ? "
                "AND acknowledged_at IS NULL",
                id_,
            )
            if not waiting or self._never_begun(id_, exchange):
                clean.append(id_)
                continue
            server = writer.get("servers", id_)
            message = (
                f"{_told(server)}. Host {exchange.host_name} did not confirm that nothing of it "
                "is left there, so no other host was asked to build it."
            )
            fail_build(writer, server, exchange.host_name, message, self._operation.id)
        return clean

    def _never_begun(self, server_id: str, exchange: Exchange) -> bool:
        """Whether a host, which was first told of a server in this exchange, did not even begin to
        make its domain (its libvirt is down, its disk could not be made)."""
        return exchange.sent_before < self._serial and server_id not in exchange.begun


def _booked(reader: Reader, operation: Operation, ids: Sequence[str]) -> list[Row]:
    """Servers that this operation books; others that it returns were there before it."""
    rows = (reader.get("servers", id_) for id_ in ids)
    return [row for row in rows if row["operation_id"] == operation.id]


def _told(server: Row) -> str:
    """The fault that a server has, without a full stop."""
    return str(json.loads(server["fault_json"] or "{}").get("message", "")).rstrip(".")


def _add_to_fault(writer: Writer, server: Row, words: str) -> None:
    fault = json.loads(server["fault_json"] or "{}")
    fault["message"] = f"{_told(server)}. {words}"
    writer.update("servers", server["id"], fault_json=json.dumps(fault))


def _unbook(writer: Writer, ids: Sequence[str]) -> None:
    """Take back a boot that no host has heard of: no tombstones, nothing to remove anywhere."""
    for id_ in ids:
        for port_id in writer.column(
            "SELECT id FROM ports WHERE device_id = ? AND deleted_at IS NULL", id_
        ):
            leave_server(writer, port_id)
        volume_rows.give_back(writer, id_)
        writer.run(
            "UPDATE disks SET state = 'deleted', deleted_at = ? WHERE server_id = ?", now(), id_
        )
        writer.update("servers", id_, vm_state="deleted", task_state=None, deleted_at=now())


def _nobody_there(operation: Operation) -> StackctlError:
    errors = [item.error for item in operation.exchanges.values() if item.error is not None]
    words = " ".join(dict.fromkeys(error.message for error in errors))
    message = f"{words} No other host can take the servers. Nothing was booted."
    if len({type(error) for error in errors}) == 1:
        return type(errors[0])(message, hint=errors[0].hint or "stackctl host-list")
    return HostUnreachable(message, hint="stackctl host-list")


def _fail_homeless(writer: Writer, operation: Operation, server_id: str, attempts: int) -> None:
    """``attempts``: to how many hosts it was given; 0 when no host has room for it."""
    server = writer.get("servers", server_id)
    exchange = operation.exchanges.get(server["host_id"] or "")
    why = exchange.error.message if exchange and exchange.error else f"{_told(server)}."
    host = exchange.host_name if exchange else ""
    rest = "No other host has room for it"
    if attempts:
        words = "Exceeded maximum number of retries: it was given to"
        rest = f"{words} {attempts} hosts, none of which could be reached"
    message = f"{why} {rest} (stackctl explain {server['name']})."
    fail_build(writer, server, host, message, operation.id)


def _remember_refusal(context: Context, error: NoValidHost) -> None:
    """Why nowhere: kept although the transaction was rolled back, for explain."""
    if context.dry_run:
        return
    with write(context.cloud) as writer:
        decision = error.decisions[-1]
        record_decision(context, writer, decision, None, None)
        note(
            writer,
            "boot",
            "server",
            {"id": "", "name": decision.request.name},
            error.message,
            level="error",
            user_name=context.operator,
        )
