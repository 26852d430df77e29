"""A transaction, then a convergence: what becomes of a command when hosts do this or that."""

import json

import pytest

from stackctl.compute import service, views
from stackctl.errors import (
    AgentFailed,
    HostKeyMismatch,
    HostUnreachable,
    PartlyDone,
    ResourceFailed,
)
from stackctl.fleet.errors import HostBusy
from stackctl.hosts.settings import set_host
from stackctl.hosts.types import HostChanges
from tests.builders import furnished

_LIVE_PORTS = """
SELECT count(*) FROM ports WHERE deleted_at IS NULL AND device_owner <> 'network:dhcp'
"""


def status(world):
    return sorted(world.servers().values())


class TestTheOrdinaryWay:
    def test_four_servers_cost_each_host_one_exchange(self, pair):
        servers = pair.booted(count=4)
        assert {server.host for server in servers} == {"h1", "h2"}
        assert status(pair) == ["ACTIVE"] * 4
        assert pair.fleet.opened == {"h1": 1, "h2": 1}
        assert len(pair.fleet.domains()) == 4

    def test_nothing_is_left_open(self, pair):
        pair.booted(count=2)
        assert pair.column("SELECT DISTINCT outcome FROM operations") == ["done"]
        assert pair.value("SELECT count(*) FROM hosts WHERE issued_serial > applied_serial") == 0
        assert pair.column("SELECT DISTINCT state FROM disks") == ["built"]
        assert pair.value("SELECT count(*) FROM servers WHERE task_state IS NOT NULL") == 0

    def test_a_host_that_is_not_concerned_is_not_called(self, pair):
        pair.booted("one", host="h1")
        assert pair.fleet.opened == {"h1": 1}

    def test_a_neighbour_hears_of_the_name(self, pair):
        pair.booted("one", host="h1")
        pair.booted("two", host="h2")
        assert pair.fleet.opened == {"h1": 2, "h2": 1}
        last = [spec for spec in pair.fleet.specs if spec.host_id == pair.host("h1")["id"]][-1]
        assert {"one", "two"} <= {name.hostname for name in last.networks[0].names}


class TestUnreachable:
    def test_its_servers_go_elsewhere(self, pair):
        pair.trouble("h1", unreachable=True)
        done = pair.boot(count=4)
        done.check()
        assert {server.host for server in done.value} == {"h2"}
        assert status(pair) == ["ACTIVE"] * 4
        assert pair.fleet.opened == {"h1": 1, "h2": 2}
        assert len([text for text in pair.warnings if "h1" in text]) == 1

    def test_nobody_there_leaves_nothing(self, pair):
        for name in ("h1", "h2"):
            pair.trouble(name, unreachable=True)
        with pytest.raises(HostUnreachable, match="Nothing was booted"):
            pair.boot(count=2)
        assert pair.servers() == {}
        assert pair.value(_LIVE_PORTS) == 0
        assert pair.value("SELECT count(*) FROM bindings") == 0
        assert pair.value("SELECT count(*) FROM tombstones") == 0
        assert pair.value("SELECT count(*) FROM disks WHERE deleted_at IS NULL") == 0

    def test_what_fits_nowhere_else_fails_with_the_reason(self, world):
        world.add_host("h1", vcpus=1, cpu_ratio=2.0)
        world.add_host("h2", vcpus=1, cpu_ratio=3.0)
        world.add_image()
        world.add_network()
        world.trouble("h1", unreachable=True)
        done = world.boot(count=4)
        with pytest.raises(PartlyDone, match="does not answer"):
            done.check()
        assert status(world) == ["ACTIVE", "ACTIVE", "ACTIVE", "ERROR"]


class TestNotLetIn:
    @pytest.mark.parametrize("kind", [HostKeyMismatch, HostBusy, AgentFailed])
    def test_others_take_the_servers(self, pair, kind):
        pair.trouble("h1", error=kind("Host h1 will not."))
        done = pair.boot(count=2)
        done.check()
        assert {server.host for server in done.value} == {"h2"}
        assert pair.warnings == ["Host h1 will not. Trying other hosts."]

    @pytest.mark.parametrize(("kind", "status_"), [(HostKeyMismatch, 21), (AgentFailed, 30)])
    def test_alone_it_is_the_commands_own_end(self, pair, kind, status_):
        pair.trouble("h1", error=kind("Host h1 will not."))
        with pytest.raises(kind, match="Nothing was booted") as caught:
            pair.boot(host="h1")
        assert caught.value.exit_status == status_
        assert pair.servers() == {}

    def test_lost_before_the_spec_nothing_was_done_there(self, pair):
        pair.trouble("h1", lose="before")
        pair.booted(count=2)
        assert {server.host for server in views.list_servers(pair.context)} == {"h2"}

    def test_lost_once_before_the_spec_is_tried_again(self, pair):
        pair.trouble("h1", lose="before", times=1)
        pair.booted(count=2)
        assert {server.host for server in views.list_servers(pair.context)} == {"h1", "h2"}

    def test_three_hosts_are_tried_and_no_more(self, world):
        furnished(world, "h1", "h2", "h3", "h4")
        for name in ("h1", "h2", "h3", "h4"):
            world.trouble(name, unreachable=True)
        with pytest.raises(HostUnreachable):
            world.boot(count=1)
        assert sum(world.fleet.opened.values()) == 3
        assert world.servers() == {}

    def test_interrupted_by_the_keyboard_the_next_command_goes_on(self, pair, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("stackctl.operation.convergence.converge", stop)
            pair.boot()
        assert pair.server("vm").interrupted
        pair.converge().check()
        assert pair.servers() == {"vm": "ACTIVE"}


class TestPeripheral:
    def test_one_warning_and_no_failure(self, pair):
        pair.booted("one", host="h1")
        pair.trouble("h1", unreachable=True)
        pair.booted("two", host="h2")
        assert len(pair.warnings) == 1
        assert "h1" in pair.warnings[0]
        assert pair.host("h1")["issued_serial"] > pair.host("h1")["applied_serial"]
        pair.trouble("h1")
        pair.converge().check()
        assert pair.host("h1")["issued_serial"] <= pair.host("h1")["applied_serial"]


class TestLostAfterTheSpec:
    def test_once_is_mended_by_one_more_try(self, pair):
        pair.trouble("h1", lose="after", times=1)
        pair.booted(host="h1")
        assert pair.fleet.opened == {"h1": 2}

    def test_twice_is_an_error_with_its_reason(self, pair):
        pair.trouble("h1", lose="after")
        done = pair.boot(count=2)
        with pytest.raises(PartlyDone):
            done.check()
        assert status(pair) == ["ACTIVE", "ERROR"]
        fault = next(server.fault for server in done.value if server.status == "ERROR")
        assert fault.host == "h1"
        assert "broke off" in fault.message
        assert json.loads(pair.value("SELECT fault_json FROM servers WHERE held = 1"))["message"]

    def test_alone_it_is_a_failed_resource(self, pair):
        pair.trouble("h1", lose="after")
        with pytest.raises(ResourceFailed, match="while the server was being built") as caught:
            pair.boot(host="h1").check()
        assert caught.value.exit_status == 30
        assert pair.servers() == {"vm": "ERROR"}

    @pytest.mark.parametrize("number", range(1, 8))
    def test_an_agent_that_dies_between_reports_is_followed_by_another(self, pair, number):
        pair.trouble("h1", die_at=number, times=1)
        pair.booted(host="h1")
        assert status(pair) == ["ACTIVE"]


def test_delete_leaves_nothing_on_hosts(pair):
    pair.booted(count=4)
    service.delete_servers(pair.context, ["vm-1", "vm-2", "vm-3", "vm-4"]).check()
    for name in ("h1", "h2"):
        state = pair.fleet.state(name)
        assert (state["domains"], state["disks"], state["ports"]) == ({}, {}, [])
    assert pair.value("SELECT count(*) FROM tombstones WHERE acknowledged_at IS NULL") == 0
    assert pair.value("SELECT count(*) FROM host_networks") == 0


def test_a_setting_that_its_host_did_not_hear_of_is_partly_done(pair):
    """It is committed and carried out later: 20 would say that nothing was."""
    pair.converge("h1").check()
    pair.trouble("h1", unreachable=True)
    with pytest.raises(PartlyDone, match="does not answer"):
        set_host(pair.context, "h1", HostChanges(on_boot="all")).check()
    with pytest.raises(HostUnreachable):
        pair.converge("h1").check()
    assert pair.host("h1")["on_boot"] == "all"


def test_a_deletion_that_its_host_did_not_hear_of_is_partly_done(pair):
    pair.booted(host="h1")
    pair.trouble("h1", unreachable=True)
    with pytest.raises(PartlyDone, match="It is deleted; what is left") as caught:
        service.delete_servers(pair.context, ["vm"]).check()
    assert caught.value.message.count("does not answer") == 1
    assert pair.servers() == {}
    pair.trouble("h1")
    pair.converge().check()
    assert pair.fleet.domains() == {}


class TestTheDiary:
    """A host that does not answer, and what that did to a command, can be read afterwards."""

    def test_a_silent_host_is_an_event(self, pair):
        pair.trouble("h1", unreachable=True)
        with pytest.raises(HostUnreachable):
            pair.boot(host="h1").check()
        events = pair.rows("SELECT name, message FROM events WHERE action = 'connect'")
        assert [event["name"] for event in events] == ["h1"]
        assert events[0]["message"]

    def test_a_power_command_taken_back_says_so(self, pair):
        pair.booted("vm", host="h1")
        pair.trouble("h1", unreachable=True)
        with pytest.raises(HostUnreachable):
            service.change_power(pair.context, "stop", ["vm"]).check()
        told = pair.rows("SELECT message FROM events WHERE action = 'stop' ORDER BY id")
        assert [event["message"] for event in told][-1].startswith("taken back")
