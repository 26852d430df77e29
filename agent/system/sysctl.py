"""Kernel settings of the network namespace that the calling thread is in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from agent import killpoint
from agent.system.run import CommandFailed

FOLDER = Path("/proc/sys")
_IPV6 = "net/ipv6/"


def has_ipv6() -> bool:
    """Whether the kernel speaks IPv6."""
    return (FOLDER / _IPV6).is_dir()


def read(names: Iterable[str]) -> dict[str, str]:
    """Settings by name (``net/ipv4/ip_forward``); those of a kernel without IPv6 are left out,
    others that are not there are empty."""
    found = {}
    ipv6 = has_ipv6()
    for name in names:
        if ipv6 or not name.startswith(_IPV6):
            found[name] = _value(FOLDER / name)
    return found


def _value(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def write(settings: Mapping[str, str]) -> None:
    """Set what is given."""
    for name, value in settings.items():
        killpoint.reached(f"{name} about to be set")
        try:
            (FOLDER / name).write_text(value)
        except OSError as error:
            argv = ("sysctl", "-w", f"{name}={value}")
            raise CommandFailed(argv, error.strerror or str(error)) from None
