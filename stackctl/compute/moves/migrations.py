"""The moves of servers, as they went: for ``migration-list``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stackctl.compute.views import server_row
from stackctl.identity.context import Context
from stackctl.state import Row, find, read


@dataclass(frozen=True)
class Migration:
    """One move of one server: cold, resize, live or evacuate. ``status`` is in Nova's words."""

    id: str
    server_id: str
    server: str
    kind: str
    source: str
    target: str
    status: str
    progress: dict[str, Any]
    reason: str
    created_at: str
    updated_at: str


_MIGRATIONS = """
SELECT migrations.*, servers.name AS server, source.name AS source, target.name AS target
FROM migrations JOIN servers ON servers.id = migrations.server_id
JOIN hosts AS source ON source.id = migrations.source_host_id
JOIN hosts AS target ON target.id = migrations.target_host_id
WHERE servers.project_id = ? ORDER BY migrations.created_at, migrations.rowid
"""


def list_migrations(
    context: Context,
    server: str | None = None,
    host: str | None = None,
    status: str | None = None,
) -> list[Migration]:
    """The moves of the asker's servers, oldest first; of one server, from or to one host."""
    with read(context.cloud) as reader:
        rows = reader.all(_MIGRATIONS, context.project_id)
        server_id = server_row(context, reader, server)["id"] if server is not None else None
        host_id = find(reader, "hosts", host, noun="host")["id"] if host is not None else None
    return [
        _migration(row)
        for row in rows
        if server_id in (None, row["server_id"])
        and host_id in (None, row["source_host_id"], row["target_host_id"])
        and status in (None, row["status"])
    ]


def _migration(row: Row) -> Migration:
    return Migration(
        id=row["id"],
        server_id=row["server_id"],
        server=row["server"],
        kind=row["kind"],
        source=row["source"],
        target=row["target"],
        status=row["status"],
        progress=json.loads(row["progress_json"]),
        reason=row["reason"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
