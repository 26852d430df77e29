"""Ports, their addresses and bindings as rows: the writers that services use in a transaction.

Uniqueness is left to the partial indexes of the schema: an insert that they refuse means taken.
Everything here adds what it touches to ``writer.change``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stackctl.errors import Conflict
from stackctl.network import addresses, choice, membership
from stackctl.network.addresses import WantedAddress as WantedAddress
from stackctl.network.floating_rows import free_floating_ips
from stackctl.network.trunk_rows import refuse_subport
from stackctl.network.types import DHCP_OWNER, TRUSTED_OWNERS, Port, port_from
from stackctl.operation.bindings import rebound, subports_of
from stackctl.operation.bindings import touch as touch
from stackctl.operation.bindings import unbind_port as unbind_port
from stackctl.state import Reader, Row, Writer, new_id, now

MAC_ATTEMPTS = 16
LOCAL_VLANS = (1, 4094)

_LIVE_MAC = "(mac) WHERE deleted_at IS NULL"

Entropy = Callable[[int], bytes]


def make_port(
    writer: Writer,
    *,
    project_id: str,
    network: Row,
    wanted: Sequence[WantedAddress] = (),
    mac: str | None = None,
    name: str = "",
    device_owner: str = "",
    device_id: str = "",
    nic_index: int = 0,
    hostname: str = "",
    admin_up: bool = True,
    made_for_server: bool = False,
    port_security: bool | None = None,
    security_groups: Sequence[str] | None = None,
    more: Mapping[str, Any] | None = None,
    entropy: Entropy = secrets.token_bytes,
) -> Port:
    """A new port in ``network`` with the wanted addresses, or the lowest free one (per IP version;
    where guests make their IPv6 addresses themselves, the one it will make).

    ``port_security`` None is what the network says; ``security_groups`` (ids) None is the
    project's default group. Ports of our own (``network:...``) have neither. ``more`` are other
    columns of the row.

    A network without subnets gives a port without addresses. A second port of one server in one
    network goes without the host name, which the first one has. Each subnet touched gets its DHCP
    server's address right after its first port. Conflict: address or MAC taken, pools exhausted;
    UsageError: an address that is not in the subnet.
    """
    secured = bool(network["port_security"]) if port_security is None else port_security
    secured = secured and not device_owner.startswith(TRUSTED_OWNERS)
    row = {
        "id": new_id(),
        "project_id": project_id,
        "network_id": network["id"],
        "name": name,
        "device_owner": device_owner,
        "device_id": device_id,
        "nic_index": nic_index,
        "hostname": _hostname_left(writer, network["id"], device_id, hostname),
        "admin_up": int(admin_up),
        "port_security": int(secured),
        "made_for_server": int(made_for_server),
        "created_at": now(),
        **(more or {}),
    }
    insert_port(writer, network, row, mac, entropy)
    _join_groups(writer, row, security_groups)
    give_addresses(writer, network, row["id"], wanted, entropy)
    touch(writer, network["id"], row["id"])
    return port_from(writer, writer.get("ports", row["id"]))


def _join_groups(writer: Writer, port: Row, wanted: Sequence[str] | None) -> None:
    if not port["port_security"]:
        if wanted:
            raise Conflict(membership.NEEDS_SECURITY)
        return
    if wanted is None:
        wanted = [membership.default_group(writer, port["project_id"])]
    membership.put_in_groups(writer, port["id"], wanted)


def insert_port(
    writer: Writer, network: Row, row: Mapping[str, Any], mac: str | None, entropy: Entropy
) -> None:
    """Insert a port with this MAC, or with a random one that nobody has."""
    if mac is not None:
        checked = choice.checked_mac(mac)
        if not writer.insert_if_free("ports", {**row, "mac": checked}, _LIVE_MAC):
            raise mac_in_use(network, checked)
        return
    for _ in range(MAC_ATTEMPTS):
        mac = choice.mac_from(entropy(3))
        if writer.insert_if_free("ports", {**row, "mac": mac}, _LIVE_MAC):
            return
    raise Conflict(
        f"Unable to generate unique mac on network {network['name']}: "
        f"{MAC_ATTEMPTS} random ones were all taken."
    )


def mac_in_use(network: Row, mac: str) -> Conflict:
    """What is said of a MAC address that another port has."""
    return Conflict(
        f"Unable to complete operation for network {network['name']}. "
        f"The mac address {mac} is in use."
    )


def give_addresses(
    writer: Writer,
    network: Row,
    port_id: str,
    wanted: Sequence[WantedAddress],
    entropy: Entropy = secrets.token_bytes,
) -> None:
    """Give a port its addresses: the wanted ones, or what ``addresses.give_any`` chooses."""
    subnets = addresses.subnets_of(writer, network["id"])
    if wanted:
        touched = [
            addresses.give_wanted(writer, network, subnets, port_id, each) for each in wanted
        ]
    else:
        touched = addresses.give_any(writer, network, subnets, port_id)
    for subnet in touched:
        ensure_dhcp_port(writer, network, subnet, entropy)


def ensure_dhcp_port(
    writer: Writer, network: Row, subnet: Row, entropy: Entropy = secrets.token_bytes
) -> None:
    """Give a subnet's DHCP server its port and address, unless it has them or is switched off."""
    if not subnet["dhcp"] or dhcp_port_id(writer, subnet["id"]) is not None:
        return
    row = {
        "id": new_id(),
        "project_id": network["project_id"],
        "network_id": network["id"],
        "device_owner": DHCP_OWNER,
        "device_id": subnet["id"],
        "port_security": 0,
        "status": "ACTIVE",
        "created_at": now(),
    }
    insert_port(writer, network, row, None, entropy)
    address = addresses.free_address(writer, network["id"], subnet)
    if address is None:
        raise Conflict(
            f"No more IP addresses available for subnet {addresses.subnet_label(subnet)} "
            f"({subnet['cidr']}): its DHCP server needs one beside the port's. Nothing was made.",
            hint="give the subnet a larger pool, or create it with --no-dhcp",
        )
    addresses.take(writer, network, subnet, row["id"], address, "dhcp")
    writer.change.ports.add(row["id"])


def dhcp_port_id(reader: Reader, subnet_id: str) -> str | None:
    """The port of a subnet's DHCP server; None before the subnet's first port."""
    held = reader.value(
        "SELECT id FROM ports WHERE device_id = ? AND device_owner = ? AND deleted_at IS NULL",
        subnet_id,
        DHCP_OWNER,
    )
    return None if held is None else str(held)


def release_port(writer: Writer, port_id: str) -> None:
    """Delete a port: its bindings and floating IPs go, its addresses are released and rest."""
    port = writer.get("ports", port_id)
    for host_id in writer.column("SELECT host_id FROM bindings WHERE port_id = ?", port_id):
        unbind_port(writer, port_id, host_id)
    free_floating_ips(writer, port_id)
    addresses.release_addresses(writer, "port_id = ?", port_id)
    writer.update("ports", port_id, deleted_at=now(), status="DOWN")
    touch(writer, port["network_id"], port_id)
    membership.put_in_groups(writer, port_id, ())


def join_server(
    writer: Writer,
    port_id: str,
    *,
    server_id: str,
    device_owner: str,
    nic_index: int,
    hostname: str,
) -> Port:
    """Make an existing port a server's; Conflict when something else has it, or a trunk."""
    refuse_subport(writer, port_id)
    port = writer.get("ports", port_id)
    if port["device_id"] or port["device_owner"]:
        raise Conflict(
            f"Unable to complete operation on port {port['name'] or port_id}. Port already has an "
            f"attached device {port['device_id'] or port['device_owner']}."
        )
    writer.update(
        "ports",
        port_id,
        device_id=server_id,
        device_owner=device_owner,
        nic_index=nic_index,
        hostname=_hostname_left(writer, port["network_id"], server_id, hostname),
        version=port["version"] + 1,
    )
    touch(writer, port["network_id"], port_id)
    return port_from(writer, writer.get("ports", port_id))


def leave_server(writer: Writer, port_id: str) -> None:
    """Take a port from its server: deleted if it was made for it, else free for another."""
    port = writer.get("ports", port_id)
    if port["made_for_server"]:
        release_port(writer, port_id)
        return
    for host_id in writer.column("SELECT host_id FROM bindings WHERE port_id = ?", port_id):
        unbind_port(writer, port_id, host_id)
    free_floating_ips(writer, port_id)
    free = {"device_id": "", "device_owner": "", "nic_index": 0, "hostname": "", "status": "DOWN"}
    writer.update("ports", port_id, **free, version=port["version"] + 1)
    touch(writer, port["network_id"], port_id)


def bind_port(writer: Writer, port_id: str, host_id: str, role: str = "active") -> None:
    """Say that a host carries a port (role active, incoming or outgoing) and its subports; their
    networks get tags there."""
    for subport_id in subports_of(writer, port_id):
        bind_port(writer, subport_id, host_id, role)
    port = writer.get("ports", port_id)
    writer.upsert(
        "bindings",
        {"port_id": port_id, "host_id": host_id, "role": role},
        pk=("port_id", "host_id"),
    )
    local_vlan(writer, host_id, port["network_id"])
    rebound(writer, port, host_id)


def local_vlan(writer: Writer, host_id: str, network_id: str) -> int:
    """The tag of a network on br-int of a host; the lowest free one when it has none yet.

    A tag that the host released is free again once the host has applied its release.
    """
    held = writer.one(
        "SELECT * FROM host_networks WHERE host_id = ? AND network_id = ?", host_id, network_id
    )
    if held is not None:
        if held["released_serial"] is not None:
            writer.run(
                "UPDATE host_networks SET released_serial = NULL"
                " WHERE host_id = ? AND network_id = ?",
                host_id,
                network_id,
            )
        return int(held["local_vlan"])
    forget_applied_tags(writer, host_id)
    tag = _free_tag(writer, host_id)
    row = {"host_id": host_id, "network_id": network_id, "local_vlan": tag}
    writer.insert("host_networks", row)
    return tag


def forget_applied_tags(writer: Writer, host_id: str) -> None:
    """Drop the tags of networks that a host no longer carries, as it has confirmed."""
    writer.run(
        "DELETE FROM host_networks WHERE host_id = ?"
        " AND released_serial <= (SELECT applied_serial FROM hosts WHERE id = ?)",
        host_id,
        host_id,
    )


def free_hostname(reader: Reader, network_ids: Sequence[str], wanted: str) -> str:
    """A DNS label made of any Unicode name, not yet used in any of these networks."""
    label = choice.dns_label(wanted)
    # Suffixed forms begin with the label, or with as much of it as leaves room for the suffix.
    stem = label[: choice.LABEL_MAX - 8]
    marks = ", ".join("?" for _ in network_ids)
    taken = reader.column(
        f"SELECT hostname FROM ports WHERE network_id IN ({marks}) AND deleted_at IS NULL"
        " AND hostname <> '' AND hostname >= ? AND hostname < ?",
        *network_ids,
        stem,
        stem + "{",
    )
    return choice.unused_label(label, set(taken))


def _hostname_left(writer: Writer, network_id: str, device_id: str, hostname: str) -> str:
    if not hostname or not device_id:
        return hostname
    has_it = writer.one(
        "SELECT 1 FROM ports WHERE network_id = ? AND hostname = ? AND device_id = ?"
        " AND hostname <> '' AND deleted_at IS NULL",
        network_id,
        hostname,
        device_id,
    )
    return "" if has_it else hostname


def _free_tag(reader: Reader, host_id: str) -> int:
    taken = reader.column("SELECT local_vlan FROM host_networks WHERE host_id = ?", host_id)
    tag = choice.lowest_free(*LOCAL_VLANS, set(taken))
    if tag is None:
        name = reader.value("SELECT name FROM hosts WHERE id = ?", host_id)
        raise Conflict(
            f"Host {name} carries {len(taken)} networks and has no free local VLAN for another.",
            hint="stackctl converge",
        )
    return tag
