"""live-migrate, live-migration-abort, host-drain: servers that change their host while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, say, shows
from stackctl.cli.render import Column
from stackctl.cli.server import SHOW
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context

DRAINED = (
    Column("ID", "id", extra=True),
    Column("Server", "name"),
    Column("State", "status"),
    Column("How", "how"),
    Column("To", "to"),
    Column("Why not", "why"),
)


@command("live-migrate")
@changes
@shows(SHOW)
@click.option("--host", "option", type=words.HOST, help="The host (or as second word).")
@click.option(
    "--block-migrate",
    "--block-migration",
    is_flag=True,
    expose_value=False,
    hidden=True,
    help="As always.",
)
@click.argument("server", type=words.SERVER)
@click.argument("host", required=False, type=words.HOST)
def live_migrate(
    context: Context, output: Output, option: str | None, server: str, host: str | None
) -> None:
    """Move a server that runs to another host, without stopping it: to the best one, or the one
    that is named.

    Its disks go along, as far as they differ from its image. If anything goes wrong it stays where
    it is, and runs on.
    """
    from stackctl.compute.moves import live_migration

    if host is not None and option is not None:
        raise UsageError("The host is given twice.")
    done = live_migration.live_migrate(context, server, host or option)
    output.show(done.value)
    finish(context, done)


@command("live-migration-abort")
@changes
@click.argument("server", type=words.SERVER)
@click.argument("migration", required=False)
def live_migration_abort(context: Context, server: str, migration: str | None) -> None:
    """Call off the live migration that another command is at work on: the server stays."""
    from stackctl.compute.moves import live_migration

    name = live_migration.abort(context, server, migration)
    say(f"The live migration of {name} {'would be' if context.dry_run else 'was'} called off.")


@command("host-drain")
@changes
@lists(DRAINED)
@click.option("--reason", default="drained", help="Why the host is disabled.")
@click.argument("host", type=words.HOST)
def host_drain(context: Context, output: Output, reason: str, host: str) -> None:
    """Move all servers of a host to others: those that run live, those that are off cold.

    The host gets no new servers from then on (host-set --enable takes that back). --dry-run prints
    the plan. Ends with status 40 when servers remain, and says which and why.
    """
    from stackctl.compute.moves import draining

    done = draining.drain(context, host, reason)
    output.list(done.value)
    finish(context, done)
