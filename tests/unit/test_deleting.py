"""Servers deleted for a while, and for good."""

import pytest
import yaml

from stackctl.compute import deleting, service
from stackctl.compute.rebuilding import rescue
from stackctl.compute.settings import lock_server
from stackctl.errors import Conflict, HostUnreachable
from stackctl.identity.context import admin_context
from stackctl.operation.keep import list_events
from stackctl.state import Cloud, write


@pytest.fixture
def up(pair):
    """A server vm on h1 in a cloud that keeps deleted servers for a day."""
    return keeping(pair, 86400)


def keeping(world, seconds):
    (world.cloud.folder / "config.yaml").write_text(
        yaml.safe_dump({"reclaim_instance_interval": seconds})
    )
    world.context = admin_context(Cloud("test", world.cloud.folder))
    if not world.servers():
        world.booted(host="h1")
    return world


def gone(world) -> bool:
    state = world.fleet.state("h1")
    return not state["domains"] and not state["disks"]


def test_it_is_switched_off_and_started_again(up):
    address = up.server("vm").addresses
    deleting.delete(up.context, ["vm"]).check()
    server = up.server("vm")
    assert (server.status, server.power_state) == ("SOFT_DELETED", "SHUTDOWN")
    up.converge(everything=True).check()
    assert up.servers() == {"vm": "SOFT_DELETED"}
    for attempt in (
        lambda: service.change_power(up.context, "start", ["vm"]),
        lambda: rescue(up.context, "vm"),
        lambda: deleting.delete(up.context, ["vm"]),
    ):
        with pytest.raises(Conflict, match="vm_state soft-delete"):
            attempt()
    deleting.restore(up.context, ["vm"]).check()
    assert up.servers() == {"vm": "ACTIVE"}
    assert up.server("vm").addresses == address


def test_by_force_it_is_gone_at_once(up):
    deleting.delete(up.context, ["vm"]).check()
    deleting.delete(up.context, ["vm"], force=True).check()
    assert up.servers() == {}
    assert gone(up)


def test_when_the_time_is_over_the_next_convergence_deletes_it(up):
    deleting.delete(up.context, ["vm"]).check()
    deleting.converge_hosts(up.context, []).check()
    assert up.servers() == {"vm": "SOFT_DELETED"}
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET soft_deleted_at = '2020-01-01T00:00:00.000Z'")
    lock_server(up.context, "vm").check()
    deleting.converge_hosts(up.context, []).check()
    assert up.servers() == {"vm": "SOFT_DELETED"}
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET locked = 0")
    deleting.converge_hosts(up.asked(dry_run=True), []).check()
    assert up.servers() == {"vm": "SOFT_DELETED"}
    deleting.converge_hosts(up.context, []).check()
    assert up.servers() == {}
    assert gone(up)
    assert "deleted" in [event["message"] for event in list_events(up.context)]


def test_without_an_interval_it_is_gone_at_once(pair):
    world = keeping(pair, 0)
    deleting.delete(world.context, ["vm"]).check()
    assert world.servers() == {}
    assert gone(world)


def test_one_that_never_ran_is_gone_at_once(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET launched_at = NULL, vm_state = 'error', held = 1")
    deleting.delete(up.context, ["vm"]).check()
    assert up.servers() == {}


def test_what_its_host_did_not_hear_of_is_taken_back(up):
    up.trouble("h1", unreachable=True)
    with pytest.raises(HostUnreachable):
        deleting.delete(up.context, ["vm"]).check()
    assert up.servers() == {"vm": "ACTIVE"}
    assert up.value("SELECT soft_deleted_at FROM servers") is None
