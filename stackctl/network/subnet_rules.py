"""What a subnet may be: its range, gateway, pools, name servers and routes, checked without I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from agent.spec import HostRoute
from stackctl.errors import Conflict, UsageError
from stackctl.network.types import Pool

MAX_NAMESERVERS = 5
MAX_ROUTES = 20
MIN_IPV6_MTU = 1280
AUTO, NONE = "auto", "none"

SLAAC, STATEFUL, STATELESS = "slaac", "dhcpv6-stateful", "dhcpv6-stateless"
IPV6_MODES = (SLAAC, STATEFUL, STATELESS)
EUI64_MODES = (SLAAC, STATELESS)
"""Modes in which a guest makes its address of the prefix and its MAC."""

EUI64_PREFIX = 64
"""Half of an address; dnsmasq, too, gives no DHCPv6 addresses out of anything larger."""

Address = IPv4Address | IPv6Address
Range = IPv4Network | IPv6Network

_PREFIXES = {4: (4, 30), 6: (4, 126)}
_UNUSABLE: dict[int, tuple[str, ...]] = {
    4: ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
    6: ("::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
}


def checked_cidr(text: str, version: int | None = None) -> Range:
    """The range that a text says; UsageError when it is not one that instances can use, or not
    of the IP version that was named beside it."""
    try:
        if "%" in text:
            raise ValueError("a zone is a matter of one host")
        cidr = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise UsageError(
            f"'{text}' is not a valid IP subnet: write it as 192.168.1.0/24 or 2001:db8::/64."
        ) from None
    if str(cidr) != text.strip():
        raise UsageError(f"'{text}' isn't a recognized IP subnet cidr, '{cidr}' is recommended.")
    if version is not None and version != cidr.version:
        raise UsageError(
            f"The ip_version '{version}' does not match the ip_version '{cidr.version}' of the "
            f"cidr {cidr}."
        )
    shortest, longest = _PREFIXES[cidr.version]
    if not shortest <= cidr.prefixlen <= longest:
        raise UsageError(f"{cidr} cannot hold instances: use a prefix from /4 to /{longest}.")
    for unusable in _UNUSABLE[cidr.version]:
        if cidr.overlaps(ipaddress.ip_network(unusable)):
            raise UsageError(f"{cidr} overlaps {unusable}, which instances cannot use.")
    return cidr


def checked_mode(
    cidr: Range, dhcp: bool, ra_mode: str | None, address_mode: str | None, pools: bool = False
) -> str | None:
    """How guests of a subnet get IPv6 addresses, of what is said about advertisements and
    addresses: one thing here, since one server does both.

    With neither, what works with most guests: SLAAC, which takes no client in the guest, where
    it is possible (a /64 whose addresses nobody chose by a pool), else DHCPv6.
    """
    wanted = ra_mode or address_mode
    for mode in (ra_mode, address_mode):
        if mode is not None and mode not in IPV6_MODES:
            raise UsageError(f"'{mode}' is no IPv6 mode: {', '.join(IPV6_MODES)} are.")
    if wanted is not None and cidr.version == 4:
        raise UsageError("ipv6_ra_mode and ipv6_address_mode are not valid when ip_version is 4.")
    if wanted is not None and not dhcp:
        raise UsageError(
            "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False."
        )
    if ra_mode and address_mode and ra_mode != address_mode:
        raise UsageError(
            f"ipv6_ra_mode set to '{ra_mode}' with ipv6_address_mode set to '{address_mode}' is "
            "not valid. If both attributes are set, they must be the same value."
        )
    if cidr.version == 4 or not dhcp:
        return None
    if wanted is None:
        wanted = SLAAC if cidr.prefixlen == EUI64_PREFIX and not pools else STATEFUL
    _refuse_prefix(cidr, wanted)
    return wanted


def _refuse_prefix(cidr: Range, mode: str) -> None:
    """SLAAC takes exactly a /64, the DHCPv6 server no larger range."""
    if mode in EUI64_MODES and cidr.prefixlen != EUI64_PREFIX:
        raise UsageError(
            f"Invalid CIDR {cidr} for IPv6 address mode. OpenStack uses the EUI-64 address format, "
            "which requires the prefix to be /64."
        )
    if cidr.prefixlen < EUI64_PREFIX:
        raise UsageError(
            f"Invalid CIDR {cidr} for IPv6 address mode: its DHCPv6 server gives addresses out of "
            "a /64 or smaller. Use one, or --no-dhcp."
        )


def checked_address(what: str, text: str, version: int = 4) -> Address:
    """The address that a text says; UsageError names ``what`` it was meant for, also when it is
    not of this IP version."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise UsageError(f"'{text}' is not an IPv{version} address ({what}).") from None
    zone = address.scope_id if isinstance(address, IPv6Address) else None
    if address.version != version or zone is not None:
        raise UsageError(f"'{text}' is not an IPv{version} address ({what}).")
    return address


def hosts_of(cidr: Range) -> tuple[Address, Address]:
    """The first and the last address of a range that something can have: not the ones that mean
    the range itself, all its hosts (IPv4) or all its routers (IPv6)."""
    last = cidr.broadcast_address
    return cidr.network_address + 1, last - 1 if cidr.version == 4 else last


def checked_gateway(cidr: Range, wanted: str) -> str | None:
    """The gateway's address: the first of the subnet for ``auto``, None for ``none``."""
    if wanted.strip().lower() == NONE:
        return None
    if wanted.strip().lower() == AUTO:
        return str(cidr.network_address + 1)
    gateway = checked_address("gateway", wanted, cidr.version)
    if isinstance(gateway, IPv6Address) and gateway.is_link_local:
        return str(gateway)
    first, last = hosts_of(cidr)
    if not int(first) <= int(gateway) <= int(last):
        raise UsageError(f"Gateway is not valid on subnet: {gateway} is not a host of {cidr}.")
    return str(gateway)


def default_pools(cidr: Range, gateway: str | None) -> tuple[Pool, ...]:
    """All hosts of the subnet but its gateway."""
    first, last = hosts_of(cidr)
    taken = ipaddress.ip_address(gateway) if gateway is not None else None
    if taken is None or taken not in cidr:
        return (Pool(str(first), str(last)),)
    # As numbers: beside the last address of all there is none.
    halves = ((int(first), int(taken) - 1), (int(taken) + 1, int(last)))
    kind = type(first)
    return tuple(Pool(str(kind(start)), str(kind(end))) for start, end in halves if start <= end)


def checked_pools(cidr: Range, gateway: str | None, wanted: Sequence[Pool]) -> tuple[Pool, ...]:
    """The wanted pools in order, or the default ones.

    UsageError: not a range inside the subnet. Conflict: pools overlap or hold the gateway.
    """
    if not wanted:
        return default_pools(cidr, gateway)
    ranges = sorted((_pool_range(cidr, pool) for pool in wanted), key=_as_numbers)
    for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False):
        if int(start) <= int(end):
            raise Conflict(f"Found overlapping allocation pools for subnet {cidr} at {start}.")
    refuse_gateway_in(gateway, ranges)
    return tuple(Pool(str(start), str(end)) for start, end in ranges)


def _as_numbers(ends: tuple[Address, Address]) -> tuple[int, int]:
    return int(ends[0]), int(ends[1])


def refuse_gateway_in(gateway: str | None, ranges: Iterable[tuple[Address, Address]]) -> None:
    """Conflict when a pool would give the gateway's address away."""
    if gateway is None:
        return
    number = int(ipaddress.ip_address(gateway))
    for start, end in ranges:
        if int(start) <= number <= int(end):
            raise Conflict(f"Gateway ip {gateway} conflicts with allocation pool {start}-{end}.")


def checked_nameservers(wanted: Sequence[str], version: int = 4) -> tuple[str, ...]:
    """Name servers as plain addresses, in the order given."""
    servers = tuple(str(checked_address("DNS name server", text, version)) for text in wanted)
    if len(servers) > MAX_NAMESERVERS:
        raise UsageError(
            f"The number of DNS nameservers exceeds the limit {MAX_NAMESERVERS}: {len(servers)}."
        )
    _refuse_repeats("DNS name server", servers)
    return servers


def checked_routes(
    wanted: Sequence[HostRoute], version: int = 4, dhcp: bool = True
) -> tuple[HostRoute, ...]:
    """Routes with canonical destinations and next hops, in the order given."""
    if wanted and version == 6 and dhcp:
        raise UsageError(
            "Host routes of an IPv6 subnet cannot be given out: DHCPv6 has no such option. Use "
            "--no-dhcp (the config drive tells instances their addresses and routes), or routes "
            "of a router."
        )
    if len(wanted) > MAX_ROUTES:
        raise UsageError(
            f"The number of host routes exceeds the limit {MAX_ROUTES}: {len(wanted)}."
        )
    routes = tuple(_checked_route(route, version) for route in wanted)
    _refuse_repeats("route to", [route.destination for route in routes])
    return routes


def refuse_small_mtu(network_name: str, mtu: int, cidr: Range) -> None:
    """Conflict when a network's packets are too small for IPv6 (RFC 8200)."""
    if cidr.version == 6 and mtu < MIN_IPV6_MTU:
        raise Conflict(
            f"An MTU of {mtu} is too small for subnet {cidr} of network {network_name}: IPv6 needs "
            f"{MIN_IPV6_MTU}. Nothing was changed."
        )


def refuse_overlap(network_name: str, cidr: Range, others: Iterable[str]) -> None:
    """Conflict when the range shares addresses with another subnet of its network."""
    for other in others:
        if cidr.overlaps(ipaddress.ip_network(other)):
            raise Conflict(
                f"Requested subnet with cidr: {cidr} for network: {network_name} overlaps with "
                f"another subnet, {other}."
            )


def _pool_range(cidr: Range, pool: Pool) -> tuple[Address, Address]:
    start = checked_address("start of an allocation pool", pool.start, cidr.version)
    end = checked_address("end of an allocation pool", pool.end, cidr.version)
    if int(start) > int(end):
        raise UsageError(
            f"The allocation pool {start}-{end} is not valid: it ends before it starts."
        )
    first, last = hosts_of(cidr)
    if int(start) < int(first) or int(end) > int(last):
        raise UsageError(f"The allocation pool {start}-{end} spans beyond the subnet cidr {cidr}.")
    return start, end


def _checked_route(route: HostRoute, version: int) -> HostRoute:
    kind = IPv4Network if version == 4 else IPv6Network
    try:
        destination = kind(route.destination.strip())
    except ValueError as error:
        raise UsageError(
            f"'{route.destination}' is not the destination of a route: {error}."
        ) from None
    nexthop = checked_address("next hop of a route", route.nexthop, version)
    return HostRoute(destination=str(destination), nexthop=str(nexthop))


def _refuse_repeats(what: str, items: Sequence[str]) -> None:
    for item in items:
        if items.count(item) > 1:
            raise UsageError(f"The {what} {item} is given twice.")
