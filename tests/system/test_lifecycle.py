"""The life of servers on real hosts: what guests do to themselves, locks, names."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

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
    # As if somebody had typed poweroff in the guest.
    fleet.inside("host1", "virsh", "-q", "shutdown", domain)
    eventually(lambda: power(fleet) == ("SHUTOFF", "Shutdown"), "the halt is seen")
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
