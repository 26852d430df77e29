"""The networks of a project as a tree of plain lines, for a terminal of 80 columns."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from stackctl.cli.drawing.colours import visible
from stackctl.compute.seeing.topology import Device, Link, NetworkNode, Topology

_WIDE = 10_000
"""Columns of something that is no terminal: no line is cut."""

_STATES = {"ACTIVE": "green", "ERROR": "red", "BUILD": "yellow"}

_At = list[tuple[Device, Link]]


def text(graph: Topology, width: int | None = None, *, colour: bool = False) -> str:
    """Every network once, beneath it the devices on it; routers lead on to further networks.

    ``width`` cuts lines; without it there is neither a limit nor colour.
    """
    console = Console(
        file=io.StringIO(),
        width=width or _WIDE,
        force_terminal=width is not None and colour,
        no_color=not colour,
        highlight=False,
        emoji=False,
    )
    with console.capture() as drawn:
        for tree in _Forest(graph).trees():
            console.print(tree, overflow="ellipsis", no_wrap=True, crop=True)
    return "".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines())


class _Forest:
    """Walks a graph from its external networks inwards, and draws each network where it is met
    first."""

    def __init__(self, graph: Topology) -> None:
        self._networks = {network.id: network for network in graph.networks}
        self._drawn: set[str] = set()
        self._met: set[str] = set()
        self._on: dict[str, _At] = defaultdict(list)
        for device in graph.devices:
            for link in device.links:
                self._on[link.network_id].append((device, link))
        self._nowhere = [device for device in graph.devices if not device.links]

    def trees(self) -> Iterator[Tree]:
        """One tree for each network that no router of an earlier one leads to."""
        for network in sorted(self._networks.values(), key=lambda each: not each.external):
            if network.id not in self._drawn:
                tree = Tree(_network(network))
                self._fill(tree, network)
                yield tree
        if self._nowhere:
            tree = Tree(Text("on no network"))
            for device in self._nowhere:
                tree.add(_device(device, ()))
            yield tree

    def _fill(self, tree: Tree, network: NetworkNode, came_by: str = "") -> None:
        self._drawn.add(network.id)
        for device in dict.fromkeys(device for device, _ in self._on[network.id]):
            here = [link for at, link in self._on[network.id] if at is device]
            if device.id == came_by:
                continue
            if device.id in self._met and device.kind == "router":
                tree.add(_device(device, here).append(" (above)"))
                continue
            branch = tree.add(_device(device, here))
            self._met.add(device.id)
            if device.kind == "router":
                self._lead_on(branch, device, network.id)

    def _lead_on(self, branch: Tree, router: Device, from_id: str) -> None:
        for link in router.links:
            network = self._networks.get(link.network_id)
            if network is None or network.id == from_id:
                continue
            line = _network(network, ", ".join(link.addresses))
            if network.id in self._drawn:
                branch.add(line.append(" (above)"))
            else:
                self._fill(branch.add(line), network, router.id)


def _network(network: NetworkNode, router_address: str = "") -> Text:
    segment = "" if network.segmentation_id is None else f" {network.segmentation_id}"
    on = f" on {network.physical_network}" if network.physical_network else ""
    said = [f"{network.type}{segment}{on}", *(subnet.cidr for subnet in network.subnets)]
    said += [
        word for word, true in (("external", network.external), ("DOWN", not network.up)) if true
    ]
    line = Text("net ", style="dim").append(visible(network.name), style="not dim bold")
    line.append(f"  {'  '.join(said)}")
    return line.append(f"  via {router_address}") if router_address else line


def _device(device: Device, links: Sequence[Link]) -> Text:
    line = Text("router " if device.kind == "router" else "")
    line.append(visible(device.name), style="bold")
    for link in links:
        line.append(f"  {', '.join(link.addresses)}" if link.addresses else "  no address")
        for address in link.floating:
            line.append(f" = {address}")
        line.append("" if link.up else " (down)")
    line.append(f"  {device.status}", style=_STATES.get(device.status, ""))
    return line.append(f"  {visible(device.host)}" if device.host else "")
