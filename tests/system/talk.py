"""What guests say to each other in tests: run inside a namespace by the host's own Python.

serve PORT: tell everybody who connects the address they come from, then echo their lines.
whoami ADDRESS PORT: print what a server says our address is.
stream ADDRESS PORT FILE: send a number, wait for its echo, write it into FILE, and so on.
adverts DEVICE ROUTER: ask for a router's advertisement and print what it holds.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
import threading
import time
from pathlib import Path


def serve(port: str) -> None:
    with socket.create_server(
        ("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True
    ) as door:
        while True:
            connection, address = door.accept()
            threading.Thread(target=answer, args=(connection, address[0]), daemon=True).start()


def answer(connection: socket.socket, address: str) -> None:
    with contextlib.suppress(OSError), connection:
        connection.sendall(address.removeprefix("::ffff:").encode() + b"\n")
        while data := connection.recv(65536):
            connection.sendall(data)


def whoami(address: str, port: str) -> None:
    with socket.create_connection((address, int(port)), 3) as connection:
        sys.stdout.write(connection.recv(100).decode())


def stream(address: str, port: str, file: str) -> None:
    with socket.create_connection((address, int(port)), 3) as connection:
        connection.settimeout(None)
        lines = connection.makefile("rb")
        lines.readline()
        number = 0
        while True:
            number += 1
            # Long lines, so that full-size packets are among what goes to and fro.
            connection.sendall(f"{number}".encode().rjust(4000) + b"\n")
            assert int(lines.readline()) == number
            Path(file).write_text(f"{number}")
            time.sleep(0.02)


def adverts(device: str, router: str) -> None:
    solicitation, all_routers = 0x85, "ff02::2"
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.settimeout(1)
        data, source = b"", ("",)
        deadline = time.monotonic() + 10
        while data[:1] != b"\x86" or source[0].partition("%")[0] != router:
            assert time.monotonic() < deadline, "no advertisement"
            # The guest's own address may not be ready yet.
            with contextlib.suppress(OSError):
                sock.sendto(struct.pack("!BBHI", solicitation, 0, 0, 0), (all_routers, 0))
                data, source = sock.recvfrom(2000)
    sys.stdout.write(f"managed {data[5] >> 7} other {data[5] >> 6 & 1}\n")
    sys.stdout.write(f"lifetime {int.from_bytes(data[6:8], 'big')}\n")
    options = data[16:]
    while options:
        kind, size = options[0], 8 * options[1]
        if kind == 3:
            prefix = ipaddress.IPv6Address(options[16:32])
            sys.stdout.write(f"prefix {prefix}/{options[2]} autonomous {options[3] >> 6 & 1}\n")
        if kind == 5:
            sys.stdout.write(f"mtu {int.from_bytes(options[4:8], 'big')}\n")
        options = options[size:]


if __name__ == "__main__":
    work = {"serve": serve, "whoami": whoami, "stream": stream, "adverts": adverts}
    work[sys.argv[1]](*sys.argv[2:])
