"""What the lab and its guest image need from the machine: the packages are those of
playbooks/hosts."""

from __future__ import annotations

import shutil

COMMANDS = (
    "busybox",
    "cpio",
    "dbclient",
    "debugfs",
    "dnsmasq",
    "dropbear",
    "ethtool",
    "ip",
    "iptables",
    "libvirtd",
    "mcopy",
    "mkfs.vfat",
    "mmd",
    "mkfs.ext4",
    "modprobe",
    "nsenter",
    "ovs-vsctl",
    "ovs-vswitchd",
    "ovsdb-server",
    "ovsdb-tool",
    "qemu-img",
    "qemu-system-x86_64",
    "setsid",
    "sfdisk",
    "ssh-keygen",
    "sshd",
    "sudo",
    "syslinux",
    "unshare",
    "virsh",
    "virtlogd",
    "xorriso",
)

ADMIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def required_commands() -> dict[str, bool]:
    """Every command that the lab runs, and whether this machine has it."""
    return {name: shutil.which(name, path=ADMIN_PATH) is not None for name in COMMANDS}


def missing_commands() -> list[str]:
    """The commands that this machine lacks."""
    return [name for name, found in required_commands().items() if not found]
