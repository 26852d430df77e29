"""The XML of a guest that goes to another host. Pure.

It goes on there as it runs here, devices and addresses and all, but with that host's files. From
its next start on it is what that host makes of its row, like any other server.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Optional
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from agent.resources.domain_xml import MARK_URI, Mark, describe, mark_element

_FILES = ("source", "backingStore")
_BOOT_FILES = ("kernel", "initrd", "loader", "nvram")


class Unfit(ValueError):
    """The other host's definition is not one of this guest."""


def as_it_goes_on(running: str, defined: str) -> str:
    """The XML with which a guest goes on at another host: as it runs here, with the files of
    ``defined``, which is what the other host makes of its row."""
    root, there = ElementTree.fromstring(running), ElementTree.fromstring(defined)
    _take_disks(root, there)
    for name in _BOOT_FILES:
        _take_text(root, there, f"os/{name}")
    _take_marks(root, there)
    log, other = root.find("devices/serial/log"), there.find("devices/serial/log")
    if log is not None and other is not None:
        log.set("file", other.get("file", ""))
    return ElementTree.tostring(root, encoding="unicode")


def with_served(defined: str, power_serial: int) -> str:
    """A definition whose mark says that this power command was obeyed."""
    root = ElementTree.fromstring(defined)
    mark = describe(defined).mark
    if mark is None:
        raise Unfit("the other host's definition bears no mark of ours")
    _put_mark(root, replace(mark, power_serial=power_serial))
    return ElementTree.tostring(root, encoding="unicode")


def targets_of(xml: str, paths: set[str]) -> tuple[str, ...]:
    """The names of the devices that have these files."""
    disks = ElementTree.fromstring(xml).iterfind("devices/disk")
    return tuple(_target(disk) for disk in disks if _file(disk) in paths)


def cpu_of(xml: str) -> Optional[str]:
    """The CPU that a running guest has, where it has a named one (XML)."""
    cpu = ElementTree.fromstring(xml).find("cpu")
    if cpu is None or cpu.find("model") is None:
        return None
    wanted = Element("cpu", match="exact")
    for child in cpu:
        if child.tag in ("model", "vendor", "feature"):
            wanted.append(copy.deepcopy(child))
    return ElementTree.tostring(wanted, encoding="unicode")


def offloads(xml: str) -> bool:
    """Whether a NIC of a guest leaves checksums to its host."""
    nics = ElementTree.fromstring(xml).findall("devices/interface")
    hosts = [nic.find("driver/host") for nic in nics]
    return any(host is None or host.get("csum") != "off" for host in hosts)


def qemu_owner(capabilities: str, virt_type: str) -> tuple[int, int]:
    """The user and group that qemu runs as here; root when libvirt does not say."""
    for model in ElementTree.fromstring(capabilities).iterfind("host/secmodel"):
        if model.findtext("model") != "dac":
            continue
        for label in model.iterfind("baselabel"):
            if label.get("type") == virt_type:
                user, _, group = (label.text or "").partition(":")
                return int(user), int(group)
    return 0, 0


def _take_disks(root: Element, there: Element) -> None:
    theirs = {_target(disk): disk for disk in there.iterfind("devices/disk")}
    for disk in root.iterfind("devices/disk"):
        other = theirs.get(_target(disk))
        if other is None:
            raise Unfit(f"the other host knows no device {_target(disk)} of this guest")
        for name in _FILES:
            for old in disk.findall(name):
                disk.remove(old)
            disk.extend(copy.deepcopy(new) for new in other.findall(name))


def _take_text(root: Element, there: Element, path: str) -> None:
    mine, other = root.find(path), there.find(path)
    if mine is not None and other is not None:
        mine.text = other.text


def _take_marks(root: Element, there: Element) -> None:
    mark = describe(ElementTree.tostring(there, encoding="unicode")).mark
    if mark is None:
        raise Unfit("the other host's definition bears no mark of ours")
    _put_mark(root, mark)


def _put_mark(root: Element, mark: Mark) -> None:
    metadata = root.find("metadata")
    if metadata is None:
        raise Unfit("the guest bears no mark of ours")
    for old in metadata.findall(f"{{{MARK_URI}}}server"):
        metadata.remove(old)
    metadata.append(mark_element(mark))


def _target(disk: Element) -> str:
    target = disk.find("target")
    return "" if target is None else target.get("dev", "")


def _file(disk: Element) -> str:
    source = disk.find("source")
    return "" if source is None else source.get("file", "")
