"""The properties of images that say what machine their guests need, by Glance's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from stackctl.errors import UsageError

DISK_BUSES = ("virtio", "scsi", "sata", "ide", "usb")
CDROM_BUSES = ("scsi", "sata", "ide", "usb")
NIC_MODELS = ("virtio", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k_pci", "vmxnet3")
VIDEO_MODELS = ("vga", "cirrus", "virtio", "bochs", "qxl", "none")
WATCHDOG_ACTIONS = ("disabled", "none", "reset", "poweroff", "pause")
MOST_CPUS = 1024

YES = ("true", "yes", "on", "1", "t", "y")
NO = ("false", "no", "off", "0", "f", "n")

_MACHINE = re.compile(r"pc|q35|pc-[a-z0-9][a-z0-9._-]{0,59}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


def is_yes(text: str) -> bool:
    """Whether a word of a property means yes."""
    return text.lower() in YES


def check_hardware(properties: Mapping[str, str]) -> None:
    """UsageError when a property has a value that no machine here can be made of."""
    for name, (fits, wanted) in _WORDS.items():
        value = properties.get(name)
        if value is not None and not fits(value):
            raise UsageError(
                f"Image property {name} is '{value[:80]}', which no machine here can have: "
                f"{wanted}.",
                hint=f"stackctl image-unset IMAGE --property {name}   (the usual one is taken)",
            )
    for name in ("hw_disk_bus", "hw_cdrom_bus"):
        if properties.get(name) == "ide" and "q35" in properties.get("hw_machine_type", ""):
            raise UsageError(
                f"Image property {name} is 'ide' and hw_machine_type is "
                f"'{properties['hw_machine_type']}': a q35 machine has no IDE.",
                hint=f"stackctl image-set IMAGE --property {name}=sata",
            )


def check_count(what: str, text: str) -> int:
    """The number of sockets, cores or threads that a text says."""
    if not _is_count(text):
        raise UsageError(f"{what} is '{text[:80]}': a number from 1 to {MOST_CPUS} is needed.")
    return int(text)


def _one_of(*known: str) -> tuple[Callable[[str], bool], str]:
    return known.__contains__, f"use {', '.join(known)}"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_CPUS


_COUNT = (_is_count, f"use a number from 1 to {MOST_CPUS}")
_YES_OR_NO: tuple[Callable[[str], bool], str] = (
    lambda text: text.lower() in (*YES, *NO),
    "use yes or no",
)
_WORDS: dict[str, tuple[Callable[[str], bool], str]] = {
    "hw_firmware_type": _one_of("uefi", "bios"),
    "hw_machine_type": (
        lambda text: bool(_MACHINE.fullmatch(text)),
        "use pc, q35 or a versioned machine of the hosts' qemu (stackctl host-show lists them)",
    ),
    "hw_disk_bus": _one_of(*DISK_BUSES),
    "hw_cdrom_bus": _one_of(*CDROM_BUSES),
    "hw_scsi_model": _one_of("virtio-scsi"),
    "hw_vif_model": _one_of(*NIC_MODELS),
    "hw_cpu_sockets": _COUNT,
    "hw_cpu_cores": _COUNT,
    "hw_cpu_threads": _COUNT,
    "hw_cpu_max_sockets": _COUNT,
    "hw_cpu_max_cores": _COUNT,
    "hw_cpu_max_threads": _COUNT,
    "hw_qemu_guest_agent": _YES_OR_NO,
    "hw_video_model": _one_of(*VIDEO_MODELS),
    "hw_rng_model": _one_of("virtio"),
    "hw_watchdog_action": _one_of(*WATCHDOG_ACTIONS),
    "os_require_quiesce": _YES_OR_NO,
    "os_secure_boot": (
        lambda text: text in ("disabled", "optional"),
        "use disabled or optional, machines here do not check signatures",
    ),
    "os_admin_user": (lambda text: bool(_USER.fullmatch(text)), "use the name of a user"),
}
"""What each of them may be, and what to use instead of anything else."""
