"""Servers change their host while they run; or all of it is taken back, and they run on."""

import json

import pytest

from stackctl.compute import service, what_if
from stackctl.compute.attachments import attach_volume
from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.moves import live_migration
from stackctl.compute.moves.draining import drain
from stackctl.compute.moves.live_migration import abort, live_migrate, unfit
from stackctl.compute.settings import lock_server
from stackctl.errors import (
    Conflict,
    HostUnreachable,
    NoCapacity,
    PartlyDone,
    ResourceFailed,
)
from stackctl.operation import recover
from stackctl.state import write
from stackctl.volume.service import create_volume
from stackctl.volume.types import NewVolume
from tests.unit.test_migrating import at_rest, disks, runs, statuses, used, where

SMALL = NewFlavor("small", vcpus=1, ram_mb=512, disk_gb=2, ephemeral_gb=1, swap_mb=64)


@pytest.fixture
def up(pair):
    """A server vm of flavor small on h1, where the scheduler put it."""
    create_flavor(pair.context, SMALL).check()
    pair.booted(flavor="small")
    pair.converge(everything=True).check()
    assert where(pair) == "h1"
    return pair


def stays(world) -> None:
    """The server runs on where it was, and the other host has nothing of it."""
    assert (world.servers(), where(world), runs(world)) == (
        {"vm": "ACTIVE"},
        "h1",
        {"h1": "RUNNING"},
    )
    assert disks(world, "h2") == {}
    at_rest(world)


def test_it_goes_on_elsewhere_and_nothing_is_left(up):
    serials = {kind: id_[:20] for kind, id_ in disks(up, "h1").items()}
    addresses = up.server("vm").addresses
    live_migrate(up.context, "vm").check()
    assert (up.servers(), where(up), runs(up)) == ({"vm": "ACTIVE"}, "h2", {"h2": "RUNNING"})
    assert up.server("vm").addresses == addresses
    assert disks(up, "h1") == {}
    rows = up.rows("SELECT kind, serial FROM disks WHERE deleted_at IS NULL")
    assert {row["kind"]: row["serial"] for row in rows} == serials, "the guest sees other disks"
    assert statuses(up) == ["completed"]
    assert used(up)["h1"] == (0, 0)
    at_rest(up)
    live_migrate(up.context, "vm", "h1").check()
    assert where(up) == "h1"
    rows = up.rows("SELECT kind, serial FROM disks WHERE deleted_at IS NULL")
    assert {row["kind"]: row["serial"] for row in rows} == serials


def test_both_hosts_know_of_it_meanwhile(up):
    seen = []
    up.fleet.before_open = lambda _: seen.append(len(up.fleet.specs))
    live_migrate(up.context, "vm").check()
    before = [spec for spec in up.fleet.specs if spec.servers and spec.servers[0].moving]
    roles = {spec.host_id: spec.ports[0].role for spec in before}
    hosts = {name: up.host(name)["id"] for name in ("h1", "h2")}
    assert roles == {hosts["h1"]: "outgoing", hosts["h2"]: "incoming"}
    for spec in before:
        assert len(spec.servers[0].disks) == 3
        own = {disk.id for disk in spec.disks}
        assert set(spec.servers[0].disks) == own
        assert {port.mac for port in spec.networks[0].remote_ports} == {spec.ports[0].mac}


def test_room_is_held_there_meanwhile(up):
    held = []
    up.fleet.before_open = lambda _: held.append(used(up)["h2"])
    live_migrate(up.context, "vm").check()
    assert (1, 512) in held


def test_a_rehearsal_changes_nothing(up):
    done = live_migrate(up.asked(dry_run=True), "vm")
    assert done.planned
    assert statuses(up) == []
    stays(up)


def become(world, name, vm_state):
    with write(world.context.cloud) as writer:
        writer.run("UPDATE servers SET vm_state = ? WHERE name = ?", vm_state, name)


@pytest.mark.parametrize("state", ["stopped", "suspended", "rescued", "resized", "error"])
def test_only_what_runs_is_moved_so(up, state):
    become(up, "vm", state)
    with pytest.raises(Conflict, match="Cannot 'live-migrate' instance vm while it is in vm_state"):
        live_migrate(up.context, "vm")


def test_a_locked_one_is_not_moved(up):
    lock_server(up.context, "vm").check()
    with pytest.raises(Conflict, match="is locked"):
        live_migrate(up.context, "vm")


def test_one_with_a_volume_is_not_moved(up):
    create_volume(up.context, NewVolume("data", 1)).check()
    attach_volume(up.context, "vm", "data").check()
    with pytest.raises(Conflict, match="data"):
        live_migrate(up.context, "vm")


def test_not_to_where_it_is_already(up):
    with pytest.raises(Conflict, match="is on host h1 already"):
        live_migrate(up.context, "vm", "h1")


def test_not_where_there_is_no_room(up):
    with write(up.context.cloud) as writer:
        writer.run("UPDATE hosts SET ram_mb = 600 WHERE name = 'h2'")
    with pytest.raises(NoCapacity):
        live_migrate(up.context, "vm", "h2")
    stays(up)


FACTS = {"virt_type": "kvm", "ovs_datapath": "system", "machine_types": {"all": ["pc-1"]}}
HOST = {"name": "a", "virt_type": "auto", "datapath": "auto", "facts_json": json.dumps(FACTS)}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({}, ""),
        ({"virt_type": "qemu"}, "guests of a run by kvm, those of b by qemu"),
        ({"ovs_datapath": "netdev"}, "the switch of a runs in the kernel, that of b in user space"),
        ({"machine_types": {"all": ["pc-2"]}}, "qemu on b has no machine type pc-1"),
        ({"machine_types": {"pc": "pc-1", "all": []}}, ""),
    ],
)
def test_hosts_that_differ_too_much_say_how(there, words):
    other = {**HOST, "name": "b", "facts_json": json.dumps({**FACTS, **there})}
    assert unfit({"machine_type": "pc-1"}, HOST, other) == words


def test_what_an_operator_set_counts_more_than_what_a_host_says():
    other = {**HOST, "name": "b", "virt_type": "qemu"}
    assert "those of b by qemu" in unfit({"machine_type": None}, HOST, other)


def test_a_host_that_cannot_run_it_says_so_before_anything_is_made(up):
    up.trouble("h2", fail={"refusal": "its processor lacks features"})
    with pytest.raises(Conflict, match=r"its processor lacks features.*stays on host h1"):
        live_migrate(up.context, "vm")
    assert not [spec for spec in up.fleet.specs if spec.servers and spec.servers[0].moving]
    stays(up)


@pytest.mark.parametrize("what", ["disk", "port", "expect-server"])
def test_what_cannot_be_made_there_is_taken_back(up, what):
    up.trouble("h2", fail={what: "no space left"})
    with pytest.raises(ResourceFailed, match=r"no space left.*stays on host h1"):
        live_migrate(up.context, "vm")
    up.trouble("h2")
    up.converge(everything=True).check()
    assert statuses(up) == ["failed"]
    stays(up)


def test_what_fails_on_the_way_is_taken_back(up):
    up.trouble("h1", fail={"send-server": "operation aborted"})
    with pytest.raises(ResourceFailed, match=r"operation aborted.*stays on host h1"):
        live_migrate(up.context, "vm")
    assert "operation aborted" in up.value("SELECT reason FROM migrations")
    stays(up)


@pytest.mark.parametrize("name", ["h1", "h2"])
def test_a_host_that_does_not_answer_leaves_it_where_it_is(up, name):
    up.trouble(name, unreachable=True)
    with pytest.raises(HostUnreachable, match=f"Host {name} does not answer"):
        live_migrate(up.context, "vm")
    up.trouble(name)
    stays(up)


def test_one_that_arrived_unheard_is_there(up):
    up.trouble("h1", fail={"send-server unheard": ""})
    live_migrate(up.context, "vm").check()
    assert (where(up), runs(up)) == ("h2", {"h2": "RUNNING"})
    at_rest(up)


def test_one_that_arrived_and_stands_still_goes_on(up):
    up.trouble("h1", fail={"send-server unheard": "", "stands still": ""})
    live_migrate(up.context, "vm").check()
    assert (where(up), runs(up)) == ("h2", {"h2": "RUNNING"})


def test_nobody_decides_before_both_hosts_have_spoken(up, monkeypatch):
    up.trouble("h1", fail={"send-server unheard": "", "look-server": "libvirt is down"})
    with pytest.raises(HostUnreachable, match="is not known before both hosts have said it"):
        live_migrate(up.context, "vm")
    assert up.value("SELECT moving FROM servers") == 1
    found = recover(up.context)
    assert [item.outcome for item in found] == ["interrupted"]
    assert up.value("SELECT task_state FROM servers") == "migrating"
    with pytest.raises(Conflict):
        service.change_power(up.context, "stop", ["vm"])
    up.trouble("h1")
    found = recover(up.context)
    assert [item.outcome for item in found] == ["done"]
    assert (where(up), runs(up)) == ("h2", {"h2": "RUNNING"})
    at_rest(up)


def test_a_fenced_host_is_not_asked(up):
    up.trouble("h1", fail={"send-server unheard": "", "look-server": "silent"})
    with pytest.raises(HostUnreachable):
        live_migrate(up.context, "vm")
    with write(up.context.cloud) as writer:
        writer.run("UPDATE hosts SET fenced = 1 WHERE name = 'h1'")
    assert [item.outcome for item in recover(up.context)] == ["done"]
    assert where(up) == "h2"


def test_one_called_off_before_it_begins_stays(up):
    def ask(name):
        with write(up.context.cloud) as writer:
            writer.run("UPDATE migrations SET progress_json = '{\"abort_asked\": true}'")

    up.fleet.before_open = ask
    with pytest.raises(Conflict, match=r"was called off. It stays on h1"):
        live_migrate(up.context, "vm")
    up.fleet.before_open = None
    assert statuses(up) == ["cancelled"]
    stays(up)


def test_there_is_nothing_to_call_off(up):
    with pytest.raises(Conflict, match="No live migration of instance vm is in progress"):
        abort(up.context, "vm")


def test_one_whose_command_died_is_not_called_off_but_recovered(up):
    up.trouble("h1", fail={"send-server": "", "look-server": "silent"})
    with pytest.raises(HostUnreachable):
        live_migrate(up.context, "vm")
    with pytest.raises(Conflict, match="was interrupted"):
        abort(up.context, "vm")
    up.trouble("h1")
    recover(up.context)
    stays(up)


def test_it_says_how_far_it_is(up, monkeypatch):
    monkeypatch.setattr(live_migration, "NOTED_EVERY_S", 0)
    live_migrate(up.context, "vm").check()
    told = json.loads(up.value("SELECT progress_json FROM migrations"))
    assert told == {"memory_bytes": 1, "memory_total": 2}


# --- draining -----------------------------------------------------------------------------------


def names(done) -> dict[str, tuple[str, str]]:
    return {item.name: (item.how, item.to) for item in done.value}


def test_a_drained_host_is_empty_and_stays_so(up):
    up.booted(name="off", host="h1", flavor="small")
    service.change_power(up.context, "stop", ["off"]).check()
    done = drain(up.context, "h1", "new disks")
    done.check()
    assert names(done) == {"vm": ("live", "h2"), "off": ("cold", "h2")}
    assert up.servers() == {"vm": "ACTIVE", "off": "SHUTOFF"}
    assert used(up)["h1"] == (0, 0)
    host = up.host("h1")
    assert (host["enabled"], host["disabled_reason"]) == (0, "new disks")
    at_rest(up)


def test_the_plan_of_a_drain_is_that_of_what_if(up):
    plan = what_if.drain(up.context, "h1")
    done = drain(up.asked(dry_run=True), "h1", "")
    assert [(item.name, item.to) for item in done.value] == [(each.name, each.to) for each in plan]
    assert [(step.name, step.result, step.why) for step in done.planned] == [
        ("vm", "move", "live, to h2")
    ]
    assert up.host("h1")["enabled"] == 1
    stays(up)


def test_what_cannot_leave_remains_and_is_named(up):
    up.booted(name="saved", host="h1", flavor="small")
    become(up, "saved", "suspended")
    done = drain(up.context, "h1", "drained")
    with pytest.raises(PartlyDone, match="server saved on host h1: it remains there"):
        done.check()
    assert (where(up, "vm"), where(up, "saved")) == ("h2", "h1")


def test_one_that_is_deleted_on_its_way_is_gone_from_both_hosts(up):
    up.trouble("h1", fail={"send-server unheard": "", "look-server": "silent"})
    with pytest.raises(HostUnreachable):
        live_migrate(up.context, "vm")
    assert runs(up) == {"h2": "RUNNING"}
    up.trouble("h1")
    service.delete_servers(up.context, ["vm"]).check()
    assert runs(up) == {}
    assert statuses(up) == ["cancelled"]
    recover(up.context)
    at_rest(up)
