"""Volumes as files of an NFS server, reached by qemu and by us in user space, without a mount."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional
from urllib.parse import quote

from agent import inspection, killpoint, layout
from agent.faults import StepFailed
from agent.resources.disk_source import Source
from agent.resources.domain_xml import VolumeInput
from agent.resources.home import Content
from agent.resources.home_folder import FORMATS
from agent.spec import Volume
from agent.system import nfs, qemu_img
from agent.system.qemu_img import Remote


class Export:
    """The cloud's own folder in an export."""

    def __init__(self, server: str, export: str, place: str) -> None:
        self._server, self._export, self._place = server, export, place

    def check(self) -> None:
        """The server answers, and the folder of the cloud is there; qemu can reach it, too."""
        with nfs.mounted(self._server, self._export) as mount:
            if mount.size_bytes(f"/{self._place}") is None:
                raise StepFailed(f"{self._server}:{self._export} lacks this cloud's folder")
        if not qemu_img.has_driver("nfs"):
            raise StepFailed("qemu on this host lacks its NFS driver (qemu-block-extra)")

    def claim(self) -> None:
        """Make the folder of the cloud."""
        with nfs.mounted(self._server, self._export) as mount:
            mount.make_folder(f"/{self._place}")

    def free_bytes(self) -> tuple[int, int]:
        """As the server says."""
        with nfs.mounted(self._server, self._export) as mount:
            return mount.free_bytes()

    def size_bytes(self, volume: Volume) -> Optional[int]:
        """As the file's own header says."""
        return self._size_bytes(_name(volume), volume.format)

    def build(self, volume: Volume, content: Optional[Content]) -> None:
        """Made under another name, and renamed when the server has all of it."""
        name, part = _name(volume), f".{_name(volume)}.part"
        remote = self._remote(part, volume.format)
        self._remove([part])
        try:
            if content is None:
                qemu_img.create(remote, volume.size_bytes)
            else:
                content.write(remote, exists=False)
            if (self._size_bytes(part, volume.format) or 0) < volume.size_bytes:
                qemu_img.resize(remote, volume.size_bytes)
            killpoint.reached(f"volume {volume.id} written")
            with nfs.mounted(self._server, self._export) as mount:
                mount.rename(self._path(part), self._path(name))
            killpoint.reached(f"volume {volume.id} there")
        finally:
            self._remove([part])

    def grow(self, volume: Volume) -> None:
        """By qemu-img."""
        qemu_img.resize(self.image(volume), volume.size_bytes)

    def remains(self, volume_id: str) -> list[str]:
        """Its file, and a part of one."""
        files = [f"{layout.checked(volume_id)}.{each}" for each in FORMATS]
        with nfs.mounted(self._server, self._export) as mount:
            names = [name for file in files for name in (file, f".{file}.part")]
            return [name for name in names if mount.size_bytes(self._path(name)) is not None]

    def remove(self, volume_id: str, remains: list[str]) -> None:
        """All of it."""
        self._remove(remains)

    def strangers(self, known: Iterable[str]) -> list[tuple[str, str]]:
        """Other hosts' volumes are there, too: what nobody knows, no host can tell."""
        return []

    def image(self, volume: Volume) -> Remote:
        """Its URL."""
        return self._remote(_name(volume), volume.format)

    def plugged(self, volume: Volume, device: str) -> VolumeInput:
        """Its server and path."""
        path = f"{self._export.rstrip('/')}{self._path(_name(volume))}"
        source = Source("nfs", path, hosts=(self._server,))
        return VolumeInput("", volume.format, volume.id, device, source, cache="none")

    def _size_bytes(self, name: str, disk_format: str) -> Optional[int]:
        path = self._path(name)
        with nfs.mounted(self._server, self._export) as mount:
            size_bytes = mount.size_bytes(path)
            if size_bytes is None or disk_format == "raw":
                return size_bytes
            return inspection.virtual_size_bytes(mount.head(path), disk_format)

    def _remote(self, name: str, disk_format: str) -> Remote:
        path = quote(f"{self._export.rstrip('/')}{self._path(name)}")
        return Remote(f"nfs://{self._server}{path}?uid=0&gid=0", disk_format)

    def _path(self, name: str) -> str:
        return f"/{self._place}/{name}"

    def _remove(self, names: list[str]) -> None:
        with nfs.mounted(self._server, self._export) as mount:
            for name in names:
                mount.remove(self._path(name))


def _name(volume: Volume) -> str:
    return f"{layout.checked(volume.id)}.{layout.checked(volume.format)}"
