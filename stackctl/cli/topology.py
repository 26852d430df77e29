"""topology."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import PurePath
from typing import IO, TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import command, settings, terminal_width

if TYPE_CHECKING:
    from stackctl.compute.seeing.topology import Topology
    from stackctl.identity.context import Context

FORMATS = ("text", "dot", "svg", "json")

_ENDINGS = {".dot": "dot", ".gv": "dot", ".svg": "svg", ".json": "json"}


@command("topology")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="How to draw it (default: as the name of the file ends, else text).",
)
@click.option(
    "--output",
    "-o",
    "file",
    type=words.RESULT_FILE,
    metavar="FILE",
    help="Write it there; what was in the file is replaced.",
)
def topology(context: Context, form: str | None, file: IO[str] | None) -> None:
    """Draw the project's networks, routers and servers.

    Example: stackctl topology --output cloud.svg
    """
    from stackctl.compute.seeing.topology import topology as graph_of

    chosen = form or _ENDINGS.get(PurePath(file.name if file else "").suffix.lower(), "text")
    drawn = _drawn(chosen, graph_of(context), context, to_file=file is not None)
    if file is None:
        click.echo(drawn, nl=False)
    else:
        file.write(drawn)


def _drawn(form: str, graph: Topology, context: Context, *, to_file: bool) -> str:
    if form == "svg":
        from stackctl.cli.drawing.svg import svg

        return svg(graph, f"{context.cloud.name}: project {context.project_name}")
    if form == "dot":
        from stackctl.cli.drawing.dot import dot

        return dot(graph)
    if form == "json":
        return json.dumps(asdict(graph), indent=2, ensure_ascii=False) + "\n"
    from stackctl.cli.drawing.text import text

    return text(graph, terminal_width() if not to_file else None, colour=not settings().no_color)
