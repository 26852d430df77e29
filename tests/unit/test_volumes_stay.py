"""Volumes of servers that are made anew, rescued, resized, deleted for a while."""

import pytest
import yaml

from stackctl.compute import deleting
from stackctl.compute.attachments import attach_volume, detach_volume
from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.moves.resizing import confirm, resize, revert
from stackctl.compute.rebuilding import Rebuild, rebuild, rescue, unrescue
from stackctl.errors import Conflict
from stackctl.identity.context import admin_context
from stackctl.state import Cloud
from stackctl.volume.service import create_volume, delete_volume, show_volume
from stackctl.volume.types import NewVolume


@pytest.fixture
def up(pair):
    """A server vm on h1 with the volume data."""
    create_flavor(pair.context, NewFlavor("small", vcpus=1, ram_mb=512, disk_gb=2)).check()
    more = NewFlavor("more", vcpus=2, ram_mb=1024, disk_gb=3, ephemeral_gb=1)
    create_flavor(pair.context, more).check()
    pair.booted(host="h1", flavor="small")
    attached(pair, "data")
    return pair


def attached(world, name):
    create_volume(world.context, NewVolume(name, 1)).check()
    return attach_volume(world.context, "vm", name).check()


def told(world):
    """The volumes of the server as its host was told last, and how many disks it has."""
    specs = [spec for spec in world.fleet.specs if spec.host_id == world.host("h1")["id"]]
    server = specs[-1].servers[0]
    return [each.device for each in server.volumes], len(server.disks)


def status(world):
    volume = show_volume(world.context, "data")
    return volume.status, volume.server_name, volume.device


HELD = ("in-use", "vm", "/dev/vdb")


def test_a_server_that_is_made_anew_keeps_them(up):
    rebuild(up.context, "vm", Rebuild()).check()
    assert (told(up), status(up)) == ((["vdb"], 1), HELD)
    assert up.servers() == {"vm": "ACTIVE"}


def test_a_server_in_rescue_keeps_them(up):
    rescue(up.context, "vm").check()
    assert (told(up), status(up)) == ((["vdb"], 2), HELD)
    with pytest.raises(Conflict, match="vm_state rescued"):
        detach_volume(up.context, "vm", "data")
    unrescue(up.context, "vm").check()
    assert (told(up), status(up)) == ((["vdb"], 1), HELD)


@pytest.mark.parametrize(("end", "disks"), [(confirm, 2), (revert, 1)])
def test_a_server_of_another_flavor_keeps_them(up, end, disks):
    resize(up.context, "vm", "more").check()
    assert (told(up), status(up)) == ((["vdb"], 2), HELD)
    end(up.context, "vm").check()
    assert (told(up), status(up)) == ((["vdb"], disks), HELD)


def test_the_disk_that_came_with_a_flavor_has_the_next_device(up):
    resize(up.context, "vm", "more").check()
    confirm(up.context, "vm").check()
    attached(up, "log")
    assert told(up) == (["vdb", "vdd"], 2)


def test_a_server_that_is_deleted_for_a_while_keeps_them_until_it_goes(up):
    (up.cloud.folder / "config.yaml").write_text(
        yaml.safe_dump({"reclaim_instance_interval": 86400})
    )
    up.context = admin_context(Cloud("test", up.cloud.folder))
    deleting.delete(up.context, ["vm"]).check()
    up.converge(everything=True).check()
    assert (told(up)[0], status(up)) == (["vdb"], HELD)
    for attempt in (
        lambda: detach_volume(up.context, "vm", "data"),
        lambda: delete_volume(up.context, "data"),
    ):
        with pytest.raises(Conflict):
            attempt()
    deleting.restore(up.context, ["vm"]).check()
    assert (told(up)[0], status(up)) == (["vdb"], HELD)
    deleting.delete(up.context, ["vm"]).check()
    deleting.delete(up.context, ["vm"], force=True).check()
    assert status(up) == ("available", "", "")
