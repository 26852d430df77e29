"""The part of the contract (``agent.spec``) that tells of a guest and its machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class FileContent:
    """A file for the guest, its content named by SHA-256 and sent when the agent asks."""

    path: str
    sha256: str
    mode: str = "0600"


@dataclass(frozen=True)
class PublicKey:
    """An SSH public key under the name that the user gave it."""

    name: str
    key: str


@dataclass(frozen=True)
class Guest:
    """What the config drive tells the guest. ``seed`` is random, in base64, and stays the same."""

    hostname: str
    name: str
    project_id: str
    launch_index: int
    availability_zone: str
    public_keys: tuple[PublicKey, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    user_data_sha256: Optional[str] = None
    files: tuple[FileContent, ...] = ()
    vendor_data_sha256: Optional[str] = None
    seed: Optional[str] = None
    instance_type: str = ""
    image_id: str = ""


@dataclass(frozen=True)
class Topology:
    """How a guest sees its virtual CPUs."""

    sockets: int
    cores: int
    threads: int


@dataclass(frozen=True)
class Hardware:
    """What a server's machine has beside the usual, as its image, its flavor or whoever booted it
    asked for.

    ``nvram``: it boots by UEFI, whose variables are the disk of this id (of the kind ``nvram``, and
    none of the server's ``disks``). ``video``: a display of this model, for VNC. ``watchdog``: what
    happens when the guest does not feed it. ``quiesce``: its disk is not copied without its
    agent's help. ``cdrom``: the bus of its config drive.
    """

    nvram: Optional[str] = None
    topology: Optional[Topology] = None
    video: Optional[str] = None
    watchdog: Optional[str] = None
    rng: bool = True
    guest_agent: bool = True
    quiesce: bool = False
    cdrom: Optional[str] = None


USUAL_HARDWARE = Hardware()


@dataclass(frozen=True)
class DirectKernel:
    """A kernel (and ramdisk) image booted directly, for images that are only a root file system."""

    kernel_image_id: str
    ramdisk_image_id: Optional[str]
    command_line: str
