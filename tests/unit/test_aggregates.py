"""Sets of hosts, their metadata, and the zones that they give."""

import dataclasses

import pytest

from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.hosts.aggregates import (
    AggregateChange,
    NewAggregate,
    add_host,
    create_aggregate,
    delete_aggregate,
    list_aggregates,
    list_zones,
    remove_host,
    set_aggregate,
    show_aggregate,
)
from stackctl.hosts.settings import set_host
from stackctl.hosts.types import HostChanges
from stackctl.state import write


def make(world, name="east", zone="east", **metadata):
    return create_aggregate(world.context, NewAggregate(name, zone, metadata)).value


def zone(world, host):
    return world.host(host)["zone"]


def test_one_is_made_changed_and_deleted(pair):
    made = make(pair, "fast", None, ssd="true", net="10g")
    assert (made.zone, made.metadata, made.hosts) == (None, {"ssd": "true", "net": "10g"}, ())
    change = AggregateChange(name="slow", metadata={"ssd": "false", "net": None})
    assert set_aggregate(pair.context, "fast", change).value.metadata == {"ssd": "false"}
    change = AggregateChange(metadata={"a": "b"}, clear=True)
    assert set_aggregate(pair.context, "slow", change).value.metadata == {"a": "b"}
    assert [item.name for item in list_aggregates(pair.context)] == ["slow"]
    delete_aggregate(pair.context, "slow")
    with pytest.raises(NotFound, match="There is no aggregate"):
        show_aggregate(pair.context, made.id)
    make(pair, "slow")


@pytest.mark.parametrize(
    ("name", "zone", "metadata", "kind"),
    [
        ("there", None, {}, Conflict),
        ("", None, {}, UsageError),
        ("a", "not a zone", {}, UsageError),
        ("a", None, {"k v": "1"}, UsageError),
        ("a", None, {"k": "x" * 256}, UsageError),
        ("a", None, {"k": "a\nb"}, UsageError),
    ],
)
def test_refused(world, name, zone, metadata, kind):
    make(world, "there")
    with pytest.raises(kind):
        make(world, name, zone, **metadata)
    assert len(list_aggregates(world.context)) == 1


def test_nothing_to_change_or_a_taken_name(world):
    make(world, "a")
    make(world, "b")
    with pytest.raises(UsageError, match="Nothing to change"):
        set_aggregate(world.context, "a", AggregateChange())
    with pytest.raises(Conflict, match="Aggregate b already exists"):
        set_aggregate(world.context, "a", AggregateChange(name="b"))


def test_hosts_come_and_go(pair):
    make(pair, "fast", None)
    assert add_host(pair.context, "fast", "h2").value.hosts == ("h2",)
    with pytest.raises(Conflict, match="already has host h2"):
        add_host(pair.context, "fast", "h2")
    with pytest.raises(Conflict, match=r"Cannot remove aggregate fast: it has hosts h2\."):
        delete_aggregate(pair.context, "fast")
    assert remove_host(pair.context, "fast", "h2").value.hosts == ()
    with pytest.raises(NotFound, match="has no host h2"):
        remove_host(pair.context, "fast", "h2")


class TestZones:
    def test_an_aggregate_gives_its_zone_and_takes_it_back(self, pair):
        make(pair)
        add_host(pair.context, "east", "h1")
        assert (zone(pair, "h1"), zone(pair, "h2")) == ("east", "nova")
        assert pair.booted(zone="east")[0].host == "h1"
        with pytest.raises(Conflict, match="contain instances in this zone: vm"):
            remove_host(pair.context, "east", "h1")
        with write(pair.cloud) as writer:
            writer.run("UPDATE servers SET deleted_at = 'now'")
        remove_host(pair.context, "east", "h1")
        assert zone(pair, "h1") == "nova"

    def test_metadata_is_a_spelling_of_it(self, pair):
        made = make(pair, "a", None, availability_zone="north")
        assert (made.zone, made.metadata) == ("north", {})
        add_host(pair.context, "a", "h1")
        change = AggregateChange(metadata={"availability_zone": "south"})
        set_aggregate(pair.context, "a", change)
        assert zone(pair, "h1") == "south"
        set_aggregate(pair.context, "a", AggregateChange(metadata={"availability_zone": None}))
        assert zone(pair, "h1") == "nova"

    def test_a_host_is_in_one_zone(self, pair):
        make(pair, "east", "east")
        make(pair, "west", "west")
        make(pair, "east2", "east")
        add_host(pair.context, "east", "h1")
        add_host(pair.context, "east2", "h1")
        with pytest.raises(Conflict, match="in zone east by aggregate east, so it cannot get"):
            add_host(pair.context, "west", "h1")
        assert show_aggregate(pair.context, "west").hosts == ()
        with pytest.raises(Conflict, match="by aggregate east2"):
            set_aggregate(pair.context, "east", AggregateChange(zone="west"))
        remove_host(pair.context, "east2", "h1")
        assert zone(pair, "h1") == "east"

    def test_servers_hold_their_host_in_its_zone(self, pair):
        pair.booted(host="h1")
        make(pair)
        words = "cannot go from zone nova to east: one or more hosts contain instances"
        with pytest.raises(Conflict, match=words):
            add_host(pair.context, "east", "h1")
        with pytest.raises(Conflict, match=words):
            set_host(pair.context, "h1", HostChanges(zone="east"))
        assert show_aggregate(pair.context, "east").hosts == ()
        set_host(pair.context, "h1", HostChanges(zone="nova"))

    def test_a_host_without_aggregate_has_its_own(self, pair):
        set_host(pair.context, "h1", HostChanges(zone="rack1"))
        make(pair, "rack", None)
        add_host(pair.context, "rack", "h1")
        assert zone(pair, "h1") == "rack1"
        make(pair)
        add_host(pair.context, "east", "h1")
        with pytest.raises(Conflict, match="Host h1 is in zone east by aggregate east"):
            set_host(pair.context, "h1", HostChanges(zone="rack1"))

    def test_they_are_listed(self, pair):
        make(pair, "empty", "south")
        make(pair, "east", "east")
        add_host(pair.context, "east", "h1")
        set_host(pair.context, "h1", HostChanges(enabled=False))
        zones = [(item.name, item.available, item.hosts) for item in list_zones(pair.context)]
        assert zones == [
            ("east", False, ("h1",)),
            ("nova", True, ("h2",)),
            ("south", False, ()),
        ]


def test_a_host_that_leaves_the_cloud_leaves_its_aggregates(pair):
    from stackctl.hosts.leaving import delete_host

    make(pair, "fast", None)
    add_host(pair.context, "fast", "h1")
    delete_host(pair.context, "h1", off_for_good=True)
    assert show_aggregate(pair.context, "fast").hosts == ()
    delete_aggregate(pair.context, "fast")


def test_a_rehearsal_changes_nothing(pair):
    make(pair)
    rehearsal = dataclasses.replace(pair.context, dry_run=True)
    assert add_host(rehearsal, "east", "h1").value.hosts == ("h1",)
    assert (show_aggregate(pair.context, "east").hosts, zone(pair, "h1")) == ((), "nova")
