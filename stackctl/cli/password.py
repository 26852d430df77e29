"""set-password."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import changes, command, finish, say
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context


@command("set-password")
@changes
@click.option("--user", help="Whose (default: the image's os_admin_user, else root).")
@click.option("--generate", is_flag=True, help="Make one up and print it, once.")
@click.argument("server", type=words.SERVER)
def set_password(context: Context, user: str | None, generate: bool, server: str) -> None:
    """Set the password of a user in a running guest, by its qemu-guest-agent.

    It is typed, or read from stdin (its first line): never an argument, which others could see.

    Example: stackctl set-password web --user debian < secret.txt
    """
    from stackctl.compute import passwords

    password = passwords.generate() if generate else _typed(server)
    done = passwords.set_password(context, server, password, user)
    if not context.dry_run:
        if generate:
            click.echo(password)
        say(f"The password of {done.value} in {server} is set.")
    finish(context, done)


def _typed(server: str) -> str:
    if sys.stdin.isatty():
        question = f"New password in {server}"
        answer: str = click.prompt(question, hide_input=True, confirmation_prompt=True, err=True)
        return answer
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise UsageError("There is no password on stdin.", hint="stackctl set-password --generate")
    return password
