"""list --refresh: what guests did by themselves is seen, and nothing is changed on hosts."""

import pytest

from stackctl.compute import service
from stackctl.compute.refreshing import refresh_servers
from stackctl.operation.keep import list_events
from stackctl.state import write


@pytest.fixture
def up(pair):
    """Servers vm-1 on h1 and vm-2 on h2."""
    pair.booted("vm-1", host="h1")
    pair.booted("vm-2", host="h2")
    return pair


def does(world, name, state):
    """A guest does something by itself."""
    server = world.server(name)
    there = world.fleet.state(server.host)
    if state is None:
        del there["domains"][server.id]
    else:
        there["domains"][server.id]["power"] = state
    world.fleet.save(server.host, there)


@pytest.mark.parametrize(
    ("state", "status", "power"),
    [
        ("SHUTDOWN", "SHUTOFF", "SHUTDOWN"),
        ("CRASHED", "SHUTOFF", "CRASHED"),
        ("PAUSED", "PAUSED", "PAUSED"),
        ("SAVED", "SUSPENDED", "SHUTDOWN"),
        ("RUNNING", "ACTIVE", "RUNNING"),
        ("<script>", "ACTIVE", "RUNNING"),
        (None, "ACTIVE", "NOSTATE"),
    ],
)
def test_what_a_guest_did(up, state, status, power):
    does(up, "vm-1", state)
    assert up.server("vm-1").status == "ACTIVE"
    refresh_servers(up.context)
    assert (up.server("vm-1").status, up.server("vm-1").power_state) == (status, power)
    assert up.server("vm-2").status == "ACTIVE"


def test_hosts_are_only_asked(up):
    before = [up.fleet.state(name) for name in ("h1", "h2")]
    up.fleet.modes.clear()
    refresh_servers(up.context)
    assert sorted(up.fleet.modes) == [("h1", "act"), ("h2", "act")]
    assert [up.fleet.state(name) for name in ("h1", "h2")] == before


def test_the_time_is_that_of_the_look(up):
    before = up.server("vm-1").observed_at
    refresh_servers(up.context)
    assert up.server("vm-1").observed_at > before


def test_what_was_seen_is_told_once(up):
    does(up, "vm-1", "SHUTDOWN")
    refresh_servers(up.context)
    refresh_servers(up.context)
    words = [event["message"] for event in list_events(up.context, resource="vm-1")]
    assert words.count("active -> stopped (power state SHUTDOWN), by itself") == 1


def test_a_silent_host_is_warned_of_and_its_servers_stay_as_they_were(up):
    does(up, "vm-2", "SHUTDOWN")
    before = up.server("vm-1")
    up.trouble("h1", unreachable=True)
    refresh_servers(up.context)
    assert up.server("vm-1") == before
    assert up.server("vm-2").status == "SHUTOFF"
    (warning,) = up.warnings
    assert "h1 does not answer" in warning
    assert f"vm-1 ({before.observed_at})" in warning
    assert up.host("h1")["unreachable_since"] is not None


def test_what_a_command_did_since_is_not_overwritten(up):
    def meanwhile(_):
        up.fleet.before_open = None
        service.change_power(up.context, "stop", ["vm-1"]).check()
        does(up, "vm-1", "RUNNING")

    up.fleet.before_open = meanwhile
    refresh_servers(up.context)
    assert up.server("vm-1").status == "SHUTOFF"


def test_one_in_error_stays_so_until_it_is_mended(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET vm_state = 'error', fault_json = '{}' WHERE name = 'vm-1'")
    does(up, "vm-1", "SHUTDOWN")
    refresh_servers(up.context)
    assert (up.server("vm-1").vm_state, up.server("vm-1").power_state) == ("error", "SHUTDOWN")


def test_a_started_guest_is_started_no_more_by_that(up):
    """A guest that was found off can be started."""
    does(up, "vm-1", "SHUTDOWN")
    refresh_servers(up.context)
    service.change_power(up.context, "start", ["vm-1"]).check()
    assert up.servers() == {"vm-1": "ACTIVE", "vm-2": "ACTIVE"}


def test_without_servers_nobody_is_asked(pair):
    refresh_servers(pair.context)
    assert pair.fleet.opened == {}
