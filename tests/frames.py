"""Ethernet frames, byte by byte, with right checksums: honest ones and the other kind."""

from __future__ import annotations

import ipaddress
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
IPV4, ARP, RARP, VLAN, QINQ, IPV6 = 0x0800, 0x0806, 0x8035, 0x8100, 0x88A8, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58


def eth(source: str, target: str, kind: int, payload: bytes, *tags: tuple[int, int]) -> bytes:
    """A frame; ``tags`` are (ethertype, VLAN), the outer one first."""
    head = _mac(target) + _mac(source)
    for ethertype, vlan in tags:
        head += struct.pack("!HH", ethertype, vlan)
    return (head + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(
    source: str,
    sha: str,
    spa: str,
    tpa: str,
    *,
    op: int = 1,
    target: str = BROADCAST,
    kind: int = ARP,
    tags: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """ARP (or reverse ARP): ``sha`` and ``spa`` are who claims to speak."""
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, op) + _mac(sha) + _ip(spa)
    return eth(source, target, kind, body + bytes(6) + _ip(tpa), *tags)


def packet(
    macs: tuple[str, str],
    ends: tuple[str, str],
    protocol: int,
    payload: bytes,
    *tags: tuple[int, int],
) -> bytes:
    """An IPv4 or IPv6 packet; ``macs`` and ``ends`` are source and destination."""
    source, target = map(_ip, ends)
    if len(source) == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0,
                           source, target)  # fmt: skip
        head = head[:10] + _checksum(head) + head[12:]
        return eth(*macs, IPV4, head + payload, *tags)
    head = struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 255, source, target)
    return eth(*macs, IPV6, head + payload, *tags)


def udp(
    macs: tuple[str, str], ends: tuple[str, str], ports: tuple[int, int], *tags: tuple[int, int]
) -> bytes:
    """A datagram of four bytes."""
    body = struct.pack("!HHHH", *ports, 12, 0) + b"data"
    return packet(macs, ends, UDP, _summed(ends, UDP, body, 6), *tags)


def pieces(
    macs: tuple[str, str], ends: tuple[str, str], ports: tuple[int, int], size: int
) -> list[bytes]:
    """A large IPv4 datagram, in as many fragments as it takes."""
    body = struct.pack("!HHHH", *ports, 8 + size, 0) + bytes(size)
    body = _summed(ends, UDP, body, 6)
    found, step = [], 1400
    for offset in range(0, len(body), step):
        part, more = body[offset : offset + step], 0x2000 if offset + step < len(body) else 0
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), ports[0], more | offset // 8,
                           64, UDP, 0, *map(_ip, ends))  # fmt: skip
        head = head[:10] + _checksum(head) + head[12:]
        found.append(eth(*macs, IPV4, head + part))
    return found


def tcp(
    macs: tuple[str, str],
    ends: tuple[str, str],
    ports: tuple[int, int],
    *tags: tuple[int, int],
    flags: int = SYN,
    seq: tuple[int, int] = (1, 0),
) -> bytes:
    """A segment without data; the first of a connection unless ``flags`` say otherwise."""
    body = struct.pack("!HHIIBBHHH", *ports, *seq, 0x50, flags, 65000, 0, 0)
    return packet(macs, ends, TCP, _summed(ends, TCP, body, 16), *tags)


def icmp(
    macs: tuple[str, str],
    ends: tuple[str, str],
    kind: int,
    code: int = 0,
    *tags: tuple[int, int],
    number: int = 1,
) -> bytes:
    """An ICMP or ICMPv6 message with the identifier ``number``."""
    body = struct.pack("!BBHHH", kind, code, 0, number, 1) + b"data"
    if ":" in ends[0]:
        return packet(macs, ends, ICMPV6, _summed(ends, ICMPV6, body, 2), *tags)
    body = body[:2] + _checksum(body) + body[4:]
    return packet(macs, ends, ICMP, body, *tags)


def neighbour(
    macs: tuple[str, str],
    ends: tuple[str, str],
    kind: int,
    target: str = "::",
    option: str = "",
    *tags: tuple[int, int],
) -> bytes:
    """Solicitation (135) or advertisement (136) for ``target``, with a MAC as its option; or a
    router's (133, 134), a redirect (137), a report of MLD (131, 143)."""
    body = struct.pack("!BBHI", kind, 0, 0, 0x20000000 if kind == 136 else 0) + _ip(target)
    if option:
        body += struct.pack("!BB", 1 if kind == 135 else 2, 1) + _mac(option)
    return packet(macs, ends, ICMPV6, _summed(ends, ICMPV6, body, 2), *tags)


def multicast_mac(address: str) -> str:
    """Where packets to an IPv6 multicast address go."""
    return "33:33:" + ":".join(f"{octet:02x}" for octet in _ip(address)[-4:])


def solicited(address: str) -> str:
    """The multicast address that whoever has ``address`` listens to."""
    return str(ipaddress.IPv6Address(_ip("ff02::1:ff00:0")[:13] + _ip(address)[13:]))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def _summed(ends: tuple[str, str], protocol: int, body: bytes, place: int) -> bytes:
    """The body with its checksum, which counts the addresses in."""
    source, target = map(_ip, ends)
    form = "!I3xB" if len(source) == 16 else "!xBH"
    rest = (len(body), protocol) if len(source) == 16 else (protocol, len(body))
    checksum = _checksum(source + target + struct.pack(form, *rest) + body)
    return body[:place] + checksum + body[place + 2 :]


def _checksum(data: bytes) -> bytes:
    total = sum(
        struct.unpack(f"!{(len(data) + 1) // 2}H", data.ljust(len(data) + len(data) % 2, b"\0"))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
