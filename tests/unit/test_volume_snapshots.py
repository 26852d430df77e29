"""Snapshots and copies of volumes: taken, used, deleted, and what becomes of those that fail."""

import pytest

from stackctl.compute.attachments import attach_volume, detach_volume
from stackctl.errors import (
    Conflict,
    HostUnreachable,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    ResourceFailed,
    UsageError,
)
from stackctl.state import write
from stackctl.volume.service import create_volume, delete_volume, extend_volume, show_volume
from stackctl.volume.snapshots import (
    create_snapshot,
    delete_snapshot,
    list_snapshots,
    show_snapshot,
)
from stackctl.volume.types import NewVolume


@pytest.fixture
def up(pair):
    """A server vm and a volume data (of an image) on h1."""
    pair.booted(host="h1")
    create_volume(pair.context, NewVolume("data", 2, image="cirros", host="h1")).check()
    return pair


def take(world, name="monday", volume="data"):
    return create_snapshot(world.context, name, volume)


def copy(world, name="copy", **more):
    return create_volume(world.context, NewVolume(name, **more))


def files(world, host="h1"):
    return world.fleet.state(host)["volumes"]


def last_volumes(world):
    id_ = world.host("h1")["id"]
    spec = [spec for spec in world.fleet.specs if spec.host_id == id_][-1]
    return {volume.id: volume for volume in spec.volumes}


def test_a_snapshot_is_a_copy_beside_its_volume(up):
    done = take(up)
    done.check()
    made = done.value
    assert (made.status, made.size_gb, made.volume_name, made.host) == (
        "available",
        2,
        "data",
        "h1",
    )
    assert (made.consistency, made.taken_at) == ("at-rest", "2026-01-01T00:00:00Z")
    assert last_volumes(up)[made.id].source_id == made.volume_id
    assert len(files(up)) == 2
    up.converge(everything=True).check()
    assert (last_volumes(up)[made.id].build, last_volumes(up)[made.id].source_id) == (False, None)
    assert [each.name for each in list_snapshots(up.context, "data")] == ["monday"]


def test_a_snapshot_of_what_a_guest_has_says_what_it_is_worth(up):
    attach_volume(up.context, "vm", "data").check()
    assert take(up).value.consistency == "crash-consistent"
    assert show_volume(up.context, "data").status == "in-use"
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET vm_state = 'suspended'")
    for work in (lambda: take(up, "tuesday"), lambda: copy(up, source="data")):
        with pytest.raises(Conflict, match="memory is saved: it cannot be copied until"):
            work()


def test_a_volume_is_made_of_a_snapshot_after_its_volume_is_gone(up):
    take(up).check()
    delete_volume(up.context, "data").check()
    done = copy(up, snapshot="monday")
    done.check()
    assert (done.value.size_gb, done.value.host, done.value.bootable) == (2, "h1", True)
    assert show_snapshot(up.context, "monday").volume_name == "data"
    delete_snapshot(up.context, "monday").check()
    assert list(files(up)) == [done.value.id]
    with pytest.raises(NotFound):
        show_snapshot(up.context, "monday")


def test_a_volume_is_made_of_another_and_may_be_larger(up):
    assert copy(up, source="data", size_gb=5).value.size_gb == 5
    with pytest.raises(UsageError, match="1GB cannot be smaller than that of data, 2GB"):
        copy(up, "less", source="data", size_gb=1)
    with pytest.raises(Conflict, match="data is a file on host h1: a copy of it is made there"):
        copy(up, "far", source="data", host="h2")
    take(up)
    for origins in (
        {"source": "data", "snapshot": "monday"},
        {"source": "data", "image": "cirros"},
    ):
        with pytest.raises(UsageError, match="give one of them"):
            copy(up, "odd", **origins)
    with pytest.raises(UsageError, match="needs a size"):
        copy(up, "odd")


def test_a_volume_without_a_file_has_nothing_to_copy(up):
    copy(up, "empty", size_gb=1).check()
    for work in (lambda: take(up, volume="empty"), lambda: copy(up, "odd", source="empty")):
        with pytest.raises(Conflict, match="has no file yet"):
            work()


@pytest.mark.parametrize("state", ["creating", "attaching", "detaching", "error"])
def test_a_volume_in_a_state_that_does_not_allow_it(up, state):
    with write(up.cloud) as writer:
        writer.run("UPDATE volumes SET status = ?", state)
    for work in (lambda: take(up), lambda: copy(up, source="data")):
        with pytest.raises(Conflict, match=f"must be available or in-use, but it is {state}"):
            work()


def test_names_quotas_and_room(up):
    take(up).check()
    with pytest.raises(Conflict, match="already a snapshot called monday"):
        take(up)
    with write(up.cloud) as writer:
        writer.run("UPDATE hosts SET disk_gb = 6 WHERE name = 'h1'")
    with pytest.raises(NoCapacity, match="h1 has 1 GB of disk left"):
        take(up, "tuesday")
    for resource, maximum in (("snapshots", 1), ("gigabytes", 5)):
        with write(up.cloud) as writer:
            row = {"project_id": up.context.project_id, "resource": resource}
            writer.upsert("quotas", row | {"maximum": maximum}, pk=("project_id", "resource"))
        with pytest.raises(QuotaExceeded, match=resource):
            take(up, "tuesday")
        with write(up.cloud) as writer:
            writer.run("UPDATE quotas SET maximum = -1")


def test_a_snapshot_that_failed_is_not_taken_later(up):
    up.trouble("h1", fail={"volume": "No space left on device"})
    with pytest.raises(ResourceFailed, match="volume monday on host h1: No space left"):
        take(up).check()
    up.trouble("h1")
    up.converge(everything=True).check()
    made = show_snapshot(up.context, "monday")
    assert (made.status, made.fault, made.taken_at) == ("error", "No space left on device", None)
    assert len(files(up)) == 1
    with pytest.raises(Conflict, match="must be available, but it is error"):
        copy(up, snapshot="monday")
    delete_snapshot(up.context, "monday").check()
    assert list_snapshots(up.context) == []


def test_a_snapshot_whose_host_is_down_is_not_taken(up):
    up.trouble("h1", unreachable=True)
    done = take(up)
    with pytest.raises(HostUnreachable, match="No snapshot was taken") as no:
        done.check()
    assert no.value.exit_status == 20
    up.trouble("h1")
    up.converge(everything=True).check()
    assert list_snapshots(up.context) == []
    assert len(files(up)) == 1


def test_what_a_copy_still_needs_is_not_deleted(up):
    take(up).check()
    up.trouble("h1", lose="after")
    copy(up, snapshot="monday")
    copy(up, "second", source="data")
    for work in (
        lambda: delete_snapshot(up.context, "monday"),
        lambda: delete_volume(up.context, "data"),
    ):
        with pytest.raises(Conflict, match="still to be copied from it on host h1") as no:
            work()
        assert no.value.hint == "stackctl converge h1"
    up.trouble("h1")
    up.converge().check()
    delete_snapshot(up.context, "monday").check()
    delete_volume(up.context, "data").check()
    assert len(files(up)) == 2


def test_a_snapshot_stays_as_its_volume_was(up):
    take(up).check()
    extend_volume(up.context, "data", 4).check()
    assert show_snapshot(up.context, "monday").size_gb == 2
    assert copy(up, snapshot="monday").value.size_gb == 2


def test_a_repeated_request_and_a_rehearsal_take_one(up):
    rehearsed = create_snapshot(up.asked(dry_run=True), "monday", "data")
    assert [step.kind for step in rehearsed.planned if step.result == "made"] == ["volume"]
    assert list_snapshots(up.context) == []
    context = up.asked(request_id="once")
    first = create_snapshot(context, "monday", "data")
    again = create_snapshot(context, "monday", "data")
    assert (again.value, again.operation_id) == (first.value, first.operation_id)


def test_a_copy_can_be_attached_like_any_volume(up):
    copy(up, source="data").check()
    attach_volume(up.context, "vm", "copy").check()
    detach_volume(up.context, "vm", "copy").check()
    assert show_volume(up.context, "copy").status == "available"
