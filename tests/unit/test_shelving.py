"""Servers whose root disk is an image for a while, and that take no host's room meanwhile."""

import pytest

from stackctl.compute import service
from stackctl.compute.attachments import attach_volume
from stackctl.compute.deleting import delete, restore
from stackctl.compute.moves import shelving
from stackctl.compute.moves.rehousing import Wish
from stackctl.compute.settings import lock_server, reset_state, set_server
from stackctl.compute.types import ServerChange
from stackctl.errors import (
    AgentFailed,
    Conflict,
    HostUnreachable,
    NoCapacity,
    NotFound,
    PartlyDone,
    ResourceFailed,
    StackctlError,
)
from stackctl.hosts.leaving import fence_host, return_host
from stackctl.image.service import delete_image, list_images, set_image, show_image
from stackctl.image.types import ImageChange
from stackctl.network import service as network
from stackctl.operation import recover
from stackctl.operation.keep import list_events
from stackctl.state import write
from stackctl.volume.service import create_volume, show_volume
from stackctl.volume.types import NewVolume
from tests.builders import killed_at
from tests.unit.test_images import qcow2


@pytest.fixture
def up(pair):
    """A server vm on h1 whose disk a host can send."""
    pair.booted(host="h1")
    pair.fleet.content = qcow2()
    return pair


@pytest.fixture
def away(up):
    """The server is shelved."""
    shelving.shelve(up.context, "vm").check()
    return up


def names(world) -> list[str]:
    return [image.name for image in list_images(world.context)]


def row(world, name="vm"):
    return world.rows("SELECT * FROM servers WHERE name = ? AND deleted_at IS NULL", name)[0]


def at_rest(world):
    """Nothing goes on, and hosts have what the rows say."""
    assert world.value("SELECT count(*) FROM servers WHERE task_state IS NOT NULL") == 0
    assert world.value("SELECT count(*) FROM operations WHERE outcome = 'running'") == 0
    wanted = "SELECT servers.id, hosts.name FROM servers JOIN hosts ON hosts.id = host_id"
    found = world.rows(f"{wanted} WHERE servers.deleted_at IS NULL")
    assert world.fleet.domains() == {row["id"]: row["name"] for row in found}
    disks = {id_ for name in ("h1", "h2") for id_ in world.fleet.state(name)["disks"]}
    assert disks == set(world.column("SELECT id FROM disks WHERE deleted_at IS NULL"))


def power_of(world, name="vm", host="h1"):
    return world.fleet.state(host)["domains"][row(world, name)["id"]]["power"]


class TestShelve:
    def test_its_disk_is_an_image_and_nothing_of_it_is_on_the_host(self, away):
        server = away.server("vm")
        assert (server.status, server.host, server.vm_state) == (
            "SHELVED_OFFLOADED",
            "",
            "shelved_offloaded",
        )
        image = show_image(away.context, "vm-shelved")
        assert image.properties["instance_uuid"] == server.id
        assert (away.cloud.images / image.sha256).read_bytes() == away.fleet.content
        assert away.fleet.state("h1")["domains"] == {}
        assert away.fleet.state("h1")["ports"] == []
        at_rest(away)

    def test_the_guest_is_off_before_its_disk_is_copied(self, up):
        seen = []
        stream = up.fleet.open_session

        def watched(*arguments, **more):
            session = stream(*arguments, **more)
            ask = session.stream
            session.stream = lambda *a: (seen.append(power_of(up)), ask(*a))[1]
            return session

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stackctl.fleet.session.open_session", watched)
            shelving.shelve(up.context, "vm").check()
        assert seen == ["SHUTDOWN"]

    def test_no_host_has_its_room(self, away):
        used = "SELECT count(*) FROM servers WHERE host_id IS NOT NULL AND deleted_at IS NULL"
        assert away.value(used) == 0

    def test_its_address_stays_its_own(self, up):
        before = up.server("vm").addresses
        shelving.shelve(up.context, "vm").check()
        assert up.server("vm").addresses == before
        (other,) = up.booted("other")
        assert other.addresses[0].address != before[0].address
        shelving.unshelve(up.context, "vm").check()
        assert up.server("vm").addresses == before

    def test_the_disk_is_buried_only_after_its_image_is_there(self, up, monkeypatch):
        order = []
        offload = shelving.shelving.offload

        def watched(writer, server):
            image = writer.get("images", server["shelved_image_id"])
            order.append((image["status"], (up.cloud.images / image["sha256"]).exists()))
            offload(writer, server)

        monkeypatch.setattr("stackctl.operation.shelving.offload", watched)
        shelving.shelve(up.context, "vm").check()
        assert order == [("active", True)]

    def test_a_server_that_is_off(self, up):
        service.change_power(up.context, "stop", ["vm"]).check()
        shelving.shelve(up.context, "vm").check()
        assert up.servers() == {"vm": "SHELVED_OFFLOADED"}
        at_rest(up)

    def test_kept_on_its_host_until_it_is_offloaded(self, up):
        shelving.shelve(up.context, "vm", keep=True).check()
        server = up.server("vm")
        assert (server.status, server.host, names(up)) == (
            "SHELVED",
            "h1",
            ["cirros", "vm-shelved"],
        )
        up.converge(everything=True).check()
        assert up.servers() == {"vm": "SHELVED"}
        at_rest(up)
        shelving.offload(up.context, "vm").check()
        assert up.server("vm").status == "SHELVED_OFFLOADED"
        at_rest(up)

    def test_offloading_what_is_not_shelved(self, up):
        with pytest.raises(Conflict, match="Cannot 'shelve-offload' instance vm"):
            shelving.offload(up.context, "vm")

    def test_its_only_copy_is_not_given_up(self, up):
        shelving.shelve(up.context, "vm", keep=True).check()
        with write(up.cloud) as writer:
            writer.run("UPDATE servers SET shelved_image_id = NULL")
        with pytest.raises(Conflict, match="no image of the root disk"):
            shelving.offload(up.context, "vm")
        assert len(up.fleet.state("h1")["disks"]) == 1

    def test_what_is_not_kept_is_said(self, up):
        with write(up.cloud) as writer:
            writer.run("UPDATE servers SET ephemeral_gb = 2, swap_mb = 512")
        shelving.shelve(up.context, "vm").check()
        assert any("2 GB of ephemeral disk and 512 MB of swap" in text for text in up.warnings)

    def test_a_locked_server_is_left_alone(self, up):
        lock_server(up.context, "vm").check()
        with pytest.raises(Conflict, match="locked"):
            shelving.shelve(up.context, "vm")

    def test_the_same_request_twice(self, up):
        shelving.shelve(up.asked(request_id="r"), "vm").check()
        again = shelving.shelve(up.asked(request_id="r"), "vm")
        assert again.value.status == "SHELVED_OFFLOADED"
        assert len(up.fleet.asked) == 1

    def test_a_rehearsal_changes_nothing(self, up):
        done = shelving.shelve(up.asked(dry_run=True), "vm")
        assert done.value.status == "ACTIVE"
        assert [(step.host, step.kind, step.result) for step in done.planned] == [
            ("h1", "domain", "changed")
        ]
        assert names(up) == ["cirros"]
        at_rest(up)

    @pytest.mark.parametrize(
        ("trouble", "error"),
        [
            ({"fail": {"snapshot": "no space left"}}, ResourceFailed),
            ({"fail": {"libvirt": "libvirt is down"}}, ResourceFailed),
            ({"silent": True, "times": 9}, StackctlError),
        ],
    )
    def test_what_fails_leaves_it_running_where_it_was(self, up, trouble, error):
        up.trouble("h1", **trouble)
        with pytest.raises(error):
            shelving.shelve(up.asked(request_id="r"), "vm")
        up.trouble("h1")
        up.converge(everything=True).check()
        assert up.servers() == {"vm": "ACTIVE"}
        assert power_of(up) == "RUNNING"
        assert names(up) == ["cirros"]
        at_rest(up)
        shelving.shelve(up.asked(request_id="r"), "vm").check()
        assert up.servers() == {"vm": "SHELVED_OFFLOADED"}

    def test_an_image_that_arrives_broken(self, up):
        up.trouble("h1", silent=True)
        with pytest.raises((AgentFailed, ResourceFailed)) as failed:
            shelving.shelve(up.context, "vm")
        assert failed.value.message.endswith("Server vm is not shelved.")

    def test_one_whose_host_is_down_is_as_it_was(self, up):
        before = row(up)
        up.trouble("h1", unreachable=True)
        with pytest.raises(HostUnreachable, match="does not answer"):
            shelving.shelve(up.context, "vm")
        after = row(up)
        for name in ("power_action", "power_serial", "vm_state", "task_state", "kept_state"):
            assert after[name] == before[name], name
        up.trouble("h1")
        up.converge(everything=True).check()
        assert up.servers() == {"vm": "ACTIVE"}

    def test_a_host_that_is_lost_when_the_image_is_there(self, up):
        calls = []

        def dies(name):
            calls.append(name)
            if len(calls) == 3:
                up.trouble("h1", unreachable=True)

        up.fleet.before_open = dies
        with pytest.raises(PartlyDone):
            shelving.shelve(up.context, "vm").check()
        assert up.server("vm").status == "SHELVED_OFFLOADED"
        with pytest.raises(Conflict, match="is not removed there yet"):
            shelving.unshelve(up.context, "vm", Wish("h1"))
        shelving.unshelve(up.context, "vm").check()
        assert up.server("vm").host == "h2"
        up.fleet.before_open = None
        up.trouble("h1")
        up.converge(everything=True).check()
        at_rest(up)

    def test_a_session_that_ends_badly_does_not_start_what_is_shelved(self, up, monkeypatch):
        opened = up.fleet.open_session

        def breaks_off(*arguments, **more):
            session = opened(*arguments, **more)
            close = session.close

            def closed():
                close()
                if arguments[1].mode == "act":
                    raise HostUnreachable("Host h1 does not answer.")

            session.close = closed
            return session

        monkeypatch.setattr("stackctl.fleet.session.open_session", breaks_off)
        shelving.shelve(up.context, "vm").check()
        assert up.servers() == {"vm": "SHELVED_OFFLOADED"}
        assert up.warnings == ["Host h1 does not answer."]
        at_rest(up)

    def test_its_image_is_not_deleted_by_a_slip(self, away):
        with pytest.raises(Conflict, match="root disk of server vm, which is shelved"):
            delete_image(away.context, "vm-shelved")

    def test_other_commands_name_its_state(self, away):
        for action in ("start", "stop", "reboot-hard", "pause"):
            with pytest.raises(Conflict, match="while it is in vm_state shelved_offloaded"):
                service.change_power(away.context, action, ["vm"])

    def test_a_new_name_is_its_guests_when_it_is_back(self, away):
        set_server(away.context, "vm", ServerChange(name="web")).check()
        shelving.unshelve(away.context, "web").check()
        assert away.fleet.specs[-1].servers[0].guest.name == "web"

    def test_nobody_can_say_another_state_of_it(self, away):
        with pytest.raises(Conflict, match="is shelved, on no host"):
            reset_state(away.context, "vm", "active")

    def test_deleted_its_image_goes_too(self, away):
        service.delete_servers(away.context, ["vm"]).check()
        assert list(away.cloud.images.iterdir()) == []
        assert names(away) == ["cirros"]
        assert away.servers() == {}
        at_rest(away)

    def test_softly_deleted_and_restored(self, away):
        away.cloud.config["reclaim_instance_interval"] = 3600
        delete(away.context, ["vm"]).check()
        assert away.servers() == {"vm": "SOFT_DELETED"}
        restore(away.context, ["vm"]).check()
        assert away.servers() == {"vm": "SHELVED_OFFLOADED"}
        shelving.unshelve(away.context, "vm").check()
        assert away.servers() == {"vm": "ACTIVE"}

    def test_a_fenced_host_is_not_asked(self, up):
        shelving.shelve(up.context, "vm", keep=True).check()
        up.trouble("h1", unreachable=True)
        fence_host(up.context, "h1")
        up.fleet.opened.clear()
        shelving.offload(up.context, "vm").check()
        assert up.fleet.opened["h1"] == 0
        shelving.unshelve(up.context, "vm").check()
        assert up.server("vm").host == "h2"
        up.trouble("h1")
        return_host(up.context, "h1").check()
        at_rest(up)


class TestUnshelve:
    def test_it_is_there_again_and_its_image_gone(self, away):
        done = shelving.unshelve(away.context, "vm")
        done.check()
        assert done.value.status == "ACTIVE"
        assert done.value.image == "cirros"
        assert names(away) == ["cirros"]
        assert row(away)["shelved_image_id"] is None
        assert [path.name for path in away.cloud.images.iterdir()] == []
        at_rest(away)

    def test_its_disk_is_made_of_its_image(self, away):
        image = show_image(away.context, "vm-shelved")
        shelving.unshelve(away.context, "vm").check()
        (disk,) = away.rows("SELECT * FROM disks WHERE deleted_at IS NULL")
        assert disk["image_id"] == image.id
        (spec,) = [spec for spec in away.fleet.specs if spec.servers][-1:]
        assert {item.id for item in spec.images} >= {image.id}

    def test_on_the_host_that_was_asked_for(self, away):
        assert shelving.unshelve(away.context, "vm", Wish("h2")).value.host == "h2"
        at_rest(away)

    def test_it_can_be_shelved_again(self, away):
        for number in range(2):
            away.fleet.content = qcow2() + bytes([number])
            shelving.unshelve(away.context, "vm").check()
            shelving.shelve(away.context, "vm").check()
        assert names(away) == ["cirros", "vm-shelved"]
        at_rest(away)

    def test_in_the_zone_that_was_asked_for(self, up):
        with write(up.cloud) as writer:
            writer.run("UPDATE hosts SET zone = 'east' WHERE name = 'h2'")
        shelving.shelve(up.context, "vm").check()
        server = shelving.unshelve(up.context, "vm", Wish(zone="east")).value
        assert (server.host, server.zone) == ("h2", "east")
        with write(up.cloud) as writer:
            writer.run("UPDATE hosts SET zone = 'west'")
        shelving.shelve(up.context, "vm").check()
        with pytest.raises(NoCapacity, match="zone"):
            shelving.unshelve(up.context, "vm", Wish(zone="east"))

    def test_a_host_that_there_is_not(self, away):
        with pytest.raises(NotFound):
            shelving.unshelve(away.context, "vm", Wish("h9"))
        assert away.servers() == {"vm": "SHELVED_OFFLOADED"}

    def test_one_that_is_not_shelved(self, up):
        with pytest.raises(Conflict, match=r"Cannot 'unshelve' instance vm .* vm_state active"):
            shelving.unshelve(up.context, "vm")

    def test_no_room(self, away):
        with write(away.cloud) as writer:
            writer.run("UPDATE hosts SET ram_mb = 1")
        with pytest.raises(NoCapacity, match="RAM"):
            shelving.unshelve(away.context, "vm")
        assert away.servers() == {"vm": "SHELVED_OFFLOADED"}
        assert names(away) == ["cirros", "vm-shelved"]

    def test_kept_on_its_host_it_goes_on_there(self, up):
        shelving.shelve(up.context, "vm", keep=True).check()
        with pytest.raises(Conflict, match="where its disk still is"):
            shelving.unshelve(up.context, "vm", Wish("h2"))
        disks = up.column("SELECT id FROM disks")
        shelving.unshelve(up.context, "vm").check()
        assert up.servers() == {"vm": "ACTIVE"}
        assert up.column("SELECT id FROM disks") == disks
        assert names(up) == ["cirros"]
        at_rest(up)

    def test_kept_on_a_host_that_is_down_its_image_stays(self, up):
        shelving.shelve(up.context, "vm", keep=True).check()
        up.trouble("h1", unreachable=True)
        with pytest.raises(StackctlError):
            shelving.unshelve(up.context, "vm").check()
        assert up.servers() == {"vm": "SHELVED"}
        assert names(up) == ["cirros", "vm-shelved"]

    def test_a_silent_host_is_passed_over(self, away):
        away.trouble("h1", unreachable=True)
        with write(away.cloud) as writer:
            writer.run("UPDATE hosts SET disk_gb = 5000 WHERE name = 'h1'")
        done = shelving.unshelve(away.context, "vm")
        done.check()
        assert done.value.host == "h2"
        away.trouble("h1")
        away.converge(everything=True).check()
        at_rest(away)

    def test_with_all_hosts_silent_it_is_shelved_as_before(self, away):
        before = row(away)
        for host in ("h1", "h2"):
            away.trouble(host, unreachable=True)
        with pytest.raises(HostUnreachable, match="shelved as before"):
            shelving.unshelve(away.asked(request_id="r"), "vm")
        after = row(away)
        assert {**after, "version": 0} == {**before, "version": 0}
        assert away.value("SELECT count(*) FROM disks WHERE deleted_at IS NULL") == 0
        for host in ("h1", "h2"):
            away.trouble(host)
        shelving.unshelve(away.asked(request_id="r"), "vm").check()
        at_rest(away)

    @pytest.mark.parametrize("kind", ["disk", "image", "libvirt"])
    def test_what_cannot_be_built_is_shelved_as_before(self, away, kind):
        for host in ("h1", "h2"):
            away.trouble(host, fail={kind: "the disk is full"})
        with pytest.raises(ResourceFailed, match=r"the disk is full.*shelved as before"):
            shelving.unshelve(away.context, "vm")
        assert away.servers() == {"vm": "SHELVED_OFFLOADED"}
        assert names(away) == ["cirros", "vm-shelved"]
        for host in ("h1", "h2"):
            away.trouble(host)
        shelving.unshelve(away.context, "vm").check()
        at_rest(away)

    def test_a_rehearsal_says_what_its_host_would_do(self, away):
        done = shelving.unshelve(away.asked(dry_run=True), "vm")
        assert {step.kind for step in done.planned} >= {"disk", "domain"}
        assert away.servers() == {"vm": "SHELVED_OFFLOADED"}
        at_rest(away)

    def test_what_is_told(self, away):
        shelving.unshelve(away.context, "vm").check()
        words = [event["message"] for event in list_events(away.context, resource="vm")]
        assert any("its root disk is image vm-shelved" in text for text in words)
        assert any("placed on" in text for text in words)


class TestVolumes:
    @pytest.fixture
    def with_volume(self, up):
        create_volume(up.context, NewVolume("data", 1)).check()
        attach_volume(up.context, "vm", "data").check()
        return up

    def test_a_server_with_volumes_goes_back_to_their_host(self, with_volume):
        up = with_volume
        shelving.shelve(up.context, "vm").check()
        volume = show_volume(up.context, "data")
        assert (volume.status, volume.host) == ("in-use", "h1")
        with pytest.raises(Conflict, match="Volume data of server vm is a file on host h1"):
            shelving.unshelve(up.context, "vm", Wish("h2"))
        shelving.unshelve(up.context, "vm").check()
        assert up.server("vm").host == "h1"
        assert up.fleet.state("h1")["plugged"] == {volume.id: row(up)["id"]}
        up.converge(everything=True).check()
        at_rest(up)

    def test_one_that_boots_from_a_volume_needs_no_image(self, pair):
        create_volume(pair.context, NewVolume("root", 2, image="cirros")).check()
        pair.booted(image="", volume="root", host="h2")
        shelving.shelve(pair.context, "vm").check()
        assert names(pair) == ["cirros"]
        assert pair.server("vm").status == "SHELVED_OFFLOADED"
        shelving.unshelve(pair.context, "vm").check()
        assert (pair.server("vm").status, pair.server("vm").host) == ("ACTIVE", "h2")


class TestFloatingIps:
    def test_they_stay_with_it(self, up):
        up.add_network("public", "203.0.113.0/24", external=True)
        network.create_router(up.context, network.NewRouter("r", gateway="public")).check()
        subnet = up.value("SELECT id FROM subnets WHERE cidr = '192.168.1.0/24'")
        network.add_interface(up.context, "r", subnet=subnet).check()
        target = network.Target(server="vm")
        made = network.create_floating_ip(
            up.context, network.NewFloatingIp("public", target=target)
        ).value
        shelving.shelve(up.context, "vm").check()
        assert up.server("vm").addresses[0].floating == (made.address,)
        shelving.unshelve(up.context, "vm", Wish("h2")).check()
        assert up.server("vm").addresses[0].floating == (made.address,)


class TestInterrupted:
    def test_while_the_disk_is_copied_it_runs_again(self, up, monkeypatch):
        work = lambda: shelving.shelve(up.asked(request_id="r"), "vm")  # noqa: E731
        with killed_at(monkeypatch, "stackctl.compute.moves.shelving.receive"):
            work()
        assert up.server("vm").task_state == "shelving"
        assert power_of(up) == "SHUTDOWN"
        (found,) = recover(up.context)
        assert (found.outcome, "undone" in found.message) == ("failed", True)
        assert up.servers() == {"vm": "ACTIVE"}
        assert power_of(up) == "RUNNING"
        at_rest(up)
        work().check()

    def test_one_that_was_off_stays_off(self, up, monkeypatch):
        service.change_power(up.context, "stop", ["vm"]).check()
        work = lambda: shelving.shelve(up.context, "vm")  # noqa: E731
        with killed_at(monkeypatch, "stackctl.compute.moves.shelving.receive"):
            work()
        recover(up.context)
        assert up.servers() == {"vm": "SHUTOFF"}
        at_rest(up)

    def test_with_its_image_it_is_shelved(self, up, monkeypatch):
        work = lambda: shelving.shelve(up.asked(request_id="r"), "vm")  # noqa: E731
        with killed_at(monkeypatch, "stackctl.compute.moves.shelving._put_away"):
            work()
        assert up.server("vm").vm_state == "shelved"
        (found,) = recover(up.context)
        assert found.outcome == "done"
        assert up.servers() == {"vm": "SHELVED_OFFLOADED"}
        at_rest(up)
        assert work().value.status == "SHELVED_OFFLOADED"
        assert len(up.fleet.asked) == 1

    def test_unshelved_by_whoever_comes_next(self, away, monkeypatch):
        work = lambda: shelving.unshelve(away.context, "vm")  # noqa: E731
        with killed_at(monkeypatch, "stackctl.compute.moves.shelving.Homes.converge"):
            work()
        assert away.servers() == {"vm": "BUILD"}
        away.converge().check()
        assert away.servers() == {"vm": "ACTIVE"}
        assert names(away) == ["cirros"]
        at_rest(away)


class TestVariables:
    """Of a server that boots by UEFI."""

    @pytest.fixture
    def efi(self, pair):
        set_image(pair.context, "cirros", ImageChange(properties={"hw_firmware_type": "uefi"}))
        pair.booted(host="h1")
        pair.fleet.content = qcow2()
        return pair

    @staticmethod
    def shelved_as(world):
        return row(world)["shelved_image_id"], row(world)["shelved_nvram_id"]

    def test_they_are_an_image_that_its_next_ones_are_made_of(self, efi):
        shelving.shelve(efi.context, "vm").check()
        assert set(names(efi)) == {"vm-shelved", "cirros"}
        _, nvram = self.shelved_as(efi)
        assert nvram is not None
        with pytest.raises(Conflict, match="UEFI variables of server vm, which is shelved"):
            delete_image(efi.context, nvram)
        shelving.unshelve(efi.context, "vm").check()
        made_of = "SELECT image_id FROM disks WHERE kind = 'nvram' AND deleted_at IS NULL"
        assert efi.value(made_of) == nvram
        assert self.shelved_as(efi) == (None, None)
        assert efi.value("SELECT status FROM images WHERE id = ?", nvram) == "deleted"
        at_rest(efi)

    def test_their_image_goes_when_that_of_the_root_disk_fails(self, efi, monkeypatch):
        taken = shelving.asked_of

        def fail(*arguments):
            taken(*arguments)
            raise AgentFailed("no room for a copy")

        monkeypatch.setattr(shelving, "asked_of", fail)
        with pytest.raises(AgentFailed) as failed:
            shelving.shelve(efi.context, "vm")
        assert failed.value.message.endswith("Server vm is not shelved.")
        assert efi.server("vm").status == "ACTIVE"
        assert self.shelved_as(efi) == (None, None)
        gone = "SELECT status FROM images WHERE name = 'vm-shelved-variables'"
        assert efi.value(gone) == "deleted"
        at_rest(efi)

    def test_they_go_with_the_server(self, efi):
        shelving.shelve(efi.context, "vm").check()
        service.delete_servers(efi.context, ["vm"]).check()
        left = "SELECT count(*) FROM images WHERE name LIKE 'vm-shelved%' AND deleted_at IS NULL"
        assert efi.value(left) == 0
