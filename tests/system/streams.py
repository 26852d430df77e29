"""Traffic inside the namespaces of test hosts: streams whose progress can be read in a file."""

import socket
import sys
import time
from pathlib import Path


def told(file: str, words: str) -> None:
    """Say where the stream is; who reads sees the last word or this one."""
    part = Path(file + ".part")
    part.write_text(words + "\n")
    part.replace(file)


def receive(connection: socket.socket, file: str) -> None:
    """Count the bytes that come in."""
    count = 0
    while data := connection.recv(65536):
        count += len(data)
        told(file, str(count))


def talk(connection: socket.socket, seconds: float, pause: float) -> None:
    """Send, without end or until it is time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"x" * 1000)
        if pause:
            time.sleep(pause)


def listen(port: str, family: int = socket.AF_INET) -> socket.socket:
    server = socket.create_server(("", int(port)), family=family, backlog=8)
    return server.accept()[0]


def connect(address: str, port: str) -> socket.socket:
    """Connect as soon as somebody listens."""
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((address, int(port)), 5)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def tcp_sink(port: str, file: str) -> None:
    receive(listen(port), file)


def tcp_source(address: str, port: str, seconds: str, pause: str) -> None:
    talk(connect(address, port), float(seconds), float(pause))


def tcp_offer(port: str, seconds: str, pause: str) -> None:
    """Send to whoever connects."""
    talk(listen(port), float(seconds), float(pause))


def tcp_fetch(address: str, port: str, file: str) -> None:
    """Connect and count what comes."""
    receive(connect(address, port), file)


def udp_sink(port: str, file: str, seconds: str) -> None:
    """Count numbered datagrams, each once, and how many there should be by their numbers."""
    sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sink.bind(("", int(port)))
    sink.settimeout(0.2)
    seen: set[int] = set()
    end = time.monotonic() + float(seconds)
    told(file, "0 0")
    while time.monotonic() < end:
        try:
            seen.add(int(sink.recv(65536).strip(b".")))
        except TimeoutError:
            continue
        told(file, f"{len(seen)} {max(seen) + 1}")


def udp_source(address: str, port: str, count: str, size: str, pause: str) -> None:
    """Send numbered datagrams."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    source = socket.socket(family, socket.SOCK_DGRAM)
    for number in range(int(count)):
        source.sendto(str(number).encode().ljust(int(size), b"."), (address, int(port)))
        time.sleep(float(pause))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
