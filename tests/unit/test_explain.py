"""Why a server is where it is, or nowhere, or not well."""

import pytest

from stackctl.compute import service
from stackctl.compute.explain import explain
from stackctl.errors import NoCapacity, NotFound


def test_placed(pair):
    pair.booted("vm", flavor="medium")
    told = explain(pair.context, "vm")
    assert (told.chosen, told.needs) == ("h1", "2 vcpus, 4096 MB RAM, 80 GB, tunnels")
    assert [(item.host, item.chosen) for item in told.hosts] == [("h1", True), ("h2", False)]
    assert "RAMWeigher" in told.hosts[0].verdict
    assert told.next_command == ""
    assert [event["message"] for event in told.events] == [
        "asked for; placed on h1",
        "built and running",
    ]


def test_by_id(pair):
    server = pair.booted("vm")[0]
    assert explain(pair.context, server.id).name == "vm"


def test_refused(pair):
    with pytest.raises(NoCapacity):
        pair.boot("vm", zone="moon")
    told = explain(pair.context, "vm")
    assert (told.server, told.chosen) == (None, "")
    assert {item.verdict for item in told.hosts} == {
        "AvailabilityZoneFilter: is in zone nova, not moon"
    }
    assert "No valid host" in told.events[0]["message"]
    assert "host-list" in told.next_command


def test_failed(pair):
    pair.trouble("h1", fail={"domain": "unsupported machine type"})
    pair.boot("vm", host="h1")
    told = explain(pair.context, "vm")
    assert told.server.fault.message == "unsupported machine type"
    assert told.events[-1]["message"] == "unsupported machine type"
    assert told.next_command.startswith("stackctl reboot --hard vm")


def test_deleted(pair):
    pair.booted("vm", host="h2")
    service.delete_servers(pair.context, ["vm"]).check()
    told = explain(pair.context, "vm")
    assert (told.server, told.chosen) == (None, "h2")
    assert [event["action"] for event in told.events] == ["boot", "converge", "delete"]


def test_the_newest_of_a_name(pair):
    pair.booted("vm", host="h2")
    service.delete_servers(pair.context, ["vm"]).check()
    pair.booted("vm", host="h1")
    assert explain(pair.context, "vm").chosen == "h1"


def test_placed_again(pair):
    pair.trouble("h1", unreachable=True)
    pair.booted("vm")
    assert explain(pair.context, "vm").chosen == "h2"


def test_a_large_cloud_is_told_in_short(world):
    world.add_image()
    world.add_network()
    for number in range(60):
        world.add_host(f"h{number:02}", zone="moon" if number >= 55 else "nova")
    world.booted("vm", zone="nova")
    told = explain(world.context, "vm")
    assert (told.hosts[0].host, told.hosts[0].chosen) == ("h00", True)
    assert (len(told.hosts), told.left_out) == (55, 5)
    with pytest.raises(NoCapacity, match="h19: is in zone nova, not sun; and 40 more hosts"):
        world.boot("other", zone="sun")


def test_nothing_is_known(pair):
    with pytest.raises(NotFound, match="never booted or refused"):
        explain(pair.context, "vm")
