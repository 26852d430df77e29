"""The diary: who did what to which resource, where, how long it took, why it failed."""

from __future__ import annotations

from stackctl.state import Row, Writer, now


def note(
    writer: Writer,
    action: str,
    kind: str,
    about: Row,
    message: str,
    *,
    level: str = "info",
    host: str = "",
    user_name: str = "",
    operation_id: str | None = None,
    seconds: float | None = None,
) -> None:
    """Write one event ``about`` a resource, of which ``id`` and ``name`` are kept.

    ``kind`` is server, network, host ...; ``level`` info, warning or error.
    """
    row = {"at": now(), "level": level, "operation_id": operation_id, "user_name": user_name}
    what = {"action": action, "kind": kind, "resource_id": about["id"], "name": about["name"]}
    writer.insert("events", {**row, **what, "host": host, "message": message, "seconds": seconds})
