"""What a router may connect and where its routes may lead, checked without I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from agent.spec import HostRoute
from stackctl.errors import Conflict, UsageError

MAX_ROUTES = 30

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Connected:
    """A subnet that a router has a port in (or may have: any of its external network)."""

    subnet_id: str
    label: str
    cidr: str


def refuse_overlap(router_name: str, new: Connected, others: Iterable[Connected]) -> None:
    """Conflict when a router could not tell the addresses of two of its subnets apart."""
    cidr = ipaddress.ip_network(new.cidr)
    for other in others:
        if other.subnet_id == new.subnet_id:
            raise Conflict(f"Router {router_name} already has a port on subnet {new.label}.")
        if _overlap(cidr, ipaddress.ip_network(other.cidr)):
            raise Conflict(
                f"Cidr {new.cidr} of subnet {new.label} overlaps with cidr {other.cidr} of subnet "
                f"{other.label}, which router {router_name} is connected to."
            )


def checked_routes(
    wanted: Sequence[HostRoute], connected: Sequence[str], own: Collection[str]
) -> tuple[HostRoute, ...]:
    """Static routes in canonical form, in the order given.

    ``connected``: the cidrs of the router's subnets; ``own``: its addresses. UsageError: no
    address or prefix, too many, twice the same, or a next hop that is out of reach.
    """
    routes = tuple(_canonical(route) for route in wanted)
    if len(routes) > MAX_ROUTES:
        raise UsageError(f"The number of routes exceeds the maximum {MAX_ROUTES}: {len(routes)}.")
    for route in routes:
        if routes.count(route) > 1:
            raise UsageError(f"The route to {_said(route)} is given twice.")
        _refuse_out_of_reach(route, connected, own)
    return routes


def routes_through(routes: Iterable[HostRoute], cidrs: Iterable[str]) -> list[HostRoute]:
    """Those routes whose next hop is in one of these subnets."""
    nets = [ipaddress.ip_network(cidr) for cidr in cidrs]
    return [
        route
        for route in routes
        if any(ipaddress.ip_address(route.nexthop) in each for each in nets)
    ]


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _refuse_out_of_reach(route: HostRoute, connected: Sequence[str], own: Collection[str]) -> None:
    if route.nexthop in own:
        raise UsageError(
            f"Invalid format for routes: {_said(route)}, the nexthop is used by router."
        )
    if not routes_through([route], connected):
        raise UsageError(
            f"Invalid format for routes: {_said(route)}, the nexthop is not connected with router "
            f"(it is connected with {', '.join(connected) or 'no subnet'})."
        )


def _canonical(route: HostRoute) -> HostRoute:
    try:
        destination = ipaddress.ip_network(route.destination.strip())
        nexthop = ipaddress.ip_address(route.nexthop.strip())
    except ValueError as error:
        raise UsageError(f"Invalid format for routes: {_said(route)}: {error}.") from None
    if destination.version != nexthop.version:
        raise UsageError(
            f"Invalid format for routes: {_said(route)} mixes IPv4 and IPv6 in one route."
        )
    return HostRoute(str(destination), str(nexthop))


def _said(route: HostRoute) -> str:
    return f"{route.destination} via {route.nexthop}"
