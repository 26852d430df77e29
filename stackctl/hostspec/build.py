"""Pure: the rows around a host become the one document that tells it what to be."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

from agent import spec
from stackctl.hostspec.snapshot import HostSnapshot, stands_on_image
from stackctl.state import Row

TUNNEL_TYPES = ("vxlan", "gre")
DHCP_OWNER = "network:dhcp"
GATEWAY_OWNER = "network:router_gateway"
DEFAULT_COMMAND_LINE = "console=ttyS0 root=/dev/vda"


def build_spec(snapshot: HostSnapshot, serial: int, nonce: str) -> spec.HostSpec:
    """What this host must have, as of the transaction (serial, nonce)."""
    host, adopting = snapshot.host, snapshot.adopting
    return spec.HostSpec(
        format=spec.SPEC_FORMAT,
        cloud_id=snapshot.cloud["id"],
        host_id=host["id"],
        serial=serial,
        nonce=nonce,
        settings=_settings(host),
        networks=tuple(_network(snapshot, row) for row in snapshot.networks),
        ports=_ports(snapshot),
        images=tuple(image_spec(row) for row in _by_id(snapshot.images.values())),
        disks=tuple(_disk(row, adopting) for row in _by_id(snapshot.disks)),
        servers=tuple(_server(snapshot, row) for row in snapshot.servers),
        tombstones=tuple(
            spec.Tombstone(row["kind"], row["id"], version=0, backend_id=row["type_id"])
            for row in snapshot.tombstones
        ),
        routers=tuple(_router(snapshot, row) for row in snapshot.routers),
        security_groups=tuple(_group(snapshot, row) for row in snapshot.groups.rows),
        members=tuple(_members(snapshot)),
        volumes=tuple(
            _volume(row) for row in _by_id([*snapshot.volumes, *snapshot.volume_snapshots])
        ),
        backends=tuple(_backend(host, row) for row in snapshot.volume_types),
        trunks=tuple(_trunk(snapshot, row) for row in snapshot.trunks),
    )


def _by_id(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["id"])


def _settings(host: Row) -> spec.HostSettings:
    mappings = json.loads(host["bridge_mappings_json"])
    return spec.HostSettings(
        virt_type=host["virt_type"],
        datapath=host["datapath"],
        tunnel_address=host["tunnel_address"],
        bridge_mappings=tuple(
            spec.BridgeMapping(item["physical_network"], item["bridge"], item["nic"])
            for item in mappings
        ),
        on_boot=host["on_boot"],
    )


def _network(snapshot: HostSnapshot, row: Row) -> spec.Network:
    tunnelled = row["type"] in TUNNEL_TYPES
    neighbours = [port for port in snapshot.neighbours if port["network_id"] == row["id"]]
    elsewhere = [port for port in snapshot.second_places if port["network_id"] == row["id"]]
    return spec.Network(
        id=row["id"],
        version=row["version"],
        type=row["type"],
        physical_network=row["physical_network"],
        segmentation_id=row["segmentation_id"],
        local_vlan=row["local_vlan"],
        mtu=row["mtu"],
        admin_up=bool(row["admin_up"]),
        domain=row["domain"],
        subnets=tuple(_subnet(snapshot, subnet) for subnet in snapshot.subnets.get(row["id"], [])),
        names=tuple(_names(snapshot, neighbours)),
        remote_ports=tuple(_remote_ports(snapshot, neighbours + elsewhere)) if tunnelled else (),
        flood_to=tuple(snapshot.flood_to.get(row["id"], [])) if tunnelled else (),
    )


def _subnet(snapshot: HostSnapshot, row: Row) -> spec.Subnet:
    routes = json.loads(row["host_routes_json"])
    return spec.Subnet(
        id=row["id"],
        version=row["version"],
        number=row["number"],
        cidr=row["cidr"],
        gateway=row["gateway"],
        dhcp=_dhcp(snapshot, row) if row["dhcp"] else None,
        dns_nameservers=tuple(json.loads(row["dns_nameservers_json"])),
        host_routes=tuple(
            spec.HostRoute(route["destination"], route["nexthop"]) for route in routes
        ),
        ipv6_mode=row["ipv6_mode"],
    )


def _dhcp(snapshot: HostSnapshot, subnet: Row) -> spec.Dhcp | None:
    """The subnet's DHCP port; None before the subnet had its first port."""
    for port in snapshot.neighbours:
        if port["device_owner"] != DHCP_OWNER or port["network_id"] != subnet["network_id"]:
            continue
        for address in snapshot.addresses.get(port["id"], []):
            if address["subnet_id"] == subnet["id"]:
                return spec.Dhcp(port["id"], address["address"], port["mac"])
    return None


def _names(snapshot: HostSnapshot, neighbours: list[Row]) -> Iterable[spec.Name]:
    for port in neighbours:
        if port["hostname"]:
            for address in snapshot.addresses.get(port["id"], []):
                yield spec.Name(port["hostname"], address["address"])


def _remote_ports(snapshot: HostSnapshot, places: list[Row]) -> Iterable[spec.RemotePort]:
    """A port is in two places while its server moves."""
    for port in places:
        if port["tunnel_address"]:
            addresses = [row["address"] for row in snapshot.addresses.get(port["id"], [])]
            yield spec.RemotePort(port["mac"], tuple(addresses), port["tunnel_address"])


def _ports(snapshot: HostSnapshot) -> tuple[spec.Port, ...]:
    by_server: dict[str, list[Row]] = defaultdict(list)
    for row in snapshot.ports:
        by_server[row["server_id"]].append(row)
    gateways = {
        subnet["id"]: subnet["gateway"] for rows in snapshot.subnets.values() for subnet in rows
    }
    private = {row["id"] for row in snapshot.networks if not row["shared"] and not row["external"]}
    ports = []
    for rows in by_server.values():
        # A NIC's own network before those that it carries as VLANs.
        rows.sort(key=lambda row: (row["vlan"] is not None, row["nic"], row["vlan"]))
        router = next((row["id"] for row in rows if _has_gateway(snapshot, row, gateways)), None)
        resolver = next((row["id"] for row in rows if row["network_id"] in private), rows[0]["id"])
        ports += [_port(snapshot, row, router, resolver) for row in rows]
    return tuple(sorted(ports, key=lambda port: port.id))


def _has_gateway(snapshot: HostSnapshot, port: Row, gateways: dict[str, str | None]) -> bool:
    addresses = snapshot.addresses.get(port["id"], [])
    # An IPv6 default route comes with a router's advertisements, not from DHCP.
    return any(":" not in (gateways.get(each["subnet_id"]) or ":") for each in addresses)


def _port(
    snapshot: HostSnapshot, row: Row, router_port: str | None, resolver_port: str
) -> spec.Port:
    return spec.Port(
        id=row["id"],
        version=row["version"],
        network_id=row["network_id"],
        server_id=row["server_id"],
        mac=row["mac"],
        addresses=_fixed(snapshot, row),
        hostname=row["hostname"],
        admin_up=bool(row["admin_up"]),
        role=row["role"],
        port_security=bool(row["port_security"]),
        gives_default_route=row["id"] == router_port,
        gives_name_server=row["id"] == resolver_port,
        security_groups=tuple(snapshot.groups.of_port.get(row["id"], [])),
        allowed_pairs=tuple(
            spec.AddressPair(pair["cidr"], pair["mac"])
            for pair in json.loads(row["allowed_pairs_json"])
        ),
        dhcp_options=tuple(
            spec.DhcpOption(option["ip_version"], option["number"], option["value"])
            for option in json.loads(row["dhcp_options_json"])
        ),
        limit=spec.BandwidthLimit(
            row["egress_kbps"],
            row["egress_burst_kb"],
            row["ingress_kbps"],
            row["ingress_burst_kb"],
        ),
    )


def _trunk(snapshot: HostSnapshot, row: Row) -> spec.Trunk:
    return spec.Trunk(
        id=row["id"],
        version=row["version"],
        port_id=row["port_id"],
        subports=tuple(
            spec.Subport(each["port_id"], each["segmentation_id"])
            for each in snapshot.subports.get(row["id"], [])
        ),
    )


def _fixed(snapshot: HostSnapshot, port: Row) -> tuple[spec.FixedAddress, ...]:
    return tuple(
        spec.FixedAddress(address["subnet_id"], address["address"])
        for address in snapshot.addresses.get(port["id"], [])
    )


def _router(snapshot: HostSnapshot, row: Row) -> spec.Router:
    ports = snapshot.router_ports.get(row["id"], [])
    gateways = [port for port in ports if port["device_owner"] == GATEWAY_OWNER]
    return spec.Router(
        id=row["id"],
        version=row["version"],
        admin_up=bool(row["admin_up"]),
        interfaces=tuple(
            _router_port(snapshot, port) for port in ports if port["device_owner"] != GATEWAY_OWNER
        ),
        gateway=_router_port(snapshot, gateways[0]) if gateways else None,
        snat=bool(row["snat"]),
        routes=tuple(
            spec.HostRoute(route["destination"], route["nexthop"])
            for route in json.loads(row["routes_json"])
        ),
        floating_ips=tuple(
            spec.FloatingIp(each["id"], each["version"], each["address"], each["fixed_address"])
            for each in snapshot.floating_ips.get(row["id"], [])
        ),
    )


def _router_port(snapshot: HostSnapshot, row: Row) -> spec.RouterPort:
    return spec.RouterPort(
        id=row["id"],
        version=row["version"],
        network_id=row["network_id"],
        mac=row["mac"],
        addresses=_fixed(snapshot, row),
        admin_up=bool(row["admin_up"]),
    )


def _group(snapshot: HostSnapshot, row: Row) -> spec.SecurityGroup:
    return spec.SecurityGroup(
        id=row["id"],
        version=row["version"],
        rules=tuple(
            spec.SecurityRule(
                id=rule["id"],
                direction=rule["direction"],
                ethertype=rule["ethertype"],
                protocol=rule["protocol"],
                port_min=rule["port_min"],
                port_max=rule["port_max"],
                remote_cidr=rule["remote_cidr"],
                remote_group_id=rule["remote_group_id"],
            )
            for rule in snapshot.groups.rules.get(row["id"], [])
        ),
    )


def _members(snapshot: HostSnapshot) -> Iterable[spec.Members]:
    """What the members of a group send from: their addresses, and the pairs allowed to them."""
    found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for row in snapshot.groups.members:
        addresses = found[row["group_id"], row["network_id"]]
        if row["address"] is not None:
            addresses[row["address"]] = None
        for pair in json.loads(row["allowed_pairs_json"]):
            addresses[pair["cidr"]] = None
    for (group_id, network_id), addresses in sorted(found.items()):
        yield spec.Members(group_id, network_id, tuple(addresses))


def image_spec(row: Row) -> spec.Image:
    """An image as hosts are told of it."""
    return spec.Image(
        id=row["id"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        disk_format="qcow2" if row["disk_format"] == "qcow2" else "raw",
        url=row["source_url"] if row["host_may_fetch"] else None,
    )


def _disk(row: Row, adopting: set[str]) -> spec.Disk:
    return spec.Disk(
        id=row["id"],
        version=row["version"],
        server_id=row["server_id"],
        kind=row["kind"],
        format=row["format"],
        size_bytes=row["size_bytes"],
        build=row["state"] == "build",
        image_id=row["image_id"] if stands_on_image(row) else None,
        source_id=row["source_id"] if row["state"] == "build" else None,
        source_host_id=row["source_host_id"] if row["state"] == "build" else None,
        serial=row["serial"],
        adopts=row["path"] if row["path"] and row["server_id"] in adopting else None,
    )


def _volume(row: Row) -> spec.Volume:
    built, copied = bool(row["built"]), row["source_id"] is not None
    return spec.Volume(
        id=row["id"],
        version=row["version"],
        format=row["format"],
        size_bytes=row["size_gb"] << 30,
        build=not built,
        image_id=None if built or copied else row["image_id"],
        source_id=None if built else row["source_id"],
        backend_id=row["type_id"],
        # A snapshot that failed is not in the spec at all.
        held=bool(row.get("held")) and not built,
    )


def _backend(host: Row, row: Row) -> spec.Backend:
    return spec.Backend(
        id=row["id"],
        version=row["version"],
        driver=row["driver"],
        location=row["location"],
        shared=bool(row["shared"]),
        claim=row["host_id"] == host["id"] and not row["claimed"],
        look=not row["known"],
    )


def _server(snapshot: HostSnapshot, row: Row) -> spec.Server:
    all_disks = [
        disk for disk in snapshot.disks if disk["server_id"] == row["id"] and not disk["aside"]
    ]
    disks = [disk for disk in all_disks if disk["kind"] != "nvram"]
    ports = [port for port in snapshot.ports if port["device_id"] == row["id"]]
    return spec.Server(
        id=row["id"],
        version=row["version"],
        vcpus=row["vcpus"],
        ram_mb=row["ram_mb"],
        power=spec.Power(row["power_serial"], row["power_action"]),
        guest=_guest(row),
        disks=tuple(disk["id"] for disk in sorted(disks, key=lambda disk: disk["position"])),
        ports=tuple(port["id"] for port in sorted(ports, key=lambda port: port["nic_index"])),
        machine_type=row["machine_type"],
        cpu_mode=row["cpu_mode"],
        disk_bus=row["disk_bus"],
        nic_model=row["nic_model"],
        kernel=_kernel(snapshot, row),
        held=bool(row["held"]),
        moving=bool(row["moving"]),
        volumes=tuple(_attachments(snapshot, row)),
        adopts=bool(row["adopting"]),
        hardware=_hardware(row, all_disks),
    )


def _hardware(server: Row, disks: list[Row]) -> spec.Hardware:
    unusual = json.loads(server["hardware_json"])
    if unusual.get("nvram"):
        unusual["nvram"] = next((each["id"] for each in disks if each["kind"] == "nvram"), None)
    topology = unusual.pop("topology", None)
    return spec.Hardware(topology=spec.Topology(*topology) if topology else None, **unusual)


def _attachments(snapshot: HostSnapshot, server: Row) -> Iterable[spec.Attachment]:
    """Its volumes, but those that it is to let go of."""
    mine = [row for row in snapshot.volumes if row["server_id"] == server["id"]]
    for row in sorted(mine, key=lambda row: row["device"]):
        if row["status"] != "detaching":
            yield spec.Attachment(row["id"], row["device"])


def _guest(row: Row) -> spec.Guest:
    metadata: dict[str, str] = json.loads(row["metadata_json"])
    return spec.Guest(
        hostname=row["hostname"],
        name=row["name"],
        project_id=row["project_id"],
        launch_index=row["launch_index"],
        availability_zone=row["zone"],
        public_keys=tuple(
            spec.PublicKey(key["name"], key["key"]) for key in json.loads(row["public_keys_json"])
        ),
        metadata=tuple(sorted(metadata.items())),
        user_data_sha256=row["user_data_sha256"],
        files=tuple(
            spec.FileContent(file["path"], file["sha256"], file["mode"])
            for file in json.loads(row["files_json"])
        ),
        vendor_data_sha256=row["vendor_data_sha256"],
        seed=row["random_seed"],
        instance_type=row["flavor_name"],
        image_id=row["image_id"] or "",
    )


def _kernel(snapshot: HostSnapshot, server: Row) -> spec.DirectKernel | None:
    image = snapshot.images.get(server["rescue_image_id"] or server["image_id"] or "")
    if image is None or image["kernel_id"] is None:
        return None
    properties = json.loads(image["properties_json"])
    return spec.DirectKernel(
        kernel_image_id=image["kernel_id"],
        ramdisk_image_id=image["ramdisk_id"],
        command_line=properties.get("os_command_line", DEFAULT_COMMAND_LINE),
    )
