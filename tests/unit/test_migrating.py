"""Servers change their host: switched off, copied, gone on; or all of it taken back."""

import json

import pytest

from stackctl.compute import service
from stackctl.compute.attachments import attach_volume
from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.moves.migrating import migrate
from stackctl.compute.moves.resizing import confirm, resize, revert
from stackctl.compute.rebuilding import Rebuild, rebuild, rescue
from stackctl.compute.server_groups import NewServerGroup, create_server_group
from stackctl.compute.settings import lock_server, reset_state
from stackctl.errors import Conflict, HostUnreachable, NoCapacity, NotFound, ResourceFailed
from stackctl.hosts.leaving import delete_host
from stackctl.operation import recover
from stackctl.state import write
from stackctl.state.usage import HOSTS_WITH_USAGE
from stackctl.volume.service import create_volume
from stackctl.volume.types import NewVolume

SMALL = NewFlavor("small", vcpus=1, ram_mb=512, disk_gb=2, ephemeral_gb=1, swap_mb=64)
LARGE = NewFlavor("large", vcpus=4, ram_mb=2048, disk_gb=5, ephemeral_gb=2, swap_mb=128)


@pytest.fixture
def up(pair):
    """A server vm of flavor small on h1, where the scheduler put it."""
    for flavor in (SMALL, LARGE):
        create_flavor(pair.context, flavor).check()
    pair.booted(flavor="small")
    assert where(pair) == "h1"
    return pair


def where(world, name="vm") -> str:
    return world.server(name).host


def runs(world) -> dict[str, str]:
    """Where domains are and how: a server on two hosts fails in ``domains``."""
    world.fleet.domains()
    states = {name: world.fleet.state(name)["domains"] for name in ("h1", "h2")}
    return {name: each["power"] for name, all_ in states.items() for each in all_.values()}


def disks(world, host, aside=0) -> dict[str, str]:
    sql = "SELECT * FROM disks WHERE host_id = ? AND deleted_at IS NULL AND aside = ?"
    return {row["kind"]: row["id"] for row in world.rows(sql, world.host(host)["id"], aside)}


def used(world) -> dict[str, tuple]:
    rows = world.rows(HOSTS_WITH_USAGE)
    return {row["name"]: (row["vcpus_used"], row["ram_mb_used"]) for row in rows}


def statuses(world) -> list[str]:
    return world.column("SELECT status FROM migrations ORDER BY created_at, rowid")


def at_rest(world) -> None:
    """Rows and hosts agree, and nothing of the move is left in between."""
    assert world.column("SELECT port_id FROM bindings WHERE role <> 'active'") == []
    assert world.value("SELECT sum(moving) FROM servers WHERE deleted_at IS NULL") in (0, None)
    assert set(world.column("SELECT task_state FROM servers")) == {None}
    assert world.value("SELECT count(*) FROM operations WHERE outcome = 'running'") == 0
    world.converge(everything=True).check()
    for name in ("h1", "h2"):
        there = "SELECT id FROM disks WHERE host_id = ? AND deleted_at IS NULL"
        state, host_id = world.fleet.state(name), world.host(name)["id"]
        assert set(state["disks"]) == set(world.column(there, host_id)), name
        bound = "SELECT port_id FROM bindings WHERE host_id = ?"
        assert set(state["ports"]) == set(world.column(bound, host_id)), name
        sql = "SELECT id FROM servers WHERE host_id = ? AND deleted_at IS NULL"
        assert set(state["domains"]) == set(world.column(sql, host_id)), name


def test_it_goes_on_elsewhere_and_waits_for_a_word(up):
    old = disks(up, "h1")
    migrate(up.context, "vm").check()
    assert (up.servers(), where(up), runs(up)) == ({"vm": "VERIFY_RESIZE"}, "h2", {"h2": "RUNNING"})
    new = disks(up, "h2")
    assert set(new) == {"root", "ephemeral", "swap"}
    assert (disks(up, "h1"), disks(up, "h1", aside=1)) == ({}, old)
    assert up.value("SELECT source_id FROM disks WHERE id = ?", new["root"]) == old["root"]
    assert up.value("SELECT source_id FROM disks WHERE id = ?", new["swap"]) is None
    assert statuses(up) == ["finished"]
    at_rest(up)
    confirm(up.context, "vm").check()
    assert (up.servers(), where(up), runs(up)) == ({"vm": "ACTIVE"}, "h2", {"h2": "RUNNING"})
    assert (disks(up, "h1", aside=1), disks(up, "h2")) == ({}, new)
    assert statuses(up) == ["confirmed"]
    at_rest(up)


def test_the_guest_is_off_while_it_is_copied(up):
    migrate(up.context, "vm").check()
    moves = [spec for spec in up.fleet.specs if spec.servers and spec.servers[0].moving]
    assert [spec.host_id for spec in moves] == [up.host("h2")["id"]]
    stops = [spec for spec in up.fleet.specs if spec.servers]
    actions = [spec.servers[0].power.action for spec in stops]
    assert actions.index("stop") < stops.index(moves[0])
    (root,) = [disk for disk in moves[0].disks if disk.kind == "root"]
    assert root.source_host_id == up.host("h1")["id"]


def test_reverted_it_is_back_with_its_old_disks(up):
    old, addresses = disks(up, "h1"), up.server("vm").addresses
    migrate(up.context, "vm").check()
    revert(up.context, "vm").check()
    assert (up.servers(), where(up), runs(up)) == ({"vm": "ACTIVE"}, "h1", {"h1": "RUNNING"})
    assert (disks(up, "h1"), disks(up, "h2")) == (old, {})
    assert up.server("vm").addresses == addresses
    assert statuses(up) == ["reverted"]
    at_rest(up)
    migrate(up.context, "vm").check()
    assert where(up) == "h2"


def test_one_that_is_off_stays_off(up):
    service.change_power(up.context, "stop", ["vm"]).check()
    migrate(up.context, "vm").check()
    assert (up.servers(), runs(up)) == ({"vm": "VERIFY_RESIZE"}, {"h2": "SHUTDOWN"})
    revert(up.context, "vm").check()
    assert (up.servers(), runs(up)) == ({"vm": "SHUTOFF"}, {"h1": "SHUTDOWN"})
    migrate(up.context, "vm").check()
    confirm(up.context, "vm").check()
    assert (up.servers(), runs(up)) == ({"vm": "SHUTOFF"}, {"h2": "SHUTDOWN"})
    at_rest(up)


def test_a_guest_that_went_off_by_itself_is_not_started_by_its_move(up):
    """Its last power command was to start: as a new domain it would obey that anew."""
    state = up.fleet.state("h1")
    next(iter(state["domains"].values()))["power"] = "SHUTDOWN"
    up.fleet.save("h1", state)
    up.converge(everything=True).check()
    assert up.servers() == {"vm": "SHUTOFF"}
    migrate(up.context, "vm").check()
    assert runs(up) == {"h2": "SHUTDOWN"}


def test_what_a_move_takes_of_hosts_is_counted(up):
    small, nothing = (1, 512), (0, 0)
    assert used(up) == {"h1": small, "h2": nothing}
    migrate(up.context, "vm").check()
    assert used(up) == {"h1": small, "h2": small}
    revert(up.context, "vm").check()
    assert used(up) == {"h1": small, "h2": nothing}
    resize(up.context, "vm", "large", "h2").check()
    assert used(up) == {"h1": small, "h2": (4, 2048)}
    confirm(up.context, "vm").check()
    assert used(up) == {"h1": nothing, "h2": (4, 2048)}
    migrate(up.context, "vm").check()
    service.delete_servers(up.context, ["vm"]).check()
    assert used(up) == {"h1": nothing, "h2": nothing}
    assert statuses(up) == ["reverted", "confirmed", "confirmed"]
    at_rest(up)


def test_room_on_the_other_host_is_taken_before_it_is_there(up):
    seen = []

    def look(host):
        seen.append(used(up)["h2"])

    up.fleet.before_open = look
    migrate(up.context, "vm").check()
    assert set(seen) == {(1, 512)}


def test_resized_on_the_host_that_is_named(up):
    old = disks(up, "h1")
    resize(up.context, "vm", "large", "h2").check()
    row = up.rows("SELECT * FROM servers")[0]
    assert (row["flavor_name"], row["vcpus"], row["disk_gb"]) == ("large", 4, 5)
    sizes = "SELECT size_bytes >> 20 FROM disks WHERE aside = 0 ORDER BY position"
    assert up.column(sizes) == [5 * 1024, 2 * 1024, 128]
    assert up.column("SELECT kind FROM migrations") == ["resize"]
    revert(up.context, "vm").check()
    row = up.rows("SELECT * FROM servers")[0]
    assert (row["flavor_name"], row["vcpus"], row["disk_gb"]) == ("small", 1, 2)
    assert (where(up), disks(up, "h1")) == ("h1", old)
    at_rest(up)


def test_resized_elsewhere_when_its_own_host_has_no_room(up):
    with_room = "UPDATE hosts SET vcpus = ?, cpu_ratio = 1 WHERE name = ?"
    with write(up.cloud) as writer:
        writer.run(with_room, 2, "h1")
        writer.run(with_room, 4, "h2")
    resize(up.context, "vm", "large").check()
    assert where(up) == "h2"
    revert(up.context, "vm").check()
    with write(up.cloud) as writer:
        writer.run(with_room, 3, "h2")
    with pytest.raises(NoCapacity, match=r"h1.*3 more VCPUs, 1 are free.*h2"):
        resize(up.context, "vm", "large")
    assert (up.servers(), where(up)) == ({"vm": "ACTIVE"}, "h1")


def test_resized_on_its_own_host_by_name(up):
    resize(up.context, "vm", "large", "h1").check()
    assert where(up) == "h1"
    assert statuses(up) == []


@pytest.mark.parametrize(
    ("host", "error", "words"),
    [("h1", Conflict, "on host h1 already"), ("h9", NotFound, "no host")],
)
def test_hosts_that_it_cannot_go_to(up, host, error, words):
    up.fleet.opened.clear()
    with pytest.raises(error, match=words):
        migrate(up.context, "vm", host)
    assert (up.servers(), up.fleet.opened) == ({"vm": "ACTIVE"}, {})


def test_with_no_other_host_it_stays(world):
    world.add_hosts("h1")
    world.add_image()
    world.add_network()
    world.booted()
    with pytest.raises(NoCapacity):
        migrate(world.context, "vm")
    assert world.servers() == {"vm": "ACTIVE"}


def test_one_that_was_booted_for_a_host_goes_by_name_alone(pair):
    pair.booted(host="h1")
    with pytest.raises(Conflict, match="booted for host h1"):
        migrate(pair.context, "vm")
    migrate(pair.context, "vm", "h2").check()
    assert pair.value("SELECT host_asked FROM servers") == pair.host("h2")["id"]
    revert(pair.context, "vm").check()
    assert pair.value("SELECT host_asked FROM servers") == pair.host("h1")["id"]


def test_what_may_not_go_is_told_why(up):
    lock_server(up.context, "vm", "mine")
    with pytest.raises(Conflict, match="locked"):
        migrate(up.context, "vm")
    up.booted("other", host="h1")
    service.change_power(up.context, "pause", ["other"])
    create_volume(up.context, NewVolume("data", 1, host="h2")).check()
    up.booted("third", host="h2")
    attach_volume(up.context, "third", "data").check()
    with pytest.raises(Conflict, match="volume data, and that is a file on host h2"):
        migrate(up.context, "third", "h1")


def test_a_silent_target_is_found_before_anything_has_moved(up):
    old = disks(up, "h1")
    up.trouble("h2", unreachable=True)
    with pytest.raises(HostUnreachable, match=r"h2 does not answer.*stays on host h1"):
        migrate(up.context, "vm")
    assert (up.servers(), where(up), runs(up)) == ({"vm": "ACTIVE"}, "h1", {"h1": "RUNNING"})
    assert (disks(up, "h1"), statuses(up)) == (old, ["error"])
    up.trouble("h2")
    at_rest(up)
    assert used(up)["h2"] == (0, 0)


def test_a_silent_source_is_told_nothing_later(up):
    before = up.rows("SELECT power_action, power_serial FROM servers")
    up.trouble("h1", unreachable=True)
    with pytest.raises(HostUnreachable, match=r"h1 does not answer.*stays on host h1"):
        migrate(up.context, "vm")
    assert up.servers() == {"vm": "ACTIVE"}
    assert up.rows("SELECT power_action, power_serial FROM servers") == before
    up.trouble("h1")
    at_rest(up)
    assert runs(up) == {"h1": "RUNNING"}


def test_a_disk_that_cannot_be_copied_leaves_it_where_it_was(up):
    old = disks(up, "h1")
    up.trouble("h2", fail={"disk": "the disk is full"})
    with pytest.raises(ResourceFailed, match=r"Host h2: the disk is full\. .*stays on host h1"):
        migrate(up.context, "vm")
    assert (up.servers(), where(up), runs(up)) == ({"vm": "ACTIVE"}, "h1", {"h1": "RUNNING"})
    assert (disks(up, "h1"), disks(up, "h2")) == (old, {})
    up.trouble("h2")
    at_rest(up)
    migrate(up.context, "vm").check()


def test_a_domain_that_cannot_be_made_there_can_be_brought_back(up):
    old = disks(up, "h1")
    up.trouble("h2", fail={"libvirt": "no such machine"})
    with pytest.raises(ResourceFailed, match="no such machine") as error:
        migrate(up.context, "vm").check()
    assert "resize-revert vm" in error.value.hint
    assert (up.servers(), where(up)) == ({"vm": "ERROR"}, "h2")
    assert statuses(up) == ["error"]
    revert(up.context, "vm").check()
    assert (up.servers(), where(up), runs(up)) == ({"vm": "ACTIVE"}, "h1", {"h1": "RUNNING"})
    assert disks(up, "h1") == old
    up.trouble("h2")
    at_rest(up)


@pytest.mark.parametrize("silent", ["h1", "h2"])
def test_a_way_back_to_or_from_a_silent_host_is_not_begun(up, silent):
    migrate(up.context, "vm").check()
    new = disks(up, "h2")
    up.trouble(silent, unreachable=True)
    with pytest.raises(HostUnreachable, match="stays on host h2"):
        revert(up.context, "vm")
    assert (up.servers(), where(up)) == ({"vm": "VERIFY_RESIZE"}, "h2")
    assert (disks(up, "h2"), runs(up)) == (new, {"h2": "RUNNING"})
    assert used(up) == {"h1": (1, 512), "h2": (1, 512)}
    up.trouble(silent)
    at_rest(up)
    revert(up.context, "vm").check()
    at_rest(up)


def test_a_rehearsal_changes_nothing(up):
    done = migrate(up.asked(dry_run=True), "vm")
    done.check()
    assert {(step.host, step.kind, step.result) for step in done.planned} >= {
        ("h1", "domain", "removed"),
        ("h2", "disk", "made"),
        ("h2", "domain", "made"),
    }
    assert (up.servers(), where(up), statuses(up)) == ({"vm": "ACTIVE"}, "h1", [])
    at_rest(up)


def test_the_same_request_twice_moves_once(up):
    asked = up.asked(request_id="once")
    first = migrate(asked, "vm")
    again = migrate(asked, "vm")
    assert (again.value.id, again.value.status) == (first.value.id, "VERIFY_RESIZE")
    assert statuses(up) == ["finished"]


def test_a_server_deleted_on_its_way_is_gone_from_both_hosts(up):
    calls = []

    def delete(host):
        calls.append(host)
        if len(calls) == 4:  # both hosts have done the first step
            up.fleet.before_open = None
            service.delete_servers(up.context, ["vm"])

    up.fleet.before_open = delete
    with pytest.raises(Conflict, match="deleted while it moved"):
        migrate(up.context, "vm")
    up.fleet.before_open = None
    recover(up.context)
    up.converge(everything=True).check()
    for name in ("h1", "h2"):
        state = up.fleet.state(name)
        assert (state["domains"], state["disks"], state["ports"]) == ({}, {}, [])
    assert statuses(up) == ["cancelled"]
    assert used(up) == {"h1": (0, 0), "h2": (0, 0)}


def test_anti_affinity_holds_for_moves(up):
    create_server_group(up.context, NewServerGroup("apart", "anti-affinity")).check()
    up.booted("a", hints=(("group", "apart"),))
    up.booted("b", hints=(("group", "apart"),))
    assert {where(up, "a"), where(up, "b")} == {"h1", "h2"}
    with pytest.raises(NoCapacity):
        migrate(up.context, "a")


def test_until_it_is_decided_neither_host_nor_disks_can_be_given_up(up):
    migrate(up.context, "vm").check()
    with pytest.raises(Conflict, match=r"1 servers that move, or were moved, .* host h1: vm"):
        delete_host(up.context, "h1")
    up.trouble("h2", fail={"libvirt": "no"})
    reset_state(up.context, "vm").check()
    for act in (lambda: rebuild(up.context, "vm", Rebuild()), lambda: rescue(up.context, "vm")):
        with pytest.raises(Conflict, match="neither confirmed nor reverted"):
            act()
    up.trouble("h2")
    reset_state(up.context, "vm", "active").check()
    for act in (
        lambda: migrate(up.context, "vm", "h1"),
        lambda: resize(up.context, "vm", "large", "h2"),
        lambda: resize(up.context, "vm", "large", "h1"),
    ):
        with pytest.raises(Conflict, match="neither confirmed nor reverted"):
            act()


def test_no_two_hosts_are_told_to_have_it(up):
    """At every moment: what hosts were sent last, in whatever order they were sent it."""
    up.fleet.specs.clear()
    migrate(up.context, "vm").check()
    revert(up.context, "vm").check()
    up.trouble("h2", fail={"disk": "full"})
    with pytest.raises(ResourceFailed):
        migrate(up.context, "vm")
    up.trouble("h2")
    resize(up.context, "vm", "large", "h2").check()
    confirm(up.context, "vm").check()
    latest = {}
    for spec in up.fleet.specs:
        latest[spec.host_id] = spec
        owners = [
            host_id
            for host_id, each in latest.items()
            for server in each.servers
            if not server.moving
        ]
        assert len(owners) <= 1
    assert len(up.fleet.specs) > 20


def test_the_diary_tells_of_it(up):
    migrate(up.context, "vm").check()
    told = up.column("SELECT message FROM events WHERE name = 'vm' AND action = 'migrate'")
    assert told[0] == "migrate asked for: from h1 to h2"
    assert told[1] == "came from h1"
    assert json.loads(up.value("SELECT progress_json FROM migrations")) == {}


class Interrupted(Exception):
    """The end of a command in the middle."""


def interrupted(world, number, work) -> None:
    """Do something whose process ends when it opens its n-th exchange."""
    count = []

    def end(host):
        count.append(host)
        if len(count) >= number:
            raise Interrupted

    world.fleet.before_open = end
    with pytest.raises(Interrupted):
        work()
    world.fleet.before_open = None


@pytest.mark.parametrize("silent", [None, "h1", "h2"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_recover_finishes_or_undoes_it_whoever_is_silent(up, number, silent):
    interrupted(up, number, lambda: migrate(up.context, "vm"))
    if silent is not None:
        up.trouble(silent, unreachable=True)
    (found,) = recover(up.context)
    if silent is None:
        assert found.outcome in ("done", "failed")
    if silent == "h2" and number <= 4:
        # What the other host has not taken over is not waited for.
        assert (where(up), up.servers()) == ("h1", {"vm": "ACTIVE"})
    if silent is not None:
        up.trouble(silent)
        recover(up.context)
    went = {1: False, 2: False, 5: True, 6: True}.get(number)
    if silent is None and went is not None:
        assert where(up) == ("h2" if went else "h1")
    expected = {"h1": "ACTIVE", "h2": "VERIFY_RESIZE"}[where(up)]
    assert up.servers() == {"vm": expected}
    assert runs(up) == {where(up): "RUNNING"}
    assert up.value("SELECT count(*) FROM migrations WHERE status LIKE '%migrating'") == 0
    at_rest(up)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_recover_finishes_or_undoes_a_way_back(up, number):
    old = disks(up, "h1")
    migrate(up.context, "vm").check()
    interrupted(up, number, lambda: revert(up.context, "vm"))
    recover(up.context)
    expected = {"h1": "ACTIVE", "h2": "VERIFY_RESIZE"}[where(up)]
    assert (up.servers(), runs(up)) == ({"vm": expected}, {where(up): "RUNNING"})
    at_rest(up)
    if where(up) == "h2":
        revert(up.context, "vm").check()
    assert disks(up, "h1") == old
    at_rest(up)


def test_a_request_whose_command_died_goes_on_or_begins_anew(up):
    asked = up.asked(request_id="once")
    interrupted(up, 6, lambda: migrate(asked, "vm"))
    done = migrate(asked, "vm")
    done.check()
    assert done.value.status == "VERIFY_RESIZE"
    assert statuses(up) == ["finished"]
    at_rest(up)
