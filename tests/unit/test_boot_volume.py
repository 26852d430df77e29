"""Servers that boot from a volume: where they go, what they have, what stays of them."""

import pytest

from stackctl.compute import service as servers
from stackctl.compute.attachments import attach_volume, detach_volume
from stackctl.compute.moves.resizing import resize
from stackctl.compute.rebuilding import Rebuild, rebuild, rescue
from stackctl.compute.snapshots import backup, snapshot
from stackctl.errors import (
    Conflict,
    HostUnreachable,
    NoCapacity,
    ResourceFailed,
    UsageError,
)
from stackctl.state import write
from stackctl.volume.service import create_volume, show_volume
from stackctl.volume.types import NewVolume


@pytest.fixture
def up(pair):
    """Two hosts, and a volume root that is nowhere yet."""
    create(pair, "root")
    return pair


def create(world, name, size_gb=2, **more):
    wanted = NewVolume(name, size_gb, **{"image": "cirros", **more})
    return create_volume(world.context, wanted)


def boot(world, name="vm", volume="root", **more):
    return world.boot(name, image="", volume=volume, **more)


def status(world, name="root"):
    volume = show_volume(world.context, name)
    return volume.status, volume.server_name, volume.device, volume.host


def test_a_server_boots_from_a_volume_that_comes_to_its_host(up):
    boot(up, host="h2").check()
    assert up.servers() == {"vm": "ACTIVE"}
    assert status(up) == ("in-use", "vm", "/dev/vda", "h2")
    spec = up.fleet.specs[-1]
    server = spec.servers[0]
    assert (server.disks, spec.disks) == ((), ())
    assert [each.device for each in server.volumes] == ["vda"]
    assert (up.server("vm").disk_gb, up.server("vm").image) == (0, "cirros")
    attach_volume(up.context, "vm", create(up, "data").value.name).check()
    assert status(up, "data")[2] == "/dev/vdb"


def test_a_volume_that_has_its_place_decides_where_the_server_goes(up):
    create(up, "there", host="h2").check()
    with pytest.raises(Conflict, match=r"is a file on host h2: a server .* cannot be on h1"):
        boot(up, volume="there", host="h1")
    boot(up, volume="there").check()
    assert up.server("vm").host == "h2"


def test_an_ephemeral_disk_comes_after_the_volume(up):
    boot(up, flavor="medium", host="h1").check()
    create(up, "data")
    assert attach_volume(up.context, "vm", "data").value.device == "/dev/vdc"


def test_the_volume_outlives_its_server_and_boots_the_next(up):
    boot(up, host="h1").check()
    servers.delete_servers(up.context, ["vm"]).check()
    assert status(up) == ("available", "", "", "h1")
    boot(up, "again").check()
    assert status(up) == ("in-use", "again", "/dev/vda", "h1")


def test_the_volume_that_a_server_boots_from_is_not_detached(up):
    boot(up).check()
    servers.change_power(up.context, "stop", ["vm"]).check()
    with pytest.raises(Conflict, match="Cannot detach a root device volume"):
        detach_volume(up.context, "vm", "root")


def test_what_cannot_be_booted_from_is_refused(up):
    create(up, "empty", image=None)
    with pytest.raises(Conflict, match="Block Device empty is not bootable"):
        boot(up, volume="empty")
    with pytest.raises(UsageError, match="give one of the two"):
        up.boot("vm", volume="root")
    with pytest.raises(UsageError, match="one server only"):
        boot(up, count=2)
    boot(up).check()
    with pytest.raises(Conflict, match="belongs to server vm as /dev/vda"):
        boot(up, "other")


def test_room_is_needed_for_a_volume_that_is_nowhere_yet(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE hosts SET disk_gb = 1 WHERE name = 'h1'")
    boot(up).check()
    assert up.server("vm").host == "h2"
    create(up, "large", 1000)
    with pytest.raises(NoCapacity):
        boot(up, "other", volume="large")
    assert status(up, "large") == ("available", "", "", "")


def test_a_volume_that_no_host_was_told_of_goes_to_another(up):
    up.trouble("h1", unreachable=True)
    with write(up.cloud) as writer:
        writer.run("UPDATE hosts SET ram_mb = 32768 WHERE name = 'h2'")
    boot(up).check()
    assert (up.server("vm").host, status(up)[3]) == ("h2", "h2")


@pytest.mark.parametrize("placed", [True, False])
def test_nothing_stays_when_no_host_is_reached(up, placed):
    name = "there" if placed else "root"
    if placed:
        create(up, name, host="h1").check()
    for host in ("h1", "h2"):
        up.trouble(host, unreachable=True)
    with pytest.raises(HostUnreachable):
        boot(up, volume=name)
    assert status(up, name) == ("available", "", "", "h1" if placed else "")
    assert up.servers() == {}


def test_a_volume_that_cannot_be_made_is_the_servers_fault(up):
    up.trouble("h1", fail={"volume": "No space left on device"})
    with pytest.raises(ResourceFailed, match="server vm on host h1: No space left on device"):
        boot(up, host="h1").check()
    assert up.server("vm").fault.message == "No space left on device"
    up.trouble("h1")
    servers.delete_servers(up.context, ["vm"]).check()
    assert status(up) == ("available", "", "", "h1")


ROOT_DISK_COMMANDS = {
    "rebuild": lambda context: rebuild(context, "vm", Rebuild()),
    "rescue": lambda context: rescue(context, "vm"),
    "resize": lambda context: resize(context, "vm", "medium"),
    "snapshot": lambda context: snapshot(context, "vm", "copy"),
    "backup": lambda context: backup(context, "vm", "copy", "daily", 1),
}


@pytest.mark.parametrize("action", ROOT_DISK_COMMANDS)
@pytest.mark.parametrize("flavor", ["m1.tiny", "medium"])
def test_what_needs_a_root_disk_is_refused_in_words(up, action, flavor):
    boot(up, flavor=flavor, host="h1").check()
    before, asked = up.rows("SELECT * FROM servers"), len(up.fleet.specs)
    words = f"Cannot '{action}' instance vm: it boots from volume root"
    with pytest.raises(Conflict, match=words) as caught:
        ROOT_DISK_COMMANDS[action](up.context)
    assert caught.value.hint.startswith("stackctl ")
    assert (up.rows("SELECT * FROM servers"), len(up.fleet.specs)) == (before, asked)
    assert status(up)[:2] == ("in-use", "vm")
