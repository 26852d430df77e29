"""Weighers: which of the hosts that can is better, and by how much."""

import dataclasses

import pytest

from stackctl.compute.scheduling.policy import policy_of
from stackctl.compute.scheduling.scheduler import Group, Request, decide, place
from stackctl.compute.scheduling.weighers import normalised
from tests.unit.test_scheduler import host

SMALL = Request("vm", 1, 2048, 20)


def weights(name, first, second, request=SMALL, **settings):
    """What a weigher says of two hosts, and which of them wins."""
    hosts = [host("a", **first), host("b", **second)]
    decision = decide(request, hosts, policy_of(settings))
    found = {item.host: dict(item.weights).get(name) for item in decision.verdicts}
    return found["a"], found["b"], decision.host


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("RAMWeigher", {"ram_mb_used": 1024}),
        ("CPUWeigher", {"vcpus_used": 1}),
        ("DiskWeigher", {"disk_gb_used": 10}),
    ],
)
def test_the_emptier_host_wins(name, worse):
    assert weights(name, worse, {}) == (0.0, 1.0, "b")


@pytest.mark.parametrize(
    ("name", "setting", "worse"),
    [
        ("RAMWeigher", "ram_weight_multiplier", {"ram_mb_used": 1024}),
        ("CPUWeigher", "cpu_weight_multiplier", {"vcpus_used": 1}),
        ("DiskWeigher", "disk_weight_multiplier", {"disk_gb_used": 10}),
    ],
)
def test_a_negative_multiplier_fills_hosts_one_by_one(name, setting, worse):
    assert weights(name, worse, {}, **{setting: -2.5}) == (0.0, -2.5, "a")


def test_a_host_that_builds_much_is_spared():
    assert weights("IoOpsWeigher", {"builds": 3}, {}) == (-1.0, 0.0, "b")


def test_the_number_of_servers_counts_when_asked():
    assert weights("NumInstancesWeigher", {"servers": 3}, {}) == (None, None, "a")
    told = weights("NumInstancesWeigher", {"servers": 3}, {}, num_instances_weight_multiplier=-1)
    assert told == (-1.0, 0.0, "b")


def test_failed_builds_beat_everything_else():
    told = weights("BuildFailureWeigher", {"build_failures": 1}, {"ram_mb_used": 6000})
    assert told == (0.0, 1000000.0, "b")


def test_silence_beats_what_is_free():
    told = weights("ReachableWeigher", {"recently_unreachable": True}, {"ram_mb_used": 6000})
    assert told == (0.0, 10.0, "b")


def soft(policy, **members):
    return dataclasses.replace(SMALL, group=Group("g", "web", policy, 1, members))


def test_soft_affinity_goes_where_most_are():
    request = soft("soft-affinity", **{"id-a": 1, "id-b": 3})
    assert weights("ServerGroupSoftAffinityWeigher", {}, {}, request) == (0.0, 1.0, "b")


def test_soft_anti_affinity_goes_where_fewest_are():
    request = soft("soft-anti-affinity", **{"id-a": 3, "id-b": 1})
    assert weights("ServerGroupSoftAntiAffinityWeigher", {}, {}, request) == (0.0, 1.0, "b")


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("soft-affinity", "ServerGroupSoftAntiAffinityWeigher"),
        ("soft-anti-affinity", "ServerGroupSoftAffinityWeigher"),
        ("affinity", "ServerGroupSoftAffinityWeigher"),
    ],
)
def test_a_policy_is_weighed_by_its_own_weigher_only(policy, name):
    assert weights(name, {}, {}, soft(policy))[:2] == (None, None)


class TestSeveral:
    def test_soft_anti_affinity_spreads_and_then_doubles(self):
        hosts = [host(name, ram_mb_total=99999) for name in "abc"]
        placed = [item.host for item in place([soft("soft-anti-affinity")] * 6, hosts)]
        assert sorted(placed[:3]) == sorted(placed[3:]) == ["a", "b", "c"]

    def test_soft_affinity_stays_until_it_is_full(self):
        settings = {"soft_affinity_weight_multiplier": 10}
        hosts = [host("a"), host("b")]
        placed = [
            item.host for item in place([soft("soft-affinity")] * 6, hosts, policy_of(settings))
        ]
        assert placed == ["a"] * 4 + ["b"] * 2

    def test_affinity_ends_when_its_host_is_full(self):
        placed = [item.host for item in place([soft("affinity")] * 6, [host("a"), host("b")])]
        assert placed == ["a"] * 4 + [""]

    def test_anti_affinity_ends_when_every_host_has_its_share(self):
        request = dataclasses.replace(
            SMALL, group=Group("g", "web", "anti-affinity", 2, {"id-a": 1})
        )
        placed = [item.host for item in place([request] * 4, [host("a"), host("b")])]
        assert placed == ["a", "b", "b", ""]


def test_normalised():
    assert normalised([]) == []
    assert normalised([3, 3]) == [0, 0]
    assert normalised([1, 2, 5]) == [0, 0.25, 1]
