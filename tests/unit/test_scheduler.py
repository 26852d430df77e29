"""Where servers go, and why, with each host's numbers."""

import dataclasses
import json

import pytest

from stackctl.compute.capacity import UNREACHABLE_EXPIRES_S, candidates
from stackctl.compute.scheduling.scheduler import Candidate, Request, decide, no_valid_host, place
from stackctl.errors import NoCapacity
from stackctl.state import read

SMALL = Request("vm", 1, 2048, 20)


def host(name, **more):
    values = {"id": f"id-{name}", "name": name, "enabled": True, "disabled_reason": ""}
    values |= {"zone": "nova", "fenced": False, "recently_unreachable": False}
    values |= {"vcpus_total": 8, "ram_mb_total": 8192, "disk_gb_total": 100}
    return Candidate(**{**values, **more})


def refusal(candidate, **more):
    verdict = decide(dataclasses.replace(SMALL, **more), [candidate]).verdicts[0]
    return verdict.refused_by, verdict.why


@pytest.mark.parametrize(
    ("columns", "request_", "filter_", "why"),
    [
        ({"fenced": True}, {}, "ComputeFilter", "is fenced; stackctl host-return brings it back"),
        ({"enabled": False}, {}, "ComputeFilter", "is disabled"),
        ({"enabled": False, "disabled_reason": "x"}, {}, "ComputeFilter", "is disabled: x"),
        ({}, {"host": "other"}, "HostHintFilter", "is not the host asked for"),
        ({"zone": "a"}, {"zone": "b"}, "AvailabilityZoneFilter", "is in zone a, not b"),
        (
            {},
            {"physical_networks": frozenset({"p2", "p1"})},
            "NetworkFilter",
            "has no bridge for physical network p1, p2",
        ),
        (
            {"tunnels": False},
            {"needs_tunnels": True},
            "NetworkFilter",
            "has no tunnel address (host-set --tunnel-address)",
        ),
        ({"vcpus_used": 8}, {}, "CoreFilter", "vcpus: needs 1, 0 free"),
        ({"ram_mb_used": 5092}, {"ram_mb": 4096}, "RamFilter", "RAM: needs 4096 MB, 3100 MB free"),
        ({"disk_gb_used": 101}, {}, "DiskFilter", "disk: needs 20 GB, 0 GB free"),
        (
            {"ram_mb_total": 1548576.5},
            {"ram_mb": 2000000},
            "RamFilter",
            "RAM: needs 2000000 MB, 1548576.5 MB free",
        ),
    ],
)
def test_filters_say_why_with_numbers(columns, request_, filter_, why):
    assert refusal(host("h", **columns), **request_) == (filter_, why)


def test_the_hinted_host_by_name_or_id():
    for word in ("h", "id-h"):
        assert decide(dataclasses.replace(SMALL, host=word), [host("a"), host("h")]).host == "h"


def test_a_request_that_fits_exactly_fits():
    exact = host("h", vcpus_total=1, ram_mb_total=2048, disk_gb_total=20)
    assert decide(SMALL, [exact]).host == "h"


def test_the_emptiest_host_wins():
    assert decide(SMALL, [host("a", ram_mb_used=4096), host("b")]).host == "b"


def test_ties_go_to_the_first_name():
    assert decide(SMALL, [host("b"), host("a"), host("c")]).host == "a"


def test_weights_are_normalised_over_those_that_can():
    hosts = [
        host("a"),
        host("b", ram_mb_used=6144),
        host("c", ram_mb_used=2048),
        host("no", fenced=True),
    ]
    verdicts = {item.host: dict(item.weights) for item in decide(SMALL, hosts).verdicts}
    assert [verdicts[name]["RAMWeigher"] for name in "abc"] == [1.0, 0.0, pytest.approx(0.6667)]
    assert verdicts["no"] == {}


def test_a_host_that_did_not_answer_is_a_last_resort():
    silent = host("a", recently_unreachable=True)
    assert decide(SMALL, [silent, host("b", ram_mb_used=6144)]).host == "b"
    assert decide(SMALL, [silent, host("b", ram_mb_used=8000)]).host == "a"


def test_each_sees_what_the_ones_before_it_took():
    decisions = place([SMALL] * 4, [host("a"), host("b")])
    assert [decision.host for decision in decisions] == ["a", "b", "a", "b"]


def test_all_or_nothing_stops_at_the_first_that_fits_nowhere():
    decisions = place([SMALL] * 9, [host("a"), host("b")])
    assert [bool(decision.host_id) for decision in decisions] == [True] * 8 + [False]
    words = no_valid_host(decisions[-1], 8, 9)
    assert "after 8 of 9 were placed" in words
    assert "a: RAM: needs 2048 MB, 0 MB free; b: RAM: needs 2048 MB, 0 MB free." in words


def test_no_hosts_at_all():
    assert "has no hosts" in no_valid_host(decide(SMALL, []), 0, 1)


class TestCapacity:
    def candidate(self, world, name="h1"):
        with read(world.cloud) as reader:
            return {item.name: item for item in candidates(reader)}[name]

    def test_ratios_and_reserve(self, world):
        more = {"vcpus": 4, "ram_mb": 4608, "disk_gb": 10, "cpu_ratio": 2.0, "ram_ratio": 1.5}
        world.add_host("h1", **more, disk_ratio=3.0)
        seen = self.candidate(world)
        assert (seen.vcpus_total, seen.ram_mb_total, seen.disk_gb_total) == (8, 6144, 30)

    def test_what_servers_take(self, pair):
        pair.booted(flavor="medium", host="h1")
        seen = self.candidate(pair)
        taken = (seen.servers, seen.vcpus_used, seen.ram_mb_used, seen.disk_gb_used)
        assert taken == (1, 2, 4096, 80)

    @pytest.mark.parametrize(("ago", "recent"), [(10, True), (UNREACHABLE_EXPIRES_S + 10, False)])
    def test_unreachable_expires(self, world, ago, recent):
        import datetime

        at = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago)
        world.add_host("h1", unreachable_since=at.isoformat().replace("+00:00", "Z"))
        assert self.candidate(world).recently_unreachable is recent

    def test_a_deleted_host_is_none(self, world):
        world.add_host("h1", deleted_at="now")
        with read(world.cloud) as reader:
            assert candidates(reader) == []


def test_no_room_boots_nothing_and_is_remembered(pair):
    with pytest.raises(NoCapacity, match=r"h1: RAM: needs 16384 MB, \d+ MB free; h2: ") as caught:
        pair.boot(count=9, flavor="m1.xlarge")
    assert "after 6 of 9 were placed" in caught.value.message
    assert caught.value.exit_status == 6
    assert pair.servers() == {}
    assert pair.value("SELECT count(*) FROM bindings") == 0
    decision = json.loads(pair.value("SELECT decision_json FROM decisions"))
    assert {item["refused_by"] for item in decision["verdicts"]} == {"RamFilter"}
