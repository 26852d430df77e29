"""Volumes in a storage pool of libvirt that the operator has defined, of whatever type it is.

libvirt makes, grows and deletes them. A volume cannot be renamed there, so one that is being
filled has a mark in the host's own folder: with it, what is there is not whole. An unbuilt volume
therefore stays with its host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Optional
from xml.etree import ElementTree

from agent import killpoint, layout, store
from agent.faults import StepFailed
from agent.resources.disk_source import Source
from agent.resources.domain_xml import VolumeInput
from agent.resources.home import Content
from agent.spec import Volume
from agent.system import libvirt_pools, qemu_img
from agent.system.libvirt_pools import PoolView
from agent.system.qemu_img import Image, ImageFile, Remote

PREFIX = "sc-"
OF_FILES = ("dir", "fs", "netfs", "gluster", "vstorage")
"""Types of pools whose volumes are files: qcow2, since libvirt looks for itself what a file is, and
a guest can write into a raw one whatever it likes."""

THICK = ("logical", "disk", "iscsi", "iscsi-direct", "scsi")
"""Types whose volumes begin with what was there before: they are wiped when they are deleted."""

CLAIM_BYTES = 1 << 20


@dataclass(frozen=True)
class Described:
    """What a pool's XML says: its type, and by what (rbd) its content is reached beside libvirt."""

    type: str
    name: str
    hosts: tuple[str, ...]
    user: str
    secret: str


class Pool:
    """A pool; ``claim_name``: what in it shows that it is the one that the other hosts share."""

    def __init__(self, data: Path, pool: str, claim_name: str) -> None:
        self._data, self._pool, self._claim_name = data, pool, claim_name

    def check(self) -> None:
        """It is active; if it is shared, it holds what the first host left there."""
        if self._described.type == "rbd" and not qemu_img.has_driver("rbd"):
            raise StepFailed("qemu on this host lacks its RBD driver (qemu-block-extra)")
        claim = self._claim_name
        if self._view and claim and libvirt_pools.volume(self._pool, claim) is None:
            raise StepFailed(
                f"storage pool {self._pool} lacks the volume {claim}: it is not the one that "
                "other hosts share"
            )

    def claim(self) -> None:
        """Leave a small volume there that names the cloud."""
        if self._view and libvirt_pools.volume(self._pool, self._claim_name) is None:
            libvirt_pools.create(self._pool, self._xml(self._claim_name, CLAIM_BYTES, "raw"))

    def free_bytes(self) -> tuple[int, int]:
        """As libvirt says."""
        return self._view.free_bytes, self._view.total_bytes

    def size_bytes(self, volume: Volume) -> Optional[int]:
        """As libvirt says; None while it is being filled."""
        self._require_format(volume)
        found = self._found(volume)
        if found is None or store.is_pending(self._data, _mark(volume.id)):
            return None
        return found.size_bytes

    def build(self, volume: Volume, content: Optional[Content]) -> None:
        """Made, then filled; the mark says meanwhile that it is not whole."""
        mark, name = _mark(volume.id), _name(volume.id)
        if self._found(volume) is not None:
            libvirt_pools.delete(self._pool, name, wipe=False)
        store.mark_pending(self._data, mark)
        killpoint.reached(f"volume {volume.id} begun")
        try:
            xml = self._xml(name, volume.size_bytes, volume.format)
            libvirt_pools.create(self._pool, xml)
            killpoint.reached(f"volume {volume.id} created")
            if content is not None:
                content.write(self.image(volume), exists=True)
        except BaseException:
            self.remove(volume.id, self.remains(volume.id))
            raise
        killpoint.reached(f"volume {volume.id} written")
        store.clear_pending(self._data, mark)

    def grow(self, volume: Volume) -> None:
        """By libvirt; some types of pools cannot."""
        libvirt_pools.resize(self._pool, _name(volume.id), volume.size_bytes)

    def remains(self, volume_id: str) -> list[str]:
        """Its volume, and the mark."""
        name, found = _name(volume_id), []
        if self._view and libvirt_pools.volume(self._pool, name) is not None:
            found.append(name)
        return found + [_mark(volume_id)] * store.is_pending(self._data, _mark(volume_id))

    def remove(self, volume_id: str, remains: list[str]) -> None:
        """Deleted, and wiped where the next one would find its content."""
        wipe = self._described.type in THICK
        libvirt_pools.delete(self._pool, _name(volume_id), wipe=wipe)
        store.clear_pending(self._data, _mark(volume_id))

    def strangers(self, known: Iterable[str]) -> list[tuple[str, str]]:
        """Those of our kind, in a pool that is this host's alone."""
        if self._claim_name:
            return []
        ours = [name for name in libvirt_pools.names(self._pool) if name.startswith(PREFIX)]
        found = [(name[len(PREFIX) :], name) for name in sorted(ours)]
        return [each for each in found if each[0] not in known]

    def image(self, volume: Volume) -> Image:
        """Its path; of rbd the name that librbd knows, with the user that the pool has."""
        pool = self._described
        if pool.type == "rbd":
            user = f":id={pool.user}" if pool.user else ""
            return Remote(f"rbd:{pool.name}/{_name(volume.id)}{user}", volume.format)
        found = self._found(volume)
        if found is None:
            raise StepFailed(f"storage pool {self._pool} has no volume {_name(volume.id)}")
        return ImageFile(Path(found.path), volume.format)

    def plugged(self, volume: Volume, device: str) -> VolumeInput:
        """Pool and name; rbd is not known to libvirt that way."""
        pool, name = self._described, _name(volume.id)
        source = Source("pool", name, pool=self._pool)
        if pool.type == "rbd":
            source = Source("rbd", f"{pool.name}/{name}", "", pool.hosts, pool.user, pool.secret)
        cache = "none" if self._claim_name else ""
        return VolumeInput("", volume.format, volume.id, device, source, cache)

    @cached_property
    def _view(self) -> PoolView:
        view = libvirt_pools.pool(self._pool)
        if view is None:
            raise StepFailed(f"libvirt on this host has no storage pool {self._pool}")
        if not view.active:
            raise StepFailed(f"storage pool {self._pool} is not active: virsh pool-start")
        return view

    @cached_property
    def _described(self) -> Described:
        return describe(self._view.xml)

    def _found(self, volume: Volume) -> Optional[libvirt_pools.VolumeView]:
        return libvirt_pools.volume(self._pool, _name(volume.id)) if self._view else None

    def _require_format(self, volume: Volume) -> None:
        wanted = "qcow2" if self._described.type in OF_FILES else "raw"
        if volume.format != wanted:
            raise StepFailed(
                f"storage pool {self._pool} is of the type {self._described.type}: the format of "
                f"its volumes must be {wanted}, not {volume.format}"
            )

    def _xml(self, name: str, size_bytes: int, disk_format: str) -> str:
        return volume_xml(self._described.type, name, size_bytes, disk_format)


def describe(xml: str) -> Described:
    """Read the XML of a pool."""
    root = ElementTree.fromstring(xml)
    auth, secret = root.find("source/auth"), root.find("source/auth/secret")
    hosts = [(each.get("name", ""), each.get("port", "")) for each in root.iterfind("source/host")]
    return Described(
        type=root.get("type", ""),
        name=root.findtext("source/name", ""),
        hosts=tuple(f"{name}:{port}" if port else name for name, port in hosts),
        user="" if auth is None else auth.get("username", ""),
        secret="" if secret is None else secret.get("uuid", ""),
    )


def volume_xml(pool_type: str, name: str, size_bytes: int, disk_format: str) -> str:
    """What libvirt is told to make a volume."""
    root = ElementTree.Element("volume")
    ElementTree.SubElement(root, "name").text = name
    ElementTree.SubElement(root, "capacity", unit="bytes").text = str(size_bytes)
    taken = size_bytes if pool_type in THICK else 0
    ElementTree.SubElement(root, "allocation", unit="bytes").text = str(taken)
    if pool_type in OF_FILES:
        target = ElementTree.SubElement(root, "target")
        ElementTree.SubElement(target, "format", type=disk_format)
    return ElementTree.tostring(root, encoding="unicode")


def _name(volume_id: str) -> str:
    return f"{PREFIX}{layout.checked(volume_id)}"


def _mark(volume_id: str) -> str:
    """Names the mark of a volume that is being filled."""
    return f"filling-{layout.checked(volume_id)}"
