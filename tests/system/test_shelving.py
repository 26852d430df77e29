"""Servers that are shelved, on real hosts: what their disks hold, who dies in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from tests.engines import eventually
from tests.fleet import DATA, Fleet

KILLED = -9
MAX_POINTS = 80


@pytest.fixture(autouse=True)
def quiet(fleet: Fleet) -> Iterator[None]:
    """Whatever a test boots is gone afterwards."""
    yield
    fleet.delete_all()
    fleet.check()


def images(fleet: Fleet) -> set[str]:
    """The names of all images."""
    return {row["Name"] for row in fleet.run("image-list", "-f", "json", "-c", "Name").json}


def disk_of(fleet: Fleet, name: str) -> tuple[str, str]:
    """The host and the file of a server's root disk."""
    (row,) = fleet.rows(
        "SELECT hosts.name, disks.id || '.' || disks.format AS file FROM disks "
        "JOIN servers ON servers.id = server_id JOIN hosts ON hosts.id = disks.host_id "
        "WHERE servers.name = ? AND disks.deleted_at IS NULL AND kind = 'root'",
        name,
    )
    return row["name"], f"{DATA}/disks/{row['file']}"


def content(fleet: Fleet, name: str) -> str:
    """A hash of what a guest that is off finds on its disk, where there is something."""
    host, path = disk_of(fleet, name)
    part = "qemu-img dd -f qcow2 -O raw bs=1M skip={0} count={1} if={2} of=/var/tmp/part{0}"
    parts = [part.format(first, last, path) for first, last in ((0, 2), (699, 704))]
    hashed = f"{' && '.join(parts)} && cat /var/tmp/part* | sha256sum; rm /var/tmp/part*"
    return fleet.inside(host, "sh", "-c", hashed).split()[0]


def write(fleet: Fleet, name: str) -> str:
    """Write onto the disk of a server that is off, and say what is there then."""
    host, path = disk_of(fleet, name)
    fleet.inside(host, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 700M 3M", path)
    return content(fleet, name)


def test_a_guest_finds_its_data_on_another_host_after_unshelve(
    fleet: Fleet, guest_image: Path, tmp_path: Path
) -> None:
    context = admin_context(fleet.cloud)
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("shelved-guest", "qcow2"), stream).check()
    key = tmp_path / "key"
    key.write_text(add_keypair(context, "shelver").value.private_key or "")
    key.chmod(0o600)
    fleet.run("flavor-create", "shelved", "--ram", "128", "--disk", "1", "--vcpus", "1")
    small = ("--flavor", "shelved", "--nic", "net=faults", "--key", "shelver", "--wait", "ssh")
    fleet.run("boot", "vm", "--image", "shelved-guest", *small, "--host", "host1")

    def inside(command: str) -> str:
        done = fleet.start("ssh", "-i", str(key), "vm", command).wait()
        return done.out if done.exit == 0 else ""

    before = inside("dd if=/dev/urandom of=/root/data bs=64k count=80 && sha256sum /root/data")
    assert "/root/data" in before
    known = fleet.servers()["vm"]
    fleet.run("shelve", "vm")
    shelved = fleet.servers()["vm"]
    assert (shelved["Status"], shelved["Host"]) == ("SHELVED_OFFLOADED", "")
    assert "vm-shelved" in images(fleet)
    fleet.check_at_rest()
    fleet.run("server", "unshelve", "vm", "--host", "host2")
    assert fleet.servers()["vm"] == {**known, "Host": "host2"}
    assert "vm-shelved" not in images(fleet)
    eventually(lambda: inside("sha256sum /root/data") == before, "its data are there", seconds=90)
    fleet.check_at_rest()


def test_shelved_and_kept_it_goes_on_where_it_is_or_anywhere(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host1")
    fleet.run("shelve", "vm", "--keep")
    assert fleet.statuses() == {"vm": "SHELVED"}
    fleet.check_at_rest()
    refused = fleet.run("start", "vm", exit=4)
    assert "vm_state shelved" in refused.err
    fleet.run("unshelve", "vm")
    assert (fleet.statuses(), images(fleet) & {"vm-shelved"}) == ({"vm": "ACTIVE"}, set())
    fleet.run("shelve", "vm", "--keep")
    hashed = content(fleet, "vm")
    fleet.run("shelve-offload", "vm")
    fleet.check_at_rest()
    refused = fleet.run("image-delete", "vm-shelved", exit=4)
    assert "which is shelved" in refused.err
    fleet.run("unshelve", "vm", "--host", "host2")
    fleet.run("stop", "vm")
    assert content(fleet, "vm") == hashed
    fleet.run("shelve", "vm")
    fleet.run("delete", "--yes", "vm")
    assert "vm-shelved" not in images(fleet)


def test_volumes_tie_a_shelved_server_to_their_host(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host2")
    fleet.run("volume-create", "shelf-data", "--size", "1")
    fleet.run("volume-attach", "vm", "shelf-data")
    fleet.run("shelve", "vm")
    fleet.check_at_rest()
    refused = fleet.run("unshelve", "vm", "--host", "host1", exit=4)
    assert "Volume shelf-data of server vm is a file on host host2" in refused.err
    fleet.run("unshelve", "vm")
    assert fleet.servers()["vm"]["Host"] == "host2"
    fleet.check_at_rest()
    fleet.run("delete", "--yes", "vm")
    fleet.run("volume-delete", "--yes", "shelf-data")


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("who", ["STACKCTL_AGENT_KILL_AT", "STACKCTL_KILL_AT"])
def test_no_disk_is_lost_whoever_dies_while_shelving(fleet: Fleet, who: str, stride: int) -> None:
    fleet.boot("vm", "--host", "host1")
    fleet.run("stop", "vm")
    hashed = write(fleet, "vm")
    for at in range(1, MAX_POINTS, stride):
        ended = 0
        for action, state in (("shelve", "SHELVED_OFFLOADED"), ("unshelve", "ACTIVE")):
            done = fleet.run(action, "vm", exit=None, **{who: str(at)})
            ended += done.exit == 0
            fleet.run("converge", "--all")
            fleet.run("recover")
            fleet.check_at_rest()
            if fleet.statuses() != {"vm": state}:
                assert done.exit != 0, str(done)
                fleet.run(action, "vm")
            assert fleet.statuses() == {"vm": state}
            assert ("vm-shelved" in images(fleet)) == (action == "shelve")
        fleet.run("stop", "vm")
        assert content(fleet, "vm") == hashed
        if ended == 2 and at > 8:
            return
    raise AssertionError("the points never end")
