"""explain: why a server is where it is, or nowhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, command, lists
from stackctl.cli.render import Column

if TYPE_CHECKING:
    from stackctl.compute.explain import Explanation, HostVerdict
    from stackctl.identity.context import Context

HOSTS = (
    Column("Host", "host"),
    Column("Chosen", lambda item: "*" if item.chosen else ""),
    Column("Weight", "weight"),
    Column("Verdict", "verdict"),
)


@command("explain")
@lists(HOSTS)
@click.argument("server", type=words.SERVER)
def explain(context: Context, output: Output, server: str) -> None:
    """Say where a server went and why, or why nowhere, and what failed on which host."""
    from stackctl.compute.explain import explain as explain_server

    told = explain_server(context, server)
    if output.format == "json":
        click.echo(json.dumps(_explained(told), indent=2, ensure_ascii=False))
        return
    if output.format == "table":
        click.echo("\n".join(_story(told)))
    hosts: tuple[HostVerdict, ...] = told.hosts
    output.list(hosts)
    if output.format == "table":
        click.echo("\n".join(_diary(told)))


def _story(told: Explanation) -> list[str]:
    where = f"was placed on {told.chosen}" if told.chosen else "fitted nowhere"
    lines = [f"{told.name} {where} at {told.placed_at}; it needs {told.needs}."]
    server = told.server
    if server is None:
        return lines
    lines.append(f"It is {server.status} on {server.host or 'no host'}.")
    if server.fault is not None:
        lines.append(f"What failed, on {server.fault.host}: {server.fault.message}")
        lines += [f"  {line}" for line in server.fault.detail.splitlines()[-10:]]
    return lines


def _diary(told: Explanation) -> list[str]:
    lines = [f"And {told.left_out} more hosts."] if told.left_out else []
    lines += [f"{event['at']}  {event['host'] or '-'}  {event['message']}" for event in told.events]
    if told.next_command:
        lines.append(f"Next: {told.next_command}")
    return lines


def _explained(told: Explanation) -> dict[str, object]:
    import dataclasses

    return dataclasses.asdict(told)
