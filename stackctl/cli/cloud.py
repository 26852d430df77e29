"""Commands about stackctl itself: init, version, completion."""

from __future__ import annotations

import sys

import click

from stackctl import __version__
from stackctl.cli.frame import command, say, settings


@command("init", cloud=False)
def init() -> None:
    """Make a new, empty cloud: its folder, database and SSH key.

    The cloud is the one of --cloud or STACKCTL_CLOUD, else 'default'.
    """
    from stackctl.identity.bootstrap import create_cloud
    from stackctl.state import find_cloud

    cloud = find_cloud(settings().cloud_name)
    create_cloud(cloud)
    say(f"The cloud '{cloud.name}' is in {cloud.folder}. Next: stackctl host-add")


@command("version", cloud=False)
def version() -> None:
    """Print the version of stackctl and of the Python it runs on."""
    click.echo(f"stackctl {__version__} (Python {sys.version.split()[0]})")


@command("completion", cloud=False)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Put it where your shell looks, for bash in /etc/bash_completion.d/stackctl.
    """
    from click.shell_completion import get_completion_class

    from stackctl.cli.main import COMPLETE_VARIABLE, PROGRAM, cli

    found = get_completion_class(shell)
    if found is not None:
        script = found(cli, {}, PROGRAM, COMPLETE_VARIABLE)
        # source() would start bash to learn its version; every bash since 4.4 will do.
        click.echo(script.source_template % script.source_vars())
