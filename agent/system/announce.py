"""Telling a network that an address has come here: gratuitous ARP, unsolicited neighbour adverts.

Sent in the namespace of the calling thread. Nothing says afterwards whether it happened.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Iterable

from agent import killpoint
from agent.system.run import CommandFailed

ROUNDS, PAUSE_S = 2, 0.02
"""A frame may be lost, so each is sent more than once."""

_ARP, _IPV6, _ICMPV6, _ADVERTISEMENT = 0x0806, 0x86DD, 58, 136
_REQUEST, _REPLY = 1, 2
_ROUTER_OVERRIDE = 0xA0000000
_TARGET_LINK_ADDRESS = 2


def announce(device: str, mac: str, addresses: Iterable[str]) -> None:
    """Say on ``device`` that it has these addresses."""
    frames = [frame for address in addresses for frame in frames_for(mac, address)]
    killpoint.reached(f"addresses of {device} about to be announced")
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as sock:
            sock.bind((device, 0))
            for number in range(ROUNDS):
                time.sleep(PAUSE_S if number else 0)
                for frame in frames:
                    sock.send(frame)
    except OSError as error:
        raise CommandFailed(("announce", device), error.strerror or str(error)) from None


def frames_for(mac: str, address: str) -> list[bytes]:
    """The frames that announce one address: some listen to ARP requests only, some to replies."""
    if ":" in address:
        return [_neighbour_advertisement(mac, address)]
    return [_gratuitous_arp(mac, address, operation) for operation in (_REQUEST, _REPLY)]


def _gratuitous_arp(mac: str, address: str, operation: int) -> bytes:
    own, ip = bytes.fromhex(mac.replace(":", "")), ipaddress.IPv4Address(address).packed
    target = own if operation == _REPLY else bytes(6)
    head = b"\xff" * 6 + own + struct.pack("!HHHBBH", _ARP, 1, 0x0800, 6, 4, operation)
    return head + own + ip + target + ip


def _neighbour_advertisement(mac: str, address: str) -> bytes:
    own, ip = bytes.fromhex(mac.replace(":", "")), ipaddress.IPv6Address(address).packed
    everybody = ipaddress.IPv6Address("ff02::1").packed
    option = struct.pack("!BB6s", _TARGET_LINK_ADDRESS, 1, own)
    body = struct.pack("!BBHI16s", _ADVERTISEMENT, 0, 0, _ROUTER_OVERRIDE, ip) + option
    pseudo = ip + everybody + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    head = struct.pack("!IHBB16s16s", 6 << 28, len(body), _ICMPV6, 255, ip, everybody)
    return b"\x33\x33\x00\x00\x00\x01" + own + struct.pack("!H", _IPV6) + head + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
