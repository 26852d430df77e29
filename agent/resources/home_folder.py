"""Volumes as files in a folder: the host's own, or one that is the same on several hosts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from agent import inspection, killpoint, layout
from agent.faults import StepFailed
from agent.resources.domain_xml import VolumeInput
from agent.resources.home import Content
from agent.spec import Volume
from agent.system import files, qemu_img
from agent.system.qemu_img import Image, ImageFile

FORMATS = ("qcow2", "raw")


class Folder:
    """A folder of this host, its files named by volume and format."""

    cache = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None:
        """It is made when it is needed."""

    def claim(self) -> None:
        """Nobody else's."""

    def free_bytes(self) -> tuple[int, int]:
        """Of the file system that holds it."""
        return files.free_bytes(self._folder)

    def size_bytes(self, volume: Volume) -> Optional[int]:
        """As the file's own header says."""
        path = self._path(volume)
        return inspection.virtual_size_bytes(path, volume.format) if path.exists() else None

    def build(self, volume: Volume, content: Optional[Content]) -> None:
        """Made under another name, and renamed when it is durable."""
        files.make_folder(self._folder, 0o711)
        path = self._path(volume)
        part = ImageFile(_part(path), volume.format)
        part.path.unlink(missing_ok=True)
        try:
            if content is None:
                qemu_img.create(part, volume.size_bytes)
            else:
                content.write(part, exists=False)
            if inspection.virtual_size_bytes(part.path, part.format) < volume.size_bytes:
                qemu_img.resize(part, volume.size_bytes)
            part.path.chmod(0o600)
            files.sync_path(part.path)
            killpoint.reached(f"volume {volume.id} written")
            files.publish(part.path, path)
        finally:
            part.path.unlink(missing_ok=True)

    def grow(self, volume: Volume) -> None:
        """By qemu-img."""
        qemu_img.resize(self.image(volume), volume.size_bytes)

    def remains(self, volume_id: str) -> list[str]:
        """Its file, and a part of one."""
        paths = (self._folder / f"{layout.checked(volume_id)}.{each}" for each in FORMATS)
        return [str(each) for path in paths for each in (path, _part(path)) if each.exists()]

    def remove(self, volume_id: str, remains: list[str]) -> None:
        """All of it."""
        for path in remains:
            files.remove(Path(path))

    def strangers(self, known: Iterable[str]) -> list[tuple[str, str]]:
        """Whole files of other ids."""
        paths = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        seen = [path for path in paths if not path.name.startswith(".")]
        return [(path.stem, path.name) for path in seen if path.stem not in known]

    def image(self, volume: Volume) -> Image:
        """Its file."""
        return ImageFile(self._path(volume), volume.format)

    def plugged(self, volume: Volume, device: str) -> VolumeInput:
        """Its file."""
        path = str(self._path(volume))
        return VolumeInput(path, volume.format, volume.id, device, cache=self.cache)

    def _path(self, volume: Volume) -> Path:
        return self._folder / f"{layout.checked(volume.id)}.{layout.checked(volume.format)}"


class SharedFolder(Folder):
    """The cloud's own folder in one that several hosts share.

    That it is there shows a host that what is shared is really mounted: a host never makes it by
    the way, or volumes would end up below a mount that is missing.
    """

    cache = "none"

    def __init__(self, location: Path, place: str) -> None:
        super().__init__(location / place)
        self._location = location

    def check(self) -> None:
        """The folder of the cloud is there."""
        if not self._folder.is_dir():
            what = "is not there" if not self._location.is_dir() else "lacks this cloud's folder"
            raise StepFailed(f"{self._location} {what}: is the shared file system mounted?")

    def claim(self) -> None:
        """Make the folder of the cloud, in one that the operator has made."""
        if not self._location.is_dir():
            raise StepFailed(f"{self._location} is not there: is the shared file system mounted?")
        files.make_folder(self._folder, 0o711)
        files.sync_path(self._location)

    def strangers(self, known: Iterable[str]) -> list[tuple[str, str]]:
        """Other hosts' volumes are there, too: what nobody knows, no host can tell."""
        return []


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
