"""Where everything of a topology stands in its picture. Pure: a graph becomes coordinates.

Networks are bars side by side, those that lead outside first. A device stands to the right of the
leftmost network that it is on, with a line to each of its networks; no device stands in the way of
another one's lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wcwidth import wcswidth

from stackctl.cli.drawing.colours import visible
from stackctl.compute.seeing.topology import Device, Link, NetworkNode, Topology

BAR, BOX, MARGIN = 18, 168, 28
HEADER, GAP = 132, 18
LINE, SMALL = 15, 6.7
"""Pixels: the height of a line of text, and the width of a character of an address."""

_NAME = 8.2
_LEAST_BOX = 56


@dataclass(frozen=True)
class Bar:
    """A network: its left edge."""

    network: NetworkNode
    x: float


@dataclass(frozen=True)
class Wire:
    """A link: from its bar to its device at height ``y``; ``lines`` is what is written on it."""

    link: Link
    x_bar: float
    x_box: float
    y: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Box:
    """A device: its upper left corner, its height, its wires."""

    device: Device
    x: float
    y: float
    height: float
    wires: tuple[Wire, ...]


@dataclass(frozen=True)
class Layout:
    """The whole picture in pixels; bars reach from ``top`` to ``bottom``."""

    width: float
    height: float
    top: float
    bottom: float
    bars: tuple[Bar, ...]
    boxes: tuple[Box, ...]


def lay_out(graph: Topology) -> Layout:
    """Give everything its place."""
    order = _in_order(graph)
    at = {network.id: column for column, network in enumerate(order)}
    spots = [_Spot(device, at) for device in graph.devices]
    xs = _bar_positions(order, spots)
    boxes, bottom = _boxes(spots, xs)
    width = xs[-1] + (MARGIN if order else 0)
    return Layout(
        width=max(width, 420),
        height=bottom + MARGIN,
        top=HEADER,
        bottom=bottom,
        bars=tuple(Bar(network, xs[at[network.id]]) for network in order),
        boxes=tuple(boxes),
    )


class _Spot:
    """A device with the columns that it takes: from the bar on its left to the farthest one."""

    def __init__(self, device: Device, at: Mapping[str, int]) -> None:
        self.device = device
        self.at = at
        links = [link for link in device.links if link.network_id in at]
        columns = [at[link.network_id] for link in links]
        self.column = min(columns, default=0)
        self.span = range(self.column, max(self.column + 1, max(columns, default=0)))
        self.left = [link for link in links if at[link.network_id] == self.column]
        self.right = [link for link in links if at[link.network_id] != self.column]
        self.right.sort(key=lambda link: at[link.network_id])

    @property
    def height(self) -> float:
        """The box is as high as what is written beside it."""
        text = max(_written(self.left), _written(self.right)) * LINE + 12
        return max(_LEAST_BOX, text)


def labels(link: Link) -> tuple[str, ...]:
    """What is written on a link: its addresses, then those that stand for them."""
    return (*link.addresses, *(f"= {address}" for address in link.floating))


def _written(links: Iterable[Link]) -> int:
    return sum(max(1, len(labels(link))) for link in links)


def _in_order(graph: Topology) -> list[NetworkNode]:
    """External networks first, then each as near as can be to those it is joined with."""
    by_id = {network.id: network for network in graph.networks}
    devices = [device for device in graph.devices if len(device.links) > 1]
    todo = [network.id for network in graph.networks if not network.external]
    order = [network.id for network in graph.networks if network.external]
    done = set(order)
    met = 0
    while len(order) < len(by_id):
        if met == len(order):
            order.append(next(id_ for id_ in todo if id_ not in done))
            done.add(order[-1])
        for device in devices:
            reached = [link.network_id for link in device.links]
            for id_ in reached if order[met] in reached else ():
                if id_ in by_id and id_ not in done:
                    order.append(id_)
                    done.add(id_)
        met += 1
    return [by_id[id_] for id_ in order]


def _bar_positions(order: list[NetworkNode], spots: list[_Spot]) -> list[float]:
    """The left edges of the bars, and at the end where the last column ends."""
    left: dict[int, float] = defaultdict(float)
    right: dict[int, float] = defaultdict(float)
    used = {spot.column for spot in spots}
    for spot in spots:
        left[spot.column] = max(left[spot.column], _label_width(spot.left))
        right[spot.column] = max(right[spot.column], _label_width(spot.right))
    xs = [MARGIN + (header_width(order[0]) - BAR) / 2 if order else float(MARGIN)]
    for column, network in enumerate(order):
        boxes = left[column] + BOX + max(right[column], 22) if column in used else 0
        following = order[column + 1] if column + 1 < len(order) else None
        own, next_own = header_width(network), header_width(following) if following else 0
        headers = (own + next_own) / 2 + GAP - (BAR if following else BAR / 2)
        xs.append(xs[-1] + BAR + max(boxes, headers))
    if not order and used:
        xs[-1] += BOX + MARGIN
    return xs


def _label_width(links: Iterable[Link]) -> float:
    texts = [text for link in links for text in labels(link)]
    return 18 + max((len(text) * SMALL for text in texts), default=24)


def header(network: NetworkNode) -> list[str]:
    """What stands above a bar, beneath its name."""
    segment = "" if network.segmentation_id is None else f" {network.segmentation_id}"
    on = f" on {network.physical_network}" if network.physical_network else ""
    lines = [f"{network.type}{segment}{on}"]
    lines += [subnet.cidr for subnet in network.subnets[:3]]
    if len(network.subnets) > 3:
        lines[-1] += f" and {len(network.subnets) - 3} more"
    words = [
        word for word, true in (("external", network.external), ("shared", network.shared)) if true
    ]
    if not network.up:
        words.append("DOWN")
    return [*lines, " ".join(words)] if words else lines


def header_width(network: NetworkNode) -> float:
    """Pixels that a network's header takes."""
    name = text_width(shortened(network.name, 22)) * _NAME
    return max(name, *(len(line) * SMALL for line in map(visible, header(network))))


def text_width(text: str) -> int:
    """Columns that a text takes; characters that take none count as one."""
    return max(wcswidth(text), len(text) if wcswidth(text) < 0 else 0)


def shortened(text: str, columns: int) -> str:
    """A name as one visible line that takes no more than so many columns."""
    text = visible(text)
    if text_width(text) <= columns:
        return text
    while text and text_width(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def _boxes(spots: list[_Spot], xs: list[float]) -> tuple[list[Box], float]:
    """Each box as high up as the columns that it takes allow; the lower end of all."""
    free: dict[int, float] = defaultdict(lambda: float(HEADER + GAP))
    widest: dict[int, float] = defaultdict(float)
    for spot in spots:
        widest[spot.column] = max(widest[spot.column], _label_width(spot.left))
    boxes = []
    for spot in spots:
        y = max(free[column] for column in spot.span)
        x = xs[spot.column] + BAR + widest[spot.column] if len(xs) > 1 else float(MARGIN)
        wires = (*_wires(spot, spot.left, x, y, xs), *_wires(spot, spot.right, x, y, xs))
        boxes.append(Box(spot.device, x, y, spot.height, wires))
        for column in spot.span:
            free[column] = y + spot.height + GAP
    return boxes, max(free.values(), default=float(HEADER)) + GAP


def _wires(spot: _Spot, links: list[Link], x: float, y: float, xs: list[float]) -> Iterable[Wire]:
    rest = spot.height - _written(links) * LINE
    y += rest / 2
    for link in links:
        column = spot.at[link.network_id]
        on_left = column == spot.column
        lines = labels(link)
        yield Wire(
            link,
            x_bar=xs[column] + (BAR if on_left else 0),
            x_box=x if on_left else x + BOX,
            y=y + LINE,
            lines=lines,
        )
        y += max(1, len(lines)) * LINE
