"""A transaction, then a convergence: what becomes of a command when hosts do this or that."""

import json

import pytest

from stackctl.compute import service
from stackctl.errors import HostUnreachable, PartlyDone

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
