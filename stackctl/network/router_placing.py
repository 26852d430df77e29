"""Where routers are: on a host that has all their networks, chosen with the first of their ports.

Everything here adds what it touches to ``writer.change``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from stackctl.errors import NoCapacity
from stackctl.hostspec.build import TUNNEL_TYPES
from stackctl.network.allocation import bind_port, unbind_port
from stackctl.network.types import router_ports
from stackctl.state import Reader, Row, Writer, seconds_since

UNREACHABLE_EXPIRES_S = 300
"""How long a host that did not answer gets no routers."""


@dataclass(frozen=True)
class Needs:
    """What the networks of a router ask of its host."""

    physical_networks: frozenset[str]
    tunnels: bool


@dataclass(frozen=True)
class RouterHost:
    """A host as routers see it; ``closed`` says why it gets none, whatever they need."""

    id: str
    name: str
    closed: str
    physical_networks: frozenset[str]
    tunnels: bool
    routers: int


def cannot_carry(host: RouterHost, needs: Needs) -> str:
    """Why a host cannot have a router with these networks; empty when it can."""
    missing = sorted(needs.physical_networks - host.physical_networks)
    if missing:
        return f"has no bridge for physical network {', '.join(missing)}"
    if needs.tunnels and not host.tunnels:
        return "has no tunnel address (host-set --tunnel-address)"
    return ""


def choose(hosts: Sequence[RouterHost], needs: Needs) -> str | None:
    """The id of the host with the fewest routers that can have one more; None when none can."""
    able = [host for host in hosts if not host.closed and not cannot_carry(host, needs)]
    best = min(able, key=lambda host: (host.routers, host.name, host.id), default=None)
    return best.id if best is not None else None


def settle(writer: Writer, router_id: str) -> None:
    """See to it that a router with ports is on a host that has all their networks, ports bound.

    It stays where it is if it can, and has no host when it has no ports. NoCapacity: no host has
    them all.
    """
    router = writer.get("routers", router_id)
    ports = router_ports(writer, router_id)
    host_id = _host_for(writer, router, ports) if ports else None
    if host_id != router["host_id"]:
        writer.update("routers", router_id, host_id=host_id, status="DOWN", fault_json=None)
        take_off(writer, ports)
    for port in ports:
        _bind(writer, port, str(host_id))
    writer.change.routers.add(router_id)


def take_off(writer: Writer, ports: Sequence[Row]) -> None:
    """Unbind a router's ports from every host."""
    for port in ports:
        hosts = writer.column("SELECT host_id FROM bindings WHERE port_id = ?", port["id"])
        for host_id in hosts:
            unbind_port(writer, port["id"], host_id)
        writer.update("ports", port["id"], status="DOWN")


def find_host(reader: Reader, router: Row, ports: Sequence[Row], *, without: str = "") -> str:
    """The best host for a router that has these ports, or NoCapacity with each host's reason.

    ``router["host_asked"]`` narrows it to one; ``without`` leaves one out.
    """
    needs = _needs(reader, ports)
    hosts = [host for host in router_hosts(reader) if host.id != without]
    if router["host_asked"] is not None:
        hosts = [host for host in hosts if host.id == router["host_asked"]]
    chosen = choose(hosts, needs)
    if chosen is None:
        raise _no_valid_host(router, hosts, needs)
    return chosen


def router_hosts(reader: Reader) -> list[RouterHost]:
    """All hosts, and how many routers each has."""
    rows = reader.all(
        "SELECT hosts.*, (SELECT count(*) FROM routers WHERE routers.host_id = hosts.id"
        "  AND routers.deleted_at IS NULL) AS routers"
        " FROM hosts WHERE deleted_at IS NULL ORDER BY name"
    )
    return [_router_host(row) for row in rows]


def _router_host(row: Row) -> RouterHost:
    mappings = json.loads(row["bridge_mappings_json"])
    return RouterHost(
        id=row["id"],
        name=row["name"],
        closed=_closed(row),
        physical_networks=frozenset(item["physical_network"] for item in mappings),
        tunnels=row["tunnel_address"] is not None,
        routers=row["routers"],
    )


def _closed(host: Row) -> str:
    if host["fenced"]:
        return "is fenced; stackctl host-return brings it back"
    if not host["enabled"]:
        reason = host["disabled_reason"]
        return f"is disabled{': ' + reason if reason else ''}"
    since = host["unreachable_since"]
    if since is not None and seconds_since(since) < UNREACHABLE_EXPIRES_S:
        return f"did not answer at {since}; stackctl converge {host['name']} asks it again"
    return ""


def _host_for(reader: Reader, router: Row, ports: Sequence[Row]) -> str:
    """Its own host if that still does, else the best one."""
    needs = _needs(reader, ports)
    for host in router_hosts(reader):
        if host.id == router["host_id"] and not cannot_carry(host, needs):
            return host.id
    return find_host(reader, router, ports)


def _needs(reader: Reader, ports: Sequence[Row]) -> Needs:
    networks = [reader.get("networks", port["network_id"]) for port in ports]
    # A cloud of one host has nowhere to tunnel to.
    alone = reader.value("SELECT count(*) FROM hosts WHERE deleted_at IS NULL") == 1
    return Needs(
        frozenset(row["physical_network"] for row in networks if row["physical_network"]),
        not alone and any(row["type"] in TUNNEL_TYPES for row in networks),
    )


def _no_valid_host(router: Row, hosts: Sequence[RouterHost], needs: Needs) -> NoCapacity:
    said = (f"{host.name}: {host.closed or cannot_carry(host, needs)}" for host in hosts)
    reasons = "; ".join(said)
    only = " (it may be on no other host)" if router["host_asked"] and hosts else ""
    return NoCapacity(
        f"No valid host was found for router {router['name']}. "
        f"{reasons or 'There is no host that it may be on'}{only}. Nothing was changed.",
        hint="stackctl host-list",
    )


def _bind(writer: Writer, port: Row, host_id: str) -> None:
    bound = "SELECT 1 FROM bindings WHERE port_id = ? AND host_id = ?"
    if writer.value(bound, port["id"], host_id) is None:
        bind_port(writer, port["id"], host_id)
