"""Hosts that are down, that die in the middle, and that come back."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.engines import eventually
from tests.fleet import DATA, Fleet, paragraph

BIG = ("--image", "tiny", "--flavor", "big", "--nic", "net=faults")
"""Half of a host's memory: two fit on one."""


@pytest.fixture(scope="module", autouse=True)
def big(fleet: Fleet) -> None:
    """A flavor of which two fill a host."""
    fleet.run("flavor-create", "big", "--vcpus", "1", "--ram", "8000", "--disk", "1")


def faults(fleet: Fleet) -> dict[str, str]:
    """Why each server in ERROR is there."""
    rows = fleet.rows(
        "SELECT name, json_extract(fault_json, '$.message') AS fault FROM servers "
        "WHERE deleted_at IS NULL AND vm_state = 'error'"
    )
    return {row["name"]: row["fault"] for row in rows}


def test_servers_of_a_host_that_is_down_go_to_the_other(fleet: Fleet) -> None:
    with fleet.down("host2"):
        booted = fleet.boot("a", "--count", "4")
        assert "Warning: " in booted.err and "host2" in booted.err
        assert {row["Host"] for row in booted.json} == {"host1"}
        assert set(fleet.statuses().values()) == {"ACTIVE"}
        fleet.check(["host1"])
    fleet.check_at_rest()


def test_what_does_not_fit_on_the_other_host_is_an_error_with_its_reason(fleet: Fleet) -> None:
    with fleet.down("host2"):
        booted = fleet.run("boot", "a", *BIG, "--count", "4", exit=40)
        text, _ = paragraph(booted)
        assert "host2" in text and "No other host has room" in text
        assert sorted(fleet.statuses().values()) == ["ACTIVE", "ACTIVE", "ERROR", "ERROR"]
        assert all("host2" in fault for fault in faults(fleet).values())
        refused = fleet.run("boot", "b", *BIG, "--count", "3", exit=6)
        assert "host1" in paragraph(refused)[0]
        assert len(fleet.statuses()) == 4
    fleet.check_at_rest()
    for name in faults(fleet):
        fleet.run("reboot", "--hard", name)
    assert set(fleet.statuses().values()) == {"ACTIVE"}
    fleet.check_at_rest()


def test_with_all_hosts_down_nothing_is_left_of_a_boot(fleet: Fleet) -> None:
    of_servers = "device_owner LIKE 'compute:%' AND deleted_at IS NULL"
    with fleet.down("host1", "host2"):
        refused = fleet.boot("a", "--count", "2", exit=20)
        assert "Nothing was booted" in paragraph(refused)[0]
        assert fleet.statuses() == {}
        assert fleet.rows(f"SELECT id FROM ports WHERE {of_servers}") == []
    fleet.check_at_rest()


def test_deleting_a_server_of_a_host_that_is_down_ends_when_it_is_back(fleet: Fleet) -> None:
    fleet.boot("a", "--count", "2")
    with fleet.down("host2"):
        deleted = fleet.run("delete", "--yes", "a-1", "a-2", exit=40)
        assert "host2" in paragraph(deleted)[0]
        assert fleet.statuses() == {}
        fleet.check(["host1"])
    fleet.check_at_rest()


def test_a_power_command_for_a_host_that_is_down_is_taken_back(fleet: Fleet) -> None:
    fleet.boot("a", "--count", "2")
    with fleet.down("host2"):
        stopped = fleet.run("stop", "a-1", "a-2", exit=40)
        assert "host2" in paragraph(stopped)[0]
    # Its guest died with it; the other one was stopped; nobody starts or stops anything later.
    assert set(fleet.statuses().values()) == {"SHUTOFF"}
    fleet.check_at_rest()


def when_a_disk_appears(fleet: Fleet, host: str, known: set[str]) -> threading.Thread:
    """Pull a host's plug as soon as it makes a disk."""
    disks = Path(f"/proc/{fleet.lab_host(host).init_pid}/root{DATA}/disks")

    def watch() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if disks.is_dir() and {path.name for path in disks.iterdir()} - known:
                fleet.kill_host(host)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_host_that_dies_in_the_middle_leaves_errors_with_their_reason(fleet: Fleet) -> None:
    thread = when_a_disk_appears(fleet, "host2", set(fleet.world("host2")["disks"]))
    try:
        booted = fleet.boot("a", "--count", "4", exit=40)
    finally:
        thread.join()
    text, _ = paragraph(booted)
    assert "host2" in text
    where = {name: row["Host"] for name, row in fleet.servers().items()}
    assert sorted(where.values()) == ["host1", "host1", "host2", "host2"]
    expected = {name: "ACTIVE" if host == "host1" else "ERROR" for name, host in where.items()}
    assert fleet.statuses() == expected
    assert set(faults(fleet)) == {name for name, host in where.items() if host == "host2"}
    assert all(fault for fault in faults(fleet).values())
    fleet.check(["host1"])

    fleet.start_host("host2")
    fleet.run("converge", "--all")
    fleet.check_at_rest()
    assert fleet.statuses() == expected, "what failed is left alone until it is named"
    again, gone = sorted(faults(fleet))
    fleet.run("reboot", "--hard", again)
    fleet.run("delete", "--yes", gone)
    assert set(fleet.statuses().values()) == {"ACTIVE"}
    fleet.check_at_rest()


def test_a_rebooted_host_has_its_networks_again_and_its_servers_on_start(
    fleet: Fleet, guest_image: Path, lab_key: Path
) -> None:
    guest = ("--image", "guest", "--flavor", "guest", "--nic", "net=faults", "--key", "rebooted")
    fleet.run("keypair-add", "rebooted", "--pub-key", str(lab_key.with_suffix(".pub")))
    fleet.run("image-create", "guest", "--file", str(guest_image))
    fleet.run("flavor-create", "guest", "--vcpus", "1", "--ram", "128", "--disk", "1")
    fleet.run("boot", "g", *guest, "--count", "2", "--wait", "dhcp")
    (name,) = (name for name, row in fleet.servers().items() if row["Host"] == "host2")
    address = fleet.servers()[name]["IP Address"]["faults"][0]
    eventually(lambda: fleet.answers("host2", address), "the guest answers", seconds=60)
    written: list[str] = []

    def inside(command: str) -> bool:
        login = ("ssh", "-i", str(lab_key), name, f"{command}; sync; sha256sum /root/data")
        written[:] = fleet.start(*login).wait().out.split()[:1]
        return written != []

    write = "dd if=/dev/urandom of=/root/data bs=64k count=16"
    eventually(lambda: inside(write), "the guest lets us in", seconds=60)
    hashed = written[0]
    before = fleet.rows("SELECT boot_id FROM hosts WHERE name = 'host2'")

    fleet.kill_host("host2")
    fleet.start_host("host2")
    assert fleet.run("drift", "host2", "-f", "json").json != []
    fleet.run("converge", "host2")
    assert fleet.rows("SELECT boot_id FROM hosts WHERE name = 'host2'") != before
    other = next(other for other in fleet.statuses() if other != name)
    assert fleet.statuses() == {other: "ACTIVE", name: "SHUTOFF"}
    fleet.check_at_rest()

    fleet.run("start", name)
    fleet.run("host-set", "host2", "--on-boot", "all")
    eventually(lambda: fleet.answers("host2", address), "it answers after start", seconds=90)
    eventually(lambda: inside(":"), "the guest lets us in again", seconds=60)
    assert written == [hashed], "what it wrote before its host went down"
    fleet.check_at_rest()

    fleet.kill_host("host2")
    fleet.start_host("host2")
    fleet.run("converge", "host2")
    assert set(fleet.statuses().values()) == {"ACTIVE"}, "on-boot all"
    eventually(lambda: fleet.answers("host2", address), "it answers by itself", seconds=90)
    fleet.run("host-set", "host2", "--on-boot", "none")
    fleet.check_at_rest()
