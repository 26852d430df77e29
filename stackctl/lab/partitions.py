"""Disks of guest images: a partition to boot from, by BIOS or UEFI, and one with the system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stackctl.lab.commands import run

MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
UEFI_LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
"""Of the package systemd-boot-efi."""

UEFI_PLACE = "EFI/BOOT/BOOTX64.EFI"
"""Where firmware looks that was told nothing else."""

SYSLINUX = """\
DEFAULT guest
PROMPT 0
TIMEOUT 0
LABEL guest
  KERNEL vmlinuz
  INITRD ramdisk
  APPEND {command_line}
"""
LOADER = "timeout 0\ndefault guest\n"
ENTRY = """\
title guest
linux /vmlinuz
initrd /ramdisk
options {command_line}
"""


@dataclass(frozen=True)
class Payload:
    """What is booted."""

    kernel: Path
    ramdisk: Path
    command_line: str


def uefi_loader() -> list[Path]:
    """The boot loader for UEFI, which is one file; without it guests boot by BIOS only."""
    return [UEFI_LOADER] if UEFI_LOADER.exists() else []


def make_boot(image: Path, mib: int, payload: Payload, clock: Mapping[str, str]) -> None:
    """Make a FAT file system that BIOS (syslinux) starts from, and UEFI where this machine has
    systemd-boot; ``clock`` makes the tools write the same bytes at any time of day."""
    allocate(image, mib)
    run(["mkfs.vfat", "--invariant", "-h", "2048", "-n", "BOOT", str(image)])
    for folder in ("EFI", "EFI/BOOT", "loader", "loader/entries"):
        run(["mmd", "-i", str(image), f"::{folder}"], environment=clock)
    texts = {
        "syslinux.cfg": SYSLINUX.format(command_line=payload.command_line),
        "loader/loader.conf": LOADER,
        "loader/entries/guest.conf": ENTRY.format(command_line=payload.command_line),
    }
    sources = {"vmlinuz": payload.kernel, "ramdisk": payload.ramdisk}
    for loader in uefi_loader():
        sources[UEFI_PLACE] = loader
    for name, text in texts.items():
        sources[name] = image.with_name(name.rpartition("/")[2])
        sources[name].write_text(text)
    for name, source in sources.items():
        run(["mcopy", "-i", str(image), str(source), f"::{name}"], environment=clock)
    run(["syslinux", "--install", str(image)], environment=clock)


def allocate(image: Path, mib: int) -> None:
    """Make a file of this size, all hole."""
    with image.open("wb") as stream:
        stream.truncate(mib << 20)


def join(disk: Path, boot: Path, root: Path) -> Path:
    """Put the partitions behind an MBR; the first one is active, the second one may grow."""
    mib = {path: path.stat().st_size >> 20 for path in (boot, root)}
    allocate(disk, 1 + sum(mib.values()))
    sizes = f"1MiB,{mib[boot]}MiB,c,*\n{mib[boot] + 1}MiB,,83\n"
    run(["sfdisk", "-q", str(disk)], text=f"label: dos\nlabel-id: 0x57ac2c71\n{sizes}")
    with disk.open("r+b") as stream:
        stream.write(MBR.read_bytes()[:440])
    for start, part in ((1, boot), (1 + mib[boot], root)):
        where = [f"if={part}", f"of={disk}", f"seek={start}"]
        run(["dd", *where, "bs=1M", "conv=notrunc,sparse", "status=none"], timeout=600)
    return disk
