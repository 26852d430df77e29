"""Live migration: a server goes to another host while it runs, with its memory and its disks.

First everything that it needs is made on the other host, by a transaction and a convergence like
any other. Then the agents of both hosts carry it over (``agent.moves.departure`` and ``arrival``).
A last transaction says where it is: there, or still where it was.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from stackctl import killpoint
from stackctl.compute import lifecycle
from stackctl.compute.commanding import note_server
from stackctl.compute.disks import add_disk, disks_of
from stackctl.compute.moves import moving
from stackctl.compute.types import Server
from stackctl.compute.views import first_result, read_servers, server_row, servers_by_id
from stackctl.errors import Conflict, HostUnreachable, ResourceFailed, StackctlError
from stackctl.identity.context import Context
from stackctl.operation import Done, Operation, begin, live_moves
from stackctl.operation.convergence import acting_session
from stackctl.operation.exchange import Exchange
from stackctl.operation.owner import owner_is_alive
from stackctl.operation.server_moves import set_status
from stackctl.operation.spreading import make_certificate
from stackctl.state import Reader, Row, Writer, find, read, write

SECONDS_PER_GB = 800
"""How long a migration may take, as Nova has it: for each GB of memory and disk, but at least 2."""

NOTED_EVERY_S = 2.0
"""How often the way that a server has come is written down."""

SERIAL_CHARACTERS = 20
"""What a guest sees of the id of a disk that has no other serial."""

ABORT_LIMIT_S = 90
LOOK_AGAIN_S = 0.2


def live_migrate(context: Context, word: str, host_word: str | None = None) -> Done[Server]:
    """Move a server that runs to a host, or to the best other one, without stopping it.

    Conflict: it cannot go there. ResourceFailed: it did not get there, and runs on where it was.
    HostUnreachable: the same, or a host did not say where it is; recover asks again.
    """
    summary = f"live-migrate {word}" + (f" to {host_word}" if host_word else "")
    arguments = {"server": word, "host": host_word}
    with begin(context, "live-migrate", summary, arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row)[0])
        return _Journey(operation, word, host_word).go()


def abort(context: Context, word: str, migration_id: str | None = None) -> str:
    """Call a server's live migration off and wait for its end; returns the server's name.

    Conflict: there is none, or it was too late.
    """
    with read(context.cloud) as reader:
        server = server_row(context, reader, word)
        migration = live_moves.of_server(reader, server["id"])
        if migration is None or migration_id not in (None, migration["id"]):
            raise Conflict(f"No live migration of instance {server['name']} is in progress.")
        origin = reader.get("hosts", migration["source_host_id"])
        operation = reader.get("operations", migration["operation_id"])
    if not owner_is_alive(operation["lock_file"], operation["id"]):
        raise Conflict(
            f"The command that migrates instance {server['name']} was interrupted.",
            hint="stackctl recover",
        )
    if context.dry_run:
        return str(server["name"])
    with write(context.cloud) as writer:
        live_moves.progress(writer, migration["id"], abort_asked=True)
        under_way = writer.get("migrations", migration["id"])["status"] == "running"
    if under_way:
        with acting_session(context, origin) as session:
            session.act("abort-move", {"server_id": server["id"]})
    _await_end(context, server, migration)
    return str(server["name"])


def _await_end(context: Context, server: Row, migration: Row) -> None:
    deadline = time.monotonic() + ABORT_LIMIT_S
    while time.monotonic() < deadline:
        with read(context.cloud) as reader:
            now = reader.get("migrations", migration["id"])
        if now["status"] == "completed":
            raise Conflict(f"Too late: instance {server['name']} has been migrated.")
        if now["status"] not in live_moves.OPEN:
            return
        time.sleep(LOOK_AGAIN_S)
    raise ResourceFailed(
        f"The live migration of instance {server['name']} has not ended within {ABORT_LIMIT_S} s.",
        hint=f"stackctl show {server['name']}",
    )


# --- what fits where ----------------------------------------------------------------------------


def unfit(server: Row, origin: Row, host: Row) -> str:
    """Why a server that runs on one host cannot go on at another, by what is known of both."""
    ends = (origin, host)
    here, there = (_setting(row, "virt_type") for row in ends)
    if here and there and here != there:
        return f"guests of {origin['name']} run by {here}, those of {host['name']} by {there}"
    here, there = (_PLACES.get(_setting(row, "datapath", "ovs_datapath"), "") for row in ends)
    if here and there and here != there:
        return f"the switch of {origin['name']} runs in {here}, that of {host['name']} in {there}"
    machine = server["machine_type"]
    offered = json.loads(host["facts_json"]).get("machine_types", {})
    known = {*offered.get("all", ()), offered.get("pc"), offered.get("q35")}
    if machine is not None and offered and machine not in known:
        return f"qemu on {host['name']} has no machine type {machine}"
    return ""


_PLACES = {"system": "the kernel", "netdev": "user space"}


def _setting(host: Row, name: str, fact: str = "") -> str:
    """What an operator said, or what the host says of itself; empty when nobody said anything."""
    facts = json.loads(host["facts_json"])
    return str(host[name] if host[name] != "auto" else facts.get(fact or name, ""))


# --- one server's way ---------------------------------------------------------------------------


@dataclass
class _Journey:
    """One server's way to another host, in one operation."""

    operation: Operation
    word: str
    host_word: str | None
    server_id: str = ""
    move_id: str = ""
    machine_type: str = ""

    def go(self) -> Done[Server]:
        """All of it; or none, with what was done taken back."""
        operation, context = self.operation, self.operation.context
        if context.dry_run:
            value = operation.transact(self._rehearse)
            operation.converge()
            return operation.finish(value)
        operation.phase = "undo (making ready)"
        row = operation.transact(self._begin, lambda row: {"servers": [row["server_id"]]})
        self.server_id, self.move_id = row["server_id"], row["id"]
        try:
            # A host that was never converged is nobody's yet, and answers nobody.
            known = self._hosts()[1]["applied_serial"] > 0
            if known:
                self._refuse_unfit()
            self._make_ready()
            if not known:
                self._refuse_unfit()
            operation.phase = "moving"
            self._note_running()
            self._carry_over()
        except BaseException as error:
            if not self._has_arrived(error):
                self._take_back(error)
                raise self._worded(error) from None
            context.watch.warn(f"{_words(error)} The server has arrived nonetheless.")
        operation.phase = "converge"
        operation.transact(lambda writer: live_moves.arrive(writer, self._still_there(writer)))
        operation.converge()
        return operation.finish([self.server_id]).with_value(
            read_servers(context, [self.server_id])[0]
        )

    def _rehearse(self, writer: Writer) -> Server:
        return servers_by_id(writer, [self._begin(writer)["server_id"]])[0]

    def _begin(self, writer: Writer) -> Row:
        """The first transaction: where it goes, and all that must be there for it."""
        context, operation = self.operation.context, self.operation
        server = server_row(context, writer, self.word)
        transition = lifecycle.require(server, "live-migrate")
        moving.require_movable(writer, server, "live-migrate")
        origin = moving.require_host(writer, server, "live-migrate")
        host = self._choose_host(writer, server, origin)
        migration = moving.open_move(
            writer,
            server,
            operation.id,
            kind="live",
            target_id=host["id"],
            status="preparing",
            claim_host_id=host["id"],
            **moving.room_of(server),
        )
        moving.announce(writer, server["id"], host["id"])
        for disk in disks_of(writer, server["id"]):
            if not disk["aside"]:
                serial = disk["serial"] or disk["id"][:SERIAL_CHARACTERS]
                add_disk(writer, disk, host_id=host["id"], serial=serial)
        values = {"task_state": transition.task_state, "operation_id": operation.id, "moving": 1}
        writer.update("servers", server["id"], **values, version=server["version"] + 1)
        writer.change.servers.add(server["id"])
        writer.change.hosts |= {origin["id"], host["id"]}
        words = f"live-migrate asked for: from {origin['name']} to {host['name']}"
        note_server(context, writer, operation.id, "live-migrate", server, words, origin["name"])
        return migration

    def _choose_host(self, writer: Writer, server: Row, origin: Row) -> Row:
        hosts = writer.all("SELECT * FROM hosts WHERE deleted_at IS NULL")
        whys = {row["id"]: why for row in hosts if (why := unfit(server, origin, row))}
        if self.host_word is not None:
            asked = find(writer, "hosts", self.host_word, noun="host")
            if asked["id"] in whys:
                raise Conflict(
                    f"Instance {server['name']} cannot go on at host {asked['name']} while it "
                    f"runs: {whys[asked['id']]}. Nothing was done.",
                    hint=f"stackctl migrate {server['name']} --host {asked['name']}",
                )
        asking = (self.operation.context, writer, server, self.operation.id)
        return moving.choose_host(*asking, self.host_word, whys, "live-migrate")

    def _refuse_unfit(self) -> None:
        """Ask both hosts, before anything is made, whether this guest can go on there."""
        context, move = self.operation.context, self._move()
        origin, host = self._hosts()
        with acting_session(context, origin) as session:
            guest = session.act("describe-server", {"server_id": move["server_id"]})
        with acting_session(context, host) as session:
            names = ("virt_type", "machine_type", "cpu", "offload")
            told = session.act("can-run-server", {name: guest[name] for name in names})
        self.machine_type = str(guest["machine_type"])
        if told["refusal"]:
            raise Conflict(f"Host {host['name']} cannot take it: {told['refusal']}.")

    def _make_ready(self) -> None:
        """Bring both hosts, and those around, to know of the move."""
        for exchange in self.operation.converge():
            trouble = self._trouble(exchange)
            if trouble is not None:
                raise trouble
        with read(self.operation.context.cloud) as reader:
            disks = disks_of(reader, self.server_id)
        _, host = self._hosts()
        if any(disk["state"] == "build" for disk in disks if disk["host_id"] == host["id"]):
            raise ResourceFailed(f"Host {host['name']} did not say that it has made its disks.")

    def _trouble(self, exchange: Exchange) -> StackctlError | None:
        if exchange.error is not None:
            return exchange.error
        for failure in exchange.failures:
            if failure.id == self.server_id or self.operation.concerns(failure):
                words = failure.message.rstrip(".")
                return ResourceFailed(f"Host {exchange.host_name}: {words}.")
        return None

    def _note_running(self) -> None:
        """From here on both hosts must be asked where the server is."""
        with write(self.operation.context.cloud) as writer:
            row = self._still_there(writer)
            if json.loads(row["progress_json"]).get("abort_asked"):
                raise Conflict("It was called off.")
            set_status(writer, row, "running")
            writer.update("operations", self.operation.id, phase=self.operation.phase)

    def _carry_over(self) -> None:
        """Have both agents do it: one listens, the other sends, as long as both are spoken to."""
        context, (origin, host) = self.operation.context, self._hosts()
        certificate, key = make_certificate()
        secret: dict[str, Any] = {"token": secrets.token_urlsafe(32), "certificate": certificate}
        wanted: dict[str, Any] = {"server_id": self.server_id, "machine_type": self.machine_type}
        wanted |= {"address": _address(host), "key": key, **secret}
        with acting_session(context, host) as there:
            ready = there.act("expect-server", wanted)
            killpoint.reached("server expected")
            limit_s = self._limit_s()
            going = {"server_id": self.server_id, "address": _address(host), **secret}
            going |= {
                "limit_s": limit_s,
                **{name: ready[name] for name in ("port", "folder", "xml")},
            }
            with acting_session(
                context, origin, on_step=_Teller(context, self._move(), host)
            ) as here:
                here.act("send-server", going, timeout_s=limit_s + 180)
        killpoint.reached("server sent")

    def _limit_s(self) -> int:
        move = self._move()
        return int(SECONDS_PER_GB * max(2, move["ram_mb"] / 1024 + move["disk_gb"]))

    def _has_arrived(self, error: BaseException) -> bool:
        """Where the server is after something went wrong on its way."""
        context, move = self.operation.context, self._move()
        if move["status"] != "running":
            return False
        try:
            return live_moves.find_out(context, move)
        except StackctlError as silent:
            name = read_servers(context, [self.server_id])[0].name
            raise HostUnreachable(
                f"{_words(error)} {silent.message} Where server {name} runs is not known before "
                "both hosts have said it; nothing more was done.",
                hint="stackctl recover",
            ) from None

    def _take_back(self, error: BaseException) -> None:
        """The server is where it was; the other host forgets it."""
        operation, context = self.operation, self.operation.context
        with read(context.cloud) as reader:
            for exchange in operation.exchanges.values():
                known = operation.is_known_to(reader, exchange.host_id)
                if exchange.error is not None and not known:
                    operation.leave_out(exchange.host_id)
        operation.phase = "undo (taking back)"

        def work(writer: Writer) -> None:
            move = self._still_there(writer)
            called_off = json.loads(move["progress_json"]).get("abort_asked")
            status = "cancelled" if called_off else "failed"
            live_moves.stay(writer, move, _words(error).rstrip("."), status)

        operation.transact(work)
        operation.converge()
        operation.abandon("the server stays where it was")

    def _worded(self, error: BaseException) -> BaseException:
        """The same error with where the server is now."""
        if not isinstance(error, StackctlError):
            return error
        server = read_servers(self.operation.context, [self.server_id])[0]
        move = self._move()
        words = f"{error.message.rstrip('.')}. Server {server.name} stays on host {server.host}."
        if move["status"] == "cancelled":
            words = (
                f"The live migration of {server.name} was called off. It stays on {server.host}."
            )
            return Conflict(words)
        kind = type(error)
        return kind(words, hint=error.hint or f"stackctl events {server.name}")

    def _still_there(self, reader: Reader) -> Row:
        """The move, which ends when its server is deleted by somebody else."""
        migration = reader.get("migrations", self.move_id)
        if migration["status"] not in live_moves.OPEN:
            name = reader.get("servers", self.server_id)["name"]
            raise Conflict(f"Server {name} was deleted while it moved.")
        return migration

    def _move(self) -> Row:
        with read(self.operation.context.cloud) as reader:
            return reader.get("migrations", self.move_id)

    def _hosts(self) -> tuple[Row, Row]:
        move = self._move()
        with read(self.operation.context.cloud) as reader:
            origin, host = (
                reader.get("hosts", move[f"{end}_host_id"]) for end in ("source", "target")
            )
        return origin, host


class _Teller:
    """Tells those who watch how far a server is, and writes it down."""

    def __init__(self, context: Context, migration: Row, host: Row) -> None:
        self._context, self._migration = context, migration
        self._what = f"to {host['name']}"
        self._noted_at = 0.0

    def __call__(self, step: dict[str, Any]) -> None:
        if step.get("kind") != "move":
            return
        names = ("memory_bytes", "memory_total", "disk_bytes", "disk_total")
        told = {name: int(step[name]) for name in names if isinstance(step.get(name), int)}
        done = told.get("memory_bytes", 0) + told.get("disk_bytes", 0)
        total = told.get("memory_total", 0) + told.get("disk_total", 0)
        self._context.watch.progress(self._what, done, max(done, total))
        if time.monotonic() - self._noted_at >= NOTED_EVERY_S:
            self._noted_at = time.monotonic()
            with write(self._context.cloud) as writer:
                live_moves.progress(writer, self._migration["id"], **told)


def _address(host: Row) -> str:
    """Where other hosts reach a host: that of the controller itself only by its tunnel address."""
    if host["transport"] == "ssh":
        return str(host["address"])
    if host["tunnel_address"] is None:
        raise Conflict(
            f"Host {host['name']} is this machine, and has no address for other hosts.",
            hint=f"stackctl host-set {host['name']} --tunnel-address ADDRESS",
        )
    return str(host["tunnel_address"])


def _words(error: BaseException) -> str:
    if isinstance(error, StackctlError):
        return error.message
    return f"It was interrupted ({type(error).__name__})."
