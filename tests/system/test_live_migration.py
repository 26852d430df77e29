"""Servers go to another host while they run: nothing lost, never twice, and back when it fails."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image, list_images
from stackctl.image.types import NewImage
from tests.engines import eventually
from tests.fleet import DATA, Fleet, Running, paragraph

SCRIBBLING_GUEST = bytes.fromhex(
    "fb f4"  # at each tick of the clock: sti; hlt
    "43"  # with another number than before
    "ba0010 8ec2 31ff 89d8 b90080 fc f3ab"  # fill 64 KiB: es = dx; rep stosw
    "81c20010 81fa0090 72ea"  # eight times over
    "ebe2"
).ljust(510, b"\0") + bytes.fromhex("55aa")
"""A boot sector that writes half a MiB of memory 18 times a second: on a slow way it never ends."""

SLOW = "1"
"""MiB a second."""

MAX_POINTS = 120
KILLED = -9
LOST_AT_MOST = 3

GUESTS = r"""
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        argv = open(f"/proc/{pid}/cmdline").read().split("\0")
    except OSError:
        continue
    if "qemu-system" in argv[0] and "-name" in argv:
        print(argv[argv.index("-name") + 1].split("=")[1].split(",")[0])
"""


@pytest.fixture(scope="module", autouse=True)
def scribbling(fleet: Fleet) -> None:
    """The image of a guest that keeps a migration busy."""
    context = admin_context(fleet.cloud)
    if not any(image.name == "scribbling" for image in list_images(context)):
        image = io.BytesIO(SCRIBBLING_GUEST.ljust(1024 * 1024, b"\0"))
        create_image(context, NewImage("scribbling", "raw"), image).check()


@pytest.fixture(autouse=True)
def quiet(fleet: Fleet) -> Iterator[None]:
    """Whatever a test boots is gone afterwards, sockets and all."""
    yield
    fleet.delete_all()
    fleet.check_at_rest()
    for host in fleet.hosts():
        assert fleet.inside(host, "sh", "-c", f"ls {DATA}/moves 2>/dev/null || true") == ""


def host_of(fleet: Fleet, name: str = "vm") -> str:
    return str(fleet.servers()[name]["Host"])


def other(host: str) -> str:
    return "host2" if host == "host1" else "host1"


def domain(fleet: Fleet, name: str = "vm") -> str:
    return f"sc-{fleet.servers()[name]['ID']}"


def state(fleet: Fleet, host: str, name: str) -> str:
    """What libvirt says of a domain, empty when it has none."""
    return fleet.inside(host, "virsh", "-q", "domstate", name, check=False).strip()


def settled(fleet: Fleet, host: str) -> None:
    """The server runs on this host, and on no other."""
    assert (fleet.servers()["vm"]["Status"], host_of(fleet)) == ("ACTIVE", host)
    name = domain(fleet)
    assert state(fleet, host, name) == "running"
    assert state(fleet, other(host), name) == ""
    fleet.check_at_rest()


@pytest.fixture
def slow(fleet: Fleet) -> Iterator[tuple[Running, str]]:
    """A migration of vm from host1 that takes its time and is under way; the domain's name."""
    fleet.boot("vm", "--image", "scribbling", "--host", "host1")
    name = domain(fleet)
    # Its memory goes on a narrow way.
    fleet.inside("host1", "virsh", "migrate-setspeed", name, SLOW)
    migration = fleet.start("live-migrate", "vm", "host2")
    try:
        eventually(lambda: under_way(fleet, name), "the migration is under way", seconds=60)
        yield migration, name
    finally:
        migration.process.kill()
        migration.wait()


def under_way(fleet: Fleet, name: str) -> bool:
    said = fleet.inside("host1", "virsh", "-q", "domjobinfo", name, check=False)
    return "Memory processed" in said and "Outgoing migration" in said


class Twice:
    """Watches that a guest never runs on two hosts at once, as libvirt sees it."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet, self._name = fleet, name
        self._end = threading.Event()
        self.seen: list[tuple[str, ...]] = []
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.is_set():
            states = tuple(state(self._fleet, host, self._name) for host in ("host1", "host2"))
            again = tuple(state(self._fleet, host, self._name) for host in ("host2", "host1"))
            # Asked in both orders: one that changed hosts in between is not on two.
            if states == ("running", "running") == again:
                self.seen.append(states)

    def __enter__(self) -> Twice:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


# --- what a guest notices -----------------------------------------------------------------------


def test_a_guest_that_is_moved_loses_neither_packets_nor_connections_nor_data(
    fleet: Fleet, guest_image: Path, tmp_path: Path
) -> None:
    context = admin_context(fleet.cloud)
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("moving-guest", "qcow2"), stream).check()
    key = tmp_path / "key"
    key.write_text(add_keypair(context, "mover").value.private_key or "")
    key.chmod(0o600)
    fleet.run("flavor-create", "moving", "--ram", "128", "--disk", "1", "--vcpus", "1")
    for group in ("stays", "goes"):
        fleet.run("security-group-create", group)
        fleet.run("security-group-rule-create", group, "--protocol", "icmp")
    fleet.run("security-group-rule-create", "stays", "--protocol", "tcp", "--dst-port", "7000")
    words = ("--image", "moving-guest", "--flavor", "moving", "--nic", "net=faults")
    words += ("--key", "mover", "--wait", "ssh")
    # One stays, beside the other on the host that it leaves.
    for name in ("stays", "goes"):
        fleet.run("boot", name, *words, "--host", "host1", "--security-group", name)
    address = {name: fleet.servers()[name]["IP Address"]["faults"][0] for name in ("stays", "goes")}

    def inside(name: str, command: str) -> str:
        done = fleet.start("ssh", "-i", str(key), name, command).wait()
        assert done.exit == 0, str(done)
        return done.out

    def heard() -> int:
        return int(inside("goes", "touch /root/heard; wc -l < /root/heard"))

    write = "dd if=/dev/urandom of=/root/data bs=64k count=128 2>/dev/null; sync; "
    hashed = inside("goes", write + "sha256sum /root/data")
    serial = inside("goes", "cat /sys/block/vda/serial")
    uptime = float(inside("goes", "cut -d' ' -f1 /proc/uptime"))
    # A connection that only the guest could begin, and in which only the other side speaks: no
    # rule lets it in, and where the guest arrives nobody has seen it begin.
    talk = "i=0; while [ $i -lt 3000 ]; do echo $i; sleep 0.1; i=$((i+1)); done"
    inside("stays", f"({talk}) 2>/dev/null | nc -l -p 7000 > /dev/null 2>&1 &")
    # It hangs up when it has nothing more to say itself.
    listen = f"while ! nc {address['stays']} 7000 < /root/silence > /root/heard; do sleep 0.2; done"
    inside("goes", "mkfifo /root/silence; (sleep 3000 > /root/silence) > /dev/null 2>&1 &")
    inside("goes", f"({listen}) > /dev/null 2>&1 &")
    eventually(lambda: heard() > 10, "they talk", seconds=60)
    inside("stays", f"ping -c 3000 -i 0.1 {address['goes']} > /root/pings 2>&1 &")

    fleet.run("live-migrate", "goes", "--host", "host2")
    assert host_of(fleet, "goes") == "host2"
    before = heard()
    eventually(lambda: heard() > before + 10, "they talk on", seconds=60)
    inside("stays", "killall -INT ping; sleep 0.3")
    said = inside("stays", "cat /root/pings")
    sent, came = map(int, re.findall(r"(\d+) packets (?:transmitted|received)", said))
    assert sent > 20
    assert sent - came <= LOST_AT_MOST, said
    numbers = [int(line) for line in inside("goes", "cat /root/heard").split()]
    assert numbers == list(range(len(numbers))), "the connection lost or repeated something"

    # The same guest, which was never started anew, with the same disk.
    assert float(inside("goes", "cut -d' ' -f1 /proc/uptime")) > uptime
    assert inside("goes", "cat /sys/block/vda/serial") == serial
    drop = "echo 3 > /proc/sys/vm/drop_caches; sha256sum /root/data"
    assert inside("goes", drop) == hashed
    # The lease is renewed by the server of the host where it is now.
    renewed = inside("goes", "udhcpc -i eth0 -n -q -t 10 -T 1 -s /lib/guest/dhcp 2>&1")
    assert address["goes"] in renewed
    assert "guest: kernel" in fleet.run("console-log", "goes").out, "what it said there is gone"
    fleet.check_at_rest()
    # And its disk is whole by itself, when it starts from it.
    fleet.run("reboot", "--hard", "goes")
    fleet.run("delete", "--yes", "stays")

    def again() -> bool:
        done = fleet.start("ssh", "-i", str(key), "goes", "sha256sum /root/data").wait()
        return done.out == hashed

    eventually(again, "it is up again with its data", seconds=90)
    fleet.delete_all()
    fleet.run("security-group-delete", "stays", "goes")


def test_it_comes_back_paused_and_starts_anew_where_it_is(fleet: Fleet) -> None:
    """Its definition is the one that its new host would make: nothing waits for its next start."""
    fleet.boot("vm", "--host", "host1")
    fleet.run("live-migrate", "vm", "host2")
    settled(fleet, "host2")
    fleet.run("pause", "vm")
    fleet.run("server", "migrate", "vm", "--live-migration", "--host", "host1")
    assert (fleet.statuses(), host_of(fleet)) == ({"vm": "PAUSED"}, "host1")
    assert state(fleet, "host1", domain(fleet)) == "paused"
    fleet.run("unpause", "vm")
    settled(fleet, "host1")
    fleet.run("reboot", "--hard", "vm")
    settled(fleet, "host1")


# --- called off, cut off ------------------------------------------------------------------------


def test_one_that_is_called_off_runs_on_where_it_is(
    fleet: Fleet, slow: tuple[Running, str]
) -> None:
    migration, _ = slow
    shown = fleet.servers()["vm"]
    assert (shown["Status"], shown["Task"]) == ("MIGRATING", "migrating")
    assert "migrating" in paragraph(fleet.run("stop", "vm", exit=4))[0]
    fleet.run("live-migration-abort", "vm")
    done = migration.wait()
    assert done.exit == 4
    assert paragraph(done)[0].endswith("was called off. It stays on host1.")
    assert fleet.rows("SELECT status FROM migrations ORDER BY created_at DESC LIMIT 1") == [
        {"status": "cancelled"}
    ]
    settled(fleet, "host1")
    assert "No live migration" in fleet.run("live-migration-abort", "vm", exit=4).err


def test_one_whose_target_dies_runs_on_where_it_is(fleet: Fleet, slow: tuple[Running, str]) -> None:
    migration, name = slow
    fleet.kill_host("host2")
    try:
        done = migration.wait()
        assert done.exit in (20, 30), str(done)
        assert state(fleet, "host1", name) == "running"
        assert host_of(fleet) == "host1"
    finally:
        fleet.start_host("host2")
        fleet.run("converge", "--all", exit=None)
    fleet.run("recover")
    settled(fleet, "host1")


@pytest.mark.slow
def test_one_whose_qemu_dies_on_the_way_is_off_and_starts_again(
    fleet: Fleet, slow: tuple[Running, str]
) -> None:
    migration, name = slow
    pid = fleet.inside("host1", "cat", f"/run/libvirt/qemu/{name}.pid")
    fleet.inside("host1", "kill", "-9", pid.strip())
    assert migration.wait().exit == 30
    assert host_of(fleet) == "host1"
    assert state(fleet, "host2", name) == ""
    fleet.run("start", "vm")
    settled(fleet, "host1")


@pytest.mark.slow
def test_one_that_is_deleted_on_the_way_is_gone_from_both(
    fleet: Fleet, slow: tuple[Running, str]
) -> None:
    migration, name = slow
    fleet.run("delete", "--yes", "vm")
    assert migration.wait().exit != 0
    assert fleet.statuses() == {}
    for host in fleet.hosts():
        assert state(fleet, host, name) == ""
    fleet.run("recover")


@pytest.mark.parametrize("host", [pytest.param("host1", marks=pytest.mark.slow), "host2"])
def test_an_agent_that_dies_on_the_way_leaves_one_guest(
    fleet: Fleet, slow: tuple[Running, str], host: str
) -> None:
    migration, name = slow
    with Twice(fleet, name) as watch:
        agent = fleet.inside(host, "cat", f"{DATA}/locks/move-{name.removeprefix('sc-')}")
        fleet.inside(host, "kill", "-9", agent)
        done = migration.wait()
    assert done.exit in (20, 30), str(done)
    assert watch.seen == []
    settled(fleet, "host1")


def test_a_command_that_dies_on_the_way_leaves_one_guest(
    fleet: Fleet, slow: tuple[Running, str]
) -> None:
    migration, name = slow
    with Twice(fleet, name) as watch:
        migration.process.kill()
        migration.wait()
        assert "interrupted" in fleet.run("live-migration-abort", "vm", exit=4).err
        fleet.run("recover")
    assert watch.seen == []
    settled(fleet, "host1")


# --- whoever dies, wherever ---------------------------------------------------------------------


@pytest.mark.parametrize("stride", [27, pytest.param(1, marks=pytest.mark.slow)])
def test_a_move_is_finished_or_undone_though_its_command_dies_at_any_point(
    fleet: Fleet, stride: int
) -> None:
    fleet.boot("vm", "--host", "host1")
    ways: set[bool] = set()
    for at in range(1, MAX_POINTS, stride):
        here = host_of(fleet)
        done = fleet.run("live-migrate", "vm", other(here), exit=None, STACKCTL_KILL_AT=str(at))
        assert done.exit in (KILLED, 0), str(done)
        fleet.run(*(("recover",) if at % 2 else ("converge", "--all")))
        now = host_of(fleet)
        ways.add(now != here)
        assert done.exit == KILLED or now != here
        settled(fleet, now)
        if done.exit == 0:
            assert ways == {True, False}
            return
    raise AssertionError("the points never end")


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_a_move_is_finished_or_undone_though_agents_die_at_any_point(
    fleet: Fleet, stride: int
) -> None:
    fleet.boot("vm", "--host", "host1")
    for at in range(1, MAX_POINTS, stride):
        here = host_of(fleet)
        before = sum(fleet.logins(host) for host in fleet.hosts())
        done = fleet.run(
            "live-migrate", "vm", other(here), exit=None, STACKCTL_AGENT_KILL_AT=str(at)
        )
        assert done.exit in (0, 20, 30), str(done)
        fleet.run("recover")
        opened = sum(fleet.logins(host) for host in fleet.hosts()) - before
        now = host_of(fleet)
        assert (now != here) >= (done.exit == 0), str(done)
        settled(fleet, now)
        if done.exit == 0 and opened <= UNDISTURBED:
            return
    raise AssertionError("the points never end")


UNDISTURBED = 9
"""Exchanges of a migration in which no agent died, and one more: two to ask, two and two to
converge, two to move."""


# --- draining -----------------------------------------------------------------------------------


def test_a_drained_host_is_empty_and_its_servers_are_what_they_were(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1", "--count", "3")
    fleet.run("stop", "vm-2")
    fleet.run("pause", "vm-3")
    before = {row["Instance Name"]: row["IP Address"] for row in fleet.servers().values()}
    plan = fleet.run("host-drain", "host1", "--dry-run", "-f", "json")
    assert {(row["Server"], row["How"], row["To"]) for row in plan.json} == {
        ("vm-1", "live", "host2"),
        ("vm-2", "cold", "host2"),
        ("vm-3", "live", "host2"),
    }
    assert {row["Host"] for row in fleet.servers().values()} == {"host1"}
    try:
        fleet.run("host-drain", "host1")
        assert fleet.statuses() == {"vm-1": "ACTIVE", "vm-2": "SHUTOFF", "vm-3": "PAUSED"}
        servers = fleet.servers()
        assert {row["Host"] for row in servers.values()} == {"host2"}
        assert {name: row["IP Address"] for name, row in servers.items()} == before
        world = fleet.world("host1")
        assert (world["domains"], world["disks"], world["taps"]) == ([], [], [])
        fleet.run("unpause", "vm-3")
        fleet.check_at_rest()
        again = fleet.run("host-drain", "host1", "-f", "json")
        assert again.json == []
        assert "disabled" in fleet.run("boot", "new", *fleet.tiny, "--host", "host1", exit=6).err
    finally:
        fleet.run("host-set", "host1", "--enable")
