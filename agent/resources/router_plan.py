"""What a router is on its host: devices, addresses, routes, rules and advertisements. Pure.

What cannot be taken in (an end whose network is not here, a route that leads nowhere, a text that
is none) is left out and named in ``refused``; the rest of the router works without it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from agent.resources import router_rules, texts, topology
from agent.resources.router_rules import Outside, Tables
from agent.resources.topology import RouterEnd, Topology
from agent.spec import FloatingIp, Network, Router, Subnet

ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}

IPV6_MODES = ("slaac", "dhcpv6-stateless", "dhcpv6-stateful")

_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/arp_ignore": "1",
    "net/ipv4/conf/all/arp_announce": "2",
    "net/ipv4/conf/all/rp_filter": "2",  # loose: static routes may lead back another way
    "net/ipv4/conf/all/accept_redirects": "0",  # a guest must not bend its ways
    "net/ipv4/conf/all/promote_secondaries": "1",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
    "net/ipv6/conf/default/accept_dad": "0",  # the controller gives every address once
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "1",
}


@dataclass(frozen=True)
class Device:
    """A device of the router; addresses have their prefix. ``link_local`` is wanted only on one
    that takes part in IPv6."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    link_local: str


@dataclass(frozen=True)
class Route:
    """Where a destination is reached; ``source`` is set for what is on the link itself."""

    destination: str
    nexthop: str
    device: str
    source: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two routes the same."""
        return (self.destination, self.nexthop, self.device)


@dataclass(frozen=True)
class Prefix:
    """An IPv6 prefix that the router advertises on a device: ``mode`` as in Subnet."""

    device: str
    cidr: str
    mode: str
    mtu: int


@dataclass(frozen=True)
class Plan:
    """One router, ready to be compared with what is there."""

    namespace: str
    devices: tuple[Device, ...]
    routes: tuple[Route, ...]
    sysctls: dict[str, str]
    device_sysctls: dict[str, str]
    rules: dict[int, Tables]
    prefixes: tuple[Prefix, ...]
    floating: frozenset[tuple[str, str]]
    gateway_addresses: tuple[str, ...]
    refused: tuple[str, ...]


def compile_plan(known: Topology, router: Router, unusable: Sequence[str] = ()) -> Plan:
    """The plan of one router; ``unusable`` are ids of ports that could not be plugged in."""
    refused: list[str] = []
    ends = list(_usable_ends(known, router, unusable, refused))
    outside = next((_outside(known, end) for end in ends if end.gateway), None)
    floating = list(_floating(router, outside, refused))
    devices = tuple(_device(known, end, floating) for end in ends)
    connected = [route for end in ends for route in _connected(known, end)]
    routes = (*connected, *_routes(known, router, ends, connected, refused))
    return Plan(
        namespace=topology.router_netns(router.id),
        devices=devices,
        routes=routes,
        sysctls=_SYSCTLS,
        device_sysctls=dict(_device_sysctls(devices)),
        rules={
            4: router_rules.ipv4(router.admin_up, outside, floating),
            6: router_rules.ipv6(router.admin_up),
        },
        prefixes=tuple(prefix for end in ends for prefix in _prefixes(known, end, refused)),
        floating=frozenset((each.address, each.fixed_address) for each in floating),
        gateway_addresses=tuple(
            f.address for end in ends if end.gateway for f in end.port.addresses
        ),
        refused=tuple(refused),
    )


def _usable_ends(
    known: Topology, router: Router, unusable: Sequence[str], refused: list[str]
) -> Iterator[RouterEnd]:
    for end in topology.router_ends(router):
        problem = known.end_problem(end)
        if not problem and end.port.id in unusable:
            problem = f"its port {end.device} is not usable"
        if problem:
            refused.append(problem)
        else:
            yield end


def _outside(known: Topology, end: RouterEnd) -> Outside:
    v4 = [fixed.address for fixed in end.port.addresses if ":" not in fixed.address]
    return Outside(end.device, v4[0] if v4 else "", end.router.snat)


def _floating(
    router: Router, outside: Optional[Outside], refused: list[str]
) -> Iterator[FloatingIp]:
    for each in router.floating_ips:
        try:
            texts.ipv4(each.address)
            texts.ipv4(each.fixed_address)
        except texts.BadText as error:
            refused.append(f"floating IP {each.id!r}: {error}")
            continue
        if outside is None or not outside.address:
            refused.append(f"floating IP {each.address}: the router has no IPv4 gateway to hold it")
        else:
            yield each


# --- devices ------------------------------------------------------------------------------------


def _subnets(known: Topology, end: RouterEnd) -> Iterator[tuple[str, Subnet]]:
    """The addresses of an end, each with its subnet."""
    subnets = {subnet.id: subnet for subnet in _network(known, end).subnets}
    for fixed in end.port.addresses:
        yield texts.ip(fixed.address), subnets[fixed.subnet_id]


def _network(known: Topology, end: RouterEnd) -> Network:
    return known.networks[end.port.network_id]


def _device(known: Topology, end: RouterEnd, floating: Sequence[FloatingIp]) -> Device:
    addresses = [
        f"{address}/{texts.network(subnet.cidr).prefixlen}"
        for address, subnet in _subnets(known, end)
    ]
    if end.gateway:
        addresses += [f"{each.address}/32" for each in floating]
    takes_part = any(":" in address for address in addresses)
    return Device(
        name=end.device,
        mac=end.port.mac,
        mtu=_network(known, end).mtu,
        addresses=tuple(dict.fromkeys(addresses)),
        link_local=f"{link_local(end.port.mac)}/64" if takes_part else "",
    )


def link_local(mac: str) -> str:
    """The IPv6 address that an Ethernet address makes (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    interface = octets[:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes(interface)))


def _device_sysctls(devices: Sequence[Device]) -> Iterator[tuple[str, str]]:
    for device in devices:
        yield f"net/ipv6/conf/{device.name}/accept_ra", "0"
        yield f"net/ipv6/conf/{device.name}/disable_ipv6", "0"


def _prefixes(known: Topology, end: RouterEnd, refused: list[str]) -> Iterator[Prefix]:
    network = _network(known, end)
    for address, subnet in _subnets(known, end):
        if end.gateway or ":" not in address or subnet.ipv6_mode is None:
            continue
        if subnet.ipv6_mode not in IPV6_MODES:
            refused.append(f"subnet {subnet.id!r} has the unknown IPv6 mode {subnet.ipv6_mode!r}")
        else:
            yield Prefix(end.device, subnet.cidr, subnet.ipv6_mode, network.mtu)


# --- routes -------------------------------------------------------------------------------------


def _connected(known: Topology, end: RouterEnd) -> Iterator[Route]:
    for address, subnet in _subnets(known, end):
        yield Route(str(texts.network(subnet.cidr)), "", end.device, address)


def _routes(
    known: Topology,
    router: Router,
    ends: Sequence[RouterEnd],
    connected: Sequence[Route],
    refused: list[str],
) -> Iterator[Route]:
    """Static routes, and the way to everywhere else where none of them is that way."""
    there = {route.destination for route in connected}
    for static in router.routes:
        try:
            route = _static(static.destination, static.nexthop, connected)
        except texts.BadText as error:
            refused.append(f"route to {static.destination!r}: {error}")
            continue
        if route.destination in there:
            refused.append(f"route to {static.destination}: another one leads there already")
            continue
        there.add(route.destination)
        yield route
    for end in ends:
        for _, subnet in _subnets(known, end) if end.gateway else ():
            yield from _default(end, subnet, there, refused)


def _default(
    end: RouterEnd, subnet: Subnet, there: set[str], refused: list[str]
) -> Iterator[Route]:
    anywhere = ANYWHERE[6 if ":" in subnet.cidr else 4]
    if subnet.gateway is None or anywhere in there:
        return
    try:
        yield Route(anywhere, texts.ip(subnet.gateway), end.device)
        there.add(anywhere)
    except texts.BadText as error:
        refused.append(f"subnet {subnet.id!r}: {error}")


def _static(destination: str, nexthop: str, connected: Sequence[Route]) -> Route:
    to, by = str(texts.network(destination)), texts.ip(nexthop)
    if (":" in to) != (":" in by):
        raise texts.BadText(f"{by} is of another IP version")
    for route in connected:
        if ipaddress.ip_address(by) in ipaddress.ip_network(route.destination):
            return Route(to, by, route.device)
    raise texts.BadText(f"{by} is in none of the router's subnets")
