"""Volumes on real hosts: guests see them come, grow and go; data stay, whatever dies in between."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image, list_images
from stackctl.image.types import NewImage
from tests.fleet import DATA, Fleet
from tests.system.test_interfaces import releasing_image

MAX_POINTS = 120
KILLED = -9

Guest = Callable[[str, str], str]


@pytest.fixture(scope="module")
def world(fleet: Fleet) -> Fleet:
    """The fleet with a guest that releases what it is asked for."""
    context = admin_context(fleet.cloud)
    if not any(image.name == "releasing" for image in list_images(context)):
        create_image(context, NewImage("releasing", "raw"), releasing_image()).check()
    return fleet


@pytest.fixture(autouse=True)
def leaves_nothing(world: Fleet) -> Iterator[None]:
    """What a test fails on is not the next one's."""
    yield
    delete_everything(world)


@pytest.fixture
def running(world: Fleet) -> Iterator[Fleet]:
    """A server vm on host1 that releases devices, and a volume data."""
    image = ("--image", "releasing", "--flavor", "tiny", "--nic", "net=faults")
    world.run("boot", "vm", *image, "--host", "host1")
    world.run("volume-create", "data", "--size", "1")
    yield world
    delete_everything(world)
    world.check_at_rest()


def delete_everything(fleet: Fleet) -> None:
    fleet.delete_all()
    for snapshot in fleet.run("volume-snapshot-list", "-f", "json").json:
        fleet.run("volume-snapshot-delete", "--yes", snapshot["ID"])
    for volume in fleet.run("volume-list", "-f", "json").json:
        fleet.run("volume-delete", "--yes", volume["ID"])


def volume(fleet: Fleet, name: str = "data") -> dict[str, str]:
    shown: dict[str, str] = fleet.run("volume-show", name, "-f", "json").json
    return shown


def files(fleet: Fleet, host: str = "host1") -> list[str]:
    """Files of volumes on a host, hidden ones too."""
    return fleet.inside(host, "ls", "-A", f"{DATA}/volumes", check=False).split()


def plugged(fleet: Fleet, name: str = "vm", *, next_start: bool = False) -> list[str]:
    """Devices and files of the volumes that a domain has now, or at its next start."""
    id_ = fleet.servers()[name]["ID"]
    more = ("--inactive",) if next_start else ()
    lines = fleet.inside("host1", "virsh", "-q", "domblklist", f"sc-{id_}", *more).splitlines()
    found = [line.split() for line in lines if "/volumes/" in line]
    return [f"{target} {Path(path).name}" for target, path in found]


def check_plugged(fleet: Fleet, *devices: str, names: tuple[str, ...] = ("data",)) -> None:
    """The domain has these volumes, at once and at its next start, and the rows say so."""
    shown = [volume(fleet, name) for name in names]
    wanted = [f"{device} {each['ID']}.qcow2" for device, each in zip(devices, shown, strict=False)]
    assert plugged(fleet) == wanted
    assert plugged(fleet, next_start=True) == wanted
    state = "in-use" if devices else "available"
    assert [each["Status"] for each in shown] == [state] * len(names)


@pytest.fixture(scope="module")
def guest(
    world: Fleet, guest_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    """Runs a command in a guest that ``boot_guest`` made."""
    context = admin_context(world.cloud)
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("volume-guest", "qcow2"), stream).check()
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_text(add_keypair(context, "volumes").value.private_key or "")
    key.chmod(0o600)
    world.run("flavor-create", "small", "--ram", "128", "--disk", "1", "--vcpus", "1")

    def run(server: str, text: str) -> str:
        done = world.start("ssh", "-i", str(key), server, text).wait()
        assert done.exit == 0, str(done)
        return done.out

    yield run
    # Another module makes them again.
    delete_everything(world)
    world.run("keypair-delete", "volumes")
    world.run("flavor-delete", "small")
    world.run("image-delete", "--yes", "volume-guest")


def boot_guest(fleet: Fleet, name: str, *more: str) -> None:
    words = ("--flavor", "small", "--nic", "net=faults", "--key", "volumes")
    image = ("--image", "volume-guest")
    fleet.run("boot", name, *image, *words, "--host", "host1", "--wait", "ssh", *more)


def test_data_go_with_the_volume_from_guest_to_guest(world: Fleet, guest: Guest) -> None:
    boot_guest(world, "one")
    boot_guest(world, "two")
    world.run("volume-create", "data", "--size", "1")
    assert files(world) == []
    world.run("volume-attach", "one", "data")
    check = "cat /sys/block/vdb/size /sys/block/vdb/serial"
    assert guest("one", check).split() == [str(2 << 20), volume(world)["ID"][:20]]
    guest("one", "yes stackctl | head -c 5000000 > /tmp/x; dd if=/tmp/x of=/dev/vdb; sync")
    written = guest("one", "head -c 5000000 /dev/vdb | md5sum")

    world.run("volume-extend", "data", "2")
    assert guest("one", "cat /sys/block/vdb/size").strip() == str(4 << 20)

    world.run("volume-detach", "one", "data")
    assert "vdb" not in guest("one", "ls /sys/block")
    assert volume(world)["Status"] == "available"
    world.check_at_rest()

    world.run("server", "add", "volume", "two", "data", "--device", "/dev/vdc")
    assert guest("two", "cat /sys/block/vdb/size").strip() == str(4 << 20)
    assert guest("two", "head -c 5000000 /dev/vdb | md5sum") == written
    world.run("delete", "--yes", "two")
    assert volume(world)["Status"] == "available"

    # It grows while nobody has it, and outlives that, too.
    world.run("volume-extend", "data", "3")
    world.run("server", "add", "volume", "one", "data")
    assert guest("one", "cat /sys/block/vdb/size").strip() == str(6 << 20)
    assert guest("one", "head -c 5000000 /dev/vdb | md5sum") == written
    world.run("server", "remove", "volume", "one", "data")
    assert len(files(world)) == 1
    world.run("volume-delete", "--yes", "data")
    assert files(world) == []
    world.check_at_rest()


def test_a_volume_of_an_image_holds_its_content(running: Fleet) -> None:
    running.run("volume-create", "copy", "--size", "1", "--image", "releasing", "--host", "host1")
    path = f"{DATA}/volumes/{volume(running, 'copy')['ID']}.qcow2"
    info = running.inside("host1", "qemu-img", "info", "-f", "qcow2", path)
    assert "virtual size: 1 GiB" in info
    assert "backing file" not in info
    raw = "/tmp/copy.raw"
    running.inside("host1", "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    start = running.inside("host1", "sh", "-c", f"head -c 512 {raw} | sha256sum").split()[0]
    running.inside("host1", "rm", raw)
    assert start == hashlib.sha256(releasing_image().read(512)).hexdigest()


def test_a_snapshot_of_a_volume_that_is_written_to_is_of_one_moment(
    world: Fleet, guest: Guest
) -> None:
    boot_guest(world, "one")
    world.run("volume-create", "data", "--size", "1")
    world.run("volume-attach", "one", "data")
    # A counter goes up in two places, one after the other: no moment has the second one ahead.
    begin = "sh /tmp/count > /dev/null 2>&1 < /dev/null & echo $! > /tmp/pid"
    guest("one", f"cat > /tmp/count <<'END'\n{COUNTING}END\n{begin}")
    guest("one", "sleep 2; kill -0 $(cat /tmp/pid)")
    world.run("volume-snapshot-create", "monday", "--volume", "data")
    world.run("volume-create", "clone", "--source", "data", "--size", "2")
    guest("one", "sleep 1; kill $(cat /tmp/pid); sync")
    world.run("volume-create", "old", "--snapshot", "monday")
    shown = world.run("volume-snapshot-show", "monday", "-f", "json").json
    assert (shown["Status"], shown["Consistency"]) == ("available", "crash-consistent")
    world.run("volume-attach", "one", "old", "--device", "vdc")
    world.run("volume-attach", "one", "clone", "--device", "vdd")
    assert guest("one", "cat /sys/block/vdd/size").strip() == str(4 << 20)
    pairs = [guest("one", READING.format(device)).split() for device in ("vdc", "vdd", "vdb")]
    numbers = [(int(first), int(second)) for first, second in pairs]
    assert all(first - second in (0, 1) for first, second in numbers), numbers
    assert 0 < numbers[0][0] < numbers[1][0] <= numbers[2][0], numbers
    world.run("volume-snapshot-delete", "--yes", "monday")
    world.check_at_rest()


def test_a_guest_boots_from_a_volume_and_so_does_the_next_one(world: Fleet, guest: Guest) -> None:
    world.run("volume-create", "root", "--size", "1", "--image", "volume-guest")
    boot_from(world, "one", "root")
    serial = volume(world, "root")["ID"][:20]
    assert guest("one", "cat /sys/block/vda/serial").strip() == serial
    assert "vdb" not in guest("one", "ls /sys/block")
    world.run("volume-detach", "one", "root", exit=4)
    world.check_at_rest()
    world.run("reboot", "one")
    world.run("delete", "--yes", "one")
    assert volume(world, "root")["Status"] == "available"
    world.run("volume-create", "twin", "--source", "root")
    boot_from(world, "two", "twin")
    boot_from(world, "one", "root")
    assert guest("one", "cat /sys/block/vda/serial").strip() == serial
    world.check_at_rest()


def boot_from(fleet: Fleet, name: str, volume: str) -> None:
    words = ("--flavor", "small", "--nic", "net=faults", "--key", "volumes", "--host", "host1")
    fleet.run("boot", name, "--boot-volume", volume, *words, "--wait", "ssh")


COUNTING = """n=1000000
while :; do
  n=$((n + 1))
  echo $n | dd of=/dev/vdb bs=512 seek=0 conv=notrunc,fsync 2>/dev/null
  echo $n | dd of=/dev/vdb bs=512 seek=1000000 conv=notrunc,fsync 2>/dev/null
done
"""

READING = (
    "for at in 0 1000000; do dd if=/dev/{} bs=512 skip=$at count=1 2>/dev/null | head -n 1; done"
)


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_snapshots_are_taken_though_agents_die_at_any_point(running: Fleet, stride: int) -> None:
    running.run("volume-attach", "vm", "data")
    for at in range(1, MAX_POINTS, stride):
        dead = running.killing_agents(at, "volume-snapshot-create", "monday", "--volume", "data")
        dead += running.killing_agents(at, "volume-create", "copy", "--snapshot", "monday")
        names = [volume(running, name)["ID"] for name in ("data", "copy")]
        (snapshot,) = running.run("volume-snapshot-list", "-f", "json").json
        assert snapshot["Status"] == "available"
        assert files(running) == sorted(f"{id_}.qcow2" for id_ in (*names, snapshot["ID"]))
        running.check_at_rest()
        running.run("volume-snapshot-delete", "--yes", "monday")
        running.run("volume-delete", "--yes", "copy")
        assert len(files(running)) == 1
        if dead == 0:
            return
    raise AssertionError("the points never end")


def test_a_stopped_server_starts_with_its_volumes(running: Fleet) -> None:
    running.run("stop", "vm")
    running.run("volume-attach", "vm", "data")
    assert volume(running)["Status"] == "in-use"
    running.run("start", "vm")
    check_plugged(running, "vdb")
    running.check_at_rest()
    running.run("stop", "vm")
    running.run("volume-detach", "vm", "data")
    running.run("start", "vm")
    check_plugged(running)


def test_volumes_and_nics_come_and_go_together(running: Fleet) -> None:
    running.run("volume-create", "more", "--size", "1")
    running.run("volume-attach", "vm", "data", "--device", "vdd")
    running.run("interface-attach", "vm", "--net", "faults")
    running.run("volume-attach", "vm", "more")
    shown = {name: volume(running, name)["ID"] for name in ("data", "more")}
    wanted = [f"vdb {shown['more']}.qcow2", f"vdd {shown['data']}.qcow2"]
    assert sorted(plugged(running)) == sorted(plugged(running, next_start=True)) == wanted
    running.check_at_rest()
    running.run("volume-detach", "vm", "vdd")
    assert plugged(running) == [f"vdb {shown['more']}.qcow2"]
    running.run("reboot", "--hard", "vm")
    assert plugged(running) == [f"vdb {shown['more']}.qcow2"]
    running.check_at_rest()


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_volumes_come_and_go_though_agents_die_at_any_point(running: Fleet, stride: int) -> None:
    for at in range(1, MAX_POINTS, stride):
        dead = running.killing_agents(at, "volume-attach", "vm", "data")
        check_plugged(running, "vdb")
        size = str(int(volume(running)["Size GB"]) + 1)
        dead += running.killing_agents(at, "volume-extend", "data", size)
        dead += running.killing_agents(at, "volume-detach", "vm", "data")
        check_plugged(running)
        assert files(running) == [f"{volume(running)['ID']}.qcow2"]
        running.check_at_rest()
        dead += running.killing_agents(at, "volume-delete", "--yes", "data")
        assert files(running) == []
        running.run("volume-create", "data", "--size", "1")
        if dead == 0:
            assert at > 8
            return
    raise AssertionError("the points never end")


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_volumes_come_and_go_though_the_controller_dies_at_any_point(
    running: Fleet, stride: int
) -> None:
    attach, detach = ("volume-attach", "vm", "data"), ("volume-detach", "vm", "data")
    for at in range(1, MAX_POINTS, stride):
        first = running.run(*attach, exit=None, STACKCTL_KILL_AT=str(at))
        running.run("converge", "--all")
        if volume(running)["Status"] == "available":
            running.run(*attach)
        check_plugged(running, "vdb")
        second = running.run(*detach, exit=None, STACKCTL_KILL_AT=str(at))
        running.run("recover")
        running.run("converge", "--all")
        if volume(running)["Status"] == "in-use":
            running.run(*detach)
        check_plugged(running)
        running.check_at_rest()
        if first.exit == second.exit == 0:
            assert at > 4
            return
        assert {first.exit, second.exit} <= {KILLED, 0}, f"{first}{second}"
    raise AssertionError("the points never end")


def test_a_guest_that_keeps_its_volume_keeps_it_until_it_is_restarted(world: Fleet) -> None:
    world.boot("vm", "--host", "host1")
    world.run("volume-create", "data", "--size", "1")
    world.run("volume-attach", "vm", "data")
    check_plugged(world, "vdb")
    done = world.run("volume-detach", "vm", "data", exit=40)
    assert "did not release the volume" in done.err
    assert volume(world)["Status"] == "detaching"
    assert len(plugged(world)) == 1
    world.run("volume-delete", "--yes", "data", exit=4)
    world.run("reboot", "--hard", "vm")
    world.run("converge", "--all")
    check_plugged(world)
    world.check_at_rest()
