"""trace."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from stackctl.cli import words
from stackctl.cli.frame import command, terminal_width
from stackctl.cli.render import printable

if TYPE_CHECKING:
    from stackctl.compute.seeing.trace import Hop, Trace
    from stackctl.identity.context import Context

NOT_DELIVERED = 1
"""The exit status of a packet that does not arrive: like grep's, it is an answer and no error."""

_WIDTH = 100


@command("trace")
@click.argument("source", metavar="SRC", type=words.SERVER)
@click.argument("target", metavar="DST", type=words.SERVER)
@click.option("--proto", default="icmp", show_default=True, help="icmp, tcp, udp or a number.")
@click.option("--port", type=int, help="The port it is sent to, with tcp and udp.")
@click.option("--src-port", type=int, help="The port it comes from (default: 40000).")
@click.option("--size", type=int, metavar="BYTES", help="Of the whole packet: does it fit?")
@click.option("--reply", is_flag=True, help="Follow the answer to it, too.")
@click.option("--flows", "-v", is_flag=True, help="Show the flows that it hits on each host.")
@click.option("--raw", is_flag=True, help="Show what each switch says, in its own words.")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(("text", "json")),
    default="text",
    help="How to print it (default: text).",
)
def trace(
    context: Context,
    source: str,
    target: str,
    proto: str,
    port: int | None,
    src_port: int | None,
    size: int | None,
    reply: bool,
    flows: bool,
    raw: bool,
    form: str,
) -> None:
    """Follow a packet from SRC to DST through the switches and routers of all hosts on its way.

    SRC is a server, SERVER:ADDRESS (also one that is not its own) or internet. DST is a server,
    SERVER:ADDRESS, a router, any address, or internet. The hosts are asked what they would do with
    the first packet of a connection; nothing is sent. The exit status is 1 when it is dropped
    (or, with --reply, the answer).

    Example: stackctl trace web-1 db --proto tcp --port 5432
    """
    from stackctl.compute.seeing.trace import TraceRequest
    from stackctl.compute.seeing.trace import trace as follow

    request = TraceRequest(source, target, proto, port, src_port, size, reply)
    found = follow(context, request)
    if form == "json":
        click.echo(json.dumps(_plain(found, raw), indent=2, ensure_ascii=False))
    else:
        width = min(terminal_width() or _WIDTH, _WIDTH)
        click.echo(printable("\n".join(_text(found, width, flows, raw))))
    if not found.delivered or (found.reply is not None and not found.reply.delivered):
        click.get_current_context().exit(NOT_DELIVERED)


def _plain(found: Trace, raw: bool) -> dict[str, Any]:
    plain = asdict(found)
    for way in filter(None, (plain, plain["reply"])):
        for hop in way["hops"] if not raw else ():
            del hop["raw"]
    return plain


def _text(found: Trace, width: int, flows: bool, raw: bool) -> Iterator[str]:
    yield found.packet
    column = max((len(hop.host) for hop in found.hops), default=0)
    for number, hop in enumerate(found.hops, 1):
        head = f"{number:>2}  {hop.host:<{column}}  "
        yield textwrap.fill(
            hop.what,
            width,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
            break_long_words=False,
        )
        if flows:
            yield from _flows(hop, " " * len(head))
        if raw and hop.raw:
            yield textwrap.indent(hop.raw.strip(), "    | ")
    yield f"{'Delivered' if found.delivered else 'Not delivered'}: {found.end}."
    if found.delivered:
        yield f"The largest packet on this way: {found.mtu} bytes ({found.narrow})."
    if found.reply is not None:
        yield "\nThe reply:"
        yield from _text(found.reply, width, flows, raw)


def _flows(hop: Hop, indent: str) -> Iterator[str]:
    for flow in hop.flows:
        whose = "" if flow.get("whose") in ("ours", None) else f" [{flow['whose']}]"
        match = flow["match"] or "any"
        actions = ",".join(map(str, flow.get("actions") or ()))
        where = f"{flow['bridge']} table {flow['table']} priority {flow['priority']}"
        yield f"{indent}{where}{whose}: {match} -> {actions}"
