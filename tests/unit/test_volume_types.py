"""Volume types: places for volumes; who has them, who cares for what is there."""

import json

import pytest

from stackctl.compute import service as servers
from stackctl.compute import what_if
from stackctl.compute.attachments import attach_volume, detach_volume
from stackctl.errors import (
    Conflict,
    NoCapacity,
    NotFound,
    PartlyDone,
    ResourceFailed,
    UsageError,
)
from stackctl.hosts.leaving import delete_host, fence_host
from stackctl.state import write
from stackctl.volume.backends import (
    NewVolumeType,
    create_type,
    delete_type,
    list_types,
    show_type,
)
from stackctl.volume.service import (
    create_volume,
    delete_volume,
    extend_volume,
    retry_volume,
    show_volume,
)
from stackctl.volume.snapshots import create_snapshot, delete_snapshot, show_snapshot
from stackctl.volume.types import NewVolume
from tests.fakes import Together


@pytest.fixture
def nas(pair):
    """Two hosts that have the type nas."""
    pair.converge(everything=True)
    new_type(pair).check()
    return pair


def new_type(world, name="nas", driver="nfs", location="nas.example.com:/volumes", **more):
    return create_type(world.context, NewVolumeType(name, driver, location, **more))


def create(world, name="data", size_gb=2, **more):
    return create_volume(world.context, NewVolume(name, size_gb, **{"type": "nas", **more}))


def shown(world, name="data"):
    return show_volume(world.context, name)


def together(world):
    return Together(world.fleet.folder / "together").ids()


def last_spec(world, name="h1"):
    id_ = world.host(name)["id"]
    return [spec for spec in world.fleet.specs if spec.host_id == id_][-1]


# --- types --------------------------------------------------------------------------------------


def test_every_host_is_asked_and_one_makes_the_place(nas):
    kind = show_type(nas.context, "nas")
    assert (kind.driver, kind.shared, kind.format) == ("nfs", True, "qcow2")
    assert (kind.hosts, kind.lacking, kind.free_gb) == (("h1", "h2"), (), 90)
    seen = [(spec.host_id, spec.backends[0].claim) for spec in nas.fleet.specs if spec.backends]
    assert seen[0] == (nas.host("h1")["id"], True)
    assert [claim for _, claim in seen[1:]] == [False, False]
    nas.converge(everything=True).check()
    (backend,) = last_spec(nas).backends
    assert (backend.claim, backend.look) == (False, False)
    assert [each.name for each in list_types(nas.context)] == ["local", "nas"]


def test_a_host_that_lacks_it_says_why_and_fails_nothing(pair):
    pair.trouble("h2", fail={"backend nas.example.com:/volumes": "no route to host"})
    new_type(pair).check()
    kind = show_type(pair.context, "nas")
    assert (kind.hosts, kind.lacking) == (("h1",), ("h2: no route to host",))
    pair.trouble("h2")
    pair.converge(everything=True).check()
    assert show_type(pair.context, "nas").hosts == ("h1", "h2")


@pytest.mark.parametrize(
    ("driver", "location"),
    [
        ("folder", "mnt"), ("folder", "/"), ("folder", "//"), ("folder", "/a/.."),
        ("folder", "/mnt\n"), ("nfs", "server"), ("nfs", "server:volumes"), ("nfs", ":/x"),
        ("nfs", "a b:/x"), ("nfs", "server:/x?uid=1"), ("nfs", "-x:/x"), ("nfs", "s:/x:y"),
        ("pool", "a/b"), ("pool", ""), ("pool", "a b"), ("pool", "'"), ("pool", "-x"),
    ],
)  # fmt: skip
def test_a_place_that_is_none_is_refused(pair, driver, location):
    with pytest.raises(UsageError):
        new_type(pair, "odd", driver, location)


def test_names_and_places_are_there_once(nas):
    with pytest.raises(Conflict, match="already a volume type called nas"):
        new_type(nas, location="other:/x")
    with pytest.raises(Conflict, match=r"nas is nfs nas.example.com:/volumes already"):
        new_type(nas, "again", location="nas.example.com:/volumes/")
    with pytest.raises(UsageError, match="the type that every cloud has"):
        new_type(nas, "local")
    with pytest.raises(NotFound, match="There are local, nas"):
        create(nas, type="fast")


def test_a_type_goes_when_no_volume_has_it(nas):
    create(nas).check()
    with pytest.raises(Conflict, match="1 volumes or snapshots are of the type nas"):
        delete_type(nas.context, "nas")
    nas.trouble("h1", unreachable=True)
    nas.trouble("h2", unreachable=True)
    with pytest.raises(PartlyDone):
        delete_volume(nas.context, "data").check()
    with pytest.raises(Conflict, match="wait to be removed"):
        delete_type(nas.context, "nas")
    nas.trouble("h1")
    nas.trouble("h2")
    nas.converge(everything=True).check()
    delete_type(nas.context, "nas").check()
    assert last_spec(nas).backends == ()
    with pytest.raises(Conflict, match="it stays"):
        delete_type(nas.context, "local")


def test_a_place_that_could_not_be_made_is_told(pair):
    pair.trouble("h1", fail={"backend /mnt/volumes": "/mnt/volumes is not there"})
    pair.trouble("h2", fail={"backend /mnt/volumes": "/mnt/volumes is not there"})
    new_type(pair, "dir", "folder", "/mnt/volumes")
    assert show_type(pair.context, "dir").hosts == ()
    with pytest.raises(NoCapacity, match=r"No host that is enabled has volume type dir"):
        create(pair, type="dir")


# --- shared volumes -----------------------------------------------------------------------------


def test_a_shared_volume_is_made_at_once_by_one_host(nas):
    done = create(nas)
    done.check()
    assert (done.value.status, done.value.type, done.value.shared) == ("available", "nas", True)
    assert (done.value.host, done.value.keeper) == ("", "h1")
    assert together(nas) == [done.value.id]
    nas.converge(everything=True).check()
    assert [len(last_spec(nas, name).volumes) for name in ("h1", "h2")] == [1, 0]


def test_another_host_makes_it_when_the_first_is_not_reached(nas):
    nas.trouble("h1", unreachable=True)
    done = create(nas)
    done.check()
    assert (done.value.status, done.value.keeper) == ("available", "h2")
    assert "does not answer. Trying other hosts." in nas.warnings[-1]
    nas.trouble("h1")
    nas.converge(everything=True).check()
    assert len(together(nas)) == 1
    nas.trouble("h1", lose="after")
    nas.trouble("h2", unreachable=True)
    with pytest.raises(PartlyDone):
        create(nas, "more").check()
    assert shown(nas, "more").keeper == "h1"
    nas.trouble("h1")
    nas.trouble("h2")
    nas.converge().check()
    assert shown(nas, "more").status == "available"


def test_no_host_that_is_reached_makes_none(nas):
    for name in ("h1", "h2"):
        nas.trouble(name, unreachable=True)
    with pytest.raises(PartlyDone):
        create(nas).check()
    for name in ("h1", "h2"):
        nas.trouble(name)
    nas.converge(everything=True).check()
    assert (shown(nas).status, len(together(nas))) == ("available", 1)


def test_it_goes_to_servers_of_any_host(nas):
    nas.booted("one", host="h1")
    nas.booted("two", host="h2")
    create(nas).check()
    for name, host in (("one", "h1"), ("two", "h2"), ("one", "h1")):
        attach_volume(nas.context, name, "data").check()
        volume = shown(nas)
        assert (volume.status, volume.server_name, volume.keeper) == ("in-use", name, host)
        assert nas.fleet.state(host)["plugged"] == {volume.id: volume.server_id}
        detach_volume(nas.context, name, "data").check()
        assert shown(nas).status == "available"
        assert nas.fleet.state(host)["plugged"] == {}
    assert together(nas) == [shown(nas).id]


def test_no_second_server_gets_it(nas):
    nas.booted("one", host="h1")
    nas.booted("two", host="h2")
    create(nas).check()
    attach_volume(nas.context, "one", "data").check()
    with pytest.raises(Conflict, match="but it is in-use"):
        attach_volume(nas.context, "two", "data")


def test_a_host_at_work_on_it_is_not_overtaken(nas):
    """Two qemu-img in one file would destroy it."""
    nas.booted("two", host="h2")
    create(nas).check()
    nas.trouble("h1", lose="after")
    with pytest.raises(PartlyDone):
        extend_volume(nas.context, "data", 4).check()
    with pytest.raises(Conflict, match="h1 is at work on data, or has not said") as no:
        attach_volume(nas.context, "two", "data")
    assert "host-fence h1" in no.value.hint
    nas.trouble("h1")
    nas.converge().check()
    attach_volume(nas.context, "two", "data").check()
    assert shown(nas).keeper == "h2"


def test_an_unbuilt_volume_stays_with_the_host_that_makes_it(nas):
    nas.booted("two", host="h2")
    nas.trouble("h1", fail={"volume": "No space left on device"})
    with pytest.raises(ResourceFailed):
        create(nas, host="h1").check()
    assert shown(nas).status == "error"
    with pytest.raises(Conflict):
        attach_volume(nas.context, "two", "data")
    nas.trouble("h1")
    retry_volume(nas.context, "data").check()
    attach_volume(nas.context, "two", "data").check()


def test_a_host_that_is_down_does_not_keep_what_is_free(nas):
    nas.booted("two", host="h2")
    create(nas, host="h1").check()
    create(nas, "more", host="h1").check()
    nas.trouble("h1", unreachable=True)
    attach_volume(nas.context, "two", "data").check()
    with write(nas.cloud) as writer:
        writer.run("UPDATE hosts SET unreachable_since = '2026-01-01' WHERE name = 'h1'")
    extend_volume(nas.context, "more", 5).check()
    assert shown(nas, "more").keeper == "h2"
    delete_volume(nas.context, "more").check()
    assert together(nas) == [shown(nas).id]
    # Nothing of this makes the other host do anything when it is back.
    nas.trouble("h1")
    nas.converge(everything=True).check()
    assert together(nas) == [shown(nas).id]


def test_what_waits_on_a_fenced_host_is_done_by_another(nas):
    create(nas, host="h1").check()
    create(nas, "gone", host="h1").check()
    nas.trouble("h1", unreachable=True)
    nas.trouble("h2", unreachable=True)
    with pytest.raises(PartlyDone):
        delete_volume(nas.context, "gone").check()
    nas.trouble("h2")
    fence_host(nas.context, "h1")
    assert shown(nas).keeper == "h2"
    nas.converge("h2").check()
    assert together(nas) == [shown(nas).id]
    with pytest.raises(Conflict):
        create(nas, "there", host="h1")


@pytest.mark.parametrize("order", ["fence first", "delete first"])
def test_the_volumes_of_a_server_that_is_deleted_are_free_though_its_host_is_off(nas, order):
    nas.booted("one", host="h1")
    create(nas).check()
    create(nas, "scratch").check()
    attach_volume(nas.context, "one", "data").check()
    attach_volume(nas.context, "one", "scratch", delete_on_termination=True).check()
    nas.trouble("h1", unreachable=True)
    if order == "fence first":
        fence_host(nas.context, "h1")
        servers.delete_servers(nas.context, ["one"]).check()
    else:
        with pytest.raises(PartlyDone):
            servers.delete_servers(nas.context, ["one"]).check()
        assert shown(nas).status == "detaching"
        fence_host(nas.context, "h1")
    nas.converge("h2").check()
    assert (shown(nas).status, shown(nas).keeper) == ("available", "h2")
    assert together(nas) == [shown(nas).id]


def test_a_host_leaves_its_shared_volumes_to_others(nas):
    create(nas, host="h2").check()
    create(nas, "own", type="local", host="h2").check()
    nas.trouble("h2", unreachable=True)
    with pytest.raises(Conflict, match="1 volumes or snapshots are on host h2: own"):
        delete_host(nas.context, "h2", off_for_good=True)
    nas.trouble("h2")
    delete_volume(nas.context, "own").check()
    delete_host(nas.context, "h2", off_for_good=True).check()
    assert shown(nas).keeper == "h1"
    assert show_type(nas.context, "nas").hosts == ("h1",)


def test_shared_volumes_take_no_room_of_hosts(nas):
    with write(nas.cloud) as writer:
        writer.run("UPDATE hosts SET disk_gb = 4")
    create(nas, "big", 50).check()
    nas.booted(host="h1")
    attach_volume(nas.context, "vm", "big").check()
    with pytest.raises(NoCapacity):
        create(nas, "own", 5, type="local", host="h1")


def test_only_hosts_that_have_the_type_get_servers_with_it(nas):
    create(nas, "root", image="cirros").check()
    with write(nas.cloud) as writer:
        writer.run(
            "UPDATE volume_type_hosts SET usable = 0 WHERE host_id = ?", nas.host("h1")["id"]
        )
    nas.trouble("h1", fail={"backend nas.example.com:/volumes": "unmounted"})
    (server,) = nas.booted("disk", image="", volume="root")
    assert server.host == "h2"
    nas.booted("one", host="h1")
    create(nas, host="h2").check()
    with pytest.raises(Conflict, match=r"h1 does not have volume type nas .*: unmounted"):
        attach_volume(nas.context, "one", "data")
    with pytest.raises(NoCapacity, match="does not have volume type nas"):
        create(nas, "other", image="cirros", host="h2").check()
        nas.boot("more", image="", volume="other", host="h1")


def test_a_server_on_shared_volumes_alone_can_go_elsewhere(nas):
    create(nas, "root", image="cirros").check()
    nas.booted("disk", image="", volume="root", host="h1")
    (move,) = what_if.drain(nas.context, "h1")
    assert move.to == "h2"
    create(nas, "own", type="local").check()
    attach_volume(nas.context, "disk", "own").check()
    (move,) = what_if.drain(nas.context, "h1")
    assert (move.to, move.why) == ("", "its volume own is a file on this host")


def test_copies_are_made_where_their_origin_is_and_of_its_type(nas):
    create(nas, host="h2").check()
    create_snapshot(nas.context, "monday", "data").check()
    assert (show_snapshot(nas.context, "monday").type, len(together(nas))) == ("nas", 2)
    create(nas, "twin", None, snapshot="monday", type=None).check()
    create(nas, "own", None, source="data", type="local").check()
    assert (shown(nas, "twin").type, shown(nas, "twin").keeper) == ("nas", "h2")
    assert (shown(nas, "own").type, shown(nas, "own").host) == ("local", "h2")
    delete_snapshot(nas.context, "monday").check()
    assert len(together(nas)) == 2


def test_the_cloud_has_a_default_type(nas):
    (nas.cloud.folder / "config.yaml").write_text("default_volume_type: nas\n")
    nas.cloud.__dict__.pop("config", None)
    assert create(nas, type=None).value.type == "nas"


# --- pools of a host's own ----------------------------------------------------------------------


def test_a_pool_of_each_host_holds_volumes_of_that_host(nas):
    new_type(nas, "lvm", "pool", "vg0").check()
    kind = show_type(nas.context, "lvm")
    assert (kind.shared, kind.format, kind.hosts) == (False, "raw", ("h1", "h2"))
    create(nas, type="lvm").check()
    assert (shown(nas).host, shown(nas).status) == ("", "available")
    nas.booted("one", host="h1")
    nas.booted("two", host="h2")
    attach_volume(nas.context, "one", "data").check()
    assert (shown(nas).host, shown(nas).format) == ("h1", "raw")
    detach_volume(nas.context, "one", "data").check()
    with pytest.raises(Conflict, match="only servers on h1 can have it"):
        attach_volume(nas.context, "two", "data")
    servers.delete_servers(nas.context, ["one", "two"]).check()
    with pytest.raises(Conflict, match="on host h1: data"):
        delete_host(nas.context, "h1", off_for_good=True)


def test_a_placement_tells_of_the_types_that_it_needs(nas):
    create(nas, "root", image="cirros").check()
    nas.booted("disk", image="", volume="root")
    (text,) = nas.column("SELECT decision_json FROM decisions WHERE name = 'disk'")
    assert json.loads(text)["request"]["volume_types"] == ["nas"]
