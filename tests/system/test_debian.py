"""A real Debian with cloud-init on a lab host: what it is told arrives, what it can do is used.

Emulated, it takes minutes to boot: one boot serves every test of this module.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from stackctl.lab.debian import BOOT_MIB, build_debian_image
from stackctl.network.networks import NetworkChange, NewNetwork, create_network, set_network
from stackctl.network.subnets import NewSubnet, create_subnet
from tests.engines import CACHE
from tests.fleet import Fleet, Result
from tests.system.test_guests import pixels, vnc_console

pytestmark = [pytest.mark.slow, pytest.mark.debian]

BOOT_LIMIT_S = 1500
LOGIN_LIMIT_S = 300
NAME = "squeeze"
USER_DATA = b"""#cloud-config
runcmd:
  - [sh, -c, "echo ran as $(id -un) > /made-by-runcmd"]
"""


@dataclass(frozen=True)
class Guest:
    """The booted Debian, and a key to log in to it."""

    fleet: Fleet
    key: Path

    def run(self, command: str) -> str:
        """What a command in the guest prints."""
        login = ("ssh", "-l", "debian", "-i", str(self.key), NAME, command)
        done = self.fleet.start(*login).wait(LOGIN_LIMIT_S)
        assert done.exit == 0, str(done)
        return done.out

    def typed(self, *argv: str, text: str) -> Result:
        """A command with something on its stdin."""
        done = subprocess.run(
            [sys.executable, "-m", "stackctl", *argv],
            input=text,
            capture_output=True,
            text=True,
            env=self.fleet.environment({}),
            timeout=LOGIN_LIMIT_S,
            check=False,
        )
        return Result(argv, done.returncode, done.stdout, done.stderr)


def networks(fleet: Fleet) -> None:
    """One with DHCP and SLAAC and a small MTU, one where guests must address themselves."""
    context = admin_context(fleet.cloud)
    subnet = NewSubnet("10.78.0.0/24", name="deb-4")
    create_network(context, NewNetwork("deb-dual", subnet=subnet)).check()
    set_network(context, "deb-dual", NetworkChange(mtu=1380)).check()
    six = NewSubnet("fd78::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
    create_subnet(context, "deb-dual", six).check()
    fixed = NewSubnet("10.79.0.0/24", dhcp=False)
    create_network(context, NewNetwork("deb-static", subnet=fixed)).check()


@pytest.fixture(scope="module")
def debian(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """The guest, booted as a user would: it is set up when the command returns."""
    folder = tmp_path_factory.mktemp("debian")
    image = build_debian_image(CACHE / "debian.qcow2", progress=lambda _: None)
    context = admin_context(fleet.cloud)
    properties = {"os_admin_user": "debian", "os_require_quiesce": "yes", "hw_video_model": "vga"}
    with image.open("rb") as stream:
        create_image(context, NewImage("deb", properties=properties), stream).check()
    sizes = {"vcpus": 2, "ram_mb": 768, "disk_gb": 4, "ephemeral_gb": 1, "swap_mb": 64}
    create_flavor(context, NewFlavor("deb", **sizes, extra_specs={"hw:cpu_cores": "2"})).check()
    key = folder / "key"
    key.touch(0o600)
    key.write_text(add_keypair(context, "deb").value.private_key or "")
    networks(fleet)
    (folder / "user-data").write_bytes(USER_DATA)
    (folder / "file").write_text("from a file\n")
    booted = fleet.start(
        *("boot", NAME, "--image", "deb", "--flavor", "deb", "--key", "deb", "--host", "host1"),
        *("--nic", "net=deb-dual", "--nic", "net=deb-static,ip=10.79.0.9"),
        *("--user-data", str(folder / "user-data"), "--meta", "role=db"),
        *("--file", f"/etc/injected={folder / 'file'}"),
        *("--wait", "cloud-init", "--wait-timeout", str(BOOT_LIMIT_S)),
    ).wait(BOOT_LIMIT_S + 60)
    try:
        assert booted.exit == 0, f"{booted}{fleet.run('console-log', NAME).out[-3000:]}"
        yield Guest(fleet, key)
    finally:
        fleet.delete_all()
        fleet.run("image-delete", "--yes", "deb")
        fleet.run("flavor-delete", "deb")
        fleet.run("keypair-delete", "deb")
        fleet.run("net-delete", "deb-dual", "deb-static")
        fleet.check_at_rest()


def test_cloud_init_did_what_the_config_drive_says(debian: Guest) -> None:
    seen = debian.run(
        "hostname; sudo cat /made-by-runcmd /etc/injected; "
        "sudo cloud-init query ds.meta_data.meta.role; sudo cat /run/cloud-init/result.json"
    )
    assert seen.startswith(f"{NAME}\nran as root\nfrom a file\ndb\n"), seen
    result = json.loads(seen[seen.index("{") :])["v1"]
    assert result["errors"] == []
    assert result["datasource"].startswith("DataSourceConfigDrive")


def test_every_nic_is_up_with_its_mtu_and_addresses(debian: Guest) -> None:
    macs = {row["mac"]: row["mtu"] for row in debian.fleet.rows(
        "SELECT mac, mtu FROM ports JOIN networks ON networks.id = network_id "
        "WHERE device_owner LIKE 'compute:%' AND ports.deleted_at IS NULL"
    )}  # fmt: skip
    links = {link["address"]: link for link in json.loads(debian.run("ip -j address"))}
    assert {mac: links[mac]["mtu"] for mac in macs} == macs
    found = {
        address["local"]
        for mac in macs
        for address in links[mac]["addr_info"]
        if address["scope"] == "global"
    }
    rows = debian.fleet.rows(
        "SELECT address FROM addresses JOIN ports ON ports.id = port_id "
        "WHERE device_owner LIKE 'compute:%' AND released_serial IS NULL"
    )
    assert {row["address"] for row in rows} <= found


def test_disks_and_cpus_are_as_the_flavor_says(debian: Guest) -> None:
    seen = debian.run("cat /proc/swaps; findmnt -no SOURCE,LABEL /mnt; lscpu -J")
    assert "/dev/vdc" in seen
    assert "/dev/vdb ephemeral0" in seen
    cpus = json.loads(seen[seen.index("{") :])["lscpu"]
    fields = {each["field"].strip(): each["data"] for each in _flat(cpus)}
    assert (fields["Core(s) per socket:"], fields["Socket(s):"]) == ("2", "1")
    size = int(debian.run("df --output=size -BM / | tail -1").strip().rstrip("M"))
    assert size > 3500, "the root file system has grown to its disk"


def _flat(items: list[dict]) -> Iterator[dict]:
    for item in items:
        yield item
        yield from _flat(item.get("children", []))


def test_a_password_is_set_by_the_agent(debian: Guest) -> None:
    done = debian.typed("set-password", NAME, text="s3cr3t-w0rd\n")
    assert done.exit == 0, str(done)
    assert "The password of debian" in done.err
    check = (
        "import crypt, spwd; kept = spwd.getspnam('debian').sp_pwdp; "
        "print(crypt.crypt('s3cr3t-w0rd', kept) == kept)"
    )
    assert debian.run(f'sudo python3 -W ignore -c "{check}"') == "True\n"
    told = debian.typed("set-password", NAME, "--user", "nobody-there", text="x\n")
    assert told.exit == 30, str(told)
    for place in ("/var/log", "/var/lib/stackctl"):
        found = debian.fleet.inside("host1", "grep", "-rl", "s3cr3t-w0rd", place, check=False)
        assert found == ""


def test_a_snapshot_of_a_guest_at_work_has_a_file_system_at_rest(
    debian: Guest, tmp_path: Path
) -> None:
    writer = "while :; do dd if=/dev/urandom of=/work bs=64k count=16; done"
    debian.run(f"sudo systemd-run --unit=writer sh -c '{writer}'")
    done = debian.fleet.start("image-snapshot", NAME, "deb-copy").wait(600)
    assert done.exit == 0, str(done)
    assert debian.run("systemctl is-active writer; sudo systemctl stop writer") == "active\n"
    told = debian.fleet.run("events", NAME, "-f", "json", "-c", "Message").json
    assert any("image deb-copy made" in row["Message"] for row in told)
    assert any(row["Message"].endswith("bytes, quiesced") for row in told)
    copy, plain = tmp_path / "copy.qcow2", tmp_path / "copy.raw"
    debian.fleet.start("image-save", "deb-copy", "--file", str(copy)).wait(300)
    debian.fleet.run("image-delete", "--yes", "deb-copy")
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(copy), str(plain)]
    subprocess.run(convert, check=True, timeout=300)
    offset = (1 + BOOT_MIB) << 20
    dump = ["/sbin/dumpe2fs", "-h", f"{plain}?offset={offset}"]
    head = subprocess.run(dump, capture_output=True, text=True, timeout=60, check=True).stdout
    # A journal with something in it is what a copy without the agent has.
    assert "needs_recovery" not in head
    assert "Filesystem volume name:   debian-root" in head


def test_its_display_shows_a_login(debian: Guest, tmp_path: Path) -> None:
    with vnc_console(debian.fleet, NAME) as viewer:
        assert len(set(viewer.picture())) > 1
    file = tmp_path / "seen.png"
    debian.fleet.run("console-screenshot", NAME, "--file", str(file))
    assert len(set(pixels(file.read_bytes()))) > 1
