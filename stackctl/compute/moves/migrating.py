"""Cold moves: a server is switched off, its disks are copied to another host, it goes on there.

The old disks stay until the move is confirmed; reverted, it goes back to them. The steps are those
of ``stackctl.operation.server_moves``; each is a transaction and a convergence of both hosts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stackctl.compute import lifecycle
from stackctl.compute.commanding import note_server
from stackctl.compute.disks import NVRAM, add_disk, disks_of
from stackctl.compute.moves import moving
from stackctl.compute.types import GIB, SIZES, Server
from stackctl.compute.views import first_result, read_servers, server_row, servers_by_id
from stackctl.errors import Conflict, ResourceFailed, StackctlError
from stackctl.identity.context import Context
from stackctl.operation import Done, Operation, begin, server_moves
from stackctl.operation.exchange import Exchange
from stackctl.state import Reader, Row, Writer, read, write

NewSizes = Callable[[Writer, Row], Row]
"""The columns of a flavor that a server shall have on its new host."""


def migrate(context: Context, word: str, host_word: str | None = None) -> Done[Server]:
    """Move a server to a host, or to the best other one; it waits for confirm or revert there.

    Its guest is shut down, and started again if it ran. HostUnreachable: one of both hosts does
    not answer; the server stays where it is.
    """
    return move(context, "migrate", word, {"host": host_word}, host_word, keep_sizes)


def keep_sizes(_: Writer, server: Row) -> Row:
    """The flavor that it has."""
    return {name: server[name] for name in SIZES}


def move(
    context: Context,
    action: str,
    word: str,
    arguments: dict[str, Any],
    host_word: str | None,
    sizes: NewSizes,
) -> Done[Server]:
    """Move a server, perhaps with another flavor."""
    summary = f"{action} {word}" + (f" to {host_word}" if host_word else "")
    with begin(context, action, summary, {"server": word, **arguments}) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row)[0])

        def first(writer: Writer) -> Row:
            return _switch_off(operation, action, writer, word, host_word, sizes)

        return _Way(operation).go(first, _copy)


def move_back(context: Context, word: str) -> Done[Server]:
    """Return a moved server to the host that it came from, to its old disks and flavor."""
    arguments = {"servers": [word]}
    with begin(context, "revert-resize", f"revert-resize {word}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row)[0])
        return _Way(operation).go(lambda writer: _turn_round(operation, writer, word), _return)


def left_behind(reader: Reader, server: Row) -> Row | None:
    """The move to this host that a server may still be brought back from; None for none."""
    before = json.loads(server["before_resize_json"] or "{}")
    return reader.get("migrations", before["migration"]) if "migration" in before else None


# --- the steps, as rows -------------------------------------------------------------------------


def _switch_off(
    operation: Operation,
    action: str,
    writer: Writer,
    word: str,
    host_word: str | None,
    sizes: NewSizes,
) -> Row:
    """The first step: the guest goes off, and the other host makes its ports."""
    context, server = operation.context, server_row(operation.context, writer, word)
    lifecycle.require(server, action)
    lifecycle.refuse_undecided(server, action)
    moving.require_movable(writer, server, action)
    origin = moving.require_host(writer, server, action)
    new = sizes(writer, server)
    host = moving.choose_host(context, writer, {**server, **new}, operation.id, host_word)
    ids = [disk["id"] for disk in disks_of(writer, server["id"]) if not disk["aside"]]
    migration = moving.open_move(
        writer,
        server,
        operation.id,
        kind="resize" if action == "resize" else "cold",
        target_id=host["id"],
        status="pre-migrating",
        before_json=moving.before_moving(server, ids, writer.serial),
        after_json=json.dumps(new),
        claim_host_id=host["id"],
        **moving.room_of(new),
    )
    moving.announce(writer, server["id"], host["id"])
    values: Row = {"task_state": "resize-prep", "operation_id": operation.id}
    if migration["ran"]:
        values |= {"power_action": "stop", "power_serial": server["power_serial"] + 1}
    writer.update("servers", server["id"], **values, version=server["version"] + 1)
    writer.change.servers.add(server["id"])
    words = f"{action} asked for: from {origin['name']} to {host['name']}"
    note_server(context, writer, operation.id, action, server, words, origin["name"])
    return migration


def _copy(writer: Writer, migration: Row) -> None:
    """The second step: the server is the other host's, which copies its disks."""
    server = writer.get("servers", migration["server_id"])
    origin, there = server_moves.ends(migration)
    new = json.loads(migration["after_json"])
    before: Row = {name: server[name] for name in SIZES}
    before["disks"] = [disk["id"] for disk in disks_of(writer, server["id"]) if not disk["aside"]]
    before["migration"] = migration["id"]
    copy_disks(writer, server, new, there)
    columns = {**new, "before_resize_json": json.dumps(before), "task_state": "resize-migrating"}
    moving.hand_over(writer, server, there, **columns)
    # There it counts as itself; here its old disks do, and the room to come back.
    claim = {"claim_host_id": origin, **moving.room_of(before)}
    server_moves.set_status(writer, migration, "migrating", **claim)


def _turn_round(operation: Operation, writer: Writer, word: str) -> Row:
    """The first step of the way back: the host that it came from makes its ports again."""
    context, server = operation.context, server_row(operation.context, writer, word)
    lifecycle.require(server, "revert-resize")
    migration = left_behind(writer, server)
    if migration is None:
        raise Conflict(f"Cannot 'revert-resize' instance {server['name']}: it was not moved.")
    moving.require_host(writer, server, "revert-resize")
    old, room = writer.get("hosts", migration["source_host_id"]), ("vcpus", "ram_mb", "disk_gb")
    broken = server["vm_state"] == "error"
    runs = server["power_state"] == "RUNNING" or (broken and migration["ran"])
    ids = json.loads(server["before_resize_json"])["disks"]
    before = json.loads(moving.before_moving(server, ids, None))
    before["claim"] = {name: migration[name] for name in ("claim_host_id", *room)}
    kept = {"before_json": json.dumps(before), "ran": int(runs), "operation_id": operation.id}
    server_moves.set_status(writer, migration, "reverting", **kept)
    moving.announce(writer, server["id"], old["id"])
    values = {"task_state": "revert-prep", "operation_id": operation.id}
    writer.update("servers", server["id"], **values, version=server["version"] + 1)
    writer.change.servers.add(server["id"])
    words = f"revert-resize asked for: back to {old['name']}"
    note_server(context, writer, operation.id, "revert-resize", server, words, old["name"])
    return writer.get("migrations", migration["id"])


def _return(writer: Writer, migration: Row) -> None:
    """The second step of the way back: its domain goes where it is, with what the guest wrote."""
    server = writer.get("servers", migration["server_id"])
    origin, there = server_moves.ends(migration)
    before = json.loads(migration["before_json"]) | {"stopped_serial": writer.serial}
    old = json.loads(server["before_resize_json"])
    claim = {"claim_host_id": origin, **moving.room_of(server)}
    status = {"before_json": json.dumps(before), **claim}
    server_moves.set_status(writer, migration, "reverting", **status)
    columns = {name: old[name] for name in SIZES}
    moving.hand_over(writer, server, there, **columns, task_state="resize-reverting")


def copy_disks(writer: Writer, server: Row, new: Row, host_id: str) -> None:
    """Set a server's disks aside; copies of them, as large as its sizes say, take their place."""
    present = [disk for disk in disks_of(writer, server["id"]) if not disk["aside"]]
    for disk in present:
        writer.update("disks", disk["id"], aside=1, version=disk["version"] + 1)
        if disk["kind"] == "swap":
            continue  # made anew: what a guest swapped out is worth nothing after it went off
        copy = {"host_id": host_id, "source_id": disk["id"], "size_bytes": _size(disk, new)}
        add_disk(writer, disk, **copy)
    _add_lacking(writer, server, new, host_id, present)


def _size(disk: Row, new: Row) -> int:
    """What a disk has, or more as the flavor says; UEFI variables never grow."""
    if disk["kind"] == NVRAM:
        return int(disk["size_bytes"])
    size_gb = new["disk_gb"] if disk["kind"] == "root" else new["ephemeral_gb"]
    return max(int(disk["size_bytes"]), int(size_gb) * GIB)


def _add_lacking(
    writer: Writer, server: Row, new: Row, host_id: str, present: Sequence[Row]
) -> None:
    """An ephemeral disk that it did not have, and its swap."""
    kept = [disk for disk in present if disk["kind"] not in ("swap", NVRAM)]
    position = max((disk["position"] for disk in kept), default=-1)
    wanted = (
        ("ephemeral", 0 if server["ephemeral_gb"] else new["ephemeral_gb"] * GIB),
        ("swap", new["swap_mb"] * 1024**2),
    )
    like = {"server_id": server["id"], "host_id": host_id, "format": "qcow2", "image_id": None}
    for kind, size_bytes in wanted:
        if size_bytes:
            position += 1
            add_disk(writer, like | {"kind": kind, "position": position, "size_bytes": size_bytes})


# --- the steps, carried out ---------------------------------------------------------------------


@dataclass
class _Way:
    """One server's way from host to host, in one operation."""

    operation: Operation
    server_id: str = ""
    move_id: str = ""

    def go(
        self, first: Callable[[Writer], Row], second: Callable[[Writer, Row], None]
    ) -> Done[Server]:
        """All three steps; or none, with what was done taken back."""
        operation = self.operation
        if operation.context.dry_run:
            return self._rehearse(first, second)
        operation.phase = "undo (switching off)"
        row = operation.transact(first, lambda row: {"servers": [row["server_id"]]})
        self.server_id, self.move_id = row["server_id"], row["id"]
        self._converge(self._why_not_off)
        operation.phase = "undo (copying)"
        operation.transact(lambda writer: second(writer, self._still_there(writer)))
        self._converge(self._why_not_there)
        operation.phase = "converge"
        operation.transact(lambda writer: server_moves.arrive(writer, self._still_there(writer)))
        operation.converge()
        return self._finish()

    def _rehearse(
        self, first: Callable[[Writer], Row], second: Callable[[Writer, Row], None]
    ) -> Done[Server]:
        """What both hosts would do in the end."""

        def work(writer: Writer) -> Server:
            row = first(writer)
            second(writer, row)
            server_moves.arrive(writer, writer.get("migrations", row["id"]))
            return servers_by_id(writer, [row["server_id"]])[0]

        value = self.operation.transact(work)
        self.operation.converge()
        return self.operation.finish(value)

    def _converge(self, look: Callable[[Reader], str]) -> None:
        """Bring both hosts to the step that was written; what did not succeed is taken back.

        ``look`` tells from the rows what a host has still not done.
        """
        exchanges = self.operation.converge()
        with read(self.operation.context.cloud) as reader:
            server = reader.get("servers", self.server_id)
            migration = reader.get("migrations", self.move_id)
            error = self._trouble(exchanges, migration) or _worded(look(reader))
            stays = reader.get("hosts", server_moves.ends(migration)[0])["name"]
        if error is not None and server["deleted_at"] is None:
            self._take_back(exchanges, error.message)
            words = f"{error.message} Server {server['name']} stays on host {stays}."
            raise type(error)(words, hint=error.hint or "stackctl host-list")

    def _trouble(self, exchanges: Sequence[Exchange], migration: Row) -> StackctlError | None:
        """Why the next step must not follow: a host was not reached, or could not do its part.

        What is wrong with a server on the host that it leaves is often why it goes back.
        """
        there, back = server_moves.ends(migration)[1], migration["status"] == "reverting"
        for exchange in exchanges:
            if exchange.error is not None:
                return exchange.error
            for failure in exchange.failures:
                ours = failure.id == self.server_id and not (back and failure.kind == "server")
                if ours or (exchange.host_id == there and self.operation.concerns(failure)):
                    words = failure.message.rstrip(".")
                    return ResourceFailed(f"Host {exchange.host_name}: {words}.")
        return None

    def _why_not_off(self, reader: Reader) -> str:
        server = reader.get("servers", self.server_id)
        switched_off = reader.get("migrations", self.move_id)["status"] != "reverting"
        runs = switched_off and server["power_state"] in ("RUNNING", "PAUSED")
        return "its host did not say that the guest is off" if runs else ""

    def _why_not_there(self, reader: Reader) -> str:
        there = server_moves.has_arrived(reader, reader.get("migrations", self.move_id))
        return "" if there else "a host did not say that it has done its part"

    def _take_back(self, exchanges: Sequence[Exchange], why: str) -> None:
        operation = self.operation
        with read(operation.context.cloud) as reader:
            for exchange in exchanges:
                known = operation.is_known_to(reader, exchange.host_id)
                if exchange.error is not None and not known:
                    operation.leave_out(exchange.host_id)
        operation.phase = "undo (taking back)"

        def work(writer: Writer) -> None:
            server_moves.take_back(writer, self._still_there(writer), why.rstrip("."))

        operation.transact(work)
        operation.converge()
        operation.abandon("the server stays where it was")

    def _still_there(self, reader: Reader) -> Row:
        """The move, which ends when its server is deleted by somebody else."""
        migration = reader.get("migrations", self.move_id)
        if migration["status"] not in server_moves.OPEN:
            name = reader.get("servers", self.server_id)["name"]
            raise Conflict(f"Server {name} was deleted while it moved.")
        return migration

    def _finish(self) -> Done[Server]:
        operation = self.operation
        with write(operation.context.cloud) as writer:
            migration = writer.get("migrations", self.move_id)
            if migration["status"] == "post-migrating":
                server_moves.conclude(writer, migration)
        done = operation.finish([self.server_id])
        value = read_servers(operation.context, done.value)[0]
        back = f"stackctl resize-revert {value.name}   (back to where it was, with its old disks)"
        if migration["status"] != "reverted":
            done.failures = [
                dataclasses.replace(each, hint=each.hint or back) for each in done.failures
            ]
        return done.with_value(value)


def _worded(why: str) -> StackctlError | None:
    return ResourceFailed(f"It was not moved: {why}.") if why else None
