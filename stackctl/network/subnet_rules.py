"""What a subnet may be: its range, gateway, pools, name servers and routes, checked without I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

from agent.spec import HostRoute
from stackctl.errors import Conflict, UsageError
from stackctl.network.types import Pool

MAX_NAMESERVERS = 5
MAX_ROUTES = 20
AUTO, NONE = "auto", "none"


def checked_cidr(text: str) -> IPv4Network:
    """The range that a text says; UsageError when it is not one that instances can use."""
    try:
        cidr = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise UsageError(
            f"'{text}' is not a valid IP subnet: write it as 192.168.1.0/24."
        ) from None
    if not isinstance(cidr, IPv4Network):
        raise UsageError(f"'{text}' is an IPv6 subnet; subnets are IPv4 here so far.")
    if str(cidr) != text.strip():
        raise UsageError(f"'{text}' isn't a recognized IP subnet cidr, '{cidr}' is recommended.")
    if cidr.prefixlen > 30 or cidr.prefixlen < 4:
        raise UsageError(f"{cidr} cannot hold instances: use a prefix from /4 to /30.")
    for unusable in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"):
        if cidr.overlaps(IPv4Network(unusable)):
            raise UsageError(f"{cidr} overlaps {unusable}, which instances cannot use.")
    return cidr


def checked_address(what: str, text: str) -> IPv4Address:
    """The IPv4 address that a text says; UsageError names ``what`` it was meant for."""
    try:
        return IPv4Address(text.strip())
    except ValueError:
        raise UsageError(f"'{text}' is not an IPv4 address ({what}).") from None


def checked_gateway(cidr: IPv4Network, wanted: str) -> str | None:
    """The gateway's address: the first of the subnet for ``auto``, None for ``none``."""
    if wanted.strip().lower() == NONE:
        return None
    if wanted.strip().lower() == AUTO:
        return str(cidr.network_address + 1)
    gateway = checked_address("gateway", wanted)
    if gateway not in cidr or gateway in (cidr.network_address, cidr.broadcast_address):
        raise UsageError(f"Gateway is not valid on subnet: {gateway} is not a host of {cidr}.")
    return str(gateway)


def default_pools(cidr: IPv4Network, gateway: str | None) -> tuple[Pool, ...]:
    """All hosts of the subnet but its gateway."""
    first, last = cidr.network_address + 1, cidr.broadcast_address - 1
    if gateway is None:
        return (Pool(str(first), str(last)),)
    taken = IPv4Address(gateway)
    halves = ((first, taken - 1), (taken + 1, last))
    return tuple(Pool(str(start), str(end)) for start, end in halves if start <= end)


def checked_pools(
    cidr: IPv4Network, gateway: str | None, wanted: Sequence[Pool]
) -> tuple[Pool, ...]:
    """The wanted pools in order, or the default ones.

    UsageError: not a range inside the subnet. Conflict: pools overlap or hold the gateway.
    """
    if not wanted:
        return default_pools(cidr, gateway)
    ranges = sorted(_pool_range(cidr, pool) for pool in wanted)
    for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False):
        if start <= end:
            raise Conflict(f"Found overlapping allocation pools for subnet {cidr} at {start}.")
    refuse_gateway_in(gateway, ranges)
    return tuple(Pool(str(start), str(end)) for start, end in ranges)


def refuse_gateway_in(
    gateway: str | None, ranges: Iterable[tuple[IPv4Address, IPv4Address]]
) -> None:
    """Conflict when a pool would give the gateway's address away."""
    for start, end in ranges:
        if gateway is not None and start <= IPv4Address(gateway) <= end:
            raise Conflict(f"Gateway ip {gateway} conflicts with allocation pool {start}-{end}.")


def checked_nameservers(wanted: Sequence[str]) -> tuple[str, ...]:
    """Name servers as plain addresses, in the order given."""
    servers = tuple(str(checked_address("DNS name server", text)) for text in wanted)
    if len(servers) > MAX_NAMESERVERS:
        raise UsageError(
            f"The number of DNS nameservers exceeds the limit {MAX_NAMESERVERS}: {len(servers)}."
        )
    _refuse_repeats("DNS name server", servers)
    return servers


def checked_routes(wanted: Sequence[HostRoute]) -> tuple[HostRoute, ...]:
    """Routes with canonical destinations and next hops, in the order given."""
    if len(wanted) > MAX_ROUTES:
        raise UsageError(
            f"The number of host routes exceeds the limit {MAX_ROUTES}: {len(wanted)}."
        )
    routes = tuple(_checked_route(route) for route in wanted)
    _refuse_repeats("route to", [route.destination for route in routes])
    return routes


def refuse_overlap(network_name: str, cidr: IPv4Network, others: Iterable[str]) -> None:
    """Conflict when the range shares addresses with another subnet of its network."""
    for other in others:
        if cidr.overlaps(IPv4Network(other)):
            raise Conflict(
                f"Requested subnet with cidr: {cidr} for network: {network_name} overlaps with "
                f"another subnet, {other}."
            )


def _pool_range(cidr: IPv4Network, pool: Pool) -> tuple[IPv4Address, IPv4Address]:
    start = checked_address("start of an allocation pool", pool.start)
    end = checked_address("end of an allocation pool", pool.end)
    if start > end:
        raise UsageError(
            f"The allocation pool {start}-{end} is not valid: it ends before it starts."
        )
    hosts = (cidr.network_address + 1, cidr.broadcast_address - 1)
    if start < hosts[0] or end > hosts[1]:
        raise UsageError(f"The allocation pool {start}-{end} spans beyond the subnet cidr {cidr}.")
    return start, end


def _checked_route(route: HostRoute) -> HostRoute:
    try:
        destination = IPv4Network(route.destination.strip())
    except ValueError as error:
        raise UsageError(
            f"'{route.destination}' is not the destination of a route: {error}."
        ) from None
    nexthop = checked_address("next hop of a route", route.nexthop)
    return HostRoute(destination=str(destination), nexthop=str(nexthop))


def _refuse_repeats(what: str, items: Sequence[str]) -> None:
    for item in items:
        if items.count(item) > 1:
            raise UsageError(f"The {what} {item} is given twice.")
