"""Where things lie in a host's data folder.

File names are ids and hashes that the controller made, never names that a user chose; whatever
else arrives here is refused, so no spec can lead outside the folder.
"""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UnsafeName(ValueError):
    """An id that cannot be part of a file name."""


def checked(name: str) -> str:
    """``name`` itself, when it is an id that may be part of a file name."""
    if not _NAME.fullmatch(name):
        raise UnsafeName(f"not an id: {name[:80]!r}")
    return name


def checked_hash(sha256: str) -> str:
    """``sha256`` itself, when it is the lower-case hex form of a SHA-256."""
    if not _SHA256.fullmatch(sha256):
        raise UnsafeName(f"not a SHA-256: {sha256[:80]!r}")
    return sha256


def images(data: Path) -> Path:
    """The folder of cached images, each a read-only file named by its SHA-256."""
    return data / "images"


def image(data: Path, sha256: str) -> Path:
    """The cached image with this hash."""
    return images(data) / checked_hash(sha256)


def disks(data: Path) -> Path:
    """The folder of all disks."""
    return data / "disks"


def disk(data: Path, disk_id: str, disk_format: str) -> Path:
    """The file of one incarnation of a disk."""
    return disks(data) / f"{checked(disk_id)}.{checked(disk_format)}"


def lies_at(path: Path) -> Path:
    """Where the file of a disk is: an adopted one stays where it was, under a link of our name."""
    return path.readlink() if path.is_symlink() else path


def volumes(data: Path) -> Path:
    """The folder of all volumes."""
    return data / "volumes"


def volume(data: Path, volume_id: str, disk_format: str) -> Path:
    """The file of a volume."""
    return volumes(data) / f"{checked(volume_id)}.{checked(disk_format)}"


def snapshots(data: Path) -> Path:
    """The folder of copies of disks that are being made."""
    return data / "snapshots"


def drives(data: Path) -> Path:
    """The folder of config drives."""
    return data / "drives"


def drive(data: Path, server_id: str) -> Path:
    """The config drive of a server."""
    return drives(data) / f"{checked(server_id)}.iso"


def server(data: Path, server_id: str) -> Path:
    """The folder of a server's console log and boot files."""
    return data / "servers" / checked(server_id)


def console_log(data: Path, server_id: str) -> Path:
    """What a server printed on its serial console."""
    return server(data, server_id) / "console.log"


def passage(data: Path, server_id: str) -> Path:
    """The folder of the sockets through which a server comes or goes."""
    return data / "moves" / checked(server_id)


def nvram(data: Path, server_id: str, nvram_id: str) -> Path:
    """The UEFI variables of a server, where they lay before they were a disk of it."""
    return server(data, server_id) / f"nvram-{checked(nvram_id)}.fd"


def leases(data: Path, subnet_id: str) -> Path:
    """The lease file of a subnet's dnsmasq."""
    return data / "dhcp" / checked(subnet_id) / "leases"


def dhcp_namespace(subnet_id: str) -> str:
    """The network namespace of a subnet's DHCP server."""
    return f"qdhcp-{checked(subnet_id)}"
