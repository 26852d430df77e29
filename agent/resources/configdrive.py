"""The config drive: what a guest is told at its first boot, as a small ISO image.

It carries OpenStack's tree and the EC2 one, so every cloud-init finds what it knows.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent import layout
from agent.spec import FixedAddress, HostSpec, Network, Port, Server, Subnet
from agent.system import files, iso

LABEL = "config-2"

Blob = Callable[[str], bytes]


def compile_tree(spec: HostSpec, server: Server, blob: Blob) -> dict[str, bytes]:
    """The files of a server's config drive by their path. ``blob`` gives the content of a hash."""
    contents = {
        f"openstack/content/{index:04d}": blob(file.sha256)
        for index, file in enumerate(server.guest.files)
    }
    tree = {
        "openstack/latest/meta_data.json": _json(meta_data(server)),
        "openstack/latest/network_data.json": _json(network_data(spec, server)),
        "openstack/latest/vendor_data.json": _json({}),
        "ec2/latest/meta-data.json": _json(ec2_meta_data(spec, server)),
        **contents,
    }
    if server.guest.user_data_sha256 is not None:
        user_data = blob(server.guest.user_data_sha256)
        tree["openstack/latest/user_data"] = user_data
        tree["ec2/latest/user-data"] = user_data
    return tree


def build(data: Path, spec: HostSpec, server: Server, blob: Blob) -> None:
    """Make a server's config drive anew. Never while its guest runs."""
    files.make_folder(layout.drives(data), 0o711)
    iso.build(layout.drive(data, server.id), LABEL, compile_tree(spec, server, blob))


def meta_data(server: Server) -> dict[str, Any]:
    """OpenStack's meta_data.json."""
    guest = server.guest
    return {
        "uuid": server.id,
        "name": guest.name,
        "hostname": guest.hostname,
        "launch_index": guest.launch_index,
        "availability_zone": guest.availability_zone,
        "project_id": guest.project_id,
        "public_keys": {key.name: key.key for key in guest.public_keys},
        "keys": [{"type": "ssh", "name": key.name, "data": key.key} for key in guest.public_keys],
        "meta": dict(guest.metadata),
        "devices": [],
        "files": [
            {"path": file.path, "content_path": f"/content/{index:04d}", "mode": file.mode}
            for index, file in enumerate(guest.files)
        ],
    }


def network_data(spec: HostSpec, server: Server) -> dict[str, Any]:
    """OpenStack's network_data.json: the NICs in order, addressed by DHCP where there is one."""
    networks = {network.id: network for network in spec.networks}
    ports = ports_of(spec, server)
    entries = [entry for port in ports for entry in _addresses(port, networks.get(port.network_id))]
    return {
        "links": [_link(port, networks.get(port.network_id)) for port in ports],
        "networks": [{"id": f"network{index}", **entry} for index, entry in enumerate(entries)],
        "services": [],
    }


def ec2_meta_data(spec: HostSpec, server: Server) -> dict[str, Any]:
    """The EC2 tree's meta-data.json."""
    guest = server.guest
    addresses = [
        address.address
        for port in ports_of(spec, server)
        for address in port.addresses
        if ":" not in address.address
    ]
    keys = enumerate(guest.public_keys)
    return {
        "instance-id": server.id,
        "hostname": guest.hostname,
        "local-hostname": guest.hostname,
        "local-ipv4": addresses[0] if addresses else "",
        "ami-launch-index": guest.launch_index,
        "placement": {"availability-zone": guest.availability_zone},
        "public-keys": {
            str(index): {"_name": f"{index}={key.name}", "openssh-key": key.key}
            for index, key in keys
        },
    }


def ports_of(spec: HostSpec, server: Server) -> list[Port]:
    """A server's ports that the spec has, in the order of its NICs."""
    ports = {port.id: port for port in spec.ports}
    return [ports[port_id] for port_id in server.ports if port_id in ports]


def tap_name(port_id: str) -> str:
    """The tap device of a port."""
    return f"tap{layout.checked(port_id)[:11]}"


def _link(port: Port, network: Any) -> dict[str, Any]:
    return {
        "id": tap_name(port.id),
        "vif_id": port.id,
        "type": "ovs",
        "mtu": network.mtu if network is not None else None,
        "ethernet_mac_address": port.mac,
    }


def _addresses(port: Port, network: Any) -> Iterator[dict[str, Any]]:
    subnets = {} if network is None else {subnet.id: subnet for subnet in network.subnets}
    asked = set()
    for address in port.addresses:
        subnet = subnets.get(address.subnet_id)
        if subnet is None:
            continue
        if subnet.dhcp is None:
            yield _static(port, network, subnet, address)
        elif subnet.id not in asked:
            asked.add(subnet.id)
            yield _entry(port, network, _by_dhcp(subnet))


def _by_dhcp(subnet: Subnet) -> str:
    """The kind of an entry that needs no address: the network tells it."""
    if ":" not in subnet.cidr:
        return "ipv4_dhcp"
    return f"ipv6_{subnet.ipv6_mode}" if subnet.ipv6_mode else "ipv6_dhcp"


def _entry(port: Port, network: Network, kind: str) -> dict[str, Any]:
    return {"type": kind, "link": tap_name(port.id), "network_id": network.id}


def _static(port: Port, network: Network, subnet: Subnet, address: FixedAddress) -> dict[str, Any]:
    routes = [_route(route.destination, route.nexthop) for route in subnet.host_routes]
    ipv6 = ":" in subnet.cidr
    if subnet.gateway is not None and (ipv6 or port.gives_default_route):
        routes.append(_route("::/0" if ipv6 else "0.0.0.0/0", subnet.gateway))
    servers = subnet.dns_nameservers if port.gives_name_server else ()
    return {
        **_entry(port, network, "ipv6" if ipv6 else "ipv4"),
        "ip_address": address.address,
        "netmask": str(ipaddress.ip_network(subnet.cidr).netmask),
        "routes": routes,
        "services": [{"type": "dns", "address": server} for server in servers],
    }


def _route(destination: str, gateway: str) -> dict[str, str]:
    network = ipaddress.ip_network(destination)
    return {
        "network": str(network.network_address),
        "netmask": str(network.netmask),
        "gateway": gateway,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"
