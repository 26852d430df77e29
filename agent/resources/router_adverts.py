"""Router advertisements: one dnsmasq in a router's namespace, for the IPv6 networks it leads to.

It advertises this router as a way to everywhere, and how guests get their addresses; it answers
neither DHCP nor DNS, which is the subnet's own server's work. ``data/routers/<id>/`` holds its
files. It is restarted when its configuration, a device or the namespace is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.resources import texts
from agent.resources.dnsmasq_process import Process
from agent.resources.router_plan import Plan, Prefix
from agent.system import dnsmasq, public_files

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


class Adverts:
    """The dnsmasq of one router. ``indexes`` are the kernel's numbers of its devices."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._folder = folder
        self._text = compile_conf(plan.prefixes, str(folder), dnsmasq.account())
        self._process = Process(folder, plan.namespace, self._text)

    def difference(self, indexes: Iterable[int]) -> str:
        """What is not as it should be, in words; empty when all is."""
        there = public_files.read(self._process.conf)
        if not self._text:
            return "" if there is None else "there is nothing to advertise any more"
        if there != self._text:
            return "conf of the advertisements is not as it should be"
        words = self._process.difference(indexes)
        return f"nothing is advertised as it should be: {words}" if words else ""

    def apply(self, indexes: Iterable[int]) -> None:
        """Have it run as it should, or not at all."""
        dnsmasq.stop(self._process.conf)
        if not self._text:
            for name in ("running", "pid", "leases", "conf"):
                (self._folder / name).unlink(missing_ok=True)
            return
        public_files.write(self._process.conf, self._text)
        self._process.start(indexes)
