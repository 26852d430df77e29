"""kill -9 of the controller at every step it has; the hosts and the next command live on."""

import contextlib
import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest

from stackctl import killpoint
from stackctl.compute import rebuilding, service, snapshots, views
from stackctl.compute.attachments import attach_volume, detach_volume
from stackctl.compute.moves import evacuating, migrating, resizing, shelving
from stackctl.errors import StackctlError
from stackctl.network import service as network
from stackctl.operation import recover
from stackctl.operation.keep import converge_hosts
from stackctl.state import Cloud, write
from stackctl.volume import service as volumes
from stackctl.volume.snapshots import create_snapshot
from stackctl.volume.types import NewVolume
from tests.builders import furnished, new_world, open_world
from tests.unit.test_images import qcow2

FORK = multiprocessing.get_context("fork")
SETTLED = {"ACTIVE", "SHUTOFF", "ERROR", "RESCUE", "VERIFY_RESIZE", "SHELVED_OFFLOADED"}
ROUTED = "SELECT id FROM ports WHERE device_owner LIKE 'network:router%'"


def boot(world):
    service.boot(world.context, world.request("new", count=2))


def boot_around_a_dead_host(world):
    world.trouble("h1", unreachable=True)
    service.boot(world.context, world.request("new"))


def delete(world):
    service.delete_servers(world.context, ["old-1", "old-2"])


def stop(world):
    service.change_power(world.context, "stop", ["old-1", "old-2"])


def stop_on_a_dead_host(world):
    world.trouble("h1", unreachable=True)
    stop(world)


def connect(world):
    network.add_interface(world.context, "r", subnet="10.1.0.0/24").check()


def give_an_address(world):
    network.associate(world.context, "203.0.113.3", network.Target(server="old-2"))


def move(world):
    network.move_router(world.context, "r")


def move_from_a_dead_host(world):
    world.trouble(network.show_router(world.context, "r").host, unreachable=True)
    with contextlib.suppress(StackctlError):
        move(world)


def attach(world):
    attach_volume(world.context, "old-1", "data").check()


def detach(world):
    detach_volume(world.context, "old-2", "kept").check()


def grow(world):
    volumes.extend_volume(world.context, "kept", 3).check()


def take_a_snapshot(world):
    create_snapshot(world.context, "monday", "kept").check()


def delete_a_volume(world):
    volumes.delete_volume(world.context, "spare").check()


def rebuild(world):
    rebuilding.rebuild(world.context, "old-1", rebuilding.Rebuild())


def rebuild_on_a_dead_host(world):
    world.trouble("h1", unreachable=True)
    world.trouble("h2", unreachable=True)
    rebuild(world)


def rescue(world):
    rebuilding.rescue(world.context, "old-1")


def resize(world):
    resizing.resize(world.context, "old-1", "m1.small")
    resizing.revert(world.context, "old-1")


def migrate(world):
    migrating.migrate(world.context, "old-1")
    resizing.confirm(world.context, "old-1")


def migrate_back(world):
    migrating.migrate(world.context, "old-1")
    resizing.revert(world.context, "old-1")


def migrate_to_a_dead_host(world):
    world.trouble("h2", unreachable=True)
    with contextlib.suppress(StackctlError):
        migrating.migrate(world.context, "old-1")


def migrate_to_a_full_host(world):
    world.trouble("h2", fail={"disk": "the disk is full"})
    with contextlib.suppress(StackctlError):
        migrating.migrate(world.context, "old-1")


def snapshot(world):
    world.fleet.content = qcow2()
    snapshots.backup(world.context, "old-1", "copy", "daily", 1)


def shelve(world):
    world.fleet.content = qcow2()
    shelving.shelve(world.context, "old-1").check()


def unshelve(world):
    shelve(world)
    shelving.unshelve(world.context, "old-1").check()


def evacuate(world):
    with write(world.cloud) as writer:
        lost = world.rows("SELECT host_id FROM servers WHERE name = 'old-1'")[0]["host_id"]
        writer.update("hosts", lost, fenced=1)
    evacuating.evacuate(world.context, ["old-1"]).check()


COMMANDS = [
    attach,
    detach,
    grow,
    take_a_snapshot,
    delete_a_volume,
    boot,
    boot_around_a_dead_host,
    delete,
    stop,
    stop_on_a_dead_host,
    connect,
    give_an_address,
    move,
    move_from_a_dead_host,
    rebuild,
    rebuild_on_a_dead_host,
    rescue,
    resize,
    migrate,
    migrate_back,
    migrate_to_a_dead_host,
    migrate_to_a_full_host,
    snapshot,
    shelve,
    unshelve,
    evacuate,
]


@pytest.fixture
def before(fast_path, monkeypatch):
    """A world with two servers and a router, to be copied for each death."""
    folder = fast_path / "before"
    folder.mkdir()
    world = new_world(folder)
    monkeypatch.setattr("stackctl.fleet.session.open_session", world.fleet.open_session)
    furnished(world, "h1", "h2").booted("old", count=2)
    world.add_network("public", "203.0.113.0/24", external=True)
    more = network.NewSubnet("10.1.0.0/24", name="10.1.0.0/24")
    network.create_subnet(world.context, "net", more)
    network.create_router(world.context, network.NewRouter("r", gateway="public")).check()
    subnet = world.value("SELECT id FROM subnets WHERE cidr = '192.168.1.0/24'")
    network.add_interface(world.context, "r", subnet=subnet).check()
    target = network.Target(server="old-1")
    network.create_floating_ip(world.context, network.NewFloatingIp("public", target=target))
    for name, host in (("data", None), ("kept", None), ("spare", "h2")):
        volumes.create_volume(world.context, NewVolume(name, 1, host=host)).check()
    attach_volume(world.context, "old-2", "kept").check()
    return folder


def opened(folder, monkeypatch):
    world = open_world(Cloud("test", folder / "cloud"), folder / "fleet")
    world.fleet.batches = True
    monkeypatch.setattr("stackctl.fleet.session.open_session", world.fleet.open_session)
    return world


def copy_of(before, number):
    folder = before.parent / str(number)
    shutil.copytree(before, folder)
    return folder


def killed_at(number, command, world, count_file=""):
    """Run a command in a process that dies at this point; whether it did."""

    def child():
        killpoint._KILL_AT, killpoint._COUNT_FILE, killpoint._count = number, count_file, 0
        command(world)

    process = FORK.Process(target=child)
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def first_and_last(names):
    """The first and the last time that each kind of step is reached."""
    last = {name: number for number, name in enumerate(names, start=1)}
    first = {name: number for number, name in reversed(list(enumerate(names, start=1)))}
    return sorted({*first.values(), *last.values()})


def every(names):
    return range(1, len(names) + 1)


@pytest.mark.parametrize("chosen", [first_and_last, pytest.param(every, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_killed_anywhere_the_next_command_settles_it(before, monkeypatch, command, chosen):
    count_file = before.parent / "points"
    world = opened(copy_of(before, 0), monkeypatch)
    assert not killed_at(0, command, world, str(count_file))
    names = [line.split()[1] for line in count_file.read_text().splitlines()]
    assert len(names) > 8
    for number in chosen(names):
        folder = copy_of(before, number)
        assert killed_at(number, command, opened(folder, monkeypatch)), number
        settled(opened(folder, monkeypatch))
        shutil.rmtree(folder)


def settled(world):
    # Moving a router has two phases: the second can only follow.
    converge_hosts(world.context, [])
    converge_hosts(world.context, [])
    shown = views.list_servers(world.context)
    assert {server.status for server in shown} <= SETTLED
    for server in shown:
        assert server.task_state is None
        assert not server.interrupted
        assert server.status != "ERROR" or server.fault.message
    assert world.column("SELECT DISTINCT outcome FROM operations WHERE outcome = 'running'") == []
    sound(world)
    as_the_rows_say(world)
    before = [world.fleet.state(name) for name in ("h1", "h2")]
    converge_hosts(world.context, [], everything=True).check()
    after = [world.fleet.state(name) for name in ("h1", "h2")]
    assert [s | {"accepted": 0} for s in before] == [s | {"accepted": 0} for s in after]


def sound(world):
    """The file is whole, and nothing in it hangs in the air."""
    assert world.value("PRAGMA integrity_check") == "ok"
    assert world.rows("PRAGMA foreign_key_check") == []
    orphans = """
    SELECT count(*) FROM ports WHERE deleted_at IS NULL AND device_owner LIKE 'compute:%'
      AND device_id NOT IN (SELECT id FROM servers WHERE deleted_at IS NULL)
    """
    assert world.value(orphans) == 0
    held = """
    SELECT count(*) FROM addresses JOIN ports ON ports.id = port_id
    WHERE released_serial IS NULL AND ports.deleted_at IS NOT NULL
    """
    assert world.value(held) == 0


def as_the_rows_say(world):
    """Hosts have the domains, disks and ports that the database says, and no others."""
    wanted = """
    SELECT servers.id, hosts.name FROM servers JOIN hosts ON hosts.id = servers.host_id
    WHERE servers.deleted_at IS NULL AND servers.held = 0
    """
    assert world.fleet.domains() == {row["id"]: row["name"] for row in world.rows(wanted)}
    routers = "SELECT routers.id, hosts.name FROM routers JOIN hosts ON hosts.id = host_id"
    assert world.fleet.routers() == {row["id"]: row["name"] for row in world.rows(routers)}
    assert world.column("SELECT DISTINCT status FROM routers") == ["ACTIVE"]
    assert world.column("SELECT DISTINCT role FROM bindings") == ["active"]
    for name in ("h1", "h2"):
        state, host_id = world.fleet.state(name), world.host(name)["id"]
        disks = "SELECT id FROM disks WHERE host_id = ? AND deleted_at IS NULL"
        assert set(state["disks"]) == set(world.column(disks, host_id))
        ports = f"SELECT port_id FROM bindings WHERE host_id = ? AND port_id NOT IN ({ROUTED})"
        assert set(state["ports"]) == set(world.column(ports, host_id))
        kept = "SELECT id FROM {} WHERE host_id = ? AND deleted_at IS NULL"
        files = [kept.format(table) for table in ("volumes", "volume_snapshots")]
        assert set(state["volumes"]) == {id_ for sql in files for id_ in world.column(sql, host_id)}
    states = "SELECT status FROM {} WHERE deleted_at IS NULL"
    assert set(world.column(states.format("volumes"))) <= {"available", "in-use"}
    assert set(world.column(states.format("volume_snapshots"))) <= {"available"}


def test_recover_with_the_host_still_down_says_why(before, monkeypatch):
    """Nothing stays in between, even when nobody can ask the host."""
    points = before.parent / "points"
    killed_at(0, boot, opened(copy_of(before, 0), monkeypatch), str(points))
    world = opened(before, monkeypatch)
    names = [line.split()[1] for line in points.read_text().splitlines()]
    assert killed_at(names.index("after-commit") + 1, boot, world)
    assert {server.interrupted for server in views.list_servers(world.context)} == {False, True}
    for name in ("h1", "h2"):
        world.trouble(name, unreachable=True)
    assert [item.outcome for item in recover(world.context)] == ["interrupted"]
    statuses = world.servers()
    assert (statuses["new-1"], statuses["new-2"]) == ("ERROR", "ERROR")
    assert "does not answer" in world.server("new-1").fault.message
    for name in ("h1", "h2"):
        world.trouble(name)
    assert [item.outcome for item in recover(world.context)] == ["done"]
    assert recover(world.context) == []
    sound(world)


def test_a_dead_command_whose_host_is_down_blocks_nobody(before, monkeypatch):
    world = opened(before, monkeypatch)
    assert killed_at(2, lambda world: world.boot("dead", host="h1"), world)
    world.trouble("h1", unreachable=True)
    world.boot("other", host="h2").check()
    assert world.servers()["other"] == "ACTIVE"
    assert world.servers()["dead"] == "BUILD"
    assert world.server("dead").interrupted
    world.trouble("h1")
    world.converge().check()
    assert world.servers()["dead"] == "ACTIVE"


def test_the_living_are_left_alone(before, monkeypatch):
    """While a command runs, others do not take its servers for abandoned."""
    world = opened(before, monkeypatch)
    seen = []

    def meanwhile(_):
        world.fleet.before_open = None
        shown = {server.name: server for server in views.list_servers(world.context)}
        seen.append((shown["vm"].status, shown["vm"].interrupted))
        assert recover(world.context) == []

    world.fleet.before_open = meanwhile
    world.booted("vm")
    assert seen == [("BUILD", False)]


def test_refused_commands_leave_no_operation(before, monkeypatch):
    world = opened(before, monkeypatch)
    with pytest.raises(StackctlError):
        world.boot("old-1")
    assert world.value("SELECT count(*) FROM operations WHERE outcome = 'running'") == 0
    assert Path(world.cloud.locks, "owner-0.lock").exists()
