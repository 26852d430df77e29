"""rebuild, rescue, unrescue: other disks for a server that stays what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, shows
from stackctl.cli.server import SHOW, USER_DATA_LIMIT_BYTES
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.compute.types import Server
    from stackctl.identity.context import Context
    from stackctl.operation import Done


@command("rebuild")
@changes
@destroys
@shows(SHOW)
@click.option("--image", "option", type=words.IMAGE, help="Another image (or as second word).")
@click.option("--name", help="Another name.")
@click.option("--key", "--key-name", "key", type=words.KEYPAIR, help="Another key pair.")
@click.option("--user-data", type=words.LocalFile(), help="Another script or cloud-config.")
@click.option(
    "--property",
    "--meta",
    "properties",
    multiple=True,
    type=words.Pair(),
    help="A property to set; repeatable.",
)
@click.option("--preserve-ephemeral", is_flag=True, help="Keep what is on ephemeral disks.")
@click.argument("server", type=words.SERVER)
@click.argument("image", required=False, type=words.IMAGE)
def rebuild(
    context: Context,
    output: Output,
    option: str | None,
    name: str | None,
    key: str | None,
    user_data: BinaryIO | None,
    properties: tuple[tuple[str, str], ...],
    preserve_ephemeral: bool,
    server: str,
    image: str | None,
) -> None:
    """Make a server anew: same id, host, ports and addresses, a new root disk.

    Without an image, of the one that it is made of. A server that is off stays off.
    """
    from stackctl.compute import rebuilding

    if image and option:
        raise UsageError("The image is given twice.")
    content = words.read_all(user_data, USER_DATA_LIMIT_BYTES, "user data") if user_data else None
    wanted = rebuilding.Rebuild(
        image=image or option,
        name=name,
        key_name=key,
        user_data=content,
        properties=dict(properties),
        preserve_ephemeral=preserve_ephemeral,
    )
    confirm(f"Rebuild {server}? All data on its disks die.")
    _end(context, output, rebuilding.rebuild(context, server, wanted))


@command("rescue")
@changes
@shows(SHOW)
@click.option("--image", type=words.IMAGE, help="What to boot from (default: its own image).")
@click.argument("server", type=words.SERVER)
def rescue(context: Context, output: Output, image: str | None, server: str) -> None:
    """Boot a server from a fresh disk; its own root disk is the second one, untouched."""
    from stackctl.compute import rebuilding

    _end(context, output, rebuilding.rescue(context, server, image))


@command("unrescue")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
def unrescue(context: Context, output: Output, server: str) -> None:
    """Boot a server from its own disk again; the rescue disk goes."""
    from stackctl.compute import rebuilding

    _end(context, output, rebuilding.unrescue(context, server))


def _end(context: Context, output: Output, done: Done[Server]) -> None:
    output.show(done.value)
    finish(context, done)
