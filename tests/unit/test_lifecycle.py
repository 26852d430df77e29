"""Every action in every state."""

import pytest

from stackctl.compute import service
from stackctl.compute.lifecycle import TRANSITIONS, require, status
from stackctl.errors import Conflict, HostUnreachable, PartlyDone
from stackctl.state import write

BUILT = {"active", "stopped", "paused", "suspended", "rescued", "resized", "error"}
STATES = ("building", "soft-delete", *sorted(BUILT))
ALLOWED = {
    "start": {"stopped"},
    "stop": {"active", "error"},
    "reboot": {"active"},
    "reboot-hard": {"active", "stopped", "paused", "suspended", "error"},
    "pause": {"active"},
    "unpause": {"paused"},
    "suspend": {"active"},
    "resume": {"suspended"},
    "attach-interface": {"active", "paused", "stopped"},
    "detach-interface": {"active", "paused", "stopped"},
    "attach-volume": {"active", "paused", "stopped"},
    "detach-volume": {"active", "paused", "stopped"},
    "rebuild": {"active", "stopped", "error"},
    "rescue": {"active", "stopped", "error"},
    "unrescue": {"rescued", "error"},
    "snapshot": {"active", "stopped", "paused", "suspended"},
    "backup": {"active", "stopped", "paused", "suspended"},
    "resize": {"active", "stopped"},
    "migrate": {"active", "stopped"},
    "live-migrate": {"active", "paused"},
    "confirm-resize": {"resized"},
    "revert-resize": {"resized", "error"},
    "soft-delete": {*BUILT, "building"},
    "restore": {"soft-delete"},
    "rename": BUILT,
    "set": BUILT,
}
WHILE_LOCKED = {"rename", "snapshot", "backup"}


def server_in(vm_state, **more):
    server = {"id": "1", "name": "vm", "vm_state": vm_state, "task_state": None, "locked": 0}
    return {**server, "moving": 0, **more}


def test_the_table_has_all_actions():
    assert set(TRANSITIONS) == set(ALLOWED)


@pytest.mark.parametrize("action", ALLOWED)
@pytest.mark.parametrize("state", STATES)
def test_an_action_in_a_state(action, state):
    server = server_in(state)
    if state in ALLOWED[action]:
        assert require(server, action).action == action
        return
    with pytest.raises(Conflict, match=f"Cannot '{action}' instance vm .* vm_state {state}") as no:
        require(server, action)
    assert no.value.exit_status == 4


@pytest.mark.parametrize("action", ALLOWED)
def test_nothing_begins_while_something_else_goes_on(action):
    server = server_in("active", task_state="rebooting")
    with pytest.raises(Conflict, match="task_state rebooting") as no:
        require(server, action)
    assert "recover" in no.value.hint


@pytest.mark.parametrize("action", ALLOWED)
def test_a_locked_server_refuses(action):
    state = min(ALLOWED[action])
    server = server_in(state, locked=1, lock_reason="do not touch")
    if action in WHILE_LOCKED:
        require(server, action)
        return
    with pytest.raises(Conflict, match=r"Instance vm is locked \(do not touch\)") as no:
        require(server, action)
    assert no.value.hint == "stackctl unlock 1"


@pytest.mark.parametrize(
    ("vm_state", "task_state", "shown"),
    [
        ("building", "spawning", "BUILD"),
        ("active", None, "ACTIVE"),
        ("active", "rebooting", "REBOOT"),
        ("active", "rebooting-hard", "HARD_REBOOT"),
        ("stopped", None, "SHUTOFF"),
        ("active", "powering-off", "ACTIVE"),
        ("error", None, "ERROR"),
        ("paused", None, "PAUSED"),
        ("suspended", None, "SUSPENDED"),
        ("rescued", None, "RESCUE"),
        ("resized", None, "VERIFY_RESIZE"),
        ("soft-delete", None, "SOFT_DELETED"),
        ("active", "rebuilding", "REBUILD"),
        ("stopped", "resizing", "RESIZE"),
        ("resized", "resize-reverting", "REVERT_RESIZE"),
        ("strange", None, "UNKNOWN"),
    ],
)
def test_what_list_shows(vm_state, task_state, shown):
    assert status(vm_state, task_state) == shown


class TestOnHosts:
    @pytest.fixture
    def up(self, pair):
        pair.booted(count=2)
        return pair

    def power(self, world, action, *words):
        return service.change_power(world.context, action, words or ["vm-1", "vm-2"])

    def test_stop_and_start(self, up):
        self.power(up, "stop").check()
        assert set(up.servers().values()) == {"SHUTOFF"}
        self.power(up, "start").check()
        assert set(up.servers().values()) == {"ACTIVE"}
        assert up.fleet.opened == {"h1": 3, "h2": 3}

    @pytest.mark.parametrize("action", ["reboot", "reboot-hard"])
    def test_reboot(self, up, action):
        self.power(up, action).check()
        assert set(up.servers().values()) == {"ACTIVE"}
        served = [d["served"] for h in ("h1", "h2") for d in up.fleet.state(h)["domains"].values()]
        assert served == [2, 2]

    def test_one_that_may_not_stops_all(self, up):
        self.power(up, "stop", "vm-1").check()
        up.fleet.opened.clear()
        with pytest.raises(Conflict):
            self.power(up, "stop", "vm-2", "vm-1")
        assert up.servers()["vm-2"] == "ACTIVE"
        assert up.fleet.opened == {}

    def test_the_same_word_twice_is_one_command(self, up):
        self.power(up, "stop", "vm-1", "vm-1").check()
        assert up.value("SELECT power_serial FROM servers WHERE name = 'vm-1'") == 2

    def test_what_did_not_reach_the_host_is_taken_back(self, up):
        up.trouble("h1", unreachable=True)
        done = self.power(up, "stop")
        with pytest.raises(PartlyDone, match="does not answer"):
            done.check()
        states = sorted(up.servers().values())
        assert states == ["ACTIVE", "SHUTOFF"]
        assert up.value("SELECT count(*) FROM servers WHERE task_state IS NOT NULL") == 0
        up.trouble("h1")
        up.converge(everything=True).check()
        assert sorted(up.servers().values()) == states

    def test_nobody_reached_is_20(self, up):
        for name in ("h1", "h2"):
            up.trouble(name, unreachable=True)
        with pytest.raises(HostUnreachable):
            self.power(up, "stop").check()

    def test_what_was_lost_on_the_way_is_obeyed_later(self, up):
        up.trouble("h1", lose="after")
        with pytest.raises(PartlyDone):
            self.power(up, "stop").check()
        up.trouble("h1")
        up.converge().check()
        assert set(up.servers().values()) == {"SHUTOFF"}

    def test_a_rehearsal_changes_nothing(self, up):
        before = [up.fleet.state(name) for name in ("h1", "h2")]
        service.change_power(up.asked(dry_run=True), "stop", ["vm-1"])
        assert set(up.servers().values()) == {"ACTIVE"}
        assert [up.fleet.state(name) for name in ("h1", "h2")] == before

    def test_an_unrelated_command_restarts_nobody(self, up):
        server = up.server("vm-1")
        state = up.fleet.state(server.host)
        state["domains"][server.id]["power"] = "SHUTDOWN"
        up.fleet.save(server.host, state)
        up.booted("other", host=server.host)
        assert up.servers()["vm-1"] == "SHUTOFF"

    def test_a_server_that_goes_on_is_shown_as_interrupted_only_without_owner(self, up):
        with write(up.cloud) as writer:
            writer.run("UPDATE servers SET task_state = 'rebooting' WHERE name = 'vm-1'")
        assert not up.server("vm-1").interrupted
        with write(up.cloud) as writer:
            writer.run("UPDATE operations SET outcome = 'running'")
        assert up.server("vm-1").interrupted
        assert not up.server("vm-2").interrupted
