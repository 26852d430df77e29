"""A host's disk is full in the middle of a server's life: a clean error, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.test_bad_input import NO_SPACE
from tests.fleet import DATA, Fleet, paragraph

HOST = "host2"
WORDS = (*NO_SPACE, " are free")
"""Some effects are not begun when they cannot end well."""

SAVED = "/var/lib/libvirt/qemu/save"


@contextmanager
def small_disk(fleet: Fleet, path: str) -> Iterator[None]:
    """A folder of the host has a little room of its own meanwhile."""
    fleet.inside(HOST, "mkdir", "-p", path)
    mode = fleet.inside(HOST, "stat", "-c", "mode=%a,uid=%u,gid=%g", path).strip()
    fleet.inside(HOST, "mount", "-t", "tmpfs", "-o", f"size=8m,{mode}", "small", path)
    try:
        yield
    finally:
        fleet.inside(HOST, "umount", path)


@contextmanager
def filled(fleet: Fleet, path: str) -> Iterator[None]:
    """That room is used up meanwhile."""
    # dd ends where there is no more room, and says so.
    fleet.inside(HOST, "sh", "-c", f"dd if=/dev/zero of={path}/.filler bs=4k 2>/dev/null || :")
    try:
        yield
    finally:
        fleet.inside(HOST, "rm", f"{path}/.filler")


def refused(fleet: Fleet, *argv: str) -> None:
    """A command that fails for want of room, and says so in a paragraph."""
    text, _ = paragraph(fleet.run(*argv, exit=30))
    assert HOST in text and any(words in text for words in WORDS), text


def stays(fleet: Fleet, *, status: str, host: str | None) -> None:
    """The only server is in this state on this host (None: on none)."""
    (row,) = fleet.servers().values()
    assert (row["Status"], row["Host"] or None) == (status, host)


def root_hash(fleet: Fleet) -> str:
    """The hash of the root disk that the only server has now."""
    (disk,) = fleet.rows(
        "SELECT id, format FROM disks WHERE deleted_at IS NULL AND aside = 0 AND position = 0"
    )
    return fleet.inside(HOST, "sha256sum", f"{DATA}/disks/{disk['id']}.{disk['format']}").split()[0]


@pytest.fixture
def disks(fleet: Fleet) -> Iterator[str]:
    """The folder of disks of a host with one server."""
    path = f"{DATA}/disks"
    with small_disk(fleet, path):
        fleet.boot("vm", "--host", HOST)
        yield path
        fleet.delete_all()
        fleet.check_at_rest()


def test_a_rebuild_without_room_is_an_error_until_it_is_asked_for_again(
    fleet: Fleet, disks: str
) -> None:
    with filled(fleet, disks):
        refused(fleet, "rebuild", "vm", "--yes")
        assert fleet.statuses() == {"vm": "ERROR"}
    fleet.run("rebuild", "vm", "--yes")
    assert fleet.statuses() == {"vm": "ACTIVE"}
    fleet.check_at_rest()


def test_a_rescue_without_room_leaves_the_disk_as_it_was(fleet: Fleet, disks: str) -> None:
    fleet.run("stop", "vm")
    hashed = root_hash(fleet)
    with filled(fleet, disks):
        refused(fleet, "rescue", "vm")
        assert fleet.statuses() == {"vm": "ERROR"}
        assert root_hash(fleet) == hashed
    fleet.run("unrescue", "vm")
    assert fleet.statuses() == {"vm": "ACTIVE"}
    fleet.check_at_rest()


def test_a_resize_without_room_is_reverted_to_the_old_disk(fleet: Fleet, disks: str) -> None:
    fleet.run("flavor-create", "fuller", "--ram", "64", "--disk", "2", "--vcpus", "1")
    fleet.run("stop", "vm")
    hashed = root_hash(fleet)
    with filled(fleet, disks):
        refused(fleet, "resize", "vm", "fuller")
    fleet.run("resize-revert", "vm")
    assert root_hash(fleet) == hashed
    fleet.run("reboot", "--hard", "vm")
    assert fleet.statuses() == {"vm": "ACTIVE"}
    fleet.run("flavor-delete", "fuller")
    fleet.check_at_rest()


def test_a_snapshot_without_room_leaves_the_server_as_it_was(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", HOST)
    path = f"{DATA}/snapshots"
    with small_disk(fleet, path):
        with filled(fleet, path):
            refused(fleet, "image-snapshot", "vm", "no-room")
        assert fleet.statuses() == {"vm": "ACTIVE"}
        names = {row["Name"] for row in fleet.run("image-list", "-f", "json", "-c", "Name").json}
        assert "no-room" not in names
        fleet.run("image-snapshot", "vm", "no-room")
    fleet.run("image-delete", "--yes", "no-room")
    fleet.check_at_rest()


def test_a_server_without_room_for_its_memory_is_not_suspended(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", HOST)
    with small_disk(fleet, SAVED):
        with filled(fleet, SAVED):
            refused(fleet, "suspend", "vm")
            assert fleet.statuses() == {"vm": "ACTIVE"}
        fleet.run("suspend", "vm")
        fleet.run("resume", "vm")
    assert fleet.statuses() == {"vm": "ACTIVE"}
    fleet.check_at_rest()


def test_a_volume_without_room_is_an_error_that_can_be_deleted(fleet: Fleet) -> None:
    path = f"{DATA}/volumes"
    with small_disk(fleet, path):
        with filled(fleet, path):
            refused(
                fleet, "volume-create", "full", "--size", "1", "--host", HOST, "--image", "tiny"
            )
        fleet.run("volume-delete", "--yes", "full")
    fleet.check_at_rest()


def test_a_live_migration_to_a_full_disk_leaves_the_guest_where_it_runs(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1")
    with small_disk(fleet, f"{DATA}/disks"):
        with filled(fleet, f"{DATA}/disks"):
            refused(fleet, "live-migrate", "vm", HOST)
            stays(fleet, status="ACTIVE", host="host1")
        fleet.check()
        fleet.run("live-migrate", "vm", HOST)
        stays(fleet, status="ACTIVE", host=HOST)
        fleet.delete_all()
        fleet.check_at_rest()


def test_an_unshelve_to_a_full_disk_leaves_the_server_shelved(fleet: Fleet) -> None:
    fleet.boot("vm")
    fleet.run("shelve", "vm")
    with small_disk(fleet, f"{DATA}/disks"):
        with filled(fleet, f"{DATA}/disks"):
            refused(fleet, "unshelve", "vm", "--host", HOST)
            stays(fleet, status="SHELVED_OFFLOADED", host=None)
        fleet.check()
        fleet.run("unshelve", "vm", "--host", HOST)
        stays(fleet, status="ACTIVE", host=HOST)
        fleet.delete_all()
        fleet.check_at_rest()


@pytest.mark.slow
def test_an_evacuation_to_a_full_disk_is_an_error_until_there_is_room(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1")
    fleet.kill_host("host1")
    with small_disk(fleet, f"{DATA}/disks"):
        with filled(fleet, f"{DATA}/disks"):
            refused(fleet, "evacuate", "--yes", "--fence", "vm", "--host", HOST)
            stays(fleet, status="ERROR", host=HOST)
        fleet.run("rebuild", "--yes", "vm")
        stays(fleet, status="ACTIVE", host=HOST)
        fleet.start_host("host1")
        fleet.run("host-return", "host1")
        fleet.delete_all()
        fleet.check_at_rest()
