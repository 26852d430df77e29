"""The XML of a guest that goes to another host: as it runs here, with the files of there."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from agent.resources import move_xml
from agent.resources.domain_xml import (
    BootInput,
    DiskInput,
    DomainInput,
    Mark,
    VolumeInput,
    compile_domain,
    describe,
    input_digest,
)
from agent.resources.move_xml import Unfit
from tests.guest_samples import domain_input

HERE = domain_input(
    ram_mb=64,
    disks=(DiskInput("/data/disks/old.qcow2", "qcow2", "serial", "/data/images/b", "raw"),),
    drive="/data/drives/s.iso",
    console_log="/data/servers/s/console.log",
    boot=BootInput("/data/servers/s/kernel", "/data/servers/s/ramdisk", "quiet"),
)
THERE = replace(
    HERE,
    disks=(DiskInput("/there/disks/new.qcow2", "qcow2", "serial", "/there/images/b", "raw"),),
    drive="/there/drives/s.iso",
    console_log="/there/servers/s/console.log",
    boot=BootInput("/there/servers/s/kernel", "/there/servers/s/ramdisk", "quiet"),
)


def mark(domain: DomainInput, power: int = 0) -> Mark:
    return Mark("cloud", domain.id, "project", power, input_digest(domain))


def running() -> str:
    """The XML that libvirt has of it: addresses and aliases are settled."""
    root = ElementTree.fromstring(compile_domain(HERE, mark(HERE, 7)))
    for number, device in enumerate(root.iterfind("devices/*")):
        if device.tag in ("disk", "interface", "rng", "memballoon"):
            ElementTree.SubElement(device, "address", type="pci", slot=f"{number + 3:#x}")
    source = root.find("devices/disk/source")
    assert source is not None
    source.set("index", "2")
    return ElementTree.tostring(root, encoding="unicode")


DEFINED = compile_domain(THERE, mark(THERE))


def without_files(xml: str) -> str:
    """Everything of it but what differs from host to host."""
    root = ElementTree.fromstring(xml)
    for disk in root.iterfind("devices/disk"):
        for name in ("source", "backingStore"):
            for element in disk.findall(name):
                disk.remove(element)
    for path in ("os/kernel", "os/initrd"):
        root.find(path).text = ""
    root.find("devices/serial/log").attrib.clear()
    root.remove(root.find("metadata"))
    parts = ElementTree.tostring(root, encoding="unicode")
    return ElementTree.canonicalize(parts, strip_text=True)


def test_it_has_the_files_of_there_and_the_devices_of_here():
    goes = move_xml.as_it_goes_on(running(), DEFINED)
    assert "/data/" not in goes
    root = ElementTree.fromstring(goes)
    assert [each.get("file") for each in root.iterfind("devices/disk/source")] == [
        "/there/disks/new.qcow2",
        "/there/drives/s.iso",
    ]
    backing = root.find("devices/disk/backingStore/source")
    assert backing.get("file") == "/there/images/b"
    assert root.findtext("os/kernel") == "/there/servers/s/kernel"
    assert root.findtext("os/initrd") == "/there/servers/s/ramdisk"
    assert root.find("devices/serial/log").get("file") == "/there/servers/s/console.log"
    assert without_files(goes) == without_files(running())


def test_its_mark_is_that_of_there_and_says_what_it_has_obeyed():
    definition = move_xml.with_served(DEFINED, 7)
    for xml in (definition, move_xml.as_it_goes_on(running(), definition)):
        assert describe(xml).mark == mark(THERE, 7)
    assert describe(definition).essentials == describe(DEFINED).essentials


def test_a_disk_that_is_not_known_there_keeps_it_here():
    volume = VolumeInput("/data/volumes/v.qcow2", "qcow2", "v" * 36, "vdb")
    more = replace(HERE, volumes=(volume,))
    with pytest.raises(Unfit, match="knows no device vdb"):
        move_xml.as_it_goes_on(compile_domain(more, mark(more)), DEFINED)


def test_a_definition_of_somebody_else_is_refused():
    root = ElementTree.fromstring(DEFINED)
    root.find("metadata").clear()
    with pytest.raises(Unfit, match="no mark of ours"):
        move_xml.with_served(ElementTree.tostring(root, encoding="unicode"), 1)


def test_only_its_own_disks_are_copied():
    paths = {"/data/disks/old.qcow2"}
    assert move_xml.targets_of(running(), paths) == ("vda",)
    assert move_xml.targets_of(running(), set()) == ()


def test_the_cpu_is_asked_for_where_it_has_a_name():
    assert move_xml.cpu_of(running()) is None
    xml = "<domain><cpu mode='custom' match='exact' check='full'><model fallback='forbid'>EPYC"
    xml += "</model><vendor>AMD</vendor><topology sockets='1'/><feature policy='require' "
    xml += "name='x2apic'/></cpu></domain>"
    asked = ElementTree.fromstring(move_xml.cpu_of(xml) or "")
    assert [child.tag for child in asked] == ["model", "vendor", "feature"]


def test_offloads_are_seen():
    assert not move_xml.offloads(running())
    assert move_xml.offloads(compile_domain(replace(HERE, offload=True), mark(HERE)))
    assert not move_xml.offloads(compile_domain(replace(HERE, nics=()), mark(HERE)))


def test_the_user_of_qemu_is_the_one_that_libvirt_names():
    model = "<secmodel><model>{}</model><baselabel type='kvm'>+107:+108</baselabel>"
    model += "<baselabel type='qemu'>+64055:+64056</baselabel></secmodel>"
    text = (
        f"<capabilities><host>{model.format('selinux')}{model.format('dac')}</host></capabilities>"
    )
    assert move_xml.qemu_owner(text, "qemu") == (64055, 64056)
    assert move_xml.qemu_owner(text, "kvm") == (107, 108)
    assert move_xml.qemu_owner("<capabilities><host/></capabilities>", "kvm") == (0, 0)
