"""evacuate, host-evacuate: servers of hosts that are off for good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import (
    Output,
    changes,
    command,
    confirm,
    destroys,
    finish,
    lists,
    promise_off,
    say,
)
from stackctl.cli.server import LIST

if TYPE_CHECKING:
    from stackctl.identity.context import Context

FENCE = click.option(
    "--fence", is_flag=True, help="Say that the host is off (host-fence), and go on."
)


@command("evacuate")
@changes
@destroys
@lists(LIST)
@click.option("--host", type=words.HOST, help="The host where they shall go.")
@FENCE
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def evacuate(
    context: Context, output: Output, host: str | None, fence: bool, servers: tuple[str, ...]
) -> None:
    """Make servers of a host that is off anew on others. What was on their disks is lost.

    They keep their ids and addresses. Their host must be fenced.
    """
    from stackctl.compute.moves import evacuating

    _fence(context, evacuating.lost_with(context, servers) if fence else ())
    confirm(f"Make {', '.join(servers)} anew from images? What was on their disks is lost.")
    done = evacuating.evacuate(context, servers, host)
    output.list(done.value)
    finish(context, done)


@command("host-evacuate")
@changes
@destroys
@lists(LIST)
@click.option(
    "--host", "--target-host", "--target_host", "to", type=words.HOST, help="Where all shall go."
)
@FENCE
@click.argument("host", type=words.HOST)
def host_evacuate(context: Context, output: Output, to: str | None, fence: bool, host: str) -> None:
    """Make all servers of a host that is off anew on others, and move its routers.

    What was on the servers' disks is lost. The host must be fenced.
    """
    from stackctl.compute.moves import evacuating

    _fence(context, (host,) if fence else ())
    confirm(f"Make the servers of {host} anew from images? What was on their disks is lost.")
    done = evacuating.evacuate_host(context, host, to)
    output.list(done.value.servers)
    if done.value.routers and not context.dry_run:
        say(f"Moved {', '.join(done.value.routers)}.")
    finish(context, done)


def _fence(context: Context, hosts: Iterable[str]) -> None:
    from stackctl.hosts import fence_host

    for host in hosts:
        promise_off(host, "its servers are started elsewhere")
        fence_host(context, host)
