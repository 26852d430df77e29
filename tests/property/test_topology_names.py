"""Whatever anybody calls anything: a topology draws one node for it, and nothing else."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import example, given
from hypothesis import strategies as st

from stackctl.cli.drawing.dot import dot
from stackctl.cli.drawing.layout import shortened, text_width
from stackctl.cli.drawing.svg import svg
from stackctl.cli.drawing.text import text
from stackctl.compute.seeing.topology import Device, Link, NetworkNode, Topology

NASTY = st.text(max_size=60) | st.text(
    st.sampled_from("ab<>&\"'\\{}[];\n\x1b é𝕏界\u202e"), max_size=40
)
SVG = "{http://www.w3.org/2000/svg}"

# A string of the DOT language: between quotes, a quote inside has a backslash before it.
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def graph(network: str, router: str, server: str) -> Topology:
    link = Link("p", "n", "fa:16:3e:00:00:01", ("10.0.0.1",), (), False, True)
    return Topology(
        (NetworkNode("n", network, "vxlan", None, 1, 1450, False, False, True, ()),),
        (
            Device("r", "router", router, "ACTIVE", "h", (link,)),
            Device("s", "server", server, "ACTIVE", "h", (link,)),
        ),
    )


@given(NASTY, NASTY, NASTY)
@example("<b>x</b>", "</title><script>", "\\")
@example("]]>", "\ufffe", "a\\")
def test_svg(network: str, router: str, server: str) -> None:
    plain = list(ElementTree.fromstring(svg(graph("a", "b", "c"), "t")).iter())
    root = ElementTree.fromstring(svg(graph(network, router, server), "t"))
    assert [each.tag for each in root.iter()] == [each.tag for each in plain]


@given(NASTY, NASTY, NASTY)
@example("<b>x</b>", 'x" ]; evil [label="', "\\")
@example("a\\", "\\N", '\\"')
def test_dot(network: str, router: str, server: str) -> None:
    plain = STRING.sub("S", _quoted(dot(graph("a b", "a b", "a b"))))
    assert STRING.sub("S", _quoted(dot(graph(network, router, server)))) == plain


def _quoted(drawn: str) -> str:
    """Labels always between quotes: a plain word may stand without them."""
    return re.sub(r"(?<=label=)(-?[\w.]+)(?= |\])", r'"\1"', drawn)


@given(NASTY, NASTY, NASTY)
def test_text(network: str, router: str, server: str) -> None:
    assert len(text(graph(network, router, server)).splitlines()) == 3


@given(NASTY, st.integers(2, 40))
def test_shortened(name: str, columns: int) -> None:
    assert text_width(shortened(name, columns)) <= columns
