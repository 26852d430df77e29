"""Servers of hosts that are off for good: made anew elsewhere, and never there twice."""

import pytest

from stackctl.compute import service
from stackctl.compute.attachments import attach_volume
from stackctl.compute.moves import evacuating, migrating, shelving
from stackctl.compute.moves.rehousing import Wish
from stackctl.compute.settings import lock_server
from stackctl.errors import Conflict, HostUnreachable, NoCapacity, PartlyDone, ResourceFailed
from stackctl.hosts.leaving import fence_host, return_host
from stackctl.image.service import delete_image, set_image
from stackctl.image.types import ImageChange
from stackctl.network import service as network
from stackctl.operation import recover
from stackctl.operation.keep import list_events
from stackctl.state import write
from stackctl.volume.service import create_volume
from stackctl.volume.types import NewVolume
from tests.builders import killed_at
from tests.unit.test_images import qcow2


@pytest.fixture
def lost(pair):
    """Servers vm-1, vm-2 on h1, which is off and fenced."""
    pair.booted(host="h1", count=2)
    lose(pair, "h1")
    return pair


def lose(world, host):
    world.trouble(host, unreachable=True)
    fence_host(world.context, host)


def come_back(world, host):
    world.trouble(host)
    return_host(world.context, host).check()


def hosts_of(world):
    rows = world.rows(
        "SELECT servers.name, hosts.name AS host FROM servers LEFT JOIN hosts "
        "ON hosts.id = host_id WHERE servers.deleted_at IS NULL"
    )
    return {row["name"]: row["host"] for row in rows}


class TestFence:
    def test_a_host_that_may_run_keeps_its_servers(self, pair):
        pair.booted(host="h1")
        pair.trouble("h1", unreachable=True)
        with pytest.raises(Conflict, match="Host h1 is not fenced") as refused:
            evacuating.evacuate(pair.context, ["vm"]).check()
        assert refused.value.hint == "if it is off: stackctl host-fence h1"
        with pytest.raises(Conflict, match="Host h1 is not fenced"):
            evacuating.evacuate_host(pair.context, "h1")
        assert hosts_of(pair) == {"vm": "h1"}
        assert pair.value("SELECT count(*) FROM tombstones") == 0

    def test_which_hosts_must_be_fenced_first(self, pair):
        pair.booted("a", host="h1")
        pair.booted("b", host="h2")
        assert evacuating.lost_with(pair.context, ["a", "b"]) == ["h1", "h2"]
        lose(pair, "h1")
        assert evacuating.lost_with(pair.context, ["a", "b"]) == ["h2"]


class TestEvacuate:
    def test_uefi_variables_of_a_lost_host_are_said_to_be_lost(self, pair):
        set_image(pair.context, "cirros", ImageChange(properties={"hw_firmware_type": "uefi"}))
        pair.booted(host="h1")
        before = pair.value("SELECT id FROM disks WHERE kind = 'nvram'")
        lose(pair, "h1")
        evacuating.evacuate(pair.context, ["vm"]).check()
        assert any(
            "The UEFI variables of vm were a file of host h1" in each for each in pair.warnings
        )
        after = "SELECT id FROM disks WHERE kind = 'nvram' AND deleted_at IS NULL"
        assert pair.value(after) not in (None, before)

    def test_it_is_made_anew_with_its_id_and_address(self, lost):
        before = lost.server("vm-1")
        done = evacuating.evacuate(lost.context, ["vm-1"])
        done.check()
        (server,) = done.value
        assert (server.id, server.host, server.status) == (before.id, "h2", "ACTIVE")
        assert server.addresses == before.addresses
        assert lost.fleet.state("h2")["domains"].keys() == {before.id}
        (disk,) = lost.rows(
            "SELECT * FROM disks WHERE server_id = ? AND deleted_at IS NULL", before.id
        )
        assert disk["state"] == "built"
        assert disk["image_id"] == lost.value("SELECT id FROM images")
        assert hosts_of(lost) == {"vm-1": "h2", "vm-2": "h1"}

    def test_its_move_is_remembered(self, lost):
        evacuating.evacuate(lost.context, ["vm-1"]).check()
        lost.trouble("h2", fail={"libvirt": "libvirt is down"})
        with pytest.raises(ResourceFailed):
            evacuating.evacuate(lost.context, ["vm-2"]).check()
        rows = lost.rows("SELECT kind, status, reason FROM migrations ORDER BY rowid")
        assert rows == [
            {"kind": "evacuate", "status": "completed", "reason": ""},
            {"kind": "evacuate", "status": "error", "reason": "libvirt is down"},
        ]

    def test_the_lost_host_is_not_asked(self, lost):
        lost.fleet.opened.clear()
        evacuating.evacuate(lost.context, ["vm-1"]).check()
        assert lost.fleet.opened["h1"] == 0

    def test_when_it_is_back_it_first_destroys_what_it_has(self, lost):
        ids = [lost.server(name).id for name in ("vm-1", "vm-2")]
        evacuating.evacuate(lost.context, ["vm-1", "vm-2"]).check()
        assert lost.fleet.state("h1")["domains"].keys() == {*ids}
        come_back(lost, "h1")
        assert lost.fleet.state("h1")["domains"] == {}
        assert lost.fleet.state("h1")["disks"] == {}
        assert set(lost.fleet.domains().values()) == {"h2"}
        spec = next(spec for spec in reversed(lost.fleet.specs) if spec.tombstones)
        assert {(stone.kind, stone.id) for stone in spec.tombstones} >= {
            ("domain", id_) for id_ in ids
        }
        assert spec.servers == ()

    def test_a_server_that_was_off_stays_off(self, pair):
        pair.booted(host="h1")
        service.change_power(pair.context, "stop", ["vm"]).check()
        lose(pair, "h1")
        assert evacuating.evacuate(pair.context, ["vm"]).value[0].status == "SHUTOFF"
        assert pair.fleet.state("h2")["domains"][pair.server("vm").id]["power"] == "SHUTDOWN"

    def test_one_in_error_is_made_anew(self, lost):
        with write(lost.cloud) as writer:
            writer.run("UPDATE servers SET vm_state = 'error', fault_json = '{}'")
        assert evacuating.evacuate(lost.context, ["vm-1"]).value[0].status == "ACTIVE"

    def test_and_back_again(self, lost):
        evacuating.evacuate(lost.context, ["vm-1"]).check()
        with pytest.raises(Conflict, match="Host h2 is not fenced"):
            evacuating.evacuate(lost.context, ["vm-1"]).check()
        lose(lost, "h2")
        with pytest.raises(NoCapacity):
            evacuating.evacuate(lost.context, ["vm-1"]).check()
        with write(lost.cloud) as writer:
            writer.run("UPDATE hosts SET fenced = 0 WHERE name = 'h1'")
        # What it left there is not gone: there it would be on disks that are to be destroyed.
        with pytest.raises((NoCapacity, Conflict)):
            evacuating.evacuate(lost.context, ["vm-1"]).check()
        come_back(lost, "h1")
        evacuating.evacuate(lost.context, ["vm-1"]).check()
        assert lost.server("vm-1").host == "h1"
        come_back(lost, "h2")
        assert lost.fleet.domains()[lost.server("vm-1").id] == "h1"

    def test_to_a_host_of_choice(self, lost):
        lost.add_host("h3")
        assert evacuating.evacuate(lost.context, ["vm-1"], "h3").value[0].host == "h3"
        with pytest.raises(NoCapacity):
            evacuating.evacuate(lost.context, ["vm-2"], "h1").check()

    def test_a_silent_host_is_passed_over(self, lost):
        lost.add_host("h3", disk_gb=5000)
        lost.trouble("h3", unreachable=True)
        done = evacuating.evacuate(lost.context, ["vm-1", "vm-2"])
        done.check()
        assert {server.host for server in done.value} == {"h2"}
        lost.trouble("h3")
        come_back(lost, "h1")
        assert set(lost.fleet.domains().values()) == {"h2"}

    def test_with_no_host_to_reach_all_is_as_before(self, lost):
        before = lost.rows("SELECT * FROM servers ORDER BY name")
        lost.trouble("h2", unreachable=True)
        with pytest.raises(HostUnreachable, match="h2 does not answer"):
            evacuating.evacuate(lost.asked(request_id="r"), ["vm-1", "vm-2"]).check()
        after = lost.rows("SELECT * FROM servers ORDER BY name")
        assert [{**row, "version": 0} for row in after] == [{**row, "version": 0} for row in before]
        assert lost.value("SELECT count(*) FROM tombstones WHERE acknowledged_at IS NULL") == 0
        assert lost.value("SELECT count(*) FROM disks WHERE deleted_at IS NULL") == 2
        come_back(lost, "h1")
        assert set(lost.fleet.domains().values()) == {"h1"}
        assert lost.servers() == {"vm-1": "ACTIVE", "vm-2": "ACTIVE"}

    def test_what_cannot_be_built_there_says_why(self, lost):
        lost.trouble("h2", fail={"libvirt": "libvirt is down"})
        with pytest.raises(ResourceFailed, match="libvirt is down"):
            evacuating.evacuate(lost.context, ["vm-1"]).check()
        assert lost.server("vm-1").status == "ERROR"
        lost.trouble("h2")
        service.change_power(lost.context, "reboot-hard", ["vm-1"]).check()
        assert lost.server("vm-1").host == "h2"
        come_back(lost, "h1")
        assert lost.fleet.domains()[lost.server("vm-1").id] == "h2"

    def test_servers_with_volumes_stay_and_the_others_go(self, pair):
        pair.booted(host="h1", count=2)
        create_volume(pair.context, NewVolume("data", 1)).check()
        attach_volume(pair.context, "vm-1", "data").check()
        lose(pair, "h1")
        with pytest.raises(PartlyDone, match="volume data is a file on host h1"):
            evacuating.evacuate(pair.context, ["vm-1", "vm-2"]).check()
        assert hosts_of(pair) == {"vm-1": "h1", "vm-2": "h2"}
        with pytest.raises(Conflict, match="server vm-1: Its volume data is a file"):
            evacuating.evacuate(pair.context, ["vm-1"]).check()

    def test_one_whose_image_is_gone_stays(self, lost):
        delete_image(lost.context, "cirros").check()
        with pytest.raises(Conflict, match="no host can make it anew"):
            evacuating.evacuate(lost.context, ["vm-1"]).check()

    def test_a_locked_one_stays(self, lost):
        lock_server(lost.context, "vm-1").check()
        with pytest.raises(PartlyDone, match="locked"):
            evacuating.evacuate(lost.context, ["vm-1", "vm-2"]).check()
        assert hosts_of(lost) == {"vm-1": "h1", "vm-2": "h2"}

    def test_a_refusal_leaves_the_request_free(self, lost):
        lock_server(lost.context, "vm-1").check()
        for _ in range(2):
            with pytest.raises(Conflict, match="locked"):
                evacuating.evacuate(lost.asked(request_id="r"), ["vm-1"]).check()

    def test_the_same_request_twice(self, lost):
        evacuating.evacuate(lost.asked(request_id="r"), ["vm-1"]).check()
        again = evacuating.evacuate(lost.asked(request_id="r"), ["vm-1"])
        assert [server.host for server in again.value] == ["h2"]

    def test_a_rehearsal(self, lost):
        done = evacuating.evacuate(lost.asked(dry_run=True), ["vm-1"])
        assert {step.host for step in done.planned} == {"h2"}
        assert hosts_of(lost) == {"vm-1": "h1", "vm-2": "h1"}
        assert lost.warnings == []
        assert lost.rows("SELECT * FROM migrations") == []

    def test_what_is_told(self, lost):
        evacuating.evacuate(lost.context, ["vm-1"]).check()
        words = [event["message"] for event in list_events(lost.context, resource="vm-1")]
        assert "host h1 is off: made anew on h2" in words

    def test_a_shelved_one_on_the_lost_host_is_offloaded_instead(self, pair):
        pair.booted(host="h1")
        pair.fleet.content = qcow2()
        shelving.shelve(pair.context, "vm", keep=True).check()
        lose(pair, "h1")
        with pytest.raises(Conflict, match="its root disk is an image already") as refused:
            evacuating.evacuate(pair.context, ["vm"]).check()
        assert refused.value.hint == "stackctl shelve-offload vm"
        shelving.offload(pair.context, "vm").check()
        assert shelving.unshelve(pair.context, "vm").value.host == "h2"

    def test_one_that_was_being_unshelved_there_has_its_data(self, pair, monkeypatch):
        pair.booted(host="h1")
        pair.fleet.content = qcow2()
        shelving.shelve(pair.context, "vm").check()
        image_id = pair.value("SELECT shelved_image_id FROM servers")

        with killed_at(monkeypatch, "stackctl.compute.moves.shelving.Homes.converge"):
            shelving.unshelve(pair.context, "vm", Wish("h1"))
        lose(pair, "h1")
        recover(pair.context)
        assert pair.server("vm").status in ("BUILD", "ERROR")
        evacuating.evacuate(pair.context, ["vm"]).check()
        assert pair.server("vm").host == "h2"
        (disk,) = pair.rows("SELECT * FROM disks WHERE deleted_at IS NULL")
        assert disk["image_id"] == image_id

    def test_one_that_was_moved_there_goes_back_to_its_old_disks(self, pair):
        pair.booted(host="h1")
        with write(pair.cloud) as writer:
            writer.run("UPDATE servers SET host_asked = NULL")
        old = pair.column("SELECT id FROM disks")
        migrating.migrate(pair.context, "vm").check()
        assert (pair.server("vm").status, pair.server("vm").host) == ("VERIFY_RESIZE", "h2")
        lose(pair, "h2")
        pair.add_host("h3")
        with pytest.raises(Conflict, match="it goes back to them or nowhere"):
            evacuating.evacuate(pair.context, ["vm"], "h3").check()
        pair.trouble("h1", unreachable=True)
        before = pair.rows("SELECT * FROM migrations")
        with pytest.raises(HostUnreachable):
            evacuating.evacuate(pair.context, ["vm"]).check()
        assert pair.server("vm").status == "VERIFY_RESIZE"
        assert pair.rows("SELECT * FROM migrations")[: len(before)] == before
        pair.trouble("h1")
        evacuating.evacuate(pair.context, ["vm"]).check()
        assert (pair.server("vm").status, pair.server("vm").host) == ("ACTIVE", "h1")
        assert pair.column("SELECT id FROM disks WHERE deleted_at IS NULL") == old
        assert pair.value("SELECT count(*) FROM migrations WHERE claim_host_id IS NOT NULL") == 0
        assert pair.value("SELECT status FROM migrations WHERE kind = 'cold'") == "reverted"
        come_back(pair, "h2")
        assert pair.fleet.domains() == {pair.server("vm").id: "h1"}
        assert pair.fleet.state("h1")["disks"].keys() == {*old}
        assert pair.fleet.state("h2")["disks"] == {}

    def test_deleted_afterwards_nobody_waits_for_the_lost_host(self, lost):
        evacuating.evacuate(lost.context, ["vm-1"]).check()
        lost.fleet.opened.clear()
        service.delete_servers(lost.context, ["vm-1"]).check()
        assert lost.fleet.opened["h1"] == 0
        come_back(lost, "h1")
        assert lost.fleet.domains().keys() == {lost.server("vm-2").id}

    def test_one_whose_command_was_killed_is_there_once(self, lost, monkeypatch):
        with killed_at(monkeypatch, "stackctl.compute.moves.evacuating.Homes.converge"):
            evacuating.evacuate(lost.context, ["vm-1", "vm-2"])
        assert set(lost.servers().values()) == {"REBUILD"}
        lost.fleet.opened.clear()
        (found,) = recover(lost.context)
        assert lost.fleet.opened.keys() == {"h2"}
        assert found.outcome == "done"
        assert set(lost.servers().values()) == {"ACTIVE"}
        come_back(lost, "h1")
        assert set(lost.fleet.domains().values()) == {"h2"}


class TestHost:
    @pytest.fixture
    def routed(self, pair):
        pair.booted(host="h1", count=2)
        pair.add_network("public", "203.0.113.0/24", external=True)
        network.create_router(
            pair.context, network.NewRouter("r", gateway="public", host="h1")
        ).check()
        subnet = pair.value("SELECT id FROM subnets WHERE cidr = '192.168.1.0/24'")
        network.add_interface(pair.context, "r", subnet=subnet).check()
        lose(pair, "h1")
        return pair

    def test_all_go_and_its_routers_too(self, routed):
        done = evacuating.evacuate_host(routed.asked(request_id="r"), "h1")
        done.check()
        assert done.value.routers == ["r"]
        assert hosts_of(routed) == {"vm-1": "h2", "vm-2": "h2"}
        assert network.show_router(routed.context, "r").host == "h2"
        come_back(routed, "h1")
        assert set(routed.fleet.domains().values()) == {"h2"}
        assert set(routed.fleet.routers().values()) == {"h2"}

    def test_routers_go_when_no_server_can(self, routed):
        with write(routed.cloud) as writer:
            writer.run("UPDATE hosts SET ram_mb = 1 WHERE name = 'h2'")
        done = evacuating.evacuate_host(routed.context, "h1")
        with pytest.raises(PartlyDone, match="RAM"):
            done.check()
        assert hosts_of(routed) == {"vm-1": "h1", "vm-2": "h1"}
        assert network.show_router(routed.context, "r").host == "h2"

    def test_servers_of_other_projects_go_too(self, lost):
        with write(lost.cloud) as writer:
            other = {"id": "p2", "name": "other", "created_at": "2026-01-01T00:00:00.000Z"}
            writer.insert("projects", other)
            writer.run("UPDATE servers SET project_id = 'p2' WHERE name = 'vm-2'")
        evacuating.evacuate_host(lost.context, "h1").check()
        assert hosts_of(lost) == {"vm-1": "h2", "vm-2": "h2"}

    def test_a_host_without_servers(self, pair):
        lose(pair, "h2")
        assert evacuating.evacuate_host(pair.context, "h2").value.servers == []
