"""Who is asking. Whoever can open a cloud's folder is its admin; policy binds the others."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stackctl.state import Cloud, Reader, Row, find, read

ADMIN_PROJECT = "admin"
ADMIN_USER = "admin"


def ignore(*_: Any) -> None:
    """What happens to progress when nobody watches."""


@dataclass(frozen=True)
class Watch:
    """Where a service tells what goes on meanwhile.

    ``progress(what, done, total)`` during anything long (bytes or items; total 0: unknown);
    ``trace(step, host, resource, seconds)`` for every step; ``warn(text)`` for the operator;
    ``decided(decision)`` whenever the scheduler found a server its host, or none.
    """

    progress: Callable[[str, int, int], None] = ignore
    trace: Callable[[str, str, str, float], None] = ignore
    warn: Callable[[str], None] = ignore
    decided: Callable[[Any], None] = ignore


@dataclass(frozen=True)
class Context:
    """Who asks, in which project of which cloud, and how the work is to be done.

    ``dry_run`` makes every change a rehearsal; ``request_id`` makes a repeated one harmless.
    """

    cloud: Cloud
    project_id: str
    project_name: str
    user_id: str
    user_name: str
    operator: str
    dry_run: bool = False
    request_id: str | None = None
    watch: Watch = field(default_factory=Watch)


def admin_context(
    cloud: Cloud,
    *,
    dry_run: bool = False,
    request_id: str | None = None,
    watch: Watch | None = None,
) -> Context:
    """The operator: admin of the project admin."""
    with read(cloud) as reader:
        project = find(reader, "projects", ADMIN_PROJECT, noun="project")
        user = find(reader, "users", ADMIN_USER, noun="user")
    return Context(
        cloud=cloud,
        project_id=project["id"],
        project_name=project["name"],
        user_id=user["id"],
        user_name=user["name"],
        operator=getpass.getuser(),
        dry_run=dry_run,
        request_id=request_id,
        watch=watch or Watch(),
    )


def own_rows(context: Context, reader: Reader, table: str, order: str = "rowid") -> list[Row]:
    """The live rows of the asker's project, oldest first unless ``order`` says otherwise."""
    return reader.all(
        f"SELECT * FROM {table} WHERE deleted_at IS NULL AND project_id = ? ORDER BY {order}",
        context.project_id,
    )


def named(reader: Reader, table: str, project_id: str, name: str) -> Row | None:
    """The live row of a project that has exactly this name."""
    return reader.one(
        f"SELECT * FROM {table} WHERE project_id = ? AND name = ? AND deleted_at IS NULL",
        project_id,
        name,
    )


def find_own(context: Context, reader: Reader, table: str, word: str, *, noun: str) -> Row:
    """A live row of the asker's project by name, id or beginning of an id."""
    return find(
        reader, table, word, noun=noun, where="project_id = ?", parameters=(context.project_id,)
    )
