"""Specs with a router for the tests of the agent: two private networks, and one beyond.

The router is on host 1: 192.168.1.1 and fd01::1 in the private network, 192.168.2.1 in the
second, and by its gateway 203.0.113.10 and 2001:db8::10 in the external one, which is flat.
"""

from __future__ import annotations

from dataclasses import replace

from agent.spec import (
    BridgeMapping,
    Dhcp,
    FixedAddress,
    FloatingIp,
    HostRoute,
    HostSpec,
    Network,
    Port,
    RemotePort,
    Router,
    RouterPort,
    SecurityGroup,
    Subnet,
)
from tests import agent_networks as net

ROUTER = net.uid("rout", 1)
SECOND, EXTERNAL = net.uid("net", 3), net.uid("net", 4)
LOCAL_VLANS = {1: {"second": 4, "external": 5}, 2: {"second": 6, "external": 8}}
INSIDE, INSIDE_V6 = net.uid("subn", 1), net.uid("subn", 11)
SECOND_SUBNET = net.uid("subn", 3)
OUTSIDE, OUTSIDE_V6 = net.uid("subn", 4), net.uid("subn", 14)
INTERFACE, SECOND_INTERFACE, GATEWAY = net.uid("qr", 1), net.uid("qr", 2), net.uid("qg", 1)


def private(host: int, **changes: object) -> Network:
    """The private network, with an IPv6 subnet beside the other."""
    found = net.private(host)
    v6 = Subnet(
        id=INSIDE_V6,
        version=1,
        number=11,
        cidr="fd01::/64",
        gateway="fd01::1",
        dhcp=Dhcp(net.uid("dhcp", 11), "fd01::3", net.mac(0x33)),
        ipv6_mode="slaac",
    )
    plain = replace(found.subnets[0], host_routes=())
    return replace(found, subnets=(plain, v6), **changes)  # type: ignore[arg-type]


def second(host: int, **changes: object) -> Network:
    """Another private network: 192.168.2.0/24."""
    subnet = replace(
        net.private(host).subnets[0],
        id=SECOND_SUBNET,
        number=3,
        cidr="192.168.2.0/24",
        gateway="192.168.2.1",
        dhcp=None,
        host_routes=(),
    )
    return replace(
        net.private(host),
        id=SECOND,
        segmentation_id=0x66,
        local_vlan=LOCAL_VLANS[host]["second"],
        subnets=(subnet,),
        names=(),
        **changes,  # type: ignore[arg-type]
    )


def external(host: int, **changes: object) -> Network:
    """The network beyond, where 203.0.113.1 and 2001:db8::1 are the way to everywhere."""
    subnets = (
        Subnet(OUTSIDE, 1, 4, "203.0.113.0/24", "203.0.113.1", None),
        Subnet(OUTSIDE_V6, 1, 14, "2001:db8::/64", "2001:db8::1", None),
    )
    network = Network(
        id=EXTERNAL,
        version=1,
        type="flat",
        physical_network="external",
        segmentation_id=None,
        local_vlan=LOCAL_VLANS[host]["external"],
        mtu=1500,
        admin_up=True,
        domain="",
        subnets=subnets,
    )
    return replace(network, **changes)  # type: ignore[arg-type]


def interface(**changes: object) -> RouterPort:
    addresses = (FixedAddress(INSIDE, "192.168.1.1"), FixedAddress(INSIDE_V6, "fd01::1"))
    port = RouterPort(INTERFACE, 1, net.PRIVATE, net.mac(0x81), addresses)
    return replace(port, **changes)  # type: ignore[arg-type]


def second_interface(**changes: object) -> RouterPort:
    addresses = (FixedAddress(SECOND_SUBNET, "192.168.2.1"),)
    port = RouterPort(SECOND_INTERFACE, 1, SECOND, net.mac(0x82), addresses)
    return replace(port, **changes)  # type: ignore[arg-type]


def gateway(**changes: object) -> RouterPort:
    addresses = (FixedAddress(OUTSIDE, "203.0.113.10"), FixedAddress(OUTSIDE_V6, "2001:db8::10"))
    port = RouterPort(GATEWAY, 1, EXTERNAL, net.mac(0x83), addresses)
    return replace(port, **changes)  # type: ignore[arg-type]


def floating(last: int, fixed: str) -> FloatingIp:
    """203.0.113.``last`` for a fixed address."""
    return FloatingIp(net.uid("fip", last), 1, f"203.0.113.{last}", fixed)


def router(**changes: object) -> Router:
    found = Router(
        id=ROUTER,
        version=1,
        admin_up=True,
        interfaces=(interface(), second_interface()),
        gateway=gateway(),
        routes=(HostRoute("10.99.0.0/16", "192.168.2.9"),),
        floating_ips=(floating(24, "192.168.1.4"), floating(25, "192.168.2.5")),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def open_group() -> SecurityGroup:
    """A group that lets everything in and out."""
    kinds = [(way, version) for way in ("egress", "ingress") for version in ("IPv4", "IPv6")]
    rules = tuple(net.rule(number, *kind) for number, kind in enumerate(kinds, 1))
    return SecurityGroup(net.DEFAULT, 1, rules)


def private_port(number: int, hostname: str) -> Port:
    """192.168.1.``number``, and the address that it makes for itself from its MAC."""
    port = net.private_port(number, hostname)
    own = FixedAddress(INSIDE_V6, f"fd01::f816:3eff:fe00:{number:x}")
    return replace(port, addresses=(*port.addresses, own))


def guest_ports(host: int) -> tuple[Port, ...]:
    """192.168.1.4 on host 1, 192.168.2.5 on host 2."""
    if host == 1:
        return (private_port(4, "node-1"),)
    address = FixedAddress(SECOND_SUBNET, "192.168.2.5")
    return (replace(net.private_port(5, "node-2"), network_id=SECOND, addresses=(address,)),)


def host_spec(host: int) -> HostSpec:
    """Host 1 with the router, or host 2, whose guest uses it."""
    there = net.TUNNEL_ADDRESSES[3 - host]
    remote = {network: [] for network in (net.PRIVATE, SECOND)}  # type: dict[str, list[RemotePort]]
    for port in guest_ports(3 - host):
        addresses = tuple(fixed.address for fixed in port.addresses)
        remote[port.network_id].append(RemotePort(port.mac, addresses, there))
    if host == 2:
        for end in (interface(), second_interface()):
            addresses = tuple(fixed.address for fixed in end.addresses)
            remote[end.network_id].append(RemotePort(end.mac, addresses, there))
    networks = [
        make(host, remote_ports=tuple(remote[network]), flood_to=(there,))
        for make, network in ((private, net.PRIVATE), (second, SECOND))
        if host == 1 or network == SECOND
    ]
    if host == 1:
        networks.append(external(host))
    mapping = BridgeMapping("external", "br-ex", "eth2")
    settings = replace(net.settings(host), bridge_mappings=(mapping,) if host == 1 else ())
    return replace(
        net.host_spec(host),
        settings=settings,
        networks=tuple(networks),
        ports=guest_ports(host),
        routers=(router(),) if host == 1 else (),
        security_groups=(open_group(),),
        members=(),
    )


def with_router(spec: HostSpec, **changes: object) -> HostSpec:
    """The spec with its router changed."""
    return replace(spec, routers=(replace(spec.routers[0], **changes),))  # type: ignore[arg-type]
