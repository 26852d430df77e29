"""Where volumes are kept, and the one way in which all such places are spoken to.

A home makes a volume complete or not at all, makes it larger, removes it, and says by which names
qemu and libvirt know it. Which home a volume has, its backend says; nobody else asks for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, Protocol

from agent.faults import StepFailed
from agent.resources.base import Host
from agent.resources.domain_xml import VolumeInput
from agent.spec import Backend, HostSpec, Volume
from agent.system.qemu_img import Image

_HOMES = "homes"
"""Under this name ``Host.seen`` keeps them."""


class Content(Protocol):
    """What a volume begins with."""

    def write(self, target: Image, *, exists: bool) -> None:
        """Write it to a disk that is to be made, or is there (``exists``) and large enough."""
        ...


class Home(Protocol):
    """A place for volumes."""

    def check(self) -> None:
        """StepFailed, or an error of an engine, when this host does not have it (now)."""
        ...

    def claim(self) -> None:
        """Make the cloud's own place in it; well if that is there."""
        ...

    def free_bytes(self) -> tuple[int, int]:
        """Free and total bytes."""
        ...

    def size_bytes(self, volume: Volume) -> Optional[int]:
        """The size of the disk that a volume is; None when it is not there, or not complete."""
        ...

    def build(self, volume: Volume, content: Optional[Content]) -> None:
        """Make a volume, complete or not at all; what an earlier try left goes first."""
        ...

    def grow(self, volume: Volume) -> None:
        """Make a volume that nobody has open as large as it shall be."""
        ...

    def remains(self, volume_id: str) -> list[str]:
        """What there is of a volume, in words that the next call understands."""
        ...

    def remove(self, volume_id: str, remains: list[str]) -> None:
        """Destroy it."""
        ...

    def strangers(self, known: Iterable[str]) -> list[tuple[str, str]]:
        """Ids and names of volumes that are only this host's to know, and that it does not."""
        ...

    def image(self, volume: Volume) -> Image:
        """Its name for qemu's tools."""
        ...

    def plugged(self, volume: Volume, device: str) -> VolumeInput:
        """What libvirt is told of it, as a device."""
        ...


def home_of(host: Host, spec: HostSpec, backend_id: Optional[str]) -> Home:
    """The home of volumes with this backend (None: the host's own data folder)."""
    from agent.resources import homes

    if backend_id is None:
        return homes.own(host)
    known: dict[str, Home] = host.seen.setdefault(_HOMES, {})
    if backend_id not in known:
        known[backend_id] = homes.of_backend(host, spec, backend_of(spec, backend_id))
    return known[backend_id]


def backend_of(spec: HostSpec, backend_id: str) -> Backend:
    """A backend that the spec has."""
    found = next((each for each in spec.backends if each.id == backend_id), None)
    if found is None:
        raise StepFailed(f"the spec has no backend {backend_id}")
    return found
