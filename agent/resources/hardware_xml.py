"""The parts of a domain that an image, a flavor or whoever booted it asked for: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from agent.resources.texts_xml import UnsafeText
from agent.spec import Hardware, Topology

GUEST_AGENT = "org.qemu.guest_agent.0"
CDROM_BUSES = ("ide", "sata", "scsi", "usb")
VIDEO_MODELS = ("vga", "cirrus", "virtio", "bochs", "qxl")
WATCHDOG_ACTIONS = ("reset", "poweroff", "pause", "none")


@dataclass(frozen=True)
class FirmwareInput:
    """Files of a UEFI firmware: its code, what a server's variables begin as, and where they are
    kept."""

    code: str
    variables: str
    kept: str


def add_firmware(os_element: Element, firmware: FirmwareInput) -> None:
    """Boot by UEFI; libvirt makes the file of variables when it is not there."""
    SubElement(os_element, "loader", readonly="yes", type="pflash").text = firmware.code
    SubElement(os_element, "nvram", template=firmware.variables).text = firmware.kept


def topology_element(topology: Topology, vcpus: int) -> Element:
    """Sockets, cores and threads; they must be as many as there are CPUs."""
    counts = (topology.sockets, topology.cores, topology.threads)
    if min(counts) < 1 or counts[0] * counts[1] * counts[2] != vcpus:
        raise UnsafeText(f"{vcpus} CPUs are not {counts[0]} x {counts[1]} x {counts[2]}")
    names = ("sockets", "cores", "threads")
    return Element("topology", dict(zip(names, map(str, counts))))


def drive_element(path: str, bus: str) -> Element:
    """The config drive, whose name must not meet those of disks."""
    if bus not in CDROM_BUSES:
        raise UnsafeText(f"not a bus of a CD-ROM drive: {bus[:40]!r}")
    element = Element("disk", type="file", device="cdrom")
    SubElement(element, "driver", name="qemu", type="raw")
    SubElement(element, "source", file=path)
    SubElement(element, "backingStore")
    SubElement(element, "target", dev="hdd" if bus == "ide" else "sdz", bus=bus)
    SubElement(element, "readonly")
    if bus == "scsi":
        # By its name libvirt would give it another controller, of a kind that few guests know.
        where = {"type": "drive", "controller": "0", "bus": "0", "target": "1", "unit": "0"}
        SubElement(element, "address", where)
    return element


def add_hardware(devices: Element, hardware: Hardware) -> None:
    """The line to the agent in the guest, a display, a watchdog, a source of random numbers."""
    if hardware.guest_agent:
        channel = SubElement(devices, "channel", type="unix")
        SubElement(channel, "target", type="virtio", name=GUEST_AGENT)
    if hardware.video is not None:
        _add_display(devices, hardware.video)
    if hardware.watchdog is not None:
        _add_watchdog(devices, hardware.watchdog)
    if hardware.rng:
        rng = SubElement(devices, "rng", model="virtio")
        SubElement(rng, "backend", model="random").text = "/dev/urandom"


def display_socket(xml: str) -> Optional[str]:
    """Where qemu serves the display of a guest that runs; None when it has no display."""
    listen = ElementTree.fromstring(xml).find("devices/graphics[@type='vnc']/listen[@socket]")
    return None if listen is None else listen.get("socket")


def _add_display(devices: Element, model: str) -> None:
    """A display behind a socket of libvirt's own: no port is open, and only root gets there."""
    if model not in VIDEO_MODELS:
        raise UnsafeText(f"not a video model: {model[:40]!r}")
    # A tablet's pointer is where the viewer's is; a mouse's wanders off.
    SubElement(devices, "input", type="tablet", bus="usb")
    graphics = SubElement(devices, "graphics", type="vnc")
    SubElement(graphics, "listen", type="socket")
    SubElement(SubElement(devices, "video"), "model", type=model)


def _add_watchdog(devices: Element, action: str) -> None:
    """What acts when the guest has begun to feed it and stops."""
    if action not in WATCHDOG_ACTIONS:
        raise UnsafeText(f"not an action of a watchdog: {action[:40]!r}")
    SubElement(devices, "watchdog", model="i6300esb", action=action)
