"""Router advertisements: one dnsmasq in a router's namespace, for the IPv6 networks it leads to.

It advertises this router as a way to everywhere, and how guests get their addresses; it answers
neither DHCP nor DNS, which is the subnet's own server's work. ``data/routers/<id>/`` holds its
files. It is restarted when its configuration, a device or the namespace is another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from agent.resources import texts
from agent.resources.router_plan import Plan, Prefix
from agent.system import dnsmasq, netns, public_files
from agent.system.run import CommandFailed

LIFETIME_S = 1800
"""How long guests take an advertised router and prefix for valid."""

INTERVAL_S = 200
"""How often they are advertised without being asked."""

_WORDS = {"slaac": "ra-only", "dhcpv6-stateless": "ra-stateless", "dhcpv6-stateful": "static"}
"""What dnsmasq calls them: flags A; A and O; M and O."""


def compile_conf(prefixes: Sequence[Prefix], folder: str, user: str) -> str:
    """dnsmasq's configuration; empty when there is nothing to advertise. Pure."""
    if not prefixes:
        return ""
    mtus = {texts.device(prefix.device): prefix.mtu for prefix in prefixes}
    lines = [
        "port=0",
        "except-interface=lo",
        "bind-dynamic",
        "no-hosts",
        "no-resolv",
        "enable-ra",
        "dhcp-ignore=tag:!known",
        f"user={user}",
        f"pid-file={folder}/pid",
        f"dhcp-leasefile={folder}/leases",
        *(f"interface={device}" for device in mtus),
        *(f"ra-param={device},mtu:{mtu},{INTERVAL_S},{LIFETIME_S}" for device, mtu in mtus.items()),
        *(_range(prefix) for prefix in prefixes),
    ]
    return "".join(f"{line}\n" for line in lines)


def _range(prefix: Prefix) -> str:
    net = texts.network(prefix.cidr)
    return f"dhcp-range={net.network_address},{_WORDS[prefix.mode]},{net.prefixlen},{LIFETIME_S}"


@dataclass
class Running:
    """What is known about the dnsmasq that was started last."""

    pid: int = 0
    started_at: str = ""
    conf: str = ""
    devices: str = ""


class Adverts:
    """The dnsmasq of one router. ``indexes`` are the kernel's numbers of its devices."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._conf = folder / "conf"
        self._text = compile_conf(plan.prefixes, str(folder), dnsmasq.account())

    def difference(self, indexes: Iterable[int]) -> str:
        """What is not as it should be, in words; empty when all is."""
        if not self._text:
            return "there is nothing to advertise any more" if self._conf.exists() else ""
        if public_files.read(self._conf) != self._text:
            return "conf of the advertisements is not as it should be"
        running = self._running()
        if running is None:
            return "dnsmasq is not running: nothing is advertised"
        if running.conf != _digest(self._text):
            return "dnsmasq advertises by an older configuration"
        if running.devices != _words(indexes):
            return "dnsmasq advertises on a device that is gone"
        if netns.of_process(running.pid) != netns.identity(self._plan.namespace):
            return "dnsmasq advertises in another namespace"
        return ""

    def apply(self, indexes: Iterable[int]) -> None:
        """Have it run as it should, or not at all."""
        dnsmasq.stop(self._conf)
        if not self._text:
            for name in ("running", "pid", "leases", "conf"):
                (self._folder / name).unlink(missing_ok=True)
            return
        public_files.write(self._conf, self._text)
        dnsmasq.start(self._plan.namespace, self._conf)
        pid = dnsmasq.pid_of(self._folder / "pid")
        if pid is None:
            raise CommandFailed(("dnsmasq", str(self._conf)), "it started but wrote no pid file")
        running = Running(pid, dnsmasq.started_at(pid), _digest(self._text), _words(indexes))
        public_files.write(self._folder / "running", json.dumps(vars(running)))

    def _running(self) -> Optional[Running]:
        try:
            found = Running(**json.loads((self._folder / "running").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        alive = dnsmasq.is_running(found.pid, self._conf)
        return found if alive and dnsmasq.started_at(found.pid) == found.started_at else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _words(indexes: Iterable[int]) -> str:
    return " ".join(str(index) for index in indexes)
