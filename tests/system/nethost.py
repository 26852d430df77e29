"""Test hosts for the agent's network kinds: namespaces with their own Open vSwitch, and cables."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.resources.topology import tap_name
from agent.spec import HostSpec, Port, to_plain

DRIVER = Path(__file__).with_name("nethost_driver.py")
RESOLVER = "10.77.0.1"
UDHCPC = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
env > {folder}/lease.$interface
ip -4 addr flush dev $interface
ip addr add $ip/$mask dev $interface
ip link set $interface mtu ${{mtu:-1500}}
[ -z "$router" ] || ip route replace default via $router
"""


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
    return done.stdout


class NetHost:
    """One host: requests go to its PID 1, which holds the agent's kinds."""

    def __init__(self, prefix: str, number: int) -> None:
        self.number = number
        self.namespace = f"{prefix}h{number}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
        self.folder.chmod(0o755)
        (self.folder / "udhcpc").write_text(UDHCPC.format(folder=self.folder))
        (self.folder / "udhcpc").chmod(0o755)
        run("ip", "netns", "add", self.namespace)
        argv = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--pid", "--fork"]
        argv += ["--kill-child", "--mount-proc", sys.executable, str(DRIVER), str(self.folder)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the host has died"
        return json.loads(line)

    def ask(self, op: str, **request: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"op": op, **request}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def converge(self, spec: HostSpec, **options: Any) -> list[dict[str, Any]]:
        """Reports of a convergence; none of them may have failed."""
        reports = self.ask("converge", spec=to_plain(spec), **options)["reports"]
        failed = [report for report in reports if report["result"] == "failed"]
        assert failed == [], failed
        return reports

    def kills(self, before: HostSpec, after: HostSpec, stride: int) -> Iterator[str]:
        """Die before each effect of the way from one spec to the other, and converge again."""
        for number in itertools.count(1, stride):
            self.converge(before)
            answer = self.ask("converge", spec=to_plain(after), kill_at=number)
            if "killed" not in answer:
                return
            self.converge(after)
            left = self.steps(after)
            assert left == [], f"after a death before effect {number}: {answer['killed']}"
            yield answer["killed"]

    def steps(self, spec: HostSpec, **options: Any) -> list[dict[str, Any]]:
        """Reports of what was not as it should be."""
        return [r for r in self.converge(spec, **options) if r["result"] != "unchanged"]

    def sh(self, *argv: str, timeout: float = 30) -> dict[str, Any]:
        return self.ask("exec", argv=list(argv), timeout=timeout)

    def ok(self, *argv: str, timeout: float = 30) -> str:
        done = self.sh(*argv, timeout=timeout)
        assert done["status"] == 0, f"{argv}: {done['err'] or done['out']}"
        return done["out"]

    def guest(self, name: str, port: Port) -> Guest:
        self.ask("guest", name=name, tap=tap_name(port.id), mac=port.mac)
        return Guest(self, name)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        run("ip", "netns", "delete", self.namespace)
        shutil.rmtree(self.folder)


class Guest:
    """A namespace behind a port's tap."""

    def __init__(self, host: NetHost, name: str) -> None:
        self.host, self.name = host, name

    def sh(self, *argv: str, timeout: float = 30) -> dict[str, Any]:
        return self.host.sh("ip", "netns", "exec", self.name, *argv, timeout=timeout)

    def ok(self, *argv: str) -> str:
        return self.host.ok("ip", "netns", "exec", self.name, *argv)

    def lease(self, *options: str) -> dict[str, str]:
        """Get an address as a guest does; what the server said, or nothing."""
        script = self.host.folder / "udhcpc"
        argv = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "1"]
        wanted = ["-O", "mtu", "-O", "search", "-O", "staticroutes"]
        if self.sh(*argv, *wanted, *options, "-s", str(script))["status"] != 0:
            return {}
        lines = (self.host.folder / "lease.eth0").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def pings(self, address: str, *options: str) -> bool:
        argv = ["ping", "-c", "2", "-i", "0.2", "-W", "1", *options, address]
        return bool(self.sh(*argv)["status"] == 0)

    def resolves(self, name: str, server: str, *options: str) -> str:
        """What a name server says about a name."""
        done = self.sh("busybox", "nslookup", *options, name, server, timeout=10)
        return str(done["out"])


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[NetHost]]:
    """Hosts with cables: eth1 and eth3 from 1 to 2, eth0 to an internet with a name server."""
    prefix = "sn" + secrets.token_hex(2)
    internet = f"{prefix}net"
    with contextlib.ExitStack() as stack:
        run("ip", "netns", "add", internet)
        stack.callback(run, "ip", "netns", "delete", internet)
        made = []
        for number in range(1, count + 1):
            host = NetHost(prefix, number)
            stack.callback(host.close)
            made.append(host)
            uplink(internet, host)
        if count == 2:
            for nic in ("eth1", "eth3"):
                first, second = (host.namespace for host in made)
                cable = ["ip", "link", "add", nic, "netns", first, "type", "veth", "peer"]
                run(*cable, nic, "netns", second)
            for host in made:
                underlay(host)
        stack.enter_context(name_server(internet))
        yield made


def uplink(internet: str, host: NetHost) -> None:
    """eth0: 10.77.N.2, by way of 10.77.N.1."""
    name, net = f"up{host.number}", f"10.77.{host.number}"
    run("ip", "link", "add", name, "netns", internet, "type", "veth",
        "peer", "eth0", "netns", host.namespace)  # fmt: skip
    run("ip", "-n", internet, "addr", "add", f"{net}.1/24", "dev", name)
    run("ip", "-n", internet, "link", "set", name, "up")
    run("ip", "-n", host.namespace, "addr", "add", f"{net}.2/24", "dev", "eth0")
    run("ip", "-n", host.namespace, "link", "set", "eth0", "up")
    run("ip", "-n", host.namespace, "link", "set", "lo", "up")
    run("ip", "-n", host.namespace, "route", "add", "default", "via", f"{net}.1")


def underlay(host: NetHost) -> None:
    """The tunnel's address sits on a bridge of its own: the userspace datapath wants it so."""
    host.ok("ip", "link", "set", "eth3", "up", "mtu", "1600")
    host.ok("ovs-vsctl", "add-br", "br-phy", "--", "set", "bridge", "br-phy",
            "datapath_type=netdev", "--", "add-port", "br-phy", "eth3",
            "--", "set", "interface", "br-phy", "mtu_request=1600")  # fmt: skip
    host.ok("ip", "addr", "add", f"10.78.0.{host.number}/24", "dev", "br-phy")
    host.ok("ip", "link", "set", "br-phy", "up")


@contextlib.contextmanager
def name_server(internet: str) -> Iterator[None]:
    """A name server that hosts reach and guests do not."""
    run("ip", "-n", internet, "link", "set", "lo", "up")
    run("ip", "-n", internet, "addr", "add", f"{RESOLVER}/32", "dev", "lo")
    argv = ["ip", "netns", "exec", internet, "dnsmasq", "--keep-in-foreground", "--conf-file="]
    argv += ["--no-resolv", "--no-hosts", "--pid-file=", "--address=/www.example.test/203.0.113.80"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
