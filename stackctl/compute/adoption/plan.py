"""What becomes of a libvirt domain that is to be a server: rows chosen, or the reasons why not."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackctl.compute.interfaces import refuse_out_of_reach
from stackctl.compute.types import GIB
from stackctl.errors import AgentFailed, Conflict, UsageError
from stackctl.hosts.views import mappings_of
from stackctl.identity.context import Context, named
from stackctl.names import checked_name
from stackctl.network import choice, subnet_rules
from stackctl.network.addresses import parsed, subnets_of
from stackctl.network.finding import own_groups, visible_network
from stackctl.network.membership import DEFAULT
from stackctl.state import Reader, Row, find

_WORDS = ("id", "name", "state", "machine_type", "cpu_mode", "disk_bus", "nic_model")


@dataclass(frozen=True)
class AdoptRequest:
    """Which domain of which host, and what its host cannot know: ``networks`` and ``fixed_ips``
    are for its NICs in their order, all of them or those of which nothing is known.

    ``security_groups`` None is the project's default group.
    """

    host: str
    domain: str
    name: str | None = None
    flavor: str | None = None
    networks: tuple[str, ...] = ()
    fixed_ips: tuple[str, ...] = ()
    security_groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FoundDisk:
    """A file that the guest has as a disk."""

    path: str
    format: str
    target: str
    size_bytes: int


@dataclass(frozen=True)
class FoundNic:
    """A NIC, where it is plugged in, and the addresses that its guest is seen to have."""

    mac: str
    device: str
    bridge: str
    tag: int | None
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A domain as its host tells of it."""

    id: str
    name: str
    state: str
    machine_type: str
    cpu_mode: str
    disk_bus: str
    nic_model: str
    autostart: bool
    vcpus: int
    ram_mb: int
    disks: tuple[FoundDisk, ...]
    nics: tuple[FoundNic, ...]
    lost: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def disk_gb(self) -> int:
        """The size of the disk that it boots from, in whole GB."""
        return _gb(self.disks[:1])

    @property
    def ephemeral_gb(self) -> int:
        """Those of all others together."""
        return _gb(self.disks[1:])


@dataclass(frozen=True)
class PlannedNic:
    """A NIC with the network and the addresses that its port will have."""

    found: FoundNic
    network: Row
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A domain with the rows of the server that it becomes. ``flavor`` None: one is made."""

    found: Found
    host: Row
    name: str
    flavor: Row | None
    flavor_name: str
    nics: tuple[PlannedNic, ...]
    group_ids: tuple[str, ...] | None
    group_names: tuple[str, ...]


def found_from(host: str, said: Any) -> Found:
    """What a host said of a domain, checked: AgentFailed when it has another shape."""
    try:
        return Found(
            **{name: str(said[name]) for name in _WORDS},
            autostart=bool(said["autostart"]),
            vcpus=int(said["vcpus"]),
            ram_mb=int(said["ram_mb"]),
            disks=tuple(_disk(each) for each in said["disks"]),
            nics=tuple(_nic(each) for each in said["nics"]),
            lost=tuple(map(str, said["lost"])),
            refused=tuple(map(str, said["refused"])),
        )
    except (KeyError, TypeError, ValueError):
        raise AgentFailed(f"Host {host} told of the domain in a way that makes no sense.") from None


def make_plan(
    context: Context, reader: Reader, host: Row, request: AdoptRequest, found: Found
) -> Plan:
    """Choose the rows; Conflict with every reason when the domain cannot be adopted."""
    _refuse(host, found)
    name = checked_name("server", request.name or found.name)
    _refuse_taken(context, reader, found, name)
    flavor = _flavor(reader, request.flavor, found)
    groups = request.security_groups
    networks = _networks(context, reader, host, request, found)
    for network in networks:
        refuse_out_of_reach(reader, {"host_id": host["id"], "name": name}, network)
    return Plan(
        found=found,
        host=host,
        name=name,
        flavor=flavor,
        flavor_name=flavor["name"] if flavor else _flavor_name(found),
        nics=_nics(reader, request, found, networks),
        group_ids=None if groups is None else tuple(own_groups(context, reader, groups)),
        group_names=(DEFAULT,) if groups is None else groups,
    )


def _disk(said: Mapping[str, Any]) -> FoundDisk:
    words = {name: str(said[name]) for name in ("path", "format", "target")}
    return FoundDisk(**words, size_bytes=int(said["size_bytes"]))


def _nic(said: Mapping[str, Any]) -> FoundNic:
    words = {name: str(said[name]) for name in ("mac", "device", "bridge")}
    tag = None if said["tag"] is None else int(said["tag"])
    return FoundNic(**words, tag=tag, addresses=tuple(map(str, said["addresses"])))


def _gb(disks: Sequence[FoundDisk]) -> int:
    return sum(-(-disk.size_bytes // GIB) for disk in disks)


# --- may it be adopted at all -------------------------------------------------------------------


def _refuse(host: Row, found: Found) -> None:
    if found.refused:
        raise Conflict(
            f"Domain {found.name} of host {host['name']} cannot be adopted: "
            f"{'; '.join(found.refused)}. Nothing was changed."
        )


def _refuse_taken(context: Context, reader: Reader, found: Found, name: str) -> None:
    same = reader.one("SELECT * FROM servers WHERE id = ?", found.id)
    if same is not None and same["deleted_at"] is None:
        raise Conflict(f"Server {same['name']} has the id {found.id} of that domain already.")
    left = "SELECT 1 FROM tombstones WHERE server_id = ? AND acknowledged_at IS NULL"
    if reader.one(left, found.id):
        raise Conflict(
            f"A server with the id {found.id} of that domain was deleted, and not all hosts have "
            "confirmed it. Nothing was changed.",
            hint="stackctl converge",
        )
    if named(reader, "servers", context.project_id, name):
        raise Conflict(
            f"There is already a server called {name}. Nothing was changed.",
            hint="stackctl adopt HOST DOMAIN --name NAME",
        )


# --- its flavor ---------------------------------------------------------------------------------


def _flavor_name(found: Found) -> str:
    sizes = [found.vcpus, found.ram_mb, found.disk_gb]
    sizes += [found.ephemeral_gb] if found.ephemeral_gb else []
    return f"adopted-{'-'.join(map(str, sizes))}"


def _flavor(reader: Reader, word: str | None, found: Found) -> Row | None:
    """The flavor that was named, if it fits, or any that is exactly like the domain."""
    if word is not None:
        flavor = find(reader, "flavors", word, noun="flavor")
        if (flavor["vcpus"], flavor["ram_mb"]) != (found.vcpus, found.ram_mb):
            raise Conflict(
                f"Flavor {flavor['name']} has {flavor['vcpus']} VCPUs and {flavor['ram_mb']} MB of "
                f"memory, domain {found.name} has {found.vcpus} and {found.ram_mb} MB. Nothing was "
                "changed.",
                hint="stackctl resize SERVER FLAVOR   (once it is adopted)",
            )
        return flavor
    return reader.one(
        "SELECT * FROM flavors WHERE vcpus = ? AND ram_mb = ? AND disk_gb = ? AND "
        "ephemeral_gb = ? AND swap_mb = 0 AND extra_specs_json = '{}' AND deleted_at IS NULL "
        "ORDER BY name LIMIT 1",
        found.vcpus,
        found.ram_mb,
        found.disk_gb,
        found.ephemeral_gb,
    )


# --- its NICs -----------------------------------------------------------------------------------


def _networks(
    context: Context, reader: Reader, host: Row, request: AdoptRequest, found: Found
) -> list[Row]:
    known = [_network_of(context, reader, host, nic) for nic in found.nics]
    words = _dealt(request.networks, [network is None for network in known], "--network", found)
    networks = []
    for word, network, nic in zip(words, known, found.nics, strict=True):
        if word is not None:
            networks.append(visible_network(context, reader, word))
        elif network is not None:
            networks.append(network)
        else:
            raise Conflict(
                f"NIC {nic.mac} of domain {found.name} is on {_place(nic)}, which says nothing of "
                "a network of this cloud. Nothing was changed.",
                hint="stackctl adopt HOST DOMAIN --network NETWORK   (one for each such NIC)",
            )
    return networks


def _network_of(context: Context, reader: Reader, host: Row, nic: FoundNic) -> Row | None:
    """The network that a NIC is in already: that of its VLAN on the bridge of a physical one."""
    mapping = next((each for each in mappings_of(host) if each.bridge == nic.bridge), None)
    if mapping is None:
        return None
    kind = "type = 'vlan' AND segmentation_id = ?" if nic.tag else "type = 'flat'"
    return reader.one(
        f"SELECT * FROM networks WHERE physical_network = ? AND {kind} AND deleted_at IS NULL "
        "AND (project_id = ? OR shared = 1 OR external = 1)",
        mapping.physical_network,
        *([nic.tag] if nic.tag else []),
        context.project_id,
    )


def _nics(
    reader: Reader, request: AdoptRequest, found: Found, networks: Sequence[Row]
) -> tuple[PlannedNic, ...]:
    subnets = [subnets_of(reader, network["id"]) for network in networks]
    seen = [_seen(nic, each) for nic, each in zip(found.nics, subnets, strict=True)]
    unknown = [bool(each) and not had for each, had in zip(subnets, seen, strict=True)]
    given = _dealt(request.fixed_ips, unknown, "--fixed-ip", found)
    planned = []
    for at, nic in enumerate(found.nics):
        word = given[at]
        if word is None and unknown[at]:
            told = f"; it is seen with {', '.join(nic.addresses)}" if nic.addresses else ""
            raise Conflict(
                f"Which address of network {networks[at]['name']} the guest has at NIC {nic.mac} "
                f"is not known{told}. Nothing was changed.",
                hint="stackctl adopt HOST DOMAIN --fixed-ip ADDRESS   (one for each such NIC)",
            )
        addresses = seen[at] if word is None else (str(parsed(word)),)
        planned.append(PlannedNic(nic, networks[at], addresses))
    return tuple(planned)


def _seen(nic: FoundNic, subnets: Sequence[Row]) -> tuple[str, ...]:
    """The first of the addresses that its guest is seen to have, in each subnet."""
    found = []
    for subnet in subnets:
        own = [each for each in nic.addresses if _is_in(each, subnet["cidr"])]
        if subnet["ipv6_mode"] in subnet_rules.EUI64_MODES:
            made = choice.eui64(subnet["cidr"], nic.mac)
            own = [each for each in own if each == made]
        found += own[:1]
    return tuple(found)


def _is_in(address: str, cidr: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)
    except ValueError:
        return False


def _dealt(
    words: Sequence[str], unknown: Sequence[bool], option: str, found: Found
) -> list[str | None]:
    """Words for NICs: one for each, or one for each of which nothing is known."""
    if len(words) == len(unknown):
        return list(words)
    if words and len(words) != sum(unknown):
        raise UsageError(
            f"{option} was given {len(words)} times; domain {found.name} has {len(unknown)} NICs, "
            f"{sum(unknown)} of which need it."
        )
    left = iter(words)
    return [next(left, None) if each else None for each in unknown]


def _place(nic: FoundNic) -> str:
    tag = f" (VLAN {nic.tag})" if nic.tag else ""
    return f"bridge {nic.bridge}{tag}" if nic.bridge else "no bridge"
