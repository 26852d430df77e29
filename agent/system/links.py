"""Network devices: looking at them through sysfs and ioctl, changing them through netlink.

Looking needs neither a process nor pyroute2 (whose import takes a tenth of a second of CPU); that
is loaded when something changes. Everything here acts in the namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from agent import killpoint
from agent.system.run import CommandFailed

SYSFS = Path("/sys/class/net")
IFF_UP = 1

_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFNETMASK = 0x8913, 0x8915, 0x891B
_SIOCGIFMTU, _SIOCGIFHWADDR, _SIOCGIFINDEX, _SIOCETHTOOL = 0x8921, 0x8927, 0x8933, 0x8946
_IFA_F_NODAD = 0x02
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17


@dataclass(frozen=True)
class Link:
    """A device in this namespace, as sysfs shows it. ``master`` is its Linux bridge or bond."""

    name: str
    mtu: int
    up: bool
    alias: str
    tap: bool
    master: str
    ipv6_off: bool


@dataclass(frozen=True)
class Configured:
    """A device as ioctl shows it, in whatever namespace the caller is: its first IPv4 address."""

    index: int
    mac: str
    mtu: int
    up: bool
    address: str
    tx_checksum: bool


def look(name: str) -> Optional[Link]:
    """The device ``name``, or None."""
    folder = f"{SYSFS}/{name}"
    try:
        return Link(
            name=name,
            mtu=int(_read(f"{folder}/mtu")),
            up=bool(int(_read(f"{folder}/flags"), 16) & IFF_UP),
            alias=_read(f"{folder}/ifalias").strip(),
            tap=Path(f"{folder}/tun_flags").exists(),
            master=_master(folder),
            ipv6_off=_ipv6_off(name),
        )
    except OSError:
        return None


def _read(path: str) -> str:
    """A small attribute; plain system calls, since a host can have thousands of devices."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="replace")
    finally:
        os.close(descriptor)


def _master(folder: str) -> str:
    try:
        return Path(f"{folder}/master").readlink().name
    except OSError:
        return ""


def look_all() -> dict[str, Link]:
    """All devices of this namespace by name."""
    found = (look(entry.name) for entry in os.scandir(SYSFS))
    return {link.name: link for link in found if link is not None}


def names() -> set[str]:
    """The devices of the namespace that this thread is in (sysfs shows another's there)."""
    return {name for _, name in socket.if_nameindex()}


def exists(name: str) -> bool:
    """Whether the namespace of this thread has the device."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _ipv6_switch(name: str) -> str:
    return f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"


def _ipv6_off(name: str) -> bool:
    try:
        return _read(_ipv6_switch(name)).strip() == "1"
    except OSError:
        return True  # a kernel without IPv6


def configured(name: str) -> Optional[Configured]:
    """A device's address, MAC and MTU by ioctl; None when this namespace does not have it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            flags = struct.unpack_from("=H", _ask(sock, _SIOCGIFFLAGS, name), 16)[0]
            mtu = struct.unpack_from("=i", _ask(sock, _SIOCGIFMTU, name), 16)[0]
            mac = _ask(sock, _SIOCGIFHWADDR, name)[18:24].hex(":")
            index = struct.unpack_from("=i", _ask(sock, _SIOCGIFINDEX, name), 16)[0]
        except OSError:
            return None
        address, tx_checksum = _address(sock, name), _tx(sock, name)
        return Configured(index, mac, mtu, bool(flags & IFF_UP), address, tx_checksum)


def _ask(sock: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(sock.fileno(), request, struct.pack("16s24x", name.encode()))


IF_INET6 = Path("/proc/thread-self/net/if_inet6")
_TENTATIVE_OR_FAILED = 0x40 | 0x08


def addresses_v6(name: str) -> list[str]:
    """The IPv6 addresses (with their prefix) of a device, link-local ones left out, that can be
    used: not those still or in vain tested for duplicates."""
    try:
        lines = IF_INET6.read_text().splitlines()
    except OSError:
        return []  # a kernel without IPv6
    found = []
    for line in lines:
        digits, _, prefix, _, flags, device = line.split()
        address = ipaddress.IPv6Address(int(digits, 16))
        usable = not address.is_link_local and not int(flags, 16) & _TENTATIVE_OR_FAILED
        if device == name and usable:
            found.append(f"{address}/{int(prefix, 16)}")
    return found


def _address(sock: socket.socket, name: str) -> str:
    try:
        address = _ask(sock, _SIOCGIFADDR, name)[20:24]
        mask = _ask(sock, _SIOCGIFNETMASK, name)[20:24]
    except OSError:
        return ""
    return f"{ipaddress.IPv4Address(address)}/{bin(int.from_bytes(mask, 'big')).count('1')}"


def _ethtool(sock: socket.socket, name: str, command: int, value: int = 0) -> int:
    import ctypes

    data = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    request = struct.pack("16sQ16x", name.encode(), ctypes.addressof(data))
    fcntl.ioctl(sock.fileno(), _SIOCETHTOOL, request)
    return int(struct.unpack("=II", data.raw)[1])


def _tx(sock: socket.socket, name: str) -> bool:
    try:
        return bool(_ethtool(sock, name, _ETHTOOL_GTXCSUM))
    except OSError:
        return False


def tx_checksum_off(name: str) -> None:
    """Let the kernel fill in checksums itself: some guests' DHCP clients check them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        if _tx(sock, name):
            with contextlib.suppress(OSError):
                _ethtool(sock, name, _ETHTOOL_STXCSUM, 0)


def ipv6_off(name: str) -> None:
    """Keep this host itself off the network behind a device."""
    switch = Path(_ipv6_switch(name))
    if switch.exists():
        switch.write_text("1")


_SERVER_SYSCTLS = {"accept_ra": "0", "autoconf": "0", "accept_dad": "0", "addr_gen_mode": "0"}
"""Of a device whose IPv6 address is given: it believes no router, and waits for nobody."""


def ipv6_server(name: str) -> bool:
    """Whether a device takes part in IPv6 as a server does."""
    try:
        found = {key: _read(_ipv6_sysctl(name, key)).strip() for key in _SERVER_SYSCTLS}
    except OSError:
        return False
    return found == _SERVER_SYSCTLS and not _ipv6_off(name)


def _ipv6_sysctl(name: str, key: str) -> str:
    return f"/proc/sys/net/ipv6/conf/{name}/{key}"


@contextlib.contextmanager
def _netlink(what: str) -> Iterator[Any]:
    """pyroute2 in the namespace of this thread; its errors become CommandFailed."""
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as netlink:
            yield netlink
        killpoint.reached(what)
    except NetlinkError as error:
        raise CommandFailed(("netlink", what), str(error)) from None
    except OSError as error:
        raise CommandFailed(("netlink", what), error.strerror or str(error)) from None


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise CommandFailed(("netlink", name), f"there is no device {name}") from None


@dataclass(frozen=True)
class Tap:
    """A persistent tap: it stays when the process behind it leaves. ``alias`` says whose it is."""

    name: str
    alias: str
    mtu: int


def make_taps(taps: Sequence[Tap]) -> None:
    """Make taps, or set right those that are there: marked, up, and this host not on them."""
    with _netlink("make taps") as netlink:
        for tap in taps:
            if not exists(tap.name):
                kind = {"kind": "tuntap", "mode": "tap", "tun_ifr": {"no_pi": 1}}
                netlink.link("add", ifname=tap.name, **kind)
                killpoint.reached(f"{tap.name} added")
            ipv6_off(tap.name)
            index = _index(tap.name)
            netlink.link("set", index=index, ifalias=tap.alias, mtu=tap.mtu, state="up")


def mark(name: str, alias: str) -> None:
    """Write who owns a device into its ifalias."""
    with _netlink(f"mark {name}") as netlink:
        netlink.link("set", index=_index(name), ifalias=alias)


def set_up(name: str, mtu: Optional[int] = None) -> None:
    """Set a device up, with an MTU when one is given."""
    with _netlink(f"set {name} up") as netlink:
        extra = {} if mtu is None else {"mtu": mtu}
        netlink.link("set", index=_index(name), state="up", **extra)


def drain(name: str) -> None:
    """Throw away what waits in a tap for whoever reads it; what comes from now on waits again."""
    path = SYSFS / name / "tx_queue_len"
    with contextlib.suppress(OSError):  # it is gone, and all that waited with it
        length = path.read_text().strip()
        # With each change of its length the kernel makes the queue anew, without what does not fit.
        path.write_text("1")
        path.write_text(length)


def delete(name: str) -> None:
    """Delete a device; one that is gone is fine."""
    delete_all([name])


def delete_all(names: Sequence[str]) -> None:
    """Delete devices; those that are gone are fine."""
    there = [name for name in names if exists(name)]
    if not there:
        return
    with _netlink(f"delete {' '.join(there)}") as netlink:
        for name in there:
            netlink.link("del", index=_index(name))


def make_veth(name: str, peer: str, netns: str) -> None:
    """Make a veth pair with its far end in a named namespace."""
    with _netlink(f"make veth {name}") as netlink:
        far = {"ifname": peer, "net_ns_fd": netns}
        netlink.link("add", ifname=name, kind="veth", peer=far)


def move(name: str, netns: str) -> None:
    """Move a device into a named namespace."""
    with _netlink(f"move {name} to {netns}") as netlink:
        netlink.link("set", index=_index(name), net_ns_fd=netns)


def configure(
    name: str, address: str, mac: Optional[str] = None, mtu: Optional[int] = None
) -> None:
    """Give a device exactly one IPv4 address (with its prefix), MAC and MTU, and set it up."""
    with _netlink(f"configure {name}") as netlink:
        index = _index(name)
        own, prefix = address.split("/")
        if mac is not None:
            netlink.link("set", index=index, address=mac)
        if mtu is not None:
            netlink.link("set", index=index, mtu=mtu)
        netlink.link("set", index=index, state="up")
        netlink.flush_addr(index=index, family=socket.AF_INET)
        netlink.addr("replace", index=index, address=own, prefixlen=int(prefix))


def configure_v6(name: str, address: str, mac: str, mtu: int) -> None:
    """Give a device exactly one IPv6 address (with its prefix) beside the link-local one of its
    MAC, and set it up."""
    with _netlink(f"configure {name}") as netlink:
        index = _index(name)
        # Off and on again: the link-local address is made anew, of the MAC that it has then.
        ipv6_off(name)
        netlink.link("set", index=index, address=mac)
        netlink.link("set", index=index, mtu=mtu, state="up")
        try:
            for key, value in _SERVER_SYSCTLS.items():
                Path(_ipv6_sysctl(name, key)).write_text(value)
            Path(_ipv6_switch(name)).write_text("0")
        except OSError as error:
            why = error.strerror or str(error)
            raise CommandFailed(("sysctl", name), f"IPv6 cannot be used here: {why}") from None
        own, prefix = address.split("/")
        nodad = {"flags": _IFA_F_NODAD}
        netlink.addr("replace", index=index, address=own, prefixlen=int(prefix), **nodad)


def default_route(gateway: str) -> None:
    """Send everything else to ``gateway``."""
    with _netlink(f"default route by {gateway}") as netlink:
        netlink.route("replace", dst="default", gateway=gateway)


def has_default_route() -> bool:
    """Whether this namespace has an IPv4 default route."""
    lines = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
    return any(line.split()[1] == "00000000" for line in lines)


def addresses(name: str) -> list[str]:
    """The addresses that reach beyond the link, IPv4 and IPv6, of a device in this namespace."""
    with _netlink(f"addresses of {name}") as netlink:
        found = netlink.get_addr(index=_index(name))
        texts = [str(message.get_attr("IFA_ADDRESS")) for message in found]
    return [text for text in texts if not ipaddress.ip_address(text).is_link_local]


def routes_by_default(name: str) -> bool:
    """Whether the IPv4 default route of this namespace leaves through a device."""
    lines = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
    return any(line.split()[:2] == [name, "00000000"] for line in lines)
