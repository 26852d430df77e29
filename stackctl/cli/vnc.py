"""vnc-console, console-screenshot: a person at a server's display."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import command, say
from stackctl.errors import StackctlError, UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context

HERE = "127.0.0.1"


@command("vnc-console")
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="The port on this machine (default: a free one).",
)
@click.option("--once", is_flag=True, help="End when the first viewer has left.")
@click.option("--relay", "only_relay", is_flag=True, help="Only connect stdin/stdout to it.")
@click.option("--novnc", is_flag=True, hidden=True, help="What OpenStack's client calls it.")
@click.option("--serial", is_flag=True, hidden=True, help="That is the command console.")
@click.argument("server", type=words.SERVER)
@click.argument("kind", required=False, type=click.Choice(["novnc"]), metavar="")
def vnc_console(
    context: Context,
    port: int,
    once: bool,
    only_relay: bool,
    novnc: bool,
    serial: bool,
    server: str,
    kind: str | None,
) -> None:
    """Open a port on this machine that leads to a server's display, until Ctrl-C.

    Its host carries the bytes; give the address that is printed to a VNC viewer. While it is open,
    every user of this machine can look: --relay opens none.
    """
    from stackctl.compute import access

    if serial:
        raise UsageError(
            "A serial console has no address to look at here: a command sits down at it.",
            hint=f"stackctl console {server}",
        )
    if only_relay:
        access.display(context, server, sys.stdin.fileno(), sys.stdout.fileno())
        return
    access.require_display(context, server)
    with _listening(port) as listener:
        number = listener.getsockname()[1]
        click.echo(f"{HERE}:{number}")
        say(f"The display of {server}: vncviewer {HERE}::{number}   (Ctrl-C ends it)")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            _serve(context, server, listener, once)


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HERE, port))
    except OSError as error:
        raise UsageError(f"Port {port} of this machine cannot be opened: {error}.") from None


def _serve(context: Context, server: str, listener: socket.socket, once: bool) -> None:
    """One connection to the host for each viewer."""
    while True:
        viewer, _ = listener.accept()
        thread = threading.Thread(target=_carry, args=(context, server, viewer), daemon=True)
        thread.start()
        if once:
            thread.join()
            return


def _carry(context: Context, server: str, viewer: socket.socket) -> None:
    from stackctl.compute import access

    with viewer:
        try:
            access.display(context, server, viewer.fileno(), viewer.fileno())
        except (OSError, StackctlError) as error:
            say(f"A viewer was cut off: {getattr(error, 'message', error)}")


@command("console-screenshot")
@click.option("--file", required=True, type=words.NewFile(), help="Where to; '-': standard output.")
@click.argument("server", type=words.SERVER)
def console_screenshot(context: Context, file: words.Target, server: str) -> None:
    """Write what a server's display shows now to a PNG file."""
    from stackctl.compute import access

    picture = access.screenshot(context, server)
    with file.open() as stream:
        stream.write(picture)
