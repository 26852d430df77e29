"""PID 1 of a test host: its own ovsdb-server and ovs-vswitchd, and the network kinds of the agent.

Reads one JSON request per line on stdin and answers with one line each. The process that starts
it has put it into namespaces of its own; when it ends, everything it started ends with it.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.resources.base import Host
from agent.resources.registry import NETWORK_KINDS
from agent.spec import HostSpec, from_plain
from agent.system import (
    announce,
    conntrack,
    dnsmasq,
    files,
    iptables,
    links,
    netns,
    ovs,
    public_files,
    routing,
    sysctl,
)
from agent.system.run import CommandFailed

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
EFFECTS = {
    links: (
        "make_taps",
        "mark",
        "set_up",
        "delete_all",
        "make_veth",
        "move",
        "configure",
        "configure_v6",
        "ipv6_off",
    ),
    ovs: (
        "transact",
        "change_flows",
        "delete_flows",
        "change_meter",
        "flush_zone",
        "flush_addresses",
    ),
    files: ("write_atomic",),
    netns: ("make", "delete"),
    iptables: ("restore", "replace"),
    routing: ("change",),
    sysctl: ("write",),
    conntrack: ("forget",),
    announce: ("announce",),
    dnsmasq: ("start", "stop", "reload", "release"),
    public_files: ("write", "make_public", "remove_tree"),
}


class Killed(BaseException):
    """The agent died here."""


class Killer:
    """Counts effects; dies before the n-th."""

    def __init__(self) -> None:
        self.count, self.at = 0, 0
        for module, names in EFFECTS.items():
            for name in names:
                setattr(module, name, partial(self._call, getattr(module, name)))

    def _call(self, function, *args, **kwargs):
        self.count += 1
        if self.count == self.at:
            raise Killed(function.__name__)
        return function(*args, **kwargs)


killer = Killer()


def converge(data: Path, plain: dict, observing: bool) -> list[dict]:
    """What the agent does with these kinds, as base.py describes it."""
    spec = from_plain(HostSpec, plain)
    host = Host(data=data, boot_id="", boot_id_before=None, blob=lambda _: b"", observing=observing)
    reports: list[dict] = []
    looks = [kind.removals for kind in reversed(NETWORK_KINDS)] + [
        kind.changes for kind in NETWORK_KINDS
    ]
    for look in looks:
        for step in list(look(host, spec)):
            reports.append(run_step(host, step))
    return reports


def run_step(host: Host, step) -> dict:
    result, facts, fault = step.result, dict(step.facts), step.fault and step.fault.message
    if step.apply is not None and not host.observing:
        try:
            facts |= step.apply() or {}
        except CommandFailed as error:
            result, fault = "failed", f"{error} {error.output}"
    if result == "failed":
        host.failed.add((step.kind, step.id))
    return {
        "kind": step.kind,
        "id": step.id,
        "result": result,
        "why": step.why,
        "facts": facts,
        "fault": fault,
        "version": step.version,
    }


def spawn(*argv: str) -> subprocess.Popen:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL)


def start_vswitchd() -> None:
    global vswitchd
    vswitchd = spawn(
        "ovs-vswitchd",
        "unix:/run/openvswitch/db.sock",
        "-vconsole:off",
        "--pidfile=/run/openvswitch/ovs-vswitchd.pid",
    )
    # Unlike a look, a change waits until the switch has followed.
    argv = ["ovs-vsctl", "--timeout=20", "set", "Open_vSwitch", ".", "external_ids:up=1"]
    subprocess.run(argv, check=True)


def boot(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "run", "/run"], check=True)
    Path("/run/openvswitch").mkdir()
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 10.77.0.1\n")
    subprocess.run(["mount", "--bind", str(resolv), "/etc/resolv.conf"], check=True)
    database = folder / "conf.db"
    subprocess.run(["ovsdb-tool", "create", str(database), SCHEMA], check=True)
    spawn(
        "ovsdb-server",
        str(database),
        "--remote=punix:/run/openvswitch/db.sock",
        "-vconsole:off",
        "--pidfile=/run/openvswitch/ovsdb-server.pid",
    )
    while not Path("/run/openvswitch/db.sock").exists():
        time.sleep(0.01)
    subprocess.run(["ovs-vsctl", "--timeout=20", "--no-wait", "init"], check=True)
    start_vswitchd()


def open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000))
    return descriptor


guests: dict[str, tuple[int, int]] = {}


def plug_guest(name: str, tap: str, mac: str) -> None:
    """A namespace whose eth0 is joined to the port's tap, as a guest's NIC is by QEMU."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    host_end = open_tap(tap)
    guest_end = netns.inside(name, lambda: open_tap("eth0"))
    subprocess.run(["ip", "-n", name, "link", "set", "eth0", "address", mac], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
    threading.Thread(target=relay, args=(host_end, guest_end), daemon=True).start()


def relay(one: int, other: int) -> None:
    while True:
        ready, _, _ = select.select([one, other], [], [])
        for source in ready:
            try:
                os.write(other if source == one else one, os.read(source, 65536))
            except BlockingIOError:
                continue
            except OSError:
                if not alive(one, other):
                    return


def alive(*descriptors: int) -> bool:
    try:
        for descriptor in descriptors:
            os.fstat(descriptor)
    except OSError:
        return False
    return True


def execute(argv: list[str], timeout: float) -> dict:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode()
        return {"status": -1, "out": text, "err": "timeout"}
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def answer(request: dict, data: Path) -> object:
    op = request.pop("op")
    if op == "converge":
        killer.count, killer.at = 0, request.get("kill_at", 0)
        try:
            reports = converge(data, request["spec"], request.get("observing", False))
        except Killed as error:
            return {"killed": str(error)}
        return {"reports": reports, "effects": killer.count}
    if op == "exec":
        return execute(request["argv"], request.get("timeout", 30))
    if op == "guest":
        return plug_guest(**request)
    if op == "restart-vswitchd":
        vswitchd.send_signal(signal.SIGKILL)
        vswitchd.wait()
        return start_vswitchd()
    raise ValueError(op)


def reap() -> None:
    """Bury the dead, as PID 1 must."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    folder = Path(sys.argv[1])
    boot(folder)
    data = folder / "data"
    data.mkdir(mode=0o700)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        reap()
        print(json.dumps(answer(json.loads(line), data)), flush=True)


if __name__ == "__main__":
    main()
