"""The XML of domains, word for word, and valid by libvirt's own schema.

STACKCTL_UPDATE_GOLDEN=1 writes the files anew.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from agent.resources.disk_source import Source
from agent.resources.domain_xml import (
    BootInput,
    DiskInput,
    Mark,
    NicInput,
    VolumeInput,
    compile_domain,
)
from agent.resources.hardware_xml import FirmwareInput
from agent.spec import Hardware, Topology
from tests.guest_samples import ID as SERVER_ID
from tests.guest_samples import domain_input

GOLDEN = Path(__file__).with_name("domain")
HOST = "/var/lib/stackctl/host"
DISK_ID = "5b0e4c8a-22f1-4a6e-8b8c-3a9d5e7f6a01"
VOLUME_ID = "77d0e1aa-0c3f-4d8a-9a64-1f7a1a0c7b{}"
SECRET = "2ec115d7-3a88-3ceb-bc12-0ac909a6fd87"
IMAGE = f"{HOST}/images/{'ab' * 32}"

TCG = domain_input(
    ram_mb=2048,
    disks=(DiskInput(f"{HOST}/disks/{DISK_ID}.qcow2", "qcow2", DISK_ID[:20], IMAGE, "qcow2"),),
    nics=(
        NicInput("fa:16:3e:00:00:01", "tapaaaaaaaa-11", 1450),
        NicInput("fa:16:3e:00:00:02", "tapbbbbbbbb-11", 1500),
    ),
    drive=f"{HOST}/drives/{SERVER_ID}.iso",
    console_log=f"{HOST}/servers/{SERVER_ID}/console.log",
)
CASES = {
    "tcg": TCG,
    "kvm": replace(TCG, virt_type="kvm", cpu_mode="host-model", offload=True, vcpus=4),
    "q35-scsi": replace(
        TCG,
        machine_type="pc-q35-7.2",
        cpu_mode="Nehalem",
        disk_bus="scsi",
        nic_model="e1000",
        disks=(*TCG.disks, DiskInput(f"{HOST}/disks/second.raw", "raw", "second")),
    ),
    "uefi": replace(
        TCG,
        vcpus=4,
        hardware=Hardware(
            nvram="9a", topology=Topology(1, 2, 2), video="virtio", watchdog="reset", rng=False
        ),
        firmware=FirmwareInput(
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_VARS_4M.fd",
            f"{HOST}/servers/{SERVER_ID}/nvram-9a.fd",
        ),
    ),
    "sata-q35": replace(
        TCG,
        machine_type="pc-q35-7.2",
        disk_bus="sata",
        nic_model="e1000e",
        hardware=Hardware(video="vga", watchdog="none", guest_agent=False),
    ),
    "q35-uefi-cdrom": replace(
        TCG, machine_type="pc-q35-7.2", hardware=Hardware(cdrom="scsi", video="virtio")
    ),
    "ide": replace(TCG, disk_bus="ide", nic_model="rtl8139", hardware=Hardware(video="cirrus")),
    "usb": replace(TCG, disk_bus="usb", nic_model="vmxnet3", hardware=Hardware(video="bochs")),
    "volumes": replace(
        TCG,
        disks=(),
        volumes=(
            VolumeInput(f"{HOST}/volumes/local.qcow2", "qcow2", VOLUME_ID.format("01"), "vda"),
            VolumeInput(
                "/mnt/tank/shared.qcow2", "qcow2", VOLUME_ID.format("02"), "vdb", cache="none"
            ),
            VolumeInput(
                "",
                "qcow2",
                VOLUME_ID.format("03"),
                "vdc",
                Source("nfs", "/volumes/stackctl-1/x.qcow2", hosts=("nas.example.com",)),
                "none",
            ),
            VolumeInput(
                "",
                "raw",
                VOLUME_ID.format("04"),
                "vdd",
                Source(
                    "rbd", "cinder/sc-1", "", ("mon1.example.com:6789", "10.0.0.2"), "me", SECRET
                ),
                "none",
            ),
            VolumeInput(
                "", "raw", VOLUME_ID.format("05"), "vde", Source("pool", "sc-2", pool="vg0")
            ),
        ),
    ),
    "direct-kernel": replace(
        TCG,
        nics=(),
        boot=BootInput(
            f"{HOST}/servers/{SERVER_ID}/kernel",
            f"{HOST}/servers/{SERVER_ID}/ramdisk",
            "console=ttyS0 root=/dev/vda",
        ),
    ),
}
MARK = Mark("cloud-1", SERVER_ID, "project-1", 3, "cd" * 32)


@pytest.mark.parametrize("case", CASES)
def test_domain_xml(case):
    path = GOLDEN / f"{case}.xml"
    xml = compile_domain(CASES[case], MARK)
    if os.environ.get("STACKCTL_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(xml)
    assert xml == path.read_text()


@pytest.fixture
def libvirt_test_driver():
    """libvirt's driver for tests: it lives in this process and knows the schema."""

    def silence(context: object, error: object) -> None:
        return None

    libvirt.registerErrorHandler(silence, None)
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


def schema_refuses(connection, xml: str) -> bool:
    try:
        connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    except libvirt.libvirtError as error:
        # The test driver cannot run qemu's domains, but it judges the document first.
        return error.get_error_code() == libvirt.VIR_ERR_XML_INVALID_SCHEMA
    return False


@pytest.mark.parametrize("case", CASES)
def test_libvirts_schema_accepts_it(case, libvirt_test_driver):
    assert not schema_refuses(libvirt_test_driver, (GOLDEN / f"{case}.xml").read_text())


def test_libvirts_schema_would_refuse_nonsense(libvirt_test_driver):
    xml = compile_domain(TCG, MARK)
    assert schema_refuses(libvirt_test_driver, xml.replace("<acpi />", "<nonsense />"))
