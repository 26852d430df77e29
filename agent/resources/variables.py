"""UEFI variables of servers: files that are built, copied and removed as disks are, for qemu alone.

A new one is a copy of what the firmware's makers give for it.
"""

from __future__ import annotations

from pathlib import Path

from agent import facts, layout
from agent.faults import StepFailed
from agent.spec import Disk, HostSpec
from agent.system import firmware, libvirt_conn
from agent.system.firmware import Uefi

KIND = "nvram"
FORMAT = "raw"


def kept_at(data: Path, nvram_id: str) -> str:
    """The file in which a server's variables are."""
    return str(layout.lies_at(layout.disk(data, nvram_id, FORMAT)))


def firmware_for(machine_type: str) -> Uefi:
    """The firmware of a machine; StepFailed when this host has none."""
    found = firmware.find_uefi(machine_type)
    if found is None:
        raise StepFailed(
            f"this host has no UEFI firmware for the machine {machine_type}: install the package "
            "ovmf (edk2-ovmf on Fedora)"
        )
    return found


def template(spec: HostSpec, disk: Disk) -> Path:
    """What the variables of a new server begin as."""
    named = next((each.machine_type for each in spec.servers if each.id == disk.server_id), None)
    usual = facts.machine_types(libvirt_conn.capabilities()).get("pc") if named is None else named
    return Path(firmware_for(str(usual)).variables)


def from_before(data: Path, disk: Disk) -> Path:
    """Where earlier agents had them: in their server's folder."""
    return layout.nvram(data, disk.server_id, disk.id)
