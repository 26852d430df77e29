"""Filters about what hosts are: capabilities, properties of aggregates, whom they are kept for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stackctl.compute.scheduling.base import Filter
from stackctl.compute.scheduling.specs import lookup, matches
from stackctl.compute.scheduling.types import ARCHITECTURE, Candidate, Request

TENANT_KEY = "filter_tenant_id"
AGGREGATE_SCOPE = "aggregate_instance_extra_specs"


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
    """Architecture, hypervisor, mode, machine and firmware that the image names."""

    def concerns(self, request: Request) -> bool:
        """When the image names any of them."""
        return any(_image_asks(request.image_properties)) or any(
            request.image_properties.get(key) for key in ("hw_machine_type", "hw_firmware_type")
        )

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
        return _lacking_machine(host, request.image_properties)


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


def _lacking_machine(host: Candidate, properties: Mapping[str, str]) -> str:
    """What the host's qemu does not have of machine and firmware; what it did not say counts as
    had."""
    types = host.capabilities.get("machine_types") or {}
    machine = properties.get("hw_machine_type")
    known = {*types, *types.get("all", ())} - {"all"}
    if machine and "all" in types and machine not in known:
        has = ", ".join(str(types[name]) for name in ("pc", "q35") if name in types)
        return f"image property hw_machine_type is {machine}, the host's newest are {has}"
    firmware, offered = properties.get("hw_firmware_type"), host.capabilities.get("firmware")
    if firmware and offered is not None and firmware not in offered:
        return f"image property hw_firmware_type is {firmware}, the host has {', '.join(offered)}"
    return ""


def _canonical(architecture: str) -> str:
    return {"amd64": "x86_64", "x86-64": "x86_64"}.get(architecture.lower(), architecture.lower())


def _tenants(metadata: Mapping[str, str]) -> set[str]:
    """Projects of ``filter_tenant_id``, and of keys that begin so."""
    texts: Sequence[str] = [
        text for key, text in metadata.items() if key.startswith(TENANT_KEY) and text
    ]
    return {part.strip() for text in texts for part in text.split(",")}


def _shown(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)[:200]
