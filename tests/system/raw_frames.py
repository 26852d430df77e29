"""Sends and receives whole Ethernet frames; runs by itself inside the namespaces of test hosts.

``send DEVICE FILE`` sends each line of hex. ``listen DEVICE FILE SECONDS`` writes the number of
every marked frame that comes in; frames that the device itself sends do not count.
"""

import socket
import sys
import time
from pathlib import Path

MARK = b"\xa5frame\xa5"
ALL, OUTGOING = 3, 4


def marked(frame: bytes, number: int) -> bytes:
    """The frame with a trailer that says which one it is; no protocol looks at it."""
    return frame + MARK + number.to_bytes(2, "big")


def opened(device: str, protocol: int) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    raw.bind((device, protocol))
    return raw


def send(device: str, file: str) -> None:
    raw = opened(device, 0)
    for line in Path(file).read_text().split():
        raw.send(bytes.fromhex(line))
        time.sleep(0.005)


def listen(device: str, file: str, seconds: str) -> None:
    raw = opened(device, ALL)
    raw.settimeout(0.2)
    end = time.monotonic() + float(seconds)
    with Path(file).open("w") as out:
        out.write("listening\n")
        out.flush()
        while time.monotonic() < end:
            try:
                frame, sender = raw.recvfrom(65536)
            except TimeoutError:
                continue
            if frame[-9:-2] == MARK and sender[2] != OUTGOING:
                out.write(f"{int.from_bytes(frame[-2:], 'big')}\n")
                out.flush()


if __name__ == "__main__":
    {"send": send, "listen": listen}[sys.argv[1]](*sys.argv[2:])
