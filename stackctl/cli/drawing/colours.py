"""What the pictures of a topology share: a colour for each network, and text that can be shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stackctl.cli.render import printable
from stackctl.compute.seeing.topology import NetworkNode

EXTERNAL = "#475569"
DOWN = "#cbd5e1"

# Told apart by people who do not see all colours (after Okabe and Ito), dark enough for white.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#a8478a", "#8a6d00", "#3a86c8", "#7453a6", "#a03c3c")

# Line ends, and what XML cannot hold.
_INVISIBLE = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff\ufffe\uffff]")


def colours_of(networks: Sequence[NetworkNode]) -> dict[str, str]:
    """A colour by network: grey for those that lead outside, pale for those that are down."""
    own = [network.id for network in networks if not network.external]
    colours = {id_: _PALETTE[at % len(_PALETTE)] for at, id_ in enumerate(own)}
    for network in networks:
        if not network.up:
            colours[network.id] = DOWN
        elif network.external:
            colours[network.id] = EXTERNAL
    return colours


def visible(text: str) -> str:
    """A name as one line of characters that every kind of picture can hold."""
    return _INVISIBLE.sub(" ", printable(text))
