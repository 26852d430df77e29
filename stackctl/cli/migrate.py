"""migrate, migration-list: servers that change their host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.server import SHOW

if TYPE_CHECKING:
    from stackctl.identity.context import Context

LIST = (
    Column("ID", "id"),
    Column("Server", "server"),
    Column("Server ID", "server_id", extra=True),
    Column("Type", "kind"),
    Column("From", "source"),
    Column("To", "target"),
    Column("Status", "status"),
    Column("Created", "created_at"),
    Column("Updated", "updated_at"),
    Column("Reason", "reason"),
)


@command("migrate")
@changes
@shows(SHOW)
@click.option("--host", type=words.HOST, help="This host, instead of the best other one.")
@click.option("--live-migration", "live", is_flag=True, help="While it runs (live-migrate).")
@click.option("--block-migration", is_flag=True, expose_value=False, hidden=True, help="As always.")
@click.argument("server", type=words.SERVER)
def migrate(context: Context, output: Output, host: str | None, live: bool, server: str) -> None:
    """Move a server to another host: it is shut down, its disks are copied, it goes on there.

    Then it waits (VERIFY_RESIZE) for resize-confirm or resize-revert; its old disks stay till then.
    """
    from stackctl.compute.moves.live_migration import live_migrate
    from stackctl.compute.moves.migrating import migrate as move

    done = live_migrate(context, server, host) if live else move(context, server, host)
    output.show(done.value)
    finish(context, done)


@command("migration-list")
@lists(LIST)
@click.option("--server", type=words.SERVER, help="Only those of this server.")
@click.option("--host", type=words.HOST, help="Only those from or to this host.")
@click.option("--status", help="Only those with this status.")
def migration_list(
    context: Context, output: Output, server: str | None, host: str | None, status: str | None
) -> None:
    """List the moves of servers from host to host, oldest first."""
    from stackctl.compute.moves.migrations import list_migrations

    output.list(list_migrations(context, server, host, status))
