"""What runs now: hosts are asked, nothing is changed there; what guests did themselves is seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from stackctl.errors import HostUnreachable, StackctlError
from stackctl.fleet.types import Session
from stackctl.identity.context import Context
from stackctl.operation.convergence import act_on_each
from stackctl.operation.events import note
from stackctl.operation.exchange import mark_unreachable
from stackctl.operation.reports import POWER_STATES, VM_STATES
from stackctl.state import Row, Writer, now, read, write

_MINE = """
SELECT servers.* FROM servers JOIN hosts ON hosts.id = servers.host_id
WHERE servers.project_id = ? AND servers.deleted_at IS NULL AND hosts.deleted_at IS NULL
ORDER BY servers.name
"""


def refresh_servers(context: Context) -> None:
    """Ask the hosts of the asker's servers what runs, and write it down with the time.

    Hosts that cannot be asked are warned of: their servers stay as they were last seen.
    """
    with read(context.cloud) as reader:
        servers = reader.all(_MINE, context.project_id)
        on_host: dict[str, list[Row]] = defaultdict(list)
        for row in servers:
            on_host[row["host_id"]].append(row)
        hosts = [reader.get("hosts", host_id) for host_id in on_host]

    def ask(host: Row, session: Session) -> dict[str, str]:
        ids = [row["id"] for row in on_host[host["id"]]]
        states: dict[str, str] = session.act("power-states", {"server_ids": ids})["states"]
        return states

    for host_id, told in act_on_each(context, hosts, ask).items():
        if isinstance(told, StackctlError):
            _not_asked(context, host_id, on_host[host_id], told)
        else:
            _seen(context, on_host[host_id], told)


def _seen(context: Context, servers: Sequence[Row], states: Mapping[str, str]) -> None:
    with write(context.cloud) as writer:
        for before in servers:
            row = writer.get("servers", before["id"])
            state = str(states.get(row["id"], "NOSTATE"))
            # Of what a command did since we asked, its own reports tell.
            if _same(row, before) and state in (*VM_STATES, "NOSTATE"):
                _write(context, writer, row, state)


def _same(row: Row, before: Row) -> bool:
    names = ("version", "host_id", "vm_state", "task_state", "observed_at", "deleted_at")
    return row["task_state"] is None and all(row[name] == before[name] for name in names)


def _write(context: Context, writer: Writer, server: Row, state: str) -> None:
    shown = POWER_STATES.get(state, state)
    vm_state = server["kept_state"] or VM_STATES.get(state, server["vm_state"])
    if server["vm_state"] in ("building", "error"):
        # Whether all of it is well again, only a convergence can say.
        vm_state = server["vm_state"]
    if (shown, vm_state) != (server["power_state"], server["vm_state"]):
        message = f"{server['vm_state']} -> {vm_state} (power state {state}), by itself"
        note(
            writer,
            "refresh",
            "server",
            server,
            message,
            host=writer.get("hosts", server["host_id"])["name"],
            user_name=context.operator,
        )
    values = {"power_state": shown, "vm_state": vm_state, "observed_at": now()}
    writer.update("servers", server["id"], **values)


def _not_asked(
    context: Context, host_id: str, servers: Sequence[Row], error: StackctlError
) -> None:
    if isinstance(error, HostUnreachable):
        mark_unreachable(context, host_id, error.message)
    seen = ", ".join(f"{row['name']} ({row['observed_at'] or 'never'})" for row in servers)
    context.watch.warn(f"{error.message} Its servers are shown as they were last seen: {seen}.")
