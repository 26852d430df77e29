"""dnsmasq processes: starting, recognising, reloading and stopping them, and ending a lease."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import signal
import socket
import struct
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

from agent import killpoint
from agent.system import netns
from agent.system.run import CommandFailed, run

STOP_S = 3.0
RELEASE_S = 1.0
_POLL_S = 0.01
_ACCOUNTS = ("dnsmasq", "nobody")
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))

_BOOTREQUEST, _ETHERNET, _DHCPRELEASE = 1, 1, 7
_MAGIC = b"\x63\x82\x53\x63"


@dataclass(frozen=True)
class Lease:
    """A line of dnsmasq's lease file; ``expires`` is in seconds since 1970 (0: never).

    DHCPv6 has no MAC there, but the number of the guest's association: ``mac`` is empty then, and
    ``client_id`` is the guest's DUID.
    """

    expires: int
    mac: str
    address: str
    client_id: str


def account() -> str:
    """The account that dnsmasq gives its rights up to."""
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return "root"


def host_resolvers() -> tuple[str, ...]:
    """The host's own IPv4 name servers; a local stub's upstreams instead of the stub."""
    for file in _RESOLVERS:
        found = _nameservers(file)
        if found:
            return found
    return ()


def _nameservers(file: Path) -> tuple[str, ...]:
    found = []
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    address = ipaddress.IPv4Address(words[1])
                    if not address.is_loopback:
                        found.append(str(address))
    return tuple(found)


def start(namespace: str, conf: Path) -> None:
    """Start dnsmasq in a namespace; it returns when it listens, or fails with its own words."""
    run(["dnsmasq", f"--conf-file={conf}"], timeout_s=20, netns=namespace)
    killpoint.reached("dnsmasq started")


def is_running(pid: int, conf: Path) -> bool:
    """Whether process ``pid`` is the dnsmasq that was started with ``conf``."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"--conf-file={conf}".encode() in words


def find(conf: Path) -> list[int]:
    """All processes that were started with ``conf``, by looking at every process."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if is_running(pid, conf)]


def started_at(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def reload(pid: int) -> None:
    """Make dnsmasq read hosts, options, names and servers again."""
    killpoint.reached("dnsmasq about to be reloaded")
    os.kill(pid, signal.SIGHUP)


def stop(conf: Path) -> None:
    """End every dnsmasq of ``conf``; none is fine."""
    deadline = time.monotonic() + STOP_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = find(conf)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while any(is_running(pid, conf) for pid in pids):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        deadline += STOP_S
    killpoint.reached("dnsmasq stopped")


def leases(file: Path) -> list[Lease]:
    """The leases that dnsmasq has given."""
    found = []
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 5 and words[0].isdigit():
                mac = "" if ":" in words[2] else words[1]
                found.append(Lease(int(words[0]), mac, words[2], words[4]))
    return found


def with_identity(text: str, mac: str) -> str:
    """The text of a lease file of DHCPv6, with the server's DUID: its MAC's (RFC 8415 §11.4), the
    same on every host, so that a guest that moves keeps its server."""
    kept = [line for line in text.splitlines() if not line.startswith("duid ")]
    return "".join(f"{line}\n" for line in (f"duid 00:03:00:01:{mac}", *kept))


def release(namespace: str, device: str, server: str, lease: Lease, file: Path) -> bool:
    """End a lease as its client would (RFC 2131 §4.4.6); says whether dnsmasq has dropped it."""
    packet = release_packet(server, lease)
    netns.inside(namespace, partial(_send, device, server, packet))
    deadline = time.monotonic() + RELEASE_S
    while lease.address in {entry.address for entry in leases(file)}:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def release_packet(server: str, lease: Lease) -> bytes:
    """A DHCPRELEASE for a lease."""
    hardware = bytes.fromhex(lease.mac.replace(":", ""))
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s64s128s",
        *(_BOOTREQUEST, _ETHERNET, len(hardware), 0, int.from_bytes(os.urandom(4), "big"), 0, 0),
        *(ipaddress.IPv4Address(lease.address).packed, bytes(4), bytes(4), bytes(4)),
        *(hardware, b"", b""),
    )
    options = bytes([53, 1, _DHCPRELEASE, 54, 4]) + ipaddress.IPv4Address(server).packed
    if lease.client_id != "*":
        identity = bytes.fromhex(lease.client_id.replace(":", ""))
        options += bytes([61, len(identity)]) + identity
    return head + _MAGIC + options + b"\xff"


def _send(device: str, server: str, packet: bytes) -> None:
    """Send from the server's own namespace, bound to its device so that it counts as from there."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.sendto(packet, (server, 67))
    except OSError as error:
        raise CommandFailed(("dhcp-release", device), error.strerror or str(error)) from None


def pid_of(file: Path) -> Optional[int]:
    """The number in a pid file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
