"""DHCP and DNS: one dnsmasq per subnet, in a namespace of its own, for this host's ports alone.

``data/dhcp/<subnet id>/`` holds its files; that folder is also the record that the namespace
``qdhcp-<subnet id>`` is ours. ``leases`` is dnsmasq's own: an address stands there when, and only
when, its guest has got it. In IPv6 it does not say to which port, so ``holders`` does: an address
whose holder is another (or a guest on a new disk, which has a new DUID) loses its lease before
the files name the new one. dnsmasq is reloaded where reloading does, and restarted only when its
configuration, its device or its namespace is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Optional

from agent.resources import dnsmasq_files, legs, switch, topology
from agent.resources.base import Facts, Host, Step
from agent.resources.dnsmasq_files import Files
from agent.resources.dnsmasq_process import Process
from agent.resources.topology import DhcpServer
from agent.spec import HostSpec
from agent.system import dnsmasq, links, netns, public_files
from agent.wire import Fault

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_FORWARDING6 = Path("/proc/sys/net/ipv6/conf/all/forwarding")
_HOLDERS = "holders"


class Dhcp:
    """The kind ``dhcp``; ids are those of subnets, and ``dns-legs`` for what they share."""

    name = "dhcp"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Servers of subnets that have no port here any more."""
        wanted = {server.subnet.id for server in switch.topology_of(host, spec).servers}
        folder = host.data / "dhcp"
        present = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        for subnet_id in present:
            if subnet_id not in wanted:
                apply = partial(_remove, host, spec, subnet_id)
                why = "no port here lies on this subnet"
                yield Step(self.name, subnet_id, "removed", why=why, apply=apply)
        if present and not wanted and legs.nat_is_there(spec):
            apply_nat = partial(legs.remove_nat, spec)
            why = "no name server here needs it"
            yield Step(self.name, legs.STEP, "removed", why=why, apply=apply_nat)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Servers to start, reload or set right."""
        known = switch.topology_of(host, spec)
        resolvers = dnsmasq.host_resolvers()
        if known.servers:
            yield legs.nat_step(spec, self.name)
        for server in known.servers:
            problem = known.dhcp_problem(server) or _foreign(host, spec, server)
            if problem:
                yield switch.failed(self.name, server.subnet.id, server.subnet.version, problem)
                continue
            yield from self._server(Server(host, spec, server, resolvers))

    def _server(self, server: Server) -> Iterable[Step]:
        subnet = server.wanted.subnet
        for refused in server.files.refused:
            fault = Fault(f"not given out by DHCP or DNS: {refused.reason}")
            yield Step(
                self.name, refused.id, "failed", refused.version, refused.reason, fault=fault
            )
        why = server.difference()
        if not why:
            facts = server.facts()
            yield Step(self.name, subnet.id, "unchanged", subnet.version, facts=facts)
            return
        result = "changed" if server.folder.is_dir() else "made"
        yield Step(self.name, subnet.id, result, subnet.version, why, server.apply)


KIND = Dhcp()


def _foreign(host: Host, spec: HostSpec, server: DhcpServer) -> str:
    """Why this server cannot be run: what it needs is missing, or somebody else's."""
    if ("port", server.port_id) in host.failed:
        return f"its port {server.device} is not usable"
    recorded = (host.data / "dhcp" / server.subnet.id).is_dir()
    if not recorded and netns.identity(server.netns) is not None and not _is_inside(server):
        return (
            f"a namespace {server.netns} that stackctl did not make is on this host; remove "
            f"it ('ip netns delete {server.netns}') and converge again"
        )
    return legs.problem(host, spec, server.subnet)


def _is_inside(server: DhcpServer) -> bool:
    return netns.inside(server.netns, partial(links.configured, server.device)) is not None


class Server:
    """One subnet's server: what it should be, what it is, and how to get from one to the other."""

    def __init__(
        self, host: Host, spec: HostSpec, wanted: DhcpServer, resolvers: tuple[str, ...]
    ) -> None:
        self.host = host
        self.spec = spec
        self.wanted = wanted
        self.folder = host.data / "dhcp" / wanted.subnet.id
        self.files: Files = dnsmasq_files.compile_files(
            wanted, str(self.folder), dnsmasq.account(), resolvers
        )
        self._process = Process(self.folder, wanted.netns, self.files.conf)

    # --- what is there ---

    def difference(self) -> str:
        """What is not as it should be, in words; empty when all is."""
        if netns.identity(self.wanted.netns) is None:
            return f"there is no namespace {self.wanted.netns}"
        return (
            self._device_difference()
            or legs.difference(self.spec, self.wanted.subnet, self.wanted.netns)
            or self._files_difference()
            or self._process_difference()
            or self._lease_difference()
        )

    def _device_difference(self) -> str:
        device = self.wanted.device
        if links.exists(device):
            return f"{device} is outside {self.wanted.netns}"
        inside = netns.inside(self.wanted.netns, partial(_look_inside, device))
        found = inside.device
        if found is None:
            return f"{device} is not in {self.wanted.netns}"
        if inside.forwards:
            return f"{self.wanted.netns} forwards"
        for name, value in self._configuration().items():
            if getattr(found, name) != value:
                return f"{name} of {device} is {getattr(found, name)}, should be {value}"
        return self._ipv6_difference(inside)

    def _ipv6_difference(self, inside: Inside) -> str:
        if not self.wanted.ipv6:
            return ""
        if inside.addresses_v6 != (self._address(),):
            has = ", ".join(inside.addresses_v6) or "none"
            return f"address of {self.wanted.device} is {has}, should be {self._address()}"
        return "" if inside.ipv6_server else f"{self.wanted.device} does not do IPv6 as a server"

    def _address(self) -> str:
        return f"{self.wanted.address}/{self.wanted.subnet.cidr.partition('/')[2]}"

    def _configuration(self) -> dict[str, Any]:
        return {
            "mac": self.wanted.mac,
            "mtu": self.wanted.network.mtu,
            "address": "" if self.wanted.ipv6 else self._address(),
            "up": True,
            "tx_checksum": False,
        }

    def _files_difference(self) -> str:
        for name, text in self._texts().items():
            if public_files.read(self.folder / name) != text:
                return f"{name} is not as it should be"
        if self._pending.exists():
            return "an earlier reload was not finished"
        return ""

    def _texts(self) -> dict[str, str]:
        holders = {_HOLDERS: self._holders()} if self.wanted.ipv6 else {}
        return {"conf": self.files.conf, **self.files.reloaded, **holders}

    def _holders(self) -> str:
        """Which guest has which IPv6 address: its MAC, and the disk that it runs from."""
        disks = {server.id: server.disks[:1] for server in self.spec.servers}
        lines = [
            f"{fixed.address} {_digest(f'{port.mac} {disks.get(port.server_id)}')}\n"
            for port in self.wanted.ports
            for fixed in port.addresses
            if fixed.subnet_id == self.wanted.subnet.id
        ]
        return "".join(sorted(lines))

    def _process_difference(self) -> str:
        return self._process.difference([self._index()])

    def _index(self) -> int:
        found = netns.inside(self.wanted.netns, partial(links.configured, self.wanted.device))
        return found.index if found is not None else 0

    def _lease_difference(self) -> str:
        stale = self._stale_leases()
        if not stale:
            return ""
        return f"{stale[0].address} is leased to {stale[0].mac or 'a guest'}, which is not here"

    def _stale_leases(self) -> list[dnsmasq.Lease]:
        """Leases of ports that left: they keep an address from its next port."""
        found = dnsmasq.leases(self.folder / "leases")
        if self.wanted.ipv6:
            recorded = _as_pairs(public_files.read(self.folder / _HOLDERS) or "")
            wanted = _as_pairs(self._holders())
            kept = {a for a, holder in wanted.items() if recorded.get(a, holder) == holder}
            return [lease for lease in found if lease.address not in kept]
        subnet_id = self.wanted.subnet.id
        ours = {
            (port.mac, fixed.address)
            for port in self.wanted.ports
            for fixed in port.addresses
            if fixed.subnet_id == subnet_id
        }
        return [lease for lease in found if (lease.mac, lease.address) not in ours]

    def facts(self) -> Facts:
        """Where it answers."""
        return {"address": self.wanted.address, "namespace": self.wanted.netns}

    # --- making it so ---

    @property
    def _pending(self) -> Path:
        return switch.pending_file(self.host, f"dhcp-{self.wanted.subnet.id}")

    def apply(self) -> Facts:
        """Set right whatever differs, from the namespace up to the leases."""
        public_files.make_public(self.host.data, self.folder)
        self._set_up_namespace()
        if legs.difference(self.spec, self.wanted.subnet, self.wanted.netns):
            legs.make(self.host, self.spec, self.wanted.subnet, self.wanted.netns)
        # The mark outlives a death between writing files and dnsmasq's having read them.
        with switch.pending(self.host, self._pending.name):
            if self.wanted.ipv6:
                self._end_v6(self._stale_leases())
            self._write_files()
            if self._process_difference():
                self._restart()
            else:
                self._reload()
        if not self.wanted.ipv6:
            for lease in self._stale_leases():
                self._end(lease)
        return self.facts()

    def _set_up_namespace(self) -> None:
        namespace, device = self.wanted.netns, self.wanted.device
        netns.make(namespace)
        netns.inside(namespace, partial(_close_namespace, self.wanted.ipv6))
        if links.exists(device):
            # A switch that was killed leaves its old device behind in there.
            netns.inside(namespace, partial(links.delete, device))
            links.move(device, namespace)
        if self._device_difference():
            mac, mtu = self.wanted.mac, self.wanted.network.mtu
            netns.inside(namespace, partial(_set_up_device, device, self._address(), mac, mtu))

    def _write_files(self) -> None:
        for name, text in self._texts().items():
            if public_files.read(self.folder / name) != text:
                public_files.write(self.folder / name, text)

    def _restart(self) -> None:
        conf = self.folder / "conf"
        dnsmasq.stop(conf)
        if self.wanted.ipv6:
            self._rewrite_leases(lambda text: dnsmasq.with_identity(text, self.wanted.mac))
        self._process.start([self._index()])

    def _reload(self) -> None:
        running = self._process.running()
        if running is not None:
            dnsmasq.reload(running.pid)

    def _end(self, lease: dnsmasq.Lease) -> None:
        file = self.folder / "leases"
        wanted = self.wanted
        if dnsmasq.release(wanted.netns, wanted.device, wanted.address, lease, file):
            return
        self._forget([lease])
        self._restart()

    def _end_v6(self, stale: list[dnsmasq.Lease]) -> None:
        """Not as a client would: that takes the client's own link-local address."""
        if stale:
            self._forget(stale)

    def _forget(self, stale: list[dnsmasq.Lease]) -> None:
        """It holds leases in memory: what it does not let go, it must not read again."""
        dnsmasq.stop(self.folder / "conf")
        gone = {lease.address for lease in stale}
        self._rewrite_leases(
            lambda text: "".join(
                f"{line}\n" for line in text.splitlines() if not gone & set(line.split())
            )
        )

    def _rewrite_leases(self, change: Callable[[str], str]) -> None:
        file = self.folder / "leases"
        before = public_files.read(file) or ""
        after = change(before)
        if after != before:
            public_files.write(file, after)


def _as_pairs(text: str) -> dict[str, str]:
    """Lines of two words."""
    return {words[0]: words[1] for words in map(str.split, text.splitlines()) if len(words) == 2}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Inside:
    """What a namespace has: the server's device, and how it takes part."""

    device: Optional[links.Configured]
    addresses_v6: tuple[str, ...]
    ipv6_server: bool
    forwards: bool


def _look_inside(device: str) -> Inside:
    return Inside(
        device=links.configured(device),
        addresses_v6=tuple(links.addresses_v6(device)),
        ipv6_server=links.ipv6_server(device),
        forwards=any(_forwards(file) for file in (_FORWARDING, _FORWARDING6)),
    )


def _forwards(file: Path) -> bool:
    return file.exists() and file.read_text().strip() != "0"


def _close_namespace(ipv6: bool) -> None:
    """A namespace inherits the host's settings; this one forwards nothing, and has no IPv6 but
    on the server's own device."""
    for file in (_FORWARDING, _FORWARDING6):
        if _forwards(file):
            file.write_text("0")
    for name in ("default", "lo" if ipv6 else "all"):
        links.ipv6_off(name)


def _set_up_device(device: str, address: str, mac: str, mtu: int) -> None:
    links.tx_checksum_off(device)
    if ":" in address:
        links.configure_v6(device, address, mac, mtu)
    else:
        links.configure(device, address, mac, mtu)


def _remove(host: Host, spec: HostSpec, subnet_id: str) -> None:
    """Stop a server and take its namespace away; the folder goes last: it is the record."""
    folder = host.data / "dhcp" / subnet_id
    dnsmasq.stop(folder / "conf")
    keep = {server.subnet.id for server in switch.topology_of(host, spec).servers}
    for device in legs.leftovers(spec, keep):
        links.delete(device)
    netns.delete(topology.dhcp_netns(subnet_id))
    switch.pending_file(host, f"dhcp-{subnet_id}").unlink(missing_ok=True)
    public_files.remove_tree(folder)
