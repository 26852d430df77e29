"""One end of a conversation: runs by itself on a host of the lab, in a network namespace.

Requests come on stdin, a line of JSON each, and each is answered with a line. The namespace has
no name and ends with the process. A NIC in it is joined to the tap of a port, as a guest's is by
QEMU. Every end serves TCP and UDP at PORT: it says who asks, and sends back what it was sent.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PORT = 7007
NEW_NETWORK = 0x40000000
MTU_DISCOVER, PROBE, PKTINFO = 10, 3, 8
UDHCPC = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip -4 addr flush dev $interface
ip addr add $ip/$mask dev $interface
ip link set $interface mtu $mtu
[ -z "$router" ] || ip route replace default via $router
echo "$mtu" > "$0.mtu"
"""
streams = []


def run(*argv, timeout=20):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise OSError(f"{argv}: {done.stderr or done.stdout}")
    return done.stdout


def open_tap(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000))
    return descriptor


def in_namespace(descriptor):
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def plug(outside, inside, tap, mac, device):
    """Join a NIC in the namespace to a tap of the host."""
    in_namespace(outside)
    try:
        host_end = open_tap(tap)
    finally:
        in_namespace(inside)
    guest_end = open_tap(device)
    run("ip", "link", "set", device, "address", mac, "up")
    threading.Thread(target=relay, args=(host_end, guest_end), daemon=True).start()


def relay(one, other):
    """Carry frames to and fro, until the tap is gone."""
    while True:
        for source in select.select([one, other], [], [])[0]:
            try:
                os.write(other if source == one else one, os.read(source, 65536))
            except BlockingIOError:
                continue
            except OSError as error:
                # 77 (EBADFD): the device is deleted; 5 (EIO): it is down just now.
                if error.errno == 77:
                    return


def lease(device):
    """Get an address as a guest does; what MTU the server told."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script")
        script.write_text(UDHCPC)
        script.chmod(0o755)
        client = ("busybox", "udhcpc", "-i", device, "-n", "-q", "-f", "-t", "10", "-T", "1")
        run(*client, "-O", "mtu", "-s", str(script))
        return int(script.with_suffix(".mtu").read_text())


def serve():
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", PORT))
    udp.setsockopt(socket.IPPROTO_IP, MTU_DISCOVER, PROBE)
    udp.setsockopt(socket.IPPROTO_IP, PKTINFO, 1)
    threading.Thread(target=serve_udp, args=(udp,), daemon=True).start()
    door = socket.create_server(("", PORT), backlog=50)
    threading.Thread(target=serve_tcp, args=(door,), daemon=True).start()


def serve_udp(udp):
    while True:
        data, extra, _, sender = udp.recvmsg(65536, 100)
        # Answer from the address that was asked, which need not be the nearest one.
        asked = struct.pack("I4s4x", 0, extra[0][2][8:12])
        answer = [sender[0].encode().ljust(16) + data[16:]]
        with contextlib.suppress(OSError):
            udp.sendmsg(answer, [(socket.IPPROTO_IP, PKTINFO, asked)], 0, sender)


def serve_tcp(door):
    while True:
        connection, sender = door.accept()
        threading.Thread(target=answer, args=(connection, sender[0]), daemon=True).start()


def answer(connection, sender):
    with contextlib.suppress(OSError), connection:
        connection.sendall(sender.encode().ljust(16))
        while True:
            data = connection.recv(65536)
            if not data:
                return
            connection.sendall(data)


def tcp(address, size, patience=3):
    """Send bytes there and back; who the other end says we are, and the size of segments."""
    with socket.create_connection((address, PORT), patience) as connection:
        connection.settimeout(10)
        reader = connection.makefile("rb")
        seen = reader.read(16).decode().strip()
        data = os.urandom(size)
        threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
        same = reader.read(size) == data
        segment = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        return {"seen": seen, "same": same, "segment": segment}


def udp(address, size, patience=3):
    """One datagram of ``size`` bytes of payload that may not be fragmented, there and back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setsockopt(socket.IPPROTO_IP, MTU_DISCOVER, PROBE)
        asker.settimeout(1)
        asker.connect((address, PORT))
        data = os.urandom(size)
        for _ in range(patience):
            asker.send(data)
            with contextlib.suppress(socket.timeout):
                said = asker.recv(65536)
                return {"seen": said[:16].decode().strip(), "same": said[16:] == data[16:]}
    raise OSError("no answer")


def silent(address):
    """Whether neither TCP nor UDP nor ping gets there."""
    ping = ("ping", "-c", "3", "-i", "0.2", "-W", "1", address)
    tries = [lambda: run(*ping), lambda: tcp(address, 100, 1), lambda: udp(address, 100, 1)]
    with ThreadPoolExecutor(len(tries)) as pool:
        return not any(pool.map(succeeds, tries))


def succeeds(attempt):
    with contextlib.suppress(OSError):
        attempt()
        return True
    return False


class Stream:
    """One TCP connection that is never made again, with the longest time that it stood still."""

    def __init__(self, address):
        self.connection = socket.create_connection((address, PORT), 3)
        self.connection.settimeout(None)
        self.count, self.gap, self.last = 0, 0.0, time.monotonic()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            reader = self.connection.makefile("rb")
            reader.read(16)
            while True:
                self.connection.sendall(b"x" * 3000)
                if len(reader.read(3000)) < 3000:
                    return
                now = time.monotonic()
                self.gap = max(self.gap, now - self.last)
                self.count, self.last = self.count + 1, now
                time.sleep(0.02)

    def state(self):
        """How much came back, the longest pause, and the one that is just now."""
        now = time.monotonic() - self.last
        state = {"count": self.count, "gap": max(self.gap, now), "now": now}
        self.gap = 0.0
        return state


def stream(address):
    streams.append(Stream(address))
    return len(streams) - 1


def perform(request, outside, inside):
    op = request.pop("op")
    if op == "plug":
        return plug(outside, inside, **request)
    if op == "run":
        return run(*request["argv"])
    if op == "state":
        return streams[request["stream"]].state()
    if op == "hang-up":
        return streams[request["stream"]].connection.shutdown(socket.SHUT_RDWR)
    functions = (lease, tcp, udp, silent, stream)
    return next(each for each in functions if each.__name__ == op)(**request)


def main(own_namespace):
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    if own_namespace == "yes" and ctypes.CDLL(None).unshare(NEW_NETWORK):
        sys.exit("unshare")
    inside = os.open("/proc/self/ns/net", os.O_RDONLY)
    run("ip", "link", "set", "lo", "up")
    serve()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        try:
            said = {"said": perform(json.loads(line), outside, inside)}
        except (OSError, subprocess.TimeoutExpired) as error:
            said = {"failed": str(error)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
