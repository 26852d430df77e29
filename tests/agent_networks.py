"""Specs of small networks for the tests of the agent: two hosts, the slides' VLANs and a tunnel.

Host 1 has the head node and compute node 1, host 2 compute node 2; both have the
provider VLAN 101 as local VLAN 1 (host 2: 7) and the tunnel 0x65 as local VLAN 2.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from agent.spec import (
    SPEC_FORMAT,
    BridgeMapping,
    Dhcp,
    FixedAddress,
    HostRoute,
    HostSettings,
    HostSpec,
    Members,
    Name,
    Network,
    Port,
    RemotePort,
    SecurityGroup,
    SecurityRule,
    Subnet,
)

CLOUD = "0000c10d-0000-4000-8000-000000000001"
TUNNEL_ADDRESSES = {1: "10.78.0.1", 2: "10.78.0.2"}
LOCAL_VLANS = {1: {"provider": 1, "private": 2}, 2: {"provider": 7, "private": 3}}
NAMES = (
    Name("head", "192.168.1.2"),
    Name("node-1", "192.168.1.4"),
    Name("node-2", "192.168.1.5"),
)


def uid(kind: str, number: int) -> str:
    """A readable UUID: its first eight digits are two letters of the kind and the number."""
    return (
        f"{int.from_bytes(kind.encode()[:2], 'big'):04x}{number:04x}-0000-4000-8000-{number:012x}"
    )


def mac(number: int) -> str:
    return f"fa:16:3e:00:00:{number:02x}"


PRIVATE, PROVIDER = uid("net", 1), uid("net", 2)
DEFAULT = uid("grou", 1)
"""The group of every sample port: anything out, and anything in from its members."""


def rule(number: int, direction: str, ethertype: str = "IPv4", **more: object) -> SecurityRule:
    """A rule; ``more`` are its other fields."""
    return SecurityRule(uid("rule", number), direction, ethertype, **more)  # type: ignore[arg-type]


def default_group() -> SecurityGroup:
    """What a project's group allows before anybody has changed it."""
    both = ("IPv4", "IPv6")
    out = [rule(n, "egress", version) for n, version in enumerate(both, 1)]
    inward = [
        rule(n, "ingress", version, remote_group_id=DEFAULT) for n, version in enumerate(both, 3)
    ]
    return SecurityGroup(DEFAULT, 1, (*out, *inward))


def members() -> tuple[Members, ...]:
    """Everybody in both networks."""
    ports = [*host_ports(1), *host_ports(2)]
    return tuple(
        Members(DEFAULT, network, tuple(f.address for p in ports if p.network_id == network
                                        for f in p.addresses))
        for network in (PRIVATE, PROVIDER)
    )  # fmt: skip


def private(host: int, remote: tuple[RemotePort, ...] = (), flood: tuple[str, ...] = ()) -> Network:
    subnet = Subnet(
        id=uid("subn", 1),
        version=1,
        number=1,
        cidr="192.168.1.0/24",
        gateway="192.168.1.1",
        dhcp=Dhcp(uid("dhcp", 1), "192.168.1.3", mac(3)),
        host_routes=(HostRoute("10.9.0.0/16", "192.168.1.254"),),
    )
    return Network(
        id=PRIVATE,
        version=1,
        type="vxlan",
        physical_network=None,
        segmentation_id=0x65,
        local_vlan=LOCAL_VLANS[host]["private"],
        mtu=1450,
        admin_up=True,
        domain="worf.local",
        subnets=(subnet,),
        names=NAMES,
        remote_ports=remote,
        flood_to=flood,
    )


def provider(host: int) -> Network:
    subnet = Subnet(
        id=uid("subn", 2),
        version=1,
        number=2,
        cidr="10.1.0.0/24",
        gateway="10.1.0.1",
        dhcp=Dhcp(uid("dhcp", 2), "10.1.0.3", mac(0x13)),
        dns_nameservers=("10.77.0.1",),
    )
    return Network(
        id=PROVIDER,
        version=1,
        type="vlan",
        physical_network="physnet1",
        segmentation_id=101,
        local_vlan=LOCAL_VLANS[host]["provider"],
        mtu=1500,
        admin_up=True,
        domain="enterprise.example",
        subnets=(subnet,),
        names=(Name("head", "10.1.0.2"), Name("office", "10.1.0.5")),
    )


def ipv6_subnet(number: int, mode: str | None) -> Subnet:
    """The subnet fd00:``number``::/64, with a DHCP server at ::2."""
    return Subnet(
        id=uid("six", number),
        version=1,
        number=100 + number,
        cidr=f"fd00:{number}::/64",
        gateway=f"fd00:{number}::1",
        dhcp=Dhcp(uid("dhcp", 100 + number), f"fd00:{number}::2", mac(0xF0 + number)),
        ipv6_mode=mode,
    )


def ipv6_spec() -> HostSpec:
    """Host 1 with node-1 (dual stack, SLAAC) and head (DHCPv6 alone, and stateless, two NICs)."""
    spec = host_spec(1)
    slaac, stateful, stateless = (
        ipv6_subnet(1, "slaac"),
        ipv6_subnet(2, "dhcpv6-stateful"),
        ipv6_subnet(3, "dhcpv6-stateless"),
    )
    outer, inner = spec.networks
    node, head = private_port(4, "node-1"), provider_port(2, "head")
    names = (*inner.names, Name("node-1", ipv6_of(1, node.mac)))
    inner = replace(inner, subnets=(*inner.subnets, slaac), names=names)
    outer = replace(outer, subnets=(stateful,), names=(Name("head", "fd00:2::44"),))
    third = replace(
        inner,
        id=uid("net", 3),
        segmentation_id=0x66,
        local_vlan=3,
        subnets=(stateless,),
        names=(),
    )
    other = replace(
        private_port(8, "third"),
        network_id=third.id,
        addresses=(FixedAddress(stateless.id, ipv6_of(3, mac(8))),),
    )
    both = (*node.addresses, FixedAddress(slaac.id, ipv6_of(1, node.mac)))
    ports = (
        replace(node, addresses=both),
        replace(head, addresses=(FixedAddress(stateful.id, "fd00:2::44"),)),
        other,
    )
    return replace(spec, networks=(outer, inner, third), ports=ports)


def ipv6_of(number: int, own: str) -> str:
    """The address that a guest with this MAC gives itself in fd00:``number``::/64."""
    octets = bytes.fromhex(own.replace(":", ""))
    tail = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    prefix = ipaddress.IPv6Address(f"fd00:{number}::")
    return str(prefix + int.from_bytes(tail, "big"))


def private_port(number: int, hostname: str, **changes: object) -> Port:
    """A NIC at 192.168.1.``number``."""
    address = FixedAddress(uid("subn", 1), f"192.168.1.{number}")
    return _port(uid("port", number), number, PRIVATE, address, hostname, **changes)


def provider_port(number: int, hostname: str, **changes: object) -> Port:
    """A NIC at 10.1.0.``number``."""
    address = FixedAddress(uid("subn", 2), f"10.1.0.{number}")
    return _port(uid("outr", number), 0x10 + number, PROVIDER, address, hostname, **changes)


def _port(
    port_id: str, number: int, network: str, address: FixedAddress, hostname: str, **changes: object
) -> Port:
    port = Port(
        id=port_id,
        version=1,
        network_id=network,
        server_id=uid("serv", number),
        mac=mac(number),
        addresses=(address,),
        hostname=hostname,
        security_groups=(DEFAULT,),
    )
    return replace(port, **changes)  # type: ignore[arg-type]


def host_ports(host: int) -> tuple[Port, ...]:
    if host == 1:
        head = private_port(2, "head", gives_default_route=False)
        outer = provider_port(2, "head", gives_name_server=False)
        return (outer, head, private_port(4, "node-1"))
    return (private_port(5, "node-2"), provider_port(5, "office"))


def settings(host: int) -> HostSettings:
    mapping = BridgeMapping("physnet1", "br-eth1", "eth1")
    return HostSettings(tunnel_address=TUNNEL_ADDRESSES[host], bridge_mappings=(mapping,))


def host_spec(host: int) -> HostSpec:
    """The whole spec of host 1 or 2."""
    other = 3 - host
    there = TUNNEL_ADDRESSES[other]
    remote = tuple(
        RemotePort(port.mac, tuple(f.address for f in port.addresses), there)
        for port in host_ports(other)
        if port.network_id == PRIVATE
    )
    return HostSpec(
        format=SPEC_FORMAT,
        cloud_id=CLOUD,
        host_id=uid("host", host),
        serial=1,
        nonce="test",
        settings=settings(host),
        networks=(provider(host), private(host, remote, (there,))),
        ports=host_ports(host),
        security_groups=(default_group(),),
        members=members(),
    )


def with_port(spec: HostSpec, port_id: str, **changes: object) -> HostSpec:
    """The spec with one port changed."""
    ports = tuple(
        replace(port, **changes) if port.id == port_id else port  # type: ignore[arg-type]
        for port in spec.ports
    )
    return replace(spec, ports=ports)


def without_ports(spec: HostSpec, *port_ids: str) -> HostSpec:
    return replace(spec, ports=tuple(port for port in spec.ports if port.id not in port_ids))
