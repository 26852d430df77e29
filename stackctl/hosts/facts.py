"""What a host says about itself: capacity, and which engines it lacks."""

from __future__ import annotations

from typing import Any

from stackctl.errors import AgentFailed
from stackctl.hosts.types import Declared

NOT_PREPARED = "not prepared: stackctl host-prepare"
"""How the reason of a host begins that was disabled because it lacks engines."""


def capacity(facts: dict[str, Any], declared: Declared) -> dict[str, int]:
    """The capacity columns of a host: as declared, else as it says."""
    disk = facts.get("disk_gb")
    said = {
        "vcpus": facts.get("vcpus"),
        "ram_mb": facts.get("ram_mb"),
        "disk_gb": disk.get("total") if isinstance(disk, dict) else disk,
    }
    return {
        name: _number(name, value) if getattr(declared, name) is None else getattr(declared, name)
        for name, value in said.items()
    }


def _number(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**40:
        raise AgentFailed(f"The host does not say its {name}.", hint="declare it with an option")
    return value


def declared_values(declared: Declared) -> dict[str, int]:
    """What is declared, by column."""
    values = {"vcpus": declared.vcpus, "ram_mb": declared.ram_mb, "disk_gb": declared.disk_gb}
    return {name: value for name, value in values.items() if value is not None}


def missing_engines(facts: dict[str, Any]) -> list[str]:
    """What the host lacks before it can carry servers, in words."""
    versions = facts.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    missing = []
    if not versions.get("libvirt"):
        why = facts.get("libvirt_error")
        missing.append(f"libvirt does not answer ({why})" if why else "libvirt does not answer")
    if not versions.get("ovs"):
        missing.append("Open vSwitch is not installed")
    elif facts.get("bridges") is None:
        missing.append("Open vSwitch does not answer")
    if not versions.get("dnsmasq"):
        missing.append("dnsmasq is not installed")
    return missing
