"""Disks whose content is no file of this host, as libvirt is told of them; pure as domain_xml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from agent.resources.texts_xml import UnsafeText, check_text


@dataclass(frozen=True)
class Source:
    """A disk's content that is no file of this host: a volume of a storage pool (``protocol``
    pool), or what qemu itself reaches by nfs or rbd, with the servers' names, and (rbd) the user
    and libvirt's secret."""

    protocol: str
    name: str
    pool: str = ""
    hosts: tuple[str, ...] = ()
    user: str = ""
    secret: str = ""

    @property
    def key(self) -> str:
        """What names it beside the paths of files."""
        return f"{self.pool or self.protocol}:{self.name}"


def key_of(disk: Element) -> str:
    """What names the content of a disk: a file's path, or what ``Source.key`` says."""
    source = read(disk)
    return _attribute(disk, "source", "file") if source is None else source.key


def read(disk: Element) -> Optional[Source]:
    """What a disk's XML says of its content; None when that is a file, or nothing."""
    found = disk.find("source")
    if found is None:
        return None
    if disk.get("type") == "volume":
        return Source("pool", found.get("volume", ""), pool=found.get("pool", ""))
    if disk.get("type") != "network":
        return None
    hosts = [(host.get("name", ""), host.get("port", "")) for host in found.iterfind("host")]
    by_nfs = found.get("protocol") == "nfs"
    return Source(
        found.get("protocol", ""),
        found.get("name", ""),
        hosts=tuple(f"{name}:{port}" if port and not by_nfs else name for name, port in hosts),
        user=_attribute(found, "auth", "username"),
        secret=_attribute(found, "auth/secret", "uuid"),
    )


def put(disk: Element, source: Source) -> None:
    """Give a disk another content than a file."""
    disk.set("type", "volume" if source.protocol == "pool" else "network")
    found = disk.find("source")
    if found is None or source.protocol not in ("pool", "nfs", "rbd"):
        raise UnsafeText(f"not a protocol of disks: {source.protocol[:40]!r}")
    found.attrib.clear()
    if source.protocol == "pool":
        found.attrib.update(pool=source.pool, volume=source.name)
        return
    found.attrib.update(protocol=source.protocol, name=source.name)
    for host in source.hosts:
        name, _, port = host.partition(":")
        SubElement(found, "host", {"name": name, **({"port": port} if port else {})})
    if source.protocol == "nfs":
        # As root, as the agent makes it: the user that qemu runs as is another on each system.
        SubElement(found, "identity", user="+0", group="+0")
    if source.user:
        auth = SubElement(found, "auth", username=source.user)
        SubElement(auth, "secret", type="ceph", uuid=source.secret)


def backup_xml(target: str, path: str, disk_format: str) -> str:
    """What libvirt is told to copy a running domain's disk to a new file, and no other disk."""
    root = Element("domainbackup", mode="push")
    disk = SubElement(SubElement(root, "disks"), "disk", name=target, type="file", backup="yes")
    SubElement(disk, "driver", type=disk_format)
    SubElement(disk, "target", file=path)
    check_text(root)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(parent: Element, tag: str, name: str) -> str:
    child = parent.find(tag)
    return child.get(name, "") if child is not None else ""
