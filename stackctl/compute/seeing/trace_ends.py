"""The two ends of a trace: what their words mean, and the packet between them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from stackctl.compute.seeing.trace_map import Cloudmap, PortSpot
from stackctl.compute.views import server_row
from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.identity.context import Context, find_own
from stackctl.network import rule_words, traffic
from stackctl.network.reach import INTERNET, FixedIn
from stackctl.network.traffic import Address, Traffic
from stackctl.state import Reader

OUTSIDE = {4: ipaddress.ip_address("198.51.100.1"), 6: ipaddress.ip_address("2001:db8::1")}
"""Somebody outside, from ranges that are nobody's (RFC 5737, RFC 3849)."""

OUTSIDE_MAC = "02:00:00:00:00:01"
"""The Ethernet address of whoever is outside."""

SOURCE_PORT = 40000

_ANSWERS = {rule_words.ICMP: 0, rule_words.ICMPV6: 129}


@dataclass(frozen=True)
class TraceRequest:
    """What is asked. ``source``: a server, server:address, or internet; ``target``: those, a
    router, or any address. ``size`` is that of the whole IP packet in bytes; ``reply``: follow the
    answer, too."""

    source: str
    target: str
    protocol: str = "icmp"
    port: int | None = None
    source_port: int | None = None
    size: int | None = None
    reply: bool = False


@dataclass(frozen=True)
class Packet:
    """A packet as it travels; Ethernet addresses change at every router, others by translation."""

    eth_src: str
    eth_dst: str
    src: Address
    dst: Address
    protocol: int
    sport: int | None = None
    dport: int | None = None
    is_reply: bool = False

    @property
    def ct(self) -> list[str]:
        """What connection tracking says of it."""
        return ["est", "rpl"] if self.is_reply else ["new"]

    def answered(self) -> Packet:
        """The reply to it."""
        return Packet(
            OUTSIDE_MAC,
            OUTSIDE_MAC,
            self.dst,
            self.src,
            self.protocol,
            self.dport,
            self.sport,
            is_reply=True,
        )

    @property
    def traffic(self) -> Traffic:
        """What rules see of it."""
        if self.protocol in traffic.ECHO:
            return Traffic(self.protocol, traffic.ECHO[self.protocol], 0)
        return Traffic(self.protocol, self.dport, self.dport)

    def plain(self) -> dict[str, object]:
        """As agents read it."""
        kind = (_ANSWERS if self.is_reply else traffic.ECHO).get(self.protocol)
        return {
            "eth_src": self.eth_src,
            "eth_dst": self.eth_dst,
            "src": str(self.src),
            "dst": str(self.dst),
            "protocol": self.protocol,
            "sport": self.sport,
            "dport": self.dport,
            "icmp_type": kind,
            "icmp_code": None if kind is None else 0,
        }

    def __str__(self) -> str:
        name = rule_words.protocol_name(self.protocol)
        if self.dport is None:
            return f"{name} from {self.src} to {self.dst}"
        return f"{name} from {self.src} port {self.sport} to {self.dst} port {self.dport}"


@dataclass(frozen=True)
class Sender:
    """Where it begins: a server's port, or (None) outside of ``network_id``."""

    port: PortSpot | None
    network_id: str
    address: Address
    fixed: FixedIn | None


def numbers_of(request: TraceRequest, version: int) -> tuple[int, int | None, int | None]:
    """Protocol and ports of the packet; UsageError when they make no sense together."""
    word = request.protocol.lower()
    number = int(word) if word.isascii() and word.isdigit() else rule_words.PROTOCOLS.get(word, -1)
    if not 0 <= number <= 255:
        raise UsageError(f"'{request.protocol}' is no IP protocol: icmp, tcp, udp or a number.")
    if number in (rule_words.ICMP, rule_words.ICMPV6):
        number = rule_words.ICMP if version == 4 else rule_words.ICMPV6
    has_ports = number in rule_words.WITH_PORTS
    if has_ports and request.port is None:
        raise UsageError(f"Protocol {request.protocol} needs --port.")
    if not has_ports and (request.port is not None or request.source_port is not None):
        raise UsageError(f"Protocol {request.protocol} has no ports.")
    for port in (request.port, request.source_port):
        if port is not None and not 1 <= port <= 65535:
            raise UsageError(f"{port} is no port: 1 to 65535 are.")
    return number, request.port, (request.source_port or SOURCE_PORT) if has_ports else None


class Ends:
    """Finds both ends of a request in one snapshot."""

    def __init__(self, context: Context, reader: Reader, map_: Cloudmap) -> None:
        self._context, self._reader, self._map = context, reader, map_

    def find(self, request: TraceRequest) -> tuple[Sender, Address]:
        """Who sends, from which address, and to which; NotFound, Conflict when there is no such."""
        if request.source == INTERNET:
            return self._from_outside(request.target)
        server_id, source = self._server(request.source, "source")
        target, near = self._target(request.target)
        if request.target == INTERNET:
            version = source.version if source is not None else 4
            return self._sender(server_id, source, [OUTSIDE[version]])
        if target is not None:
            return self._sender(server_id, source, [target])
        return self._sender(server_id, source, near)

    def _server(self, word: str, role: str) -> tuple[str, Address | None]:
        """(server id, address or None) of ``server`` or ``server:address``."""
        try:
            return str(server_row(self._context, self._reader, word)["id"]), None
        except NotFound:
            for at, sign in enumerate(word):
                address = _address(word[at + 1 :]) if sign == ":" else None
                if address is not None:
                    return str(server_row(self._context, self._reader, word[:at])["id"]), address
            raise

    def _target(self, word: str) -> tuple[Address | None, list[Address]]:
        """An address that is meant exactly, or those of the server or router that is meant."""
        if word == INTERNET:
            return None, []
        literal = _address(word)
        if literal is not None:
            return literal, []
        try:
            server_id, address = self._server(word, "target")
        except NotFound:
            return None, self._of_router(word)
        if address is not None:
            return address, []
        return None, [address for port in self._ports(server_id) for address in port.addresses]

    def _of_router(self, word: str) -> list[Address]:
        try:
            row = find_own(self._context, self._reader, "routers", word, noun="router")
        except NotFound:
            raise NotFound(
                f"'{word}' is no server, no router, no address, and not {INTERNET}.",
                hint="stackctl list",
            ) from None
        return [address for port in self._ports(row["id"]) for address in port.addresses]

    def _ports(self, device_id: str) -> list[PortSpot]:
        return [port for port in self._map.ports.values() if port.device_id == device_id]

    def _sender(
        self, server_id: str, source: Address | None, targets: list[Address]
    ) -> tuple[Sender, Address]:
        """The port and the target that go best together: in one network, else by some way."""
        best: tuple[int, Sender, Address] | None = None
        for port in self._ports(server_id):
            end = self._map.end(port)
            for fixed in end.addresses if end is not None else ():
                for target in targets:
                    cost = self._cost(fixed, source, target)
                    if cost is not None and (best is None or cost < best[0]):
                        address = source if source is not None else fixed.address
                        best = (cost, Sender(port, port.network_id, address, fixed), target)
        if best is None:
            raise Conflict(
                "The two ends have no addresses of one kind (IPv4 or IPv6) between which a packet "
                "could go.",
                hint="stackctl reachability --all",
            )
        return best[1], best[2]

    def _cost(self, fixed: FixedIn, source: Address | None, target: Address) -> int | None:
        if target.version != fixed.address.version:
            return None
        if source is not None and source.version != target.version:
            return None
        way = self._map.world.map.way(fixed.subnet, target)
        # Whoever is asked for by address wants that one; a spoofed one goes by the best way.
        other = 0 if source in (None, fixed.address) else 8
        return other + (4 if way.why else 2 if way.outside else 1 if way.routers else 0)

    def _from_outside(self, word: str) -> tuple[Sender, Address]:
        literal, near = self._target(word)
        wanted = [literal] if literal is not None else self._floating(near)
        for address in wanted:
            for network in self._map.networks.values():
                if network["external"] and self._map.by_address(network["id"], address):
                    sender = OUTSIDE[address.version]
                    return Sender(None, network["id"], sender, None), address
        raise Conflict(
            f"Nothing outside can send to {word}: it has neither a floating IP nor an address in "
            "an external network.",
            hint="stackctl floatingip-list",
        )

    def _floating(self, addresses: list[Address]) -> list[Address]:
        """The floating IPs that stand for these addresses, then the addresses themselves."""
        found = [
            ipaddress.ip_address(fixed.floating)
            for end in self._map.world.ends
            for port in end.ports
            for fixed in port.addresses
            if fixed.floating and fixed.address in addresses
        ]
        return [*found, *addresses]


def _address(word: str) -> Address | None:
    try:
        return ipaddress.ip_address(word)
    except ValueError:
        return None
