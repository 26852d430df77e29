"""The meters of br-int, which limit what ports send and receive, and their difference. Pure.

Meters work in both datapaths of Open vSwitch. A flow that names a meter needs it first, and a
meter that is removed takes the flows along that name it: so meters are added before the flows
change, and removed after.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

Limits = Mapping[int, tuple[int, int]]
"""Kilobits a second and the burst in kilobits, by the number of the meter."""

_METER = re.compile(
    r"meter[=:](\d+) (.*?)bands=\s*type=drop rate=(\d+)(?: burst_size=(\d+))?", re.DOTALL
)


class MeterDifference(NamedTuple):
    """Commands before the flows change, and after."""

    before: list[tuple[str, str]]
    after: list[tuple[str, str]]

    @property
    def why(self) -> str:
        """The difference in words; empty when there is none."""
        parts = []
        if self.before:
            parts.append(f"{len(self.before)} limits missing or altered: {self.before[0][1]}")
        if self.after:
            parts.append(f"{len(self.after)} limits too many: {self.after[0][1]}")
        return "; ".join(parts)


def parse_meters(text: str) -> dict[int, tuple[int, int]]:
    """Read ``ovs-ofctl dump-meters``; what is no limit like ours reads as no limit at all."""
    found = {int(number): (0, 0) for number in re.findall(r"meter[=:](\d+)", text)}
    for number, flags, rate, burst in _METER.findall(text):
        if "kbps" in flags and "burst" in flags:
            found[int(number)] = (int(rate), int(burst or 0))
    return found


def difference(wanted: Limits, there: Limits) -> MeterDifference:
    """What turns the meters that are there into those that should be."""
    before = [
        ("mod-meter" if number in there else "add-meter", _text(number, *limit))
        for number, limit in wanted.items()
        if there.get(number) != limit
    ]
    after = [("del-meter", f"meter={number}") for number in there if number not in wanted]
    return MeterDifference(before, after)


def _text(number: int, rate: int, burst: int) -> str:
    return f"meter={number},kbps,burst,band=type=drop,rate={rate},burst_size={burst}"
