"""Never over capacity, every hint and group kept, every refusal told, always the same answer."""

import ipaddress
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stackctl.compute.scheduling.filters import OPTIONAL
from stackctl.compute.scheduling.policy import DEFAULT_POLICY, policy_of
from stackctl.compute.scheduling.query import holds
from stackctl.compute.scheduling.scheduler import (
    Aggregate,
    Candidate,
    Group,
    Placer,
    Request,
    ServerAt,
    examine,
    no_valid_host,
    place,
)
from stackctl.compute.scheduling.specs import matches

NUMBERS = st.integers(0, 12)
NAMES = "abcdefg"
EVERYTHING = policy_of(
    {
        "enabled_filters": list(OPTIONAL),
        "max_io_ops_per_host": 3,
        "max_instances_per_host": 5,
        "isolated_hosts": ["a", "b"],
        "isolated_images": ["secret"],
        "num_instances_weight_multiplier": -1,
    }
)
POLICIES = st.sampled_from([DEFAULT_POLICY, EVERYTHING])
AGGREGATES = st.lists(
    st.builds(
        Aggregate,
        st.sampled_from("xy"),
        st.dictionaries(
            st.sampled_from(["ssd", "filter_tenant_id"]), st.sampled_from(["1", "2", "1,2"])
        ),
    ),
    max_size=2,
).map(tuple)


@st.composite
def hosts(draw):
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
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
            servers=draw(st.integers(0, 4)),
            builds=draw(st.integers(0, 3)),
            build_failures=draw(st.integers(0, 2)),
            address=draw(st.sampled_from(["10.0.0.1", "10.0.1.1", "node"])),
            aggregates=draw(AGGREGATES),
            facts_json=draw(st.sampled_from(["{}", '{"virt_type": "kvm"}'])),
        )
        for name in names
    ]


SERVERS = st.lists(
    st.builds(ServerAt, st.just("s"), st.sampled_from([None, *NAMES])), max_size=2
).map(tuple)
GROUPS = st.sampled_from(
    [
        None,
        Group("g1", "together", "affinity"),
        Group("g2", "apart", "anti-affinity", 2, {"a": 1}),
    ]
)
REQUEST = st.builds(
    Request,
    st.just("vm"),
    st.integers(1, 4),
    NUMBERS,
    NUMBERS,
    zone=st.sampled_from([None, "x", "y"]),
    project_id=st.sampled_from(["1", "3"]),
    image_id=st.sampled_from(["secret", "plain"]),
    extra_specs=st.sampled_from([{}, {"ssd": "1"}, {"capabilities:virt_type": "kvm"}]),
    image_properties=st.sampled_from([{}, {"img_hv_type": "kvm"}, {"hw_architecture": "arm"}]),
    group=GROUPS,
    different_host=SERVERS,
    same_host=SERVERS,
    query=st.sampled_from([None, ["=", "$zone", "x"], [">", "$free_ram_mb", 3]]),
    near=st.sampled_from(["", "10.0.0.0/24"]),
)
REQUESTS = st.lists(REQUEST, min_size=1, max_size=8)
PLAIN = st.lists(
    st.builds(Request, st.just("vm"), st.integers(1, 2), NUMBERS, NUMBERS, group=GROUPS),
    min_size=1,
    max_size=8,
)


def placements(decisions, host):
    return [item.request for item in decisions if item.host_id == host.id]


@given(hosts(), REQUESTS | PLAIN, POLICIES)
def test_nothing_is_given_twice(candidates, requests, policy):
    decisions = place(requests, candidates, policy)
    for host in candidates:
        mine = placements(decisions, host)
        if mine:
            assert host.enabled
            assert all(item.zone in (None, host.zone) for item in mine)
            assert sum(item.vcpus for item in mine) <= host.vcpus_free
            assert sum(item.ram_mb for item in mine) <= host.ram_mb_free
            assert sum(item.disk_gb for item in mine) <= host.disk_gb_free


@given(hosts(), REQUESTS | PLAIN, POLICIES)
def test_every_hint_holds_where_a_server_goes(candidates, requests, policy):
    by_id = {host.id: host for host in candidates}
    for decision in place(requests, candidates, policy):
        if decision.host_id is None:
            continue
        request = decision.request
        host = next(item for item in decision.hosts if item.id == decision.host_id)
        assert host.id not in {server.host_id for server in request.different_host}
        if request.same_host:
            assert host.id in {server.host_id for server in request.same_host}
        if request.query is not None:
            assert holds(request.query, host.capabilities)
        if request.near:
            network = ipaddress.ip_network(request.near)
            assert ipaddress.ip_address(by_id[host.id].address) in network
        if "capabilities:virt_type" in request.extra_specs:
            assert matches(host.capabilities.get("virt_type"), "kvm")


@given(hosts(), REQUESTS | PLAIN)
def test_what_only_some_clouds_ask_holds_there(candidates, requests):
    decisions = place(requests, candidates, EVERYTHING)
    for host in candidates:
        mine = placements(decisions, host)
        if mine:
            assert host.servers + len(mine) <= 5
            assert host.builds + len(mine) <= 3
            assert all((item.image_id == "secret") == (host.name in "ab") for item in mine)


@given(hosts(), PLAIN, POLICIES)
def test_groups_stay_together_or_apart(candidates, requests, policy):
    decisions = place(requests, candidates, policy)
    where = [
        (item.request.group.id, item.host_id)
        for item in decisions
        if item.request.group and item.host_id
    ]
    assert len({host_id for group_id, host_id in where if group_id == "g1"}) <= 1
    apart = Counter(host_id for group_id, host_id in where if group_id == "g2")
    assert all(count + (host_id == "a") <= 2 for host_id, count in apart.items())


@given(hosts(), REQUESTS | PLAIN, POLICIES)
def test_all_are_placed_or_the_last_one_tells_of_every_host(candidates, requests, policy):
    decisions = place(requests, candidates, policy)
    assert all(item.host_id for item in decisions[:-1])
    if decisions[-1].host_id is None:
        assert all(verdict.why and verdict.refused_by for verdict in decisions[-1].verdicts)
        words = no_valid_host(decisions[-1], len(decisions) - 1, len(requests))
        assert all(f"{host.name}: " in words for host in candidates)
    else:
        assert len(decisions) == len(requests)
    assert all(len(item.verdicts) == len(candidates) for item in decisions)


@given(hosts(), REQUESTS | PLAIN, POLICIES)
def test_an_examination_agrees_with_the_verdict(candidates, requests, policy):
    for decision in place(requests, candidates, policy):
        for verdict in decision.verdicts:
            said = examine(decision, verdict.host_id, policy)
            assert all(item.words for item in said)
            refusing = [(item.filter, item.words) for item in said if not item.passes]
            if verdict.refused_by:
                assert refusing[0] == (verdict.refused_by, verdict.why)
            else:
                assert refusing == []


@given(hosts(), REQUESTS | PLAIN, POLICIES, st.randoms())
def test_the_order_of_hosts_does_not_matter(candidates, requests, policy, chance):
    shuffled = list(candidates)
    chance.shuffle(shuffled)
    placed = [item.host_id for item in place(requests, candidates, policy)]
    assert placed == [item.host_id for item in place(requests, shuffled, policy)]


@given(hosts(), REQUEST, POLICIES)
def test_filling_a_host_takes_what_placing_on_it_would(candidates, request, policy):
    for host in candidates:
        filled = Placer([host], policy).fill(host.id, request, 50)
        placed = place([request] * 51, [host], policy)
        assert filled == sum(item.host_id is not None for item in placed)
