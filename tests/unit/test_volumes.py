"""Volumes: made, attached, grown, detached, deleted; what each state allows."""

import pytest

from stackctl.compute import service as servers
from stackctl.compute import what_if
from stackctl.compute.attachments import attach_volume, detach_volume, list_attachments
from stackctl.errors import (
    Conflict,
    HostUnreachable,
    NoCapacity,
    NotFound,
    PartlyDone,
    QuotaExceeded,
    ResourceFailed,
    UsageError,
)
from stackctl.hosts.leaving import delete_host
from stackctl.state import write
from stackctl.volume import states
from stackctl.volume.service import (
    create_volume,
    delete_volume,
    extend_volume,
    list_volumes,
    retry_volume,
    set_volume,
    show_volume,
)
from stackctl.volume.types import NewVolume, VolumeChange


@pytest.fixture
def up(pair):
    """Two hosts, a server vm on h1, and a volume data that is nowhere yet."""
    pair.booted(host="h1")
    create(pair)
    return pair


def create(world, name="data", size_gb=2, **more):
    return create_volume(world.context, NewVolume(name, size_gb, **more))


def attach(world, server="vm", volume="data", **more):
    return attach_volume(world.context, server, volume, **more)


def detach(world, server="vm", volume="data"):
    return detach_volume(world.context, server, volume)


def status(world, name="data"):
    volume = show_volume(world.context, name)
    return volume.status, volume.server_name, volume.device


def files(world, host="h1"):
    return world.fleet.state(host)["volumes"]


def last_spec(world, name="h1"):
    id_ = world.host(name)["id"]
    return [spec for spec in world.fleet.specs if spec.host_id == id_][-1]


# --- making and deleting ------------------------------------------------------------------------


def test_a_volume_has_no_place_until_a_server_needs_it(up):
    volume = show_volume(up.context, "data")
    assert (volume.status, volume.host, volume.bootable) == ("available", "", False)
    assert files(up) == files(up, "h2") == {}
    done = attach(up)
    done.check()
    assert (done.value.status, done.value.host) == ("in-use", "h1")
    assert files(up) == {volume.id: 2 << 30}


def test_a_volume_is_made_on_the_host_that_is_named(up):
    done = create(up, "there", host="h2")
    done.check()
    assert (done.value.status, done.value.host) == ("available", "h2")
    assert list(files(up, "h2")) == [done.value.id]
    assert last_spec(up, "h2").volumes[0].build
    up.converge(everything=True).check()
    assert not last_spec(up, "h2").volumes[0].build


def test_a_volume_of_an_image_needs_it_until_it_is_built(up):
    image_id = up.rows("SELECT id FROM images")[0]["id"]
    create(up, "root", image="cirros", host="h2").check()
    spec = last_spec(up, "h2")
    assert [image.id for image in spec.images] == [spec.volumes[0].image_id] == [image_id]
    assert show_volume(up.context, "root").bootable
    up.converge(everything=True).check()
    spec = last_spec(up, "h2")
    assert (spec.images, spec.volumes[0].image_id) == ((), None)


def test_an_image_that_does_not_fit_is_refused(up):
    up.add_image("large", virtual_size_bytes=3 << 30)
    with pytest.raises(Conflict, match="needs 3 GB and doesn't fit in a volume of size 2 GB"):
        create(up, "root", image="large")
    up.add_image("kernel", disk_format="aki")
    with pytest.raises(Conflict, match="no disk"):
        create(up, "root", image="kernel")


def test_a_name_is_there_once(up):
    with pytest.raises(Conflict, match="already a volume called data"):
        create(up)
    create(up, "other")
    with pytest.raises(Conflict, match="already a volume called data"):
        set_volume(up.context, "other", VolumeChange(name="data"))
    set_volume(up.context, "other", VolumeChange(name="more", description="of it")).check()
    found = [(volume.name, volume.description) for volume in list_volumes(up.context)]
    assert found == [("data", ""), ("more", "of it")]
    with pytest.raises(UsageError):
        set_volume(up.context, "more", VolumeChange())


@pytest.mark.parametrize("size_gb", [0, -1, 1 << 20])
def test_a_size_that_makes_no_sense(up, size_gb):
    with pytest.raises(UsageError):
        create(up, "odd", size_gb)


@pytest.mark.parametrize("resource", ["volumes", "gigabytes"])
def test_the_quotas_hold(up, resource):
    with write(up.cloud) as writer:
        maximum = {"volumes": 1, "gigabytes": 3}[resource]
        row = {"project_id": up.context.project_id, "resource": resource, "maximum": maximum}
        writer.upsert("quotas", row, pk=("project_id", "resource"))
    with pytest.raises(QuotaExceeded):
        create(up, "more")
    if resource == "gigabytes":
        with pytest.raises(QuotaExceeded):
            extend_volume(up.context, "data", 4)


def test_a_host_without_room_is_told_with_its_numbers(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE hosts SET disk_gb = 4 WHERE name = 'h1'")
    # The server's root disk takes 1 GB.
    with pytest.raises(NoCapacity, match=r"h1 has 3 GB of disk left \(of 4\); volume big needs 5"):
        create(up, "big", 5, host="h1")
    create(up, "big", 5)
    with pytest.raises(NoCapacity):
        attach(up, volume="big")
    attach(up).check()
    with pytest.raises(NoCapacity):
        extend_volume(up.context, "data", 4)
    with pytest.raises(NoCapacity):
        create(up, "small", 2, host="h1")


@pytest.mark.parametrize("column", ["fenced = 1", "enabled = 0"])
def test_nothing_is_made_on_a_host_that_takes_nothing(up, column):
    with write(up.cloud) as writer:
        writer.run(f"UPDATE hosts SET {column} WHERE name = 'h2'")
    with pytest.raises(Conflict, match="Host h2 is"):
        create(up, "there", host="h2")


def test_a_deleted_volume_is_removed_by_tombstone(up):
    id_ = create(up, "there", host="h1").value.id
    delete_volume(up.context, "there").check()
    assert files(up) == {}
    stones = up.rows("SELECT * FROM tombstones WHERE kind = 'volume'")
    assert [(row["id"], row["acknowledged_at"] is None) for row in stones] == [(id_, False)]
    with pytest.raises(NotFound):
        show_volume(up.context, "there")
    delete_volume(up.context, "data").check()
    assert len(up.rows("SELECT * FROM tombstones WHERE kind = 'volume'")) == 1


def test_what_is_deleted_while_its_host_is_down_goes_later(up):
    create(up, "there", host="h1").check()
    up.trouble("h1", unreachable=True)
    with pytest.raises(PartlyDone):
        delete_volume(up.context, "there").check()
    up.trouble("h1")
    assert len(files(up)) == 1
    up.converge().check()
    assert files(up) == {}


def test_a_volume_that_could_not_be_made_is_in_error_until_it_can(up):
    up.trouble("h1", fail={"volume": "No space left on device"})
    with pytest.raises(ResourceFailed, match="volume there on host h1: No space left") as no:
        create(up, "there", host="h1").check()
    assert no.value.exit_status == 30
    assert show_volume(up.context, "there").fault == "No space left on device"
    assert status(up, "there")[0] == "error"
    with pytest.raises(Conflict, match="must be available, but it is error"):
        attach(up, volume="there")
    up.trouble("h1")
    up.converge(everything=True).check()
    assert status(up, "there")[0] == "error"
    assert files(up) == {}
    retry_volume(up.context, "there").check()
    assert status(up, "there")[0] == "available"
    assert show_volume(up.context, "there").fault == ""
    with pytest.raises(Conflict, match="is available: making it has not failed"):
        retry_volume(up.context, "there")


def test_a_volume_that_cannot_be_made_is_free_of_a_server_that_lets_go_of_it(up):
    create(up, "more")
    up.trouble("h1", fail={"volume": "No space left on device"})
    with pytest.raises(PartlyDone):
        attach(up, volume="more").check()
    assert status(up, "more")[0] == "attaching"
    with pytest.raises(PartlyDone):
        detach(up, volume="more").check()
    assert status(up, "more") == ("error", "", "")
    up.trouble("h1")
    retry_volume(up.context, "more").check()
    assert status(up, "more")[0] == "available"


def test_a_volume_of_a_server_is_tried_again_when_the_server_is_named(up):
    create(up, "root", image="cirros", host="h1").check()
    with write(up.cloud) as writer:
        writer.run("UPDATE volumes SET built = 0 WHERE name = 'root'")
    state = up.fleet.state("h1")
    state["volumes"].clear()
    up.fleet.save("h1", state)
    up.trouble("h1", fail={"volume": "No space left on device"})
    with pytest.raises(ResourceFailed, match="No space left"):
        up.boot("disk", image="", volume="root").check()
    up.trouble("h1")
    up.converge(everything=True)
    assert up.servers()["disk"] == "ERROR"
    assert files(up) == {}
    servers.change_power(up.context, "reboot-hard", ["disk"]).check()
    assert status(up, "root")[0] == "in-use"
    assert up.servers()["disk"] == "ACTIVE"


def test_a_missing_volume_is_a_fault_and_never_made_again(up):
    create(up, "there", host="h1").check()
    state = up.fleet.state("h1")
    state["volumes"].clear()
    up.fleet.save("h1", state)
    done = up.converge(everything=True)
    with pytest.raises(PartlyDone, match="is missing"):
        done.check()
    assert files(up) == {}
    assert status(up, "there")[0] == "error"


def test_a_strangers_volume_fails_no_command(up):
    create(up, "there", host="h1").check()
    up.trouble("h1", fail={show_volume(up.context, "there").id: "broken"})
    up.booted("other", host="h1")


# --- attaching ----------------------------------------------------------------------------------


def test_attached_and_detached_while_the_server_runs(up):
    attach(up).check()
    volume = show_volume(up.context, "data")
    assert status(up) == ("in-use", "vm", "/dev/vdb")
    assert up.server("vm").volumes == ("data /dev/vdb",)
    server = last_spec(up).servers[0]
    assert [(each.volume_id, each.device) for each in server.volumes] == [(volume.id, "vdb")]
    assert up.fleet.state("h1")["plugged"] == {volume.id: server.id}
    done = detach(up)
    done.check()
    assert status(up) == ("available", "", "")
    assert (done.value.status, done.value.host) == ("available", "h1")
    assert up.fleet.state("h1")["plugged"] == {}
    assert files(up) == {volume.id: 2 << 30}


def test_a_stopped_server_gets_its_volume_too(up):
    servers.change_power(up.context, "stop", ["vm"]).check()
    attach(up).check()
    assert status(up) == ("in-use", "vm", "/dev/vdb")
    detach(up).check()
    assert status(up)[0] == "available"


def test_data_go_from_server_to_server_on_a_host(up):
    up.booted("other", host="h1")
    up.booted("far", host="h2")
    attach(up).check()
    detach(up).check()
    attach(up, "other").check()
    assert status(up) == ("in-use", "other", "/dev/vdb")
    detach(up, "other").check()
    with pytest.raises(Conflict, match=r"is a file on host h1, server far runs on h2") as no:
        attach(up, "far")
    assert "--host h1" in no.value.hint


def test_a_server_that_has_a_volume_cannot_go_elsewhere(up):
    assert what_if.drain(up.context, "h1")[0].to == "h2"
    attach(up).check()
    (move,) = what_if.drain(up.context, "h1")
    assert (move.to, move.why) == ("", "its volume data is a file on this host")
    detach(up).check()
    assert what_if.drain(up.context, "h1")[0].to == "h2"


def test_devices_are_given_in_order_or_as_asked(up):
    for name in ("b", "c", "d"):
        create(up, name)
    assert attach(up).value.device == "/dev/vdb"
    assert attach(up, volume="b", device="/dev/vdf").value.device == "/dev/vdf"
    assert attach(up, volume="c").value.device == "/dev/vdc"
    for taken in ("vda", "/dev/vdb"):
        with pytest.raises(Conflict, match="is in use; /dev/vdd is free"):
            attach(up, volume="d", device=taken)
    for wrong in ("vdz", "sdb", "/dev/../vdd", "vdd "):
        with pytest.raises(UsageError, match="is invalid"):
            attach(up, volume="d", device=wrong)
    found = [volume.name for volume in list_attachments(up.context, "vm")]
    assert found == ["data", "c", "b"]


@pytest.mark.parametrize("word", ["name", "id", "device", "bare device"])
def test_a_volume_is_detached_by_what_people_call_it(up, word):
    volume = attach(up).value
    called = {"name": "data", "id": volume.id, "device": "/dev/vdb", "bare device": "vdb"}
    detach(up, volume=called[word]).check()
    assert status(up)[0] == "available"


def test_a_volume_that_the_server_has_not_is_not_found(up):
    with pytest.raises(NotFound, match="Server vm has no volume 'data' among its 0"):
        detach(up)


@pytest.mark.parametrize("state", ["error", "suspended", "building"])
def test_a_server_in_a_state_that_does_not_allow_it(up, state):
    attach(up).check()
    create(up, "more")
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET vm_state = ?", state)
    for action in (lambda: attach(up, volume="more"), lambda: detach(up)):
        with pytest.raises(Conflict, match=f"vm_state {state}"):
            action()


STATES = ("creating", "available", "attaching", "in-use", "detaching", "error")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", states.TRANSITIONS)
def test_every_action_in_every_state(up, action, state):
    with_server = state in ("attaching", "in-use", "detaching")
    attach(up).check()
    if not with_server:
        detach(up).check()
    with write(up.cloud) as writer:
        writer.run("UPDATE volumes SET status = ?", state)
    work = {
        "attach": lambda: attach(up),
        "detach": lambda: detach(up),
        "extend": lambda: extend_volume(up.context, "data", 3),
        "delete": lambda: delete_volume(up.context, "data"),
        "copy": lambda: create(up, "twin", None, source="data"),
    }[action]
    if state in states.TRANSITIONS[action].allowed:
        work().check()
        return
    refusal = NotFound if action == "detach" and not with_server else Conflict
    with pytest.raises(refusal) as no:
        work()
    if refusal is Conflict:
        assert f"but it is {state}" in no.value.message


def test_a_volume_that_a_server_has_is_not_deleted(up):
    attach(up).check()
    with pytest.raises(Conflict, match="belongs to server vm as /dev/vdb") as no:
        delete_volume(up.context, "data")
    assert no.value.hint == "stackctl volume-detach vm data"
    assert len(files(up)) == 1


def test_volumes_outlive_their_server_unless_they_shall_not(up):
    create(up, "scratch")
    attach(up).check()
    attach(up, volume="scratch", delete_on_termination=True).check()
    assert show_volume(up.context, "scratch").delete_on_termination
    servers.delete_servers(up.context, ["vm"]).check()
    assert status(up) == ("available", "", "")
    assert [volume.name for volume in list_volumes(up.context)] == ["data"]
    assert list(files(up)) == [show_volume(up.context, "data").id]


def test_a_volume_grows_while_a_guest_has_it(up):
    attach(up).check()
    done = extend_volume(up.context, "data", 5)
    done.check()
    assert (done.value.size_gb, done.value.status) == (5, "in-use")
    assert list(files(up).values()) == [5 << 30]
    with pytest.raises(UsageError, match=r"current: 5, extended: 5"):
        extend_volume(up.context, "data", 5)
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET vm_state = 'suspended'")
    with pytest.raises(Conflict, match="whose memory is saved"):
        extend_volume(up.context, "data", 6)


# --- when something goes wrong ------------------------------------------------------------------


def test_what_its_host_never_heard_of_is_taken_back(up):
    up.trouble("h1", unreachable=True)
    with pytest.raises(HostUnreachable, match="Volume data is not attached") as no:
        attach(up).check()
    assert no.value.exit_status == 20
    assert status(up) == ("available", "", "")
    assert show_volume(up.context, "data").host == ""
    up.trouble("h1")
    up.converge(everything=True).check()
    assert files(up) == {}


def test_what_was_lost_on_the_way_is_attached_later(up):
    up.trouble("h1", lose="after")
    with pytest.raises(PartlyDone):
        attach(up).check()
    assert status(up)[0] == "attaching"
    up.trouble("h1")
    up.converge().check()
    assert status(up) == ("in-use", "vm", "/dev/vdb")


def test_a_detachment_stands_though_its_host_is_down(up):
    attach(up).check()
    up.trouble("h1", unreachable=True)
    with pytest.raises(PartlyDone, match="is free when its host is converged"):
        detach(up).check()
    assert status(up)[0] == "detaching"
    up.trouble("h1")
    up.converge().check()
    assert status(up) == ("available", "", "")


def test_a_guest_that_keeps_its_volume_keeps_it_and_nobody_else_gets_it(up):
    id_ = attach(up).value.id
    up.booted("other", host="h1")
    up.trouble("h1", fail={id_: "the guest did not release the volume"})
    with pytest.raises(PartlyDone, match="did not release the volume"):
        detach(up).check()
    assert status(up)[0] == "detaching"
    assert "did not release" in show_volume(up.context, "data").fault
    for action in (lambda: attach(up, "other"), lambda: delete_volume(up.context, "data")):
        with pytest.raises(Conflict, match="but it is detaching") as no:
            action()
    assert no.value.hint.startswith("stackctl converge h1")
    up.trouble("h1")
    up.converge(everything=True).check()
    assert status(up) == ("available", "", "")


def test_a_plug_that_failed_is_told_and_tried_again(up):
    up.trouble("h1", fail={"attachment": "No more available PCI slots"})
    with pytest.raises(PartlyDone, match="on host h1: No more available PCI slots"):
        attach(up).check()
    assert status(up)[0] == "attaching"
    assert up.servers() == {"vm": "ACTIVE"}
    up.trouble("h1")
    up.converge(everything=True).check()
    assert status(up)[0] == "in-use"


@pytest.mark.parametrize("action", [attach, detach])
def test_a_repeated_request_is_carried_out_once(up, action):
    if action is detach:
        attach(up).check()
    work = attach_volume if action is attach else detach_volume
    context = up.asked(request_id="once")
    first = work(context, "vm", "data")
    again = work(context, "vm", "data")
    assert again.value == first.value
    assert again.operation_id == first.operation_id


def test_a_rehearsal_changes_nothing(up):
    done = attach_volume(up.asked(dry_run=True), "vm", "data")
    assert {step.kind for step in done.planned} >= {"volume"}
    assert status(up) == ("available", "", "")
    assert files(up) == {}


def test_a_host_with_volumes_does_not_leave(up):
    create(up, "there", host="h2").check()
    with pytest.raises(Conflict, match="1 volumes or snapshots are on host h2: there"):
        delete_host(up.context, "h2", off_for_good=True)
