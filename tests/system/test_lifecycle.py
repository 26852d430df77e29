"""The life of servers on real hosts: what guests do to themselves, locks, names."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from tests.engines import eventually
from tests.fleet import Fleet

PANICKING_GUEST = bytes.fromhex(
    "b93c00 fbf4 e2fc"  # three seconds by the clock: mov cx, 60; sti; hlt; loop
    "ba0505 b001 ee"  # then say to the panic device (0x505) that the kernel panicked
    "ebfe"
).ljust(510, b"\0") + bytes.fromhex("55aa")


@pytest.fixture(autouse=True)
def quiet(fleet: Fleet) -> Iterator[None]:
    """Whatever a test boots is gone afterwards."""
    yield
    fleet.delete_all()
    fleet.check()


def power(fleet: Fleet, name: str = "vm") -> tuple[str, str]:
    """Status and power state as ``list`` has them after a convergence."""
    fleet.run("converge", "--all")
    row = fleet.servers()[name]
    return row["Status"], row["Power State"]


def told(fleet: Fleet) -> list[str]:
    """What the diary says of vm."""
    rows = fleet.run("events", fleet.servers()["vm"]["ID"], "-f", "json", "-c", "Message").json
    return [row["Message"] for row in rows]


def test_a_guest_that_panics_is_seen_as_crashed_and_starts_again(fleet: Fleet) -> None:
    context = admin_context(fleet.cloud)
    image = io.BytesIO(PANICKING_GUEST.ljust(1024 * 1024, b"\0"))
    create_image(context, NewImage("panicking", "raw"), image).check()
    fleet.boot("vm", "--image", "panicking", "--host", "host1")
    eventually(lambda: power(fleet) == ("SHUTOFF", "Crashed"), "the panic is seen")
    assert "active -> stopped (power state CRASHED)" in told(fleet)
    fleet.check_at_rest()
    fleet.run("start", "vm")
    assert fleet.servers()["vm"]["Status"] == "ACTIVE"


def test_a_qemu_that_dies_is_seen_as_crashed_and_a_halt_as_shut_down(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1")
    domain = f"sc-{fleet.servers()['vm']['ID']}"
    pid = fleet.inside("host1", "cat", f"/run/libvirt/qemu/{domain}.pid")
    fleet.inside("host1", "kill", "-9", pid.strip())
    eventually(lambda: power(fleet) == ("SHUTOFF", "Crashed"), "the crash is seen")
    fleet.check_at_rest()
    fleet.run("start", "vm")

    def halts() -> bool:
        # As if somebody had typed poweroff in the guest; one that still boots does not hear it.
        fleet.inside("host1", "virsh", "-q", "shutdown", domain, check=False)
        return power(fleet) == ("SHUTOFF", "Shutdown")

    eventually(halts, "the halt is seen")
    assert "active -> stopped (power state SHUTDOWN)" in told(fleet)


def test_a_locked_server_stays_and_a_renamed_one_keeps_its_address(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1")
    address = fleet.servers()["vm"]["IP Address"]
    fleet.run("lock", "vm", "--reason", "in use")
    done = fleet.run("delete", "--yes", "vm", exit=4)
    assert "Instance vm is locked (in use)" in done.err
    fleet.run("reboot", "vm", exit=4)
    fleet.run("unlock", "vm")
    fleet.run("server", "set", "vm", "--name", "web", "--property", "role=front")
    shown = fleet.run("show", "web", "-f", "json").json
    assert (shown["Hostname"], shown["Metadata"]) == ("vm", {"role": "front"})
    assert fleet.servers()["web"]["IP Address"] == address
    fleet.check_at_rest()
    fleet.run("reboot", "--hard", "web")
    id_ = fleet.servers()["web"]["ID"]
    drive = f"/var/lib/stackctl/host/drives/{id_}.iso"
    meta = fleet.inside("host1", "grep", "-a", '"role"', drive)
    assert '"front"' in meta


def disk_files(fleet: Fleet, name: str = "vm") -> list[str]:
    """The files that a domain's disks are now, config drive excepted, by target."""
    domain = f"sc-{fleet.servers()[name]['ID']}"
    lines = fleet.inside("host1", "virsh", "-q", "domblklist", domain).splitlines()
    found = [line.split() for line in lines]
    return [f"{target} {path.rpartition('/')[2]}" for target, path in found if target != "hdd"]


def sha256(fleet: Fleet, name: str) -> str:
    """What a disk's file on host1 holds."""
    return fleet.inside("host1", "sha256sum", f"/var/lib/stackctl/host/disks/{name}").split()[0]


def test_a_rebuilt_server_keeps_its_address_and_nothing_of_its_disk(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1")
    before, (old,) = fleet.servers()["vm"], disk_files(fleet)
    fleet.run("rebuild", "vm", "--yes", "--property", "again=yes")
    after, (new,) = fleet.servers()["vm"], disk_files(fleet)
    assert {**after, "Status": "ACTIVE"} == before
    assert new != old
    fleet.check_at_rest()
    fleet.run("stop", "vm")
    fleet.run("server", "rebuild", "--image", "tiny", "vm")
    assert fleet.statuses() == {"vm": "SHUTOFF"}
    fleet.check_at_rest()


def test_a_rescued_server_boots_from_another_disk_and_its_own_stays_as_it_was(
    fleet: Fleet,
) -> None:
    fleet.boot("vm", "--host", "host1")
    fleet.run("stop", "vm")
    (own,) = disk_files(fleet)
    name = own.split()[1]
    hashed = sha256(fleet, name)
    fleet.run("rescue", "vm")
    assert fleet.statuses() == {"vm": "RESCUE"}
    first, second = disk_files(fleet)
    assert second == f"vdb {name}"
    assert first.startswith("vda ") and name not in first
    fleet.check_at_rest()
    fleet.run("unrescue", "vm")
    assert fleet.statuses() == {"vm": "ACTIVE"}
    assert disk_files(fleet) == [own]
    assert sha256(fleet, name) == hashed
    fleet.check_at_rest()


MAX_POINTS = 120
KILLED = -9


def agent_killed(fleet: Fleet, at: int, *argv: str) -> int:
    """Run a command whose agent on host1 dies at a point; whether it did: it is started again."""
    before = fleet.logins("host1")
    fleet.run(*argv, STACKCTL_AGENT_KILL_AT=str(at))
    return fleet.logins("host1") - before - 1


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_other_disks_are_finished_though_agents_die_at_any_point(fleet: Fleet, stride: int) -> None:
    fleet.boot("vm", "--host", "host1")
    for at in range(1, MAX_POINTS, stride):
        (old,) = disk_files(fleet)
        dead = agent_killed(fleet, at, "rebuild", "vm", "--yes")
        (own,) = disk_files(fleet)
        assert own != old
        dead += agent_killed(fleet, at, "rescue", "vm")
        assert fleet.statuses() == {"vm": "RESCUE"}
        assert own.replace("vda", "vdb") in disk_files(fleet)
        dead += agent_killed(fleet, at, "unrescue", "vm")
        assert (fleet.statuses(), disk_files(fleet)) == ({"vm": "ACTIVE"}, [own])
        fleet.check_at_rest()
        if dead == 0:
            assert at > 10
            return
    raise AssertionError("the points never end")


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_other_disks_are_finished_or_undone_though_the_controller_dies_at_any_point(
    fleet: Fleet, stride: int
) -> None:
    fleet.boot("vm", "--host", "host1")
    for at in range(1, MAX_POINTS, stride):
        ended = 0
        for argv in (("rebuild", "vm", "--yes"), ("rescue", "vm"), ("unrescue", "vm")):
            done = fleet.run(*argv, exit=None, STACKCTL_KILL_AT=str(at))
            assert done.exit in (0, KILLED), str(done)
            ended += done.exit == 0
            fleet.run("converge", "--all")
            fleet.check_at_rest()
            wanted = "RESCUE" if argv[0] == "rescue" else "ACTIVE"
            if fleet.statuses() != {"vm": wanted}:
                assert done.exit == KILLED
                fleet.run(*argv)
            assert fleet.statuses() == {"vm": wanted}
        if ended == 3:
            assert at > 4
            return
    raise AssertionError("the points never end")


# --- snapshots ----------------------------------------------------------------------------------


def copies(fleet: Fleet) -> list[str]:
    """What lies in host1's folder of copies."""
    folder = "/var/lib/stackctl/host/snapshots"
    return fleet.inside("host1", "sh", "-c", f"ls -A {folder} 2>/dev/null || :").split()


def typed(fleet: Fleet, name: str, line: str, until: bytes) -> bytes:
    """What a guest's serial console shows while somebody types, until something is there."""
    command = [sys.executable, "-m", "stackctl", "console", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=fleet.environment({})
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        seen = b""
        for text, answer in (("\n", b"# "), (f"{line}\n", until)):
            process.stdin.write(text.encode())
            process.stdin.flush()
            while answer not in seen:
                piece = os.read(process.stdout.fileno(), 4096)
                assert piece, seen
                seen += piece
        process.stdin.close()
        seen += process.stdout.read()
    assert process.returncode == 0
    return seen


def images(fleet: Fleet) -> set[str]:
    """The names of all images."""
    return {row["Name"] for row in fleet.run("image-list", "-f", "json", "-c", "Name").json}


def test_a_snapshot_taken_under_write_load_boots_with_what_was_written(
    fleet: Fleet, guest_image: Path, tmp_path: Path
) -> None:
    context = admin_context(fleet.cloud)
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("writing-guest", "qcow2"), stream).check()
    key = tmp_path / "key"
    key.write_text(add_keypair(context, "writer").value.private_key or "")
    key.chmod(0o600)
    fleet.run("flavor-create", "writing", "--ram", "128", "--disk", "1", "--vcpus", "1")
    small = ("--flavor", "writing", "--nic", "net=faults", "--key", "writer", "--wait", "ssh")
    fleet.run("boot", "vm", "--image", "writing-guest", *small, "--host", "host1")

    def inside(name: str, command: str) -> str:
        done = fleet.start("ssh", "-i", str(key), name, command).wait()
        assert done.exit == 0, str(done)
        return done.out

    writing = "while :; do dd if=/dev/urandom of=/root/load bs=64k count=64 conv=fsync; done"
    inside(
        "vm", f"echo written before > /root/marker; sync; ({writing}) > /dev/null 2>&1 & sleep 1"
    )
    chain = disk_files(fleet)
    fleet.run("image-snapshot", "vm", "under-load")
    assert disk_files(fleet) == chain
    assert inside("vm", "cat /root/marker") == "written before\n"
    fleet.check_at_rest()
    fleet.run("boot", "again", "--image", "under-load", *small, "--host", "host2")
    assert inside("again", "cat /root/marker") == "written before\n"
    typed(fleet, "vm", "echo $((40 + 2)) is typed", until=b"42 is typed")
    fleet.run("pause", "vm")
    fleet.run("backup", "vm", "paused", "daily", "1")
    fleet.run("unpause", "vm")
    fleet.run("stop", "vm")
    fleet.run("server", "backup", "create", "--name", "off", "--rotate", "1", "vm")
    assert {"under-load", "off"} <= images(fleet)
    assert "paused" not in images(fleet)
    assert copies(fleet) == []


def test_a_snapshot_is_made_or_undone_whoever_dies(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1")
    chain = disk_files(fleet)
    for who in ("STACKCTL_AGENT_KILL_AT", "STACKCTL_KILL_AT"):
        for at in range(1, MAX_POINTS):
            name = f"{who}-{at}"
            done = fleet.run("image-snapshot", "vm", name, exit=None, **{who: str(at)})
            fleet.run("converge", "--all")
            fleet.run("recover")
            assert (name in images(fleet)) >= (done.exit == 0), str(done)
            assert disk_files(fleet) == chain
            assert copies(fleet) == []
            fleet.check_at_rest()
            if done.exit == 0:
                assert at > 3
                break
        else:
            raise AssertionError("the points never end")
    fleet.run("stop", "vm")
    hashed = sha256(fleet, chain[0].split()[1])
    for at in range(1, 4):
        fleet.run("image-snapshot", "vm", f"off-{at}", exit=None, STACKCTL_AGENT_KILL_AT=str(at))
        fleet.run("converge", "--all")
        assert copies(fleet) == []
    assert sha256(fleet, chain[0].split()[1]) == hashed
    fleet.run("image-snapshot", "vm", "last")
    files = fleet.rows("SELECT DISTINCT sha256 FROM images WHERE deleted_at IS NULL")
    kept = {path.name for path in fleet.cloud.images.iterdir()}
    assert kept <= {row["sha256"] for row in files}


# --- another flavor -----------------------------------------------------------------------------


def test_a_resized_server_runs_on_grown_copies_until_a_word_is_said(fleet: Fleet) -> None:
    fleet.run("flavor-create", "grown", "--ram", "96", "--disk", "2", "--vcpus", "2")
    fleet.boot("vm", "--host", "host1")
    fleet.run("stop", "vm")
    old = disk_files(fleet)
    hashed = sha256(fleet, old[0].split()[1])
    fleet.run("start", "vm")
    fleet.run("resize", "vm", "grown")
    assert fleet.statuses() == {"vm": "VERIFY_RESIZE"}
    new = disk_files(fleet)
    assert new != old
    domain = f"sc-{fleet.servers()['vm']['ID']}"
    said = fleet.inside("host1", "virsh", "-q", "domblkinfo", domain, "vda")
    assert f"{2 << 30}" in said
    assert "98304 KiB" in fleet.inside("host1", "virsh", "dominfo", domain)
    fleet.check_at_rest()
    fleet.run("server", "resize", "revert", "vm")
    assert (fleet.statuses(), disk_files(fleet)) == ({"vm": "ACTIVE"}, old)
    fleet.check_at_rest()
    fleet.run("stop", "vm")
    assert sha256(fleet, old[0].split()[1]) == hashed
    fleet.run("resize", "vm", "grown")
    fleet.run("resize-confirm", "vm")
    assert fleet.statuses() == {"vm": "SHUTOFF"}
    fleet.run("start", "vm")
    fleet.check_at_rest()


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_resize_is_finished_though_agents_die_at_any_point(fleet: Fleet, stride: int) -> None:
    fleet.run("flavor-create", f"grown-{stride}", "--ram", "96", "--disk", "2", "--vcpus", "2")
    fleet.boot("vm", "--host", "host1")
    for at in range(1, MAX_POINTS, stride):
        old = disk_files(fleet)
        dead = agent_killed(fleet, at, "resize", "vm", f"grown-{stride}")
        assert fleet.statuses() == {"vm": "VERIFY_RESIZE"}
        dead += agent_killed(fleet, at, "resize-revert", "vm")
        assert (fleet.statuses(), disk_files(fleet)) == ({"vm": "ACTIVE"}, old)
        fleet.check_at_rest()
        if dead == 0:
            assert at > 7
            return
    raise AssertionError("the points never end")
