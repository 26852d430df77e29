"""Machines of every kind on real hosts: buses, NICs, displays, firmware, formatted disks."""

from __future__ import annotations

import io
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from tests.engines import TINY_GUEST, eventually
from tests.fleet import DATA, Fleet, paragraph

KINDS = {
    "guests-scsi": {"hw_disk_bus": "scsi", "hw_vif_model": "e1000", "hw_cdrom_bus": "usb"},
    "guests-q35": {
        "hw_machine_type": "q35",
        "hw_disk_bus": "sata",
        "hw_vif_model": "e1000e",
        "hw_video_model": "virtio",
        "hw_watchdog_action": "reset",
        "hw_qemu_guest_agent": "no",
    },
    "guests-ide": {"hw_disk_bus": "ide", "hw_vif_model": "rtl8139", "hw_video_model": "cirrus"},
    "guests-usb": {"hw_disk_bus": "usb", "hw_vif_model": "vmxnet3", "hw_video_model": "bochs"},
    "guests-uefi": {"hw_firmware_type": "uefi", "hw_vif_model": "pcnet", "hw_cdrom_bus": "sata"},
}


@pytest.fixture(autouse=True)
def quiet(fleet: Fleet) -> Iterator[None]:
    """Whatever a test boots is gone afterwards."""
    yield
    fleet.delete_all()
    fleet.check()


@pytest.fixture(scope="module")
def kinds(fleet: Fleet) -> Iterator[None]:
    """An image of each kind, all of one content; a flavor with more disks."""
    context = admin_context(fleet.cloud)
    for name, properties in KINDS.items():
        tiny = io.BytesIO(TINY_GUEST.ljust(1024 * 1024, b"\0"))
        create_image(context, NewImage(name, "raw", properties=properties), tiny).check()
    sizes = {"vcpus": 2, "ram_mb": 64, "disk_gb": 1, "ephemeral_gb": 1, "swap_mb": 64}
    specs = {"hw:cpu_cores": "2"}
    create_flavor(context, NewFlavor("guests-disks", **sizes, extra_specs=specs)).check()
    yield
    fleet.run("image-delete", "--yes", *KINDS)
    fleet.run("flavor-delete", "guests-disks")


def domain_xml(fleet: Fleet, name: str) -> str:
    return fleet.inside("host1", "virsh", "dumpxml", f"sc-{fleet.servers()[name]['ID']}")


def test_machines_of_every_kind_start_and_are_left_alone(fleet: Fleet, kinds: None) -> None:
    for name in KINDS:
        fleet.boot(name, "--image", name, "--flavor", "guests-disks", "--host", "host1")
    assert set(fleet.statuses().values()) == {"ACTIVE"}
    fleet.check_at_rest()
    for name, properties in KINDS.items():
        xml = domain_xml(fleet, name)
        assert f"bus='{properties.get('hw_disk_bus', 'virtio')}'" in xml
        assert f"<model type='{properties['hw_vif_model']}'/>" in xml
        assert "<topology sockets='1' dies='1' cores='2' threads='1'/>" in xml
    formats = [found for found in map(file_system, disks_of(fleet, "guests-ide")) if found]
    assert formats == ["ext4 ephemeral0", "swap swap"]


def disks_of(fleet: Fleet, name: str) -> list[tuple[Fleet, str]]:
    rows = fleet.rows(
        "SELECT disks.id FROM disks JOIN servers ON servers.id = server_id WHERE servers.name = ? "
        "AND disks.kind <> 'nvram' AND disks.deleted_at IS NULL ORDER BY position",
        name,
    )
    return [(fleet, row["id"]) for row in rows]


def file_system(disk: tuple[Fleet, str]) -> str:
    """Kind and label of what is on a disk that no guest has written to."""
    fleet, id_ = disk
    plain = "/tmp/guests-plain"
    copy = ("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw")
    fleet.inside("host1", *copy, f"{DATA}/disks/{id_}.qcow2", plain)
    said = fleet.inside("host1", "blkid", "-p", "-o", "export", plain, check=False)
    fleet.inside("host1", "rm", plain)
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return f"{found['TYPE']} {found.get('LABEL', '')}" if "TYPE" in found else ""


class Viewer:
    """A viewer that speaks just enough RFB (RFC 6143) to see one picture."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        assert self._take(12) == b"RFB 003.008\n"
        self._socket.sendall(b"RFB 003.008\n")
        assert b"\1" in self._take(self._take(1)[0])
        self._socket.sendall(b"\1")  # no authentication
        assert self._take(4) == b"\0\0\0\0"
        self._socket.sendall(b"\1")  # shared
        self.width, self.height = struct.unpack(">HH", self._take(4))
        self._depth = self._take(16)[0] // 8
        self.name = self._take(struct.unpack(">I", self._take(4))[0]).decode()

    def picture(self) -> bytes:
        """All pixels, as they are."""
        self._socket.sendall(struct.pack(">BBHi", 2, 0, 1, 0))  # raw, nothing else
        ask = struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height)
        self._socket.sendall(ask)
        kind, _, rectangles = struct.unpack(">BBH", self._take(4))
        assert kind == 0
        pieces = []
        for _ in range(rectangles):
            _, _, width, height, encoding = struct.unpack(">HHHHi", self._take(12))
            assert encoding == 0
            pieces.append(self._take(width * height * self._depth))
        return b"".join(pieces)

    def close(self) -> None:
        self._socket.close()

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            assert piece, f"the display hung up after {len(data)} of {count} bytes"
            data += piece
        return data


@contextmanager
def vnc_console(fleet: Fleet, name: str) -> Iterator[Viewer]:
    """The command, and a viewer at the address that it prints; it ends with the viewer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stackctl", "vnc-console", "--once", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=fleet.environment({}),
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        assert address, process.stderr.read()
        viewer = Viewer(address)
        try:
            yield viewer
        finally:
            viewer.close()
            assert process.wait(30) == 0, process.stderr.read()


def test_a_display_is_asked_for_seen_and_given_up(fleet: Fleet, tmp_path: Path) -> None:
    fleet.boot("vm", "--host", "host1")
    words, hint = paragraph(fleet.run("vnc-console", "vm", exit=4))
    assert "Server vm has no display" in words
    assert "server-set vm --vnc" in hint
    fleet.run("server-set", "vm", "--vnc")
    late = fleet.run("console-screenshot", "vm", "--file", str(tmp_path / "x.png"), exit=30)
    assert "it has one after a hard reboot" in late.err
    fleet.run("reboot", "--hard", "vm")
    with vnc_console(fleet, "vm") as viewer:
        assert (viewer.width, viewer.height) != (0, 0)
        assert fleet.servers()["vm"]["ID"] in viewer.name
        # The firmware says who it is.
        eventually(lambda: len(set(viewer.picture())) > 1, "there is something to be seen")
    file = tmp_path / "seen.png"
    fleet.run("console-screenshot", "vm", "--file", str(file))
    assert len(set(pixels(file.read_bytes()))) > 1
    assert "listen type='socket'" in domain_xml(fleet, "vm")
    fleet.check_at_rest()
    fleet.run("server-set", "vm", "--no-vnc")
    fleet.run("reboot", "--hard", "vm")
    assert "<graphics" not in domain_xml(fleet, "vm")


def pixels(png: bytes) -> bytes:
    """The content of a PNG of one piece."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[at - 4 : at])
    return zlib.decompress(png[at + 4 : at + 4 + length])


def nvram(fleet: Fleet, name: str) -> list[str]:
    """The files of UEFI variables of a server, with their inodes."""
    sql = (
        "SELECT disks.id FROM disks JOIN servers ON servers.id = server_id "
        "WHERE servers.name = ? AND disks.kind = 'nvram' AND disks.deleted_at IS NULL"
    )
    files = [f"{DATA}/disks/{row['id']}.raw" for row in fleet.rows(sql, name)]
    return [fleet.inside("host1", "ls", "-i1", file) for file in files]


@pytest.mark.slow
def test_a_guest_boots_by_uefi_and_keeps_its_variables_until_it_is_made_anew(
    fleet: Fleet, guest_image: Path, lab_key: Path
) -> None:
    """On q35, whose usual CD-ROM drive Debian's cloud kernel has no driver for."""
    context = admin_context(fleet.cloud)
    properties = {"hw_firmware_type": "uefi", "hw_machine_type": "q35", "hw_cdrom_bus": "scsi"}
    with guest_image.open("rb") as stream:
        create_image(context, NewImage("guests-real", properties=properties), stream).check()
    create_flavor(context, NewFlavor("guests-real", vcpus=1, ram_mb=256, disk_gb=1)).check()
    add_keypair(context, "guests-real", lab_key.with_suffix(".pub").read_bytes()).check()
    fleet.start(
        *("boot", "real", "--image", "guests-real", "--flavor", "guests-real", "--host", "host1"),
        *("--key", "guests-real", "--nic", "net=faults", "--wait", "ssh"),
    ).wait(330)
    login = ("ssh", "-i", str(lab_key), "real")
    seen = fleet.start(*login, "ls /sys/firmware/efi; hostname").wait()
    assert "efivars" in seen.out and seen.out.endswith("real\n"), str(seen)
    before = nvram(fleet, "real")
    assert len(before) == 1
    fleet.run("stop", "real")
    fleet.run("start", "real")
    assert nvram(fleet, "real") == before
    fleet.check_at_rest()
    fleet.start("rebuild", "real", "--yes").wait(330)
    after = nvram(fleet, "real")
    assert len(after) == 1 and after != before
    fleet.run("delete", "--yes", "real")
    fleet.run("image-delete", "--yes", "guests-real")
    fleet.run("flavor-delete", "guests-real")
    fleet.run("keypair-delete", "guests-real")
