"""The files of a subnet's dnsmasq, as text. Pure.

``conf`` holds numbers, addresses and paths of ours; changing it takes a restart. So do tags of
ports: dnsmasq 2.90 frees what is not its own, and dies, when it reads a hosts file again after it
has given a lease to a line with a tag. They are therefore tied to MACs in ``conf``, and only ports
that differ from the rest have one: the second NICs of servers, and ports with options of their
own (a tag made of the port's id; the options themselves stand in ``options``). What users have
named goes into ``hosts``, ``names``, ``options`` and ``servers``, which dnsmasq reads again on
SIGHUP. A text that is not one clean token is left out and named in ``refused``: a line of these
files is one entry, whatever anybody calls a server.

The server of an IPv6 subnet advertises its prefix, MTU, name server and search domain, but never
itself as a router. What it advertises goes to all guests alike: which NIC of a server gets a name
server or a default route is a matter of IPv4 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.resources import dhcp_options, texts
from agent.resources.topology import DhcpServer
from agent.spec import Network, Port, Subnet

LEASE_SECONDS = 86400
LEASE6_SECONDS = 3600
"""Short: a guest that comes back with another DUID gets its address when the old lease is over."""

ADVERTISE_EVERY_S = 60
STATEFUL, STATELESS, SLAAC = "dhcpv6-stateful", "dhcpv6-stateless", "slaac"
UPSTREAM = "upstream"
"""The device in the namespace through which queries for other names leave."""

_NO_GATEWAY, _NO_RESOLVER = "no-gateway", "no-resolver"
"""Tags of the ports that get no default route, and of those that get no name server."""


@dataclass(frozen=True)
class Refused:
    """A text that was left out: which port (or subnet) it belongs to, and what is wrong."""

    id: str
    version: int
    reason: str


@dataclass(frozen=True)
class Files:
    """Contents by file name, and what could not be taken into them."""

    conf: str
    reloaded: dict[str, str]
    refused: tuple[Refused, ...]


def compile_files(server: DhcpServer, folder: str, user: str, resolvers: tuple[str, ...]) -> Files:
    """All files of one DHCP server; ``resolvers`` are the host's own name servers."""
    refused: list[Refused] = []
    reloaded = {
        "hosts": _lines(_hosts(server, refused)),
        "names": _lines(_names(server.network, refused)),
        "options": _lines(_options(server, refused)),
        "servers": _lines(_servers(server.subnet, resolvers, refused)),
    }
    tags = [*([] if server.ipv6 else _tags(server)), *_option_tags(server)]
    conf = _conf(server, folder, user) + _lines(tags)
    return Files(conf, reloaded, tuple(refused))


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _conf(server: DhcpServer, folder: str, user: str) -> str:
    return _lines(
        [
            f"interface={server.device}",
            "except-interface=lo",
            "bind-dynamic",
            "no-hosts",
            "no-resolv",
            "no-poll",
            "domain-needed",
            f"user={user}",
            f"pid-file={folder}/pid",
            f"dhcp-leasefile={folder}/leases",
            f"dhcp-hostsfile={folder}/hosts",
            f"dhcp-optsfile={folder}/options",
            f"addn-hosts={folder}/names",
            f"servers-file={folder}/servers",
            *(_ranges_v6(server) if server.ipv6 else _ranges_v4(server)),
            "dhcp-lease-max=65536",
            # Other hosts' guests and strangers are not ours to answer; names that guests claim
            # for themselves are not believed; a guest of ours may renew what we do not remember.
            "dhcp-ignore=tag:!known",
            "dhcp-ignore-names",
            "dhcp-authoritative",
            *_mtu(server),
        ]
    )


def _mtu(server: DhcpServer) -> Iterable[str]:
    if server.ipv6:
        if _is_advertised(server.subnet):
            yield f"ra-param={server.device},mtu:{server.network.mtu},{ADVERTISE_EVERY_S},0"
        return
    # Forced: many clients do not ask for it, and full-size frames would then be lost.
    yield f"dhcp-option-force=option:mtu,{server.network.mtu}"


def _is_advertised(subnet: Subnet) -> bool:
    return subnet.ipv6_mode in (STATEFUL, STATELESS, SLAAC)


def _ranges_v4(server: DhcpServer) -> Iterable[str]:
    net = texts.network_v4(server.subnet.cidr)
    yield f"dhcp-range={net.network_address},static,{net.netmask},{LEASE_SECONDS}"


def _ranges_v6(server: DhcpServer) -> Iterable[str]:
    """The prefix, and how addresses in it come about."""
    net = texts.network(server.subnet.cidr)
    kinds = {
        STATEFUL: f"static,{net.prefixlen},{LEASE6_SECONDS}",
        STATELESS: f"ra-stateless,{net.prefixlen},{LEASE_SECONDS}",
        SLAAC: f"ra-only,{net.prefixlen},{LEASE_SECONDS}",
    }
    if _is_advertised(server.subnet):
        yield f"dhcp-range={net.network_address},{kinds[server.subnet.ipv6_mode or '']}"
        yield "enable-ra"


def _hosts(server: DhcpServer, refused: list[Refused]) -> Iterable[str]:
    if server.ipv6 and server.subnet.ipv6_mode == SLAAC:
        return
    for port in server.ports:
        try:
            yield _host(server.subnet, port)
        except texts.BadText as error:
            refused.append(Refused(port.id, port.version, str(error)))


def _host(subnet: Subnet, port: Port) -> str:
    """One port: its MAC, address (unless the guest makes it itself) and name (a server's second
    port in a network has none)."""
    home = next(fixed for fixed in port.addresses if fixed.subnet_id == subnet.id)
    words = [texts.mac(port.mac)]
    if ":" not in subnet.cidr:
        words.append(texts.ipv4(home.address))
    elif subnet.ipv6_mode == STATEFUL:
        words.append(f"[{texts.ipv6(home.address)}]")
    if port.hostname:
        words.append(texts.hostname(port.hostname))
    # A MAC alone is no line; a time changes nothing.
    return ",".join(words if len(words) > 1 else [*words, str(LEASE_SECONDS)])


def _tags(server: DhcpServer) -> Iterable[str]:
    """Which ports are not given everything, by MAC."""
    for port in server.ports:
        if _is_good(texts.mac, port.mac):
            if not port.gives_default_route:
                yield f"dhcp-mac=set:{_NO_GATEWAY},{port.mac}"
            if not port.gives_name_server:
                yield f"dhcp-mac=set:{_NO_RESOLVER},{port.mac}"


def _option_tags(server: DhcpServer) -> Iterable[str]:
    """Tags of the ports that have options of their own for this server's protocol."""
    for port in server.ports:
        tagged = _is_good(texts.mac, port.mac) and _is_good(texts.uuid, port.id)
        if tagged and any(o.ip_version == server.version for o in port.dhcp_options):
            yield f"dhcp-mac=set:{_own_tag(port)},{port.mac}"


def _own_tag(port: Port) -> str:
    return f"port-{texts.uuid(port.id)}"


def _own_options(server: DhcpServer, refused: list[Refused]) -> Iterable[str]:
    """Options of single ports: last, since of two lines for one option the last one counts."""
    for port in server.ports:
        for option in port.dhcp_options:
            if option.ip_version == server.version:
                try:
                    yield f"tag:{_own_tag(port)},{dhcp_options.line(option)}"
                except texts.BadText as error:
                    refused.append(Refused(port.id, port.version, str(error)))


def _names(network: Network, refused: list[Refused]) -> Iterable[str]:
    """Every name of the network: full form first, since that is what reverse lookups give."""
    domain = _checked(texts.domain, network.domain, network, refused) if network.domain else ""
    for name in network.names:
        try:
            hostname = texts.hostname(name.hostname)
            address = texts.ip(name.address)
            full = f"{hostname}.{domain} " if domain else ""
            yield f"{address}\t{full}{hostname}"
        except texts.BadText as error:
            refused.append(Refused(network.id, network.version, str(error)))


def _checked(
    check: Callable[[str], str], value: str, owner: Network, refused: list[Refused]
) -> str:
    try:
        return check(value)
    except texts.BadText as error:
        refused.append(Refused(owner.id, owner.version, str(error)))
        return ""


def _options(server: DhcpServer, refused: list[Refused]) -> Iterable[str]:
    yield from _options_v6(server, refused) if server.ipv6 else _options_v4(server, refused)
    yield from _own_options(server, refused)


def _options_v6(server: DhcpServer, refused: list[Refused]) -> Iterable[str]:
    """What replies and advertisements say. Name servers that are given go after the subnet's own:
    the guests reach them themselves."""
    try:
        given = [texts.ipv6(address) for address in server.subnet.dns_nameservers]
    except texts.BadText as error:
        refused.append(Refused(server.subnet.id, server.subnet.version, str(error)))
        given = []
    servers = [f"[{address}]" for address in (server.address, *given)]
    yield f"option6:dns-server,{','.join(servers)}"
    if server.network.domain and _is_good(texts.domain, server.network.domain):
        yield f"option6:domain-search,{server.network.domain}"


def _options_v4(server: DhcpServer, refused: list[Refused]) -> Iterable[str]:
    """Options by tag; the empty ones keep dnsmasq from offering itself to the rest."""
    subnet, network = server.subnet, server.network
    yield "option:router"
    yield "option:dns-server"
    if network.domain and _is_good(texts.domain, network.domain):
        yield f"option:domain-name,{network.domain}"
        yield f"option:domain-search,{network.domain}"
    yield f"tag:!{_NO_RESOLVER},option:dns-server,{server.address}"
    try:
        gateway = texts.ipv4(subnet.gateway) if subnet.gateway is not None else ""
        routes = [
            f"{texts.network_v4(route.destination)},{texts.ipv4(route.nexthop)}"
            for route in subnet.host_routes
        ]
    except texts.BadText as error:
        refused.append(Refused(subnet.id, subnet.version, str(error)))
        return
    if gateway:
        yield f"tag:!{_NO_GATEWAY},option:router,{gateway}"
    yield from _static_routes(routes, gateway)


def _is_good(check: Callable[[str], str], value: str) -> bool:
    try:
        check(value)
    except texts.BadText:
        return False
    return True


def _static_routes(routes: list[str], gateway: str) -> Iterable[str]:
    """Routes as option 121, and 249 for Windows.

    A client that takes these ignores the router option (RFC 3442), so the default route stands
    among them.
    """
    if not routes:
        return
    with_default = [*routes, f"0.0.0.0/0,{gateway}"] if gateway else routes
    for option in ("option:classless-static-route", "249"):
        yield f"tag:!{_NO_GATEWAY},{option},{','.join(with_default)}"
        yield f"tag:{_NO_GATEWAY},{option},{','.join(routes)}"


def _servers(subnet: Subnet, resolvers: tuple[str, ...], refused: list[Refused]) -> Iterable[str]:
    """Where queries for other names go: always by the host-local leg, never into the subnet."""
    # The leg is IPv4. IPv6 name servers are handed to the guests instead.
    given = [a for a in subnet.dns_nameservers if not _is_good(texts.ipv6, a)]
    for address in given or resolvers:
        try:
            yield f"server={texts.ipv4(address)}@{UPSTREAM}"
        except texts.BadText as error:
            refused.append(Refused(subnet.id, subnet.version, str(error)))
