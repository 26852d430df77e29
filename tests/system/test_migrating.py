"""Servers that change their host, on real hosts: their data goes along, or all stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from tests.engines import eventually
from tests.fleet import DATA, Fleet, paragraph

MAX_POINTS = 150
KILLED = -9

CONTENT = r"""
import hashlib, os, subprocess, sys
raw = "/tmp/content"
subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", sys.argv[1], raw], check=True)
found = hashlib.sha256()
with open(raw, "rb") as file:
    while piece := file.read(1 << 20):
        if piece.count(0) != len(piece):
            found.update(str(file.tell()).encode() + piece)
        try:
            file.seek(os.lseek(file.fileno(), file.tell(), os.SEEK_DATA) >> 20 << 20)
        except OSError:  # nothing but a hole is left
            break
os.remove(raw)
print(found.hexdigest())
"""


@pytest.fixture(autouse=True)
def quiet(fleet: Fleet) -> Iterator[None]:
    """Whatever a test boots is gone afterwards."""
    yield
    fleet.delete_all()
    fleet.check()


def disk(fleet: Fleet, aside: int = 0) -> str:
    """The file of the root disk that vm has, or had."""
    sql = "SELECT id FROM disks WHERE deleted_at IS NULL AND kind = 'root' AND aside = ?"
    (row,) = fleet.rows(sql, aside)
    return f"{DATA}/disks/{row['id']}.qcow2"


def content(fleet: Fleet, host: str, path: str) -> str:
    """The hash of what a guest sees of a disk, with what lies under it."""
    return fleet.inside(host, "/usr/bin/python3", "-I", "-c", CONTENT, path)


def at(fleet: Fleet) -> tuple[str, str]:
    """Where vm is, and how."""
    row = fleet.servers()["vm"]
    return row["Host"], row["Status"]


def written(fleet: Fleet, name: str = "vm") -> str:
    """Boot a server on host1 that is off, with something on its disk; what that hashes to."""
    fleet.boot(name)
    if fleet.servers()[name]["Host"] != "host1":
        fleet.run("delete", "--yes", name)
        fleet.run("boot", name, *fleet.tiny, "--host", "host1")
    fleet.run("stop", name)
    write = ("-c", "write -P 0x5a 512k 300k", "-c", "write -P 7 900M 70k")
    fleet.inside("host1", "qemu-io", "-f", "qcow2", *write, disk(fleet))
    return content(fleet, "host1", disk(fleet))


def migrate(fleet: Fleet, *more: str, **environment: str) -> int:
    """Move vm to host2."""
    done = fleet.run("migrate", "vm", "--host", "host2", *more, exit=None, **environment)
    return done.exit


def test_what_a_guest_wrote_goes_along_and_back(fleet: Fleet) -> None:
    hashed, old = written(fleet), disk(fleet)
    address = fleet.servers()["vm"]["IP Address"]
    fleet.run("server", "migrate", "vm", "--host", "host2")
    assert at(fleet) == ("host2", "VERIFY_RESIZE")
    assert fleet.servers()["vm"]["Power State"] == "Shutdown"
    new = disk(fleet)
    assert content(fleet, "host2", new) == hashed
    assert int(fleet.inside("host2", "du", "-k", new).split()[0]) < 2048
    fleet.check_at_rest()
    fleet.inside("host2", "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", new)
    fleet.run("server", "resize", "revert", "vm")
    assert (at(fleet), disk(fleet)) == (("host1", "SHUTOFF"), old)
    assert content(fleet, "host1", old) == hashed
    fleet.check_at_rest()
    fleet.run("start", "vm")
    fleet.run("migrate", "vm", "--host", "host2")
    assert at(fleet) == ("host2", "VERIFY_RESIZE")
    assert fleet.servers()["vm"]["Power State"] == "Running"
    fleet.check_at_rest()
    fleet.run("server", "migration", "confirm", "vm")
    fleet.run("stop", "vm")
    assert content(fleet, "host2", disk(fleet)) == hashed
    assert fleet.servers()["vm"]["IP Address"] == address
    fleet.check_at_rest()
    fleet.run("migrate", "vm", "--host", "host1")
    assert content(fleet, "host1", disk(fleet)) == hashed
    told = fleet.run("server", "migration", "list", "--server", "vm", "-f", "json").json
    assert [row["Status"] for row in told] == ["reverted", "confirmed", "finished"]


def test_a_server_moves_though_only_its_host_has_its_image(fleet: Fleet) -> None:
    fleet.run("boot", "vm", *fleet.tiny, "--host", "host1")
    fleet.run("shelve", "vm")
    fleet.run("unshelve", "vm", "--host", "host1")
    fleet.run("stop", "vm")
    hashed = content(fleet, "host1", disk(fleet))
    assert migrate(fleet) == 0
    assert at(fleet) == ("host2", "VERIFY_RESIZE")
    assert content(fleet, "host2", disk(fleet)) == hashed
    fleet.check_at_rest()


def test_resized_on_another_host_its_disk_is_larger_there(fleet: Fleet) -> None:
    fleet.run("flavor-create", "wide", "--ram", "96", "--disk", "2", "--vcpus", "1")
    hashed, old = written(fleet), disk(fleet)
    fleet.run("start", "vm")
    fleet.run("resize", "vm", "wide", "--host", "host2")
    assert at(fleet) == ("host2", "VERIFY_RESIZE")
    domain = f"sc-{fleet.servers()['vm']['ID']}"
    assert f"{2 << 30}" in fleet.inside("host2", "virsh", "-q", "domblkinfo", domain, "vda")
    fleet.check_at_rest()
    fleet.run("resize-revert", "vm")
    assert (at(fleet), disk(fleet)) == (("host1", "ACTIVE"), old)
    fleet.run("stop", "vm")
    assert content(fleet, "host1", old) == hashed
    fleet.check_at_rest()


def test_hosts_that_are_down_or_full_leave_it_where_it_was(fleet: Fleet) -> None:
    hashed, old = written(fleet), disk(fleet)
    fleet.run("start", "vm")
    disks = f"{DATA}/disks"
    fleet.inside("host2", "mkdir", "-p", disks)
    fleet.inside("host2", "mount", "-t", "tmpfs", "-o", "size=256k", "small", disks)
    try:
        full = paragraph(fleet.run("migrate", "vm", "--host", "host2", exit=30))[0]
        assert "bytes; " in full and "are free" in full, full
        assert full.endswith("Server vm stays on host host1."), full
        assert fleet.inside("host2", "ls", "-A", disks) == ""
    finally:
        fleet.inside("host2", "umount", disks)
    assert at(fleet) == ("host1", "ACTIVE")
    fleet.check_at_rest()
    with fleet.down("host2"):
        lost = paragraph(fleet.run("migrate", "vm", "--host", "host2", exit=20))[0]
        assert "host2" in lost and "stays on host host1" in lost
        assert at(fleet) == ("host1", "ACTIVE")
    fleet.check_at_rest()
    with fleet.down("host1"):
        lost = paragraph(fleet.run("migrate", "vm", "--host", "host2", exit=20))[0]
        assert "host1" in lost and "stays on host host1" in lost
    fleet.run("start", "vm", exit=None)  # a host that went down switched its guests off
    assert at(fleet) == ("host1", "ACTIVE")
    fleet.run("stop", "vm")
    assert content(fleet, "host1", old) == hashed
    fleet.check_at_rest()


@pytest.mark.parametrize("stride", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_a_move_is_finished_though_agents_die_at_any_point(fleet: Fleet, stride: int) -> None:
    hashed = written(fleet)
    for number in range(1, MAX_POINTS, stride):
        dead = agents_killed(fleet, number, "migrate", "vm", "--host", "host2")
        assert at(fleet) == ("host2", "VERIFY_RESIZE"), f"agents killed at {number}"
        assert content(fleet, "host2", disk(fleet)) == hashed
        dead += agents_killed(fleet, number, "resize-revert", "vm")
        assert at(fleet) == ("host1", "SHUTOFF")
        fleet.check_at_rest()
        if dead == 0:
            assert number > 9
            return
    raise AssertionError("the points never end")


def agents_killed(fleet: Fleet, number: int, *argv: str) -> int:
    """Run a command whose agents die at a point; how many did, by the exchanges begun anew.

    One that gives a disk away and dies takes its copy with it: then all is as before, and the
    command is given again.
    """
    before = fleet.logins("host1"), fleet.logins("host2")
    done = fleet.run(*argv, exit=None, STACKCTL_AGENT_KILL_AT=str(number))
    if done.exit != 0:
        assert done.exit == 30 and "stays on host host1" in done.err, str(done)
        fleet.check_at_rest()
        fleet.run(*argv)
        return 1
    plain = (3, 3) if argv[0] == "resize-revert" else (4, 3)
    after = fleet.logins("host1"), fleet.logins("host2")
    return sum(after) - sum(before) - sum(plain)


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_a_move_is_finished_or_undone_though_the_controller_dies_at_any_point(
    fleet: Fleet, stride: int
) -> None:
    hashed = written(fleet)
    for number in range(1, MAX_POINTS, stride):
        ended = migrate(fleet, STACKCTL_KILL_AT=str(number))
        assert ended in (0, KILLED)
        fleet.run("recover")
        where, status = at(fleet)
        assert (where, status) in (("host1", "SHUTOFF"), ("host2", "VERIFY_RESIZE")), number
        assert content(fleet, where, disk(fleet)) == hashed
        fleet.check_at_rest()
        if where == "host1":
            fleet.run("migrate", "vm", "--host", "host2")
        back = fleet.run("resize-revert", "vm", exit=None, STACKCTL_KILL_AT=str(number)).exit
        fleet.run("recover")
        if at(fleet) != ("host1", "SHUTOFF"):
            assert back == KILLED and at(fleet) == ("host2", "VERIFY_RESIZE")
            fleet.run("resize-revert", "vm")
        fleet.check_at_rest()
        if ended == back == 0:
            assert number > 9
            return
    raise AssertionError("the points never end")


@pytest.mark.slow
def test_a_real_guest_finds_its_files_and_its_address_after_a_move(
    fleet: Fleet, guest_image: Path, tmp_path: Path
) -> None:
    context = admin_context(fleet.cloud)
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("migrated-guest", "qcow2"), stream).check()
    key = tmp_path / "key"
    key.write_text(add_keypair(context, "migrant").value.private_key or "")
    key.chmod(0o600)
    fleet.run("flavor-create", "migrated", "--ram", "128", "--disk", "1", "--vcpus", "1")
    words = ("--image", "migrated-guest", "--flavor", "migrated", "--nic", "net=faults")
    fleet.run("boot", "vm", *words, "--key", "migrant", "--wait", "ssh", "--host", "host1")

    def inside(command: str) -> str:
        done = fleet.start("ssh", "-i", str(key), "vm", command).wait()
        assert done.exit == 0, str(done)
        return done.out

    inside("dd if=/dev/urandom of=/root/data bs=64k count=80; sync")
    hashed = inside("sha256sum /root/data")
    address = fleet.servers()["vm"]["IP Address"]
    for argv in (("migrate", "vm", "--host", "host2"), ("resize-revert", "vm")):
        fleet.run(*argv)
        assert fleet.servers()["vm"]["IP Address"] == address
        said: list[str] = []

        def answers(said: list[str] = said) -> bool:
            login = ("ssh", "-i", str(key), "vm", "sha256sum /root/data")
            said[:] = [fleet.start(*login).wait().out]
            return said != [""]

        eventually(answers, "the guest answers after its move", seconds=120)
        assert said == [hashed]
    fleet.check_at_rest()
