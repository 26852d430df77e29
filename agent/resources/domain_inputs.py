"""From the words of the spec to the inputs of a domain's definition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from agent import facts, images, layout
from agent.faults import StepFailed
from agent.resources import switch, topology, variables
from agent.resources.base import Host
from agent.resources.configdrive import ports_of, tap_name
from agent.resources.domain_xml import (
    BootInput,
    Described,
    DiskInput,
    DomainInput,
    NicInput,
    VolumeInput,
)
from agent.resources.hardware_xml import FirmwareInput
from agent.resources.home import home_of
from agent.spec import DirectKernel, Disk, HostSettings, HostSpec, Image, Server
from agent.system import files, libvirt_conn
from agent.system.libvirt_conn import NAME_PREFIX

SERIAL_CHARACTERS = 20
"""What virtio-blk shows of a disk's serial."""


@dataclass(frozen=True)
class Platform:
    """What this host gives every domain: looked up once in a convergence, when first needed."""

    host: Host
    settings: HostSettings

    @cached_property
    def virt_type(self) -> str:
        """kvm or qemu."""
        return facts.virt_type(self.settings)

    @cached_property
    def offload(self) -> bool:
        """Whether the datapath carries packets whose checksums the guest left to others."""
        if self.settings.datapath == "auto":
            integration = switch.look(self.host).bridges.get(topology.INTEGRATION)
            if integration is not None:
                return integration.datapath_type == "system"
        return facts.datapath(self.settings) == "system"

    @cached_property
    def machines(self) -> dict[str, Any]:
        """See facts.machine_types."""
        return facts.machine_types(libvirt_conn.capabilities())

    @property
    def machine_types(self) -> set[str]:
        """All versioned machine types."""
        newest = (self.machines.get(name) for name in ("pc", "q35"))
        return {*self.machines["all"], *(name for name in newest if name is not None)}

    @cached_property
    def machine_type(self) -> str:
        """The newest versioned ``pc`` machine."""
        found = self.machines.get("pc")
        if found is None:
            raise StepFailed("qemu on this host has no x86_64 pc machine")
        return str(found)

    @property
    def cpu_mode(self) -> str:
        """The CPU of servers whose row names none."""
        return "host-model" if self.virt_type == "kvm" else "maximum"


def domain_input(
    host: Host, spec: HostSpec, server: Server, platform: Platform, described: Optional[Described]
) -> DomainInput:
    """The inputs of a server's domain. What the row leaves open stays as the domain has it."""
    settled = described.machine_type if described is not None else ""
    machine_type = server.machine_type or settled or platform.machine_type
    return DomainInput(
        id=server.id,
        name=f"{NAME_PREFIX}{server.id}",
        vcpus=server.vcpus,
        ram_mb=server.ram_mb,
        virt_type=platform.virt_type,
        machine_type=machine_type,
        cpu_mode=server.cpu_mode or platform.cpu_mode,
        disk_bus=server.disk_bus,
        nic_model=server.nic_model,
        offload=not server.ports or platform.offload,
        disks=tuple(_disk(host, spec, disk_id) for disk_id in server.disks),
        nics=nics_of(spec, server),
        drive=str(layout.drive(host.data, server.id)),
        console_log=str(layout.console_log(host.data, server.id)),
        boot=_boot(host, server),
        volumes=volumes_of(host, spec, server),
        hardware=server.hardware,
        firmware=_firmware(host, server, machine_type),
    )


def _firmware(host: Host, server: Server, machine_type: str) -> Optional[FirmwareInput]:
    nvram_id = server.hardware.nvram
    if nvram_id is None:
        return None
    found = variables.firmware_for(machine_type)
    kept = variables.kept_at(host.data, nvram_id)
    return FirmwareInput(found.code, found.variables, kept)


def nics_of(spec: HostSpec, server: Server) -> tuple[NicInput, ...]:
    """A server's NICs in the order of its ports."""
    mtus = {network.id: network.mtu for network in spec.networks}
    ports = ports_of(spec, server)
    absent = set(server.ports) - {port.id for port in ports}
    if absent or any(port.network_id not in mtus for port in ports):
        raise StepFailed(f"the spec lacks ports or networks of the server: {sorted(absent)}")
    return tuple(NicInput(port.mac, tap_name(port.id), mtus[port.network_id]) for port in ports)


def volumes_of(host: Host, spec: HostSpec, server: Server) -> tuple[VolumeInput, ...]:
    """A server's volumes in the order of their devices."""
    volumes = {volume.id: volume for volume in spec.volumes}
    found = []
    for each in sorted(server.volumes, key=lambda each: each.device):
        volume = volumes.get(each.volume_id)
        if volume is None:
            raise StepFailed(f"the spec has no volume {each.volume_id}")
        found.append(home_of(host, spec, volume.backend_id).plugged(volume, each.device))
    return tuple(found)


def missing_needs(host: Host, spec: HostSpec, server: Server) -> str:
    """Which failed part keeps a server from being made; empty when none does.

    A kind that could not even look at the host has failed under the host's id.
    """
    needs = [("disk", disk_id) for disk_id in _disk_ids(server)]
    needs += [("volume", each.volume_id) for each in server.volumes]
    needs += [("port", port_id) for port_id in server.ports]
    needs += [("image", image_id) for image_id in _boot_images(server.kernel)]
    failed = [f"{kind} {key} failed" for kind, key in needs if (kind, key) in host.failed]
    kinds = dict.fromkeys(kind for kind, _ in needs)
    failed += [
        f"no {kind} could be checked" for kind in kinds if (kind, spec.host_id) in host.failed
    ]
    return ", ".join(failed)


def _disk_ids(server: Server) -> tuple[str, ...]:
    """Its disks, and its UEFI variables, which are one for whoever makes and keeps them."""
    nvram_id = server.hardware.nvram
    return server.disks if nvram_id is None else (*server.disks, nvram_id)


def missing_disks(data: Path, spec: HostSpec, server: Server) -> list[str]:
    """Those of a server's disks whose files are not there."""
    disks = [disk for disk in spec.disks if disk.id in _disk_ids(server)]
    return [disk.id for disk in disks if not layout.disk(data, disk.id, disk.format).exists()]


def boot_files(host: Host, spec: HostSpec, server: Server, folder: Path) -> None:
    """Give a server that boots a kernel directly its own copies of kernel and ramdisk.

    libvirt hands a domain's boot files to the qemu user; the shared image must stay root's.
    """
    kernel = server.kernel
    if kernel is None:
        return
    for name, image_id in (
        ("kernel", kernel.kernel_image_id),
        ("ramdisk", kernel.ramdisk_image_id),
    ):
        target = folder / name
        if image_id is not None:
            image = _image(spec, image_id)
            if images.cached(host.data, image.sha256) is None:
                raise StepFailed(f"image {image_id} is not in the cache")
            files.copy(layout.image(host.data, image.sha256), target, 0o600)


def _disk(host: Host, spec: HostSpec, disk_id: str) -> DiskInput:
    disk = next((disk for disk in spec.disks if disk.id == disk_id), None)
    if disk is None:
        raise StepFailed(f"the spec has no disk {disk_id}")
    base = _base(host, spec, disk)
    return DiskInput(
        path=str(layout.lies_at(layout.disk(host.data, disk.id, disk.format))),
        format=disk.format,
        serial=disk.serial or disk.id[:SERIAL_CHARACTERS],
        base_path=None if base is None else base[0],
        base_format=None if base is None else base[1],
    )


def _base(host: Host, spec: HostSpec, disk: Disk) -> Optional[tuple[str, str]]:
    if disk.image_id is None or disk.format != "qcow2":
        return None
    image = _image(spec, disk.image_id)
    return str(layout.image(host.data, image.sha256)), image.disk_format


def _image(spec: HostSpec, image_id: str) -> Image:
    image = next((image for image in spec.images if image.id == image_id), None)
    if image is None:
        raise StepFailed(f"the spec has no image {image_id}")
    return image


def _boot(host: Host, server: Server) -> Optional[BootInput]:
    if server.kernel is None:
        return None
    folder = layout.server(host.data, server.id)
    ramdisk = None if server.kernel.ramdisk_image_id is None else str(folder / "ramdisk")
    return BootInput(str(folder / "kernel"), ramdisk, server.kernel.command_line)


def _boot_images(kernel: Optional[DirectKernel]) -> tuple[str, ...]:
    if kernel is None:
        return ()
    ramdisk = () if kernel.ramdisk_image_id is None else (kernel.ramdisk_image_id,)
    return (kernel.kernel_image_id, *ramdisk)
