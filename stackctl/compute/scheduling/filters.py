"""Filters by Nova's names: which hosts can take a request at all, and with what numbers.

A filter is a small object. ``concerns`` says whether it has anything to say about a request,
``refusal`` why a host cannot take it (empty: it can), ``note`` what it saw on a host that can.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from stackctl.compute.scheduling import query
from stackctl.compute.scheduling.specs import lookup, matches
from stackctl.compute.scheduling.types import ARCHITECTURE, Candidate, Group, Request

TENANT_KEY = "filter_tenant_id"
AGGREGATE_SCOPE = "aggregate_instance_extra_specs"


@dataclass(frozen=True)
class Filter:
    """What all filters have. ``limits``: the settings that make it stricter or not."""

    limits: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """Its name in messages and in the configuration."""
        return type(self).__name__

    def concerns(self, request: Request) -> bool:
        """Whether it matters for this request."""
        return True

    def refusal(self, host: Candidate, request: Request) -> str:
        """Why the host cannot take the request, with numbers; empty when it can."""
        raise NotImplementedError

    def note(self, host: Candidate, request: Request) -> str:
        """What it saw on a host that can."""
        return "passes"


class ComputeFilter(Filter):
    """Hosts that are enabled and not fenced."""

    def refusal(self, host: Candidate, request: Request) -> str:
        """Fenced, or disabled by somebody."""
        if host.fenced:
            return "is fenced; stackctl host-return brings it back"
        if not host.enabled:
            return f"is disabled{': ' + host.disabled_reason if host.disabled_reason else ''}"
        return ""

    def note(self, host: Candidate, request: Request) -> str:
        """Nothing is in its way."""
        return "enabled"


class HostHintFilter(Filter):
    """The host that was asked for (``--host``), and no other."""

    def concerns(self, request: Request) -> bool:
        """When a host was asked for."""
        return request.host is not None

    def refusal(self, host: Candidate, request: Request) -> str:
        """Any other host."""
        asked = request.host in (host.id, host.name)
        return "" if asked else "is not the host asked for"


class AvailabilityZoneFilter(Filter):
    """Hosts of the zone that was asked for."""

    def concerns(self, request: Request) -> bool:
        """When a zone was asked for."""
        return request.zone is not None

    def refusal(self, host: Candidate, request: Request) -> str:
        """Hosts of other zones."""
        return "" if host.zone == request.zone else f"is in zone {host.zone}, not {request.zone}"

    def note(self, host: Candidate, request: Request) -> str:
        """Its zone."""
        return f"zone {host.zone}"


class NetworkFilter(Filter):
    """Hosts with bridges for the physical networks, and an address for tunnels."""

    def concerns(self, request: Request) -> bool:
        """When the server has NICs that need either."""
        return bool(request.physical_networks) or request.needs_tunnels

    def refusal(self, host: Candidate, request: Request) -> str:
        """A bridge or the tunnel address is missing."""
        missing = sorted(request.physical_networks - host.physical_networks)
        if missing:
            return f"has no bridge for physical network {', '.join(missing)}"
        if request.needs_tunnels and not host.tunnels:
            return "has no tunnel address (host-set --tunnel-address)"
        return ""

    def note(self, host: Candidate, request: Request) -> str:
        """What is needed and there."""
        has = sorted(request.physical_networks) + ["tunnels"] * request.needs_tunnels
        return f"has {', '.join(has)}"


class CoreFilter(Filter):
    """Virtual CPUs: those there are, times cpu_ratio, less those given."""

    def refusal(self, host: Candidate, request: Request) -> str:
        """Too few are free."""
        return _short("vcpus", "", request.vcpus, host.vcpus_free)

    def note(self, host: Candidate, request: Request) -> str:
        """Needed and free."""
        return _enough("", request.vcpus, host.vcpus_free)


class RamFilter(Filter):
    """Memory: less what is reserved for the host, times ram_ratio, less what is given."""

    def refusal(self, host: Candidate, request: Request) -> str:
        """Too little is free."""
        return _short("RAM", " MB", request.ram_mb, host.ram_mb_free)

    def note(self, host: Candidate, request: Request) -> str:
        """Needed and free."""
        return _enough(" MB", request.ram_mb, host.ram_mb_free)


class DiskFilter(Filter):
    """Disk: what there is, times disk_ratio, less what is given."""

    def refusal(self, host: Candidate, request: Request) -> str:
        """Too little is free."""
        return _short("disk", " GB", request.disk_gb, host.disk_gb_free)

    def note(self, host: Candidate, request: Request) -> str:
        """Needed and free."""
        return _enough(" GB", request.disk_gb, host.disk_gb_free)


class ComputeCapabilitiesFilter(Filter):
    """The flavor's extra specs against what the host says of itself.

    Specs without a scope and those of the scope ``capabilities``; other scopes are not its own.
    """

    def concerns(self, request: Request) -> bool:
        """When any spec is its own."""
        return any(_own_path(key) for key in request.extra_specs)

    def refusal(self, host: Candidate, request: Request) -> str:
        """The first spec that the host does not satisfy."""
        for key, wanted in sorted(request.extra_specs.items()):
            path = _own_path(key)
            if not path:
                continue
            value = lookup(host.capabilities, path)
            if value is None:
                return f"extra spec {key}={wanted}: the host does not have it"
            if not matches(value, wanted):
                return f"extra spec {key}={wanted}: the host has {_shown(value)}"
        return ""

    def note(self, host: Candidate, request: Request) -> str:
        """What the host has of all that is asked."""
        paths = {key: _own_path(key) for key in sorted(request.extra_specs)}
        has = {key: lookup(host.capabilities, path) for key, path in paths.items() if path}
        return ", ".join(f"{key} is {_shown(value)}" for key, value in has.items())


class AggregateInstanceExtraSpecsFilter(Filter):
    """The flavor's extra specs against the metadata of the host's aggregates.

    Specs without a scope and those of the scope ``aggregate_instance_extra_specs``.
    """

    def concerns(self, request: Request) -> bool:
        """When any spec is its own."""
        return any(_aggregate_key(key) for key in request.extra_specs)

    def refusal(self, host: Candidate, request: Request) -> str:
        """The first spec that no aggregate of the host satisfies."""
        for key, wanted in sorted(request.extra_specs.items()):
            name = _aggregate_key(key)
            if not name:
                continue
            values = _aggregate_values(host, name)
            if not any(matches(value, wanted) for value in values):
                has = f"they have {', '.join(values)}" if values else "none of them has it"
                return f"extra spec {key}={wanted}: {_aggregates(host)}, {has}"
        return ""


class ImagePropertiesFilter(Filter):
    """Architecture, hypervisor and mode that the image names."""

    def concerns(self, request: Request) -> bool:
        """When the image names any of them."""
        return any(_image_asks(request.image_properties))

    def refusal(self, host: Candidate, request: Request) -> str:
        """The image is made for something else."""
        architecture, hypervisor, mode = _image_asks(request.image_properties)
        if architecture and _canonical(architecture) != ARCHITECTURE:
            return f"image property hw_architecture is {architecture}, the host has {ARCHITECTURE}"
        offered = ("kvm", "qemu") if host.capabilities.get("virt_type") == "kvm" else ("qemu",)
        if hypervisor and hypervisor.lower() not in offered:
            return f"image property img_hv_type is {hypervisor}, the host has {', '.join(offered)}"
        if mode and mode.lower() not in ("hv", "hvm"):
            return f"image property hw_vm_mode is {mode}, the host has hvm"
        return ""


class ServerGroupAffinityFilter(Filter):
    """Servers of a group with the policy affinity: all on one host."""

    def concerns(self, request: Request) -> bool:
        """Groups with this policy."""
        return _policy(request) == "affinity"

    def refusal(self, host: Candidate, request: Request) -> str:
        """The group is on another host already."""
        group = _group(request)
        if any(group.members.values()) and not group.members.get(host.id):
            return f"does not carry server group {group.name}, which is elsewhere (affinity)"
        return ""

    def note(self, host: Candidate, request: Request) -> str:
        """How many are there."""
        return _members(host, request)


class ServerGroupAntiAffinityFilter(Filter):
    """Servers of a group with the policy anti-affinity: so many on a host at most."""

    def concerns(self, request: Request) -> bool:
        """Groups with this policy."""
        return _policy(request) == "anti-affinity"

    def refusal(self, host: Candidate, request: Request) -> str:
        """The host has its share."""
        group = _group(request)
        here = group.members.get(host.id, 0)
        if here < group.max_per_host:
            return ""
        return f"carries {here} of server group {group.name}, at most {group.max_per_host} may be"

    def note(self, host: Candidate, request: Request) -> str:
        """How many are there."""
        return f"{_members(host, request)}, at most {_group(request).max_per_host}"


class DifferentHostFilter(Filter):
    """Not where any of the servers of the hint ``different_host`` is."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return bool(request.different_host)

    def refusal(self, host: Candidate, request: Request) -> str:
        """One of them is there."""
        here = [server.name for server in request.different_host if server.host_id == host.id]
        return f"carries {', '.join(here)} (hint different_host)" if here else ""


class SameHostFilter(Filter):
    """Where one of the servers of the hint ``same_host`` is."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return bool(request.same_host)

    def refusal(self, host: Candidate, request: Request) -> str:
        """None of them is there."""
        if any(server.host_id == host.id for server in request.same_host):
            return ""
        names = ", ".join(server.name for server in request.same_host)
        return f"does not carry {names} (hint same_host)"


class SimpleCIDRAffinityFilter(Filter):
    """Hosts whose address is near the one of the hint ``build_near_host_ip``."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return bool(request.near)

    def refusal(self, host: Candidate, request: Request) -> str:
        """Its address is outside, or it has only a name."""
        try:
            address = ipaddress.ip_address(host.address)
        except ValueError:
            return f"is reached by the name {host.address}: whether it is in {request.near} is open"
        if address in ipaddress.ip_network(request.near):
            return ""
        return f"has address {host.address}, which is not in {request.near}"

    def note(self, host: Candidate, request: Request) -> str:
        """Its address."""
        return f"{host.address} is in {request.near}"


class JsonFilter(Filter):
    """Hosts that satisfy the hint ``query``."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return request.query is not None

    def refusal(self, host: Candidate, request: Request) -> str:
        """The expression is false."""
        return "" if query.holds(request.query, host.capabilities) else "does not satisfy the query"


@dataclass(frozen=True)
class IoOpsFilter(Filter):
    """Hosts that do not build too many servers at once."""

    limits = ("max_io_ops_per_host",)
    max_io_ops_per_host: int = 8

    def refusal(self, host: Candidate, request: Request) -> str:
        """It is busy."""
        if host.builds < self.max_io_ops_per_host:
            return ""
        return f"builds {host.builds} servers, at most {self.max_io_ops_per_host} at once"

    def note(self, host: Candidate, request: Request) -> str:
        """How many it builds."""
        return f"builds {host.builds}, at most {self.max_io_ops_per_host}"


@dataclass(frozen=True)
class NumInstancesFilter(Filter):
    """Hosts that do not have too many servers."""

    limits = ("max_instances_per_host",)
    max_instances_per_host: int = 50

    def refusal(self, host: Candidate, request: Request) -> str:
        """It is full."""
        if host.servers < self.max_instances_per_host:
            return ""
        return f"has {host.servers} servers, at most {self.max_instances_per_host}"

    def note(self, host: Candidate, request: Request) -> str:
        """How many it has."""
        return f"has {host.servers}, at most {self.max_instances_per_host}"


@dataclass(frozen=True)
class IsolatedHostsFilter(Filter):
    """Some images only on some hosts, and (unless told otherwise) nothing else on those."""

    limits = (
        "isolated_hosts",
        "isolated_images",
        "restrict_isolated_hosts_to_isolated_images",
    )
    isolated_hosts: frozenset[str] = frozenset()
    isolated_images: frozenset[str] = frozenset()
    restrict_isolated_hosts_to_isolated_images: bool = True

    def concerns(self, request: Request) -> bool:
        """When any host or image is set apart."""
        return bool(self.isolated_hosts or self.isolated_images)

    def refusal(self, host: Candidate, request: Request) -> str:
        """Image and host do not belong together."""
        apart = host.name in self.isolated_hosts
        special = request.image_id in self.isolated_images
        if special and not apart:
            return "is not one of the hosts set apart for this image (isolated_hosts)"
        if apart and not special and self.restrict_isolated_hosts_to_isolated_images:
            return "is set apart for other images (isolated_hosts)"
        return ""


class AggregateMultiTenancyIsolation(Filter):
    """Hosts of aggregates with ``filter_tenant_id`` take servers of those projects only."""

    def refusal(self, host: Candidate, request: Request) -> str:
        """It is kept for other projects."""
        kept = [item for item in host.aggregates if _tenants(item.metadata)]
        if not kept or any(request.project_id in _tenants(item.metadata) for item in kept):
            return ""
        return f"is kept for other projects by aggregate {', '.join(item.name for item in kept)}"


ALWAYS: tuple[Filter, ...] = (
    ComputeFilter(),
    HostHintFilter(),
    AvailabilityZoneFilter(),
    NetworkFilter(),
    CoreFilter(),
    RamFilter(),
    DiskFilter(),
)
"""Without these a host could not carry what it is given, or not where it was asked for."""

OPTIONAL: Mapping[str, type[Filter]] = {
    kind.__name__: kind
    for kind in (
        ComputeCapabilitiesFilter,
        ImagePropertiesFilter,
        ServerGroupAntiAffinityFilter,
        ServerGroupAffinityFilter,
        DifferentHostFilter,
        SameHostFilter,
        SimpleCIDRAffinityFilter,
        JsonFilter,
        AggregateInstanceExtraSpecsFilter,
        AggregateMultiTenancyIsolation,
        IoOpsFilter,
        NumInstancesFilter,
        IsolatedHostsFilter,
    )
}
"""Those that the configuration chooses from, by name."""


def _short(what: str, unit: str, needed: float, free: float) -> str:
    if needed <= free:
        return ""
    # All digits, which :g alone would round beyond a million.
    return f"{what}: needs {needed:.12g}{unit}, {max(free, 0):.12g}{unit} free"


def _enough(unit: str, needed: float, free: float) -> str:
    return f"needs {needed:.12g}{unit}, {free:.12g}{unit} free"


def _own_path(key: str) -> list[str]:
    """Where a spec looks among the capabilities; empty when its scope is another's."""
    words = key.split(":")
    if len(words) == 1:
        return words
    return words[1:] if words[0] == "capabilities" else []


def _aggregate_key(key: str) -> str:
    scope, sign, rest = key.partition(":")
    if not sign:
        return key
    return rest if scope == AGGREGATE_SCOPE else ""


def _aggregate_values(host: Candidate, name: str) -> list[str]:
    """All values of a key; one of an aggregate can be several, with commas."""
    texts = [item.metadata[name] for item in host.aggregates if name in item.metadata]
    return sorted({part.strip() for text in texts for part in text.split(",")})


def _aggregates(host: Candidate) -> str:
    names = ", ".join(item.name for item in host.aggregates)
    return f"the host is in aggregate {names}" if names else "the host is in no aggregate"


def _image_asks(properties: Mapping[str, str]) -> tuple[str, str, str]:
    """Architecture, hypervisor type and mode, by today's names and the older ones."""

    def either(*names: str) -> str:
        return next((properties[name] for name in names if properties.get(name)), "")

    return (
        either("hw_architecture", "architecture"),
        either("img_hv_type", "hypervisor_type"),
        either("hw_vm_mode", "vm_mode"),
    )


def _canonical(architecture: str) -> str:
    return {"amd64": "x86_64", "x86-64": "x86_64"}.get(architecture.lower(), architecture.lower())


def _policy(request: Request) -> str:
    return request.group.policy if request.group else ""


def _group(request: Request) -> Group:
    return request.group or Group("", "", "")


def _members(host: Candidate, request: Request) -> str:
    group = _group(request)
    return f"carries {group.members.get(host.id, 0)} of server group {group.name}"


def _tenants(metadata: Mapping[str, str]) -> set[str]:
    """Projects of ``filter_tenant_id``, and of keys that begin so."""
    texts: Sequence[str] = [
        text for key, text in metadata.items() if key.startswith(TENANT_KEY) and text
    ]
    return {part.strip() for text in texts for part in text.split(",")}


def _shown(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)[:200]
