"""A domain that somebody else made, read for what of it a server of ours can be. Pure.

Three things come out: what is taken over as it is, what gets lost when the guest is next started
by our definition, and why the domain cannot be taken over at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from agent.resources.domain_xml import DISK_PREFIXES, NIC_MODELS

FORMATS = ("qcow2", "raw")
MOST_DISKS = 25
SCSI_MODELS = ("virtio-scsi", "virtio-transitional", "virtio-non-transitional")
QEMUS_DEFAULT = "qemu's default"
TAP_TYPES = ("bridge", "network", "ethernet")
"""Interfaces that are a tap device on the host."""

_CPU_MODES = ("host-model", "host-passthrough", "maximum")
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"
_UUID_CHARACTERS = 36

_OURS = frozenset(
    (
        *("name", "uuid", "title", "description", "metadata", "memory", "currentMemory", "vcpu"),
        *("os", "features", "cpu", "clock", "pm", "on_poweroff", "on_reboot", "on_crash"),
        *("devices", "seclabel", "resource"),
    )
)
"""Parts of a definition that ours has, too, or that say nothing about the guest."""

_LOST = {
    "memoryBacking": "how its memory is backed (hugepages, locking)",
    "cputune": "pinning and shares of its CPUs",
    "numatune": "where its memory is taken from (NUMA)",
    "memtune": "limits of its memory",
    "blkiotune": "weights of its disks",
    "iothreads": "I/O threads",
    "iothreadids": "",
    "sysinfo": "what its BIOS tables say",
    "genid": "the generation id",
    "maxMemory": "memory that can be plugged in",
    "perf": "",
    "idmap": "",
}

_LOST_DEVICES = (
    *("graphics", "video", "sound", "watchdog", "redirdev", "hub", "vsock", "parallel"),
    "smartcard",
)
_OWN_DEVICES = (
    *("disk", "interface", "emulator", "controller", "input", "memballoon", "rng", "audio"),
    *("panic", "console", "serial", "channel"),
)
_REFUSED_DEVICES = {
    "hostdev": "a device of the host is passed through to it",
    "tpm": "it has a TPM, whose state would be lost",
    "filesystem": "it shares a folder with the host",
    "shmem": "it shares memory with others",
    "memory": "memory is plugged into it",
    "nvram": "it has an NVRAM device",
    "iommu": "it has an IOMMU",
    "lease": "a lease guards its disks",
}


@dataclass(frozen=True)
class ForeignDisk:
    """A file that the guest has as a disk, the name of its device, and its format."""

    path: str
    format: str
    target: str


@dataclass(frozen=True)
class ForeignNic:
    """A NIC, the tap behind it (empty while the guest is off), what it is plugged into and the VLAN
    that it asks for there."""

    mac: str
    device: str
    source: str
    tag: Optional[int] = None


@dataclass(frozen=True)
class Foreign:
    """What a domain is. ``cpu_mode`` is empty when it leaves the CPU to qemu; ``lost`` and
    ``refused`` are words for people."""

    name: str
    vcpus: int
    ram_mb: int
    machine_type: str
    cpu_mode: str
    disk_bus: str
    nic_model: str
    disks: tuple[ForeignDisk, ...]
    nics: tuple[ForeignNic, ...]
    lost: tuple[str, ...]
    refused: tuple[str, ...]


def read(live: str, next_start: str) -> Foreign:
    """Read a domain's XML as it runs, and as it would start next (the same when it is off)."""
    root, later = ElementTree.fromstring(live), ElementTree.fromstring(next_start)
    disks = _in_boot_order(_disks(root))
    nics = root.findall("devices/interface")
    os_type = root.find("os/type")
    return Foreign(
        name=root.findtext("name", ""),
        vcpus=int(root.findtext("vcpu", "1")),
        ram_mb=-(-_memory_kib(root) // 1024),
        machine_type="" if os_type is None else os_type.get("machine", ""),
        cpu_mode=_cpu_mode(later),
        disk_bus=_attribute(disks[0], "target", "bus") if disks else "virtio",
        nic_model=_nic_model(nics[0]) if nics else "virtio",
        disks=tuple(map(_disk, disks)),
        nics=tuple(map(_nic, nics)),
        lost=tuple(_lost(root, later)),
        refused=tuple(dict.fromkeys(_refused(root, disks, nics))),
    )


def _disks(root: Element) -> list[Element]:
    """Its disks; drives with removable media are no data of the guest's."""
    found = root.iterfind("devices/disk")
    return [disk for disk in found if disk.get("device", "disk") not in ("cdrom", "floppy")]


def _in_boot_order(disks: list[Element]) -> list[Element]:
    """The one that is booted from comes first."""
    orders = [_attribute(disk, "boot", "order") for disk in disks]
    by_order = sorted(range(len(disks)), key=lambda at: int(orders[at] or MOST_DISKS * 100))
    return [disks[at] for at in by_order]


def _disk(disk: Element) -> ForeignDisk:
    return ForeignDisk(
        path=_attribute(disk, "source", "file"),
        format=_attribute(disk, "driver", "type"),
        target=_attribute(disk, "target", "dev"),
    )


def _nic(nic: Element) -> ForeignNic:
    source = nic.find("source")
    named = {} if source is None else source.attrib
    words = named.get("bridge") or named.get("network") or named.get("dev") or ""
    device = _attribute(nic, "target", "dev")
    tag = _attribute(nic, "vlan/tag", "id")
    mac = _attribute(nic, "mac", "address").lower()
    return ForeignNic(mac, device, words, int(tag) if tag else None)


def _nic_model(nic: Element) -> str:
    return _attribute(nic, "model", "type") or "rtl8139"


def _memory_kib(root: Element) -> int:
    return int(root.findtext("memory", "0"))


def _cpu_mode(root: Element) -> str:
    """As our rows have it. A guest that runs shows what a mode came to, not the mode."""
    cpu = root.find("cpu")
    if cpu is None:
        return ""
    mode = cpu.get("mode", "custom")
    return mode if mode in _CPU_MODES else cpu.findtext("model", "")


# --- what its next start will not have ----------------------------------------------------------


def _lost(root: Element, later: Element) -> Iterator[str]:
    for element in root:
        words = _LOST.get(element.tag, "" if element.tag in _OURS else f"<{element.tag}>")
        if words and element.tag != _QEMU:
            yield words
    yield from _lost_sizes(root)
    yield from _lost_cpu(later)
    features = [each.tag for each in root.findall("features/*")]
    if extra := [tag for tag in features if tag not in ("acpi", "apic", "pae", "vmport")]:
        yield f"the features {', '.join(extra)}"
    offset = _attribute(root, "clock", "offset") or "utc"
    if offset != "utc":
        yield f"a clock that shows {offset}"
    for device in root.findall("devices/*"):
        yield from _lost_device(device)


def _lost_sizes(root: Element) -> Iterator[str]:
    memory, now = _memory_kib(root), int(root.findtext("currentMemory", "0"))
    if memory % 1024:
        yield f"{memory} KiB of memory, which become {-(-memory // 1024)} MB"
    if now and now != memory:
        yield f"a balloon that leaves it {now // 1024} of {memory // 1024} MB"
    count, plugged = root.findtext("vcpu", ""), _attribute(root, "vcpu", "current")
    if plugged and plugged != count:
        yield f"{count} VCPUs of which it sees {plugged}"


def _lost_cpu(root: Element) -> Iterator[str]:
    cpu = root.find("cpu")
    if cpu is None:
        yield "qemu's default CPU"
        return
    parts = {"topology": "the topology", "numa": "the NUMA cells", "feature": "single features"}
    found = [words for tag, words in parts.items() if cpu.find(tag) is not None]
    if found:
        yield f"{' and '.join(found)} of its CPU"


def _lost_device(device: Element) -> Iterator[str]:
    kind, target = device.get("device", ""), _attribute(device, "target", "dev")
    if device.tag in _LOST_DEVICES:
        model = device.get("type") or device.get("model") or _attribute(device, "model", "type")
        yield f"{device.tag} {model}".rstrip()
    elif device.tag == "disk" and kind in ("cdrom", "floppy"):
        medium = _attribute(device, "source", "file")
        yield f"{kind} {target}{f' with {medium}' if medium else ''}"
    elif device.tag == "disk":
        cache = _attribute(device, "driver", "cache")
        if cache not in ("", "default"):
            yield f"the cache mode {cache} of {target}"
        if device.find("iotune") is not None:
            yield f"the limits of {target}"
        if serial := device.findtext("serial", ""):
            yield f"the serial {serial} of {target}"
    elif device.tag == "interface":
        mac = _attribute(device, "mac", "address")
        lost = [tag for tag in ("bandwidth", "filterref") if device.find(tag) is not None]
        if _attribute(device, "link", "state") == "down":
            lost.append("link down")
        if lost:
            yield f"{', '.join(lost)} of NIC {mac}"


# --- what cannot be taken over ------------------------------------------------------------------


def _refused(root: Element, disks: list[Element], nics: list[Element]) -> Iterator[str]:
    if root.get("type") not in ("kvm", "qemu"):
        yield f"it is a domain of the type {root.get('type')}"
    yield from _refused_os(root)
    if root.find(_QEMU) is not None:
        yield "it has qemu options of its own"
    if root.find("launchSecurity") is not None:
        yield "its memory is encrypted (launchSecurity)"
    for device in root.findall("devices/*"):
        words = _REFUSED_DEVICES.get(device.tag, "")
        if words:
            yield words
        elif device.tag not in (*_LOST_DEVICES, *_OWN_DEVICES):
            yield f"it has a device that is not known here: {device.tag}"
    yield from _refused_disks(root, disks)
    yield from _refused_nics(nics)


def _refused_os(root: Element) -> Iterator[str]:
    kind = root.find("os/type")
    if kind is None or kind.text != "hvm" or kind.get("arch") != "x86_64":
        yield "it is no x86_64 machine"
    loader = root.find("os/loader")
    pflash = loader is not None and loader.get("type") == "pflash"
    firmware = _attribute(root, "os", "firmware")
    if firmware == "efi" or pflash or root.find("os/nvram") is not None:
        yield "it boots by UEFI"
    elif loader is not None:
        yield "it has a firmware of its own"
    if root.find("os/kernel") is not None:
        yield "it boots a kernel directly, from a file of this host"


def _refused_disks(root: Element, disks: list[Element]) -> Iterator[str]:
    if not disks:
        yield "it has no disk"
    if len(disks) > MOST_DISKS:
        yield f"it has {len(disks)} disks, a server at most {MOST_DISKS}"
    for disk in disks:
        words = _disk_problem(disk)
        if words:
            yield f"disk {_attribute(disk, 'target', 'dev')} {words}"
    buses = list(dict.fromkeys(_attribute(disk, "target", "bus") for disk in disks))
    if len(buses) > 1:
        yield f"its disks are on the buses {' and '.join(buses)}, those of a server on one"
    for bus in buses:
        if bus not in DISK_PREFIXES:
            yield f"no disk of a server is on the bus {bus}"
    models = [
        each.get("model", "")
        for each in root.iterfind("devices/controller")
        if each.get("type") == "scsi"
    ]
    if buses == ["scsi"] and not set(models) <= set(SCSI_MODELS):
        yield f"its SCSI controller is {models[0] or QEMUS_DEFAULT}, not virtio-scsi"


def _disk_problem(disk: Element) -> str:
    """Why a disk cannot be one of ours, by what libvirt says of it."""
    kind, device = disk.get("type", ""), disk.get("device", "disk")
    source = disk.find("source")
    if kind == "block":
        return f"is the raw block device {_attribute(disk, 'source', 'dev')}, not a file"
    if kind != "file" or device != "disk" or source is None or not source.get("file"):
        return f"is {device} of the type {kind}, not a file"
    if _attribute(disk, "driver", "type") not in FORMATS:
        return f"has the format {_attribute(disk, 'driver', 'type') or 'unknown'}, not qcow2 or raw"
    if disk.find("mirror") is not None:
        return "is being copied (a block job is at work)"
    if disk.find("backingStore/source") is not None:
        return f"stands on another file, {_attribute(disk, 'backingStore/source', 'file')}"
    if disk.find("encryption") is not None or disk.find("source/encryption") is not None:
        return "is encrypted"
    if len(disk.findtext("serial", "")) == _UUID_CHARACTERS:
        return f"is the volume {disk.findtext('serial', '')} of another cloud"
    marks = ("shareable", "transient", "readonly")
    return next((f"is {mark}" for mark in marks if disk.find(mark) is not None), "")


def _refused_nics(nics: list[Element]) -> Iterator[str]:
    for nic in nics:
        mac = _attribute(nic, "mac", "address")
        if nic.get("type") not in TAP_TYPES:
            yield f"NIC {mac} is of the type {nic.get('type')}, not a tap on a bridge"
        if int(_attribute(nic, "driver", "queues") or 1) > 1:
            yield f"NIC {mac} has {_attribute(nic, 'driver', 'queues')} queues, a server's has one"
        if _attribute(nic, "vlan", "trunk") or len(nic.findall("vlan/tag")) > 1:
            yield f"NIC {mac} carries several VLANs"
        if _nic_model(nic) not in NIC_MODELS:
            yield f"NIC {mac} is of the model {_nic_model(nic)}"
    models = list(dict.fromkeys(map(_nic_model, nics)))
    if len(models) > 1:
        yield f"its NICs are of the models {' and '.join(models)}, those of a server of one"


def _attribute(parent: Element, path: str, name: str) -> str:
    child: Optional[Element] = parent.find(path)
    return child.get(name, "") if child is not None else ""
