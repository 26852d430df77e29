"""Requests that come a second time: the first one's result, after what it left undone."""

from __future__ import annotations

import json
from collections.abc import Mapping

from stackctl.errors import Conflict
from stackctl.identity.context import Context
from stackctl.operation import convergence, server_moves
from stackctl.operation.exchange import Exchange
from stackctl.operation.outcome import Failure
from stackctl.operation.owner import owner_is_alive
from stackctl.operation.recover import is_undone, roll_on, settle_interrupted
from stackctl.operation.settle import settle_servers
from stackctl.state import Reader, Row, read, write


def earlier_request(context: Context, arguments_sha256: str) -> Row | None:
    """The operation that had this request id before; what it left undone is done now.

    Conflict when that one was asked for something else, or is still at work.
    """
    with read(context.cloud) as reader:
        row = find_request(reader, context)
    if row is None:
        return None
    if row["arguments_sha256"] != arguments_sha256:
        raise Conflict(
            f"The request id '{context.request_id}' was used before for something else "
            f"({row['summary']}, {row['started_at']}). Nothing was done."
        )
    if row["outcome"] == "running" and owner_is_alive(row["lock_file"], row["id"]):
        raise still_at_work(context)
    if row["outcome"] == "running" and is_undone(row):
        settle_interrupted(context)
        return None
    return row


def find_request(reader: Reader, context: Context) -> Row | None:
    """The operation with this request id in the asker's project."""
    return reader.one(
        "SELECT * FROM operations WHERE project_id = ? AND request_id = ?",
        context.project_id,
        context.request_id,
    )


def still_at_work(context: Context) -> Conflict:
    """What is said of a request that another process carries out at this moment."""
    return Conflict(f"The request '{context.request_id}' is still being carried out.")


def go_on(context: Context, operation: Row) -> tuple[list[Failure], int]:
    """What a dead operation left undone is done now; (what failed, how many servers are well)."""
    exchanges: Mapping[str, Exchange] = {}
    dead = operation["outcome"] == "running" and not context.dry_run
    with read(context.cloud) as reader:
        moves = server_moves.left_off(reader, operation["id"])
    if dead and moves:
        roll_on(context, operation)
    elif dead:
        hosts = json.loads(operation["hosts_json"])
        done = convergence.converge(context, hosts, (), operation["id"])
        exchanges = {exchange.host_id: exchange for exchange in done}
        with write(context.cloud) as writer:
            ids = _server_ids(writer, operation)
            result = settle_servers(writer, ids, exchanges, operation["id"])
        settle_interrupted(context)
        return result
    with read(context.cloud) as reader:
        servers = [reader.get("servers", id_) for id_ in _server_ids(reader, operation)]
    failures = [_failure(row) for row in servers if row["vm_state"] == "error" or row["task_state"]]
    return failures, len(servers) - len(failures)


def _server_ids(reader: Reader, operation: Row) -> list[str]:
    return reader.column("SELECT id FROM servers WHERE operation_id = ?", operation["id"])


def _failure(server: Row) -> Failure:
    fault = json.loads(server["fault_json"] or "{}")
    state = "state ERROR" if server["vm_state"] == "error" else f"task_state {server['task_state']}"
    message = fault.get("message", f"it is in {state}")
    return Failure("server", server["id"], server["name"], fault.get("host", ""), message)
