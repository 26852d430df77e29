"""The wires of a lab: namespaces, bridges, veth pairs and addresses.

The fabric is a namespace with one plain Linux bridge per network (they pass VLAN tags as they
are); machines hang on it by veth pairs. One veth pair leads from the management bridge to the
root namespace, where the operator sits.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stackctl.lab.commands import run, succeeds
from stackctl.lab.errors import LabError

MANAGEMENT, PROVIDER, EXTERNAL, TUNNEL = "mgmt", "provider", "external", "tunnel"
MANAGEMENT_RANGE = ipaddress.ip_network("172.30.0.0/16")
TUNNEL_RANGE = ipaddress.ip_network("172.31.0.0/16")
TUNNEL_MTU = 1600
"""Room for a VXLAN header around a full frame, so that guests can have an MTU of 1500."""


@dataclass(frozen=True)
class Nic:
    """A machine's NIC: its name there, the network it leads to, its address if it has one."""

    name: str
    network: str
    mac: str
    address: str = ""
    mtu: int = 1500


@dataclass(frozen=True)
class Wiring:
    """Where a machine hangs: its namespace, its short port name in the fabric, its NICs."""

    namespace: str
    port: str
    nics: Sequence[Nic]
    gateway: str = ""


def fabric_namespace(prefix: str) -> str:
    """The namespace of the bridges."""
    return f"{prefix}-fab"


def root_link(prefix: str) -> str:
    """The root namespace's end of the way into the management network."""
    return f"{prefix}-mgmt"


def namespace_exists(namespace: str) -> bool:
    """Whether a namespace of this name is there."""
    return Path("/run/netns", namespace).exists()


def fabric_complete(prefix: str, management_cidr: str) -> bool:
    """Whether the fabric and the root namespace's way into it stand."""
    show = ["ip", "-o", "-4", "addr", "show", "dev", root_link(prefix)]
    return (
        namespace_exists(fabric_namespace(prefix))
        and Path("/sys/class/net", root_link(prefix)).exists()
        and f"{host_address(management_cidr, 1)}/24" in run(show)
    )


def free_management_cidr(wanted: str | None = None) -> str:
    """The first /24 of the lab range that no route of this machine touches.

    ``wanted`` comes first if it is free: a lab that is made again keeps its addresses.
    """
    taken = [_network(route["dst"]) for route in json.loads(run(["ip", "-j", "-4", "route"]))]
    candidates = [ipaddress.ip_network(wanted)] if wanted else []
    for subnet in [*candidates, *MANAGEMENT_RANGE.subnets(new_prefix=24)]:
        if not any(subnet.overlaps(network) for network in taken if network.prefixlen):
            return str(subnet)
    raise LabError(f"No /24 of {MANAGEMENT_RANGE} is free on this machine: remove a lab first.")


def _network(destination: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network("0.0.0.0/0" if destination == "default" else destination)


def tunnel_cidr(management_cidr: str) -> str:
    """The tunnel network that goes with a management network: the same number, next range."""
    number = int(ipaddress.IPv4Network(management_cidr)[0]) - int(MANAGEMENT_RANGE[0])
    return f"{TUNNEL_RANGE[0] + number}/24"


def host_address(cidr: str, number: int) -> str:
    """The address with this number in a network."""
    return str(ipaddress.IPv4Network(cidr)[number])


def mac(management_cidr: str, machine: int, nic: int) -> str:
    """A MAC that stays the same when the machine is started again."""
    third_octet = ipaddress.IPv4Network(management_cidr)[0].packed[2]
    return f"02:5c:00:{third_octet:02x}:{machine:02x}:{nic:02x}"


def make_fabric(prefix: str, management_cidr: str) -> None:
    """Make the fabric and the root namespace's way into it."""
    fabric, link = fabric_namespace(prefix), root_link(prefix)
    run(["ip", "netns", "add", fabric])
    lines = []
    for bridge in (MANAGEMENT, PROVIDER, EXTERNAL, TUNNEL):
        lines += [
            f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {bridge} addrgenmode none",
            f"link set {bridge} up",
        ]
    run(["ip", "-n", fabric, "-batch", "-"], text="\n".join(lines))
    run(["ip", "link", "add", link, "type", "veth", "peer", "name", "root", "netns", fabric])
    run(["ip", "-n", fabric, "link", "set", "root", "master", MANAGEMENT, "up"])
    run(["ip", "link", "set", link, "up"])
    _disable_offload(None, link)
    _disable_offload(fabric, "root")
    # The address comes last: with it the fabric counts as complete.
    run(["ip", "addr", "add", f"{host_address(management_cidr, 1)}/24", "dev", link])


def plug(prefix: str, wiring: Wiring) -> None:
    """Make the machine's namespace and its NICs; one that is there already is made anew."""
    unplug(prefix, wiring)
    run(["ip", "netns", "add", wiring.namespace])
    fabric = fabric_namespace(prefix)
    outside, inside = [], ["link set lo up"]
    for nic in wiring.nics:
        port = f"{wiring.port}{nic.name}"
        outside += [
            f"link add {port} mtu {nic.mtu} type veth peer name {nic.name}"
            f" address {nic.mac} mtu {nic.mtu} netns {wiring.namespace}",
            f"link set {port} addrgenmode none",
            f"link set {port} master {nic.network} up",
        ]
        if nic.address:
            inside.append(f"addr add {nic.address} dev {nic.name}")
        else:
            # A bridged NIC must not speak for itself.
            inside.append(f"link set {nic.name} addrgenmode none")
        inside.append(f"link set {nic.name} up")
    if wiring.gateway:
        inside.append(f"route add default via {wiring.gateway}")
    run(["ip", "-n", fabric, "-batch", "-"], text="\n".join(outside))
    run(["ip", "-n", wiring.namespace, "-batch", "-"], text="\n".join(inside))
    for nic in wiring.nics:
        _disable_offload(fabric, f"{wiring.port}{nic.name}")
        _disable_offload(wiring.namespace, nic.name)


def _disable_offload(namespace: str | None, device: str) -> None:
    """Have checksums filled in: the userspace datapath passes packets on without doing so."""
    enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    run([*enter, "ethtool", "-K", device, "tx", "off"])


def unplug(prefix: str, wiring: Wiring) -> None:
    """Remove the machine's NICs and namespace."""
    fabric = fabric_namespace(prefix)
    if namespace_exists(fabric):
        lines = [f"link del {wiring.port}{nic.name}" for nic in wiring.nics]
        # Those which are gone already fail; -force goes on with the rest.
        succeeds(["ip", "-n", fabric, "-force", "-batch", "-"], text="\n".join(lines))
    _remove_namespace(wiring.namespace)


def remove_fabric(prefix: str) -> None:
    """Remove the fabric; machines still plugged in lose their NICs."""
    if Path("/sys/class/net", root_link(prefix)).exists():
        run(["ip", "link", "del", root_link(prefix)])
    _remove_namespace(fabric_namespace(prefix))


def _remove_namespace(namespace: str) -> None:
    if namespace_exists(namespace):
        run(["ip", "netns", "del", namespace])
