"""DHCP and DNS servers, which have the same address on every host: their frames never leave.

Inside br-int they talk to this host's guests alone, and nobody else may be one. Where a host
meets its tunnels and physical bridges, everything from or to them is dropped in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.resources.flow_plan import (
    ACCEPT_INGRESS,
    ADVERTISEMENT,
    DESTINATION,
    DHCP6_REPLY,
    DHCP6_REQUEST,
    DHCP_REPLY,
    DHCP_REQUEST,
    IP_VERSIONS,
    LOCAL_SWITCHING,
    ROUTER_SOLICITATION,
    SOLICITATION,
    TAGGED,
    TO_UPLINK,
    TRANSIENT,
    ZONE,
    Net,
    Server,
    link_local,
    load,
    outputs,
    prefix,
)
from agent.resources.flow_text import Flow
from agent.spec import Dhcp, Network


def stays(network: Network, table: int, priority: int, where: str) -> Iterator[Flow]:
    """Drop every frame from or to a DHCP server of the network, and replies of any other."""
    servers = [subnet.dhcp for subnet in network.subnets if subnet.dhcp is not None]
    for server in servers:
        yield Flow(table, priority, f"{where},dl_src={server.mac}", "drop")
        yield Flow(table, priority, f"{where},dl_dst={server.mac}", "drop")
        for address in _addresses(server):
            for match in (*_from(address, where), *_to(address, where)):
                yield Flow(table, priority, match, "drop")
    if servers:
        yield Flow(table, priority, f"udp,{where},{DHCP_REPLY}", "drop")
    if any(":" in server.address for server in servers):
        yield Flow(table, priority, f"udp6,{where},{DHCP6_REPLY}", "drop")


def _addresses(server: Dhcp) -> list[str]:
    """Its address, and in IPv6 the one that it gives itself."""
    address = prefix(server.address).text
    return [address, link_local(server.mac)] if ":" in address else [address]


def _from(address: str, where: str) -> list[str]:
    """What names an address as its sender."""
    if ":" not in address:
        return [f"arp,{where},arp_spa={address}", f"ip,{where},nw_src={address}"]
    told = f"icmp6,{where},icmp_type={ADVERTISEMENT},nd_target={address}"
    return [f"ipv6,{where},ipv6_src={address}", told]


def _to(address: str, where: str) -> list[str]:
    """What names an address as its receiver."""
    if ":" not in address:
        return [f"arp,{where},arp_tpa={address}", f"ip,{where},nw_dst={address}"]
    asked = f"icmp6,{where},icmp_type={SOLICITATION},nd_target={address}"
    return [f"ipv6,{where},ipv6_dst={address}", asked]


# --- br-int -------------------------------------------------------------------------------------


def compile_dhcp(net: Net) -> Iterator[Flow]:
    """Between this host's guests and this host's servers; nobody else may be one."""
    v4 = [server for server in net.servers if not server.ipv6]
    v6 = [server for server in net.servers if server.ipv6]
    if v4:
        answered = ",".join(outputs(server.ofport for server in v4))
        yield Flow(TRANSIENT, 20, f"udp,{net.here},{DHCP_REQUEST}", answered)
    if v6:
        answered = ",".join(outputs(server.ofport for server in v6))
        yield Flow(TRANSIENT, 20, f"udp6,{net.here},{DHCP6_REQUEST}", answered)
        yield from _solicitations(net, v6)
    if net.servers:
        yield Flow(TRANSIENT, 15, f"udp,{net.here},{DHCP_REPLY}", "drop")
        yield Flow(TRANSIENT, 15, f"udp6,{net.here},{DHCP6_REPLY}", "drop")
    for server in net.servers:
        yield from _enter(server, net)
        yield from _talk(server, net)


def _solicitations(net: Net, servers: list[Server]) -> Iterator[Flow]:
    """Who looks for routers asks this host's servers (for the prefix), and every router."""
    there = outputs(
        [server.ofport for server in servers]
        + [end.ofport for end in net.routers]
        + [tap.ofport for tap in net.open_taps]
    )
    match = f"icmp6,reg4=0,{net.here},icmp_type={ROUTER_SOLICITATION}"
    yield Flow(TRANSIENT, 20, match, ",".join([*there, f"goto_table:{TO_UPLINK}"]))


def _enter(server: Server, net: Net) -> Iterator[Flow]:
    """Frames of a server, with its own address alone; what it begins is tracked for replies."""
    here = f"in_port={server.ofport}"
    own = f"{here},dl_src={server.mac}"
    enter = f"{load(net.vlan, 6)},{load(1, 4)},"
    yield Flow(LOCAL_SWITCHING, 12, f"{here},{TAGGED}", "drop")
    for ip in IP_VERSIONS:
        yield Flow(LOCAL_SWITCHING, 10, f"{ip},{own}", f"{enter}ct(table={TRANSIENT},{ZONE})")
    yield Flow(LOCAL_SWITCHING, 9, own, f"{enter}goto_table:{TRANSIENT}")
    yield Flow(TRANSIENT, 40, f"{net.here},{here}", f"goto_table:{DESTINATION}")


def _talk(server: Server, net: Net) -> Iterator[Flow]:
    """Nobody speaks as a server, and what is for it goes to it."""
    to_server = f"{load(server.ofport, 5)},goto_table:{ACCEPT_INGRESS}"
    yield Flow(TRANSIENT, 30, f"{net.here},dl_src={server.mac}", "drop")
    yield Flow(TRANSIENT, 20, f"{net.here},dl_dst={server.mac}", to_server)
    if server.server.subnet.dhcp is None:
        return
    for address in _addresses(server.server.subnet.dhcp):
        for match in _from(address, net.here):
            yield Flow(TRANSIENT, 30, match, "drop")
        for match in _to(address, net.here):
            yield Flow(TRANSIENT, 20, match, to_server)
