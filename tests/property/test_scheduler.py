"""Never over capacity, all or nothing, and always the same answer."""

from hypothesis import given
from hypothesis import strategies as st

from stackctl.compute.scheduler import Candidate, Request, place

NUMBERS = st.integers(0, 12)


@st.composite
def hosts(draw):
    names = draw(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=6))
    return [
        Candidate(
            id=name,
            name=name,
            enabled=draw(st.booleans()),
            disabled_reason="",
            zone=draw(st.sampled_from(["x", "y"])),
            fenced=False,
            recently_unreachable=draw(st.booleans()),
            vcpus_total=draw(NUMBERS),
            ram_mb_total=draw(NUMBERS),
            disk_gb_total=draw(NUMBERS),
            vcpus_used=draw(NUMBERS),
            ram_mb_used=draw(NUMBERS),
            disk_gb_used=draw(NUMBERS),
        )
        for name in names
    ]


ZONES = st.sampled_from([None, "x", "y"])
REQUESTS = st.lists(
    st.builds(Request, st.just("vm"), st.integers(1, 4), NUMBERS, NUMBERS, zone=ZONES),
    min_size=1,
    max_size=8,
)


@given(hosts(), REQUESTS)
def test_nothing_is_given_twice(candidates, requests):
    decisions = place(requests, candidates)
    for host in candidates:
        mine = [item.request for item in decisions if item.host_id == host.id]
        if mine:
            assert host.enabled
            assert all(item.zone in (None, host.zone) for item in mine)
            assert sum(item.vcpus for item in mine) <= host.vcpus_free
            assert sum(item.ram_mb for item in mine) <= host.ram_mb_free
            assert sum(item.disk_gb for item in mine) <= host.disk_gb_free


@given(hosts(), REQUESTS)
def test_all_are_placed_or_the_last_one_tells_of_every_host(candidates, requests):
    decisions = place(requests, candidates)
    assert all(item.host_id for item in decisions[:-1])
    if decisions[-1].host_id is None:
        assert all(verdict.why for verdict in decisions[-1].verdicts)
    else:
        assert len(decisions) == len(requests)
    assert all(len(item.verdicts) == len(candidates) for item in decisions)


@given(hosts(), REQUESTS, st.randoms())
def test_the_order_of_hosts_does_not_matter(candidates, requests, chance):
    shuffled = list(candidates)
    chance.shuffle(shuffled)
    placed = [item.host_id for item in place(requests, candidates)]
    assert placed == [item.host_id for item in place(requests, shuffled)]
