"""ssh: log in to a guest through its host."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import stackctl
from stackctl.cli import words
from stackctl.cli.frame import command

if TYPE_CHECKING:
    from stackctl.compute.types import Server
    from stackctl.identity.context import Context


@command("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--user", "-l", default="root", show_default=True, help="User in the guest.")
@click.option("--identity", "-i", help="Private key file (default: what ssh uses).")
@click.option(
    "--relay", "only_relay", is_flag=True, help="Only connect stdin/stdout to its port 22."
)
@click.argument("server", type=words.SERVER)
@click.argument("remote", nargs=-1, type=click.UNPROCESSED)
def ssh(
    context: Context,
    server: str,
    user: str,
    identity: str | None,
    only_relay: bool,
    remote: tuple[str, ...],
) -> None:
    """Log in to a server, or run a command there, through its host.

    No route to the server's network is needed: its host carries the bytes.
    """
    from stackctl.compute import access

    endpoint = access.ssh_endpoint(context, server)
    if only_relay:
        access.relay(context, endpoint, sys.stdin.fileno(), sys.stdout.fileno())
        return
    argv = _ssh_argv(context, endpoint.server, endpoint.address, user, identity)
    sys.stdout.flush()
    os.execvp(argv[0], [*argv, *remote])


def _ssh_argv(
    context: Context, server: Server, address: str, user: str, identity: str | None
) -> list[str]:
    """ssh with ourselves as its proxy, and with host keys kept per server id: addresses are
    given again, identities are not."""
    known = context.cloud.folder / "known_guests"
    root = str(Path(stackctl.__file__).parent.parent)
    itself = f"import sys; sys.path.insert(0, {root!r}); from stackctl.cli.main import main; main()"
    proxy = [sys.executable, "-c", itself, "--cloud", context.cloud.name, "ssh", "--relay"]
    argv = ["ssh", "-o", f"ProxyCommand={' '.join(map(_quoted, [*proxy, server.id]))}"]
    argv += ["-o", f"UserKnownHostsFile={known}", "-o", f"HostKeyAlias={server.id}"]
    argv += ["-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR"]
    if identity is not None:
        argv += ["-i", identity, "-o", "IdentitiesOnly=yes"]
    return [*argv, "-l", user, address]


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word).replace("%", "%%")
