"""A VLAN device for guests of tests, on kernels that have none; runs in a guest's namespace.

``PARENT VLAN NAME MAC``: a device NAME whose frames leave by PARENT with the tag, and which gets
those that come in there with it, without.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys

ALL, OUTGOING = 3, 4
SOL_PACKET, PACKET_AUXDATA, VLAN_VALID = 263, 8, 0x10
TUNSETIFF, TAP_WITHOUT_HEADER = 0x400454CA, 0x1002


def tap(name: str, mac: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_WITHOUT_HEADER))
    subprocess.run(["ip", "link", "set", name, "address", mac, "mtu", "1450", "up"], check=True)
    return descriptor


def parent_socket(name: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
    raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    raw.bind((name, ALL))
    return raw


def received(raw: socket.socket) -> tuple[bytes, int]:
    """A frame without its tag, and the tag, which the kernel tells beside it (0: none)."""
    frame, beside, _, sender = raw.recvmsg(65536, 256)
    if sender[2] == OUTGOING:
        return b"", 0
    for _, kind, data in beside:
        status, tci = struct.unpack("=I12xH", data[:18])
        if kind == PACKET_AUXDATA and status & VLAN_VALID:
            return frame, tci & 0xFFF
    return frame, 0


def main(parent: str, vlan: str, name: str, mac: str) -> None:
    raw, device = parent_socket(parent), tap(name, mac)
    tag = struct.pack("!HH", 0x8100, int(vlan))
    while True:
        for ready in select.select([raw, device], [], [])[0]:
            if ready is raw:
                frame, found = received(raw)
                if found == int(vlan):
                    os.write(device, frame)
            else:
                frame = os.read(device, 65536)
                raw.send(frame[:12] + tag + frame[12:])


if __name__ == "__main__":
    main(*sys.argv[1:])
