"""Sets of packets: cutting and joining them keeps every packet, and only those."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stackctl.network.traffic import Traffic, both, common, contains, joined

PORTS = st.integers(1, 12)
TCP = st.tuples(PORTS, PORTS).map(lambda pair: Traffic(6, min(pair), max(pair)))
CODES = st.none() | st.integers(0, 2)
ICMP = st.tuples(st.integers(0, 3), CODES).map(lambda pair: Traffic(1, *pair))
ANY = st.sampled_from([None, 1, 6, 17, 47]).map(Traffic)
TRAFFIC = TCP | ICMP | ANY
SETS = st.lists(TRAFFIC, max_size=6)

PACKETS = [
    *((6, port, port) for port in range(14)),
    *((17, port, port) for port in (1, 5)),
    *((1, kind, code) for kind in range(5) for code in range(4)),
    (47, None, None),
    (89, None, None),
]


def holds(whole: Traffic, packet: tuple[int, int | None, int | None]) -> bool:
    protocol, first, last = packet
    if whole.protocol not in (None, protocol):
        return False
    if whole.protocol is None or whole.first is None:
        return True
    if protocol == 1:
        return whole.first == first and whole.last in (None, last)
    return first is not None and whole.last is not None and whole.first <= first <= whole.last


def packets(parts: list[Traffic] | tuple[Traffic, ...]) -> set:
    return {packet for packet in PACKETS if any(holds(part, packet) for part in parts)}


@given(TRAFFIC, TRAFFIC)
def test_common(one: Traffic, other: Traffic) -> None:
    met = common(one, other)
    assert packets([one]) & packets([other]) == packets([met] if met else [])
    assert common(other, one) == met


@given(TRAFFIC, TRAFFIC)
def test_contains(whole: Traffic, part: Traffic) -> None:
    if contains(whole, part):
        assert packets([part]) <= packets([whole])


@given(SETS)
def test_joined(parts: list[Traffic]) -> None:
    made = joined(parts)
    assert packets(made) == packets(parts)
    assert len(made) <= len(set(parts))
    assert joined(made) == made
    assert joined(list(reversed(parts))) == made


@given(SETS, SETS)
def test_both(out: list[Traffic], in_: list[Traffic]) -> None:
    assert packets(both(out, in_)) == packets(out) & packets(in_)
