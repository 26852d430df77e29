"""Speaks in a guest's place through the tap that its process holds; runs by itself on a host.

``PID TAP MAC OF ADDRESS...``: ask by ARP, as that MAC and each ADDRESS in turn, who has the
address OF; print those of them that are answered. The guest must not have a driver for the NIC:
what it does not read is there for us.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
from pathlib import Path

PIDFD_GETFD = 438
TUNGETIFF, TUNGETVNETHDRSZ, IFF_VNET_HDR = 0x800454D2, 0x800454D7, 0x4000
ARP, REPLY = bytes.fromhex("0806 0001 0800 06 04"), 2


def copied(pid, tap):
    """A copy of the descriptor that a process has of a tap."""
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        if f"iff:\t{tap}\n" in entry.read_text():
            libc = ctypes.CDLL(None, use_errno=True)
            return libc.syscall(PIDFD_GETFD, os.pidfd_open(pid), int(entry.name), 0)
    sys.exit(f"process {pid} does not hold {tap}")


def header(descriptor):
    """The size of what stands before each frame."""
    flags = struct.unpack("16sH22x", fcntl.ioctl(descriptor, TUNGETIFF, bytes(40)))[1]
    size = struct.unpack("i", fcntl.ioctl(descriptor, TUNGETVNETHDRSZ, bytes(4)))[0]
    return size if flags & IFF_VNET_HDR else 0


def ip(address):
    return socket.inet_aton(address)


def ask(pid, tap, mac, of, *addresses):
    descriptor = copied(int(pid), tap)
    skipped, own, target = header(descriptor), bytes.fromhex(mac.replace(":", "")), ip(of)
    for address in addresses:
        body = ARP + struct.pack("!H", 1) + own + ip(address) + bytes(6) + target
        os.write(descriptor, bytes(skipped) + (b"\xff" * 6 + own + body).ljust(60, b"\0"))
    answered, patience = set(), 1.0
    while select.select([descriptor], [], [], patience)[0]:
        frame = os.read(descriptor, 65536)[skipped:]
        if frame[12:20] == ARP and frame[21] == REPLY and frame[28:32] == target:
            answered.add(socket.inet_ntoa(frame[38:42]))
            patience = 0.2
    print(*sorted(answered))


if __name__ == "__main__":
    ask(*sys.argv[1:])
