"""image-snapshot, backup: images made of servers' disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, shows
from stackctl.cli.image import SHOW
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.image.types import Image
    from stackctl.operation import Done


@command("image-snapshot")
@changes
@shows(SHOW)
@click.option(
    "--name", "option", help="The image's name (or as second word; default: the server's)."
)
@click.argument("server", type=words.SERVER)
@click.argument("name", required=False)
def image_snapshot(
    context: Context, output: Output, option: str | None, server: str, name: str | None
) -> None:
    """Make an image of a server's root disk as it is now, without stopping it."""
    from stackctl.compute import snapshots

    if name and option:
        raise UsageError("The name is given twice.")
    _end(context, output, snapshots.snapshot(context, server, name or option or server))


@command("backup")
@changes
@shows(SHOW)
@click.option("--name", "name_option", help="The image's name (or as second word).")
@click.option("--type", "type_option", help="What kind of backup it is: daily, weekly ...")
@click.option("--rotate", type=int, help="How many of this type and server are kept.")
@click.argument("server", type=words.SERVER)
@click.argument("name", required=False)
@click.argument("backup_type", metavar="[TYPE]", required=False)
@click.argument("rotation", type=int, required=False)
def backup(
    context: Context,
    output: Output,
    name_option: str | None,
    type_option: str | None,
    rotate: int | None,
    server: str,
    name: str | None,
    backup_type: str | None,
    rotation: int | None,
) -> None:
    """Make an image of a server's root disk and delete its oldest backups of the same type."""
    from stackctl.compute import snapshots

    name, kind = name or name_option or server, backup_type or type_option or "daily"
    kept = rotation if rotation is not None else rotate
    if kept is None:
        raise UsageError("How many backups are to be kept? Give --rotate N.")
    _end(context, output, snapshots.backup(context, server, name, kind, kept))


def _end(context: Context, output: Output, done: Done[Image | None]) -> None:
    if done.value is not None:
        output.show(done.value)
    finish(context, done)
