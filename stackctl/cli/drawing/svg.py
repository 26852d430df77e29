"""The networks of a project as a picture: networks are bars, routers and servers hang on them."""

from __future__ import annotations

import drawsvg

from stackctl.cli.drawing.colours import DOWN, colours_of, visible
from stackctl.cli.drawing.layout import (
    BAR,
    BOX,
    HEADER,
    LINE,
    MARGIN,
    Bar,
    Box,
    Layout,
    Wire,
    header,
    lay_out,
    shortened,
)
from stackctl.compute.seeing.topology import Topology

_SANS = "'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif"
_MONO = "'DejaVu Sans Mono', Menlo, Consolas, monospace"
_INK, _GREY = "#1e293b", "#64748b"

_LIGHTS = {
    "ACTIVE": "#16a34a",
    "ERROR": "#dc2626",
    "BUILD": "#f59e0b",
    "SHUTOFF": "#94a3b8",
    "DOWN": "#94a3b8",
}


def svg(graph: Topology, title: str) -> str:
    """The picture as an SVG document; equal graphs give equal bytes."""
    layout = lay_out(graph)
    drawing = drawsvg.Drawing(layout.width, layout.height, id_prefix="t")
    drawing.append(drawsvg.Rectangle(0, 0, layout.width, layout.height, fill="white"))
    drawing.append(_text(title, 12, MARGIN, 24, fill=_GREY))
    colours = colours_of(graph.networks)
    for bar in layout.bars:
        drawing.append(_bar(bar, layout, colours[bar.network.id]))
    for box in layout.boxes:
        for wire in box.wires:
            drawing.append(_wire(wire, colours.get(wire.link.network_id, DOWN)))
    for box in layout.boxes:
        drawing.append(_box(box))
    return str(drawing.as_svg())


def _bar(bar: Bar, layout: Layout, colour: str) -> drawsvg.Group:
    network, middle = bar.network, bar.x + BAR / 2
    group = _named(network.name)
    group.append(
        drawsvg.Rectangle(
            bar.x, layout.top, BAR, layout.bottom - layout.top, rx=BAR / 2, fill=colour
        )
    )
    lines = header(network)
    y = HEADER - 12 - LINE * len(lines)
    ink = colour if network.up else _GREY
    group.append(
        _text(
            shortened(network.name, 22),
            14,
            middle,
            y,
            fill=ink,
            font_weight="bold",
            text_anchor="middle",
        )
    )
    for number, line in enumerate(lines, 1):
        y_line = y + number * LINE
        group.append(_text(line, 11, middle, y_line, fill=_GREY, text_anchor="middle", mono=True))
    return group


def _wire(wire: Wire, colour: str) -> drawsvg.Group:
    """A line on a wider white one, so that it goes over the bars that it only passes."""
    group = drawsvg.Group()
    dashes = {} if wire.link.up else {"stroke_dasharray": "4 4"}
    outwards = wire.x_bar > wire.x_box
    ends = (wire.x_box, wire.y, wire.x_bar, wire.y)
    group.append(drawsvg.Line(*ends, stroke="white", stroke_width=8))
    group.append(drawsvg.Line(*ends, stroke=colour, stroke_width=2.5, **dashes))
    x = wire.x_box + 8 if outwards else wire.x_box - 8
    for number, line in enumerate(wire.lines):
        y = wire.y - 4 if number == 0 else wire.y + number * LINE - 3
        group.append(
            _text(
                line,
                11,
                x,
                y,
                mono=True,
                fill=_INK if not line.startswith("=") else _GREY,
                text_anchor="start" if outwards else "end",
            )
        )
    return group


def _box(box: Box) -> drawsvg.Group:
    device = box.device
    router = device.kind == "router"
    group = _named(device.name)
    group.append(
        drawsvg.Rectangle(
            box.x,
            box.y,
            BOX,
            box.height,
            rx=box.height / 2 if router else 6,
            fill=_INK if router else "#f8fafc",
            stroke=_INK if router else "#94a3b8",
            stroke_width=1.2,
        )
    )
    middle = box.y + box.height / 2
    light = _LIGHTS.get(device.status, "#f59e0b")
    group.append(drawsvg.Circle(box.x + (26 if router else 16), middle - 8, 5, fill=light))
    x, columns = box.x + (40 if router else 28), 13 if router else 16
    name = shortened(device.name, columns)
    ink, faint = ("white", "#cbd5e1") if router else (_INK, _GREY)
    group.append(_text(name, 13, x, middle - 3, fill=ink, font_weight="bold"))
    said = f"router on {device.host}" if router and device.host else device.host
    if device.status != "ACTIVE":
        said = f"{device.status} {device.host}".strip()
    group.append(_text(shortened(said, columns + 4), 10.5, x, middle + 13, fill=faint))
    return group


def _named(name: str) -> drawsvg.Group:
    """A group that shows its whole name when pointed at."""
    group = drawsvg.Group()
    group.append_title(visible(name))
    return group


def _text(
    text: str, size: float, x: float, y: float, *, mono: bool = False, **more: object
) -> drawsvg.Text:
    family = _MONO if mono else _SANS
    return drawsvg.Text(visible(text), size, x, y, font_family=family, **more)
