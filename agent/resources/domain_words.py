"""What definitions of domains are made from, and what is read from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from agent.resources.disk_source import Source
from agent.resources.hardware_xml import FirmwareInput
from agent.spec import USUAL_HARDWARE, Hardware


@dataclass(frozen=True)
class DiskInput:
    """A disk file with its format, the image under it, and the serial that the guest sees."""

    path: str
    format: str
    serial: str
    base_path: Optional[str] = None
    base_format: Optional[str] = None


@dataclass(frozen=True)
class VolumeInput:
    """A volume's file (or its ``source``, where it is none) with its format, its serial (the whole
    id), and the name of its device. ``cache`` is none for what several hosts reach: nothing of it
    may wait on one host while the guest goes on at another."""

    path: str
    format: str
    serial: str
    target: str
    source: Optional[Source] = None
    cache: str = ""

    @property
    def key(self) -> str:
        """What names its content in a domain."""
        return self.path if self.source is None else self.source.key


@dataclass(frozen=True)
class NicInput:
    """A NIC: its MAC, the tap device that is there for it, and the MTU of its network."""

    mac: str
    tap: str
    mtu: int


@dataclass(frozen=True)
class BootInput:
    """Files of a kernel and a ramdisk, booted directly."""

    kernel: str
    ramdisk: Optional[str]
    command_line: str


@dataclass(frozen=True)
class DomainInput:
    """Everything that shapes a domain's XML, its mark excepted.

    ``offload`` is off on hosts whose datapath cannot do checksums for guests.
    """

    id: str
    name: str
    vcpus: int
    ram_mb: int
    virt_type: str
    machine_type: str
    cpu_mode: str
    disk_bus: str
    nic_model: str
    offload: bool
    disks: tuple[DiskInput, ...]
    nics: tuple[NicInput, ...]
    drive: str
    console_log: str
    boot: Optional[BootInput] = None
    volumes: tuple[VolumeInput, ...] = ()
    hardware: Hardware = USUAL_HARDWARE
    firmware: Optional[FirmwareInput] = None


@dataclass(frozen=True)
class Mark:
    """What a domain carries to say whose it is, which power command it has obeyed, and what
    inputs it was made from."""

    cloud_id: str
    server_id: str
    project_id: str
    power_serial: int
    digest: str


@dataclass(frozen=True)
class Described:
    """What the XML of an existing domain says: its mark (None: not ours), what is compared
    beside the digest, its NICs and volumes, and what is reported."""

    mark: Optional[Mark]
    essentials: tuple[str, ...]
    nics: tuple[NicInput, ...]
    volumes: tuple[VolumeInput, ...]
    machine_type: str
    virt_type: str
    cpu: str
