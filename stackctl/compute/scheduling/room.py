"""Filters that every cloud has: without them a host could not carry what it is given."""

from __future__ import annotations

from stackctl.compute.scheduling.base import Filter
from stackctl.compute.scheduling.types import Candidate, Request


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


def _short(what: str, unit: str, needed: float, free: float) -> str:
    if needed <= free:
        return ""
    # All digits, which :g alone would round beyond a million.
    return f"{what}: needs {needed:.12g}{unit}, {max(free, 0):.12g}{unit} free"


def _enough(unit: str, needed: float, free: float) -> str:
    return f"needs {needed:.12g}{unit}, {free:.12g}{unit} free"


class VolumeTypeFilter(Filter):
    """Hosts that have the types of the server's volumes."""

    def concerns(self, request: Request) -> bool:
        """When it has volumes of other types than local ones."""
        return bool(request.volume_types)

    def refusal(self, host: Candidate, request: Request) -> str:
        """It lacks one of them."""
        lacking = sorted(request.volume_types - host.volume_types)
        return f"does not have volume type {', '.join(lacking)}" if lacking else ""

    def note(self, host: Candidate, request: Request) -> str:
        """It has them."""
        return f"has volume type {', '.join(sorted(request.volume_types))}"
