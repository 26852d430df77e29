"""reachability."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, command, lists, say, settings
from stackctl.cli.render import Column

if TYPE_CHECKING:
    from stackctl.identity.context import Context

COLUMNS = (
    Column("From", "source"),
    Column("To", "target"),
    Column("Via", "via"),
    Column("Allowed", "allowed"),
    Column("Because", "because"),
    Column("From ID", "source_id", extra=True),
    Column("To ID", "target_id", extra=True),
)


@command("reachability")
@lists(COLUMNS)
@click.option("--proto", metavar="PROTOCOL", help="Only this: icmp (a ping), tcp, udp or a number.")
@click.option("--port", type=int, help="The port it is sent to, with tcp and udp.")
@click.option("--from", "source", type=words.SERVER, help="Only from this server, or internet.")
@click.option("--to", "target", type=words.SERVER, help="Only to this server, or internet.")
@click.option("--all", "everybody", is_flag=True, help="Those too that cannot, and why not.")
@click.option("--lint", is_flag=True, help="Say on stderr what is odd about security groups.")
def reachability(
    context: Context,
    output: Output,
    proto: str | None,
    port: int | None,
    source: str | None,
    target: str | None,
    everybody: bool,
    lint: bool,
) -> None:
    """Show who can reach whom: servers, and the internet.

    Computed from networks, routers and the rules of security groups; trace asks the hosts.

    Example: stackctl reachability --proto tcp --port 22 --from internet
    """
    from stackctl.compute.seeing.reachability import Question
    from stackctl.compute.seeing.reachability import reachability as compute

    answer = compute(context, Question(proto, port, source, target))
    both = source is not None and target is not None
    shown = [pair for pair in answer.pairs if pair.allowed or everybody or both]
    if not (everybody or both or proto or settings().titles):
        # Nobody asked why.
        kept = [column for column in output.columns if column.title != "Because"]
        output = replace(output, columns=kept)
    output.list(shown)
    for remark in answer.remarks if lint else ():
        say(remark)
