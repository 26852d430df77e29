"""The pure half of domains: what libvirt is told about a server, and what it says of one.

XML is built as a tree, so that no text of a user can become structure, and it leaves libvirt and
qemu nothing to probe: formats, backing chains and machine types are all stated.
"""

from __future__ import annotations

import re
from typing import Optional
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from agent.resources import disk_source
from agent.resources.domain_words import BootInput as BootInput
from agent.resources.domain_words import Described as Described
from agent.resources.domain_words import DiskInput as DiskInput
from agent.resources.domain_words import DomainInput as DomainInput
from agent.resources.domain_words import Mark as Mark
from agent.resources.domain_words import NicInput as NicInput
from agent.resources.domain_words import VolumeInput as VolumeInput
from agent.resources.hardware_xml import (
    GUEST_AGENT,
    add_firmware,
    add_hardware,
    drive_element,
    topology_element,
)
from agent.resources.texts_xml import UnsafeText as UnsafeText
from agent.resources.texts_xml import check_text
from agent.spec import USUAL_HARDWARE, digest, to_plain

COMPILER = 3
"""Raised when the XML made from the same inputs changes: domains are then redefined."""

SPARE_SLOTS = 8
"""NICs and volumes that can be plugged into a running q35 machine (pc has free slots by itself)."""

OWN_SLOTS = 4
"""Slots for what every domain has beside disks and NICs: console, rng, balloon, SCSI."""

MARK_URI = "urn:stackctl:server:1"
MARK_KEY = "stackctl"
DISK_PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd", "usb": "sd"}
NIC_MODELS = ("virtio", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k_pci", "vmxnet3")

_TARGET = re.compile(r"[hsv]d[a-y]")
_VOLUME_SERIAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MACHINE = re.compile(r"[a-z0-9][a-z0-9._-]{1,63}")
_CPU_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CPU_MODES = ("host-model", "host-passthrough", "maximum")
_OFFLOADS = {
    "host": ("csum", "gso", "tso4", "tso6", "ecn", "ufo", "mrg_rxbuf"),
    "guest": ("csum", "tso4", "tso6", "ecn", "ufo"),
}

ElementTree.register_namespace(MARK_KEY, MARK_URI)


def input_digest(domain: DomainInput) -> str:
    """Names the inputs of a definition: equal digests, equal domains."""
    inputs = to_plain(domain)
    # Definitions from before there were such things stay what they are.
    later = (("volumes", ()), ("hardware", USUAL_HARDWARE), ("firmware", None))
    for name, usual in later:
        if getattr(domain, name) == usual:
            del inputs[name]
    for volume in inputs.get("volumes", ()):
        # Nor are those of before there were other places than files.
        for name, unset in (("source", None), ("cache", "")):
            if volume[name] == unset:
                del volume[name]
    return digest([COMPILER, inputs])


def compile_domain(domain: DomainInput, mark: Mark) -> str:
    """The XML of a domain; UnsafeText when an input cannot be told to libvirt."""
    root = Element("domain", type=domain.virt_type)
    SubElement(root, "name").text = domain.name
    SubElement(root, "uuid").text = domain.id
    SubElement(root, "metadata").append(mark_element(mark))
    SubElement(root, "memory", unit="KiB").text = str(domain.ram_mb * 1024)
    SubElement(root, "vcpu").text = str(domain.vcpus)
    _add_os(root, domain)
    features = SubElement(root, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    root.append(_cpu(domain))
    _add_clock(root, domain)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        SubElement(root, f"on_{event}").text = action
    _add_devices(SubElement(root, "devices"), domain)
    check_text(root)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def nic_xml(nic: NicInput, model: str, offload: bool) -> str:
    """The XML of one NIC, to plug it into a domain that runs."""
    element = _nic(nic, model, offload)
    check_text(element)
    return ElementTree.tostring(element, encoding="unicode")


def volume_xml(volume: VolumeInput, bus: str) -> str:
    """The XML of one volume, to plug it into a domain that runs."""
    element = _volume(volume, bus)
    check_text(element)
    return ElementTree.tostring(element, encoding="unicode")


def mark_xml(mark: Mark) -> str:
    """The mark alone, as libvirt wants it when only metadata change (no prefix of ours)."""
    element = Element("server", _mark_attributes(mark))
    check_text(element)
    return ElementTree.tostring(element, encoding="unicode")


def describe(xml: str) -> Described:
    """Read the XML of a domain that libvirt has."""
    root = ElementTree.fromstring(xml)
    os_type = root.find("os/type")
    cpu = root.find("cpu")
    return Described(
        mark=_read_mark(root.find(f"metadata/{{{MARK_URI}}}server")),
        essentials=_read_essentials(root),
        nics=tuple(_read_nic(nic) for nic in root.iterfind("devices/interface")),
        volumes=_read_volumes(root),
        machine_type=os_type.get("machine", "") if os_type is not None else "",
        virt_type=root.get("type", ""),
        cpu="" if cpu is None else cpu.findtext("model", "") or cpu.get("mode", ""),
    )


def nic_aliases(xml: str) -> dict[str, str]:
    """What qemu calls the NICs of a running domain, by their MACs."""
    nics = ElementTree.fromstring(xml).iterfind("devices/interface")
    return {_attribute(nic, "mac", "address"): _attribute(nic, "alias", "name") for nic in nics}


def volume_aliases(xml: str) -> dict[str, str]:
    """What qemu calls the volumes of a running domain, by their ids."""
    disks = ElementTree.fromstring(xml).iterfind("devices/disk")
    return {disk.findtext("serial", ""): _attribute(disk, "alias", "name") for disk in disks}


def disk_files(xml: str) -> set[str]:
    """The files of a domain's disks (not what lies under them), and of its UEFI variables."""
    root = ElementTree.fromstring(xml)
    found = {source.get("file", "") for source in root.iterfind("devices/disk/source")}
    return {*found, _nvram(root)} - {""}


def disk_target(xml: str, key: str) -> Optional[str]:
    """The name that a guest's disk has in its domain, by its file or (a volume's) by its serial."""
    for disk in ElementTree.fromstring(xml).iterfind("devices/disk"):
        if key in (_attribute(disk, "source", "file"), disk.findtext("serial", "")):
            return _attribute(disk, "target", "dev")
    return None


def console_path(xml: str) -> Optional[str]:
    """The terminal behind the serial port of a guest that runs."""
    source = ElementTree.fromstring(xml).find("devices/serial[@type='pty']/source")
    return None if source is None else source.get("path")


def has_guest_agent(xml: str) -> bool:
    """Whether an agent in a running guest is listening."""
    targets = ElementTree.fromstring(xml).iterfind("devices/channel/target")
    names = {each.get("name"): each.get("state") for each in targets}
    return names.get(GUEST_AGENT) == "connected"


def essentials(domain: DomainInput) -> tuple[str, ...]:
    """What must be found in an existing domain beside the digest: edits by hand show here."""
    return (
        domain.virt_type,
        f"{domain.vcpus} vcpus",
        f"{domain.ram_mb * 1024} KiB",
        domain.machine_type,
        *(disk.path for disk in domain.disks),
        *(volume.key for volume in domain.volumes),
        domain.drive,
        *([] if domain.firmware is None else [domain.firmware.kept]),
        *(f"{nic.mac} {nic.tap}" for nic in domain.nics),
    )


def _read_essentials(root: Element) -> tuple[str, ...]:
    os_type = root.find("os/type")
    sources = [disk_source.key_of(disk) for disk in root.iterfind("devices/disk")]
    return (
        root.get("type", ""),
        f"{root.findtext('vcpu', '')} vcpus",
        f"{root.findtext('memory', '')} KiB",
        os_type.get("machine", "") if os_type is not None else "",
        *sources,
        *filter(None, [_nvram(root)]),
        *(f"{nic.mac} {nic.tap}" for nic in map(_read_nic, root.iterfind("devices/interface"))),
    )


def _nvram(root: Element) -> str:
    return (root.findtext("os/nvram") or "").strip()


def _read_nic(nic: Element) -> NicInput:
    mtu = _attribute(nic, "mtu", "size")
    return NicInput(
        mac=_attribute(nic, "mac", "address"),
        tap=_attribute(nic, "target", "dev"),
        mtu=int(mtu) if mtu.isdecimal() else 0,
    )


def _read_volumes(root: Element) -> tuple[VolumeInput, ...]:
    """What has a whole id as its serial; in the order of their devices, as they were given."""
    found = [
        VolumeInput(
            path=_attribute(disk, "source", "file"),
            format=_attribute(disk, "driver", "type"),
            serial=disk.findtext("serial", ""),
            target=_attribute(disk, "target", "dev"),
            source=disk_source.read(disk),
            cache=_attribute(disk, "driver", "cache"),
        )
        for disk in root.iterfind("devices/disk")
    ]
    volumes = (volume for volume in found if _VOLUME_SERIAL.fullmatch(volume.serial))
    return tuple(sorted(volumes, key=lambda volume: volume.target))


def _attribute(parent: Element, tag: str, name: str) -> str:
    child = parent.find(tag)
    return child.get(name, "") if child is not None else ""


def _read_mark(element: Optional[Element]) -> Optional[Mark]:
    if element is None:
        return None
    power = element.get("power", "")
    return Mark(
        cloud_id=element.get("cloud", ""),
        server_id=element.get("id", ""),
        project_id=element.get("project", ""),
        power_serial=int(power) if power.isdecimal() else 0,
        digest=element.get("digest", ""),
    )


def _mark_attributes(mark: Mark) -> dict[str, str]:
    return {
        "cloud": mark.cloud_id,
        "id": mark.server_id,
        "project": mark.project_id,
        "power": str(mark.power_serial),
        "digest": mark.digest,
    }


def mark_element(mark: Mark) -> Element:
    """The mark as it stands among a domain's metadata."""
    return Element(f"{{{MARK_URI}}}server", _mark_attributes(mark))


def _add_os(root: Element, domain: DomainInput) -> None:
    if not _MACHINE.fullmatch(domain.machine_type):
        raise UnsafeText(f"not a machine type: {domain.machine_type[:80]!r}")
    element = SubElement(root, "os")
    SubElement(element, "type", arch="x86_64", machine=domain.machine_type).text = "hvm"
    if domain.firmware is not None:
        add_firmware(element, domain.firmware)
    if domain.boot is None:
        SubElement(element, "boot", dev="hd")
        return
    SubElement(element, "kernel").text = domain.boot.kernel
    if domain.boot.ramdisk is not None:
        SubElement(element, "initrd").text = domain.boot.ramdisk
    SubElement(element, "cmdline").text = domain.boot.command_line


def _cpu(domain: DomainInput) -> Element:
    mode, topology = domain.cpu_mode, domain.hardware.topology
    if mode in _CPU_MODES:
        element = Element("cpu", mode=mode)
    elif not _CPU_MODEL.fullmatch(mode):
        raise UnsafeText(f"not a CPU model: {mode[:80]!r}")
    else:
        element = Element("cpu", mode="custom", match="exact")
        SubElement(element, "model", fallback="forbid").text = mode
    if topology is not None:
        element.append(topology_element(topology, domain.vcpus))
    return element


def _add_clock(root: Element, domain: DomainInput) -> None:
    clock = SubElement(root, "clock", offset="utc")
    if domain.virt_type == "kvm":
        SubElement(clock, "timer", name="pit", tickpolicy="delay")
        SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
        SubElement(clock, "timer", name="hpet", present="no")


def _add_devices(devices: Element, domain: DomainInput) -> None:
    prefix = DISK_PREFIXES.get(domain.disk_bus)
    if prefix is None:
        raise UnsafeText(f"not a disk bus: {domain.disk_bus[:40]!r}")
    if _is_q35(domain):
        _add_slots(devices, domain)
    if "scsi" in (domain.disk_bus, _cdrom_bus(domain)):
        SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    for element in _disks(domain, prefix):
        devices.append(element)
    devices.append(drive_element(domain.drive, _cdrom_bus(domain)))
    for nic in domain.nics:
        devices.append(_nic(nic, domain.nic_model, domain.offload))
    _add_console(devices, domain)
    add_hardware(devices, domain.hardware)
    SubElement(devices, "memballoon", model="virtio")
    # By it a guest's kernel says that it panicked: libvirt then knows a crash from a halt.
    SubElement(devices, "panic", model="isa")


def _disks(domain: DomainInput, prefix: str) -> list[Element]:
    """Its disks and volumes in the order of their devices; the first one is booted from.

    Volumes have the devices that they were given, disks those that are left: a rescue disk or one
    more after a resize takes none of theirs.
    """
    found = {volume.target: _volume(volume, domain.disk_bus) for volume in domain.volumes}
    free = iter([name for name in _targets(prefix) if name not in found])
    for disk in domain.disks:
        target = next(free, None)
        if target is None:
            raise UnsafeText("a server has at most 25 disks, 3 with the bus ide")
        found[target] = _disk(disk, target, domain.disk_bus)
    return [found[target] for target in sorted(found)]


def _targets(prefix: str) -> list[str]:
    """Names of devices; the last letter (of IDE, which has four) is the config drive's."""
    return [f"{prefix}{chr(ord('a') + index)}" for index in range(3 if prefix == "hd" else 25)]


def _is_q35(domain: DomainInput) -> bool:
    return "q35" in domain.machine_type


def _cdrom_bus(domain: DomainInput) -> str:
    # q35 has no IDE.
    return domain.hardware.cdrom or ("sata" if _is_q35(domain) else "ide")


def _add_slots(devices: Element, domain: DomainInput) -> None:
    """Nothing can be plugged into a running q35 machine but into a PCIe port that is free."""
    SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
    devices_now = len(domain.disks) + len(domain.volumes) + len(domain.nics)
    more = (domain.hardware.video, domain.hardware.watchdog)
    devices_now += len(more) - more.count(None)
    for _ in range(devices_now + OWN_SLOTS + SPARE_SLOTS):
        SubElement(devices, "controller", type="pci", model="pcie-root-port")


def _disk(disk: DiskInput, target: str, bus: str) -> Element:
    element = Element("disk", type="file", device="disk")
    SubElement(element, "driver", name="qemu", type=disk.format, discard="unmap")
    SubElement(element, "source", file=disk.path)
    backing = SubElement(element, "backingStore")
    if disk.base_path is not None and disk.base_format is not None:
        backing.set("type", "file")
        SubElement(backing, "format", type=disk.base_format)
        source = SubElement(backing, "source", file=disk.base_path)
        # The image is shared by many guests: it stays root's, readable by all.
        SubElement(source, "seclabel", model="dac", relabel="no")
        SubElement(backing, "backingStore")
    SubElement(element, "target", dev=target, bus=bus)
    SubElement(element, "serial").text = disk.serial
    return element


def _volume(volume: VolumeInput, bus: str) -> Element:
    if not _TARGET.fullmatch(volume.target) or volume.target[:2] != DISK_PREFIXES.get(bus):
        raise UnsafeText(f"not a device of the bus {bus[:40]!r}: {volume.target[:40]!r}")
    element = _disk(DiskInput(volume.path, volume.format, volume.serial), volume.target, bus)
    driver = element.find("driver")
    if volume.cache and driver is not None:
        driver.set("cache", volume.cache)
    if volume.source is not None:
        disk_source.put(element, volume.source)
    return element


def _nic(nic: NicInput, model: str, offload: bool) -> Element:
    if model not in NIC_MODELS:
        raise UnsafeText(f"not a NIC model: {model[:40]!r}")
    element = Element("interface", type="ethernet")
    SubElement(element, "mac", address=nic.mac)
    SubElement(element, "target", dev=nic.tap, managed="no")
    SubElement(element, "model", type=model)
    if model == "virtio" and not offload:
        driver = SubElement(element, "driver")
        for side, names in _OFFLOADS.items():
            SubElement(driver, side, {name: "off" for name in names})
    SubElement(element, "mtu", size=str(nic.mtu))
    return element


def _add_console(devices: Element, domain: DomainInput) -> None:
    serial = SubElement(devices, "serial", type="pty")
    SubElement(serial, "log", file=domain.console_log, append="on")
    SubElement(serial, "target", port="0")
    console = SubElement(devices, "console", type="pty")
    SubElement(console, "target", type="serial", port="0")
