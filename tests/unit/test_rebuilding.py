"""Servers made anew, and booted from another disk for a while."""

import pytest

from stackctl.compute import service
from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.keypairs import add_keypair
from stackctl.compute.rebuilding import Rebuild, rebuild, rescue, unrescue
from stackctl.compute.settings import reset_state
from stackctl.errors import Conflict, HostUnreachable, NotFound, ResourceFailed, UsageError
from stackctl.image.service import delete_image
from stackctl.state import write


@pytest.fixture
def up(pair):
    """A server vm on h1 with an ephemeral disk and swap, and a second image."""
    flavor = NewFlavor("full", vcpus=1, ram_mb=512, disk_gb=2, ephemeral_gb=1, swap_mb=64)
    create_flavor(pair.context, flavor).check()
    pair.add_image("rescue", virtual_size_bytes=3 << 30)
    pair.add_image("debian")
    pair.booted(host="h1", flavor="full", metadata={"role": "db"})
    return pair


def disks(world) -> dict[str, str]:
    """Ids of the live disks by kind."""
    rows = world.rows("SELECT * FROM disks WHERE deleted_at IS NULL ORDER BY position")
    return {f"{row['kind']}{row['position']}": row["id"] for row in rows}


def on_host(world) -> set[str]:
    return set(world.fleet.state("h1")["disks"])


def last(world):
    """The server as its host was told last."""
    specs = [spec for spec in world.fleet.specs if spec.host_id == world.host("h1")["id"]]
    return specs[-1].servers[0]


def made_anew(world, **what):
    return rebuild(world.context, "vm", Rebuild(**what))


class TestRebuild:
    def test_it_is_the_same_server_with_other_disks(self, up):
        before, old = up.server("vm"), disks(up)
        made_anew(up, image="debian", name="web", properties={"rack": "7"}).check()
        after, new = up.server("web"), disks(up)
        assert (after.id, after.host, after.addresses) == (
            before.id,
            before.host,
            before.addresses,
        )
        assert (after.status, after.image) == ("ACTIVE", "debian")
        assert after.metadata == {"role": "db", "rack": "7"}
        assert set(new) == set(old)
        assert not set(new.values()) & set(old.values())
        assert on_host(up) == set(new.values())
        assert last(up).power.action == "reboot-hard"
        assert last(up).disks == tuple(new.values())
        assert up.value("SELECT count(*) FROM tombstones WHERE acknowledged_at IS NULL") == 0

    def test_ephemeral_disks_may_be_kept(self, up):
        old = disks(up)
        made_anew(up, preserve_ephemeral=True).check()
        new = disks(up)
        assert [old[kind] == new[kind] for kind in ("root0", "ephemeral1", "swap2")] == [
            False,
            True,
            False,
        ]

    def test_one_that_is_off_stays_off(self, up):
        service.change_power(up.context, "stop", ["vm"]).check()
        old = disks(up)
        made_anew(up).check()
        assert up.servers() == {"vm": "SHUTOFF"}
        assert not set(disks(up).values()) & set(old.values())

    def test_key_and_user_data_are_told_anew(self, up):
        add_keypair(up.context, "new").check()
        made_anew(up, key_name="new", user_data=b"#!/bin/sh\n").check()
        assert [key.name for key in last(up).guest.public_keys] == ["new"]
        assert last(up).guest.user_data_sha256 is not None
        assert up.server("vm").key_name == "new"

    def test_what_its_host_did_not_hear_of_is_taken_back(self, up):
        before, old = up.rows("SELECT * FROM servers")[0], disks(up)
        up.trouble("h1", unreachable=True)
        with pytest.raises(HostUnreachable):
            made_anew(up, image="debian", name="web").check()
        after = up.rows("SELECT * FROM servers")[0]
        names = ("name", "image_id", "power_serial", "power_action", "vm_state", "task_state")
        assert {name: after[name] for name in names} == {name: before[name] for name in names}
        assert disks(up) == old
        assert up.value("SELECT count(*) FROM tombstones") == 0
        up.trouble("h1")
        up.converge(everything=True).check()
        assert on_host(up) == set(old.values())

    def test_what_was_lost_on_the_way_is_finished_later(self, up):
        up.trouble("h1", lose="after")
        made_anew(up, image="debian")
        up.trouble("h1")
        up.converge().check()
        assert up.server("vm").status == "ACTIVE"
        assert on_host(up) == set(disks(up).values())

    def test_an_image_that_does_not_come_is_an_error_with_its_reason(self, up):
        image_id = up.value("SELECT id FROM images WHERE name = 'debian'")
        up.trouble("h1", fail={image_id: "no space left"})
        with pytest.raises(ResourceFailed, match="no space left"):
            made_anew(up, image="debian").check()
        assert up.server("vm").status == "ERROR"
        up.trouble("h1")
        up.converge(everything=True).check()
        assert up.server("vm").status == "ACTIVE"

    def test_what_does_not_fit_changes_nothing(self, up):
        old = disks(up)
        up.add_image("huge", virtual_size_bytes=9 << 30)
        up.add_image("hungry", min_ram_mb=4096)
        up.booted("other")
        for image, words in (("huge", "disk is too small"), ("hungry", "memory is too small")):
            with pytest.raises(Conflict, match=words):
                made_anew(up, image=image)
        with pytest.raises(NotFound):
            made_anew(up, image="none")
        with pytest.raises(Conflict, match="already a server called other"):
            made_anew(up, name="other")
        with pytest.raises(UsageError):
            made_anew(up, user_data=b"x" * 70000)
        assert up.server("vm").status == "ACTIVE"
        assert set(old.values()) <= on_host(up)

    def test_its_own_image_may_be_gone(self, up):
        delete_image(up.context, "cirros").check()
        with pytest.raises(NotFound):
            made_anew(up)
        made_anew(up, image="debian").check()

    def test_a_rehearsal_leaves_all_as_it_is(self, up):
        old = disks(up)
        rebuild(up.asked(dry_run=True), "vm", Rebuild(image="debian"))
        assert disks(up) == old
        assert on_host(up) == set(old.values())

    def test_the_same_request_twice_is_one_rebuild(self, up):
        for _ in range(2):
            rebuild(up.asked(request_id="r1"), "vm", Rebuild(image="debian")).check()
        assert up.value("SELECT power_serial FROM servers") == 2


class TestRescue:
    def test_it_boots_from_another_disk_before_its_own(self, up):
        old = disks(up)
        rescue(up.context, "vm", "rescue").check()
        now = disks(up)
        assert up.servers() == {"vm": "RESCUE"}
        assert last(up).disks == (now["root-1"], old["root0"], old["ephemeral1"], old["swap2"])
        rescue_disk = up.rows("SELECT * FROM disks WHERE position < 0")[0]
        assert rescue_disk["size_bytes"] == 3 << 30
        up.converge(everything=True).check()
        assert up.servers() == {"vm": "RESCUE"}
        unrescue(up.context, "vm").check()
        assert (up.servers(), disks(up)) == ({"vm": "ACTIVE"}, old)
        assert on_host(up) == set(old.values())

    def test_a_guest_that_halts_in_rescue_is_still_in_rescue(self, up):
        rescue(up.context, "vm").check()
        state = up.fleet.state("h1")
        state["domains"][up.server("vm").id]["power"] = "SHUTDOWN"
        up.fleet.save("h1", state)
        up.converge(everything=True).check()
        server = up.server("vm")
        assert (server.status, server.power_state) == ("RESCUE", "SHUTDOWN")

    def test_in_rescue_only_that_is_ended(self, up):
        rescue(up.context, "vm").check()
        for attempt in (
            lambda: rescue(up.context, "vm"),
            lambda: made_anew(up),
            lambda: service.change_power(up.context, "reboot", ["vm"]),
        ):
            with pytest.raises(Conflict, match="vm_state rescued"):
                attempt()
        service.delete_servers(up.context, ["vm"]).check()
        assert on_host(up) == set()

    def test_one_that_is_not_in_rescue_is_not_taken_out_of_it(self, up):
        with pytest.raises(Conflict, match="vm_state active"):
            unrescue(up.context, "vm")
        reset_state(up.context, "vm").check()
        with pytest.raises(Conflict, match="not in rescue"):
            unrescue(up.context, "vm")

    def test_one_that_never_ran_is_not_rescued(self, up):
        with write(up.cloud) as writer:
            writer.run("UPDATE servers SET launched_at = NULL, vm_state = 'error'")
        with pytest.raises(Conflict, match="never ran"):
            rescue(up.context, "vm")

    def test_a_rescue_that_fails_is_ended_or_given_up_for_a_rebuild(self, up):
        old = disks(up)
        image_id = up.value("SELECT id FROM images WHERE name = 'rescue'")
        up.trouble("h1", fail={image_id: "checksum"})
        with pytest.raises(ResourceFailed, match="checksum"):
            rescue(up.context, "vm", "rescue").check()
        assert up.servers() == {"vm": "ERROR"}
        unrescue(up.context, "vm").check()
        assert (up.servers(), disks(up)) == ({"vm": "ACTIVE"}, old)
        with pytest.raises(ResourceFailed):
            rescue(up.context, "vm", "rescue").check()
        made_anew(up).check()
        assert up.servers() == {"vm": "ACTIVE"}
        assert "root-1" not in disks(up)

    def test_what_its_host_did_not_hear_of_is_taken_back(self, up):
        old = disks(up)
        up.trouble("h1", unreachable=True)
        with pytest.raises(HostUnreachable):
            rescue(up.context, "vm").check()
        assert (up.servers(), disks(up)) == ({"vm": "ACTIVE"}, old)
        up.trouble("h1")
        rescue(up.context, "vm").check()
        rescued = disks(up)
        up.trouble("h1", unreachable=True)
        with pytest.raises(HostUnreachable):
            unrescue(up.context, "vm").check()
        assert (up.servers(), disks(up)) == ({"vm": "RESCUE"}, rescued)
