"""Which way packets go between networks: subnets' gateways and routes, routers, their routes. Pure.

It follows a packet as guests and routers do, hop by hop, and says in words where it would end.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stackctl.network.traffic import Address, Prefix

_MOST_HOPS = 16


@dataclass(frozen=True)
class Route:
    """A static route."""

    destination: Prefix
    nexthop: Address


@dataclass(frozen=True)
class SubnetWay:
    """A subnet: what its guests know of the world."""

    id: str
    network_id: str
    cidr: Prefix
    gateway: Address | None
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class NetworkWay:
    """A network that may be down, or lead outside through a router that is not ours."""

    id: str
    name: str
    external: bool
    up: bool
    subnets: tuple[SubnetWay, ...]


@dataclass(frozen=True)
class Leg:
    """Where a router is in a network; one of its legs may be its ``gateway``."""

    network_id: str
    addresses: tuple[Address, ...]
    up: bool
    gateway: bool


@dataclass(frozen=True)
class RouterWay:
    """A router."""

    id: str
    name: str
    up: bool
    snat: bool
    legs: tuple[Leg, ...]
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class Way:
    """Where a packet gets: through ``routers``, and ``outside`` when it leaves the cloud.

    ``why`` is empty when it arrives, else what stops it.
    """

    routers: tuple[RouterWay, ...] = ()
    outside: bool = False
    why: str = ""


@dataclass(frozen=True)
class Map:
    """All networks and routers that packets may meet, by id."""

    networks: Mapping[str, NetworkWay]
    routers: Mapping[str, RouterWay]

    def way(self, subnet: SubnetWay, target: Address | None) -> Way:
        """The way from a guest in a subnet to an address; None is some address outside."""
        network = self.networks[subnet.network_id]
        if not network.up:
            return Way(why=f"network {network.name} is down")
        if target is not None and target in subnet.cidr:
            return Way()
        nexthop = next_hop(subnet, target)
        if nexthop is None:
            return Way(why=f"subnet {subnet.cidr} of network {network.name} has no gateway")
        return self._through(network, nexthop, target, subnet.cidr.version)

    def way_in(self, router: RouterWay, target: Address) -> Way:
        """The way on to an address, of a packet that has come to a router."""
        ahead = self._ahead(router, target, target.version)
        if isinstance(ahead, Way):
            return ahead
        return self._through(*ahead, target, target.version)

    def _through(
        self, network: NetworkWay, nexthop: Address, target: Address | None, version: int
    ) -> Way:
        passed: list[RouterWay] = []
        while len(passed) < _MOST_HOPS:
            router = self._owner(network, nexthop)
            if router is None:
                why = "" if network.external else f"no router has {nexthop} in {network.name}"
                return Way(tuple(passed), outside=network.external, why=why)
            passed.append(router)
            ahead = self._ahead(router, target, version)
            if isinstance(ahead, Way):
                return Way(tuple(passed), ahead.outside, ahead.why)
            network, nexthop = ahead
        return Way(tuple(passed), why="routers send it round in a circle")

    def _owner(self, network: NetworkWay, address: Address) -> RouterWay | None:
        for router in self.routers.values():
            for leg in router.legs:
                if leg.network_id == network.id and address in leg.addresses:
                    return router
        return None

    def _ahead(
        self, router: RouterWay, target: Address | None, version: int
    ) -> Way | tuple[NetworkWay, Address]:
        """How a router decides: where a packet ends, or the next network and next hop in it."""
        if not router.up:
            return Way(why=f"router {router.name} is down")
        if target is not None:
            for leg, network in self._live(router):
                if any(target in subnet.cidr for subnet in network.subnets):
                    return Way(why=self._trouble(router, leg, network))
        nexthop = _longest(router.routes, target)
        if nexthop is not None:
            return self._onward(router, nexthop)
        for leg, network in self._live(router):
            if leg.gateway and any(subnet.cidr.version == version for subnet in network.subnets):
                return Way(outside=True, why=self._trouble(router, leg, network))
        return Way(why=f"router {router.name} has no route to it")

    def _onward(self, router: RouterWay, nexthop: Address) -> Way | tuple[NetworkWay, Address]:
        for leg, network in self._live(router):
            if any(nexthop in subnet.cidr for subnet in network.subnets):
                trouble = self._trouble(router, leg, network)
                return Way(why=trouble) if trouble else (network, nexthop)
        return Way(why=f"router {router.name} cannot reach its next hop {nexthop}")

    def _live(self, router: RouterWay) -> Iterable[tuple[Leg, NetworkWay]]:
        for leg in router.legs:
            network = self.networks.get(leg.network_id)
            if network is not None:
                yield leg, network

    def _trouble(self, router: RouterWay, leg: Leg, network: NetworkWay) -> str:
        if not network.up:
            return f"network {network.name} is down"
        return "" if leg.up else f"the port of router {router.name} in {network.name} is down"


def next_hop(subnet: SubnetWay, target: Address | None) -> Address | None:
    """Whom a guest of a subnet hands a packet to: the target itself, or a router; None: nobody."""
    if target is not None and target in subnet.cidr:
        return target
    default = _default(subnet.cidr.version, subnet.gateway)
    return _longest((*subnet.routes, *default), target)


def _default(version: int, gateway: Address | None) -> tuple[Route, ...]:
    everything = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return (Route(everything, gateway),) if gateway is not None else ()


def _longest(routes: Iterable[Route], target: Address | None) -> Address | None:
    """The next hop of the narrowest route that holds the target; outside only a default does."""
    holding = [
        route
        for route in routes
        if (target in route.destination if target is not None else not route.destination.prefixlen)
    ]
    best = max(holding, key=lambda route: route.destination.prefixlen, default=None)
    return None if best is None else best.nexthop
