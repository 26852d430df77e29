"""Operations whose owner died: found by their free lock, rolled forward, settled."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from stackctl.errors import NotFound, StackctlError
from stackctl.hostspec import affected_hosts
from stackctl.identity.context import Context
from stackctl.operation import (
    convergence,
    evacuations,
    live_moves,
    router_moves,
    server_moves,
    shelving,
)
from stackctl.operation.exchange import is_ahead
from stackctl.operation.owner import owner_is_alive
from stackctl.operation.settle import fail_build
from stackctl.state import Reader, Row, Writer, find, now, read, write

NextPhase = Callable[[Writer, Row, Collection[str], Collection[str]], str]

NEXT_PHASES: dict[str, NextPhase] = {
    "router-move": router_moves.next_phase,
    "migrate": server_moves.next_phase,
    "resize": server_moves.next_phase,
    "revert-resize": server_moves.next_phase,
    "live-migrate": live_moves.next_phase,
    "shelve": shelving.next_phase,
    "evacuate": evacuations.next_phase,
}
"""By the kind of an operation with several phases: what writes the next one, of plain rows. It gets
the operation, its hosts that are behind, and those of them that did not answer; it returns the
operation's new phase, or nothing when there is none to begin (now)."""

LOOKS: dict[str, Callable[[Context, Row], None]] = {"live-migrate": live_moves.look_for}
"""By the kind of an operation: what asks hosts, before its next phase is written, of what no row
tells; it notes their answers in rows."""


@dataclass(frozen=True)
class Recovered:
    """One operation that was found without its owner, and what became of it."""

    id: str
    summary: str
    started_at: str
    outcome: str
    message: str


def interrupted(reader: Reader) -> list[Row]:
    """Operations that still count as running though the process that began them is gone."""
    running = reader.all("SELECT * FROM operations WHERE outcome = 'running' ORDER BY started_at")
    return [row for row in running if not owner_is_alive(row["lock_file"], row["id"])]


def is_undone(operation: Row) -> bool:
    """Whether an operation without its owner comes to nothing, by the phase that it was in."""
    return str(operation["phase"]).startswith("undo")


def settle_interrupted(context: Context) -> None:
    """Close dead operations whose hosts have all applied what they were to do.

    Called by every command after its own convergence; a dead operation with a host that is down
    stays open and blocks nobody.
    """
    with read(context.cloud) as reader:
        dead = interrupted(reader)
        silent = set(reader.column("SELECT id FROM hosts WHERE unreachable_since IS NOT NULL"))
    if not dead:
        return
    _look(context, [row for row in dead if silent.isdisjoint(json.loads(row["hosts_json"]))])
    with write(context.cloud) as writer:
        ready = [row for row in interrupted(writer) if not _behind(writer, row)]
        settled = [_recover_one(writer, row, {}, "finished by a later command") for row in ready]
    _next_phases(context, settled)


def recover(context: Context) -> list[Recovered]:
    """Bring the hosts of dead operations up to date and settle what they left.

    Servers whose host does not answer become ERROR with the reason.
    """
    with read(context.cloud) as reader:
        dead = interrupted(reader)
    settled = _roll_forward(context, dead)
    ended = {item.id: item for item in _next_phases(context, settled)}
    return [ended.get(item.id, item) for item in settled]


def roll_on(context: Context, operation: Row) -> None:
    """What a dead operation of several phases left undone is done now, if its hosts answer."""
    _next_phases(context, _roll_forward(context, [operation]))


def _next_phases(context: Context, settled: Sequence[Recovered]) -> list[Recovered]:
    """Roll on what has only now begun its next phase: its hosts know nothing of it yet."""
    found = {item.id: item for item in settled}
    with read(context.cloud) as reader:
        halfway = [row for row in interrupted(reader) if found.get(row["id"]) == _halfway(row)]
    return _roll_forward(context, halfway)


def _roll_forward(context: Context, dead: Sequence[Row]) -> list[Recovered]:
    if not dead:
        return []
    with read(context.cloud) as reader:
        # A fenced host is told when it returns: nobody waits for its silence meanwhile.
        fenced = set(reader.column("SELECT id FROM hosts WHERE fenced = 1"))
    hosts = {host_id for row in dead for host_id in json.loads(row["hosts_json"])} - fenced
    exchanges = convergence.converge(context, hosts, (), dead[0]["id"])
    errors = {item.host_id: item.error.message for item in exchanges if item.error is not None}
    _look(context, dead)
    with write(context.cloud) as writer:
        return [_recover_one(writer, row, errors, "rolled forward") for row in dead]


def _look(context: Context, dead: Sequence[Row]) -> None:
    for operation in dead:
        look = LOOKS.get(operation["kind"])
        if look is not None:
            look(context, operation)


def adopt(context: Context, host_word: str | None) -> list[str]:
    """Accept that hosts are ahead of this database: the serial is raised above theirs.

    Returns the names of the hosts whose accepted pair was taken over. For a database that was
    restored from a backup, when no newer one exists.
    """
    adopted = []
    for row in _hosts(context, host_word):
        try:
            with convergence.acting_session(context, row) as session:
                accepted = session.hello.accepted
        except StackctlError as error:
            # Down, or never claimed: no reason to leave the others as they are.
            if host_word is not None:
                raise
            context.watch.warn(f"{error.message} It is left as it is.")
            continue
        if accepted is None or not is_ahead(row, accepted):
            continue
        with write(context.cloud) as writer:
            serial = max(writer.serial, accepted.serial + 1)
            writer.run("UPDATE cloud SET serial = ?", serial)
            writer.update(
                "hosts", row["id"], sent_serial=accepted.serial, sent_nonce=accepted.nonce
            )
        adopted.append(row["name"])
    return adopted


def _hosts(context: Context, word: str | None) -> list[Row]:
    with read(context.cloud) as reader:
        if word is not None:
            return [find(reader, "hosts", word, noun="host")]
        rows = reader.all("SELECT * FROM hosts WHERE deleted_at IS NULL ORDER BY name")
    if not rows:
        raise NotFound("This cloud has no hosts.", hint="stackctl host-add NAME --address ADDRESS")
    return rows


def _behind(reader: Reader, operation: Row) -> dict[str, str]:
    """The operation's hosts that have not applied its last transaction, by id: their names.

    A fenced one carries nothing and is not waited for.
    """
    hosts = [reader.get("hosts", host_id) for host_id in json.loads(operation["hosts_json"])]
    return {
        host["id"]: host["name"]
        for host in hosts
        if host["deleted_at"] is None
        and not host["fenced"]
        and host["applied_serial"] < operation["serial"]
    }


def _recover_one(writer: Writer, operation: Row, errors: dict[str, str], how: str) -> Recovered:
    left = writer.all(
        "SELECT * FROM servers WHERE operation_id = ? AND vm_state = 'building' "
        "AND deleted_at IS NULL",
        operation["id"],
    )
    for server in left:
        host = writer.get("hosts", server["host_id"])["name"] if server["host_id"] else ""
        why = errors.get(server["host_id"] or "", "its host did not build it")
        message = f"The command that built it was interrupted, and then: {why}"
        fail_build(writer, server, host, message, operation["id"])
    behind = _behind(writer, operation)
    phase = _next_phase(writer, operation, behind, errors)
    if phase == live_moves.WAITS:
        return _interrupted(operation, "waits for the hosts to say where its server is")
    if phase:
        return _halfway(operation)
    if behind:
        return _interrupted(operation, f"waits for {', '.join(behind.values())}")
    # Its hosts have done all they were to do: no task of it goes on.
    writer.run("UPDATE servers SET task_state = NULL WHERE operation_id = ?", operation["id"])
    if is_undone(operation):
        # Nothing of it is left to return: its request id is free for the next try.
        writer.update("operations", operation["id"], request_id=None)
        how = "undone: the command was interrupted"
    outcome = "failed" if left or is_undone(operation) else "done"
    message = f"{len(left)} servers could not be built" if left else how
    if _let_go_of_images(writer, operation):
        outcome, message = "failed", "the content of its image did not come"
    _finish(writer, operation, outcome, message)
    return Recovered(
        operation["id"], operation["summary"], operation["started_at"], outcome, message
    )


def _next_phase(
    writer: Writer, operation: Row, behind: Collection[str], silent: Collection[str]
) -> str:
    """Begin what a command of several phases had still to do, if it had; that phase."""
    begin = NEXT_PHASES.get(operation["kind"])
    phase = begin(writer, operation, behind, silent) if begin is not None else ""
    if phase in ("", live_moves.WAITS):
        return phase
    hosts = affected_hosts(writer, writer.change).all
    for host_id in hosts:
        writer.update("hosts", host_id, issued_serial=writer.serial)
    known = {*json.loads(operation["hosts_json"]), *hosts}
    values = {"hosts_json": json.dumps(sorted(known)), "serial": writer.serial, "phase": phase}
    writer.update("operations", operation["id"], **values)
    return phase


def _halfway(operation: Row) -> Recovered:
    return _interrupted(operation, "its next phase began: waits for its hosts")


def _interrupted(operation: Row, message: str) -> Recovered:
    return Recovered(
        operation["id"], operation["summary"], operation["started_at"], "interrupted", message
    )


def _let_go_of_images(writer: Writer, operation: Row) -> bool:
    """Images that were to get their content wait for it again; says whether there were any."""
    queued = writer.run(
        "UPDATE images SET status = 'queued', operation_id = NULL WHERE operation_id = ?",
        operation["id"],
    )
    if queued:
        # Nothing of it is left to return, so its request id is free for the next try.
        writer.update("operations", operation["id"], request_id=None)
    return queued > 0


def _finish(writer: Writer, operation: Row, outcome: str, message: str) -> None:
    phase = f"converge ({message})"
    writer.update("operations", operation["id"], outcome=outcome, phase=phase, finished_at=now())
