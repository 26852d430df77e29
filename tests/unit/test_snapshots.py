"""Images made of servers' disks, and backups of which the newest stay."""

import json

import pytest

from stackctl.compute import service
from stackctl.compute.settings import lock_server
from stackctl.compute.snapshots import backup, snapshot
from stackctl.errors import (
    AgentFailed,
    Conflict,
    HostUnreachable,
    ResourceFailed,
    StackctlError,
    UnsafeImage,
    UsageError,
)
from stackctl.image.service import list_images, set_image, show_image
from stackctl.image.types import ImageChange
from stackctl.operation import recover
from stackctl.operation.keep import list_events
from stackctl.state import write
from tests.builders import killed_at
from tests.unit.test_images import qcow2


@pytest.fixture
def up(pair):
    """A server vm on h1 whose disk a host can send."""
    with write(pair.cloud) as writer:
        properties = json.dumps({"hw_disk_bus": "scsi"})
        writer.run(
            "UPDATE images SET properties_json = ?, min_ram_mb = 256, protected = 1", properties
        )
    pair.booted(host="h1")
    pair.fleet.content = qcow2()
    return pair


def files(world) -> list[str]:
    return sorted(path.name for path in world.cloud.images.iterdir())


def names(world) -> list[str]:
    return [image.name for image in list_images(world.context)]


def at_rest(world):
    """Nothing goes on, nothing lies around."""
    assert world.value("SELECT count(*) FROM servers WHERE task_state IS NOT NULL") == 0
    assert world.value("SELECT count(*) FROM operations WHERE outcome = 'running'") == 0
    live = world.column("SELECT DISTINCT sha256 FROM images WHERE deleted_at IS NULL")
    assert set(files(world)) <= set(live)


class TestSnapshot:
    def test_it_is_an_image_that_says_where_it_comes_from(self, up):
        done = snapshot(up.context, "vm", "snap")
        done.check()
        image = done.value
        server, base = up.server("vm"), show_image(up.context, "cirros")
        assert not image.protected
        assert (image.status, image.visibility, image.min_disk_gb) == ("active", "private", 1)
        assert image.min_ram_mb == 256
        assert image.properties == {
            "hw_disk_bus": "scsi",
            "image_type": "snapshot",
            "instance_uuid": server.id,
            "base_image_ref": base.id,
        }
        assert (up.cloud.images / image.sha256).read_bytes() == up.fleet.content
        disk_id = up.value("SELECT id FROM disks")
        assert up.fleet.asked == [("snapshot", {"server_id": server.id, "disk_id": disk_id})]
        assert up.server("vm").status == "ACTIVE"
        assert "image snap made" in list_events(up.context, resource=server.id)[-1]["message"]
        at_rest(up)
        up.booted("again", image="snap")

    def test_a_locked_server_has_one_too(self, up):
        lock_server(up.context, "vm").check()
        snapshot(up.context, "vm", "snap").check()

    def test_its_host_is_asked_once(self, up):
        up.fleet.opened.clear()
        snapshot(up.context, "vm", "snap").check()
        assert up.fleet.opened == {"h1": 1}

    def test_the_disk_of_a_server_that_is_off(self, up):
        service.change_power(up.context, "stop", ["vm"]).check()
        snapshot(up.context, "vm", "snap").check()
        assert up.servers() == {"vm": "SHUTOFF"}

    def test_the_same_request_twice_is_one_image(self, up):
        first = snapshot(up.asked(request_id="r"), "vm", "snap").value
        assert snapshot(up.asked(request_id="r"), "vm", "snap").value.id == first.id
        assert names(up) == ["cirros", "snap"]
        assert len(up.fleet.asked) == 1

    def test_a_rehearsal_copies_nothing(self, up):
        assert snapshot(up.asked(dry_run=True), "vm", "snap").value is None
        assert up.fleet.asked == []
        at_rest(up)

    @pytest.mark.parametrize(
        ("trouble", "error"),
        [
            ({"unreachable": True}, HostUnreachable),
            ({"fail": {"snapshot": "no space left"}}, ResourceFailed),
            ({"die_at": 1}, StackctlError),
            ({"silent": True}, AgentFailed),
        ],
    )
    def test_what_fails_leaves_nothing_and_may_be_asked_again(self, up, trouble, error):
        up.trouble("h1", **trouble)
        with pytest.raises(error):
            snapshot(up.asked(request_id="r"), "vm", "snap")
        assert names(up) == ["cirros"]
        assert files(up) == []
        at_rest(up)
        assert "no image snap was made" in list_events(up.context, resource="vm")[-1]["message"]
        up.trouble("h1")
        snapshot(up.asked(request_id="r"), "vm", "snap").check()
        assert names(up) == ["cirros", "snap"]

    def test_a_host_that_sends_something_dangerous_is_refused(self, up):
        up.fleet.content = qcow2(backing=b"/etc/shadow")
        with pytest.raises(UnsafeImage, match="backing file"):
            snapshot(up.context, "vm", "snap")
        assert files(up) == []
        at_rest(up)

    @pytest.mark.parametrize("name", ["", "a\nb"])
    def test_a_name_that_is_none(self, up, name):
        with pytest.raises(UsageError):
            snapshot(up.context, "vm", name)

    def test_nothing_else_begins_meanwhile(self, up):
        with write(up.cloud) as writer:
            writer.run("UPDATE servers SET task_state = 'image-snapshot', operation_id = 'x'")
        for attempt in (
            lambda: snapshot(up.context, "vm", "snap"),
            lambda: service.change_power(up.context, "stop", ["vm"]),
        ):
            with pytest.raises(Conflict, match="task_state image-snapshot"):
                attempt()

    def test_one_whose_command_was_killed_is_undone(self, up, monkeypatch):
        monkeypatch.setattr("stackctl.compute.snapshots._give_up", lambda *_: None)
        with killed_at(monkeypatch, "stackctl.compute.snapshots.receive"):
            snapshot(up.asked(request_id="r"), "vm", "snap")
        assert up.server("vm").task_state == "image-snapshot"
        assert up.server("vm").interrupted
        (found,) = recover(up.context)
        assert (found.outcome, "undone" in found.message) == ("failed", True)
        at_rest(up)
        with killed_at(monkeypatch, "stackctl.compute.snapshots.receive"):
            snapshot(up.asked(request_id="r"), "vm", "snap")
        monkeypatch.undo()
        monkeypatch.setattr("stackctl.fleet.session.open_session", up.fleet.open_session)
        snapshot(up.asked(request_id="r"), "vm", "snap").check()
        assert names(up) == ["cirros", "snap"]


class TestBackup:
    def made(self, world, name, kind="daily", kept=2):
        world.fleet.content = qcow2() + name.encode()
        return backup(world.context, "vm", name, kind, kept)

    def test_the_newest_of_a_type_stay(self, up):
        snapshot(up.context, "vm", "snap").check()
        self.made(up, "weekly-1", "weekly").check()
        for number in range(1, 5):
            self.made(up, f"daily-{number}").check()
        assert names(up) == ["cirros", "snap", "weekly-1", "daily-3", "daily-4"]
        image = show_image(up.context, "daily-4")
        assert image.properties["image_type"] == "backup"
        assert image.properties["backup_type"] == "daily"
        assert len(files(up)) == 4
        at_rest(up)

    def test_backups_of_others_and_protected_ones_stay(self, up):
        up.booted("other", host="h1")
        backup(up.context, "other", "other-1", "daily", 1).check()
        self.made(up, "daily-1", kept=1).check()
        set_image(up.context, "daily-1", ImageChange(protected=True)).check()
        self.made(up, "daily-2", kept=1).check()
        self.made(up, "daily-3", kept=1).check()
        assert names(up) == ["cirros", "other-1", "daily-1", "daily-3"]

    def test_one_that_fails_deletes_none(self, up):
        self.made(up, "daily-1", kept=1).check()
        up.trouble("h1", die_at=1)
        with pytest.raises(StackctlError):
            self.made(up, "daily-2", kept=1)
        assert names(up) == ["cirros", "daily-1"]

    @pytest.mark.parametrize("rotation", [0, -1])
    def test_a_rotation_that_keeps_none_makes_none(self, up, rotation):
        with pytest.raises(UsageError):
            backup(up.context, "vm", "b", "daily", rotation)
