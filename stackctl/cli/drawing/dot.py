"""The networks of a project in Graphviz's language, for those who draw it with its tools."""

from __future__ import annotations

from collections.abc import Iterable

import graphviz

from stackctl.cli.drawing.colours import DOWN, colours_of, visible
from stackctl.cli.drawing.layout import labels
from stackctl.compute.seeing.topology import Device, NetworkNode, Topology


def dot(graph: Topology) -> str:
    """One node for each network and device, one edge for each link; nodes are named by ids."""
    drawing = graphviz.Graph(
        "topology",
        graph_attr={"rankdir": "LR", "ranksep": "1.2"},
        node_attr={"fontname": "sans-serif", "fontsize": "11"},
        edge_attr={"fontname": "monospace", "fontsize": "9"},
    )
    colours = colours_of(graph.networks)
    for network in graph.networks:
        drawing.node(
            network.id,
            _lines([network.name, _kind(network), *(each.cidr for each in network.subnets)]),
            shape="box",
            style="filled,rounded" if network.up else "dashed,rounded",
            fillcolor=colours[network.id],
            fontcolor="white" if network.up else "black",
        )
    for device in graph.devices:
        _draw_device(drawing, device, colours)
    return str(drawing.source)


def _draw_device(drawing: graphviz.Graph, device: Device, colours: dict[str, str]) -> None:
    shape = "ellipse" if device.kind == "router" else "box"
    drawing.node(device.id, _lines([device.name, device.status, device.host]), shape=shape)
    for link in device.links:
        drawing.edge(
            link.network_id,
            device.id,
            _lines(labels(link)),
            color=colours.get(link.network_id, DOWN),
            style="solid" if link.up else "dashed",
        )


def _kind(network: NetworkNode) -> str:
    words = [network.type, network.segmentation_id, network.physical_network]
    words += ["external" if network.external else None, None if network.up else "down"]
    return " ".join(str(word) for word in words if word is not None)


def _lines(parts: Iterable[str]) -> str:
    """Lines of a label; a backslash in a name is a backslash, and no name is HTML."""
    return str(graphviz.escape("\n".join(visible(part) for part in parts if part)))
