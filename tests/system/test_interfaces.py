"""NICs of servers that run: plugged, seen by the guest, released, whatever dies in between."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image, list_images
from stackctl.image.types import NewImage
from stackctl.network.networks import NewNetwork, create_network, delete_network
from stackctl.network.subnets import NewSubnet
from tests.fleet import Fleet

RELEASING_GUEST = bytes.fromhex(
    "b80001 ba0206 ef"  # enable the power button: PM1_EN (0x602) = PWRBTN
    "fb f4"  # wait: sti; hlt (the clock wakes it)
    "ba10ae 6631c0 66ef"  # look at bus 0 of the hot-plug controller (0xae10)
    "ba04ae 66ed 6685c0 7406"  # no device shall go (0xae04)? on with the power button
    "ba08ae 66ef 90"  # let go of it (0xae08)
    "ba0006 ed f6c401 74dd"  # until PM1_STS (0x600) says that the power button was pressed
    "ba0406 b80020 ef ebfe"  # then power off: PM1_CNT (0x604) = SLP_EN
).ljust(510, b"\0") + bytes.fromhex("55aa")
"""A boot sector that is a whole guest: it releases devices and goes when ACPI asks it to."""

MAX_POINTS = 80
KILLED = -9


def releasing_image() -> io.BytesIO:
    """The image of that guest."""
    return io.BytesIO(RELEASING_GUEST.ljust(1024 * 1024, b"\0"))


@pytest.fixture(scope="module")
def world(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with a second network and a guest that releases NICs."""
    context = admin_context(fleet.cloud)
    if not any(image.name == "releasing" for image in list_images(context)):
        create_image(context, NewImage("releasing", "raw"), releasing_image()).check()
    create_network(context, NewNetwork("more", subnet=NewSubnet("10.78.0.0/24"))).check()
    yield fleet
    fleet.delete_all()
    delete_network(context, "more").check()


@pytest.fixture
def running(world: Fleet) -> Iterator[Fleet]:
    """A server vm on host1 that releases NICs."""
    image = ("--image", "releasing", "--flavor", "tiny", "--nic", "net=faults")
    world.run("boot", "vm", *image, "--host", "host1")
    yield world
    world.delete_all()
    world.check_at_rest()


def nics(fleet: Fleet, name: str = "vm", *, next_start: bool = False) -> list[str]:
    """The MACs that a domain has now, or at its next start."""
    id_ = fleet.servers()[name]["ID"]
    more = ("--inactive",) if next_start else ()
    lines = fleet.inside("host1", "virsh", "-q", "domiflist", f"sc-{id_}", *more).splitlines()
    return [line.split()[-1] for line in lines]


def wanted(fleet: Fleet, name: str = "vm") -> list[str]:
    """The MACs of a server's ports."""
    said = fleet.run("interface-list", name, "-f", "json", "-c", "MAC Address").json
    return [row["MAC Address"] for row in said]


def check_nics(fleet: Fleet, count: int) -> None:
    """The domain has what the rows say, at once and at its next start."""
    macs = wanted(fleet)
    assert len(macs) == count
    assert nics(fleet) == macs
    assert nics(fleet, next_start=True) == macs


def test_a_guest_sees_a_nic_come_and_go(world: Fleet, guest_image: Path, tmp_path: Path) -> None:
    context = admin_context(world.cloud)
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("nic-guest", "qcow2"), stream).check()
    key = tmp_path / "key"
    key.write_text(add_keypair(context, "mine").value.private_key or "")
    key.chmod(0o600)
    world.run("flavor-create", "nano", "--ram", "128", "--disk", "1", "--vcpus", "1")
    image = ("--image", "nic-guest", "--flavor", "nano", "--nic", "net=faults", "--key", "mine")
    world.run("boot", "vm", *image, "--host", "host1", "--wait", "ssh")

    def guest(command: str) -> str:
        argv = ("ssh", "-i", str(key), "vm", command)
        done = world.start(*argv).wait()
        assert done.exit == 0, str(done)
        return done.out

    world.run("interface-attach", "vm", "--net", "more", "--fixed-ip", "10.78.0.20")
    check_nics(world, 2)
    guest("ip link set eth1 up; udhcpc -i eth1 -n -q -t 10 -T 1 -s /lib/guest/dhcp")
    assert "10.78.0.20/24" in guest("ip -4 addr show eth1")
    world.run("interface-detach", "vm", "10.78.0.20")
    check_nics(world, 1)
    assert "eth1" not in guest("ls /sys/class/net")
    world.run("server", "add", "network", "vm", "more")
    assert "eth1" in guest("ls /sys/class/net")
    world.check_at_rest()
    world.delete_all()


def test_a_stopped_server_starts_with_what_it_got_meanwhile(running: Fleet) -> None:
    running.run("port-create", "more", "--name", "held")
    running.run("stop", "vm")
    running.run("interface-attach", "vm", "held")
    assert len(nics(running, next_start=True)) == 2
    running.run("start", "vm")
    check_nics(running, 2)
    running.run("interface-detach", "vm", "held")
    running.check_at_rest()
    check_nics(running, 1)
    running.run("port-delete", "held")


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_nics_come_and_go_though_agents_die_at_any_point(running: Fleet, stride: int) -> None:
    for at in range(1, MAX_POINTS, stride):
        dead = running.killing_agents(at, "interface-attach", "vm", "--net", "more")
        check_nics(running, 2)
        dead += running.killing_agents(at, "interface-detach", "vm", wanted(running)[-1])
        check_nics(running, 1)
        running.check_at_rest()
        if dead == 0:
            assert at > 8
            return
    raise AssertionError("the points never end")


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_nics_come_and_go_though_the_controller_dies_at_any_point(
    running: Fleet, stride: int
) -> None:
    attach, detach = ("interface-attach", "vm", "--net", "more"), ("interface-detach", "vm")
    for at in range(1, MAX_POINTS, stride):
        done = running.run(*attach, exit=None, STACKCTL_KILL_AT=str(at))
        running.run("converge", "--all")
        check_nics(running, len(wanted(running)))
        if len(wanted(running)) == 1:
            running.run(*attach)
        ended = done.exit == 0
        mac = wanted(running)[-1]
        done = running.run(*detach, mac, exit=None, STACKCTL_KILL_AT=str(at))
        running.run("recover")
        running.check_at_rest()
        check_nics(running, len(wanted(running)))
        if len(wanted(running)) == 2:
            running.run(*detach, mac)
        if ended and done.exit == 0:
            assert at > 4
            return
        assert done.exit in (KILLED, 0), str(done)
    raise AssertionError("the points never end")


@pytest.mark.slow
def test_a_guest_that_keeps_its_nic_is_cut_off_and_named(world: Fleet) -> None:
    world.boot("vm", "--host", "host1")
    world.run("interface-attach", "vm", "--net", "more", "--fixed-ip", "10.78.0.30")
    done = world.run("interface-detach", "vm", "10.78.0.30", exit=40)
    assert "did not release the NIC" in done.err
    assert world.statuses() == {"vm": "ACTIVE"}
    tap = world.inside("host1", "virsh", "-q", "domiflist", f"sc-{world.servers()['vm']['ID']}")
    kept = tap.splitlines()[-1].split()[0]
    seen = world.world("host1")
    assert kept in seen["taps"]
    assert kept not in seen["ports"]
    world.run("reboot", "--hard", "vm")
    check_nics(world, 1)
    world.run("converge", "--all")
    world.check_at_rest()
    world.delete_all()
