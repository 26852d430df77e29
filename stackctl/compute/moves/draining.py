"""Draining a host: no new servers for it, and those that it has go to others, one after another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

from stackctl.compute import what_if
from stackctl.compute.moves import live_migration, migrating, resizing
from stackctl.errors import PartlyDone, StackctlError
from stackctl.hosts.settings import set_host
from stackctl.hosts.types import HostChanges
from stackctl.identity.context import Context
from stackctl.operation import Done, Failure, PlannedStep
from stackctl.state import find, read

LIVE, COLD = "live", "cold"

HOW = {"active": LIVE, "paused": LIVE, "stopped": COLD}
"""How a server goes, by its vm_state; the others go by no way."""


@dataclass(frozen=True)
class Leaving:
    """A server of a host that is drained: how and where it went or goes, or why it remains."""

    id: str
    name: str
    status: str
    how: str
    to: str
    why: str


def drain(context: Context, word: str, reason: str) -> Done[list[Leaving]]:
    """Disable a host and move its servers as what-if drain says: live, or cold and confirmed.

    What remains is in the failures, as PartlyDone. A rehearsal returns the plan.
    """
    with read(context.cloud) as reader:
        host = find(reader, "hosts", word, noun="host")
    plan = [_leaving(move) for move in what_if.drain(context, host["id"])]
    if context.dry_run:
        done = Done(plan, "")
        done.planned = [_step(host["name"], item) for item in plan if item.to]
        return done
    # Asked for again, it goes on with what remains: only its parts are ever repeated.
    context = replace(context, request_id=None)
    set_host(context, host["id"], HostChanges(enabled=False, disabled_reason=reason)).check()
    gone = [_move(context, item, number, len(plan)) for number, item in enumerate(plan)]
    done = Done(gone, "", succeeded=sum(not item.why for item in gone))
    done.failures = [_failure(host["name"], item) for item in gone if item.why]
    return done


def _leaving(move: what_if.Move) -> Leaving:
    how = HOW.get(move.status, "")
    why = move.why if how else f"a server in state {move.status} cannot be moved"
    to = move.to if not why else ""
    return Leaving(move.id, move.name, move.status, how if to else "", to, why)


def _move(context: Context, item: Leaving, number: int, count: int) -> Leaving:
    if item.why:
        return item
    context.watch.progress(f"{item.name} to {item.to}", number, count)
    with read(context.cloud) as reader:
        project = reader.get("projects", reader.get("servers", item.id)["project_id"])
    owner = replace(context, project_id=project["id"], project_name=project["name"])
    try:
        if item.how == LIVE:
            live_migration.live_migrate(owner, item.id, item.to).check()
        else:
            migrating.migrate(owner, item.id, item.to).check()
            # Its old disks would else stay on the host that is to be empty.
            resizing.confirm(owner, item.id).check()
    except StackctlError as error:
        return dataclasses.replace(item, to="", why=error.message)
    return item


def _step(host: str, item: Leaving) -> PlannedStep:
    return PlannedStep(host, "server", item.id, "move", f"{item.how}, to {item.to}", item.name)


def _failure(host: str, item: Leaving) -> Failure:
    words = f"it remains there: {item.why}"
    return Failure("server", item.id, item.name, host, words, PartlyDone, "stackctl list")
