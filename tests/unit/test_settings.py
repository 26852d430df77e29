"""Locks, names, properties, tags and states of servers."""

import pytest

from stackctl.compute import service
from stackctl.compute.interfaces import attach_interface
from stackctl.compute.settings import lock_server, reset_state, set_server, unlock_server
from stackctl.compute.types import Nic, ServerChange
from stackctl.errors import Conflict, PartlyDone, UsageError
from stackctl.operation.keep import list_events
from stackctl.state import write


@pytest.fixture
def up(pair):
    """Two hosts, a server vm on h1."""
    pair.booted(host="h1")
    return pair


def change(world, word="vm", **what):
    return set_server(world.context, word, ServerChange(**what))


def guest(world):
    """What the host was told last about its server."""
    specs = [spec for spec in world.fleet.specs if spec.host_id == world.host("h1")["id"]]
    return specs[-1].servers[0].guest


def test_a_locked_server_refuses_to_change_or_go(up):
    lock_server(up.context, "vm", "holds the only copy").check()
    assert (up.server("vm").locked, up.server("vm").lock_reason) == (True, "holds the only copy")
    up.fleet.opened.clear()
    for attempt in (
        lambda: service.delete_servers(up.context, ["vm"]),
        lambda: service.change_power(up.context, "stop", ["vm"]),
        lambda: attach_interface(up.context, "vm", Nic(network="net")),
        lambda: change(up, properties={"a": "b"}),
    ):
        with pytest.raises(Conflict, match=r"is locked \(holds the only copy\)") as refused:
            attempt()
        assert refused.value.exit_status == 4
    assert up.fleet.opened == {}
    unlock_server(up.context, "vm").check()
    assert not up.server("vm").locked
    service.delete_servers(up.context, ["vm"]).check()
    assert up.servers() == {}


def test_one_locked_server_saves_all_that_are_named(up):
    up.booted("other")
    lock_server(up.context, "vm").check()
    with pytest.raises(Conflict, match="Instance vm is locked"):
        service.delete_servers(up.context, ["other", "vm"])
    assert set(up.servers()) == {"vm", "other"}


def test_a_lock_is_a_matter_of_the_database(up):
    up.trouble("h1", unreachable=True)
    lock_server(up.context, "vm").check()
    unlock_server(up.context, "vm").check()


def test_a_renamed_server_keeps_its_host_name(up):
    before = up.server("vm")
    change(up, name="web ünïcode").check()
    after = up.server("web ünïcode")
    assert (after.id, after.hostname, after.status) == (before.id, "vm", "ACTIVE")
    assert (guest(up).name, guest(up).hostname) == ("web ünïcode", "vm")
    assert up.servers() == {"web ünïcode": "ACTIVE"}


def test_a_name_is_given_once(up):
    up.booted("other")
    with pytest.raises(Conflict, match="already a server called other"):
        change(up, name="other")
    change(up, name="vm").check()
    assert set(up.servers()) == {"vm", "other"}


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"name": ""},
        {"name": "a\nb"},
        {"properties": {"k": "v" * 256}},
        {"properties": {"k": "a\x00b"}},
        {"properties": {f"k{number}": "v" for number in range(129)}},
        {"add_tags": ("a,b",)},
        {"add_tags": ("",)},
        {"add_tags": tuple(f"t{number}" for number in range(51))},
    ],
)
def test_what_makes_no_sense_is_refused(up, what):
    with pytest.raises(UsageError):
        change(up, **what)
    assert up.value("SELECT count(*) FROM operations WHERE outcome = 'running'") == 0


def test_properties_and_tags_come_and_go(up):
    change(up, properties={"role": "db", "rack": "7"}, add_tags=("b", "a")).check()
    assert up.server("vm").metadata == {"role": "db", "rack": "7"}
    assert up.server("vm").tags == ("a", "b")
    assert dict(guest(up).metadata) == {"role": "db", "rack": "7"}
    change(up, properties={"rack": "", "new": "x"}, remove_tags=("a", "never")).check()
    assert up.server("vm").metadata == {"role": "db", "new": "x"}
    assert up.server("vm").tags == ("b",)


def test_a_change_stands_when_its_host_is_away(up):
    up.trouble("h1", unreachable=True)
    with pytest.raises(PartlyDone, match="The change is kept"):
        change(up, name="web").check()
    assert up.servers() == {"web": "ACTIVE"}
    up.trouble("h1")
    up.converge().check()
    assert guest(up).name == "web"


def test_a_rehearsal_renames_nobody(up):
    set_server(up.asked(dry_run=True), "vm", ServerChange(name="web"))
    assert set(up.servers()) == {"vm"}


def test_what_goes_on_with_a_server_is_not_ended_by_a_change_beside_it(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET task_state = 'image-snapshot', operation_id = 'another'")
    with pytest.raises(Conflict, match="task_state image-snapshot"):
        change(up, name="web")
    lock_server(up.context, "vm").check()
    up.converge(everything=True).check()
    assert up.server("vm").task_state == "image-snapshot"


def test_reset_state_says_and_a_convergence_knows(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET task_state = 'rebooting', operation_id = 'another'")
    up.fleet.opened.clear()
    reset_state(up.context, "vm").check()
    server = up.server("vm")
    assert (server.status, server.task_state) == ("ERROR", None)
    assert server.fault is not None
    reset_state(up.context, "vm", "active").check()
    assert (up.server("vm").status, up.server("vm").fault) == ("ACTIVE", None)
    assert up.fleet.opened == {}
    reset_state(up.context, "vm").check()
    up.converge(everything=True).check()
    assert up.servers() == {"vm": "ACTIVE"}


@pytest.mark.parametrize(
    ("power", "status", "told"),
    [
        ("SHUTDOWN", "SHUTOFF", "active -> stopped (power state SHUTDOWN)"),
        ("CRASHED", "SHUTOFF", "active -> stopped (power state CRASHED)"),
        ("PAUSED", "PAUSED", "active -> paused (power state PAUSED)"),
    ],
)
def test_what_a_guest_did_to_itself_is_seen_and_told(up, power, status, told):
    server = up.server("vm")
    state = up.fleet.state("h1")
    state["domains"][server.id]["power"] = power
    up.fleet.save("h1", state)
    up.converge(everything=True).check()
    assert (up.server("vm").status, up.server("vm").power_state) == (status, power)
    assert told in [event["message"] for event in list_events(up.context, resource=server.id)]
    service.change_power(up.context, "reboot-hard", ["vm"]).check()
    assert up.server("vm").power_state == "RUNNING"
