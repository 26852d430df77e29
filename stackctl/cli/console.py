"""console: a person, or a script, at a server's serial port."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import command, say

if TYPE_CHECKING:
    from stackctl.identity.context import Context

ESCAPE = b"\x1d"
"""Ctrl-], as with virsh and telnet."""


@command("console")
@click.argument("server", type=words.SERVER)
def console(context: Context, server: str) -> None:
    """Sit down at a server's serial console, through its host; Ctrl-] leaves it.

    One person at a time. What was said before is in console-log.
    """
    from stackctl.compute import access

    with _raw_terminal() as interactive:
        if interactive:
            say(f"Console of {server}; Ctrl-] leaves it.\r")
        with _until_escape(sys.stdin.fileno()) as from_fd:
            access.console(context, server, from_fd, sys.stdout.fileno())


@contextmanager
def _raw_terminal() -> Iterator[bool]:
    """Have every key go to the guest while the block runs, where somebody types at all."""
    if not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        click.echo(err=True)


@contextmanager
def _until_escape(descriptor: int) -> Iterator[int]:
    """What comes from a descriptor, up to its end or the escape key."""
    reading, writing = os.pipe()

    def carry() -> None:
        with suppress(OSError), os.fdopen(writing, "wb", buffering=0) as pipe:
            while data := os.read(descriptor, 4096):
                before, escape, _ = data.partition(ESCAPE)
                pipe.write(before)
                if escape:
                    return

    threading.Thread(target=carry, name="keys", daemon=True).start()
    try:
        yield reading
    finally:
        os.close(reading)
