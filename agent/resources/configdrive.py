"""The config drive: what a guest is told at its first boot, as a small ISO image.

It carries OpenStack's tree and the EC2 one, so every cloud-init finds what it knows.
"""

from __future__ import annotations

import ipaddress
import json
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent import layout
from agent.resources.domain_xml import DISK_PREFIXES
from agent.spec import FixedAddress, HostSpec, Network, Port, Server, Subnet
from agent.system import files, iso

LABEL = "config-2"

OPENSTACK_VERSIONS = (
    *("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06"),
    *("2017-02-22", "2018-08-27", "2020-10-14", "latest"),
)
"""As in Nova; ``latest`` comes after all dates."""

EC2_VERSIONS = ("2009-04-04", "latest")
EC2_DISKS = {"ephemeral": "ephemeral0", "swap": "swap"}

Blob = Callable[[str], bytes]


def compile_tree(spec: HostSpec, server: Server, blob: Blob) -> dict[str, bytes]:
    """The files of a server's config drive by their path. ``blob`` gives the content of a hash."""
    guest = server.guest
    tree = {
        f"openstack/content/{index:04d}": blob(file.sha256)
        for index, file in enumerate(guest.files)
    }
    user_data = None if guest.user_data_sha256 is None else blob(guest.user_data_sha256)
    vendor = b"{}" if guest.vendor_data_sha256 is None else blob(guest.vendor_data_sha256)
    documents = _documents(spec, server, json.loads(vendor))
    for version in OPENSTACK_VERSIONS:
        for name, (since, content) in documents.items():
            if since <= version:
                tree[f"openstack/{version}/{name}"] = content(version)
        if user_data is not None:
            tree[f"openstack/{version}/user_data"] = user_data
    for version in EC2_VERSIONS:
        tree[f"ec2/{version}/meta-data.json"] = _json(ec2_meta_data(spec, server))
        if user_data is not None:
            tree[f"ec2/{version}/user-data"] = user_data
    return tree


def _documents(
    spec: HostSpec, server: Server, vendor: Any
) -> dict[str, tuple[str, Callable[[str], bytes]]]:
    """The JSON files, each with the version that had it first, and made for a version."""
    network, static = network_data(spec, server), {"static": vendor} if vendor else {}
    return {
        "meta_data.json": ("", lambda version: _json(meta_data(spec, server, version))),
        "vendor_data.json": ("2013-10-17", lambda _: _json(vendor)),
        "network_data.json": ("2015-10-15", lambda _: _json(network)),
        "vendor_data2.json": ("2016-10-06", lambda _: _json(static)),
    }


def build(data: Path, spec: HostSpec, server: Server, blob: Blob) -> None:
    """Make a server's config drive anew. Never while its guest runs."""
    files.make_folder(layout.drives(data), 0o711)
    iso.build(layout.drive(data, server.id), LABEL, compile_tree(spec, server, blob))


def meta_data(spec: HostSpec, server: Server, version: str = "latest") -> dict[str, Any]:
    """OpenStack's meta_data.json, with what a version of it has."""
    guest = server.guest
    found: dict[str, Any] = {
        "uuid": server.id,
        "name": guest.name,
        "hostname": guest.hostname,
        "launch_index": guest.launch_index,
        "availability_zone": guest.availability_zone,
        "public_keys": {key.name: key.key for key in guest.public_keys},
        "keys": [{"type": "ssh", "name": key.name, "data": key.key} for key in guest.public_keys],
        "meta": dict(guest.metadata),
        "files": [
            {"path": file.path, "content_path": f"/content/{index:04d}", "mode": file.mode}
            for index, file in enumerate(guest.files)
        ],
    }
    if guest.seed is not None and version >= "2013-04-04":
        found["random_seed"] = guest.seed
    if version >= "2015-10-15":
        found["project_id"] = guest.project_id
    if version >= "2016-06-30":
        found["devices"] = _devices(spec, server)
    if version >= "2020-10-14":
        found["dedicated_cpus"] = []
    return found


def _devices(spec: HostSpec, server: Server) -> list[dict[str, Any]]:
    """NICs by their MACs, volumes by their serials (whole ids); where they sit, qemu decides."""
    nics = [
        {"type": "nic", "bus": "none", "address": "none", "mac": port.mac, "tags": []}
        for port in ports_of(spec, server)
    ]
    volumes = [
        {
            "type": "disk",
            "bus": server.disk_bus,
            "address": "none",
            "tags": [],
            "serial": each.volume_id,
            "path": f"/dev/{each.device}",
        }
        for each in sorted(server.volumes, key=lambda each: each.device)
    ]
    return [*nics, *volumes]


def network_data(spec: HostSpec, server: Server) -> dict[str, Any]:
    """OpenStack's network_data.json: the NICs in order, addressed by DHCP where there is one."""
    networks = {network.id: network for network in spec.networks}
    ports = ports_of(spec, server)
    vlans = list(_vlans(spec, ports))
    links = [_link(port, networks.get(port.network_id)) for port in ports]
    links += [_vlan_link(parent, port, vlan) for parent, port, vlan in vlans]
    ports += [port for _, port, _ in vlans]
    entries = [entry for port in ports for entry in _addresses(port, networks.get(port.network_id))]
    # What the guest must know by itself; DHCP and router advertisements tell the rest.
    services = [service for entry in entries for service in entry.get("services", ())]
    return {
        "links": links,
        "networks": [{"id": f"network{index}", **entry} for index, entry in enumerate(entries)],
        "services": [each for at, each in enumerate(services) if each not in services[:at]],
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
        "ami-id": guest.image_id,
        "ami-launch-index": guest.launch_index,
        "ami-manifest-path": "",
        "block-device-mapping": block_devices(spec, server),
        "hostname": guest.hostname,
        "instance-action": "none",
        "instance-id": server.id,
        "instance-type": guest.instance_type,
        "local-hostname": guest.hostname,
        "local-ipv4": addresses[0] if addresses else "",
        "placement": {"availability-zone": guest.availability_zone},
        "public-hostname": guest.hostname,
        "public-ipv4": "",
        "public-keys": {
            str(index): {"_name": f"{index}={key.name}", "openssh-key": key.key}
            for index, key in keys
        },
        "reservation-id": "",
    }


def block_devices(spec: HostSpec, server: Server) -> dict[str, str]:
    """EC2's names for a server's disks and volumes, and the devices that the guest has them as."""
    kinds = {disk.id: disk.kind for disk in spec.disks}
    taken = {each.device for each in server.volumes}
    prefix = DISK_PREFIXES[server.disk_bus]
    free = [f"{prefix}{letter}" for letter in string.ascii_lowercase]
    free = [device for device in free if device not in taken]
    mapping = {"ami": f"{prefix}a", "root": f"/dev/{prefix}a"}
    for disk_id, device in zip(server.disks, free):
        if kinds.get(disk_id) in EC2_DISKS:
            mapping[EC2_DISKS[kinds[disk_id]]] = f"/dev/{device}"
    for index, each in enumerate(sorted(server.volumes, key=lambda each: each.device)):
        mapping[f"ebs{index}"] = f"/dev/{each.device}"
    return mapping


def ports_of(spec: HostSpec, server: Server) -> list[Port]:
    """A server's ports that the spec has, in the order of its NICs."""
    ports = {port.id: port for port in spec.ports}
    return [ports[port_id] for port_id in server.ports if port_id in ports]


def _vlans(spec: HostSpec, ports: list[Port]) -> Iterator[tuple[Port, Port, int]]:
    """Parent, subport and tag of everything that these ports are trunks of."""
    known = {port.id: port for port in spec.ports}
    trunks = {trunk.port_id: trunk for trunk in spec.trunks}
    for parent in ports:
        trunk = trunks.get(parent.id)
        for subport in trunk.subports if trunk is not None else ():
            if subport.port_id in known:
                yield parent, known[subport.port_id], subport.vlan


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


def _vlan_link(parent: Port, port: Port, vlan: int) -> dict[str, Any]:
    return {
        "id": tap_name(port.id),
        "vif_id": port.id,
        "type": "vlan",
        "vlan_link": tap_name(parent.id),
        "vlan_id": vlan,
        "vlan_mac_address": port.mac,
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
