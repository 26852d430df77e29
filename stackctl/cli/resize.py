"""resize, resize-confirm, resize-revert: another flavor for a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, shows
from stackctl.cli.server import SHOW
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.compute.types import Server
    from stackctl.identity.context import Context
    from stackctl.operation import Done


@command("resize")
@changes
@shows(SHOW)
@click.option("--flavor", "option", type=words.FLAVOR, help="The flavor (or as second word).")
@click.option("--host", type=words.HOST, help="On this host; else on its own, if that has room.")
@click.argument("server", type=words.SERVER)
@click.argument("flavor", required=False, type=words.FLAVOR)
def resize(
    context: Context,
    output: Output,
    option: str | None,
    host: str | None,
    server: str,
    flavor: str | None,
) -> None:
    """Give a server another flavor: it is shut down and started with larger copies of its disks.

    Without room on its host it goes to another one. Then it waits (VERIFY_RESIZE) for
    resize-confirm or resize-revert.
    """
    from stackctl.compute.moves import resizing

    if (flavor is None) == (option is None):
        raise UsageError("Give the flavor once: stackctl resize SERVER FLAVOR.")
    _end(context, output, resizing.resize(context, server, flavor or option or "", host))


@command("resize-confirm")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
def resize_confirm(context: Context, output: Output, server: str) -> None:
    """Keep a resized server as it is; its old disks go."""
    from stackctl.compute.moves import resizing

    _end(context, output, resizing.confirm(context, server))


@command("resize-revert")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
def resize_revert(context: Context, output: Output, server: str) -> None:
    """Give a resized server its old flavor and disks back; what it wrote since then goes."""
    from stackctl.compute.moves import resizing

    _end(context, output, resizing.revert(context, server))


def _end(context: Context, output: Output, done: Done[Server]) -> None:
    output.show(done.value)
    finish(context, done)
