"""What is still open when a convergence ends: servers of hosts that did not answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from stackctl.errors import PartlyDone
from stackctl.operation.events import note
from stackctl.operation.exchange import Exchange
from stackctl.operation.outcome import Failure
from stackctl.state import Row, Writer, now


def settle_servers(
    writer: Writer,
    server_ids: Iterable[str],
    exchanges: Mapping[str, Exchange],
    operation_id: str,
) -> tuple[list[Failure], int]:
    """No server of a finished operation stays in between: (those that failed, how many are well).

    A server whose build was not confirmed becomes ERROR with the reason; a task on a server that
    exists ends, and what was asked of it is carried out when its host is back.
    """
    failures, well = [], 0
    for server_id in sorted(server_ids):
        server = writer.get("servers", server_id)
        failure = _settle(writer, server, exchanges.get(server["host_id"] or ""), operation_id)
        if failure is None:
            well += 1
        else:
            failures.append(failure)
    return failures, well


def fail_build(writer: Writer, server: Row, host: str, message: str, operation_id: str) -> None:
    """A server that could not be built: ERROR, with the reason, left alone until it is named."""
    fault = {"message": message, "detail": "", "command": "", "host": host, "at": now()}
    values = {"vm_state": "error", "task_state": None, "held": 1}
    writer.update("servers", server["id"], **values, fault_json=json.dumps(fault))
    note(
        writer,
        "build",
        "server",
        server,
        message,
        level="error",
        host=host,
        operation_id=operation_id,
    )


def _settle(
    writer: Writer, server: Row, exchange: Exchange | None, operation_id: str
) -> Failure | None:
    if server["deleted_at"] is not None:
        return _settle_deleted(writer, server, exchange)
    host = exchange.host_name if exchange else ""
    error = exchange.error if exchange else None
    if server["operation_id"] != operation_id:
        # What goes on there is another one's work, to be settled by that.
        return _unheard(server, exchange)
    if server["vm_state"] == "building":
        message = error.message if error else "the host did not say what became of it"
        if exchange is not None and exchange.sent and error is not None:
            message = f"{message} The host stopped answering while the server was being built."
        fail_build(writer, server, host, message, operation_id)
        # Its row stays, in ERROR: this is never "unreachable, and nothing was done".
        return Failure("server", server["id"], server["name"], host, message)
    if server["task_state"] is not None:
        writer.update("servers", server["id"], task_state=None)
    if server["vm_state"] == "error":
        fault = json.loads(server["fault_json"] or "{}")
        message = fault.get("message", "it is in state ERROR")
        return Failure("server", server["id"], server["name"], fault.get("host", host), message)
    return _declined(server, exchange) or _unheard(server, exchange)


def _declined(server: Row, exchange: Exchange | None) -> Failure | None:
    """What its host said of a server that is well, though it did not do what was asked."""
    failures = exchange.failures if exchange is not None else []
    said = (item for item in failures if (item.kind, item.id) == ("server", server["id"]))
    return next(said, None)


def _unheard(server: Row, exchange: Exchange | None) -> Failure | None:
    """What a host that did not answer means for a server that is there."""
    if exchange is None or exchange.error is None:
        return None
    kind = PartlyDone if exchange.sent else type(exchange.error)
    message, hint, host = exchange.error.message, exchange.error.hint, exchange.host_name
    return Failure("server", server["id"], server["name"], host, message, kind, hint)


def _settle_deleted(writer: Writer, server: Row, exchange: Exchange | None) -> Failure | None:
    left = writer.value(
        # What a fenced host has goes when it returns: nobody is told of that each time.
        "SELECT count(*) FROM tombstones JOIN hosts ON hosts.id = host_id "
        "WHERE server_id = ? AND acknowledged_at IS NULL AND fenced = 0",
        server["id"],
    )
    if not left:
        return None
    host = exchange.host_name if exchange else ""
    why = _why_not_removed(server, exchange)
    message = f"{why} It is deleted; what is left of it there goes when the host is converged."
    # The deletion itself is committed, so this is never "nothing was done".
    return Failure("server", server["id"], server["name"], host, message, PartlyDone)


def _why_not_removed(server: Row, exchange: Exchange | None) -> str:
    if exchange is not None and exchange.error is not None:
        return exchange.error.message
    failures = exchange.failures if exchange is not None else []
    words = [failure.message for failure in failures if failure.id == server["id"]]
    return f"Its removal failed: {words[0]}." if words else "Its removal failed."
