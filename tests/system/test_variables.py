"""UEFI variables of servers go where their disks go, on real hosts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from tests.engines import TINY_GUEST, eventually
from tests.fleet import DATA, Fleet

TEMPLATE = "/usr/share/OVMF/OVMF_VARS_4M.fd"


@pytest.fixture(autouse=True)
def quiet(fleet: Fleet) -> Iterator[None]:
    """Whatever a test boots is gone afterwards."""
    yield
    fleet.delete_all()
    fleet.check()


@pytest.fixture(scope="module")
def firmware(fleet: Fleet) -> Iterator[None]:
    """The image of a guest that boots by UEFI, or would if it had what to boot."""
    tiny = io.BytesIO(TINY_GUEST.ljust(1024 * 1024, b"\0"))
    properties = {"hw_firmware_type": "uefi"}
    create_image(
        admin_context(fleet.cloud), NewImage("variables", "raw", properties=properties), tiny
    ).check()
    yield
    fleet.run("image-delete", "--yes", "variables")


def kept(fleet: Fleet, aside: int = 0) -> str:
    """The file of the UEFI variables of the only server."""
    sql = "SELECT id FROM disks WHERE deleted_at IS NULL AND kind = 'nvram' AND aside = ?"
    (row,) = fleet.rows(sql, aside)
    return f"{DATA}/disks/{row['id']}.raw"


def hashed(fleet: Fleet, host: str, path: str) -> str:
    return fleet.inside(host, "sha256sum", path).split()[0]


def changed(fleet: Fleet, host: str) -> str:
    """Change what a server that is off has as its variables; what they hash to then."""
    write = f"printf %s mine | dd of={kept(fleet)} bs=1 seek=400000 conv=notrunc status=none"
    fleet.inside(host, "sh", "-c", write)
    return hashed(fleet, host, kept(fleet))


def off(fleet: Fleet, name: str) -> str:
    """A server on host1 that is off, with variables that nobody else has."""
    words = ("--image", "variables", "--flavor", "tiny", "--nic", "net=faults", "--host", "host1")
    fleet.run("boot", name, *words)
    fleet.run("stop", name)
    mine = changed(fleet, "host1")
    assert mine != hashed(fleet, "host1", TEMPLATE)
    return mine


@pytest.mark.slow
def test_uefi_variables_go_along_and_back(fleet: Fleet, firmware: None) -> None:
    mine, old = off(fleet, "variable"), kept(fleet)
    told = fleet.run("migrate", "variable", "--host", "host2")
    assert "variables" not in told.err
    new = kept(fleet)
    assert (hashed(fleet, "host2", new), hashed(fleet, "host1", old)) == (mine, mine)
    assert f">{new}</nvram>" in fleet.inside("host2", "virsh", "dumpxml", domain(fleet))
    fleet.check_at_rest()
    fleet.run("resize-revert", "variable")
    assert (kept(fleet), hashed(fleet, "host1", old)) == (old, mine)
    fleet.check_at_rest()
    fleet.run("migrate", "variable", "--host", "host2")
    fleet.run("resize-confirm", "variable")
    assert hashed(fleet, "host2", kept(fleet)) == mine
    fleet.check_at_rest()
    fleet.run("rebuild", "variable", "--yes")
    fresh = kept(fleet)
    assert hashed(fleet, "host2", fresh) == hashed(fleet, "host2", TEMPLATE)
    fleet.inside("host2", "rm", fresh)
    said = fleet.run("drift", "host2", exit=None)
    assert fresh.rpartition("/")[2].removesuffix(".raw") in said.out + said.err
    fleet.run("start", "variable", exit=30)


@pytest.mark.slow
def test_uefi_variables_are_shelved(fleet: Fleet, firmware: None) -> None:
    off(fleet, "variable")
    told = fleet.run("shelve", "variable")
    assert "variables" not in told.err
    fleet.check_at_rest()
    (image,) = fleet.run("image-list", "--hidden", "-f", "json").json
    assert image["Name"] == "variable-shelved-variables"
    refused = fleet.run("image-delete", "--yes", image["Name"], exit=4).err
    assert "the UEFI variables of server variable, which is shelved" in refused
    fleet.run("unshelve", "variable")
    fleet.run("stop", "variable")
    host = fleet.servers()["variable"]["Host"]
    content = fleet.inside(host, "dd", f"if={kept(fleet)}", "bs=1", "skip=400000", "count=4")
    assert content == "mine"
    assert fleet.run("image-list", "--hidden", "-f", "json").json == []
    fleet.check_at_rest()


@pytest.mark.slow
def test_a_uefi_guest_goes_on_at_another_host_with_its_variables(
    fleet: Fleet, guest_image: Path, lab_key: Path
) -> None:
    context = admin_context(fleet.cloud)
    properties = {"hw_firmware_type": "uefi", "hw_machine_type": "q35", "hw_cdrom_bus": "scsi"}
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("variables-real", properties=properties), stream).check()
    create_flavor(context, NewFlavor("variables-real", vcpus=1, ram_mb=256, disk_gb=1)).check()
    add_keypair(context, "variables-real", lab_key.with_suffix(".pub").read_bytes()).check()
    fleet.start(
        *("boot", "variable", "--image", "variables-real", "--flavor", "variables-real"),
        *("--host", "host1", "--key", "variables-real", "--nic", "net=faults", "--wait", "ssh"),
    ).wait(330)
    before = hashed(fleet, "host1", kept(fleet))
    assert before != hashed(fleet, "host1", TEMPLATE)
    fleet.start("live-migrate", "variable", "host2").wait(330)
    assert fleet.servers()["variable"]["Host"] == "host2"
    assert fleet.statuses() == {"variable": "ACTIVE"}
    assert hashed(fleet, "host2", kept(fleet)) == before
    fleet.check_at_rest()
    login = ("ssh", "-i", str(lab_key), "variable")
    seen = fleet.start(*login, "ls /sys/firmware/efi; hostname").wait()
    assert "efivars" in seen.out and seen.out.endswith("variable\n"), str(seen)
    fleet.start("reboot", "--hard", "variable").wait(330)
    eventually(
        lambda: "efivars" in fleet.start(*login, "ls /sys/firmware/efi").wait().out,
        "it boots by UEFI there, too",
        seconds=240,
    )
    fleet.run("delete", "--yes", "variable")
    fleet.run("image-delete", "--yes", "variables-real")
    fleet.run("flavor-delete", "variables-real")
    fleet.run("keypair-delete", "variables-real")


def domain(fleet: Fleet) -> str:
    """What libvirt calls the only server."""
    (server,) = fleet.servers().values()
    return f"sc-{server['ID']}"
