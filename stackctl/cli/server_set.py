"""lock, unlock, rename, server-set, server-unset, meta, reset-state: what is said of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, shows
from stackctl.cli.server import SHOW
from stackctl.cli.several import each_of
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.compute.types import Server, ServerChange
    from stackctl.identity.context import Context
    from stackctl.operation import Done


@command("lock")
@changes
@click.option("--reason", default="", help="Why; told to whoever meets the lock.")
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def lock(context: Context, reason: str, servers: tuple[str, ...]) -> None:
    """Have servers refuse what would change or delete them (status 4) until they are unlocked."""
    from stackctl.compute import settings

    each_of(context, servers, lambda ctx, name: settings.lock_server(ctx, name, reason), "Locked")


@command("unlock")
@changes
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def unlock(context: Context, servers: tuple[str, ...]) -> None:
    """Take the lock from servers."""
    from stackctl.compute import settings

    each_of(context, servers, settings.unlock_server, "Unlocked")


@command("rename")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
@click.argument("name")
def rename(context: Context, output: Output, server: str, name: str) -> None:
    """Give a server another name. Its host name in its networks stays."""
    from stackctl.compute.types import ServerChange

    _set(context, output, server, ServerChange(name=name))


@command("server-set")
@changes
@shows(SHOW)
@click.option("--name", help="Another name; its host name in its networks stays.")
@click.option(
    "--property", "properties", multiple=True, type=words.Pair(), help="KEY=VALUE; repeatable."
)
@click.option("--tag", "tags", multiple=True, help="A tag to add; repeatable.")
@click.option("--vnc/--no-vnc", default=None, help="A display for vnc-console, or none.")
@click.option("--state", type=click.Choice(["active", "error"]), help="As reset-state says it.")
@click.argument("server", type=words.SERVER)
def server_set(
    context: Context,
    output: Output,
    name: str | None,
    properties: tuple[tuple[str, str], ...],
    tags: tuple[str, ...],
    vnc: bool | None,
    state: str | None,
    server: str,
) -> None:
    """Change a server's name, properties, tags or display.

    The guest sees name and properties on its config drive after the next hard reboot, and has its
    display then.
    """
    from stackctl.compute import settings
    from stackctl.compute.types import ServerChange

    change = ServerChange(name, dict(properties), add_tags=tags, vnc=vnc)
    if state is None:
        _set(context, output, server, change)
        return
    if change != ServerChange():
        raise UsageError("--state stands alone: the other options are another change.")
    _show(context, output, settings.reset_state(context, server, state))


@command("server-unset")
@changes
@shows(SHOW)
@click.option("--property", "keys", multiple=True, help="A property to remove; repeatable.")
@click.option("--tag", "tags", multiple=True, help="A tag to remove; repeatable.")
@click.argument("server", type=words.SERVER)
def server_unset(
    context: Context, output: Output, keys: tuple[str, ...], tags: tuple[str, ...], server: str
) -> None:
    """Remove properties or tags of a server."""
    from stackctl.compute.types import ServerChange

    change = ServerChange(properties=dict.fromkeys(keys, ""), remove_tags=tags)
    _set(context, output, server, change)


@command("meta")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
@click.argument("action", type=click.Choice(["set", "delete"]))
@click.argument("metadata", nargs=-1, required=True)
def meta(
    context: Context, output: Output, server: str, action: str, metadata: tuple[str, ...]
) -> None:
    """Set (KEY=VALUE) or delete (KEY) properties of a server."""
    from stackctl.compute.types import ServerChange

    if action == "delete":
        properties = {word.partition("=")[0]: "" for word in metadata}
    else:
        properties = dict(words.Pair().convert(word, None, None) for word in metadata)
    _set(context, output, server, ServerChange(properties=properties))


@command("reset-state")
@changes
@click.option("--active", is_flag=True, help="Say ACTIVE instead of ERROR.")
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def reset_state(context: Context, active: bool, servers: tuple[str, ...]) -> None:
    """Say that servers are in ERROR (or ACTIVE) and that nothing goes on with them.

    Only the database says so: the next convergence of their host (converge HOST) tells what they
    really are.
    """
    from stackctl.compute import settings

    state = "active" if active else "error"
    each_of(context, servers, lambda ctx, name: settings.reset_state(ctx, name, state), "Reset")


def _set(context: Context, output: Output, server: str, change: ServerChange) -> None:
    from stackctl.compute import settings

    _show(context, output, settings.set_server(context, server, change))


def _show(context: Context, output: Output, done: Done[Server]) -> None:
    output.show(done.value)
    finish(context, done)
