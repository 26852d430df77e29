"""What a host may be told to be: names, mappings, addresses, engines."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from agent.spec import BridgeMapping
from stackctl.errors import Conflict, UsageError
from stackctl.state import Reader

CHOICES = {
    "virt_type": ("auto", "kvm", "qemu"),
    "datapath": ("auto", "system", "netdev"),
    "on_boot": ("none", "all"),
}
INTEGRATION_BRIDGES = ("br-int", "br-tun")
MAX_BRIDGE_NAME = 11
"""``int-`` and the bridge's name must fit into the kernel's 15 characters."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PHYSICAL_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")


def host_name(name: str) -> str:
    """The name, if it can be a host's."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a host: use letters, digits, dots, dashes and underscores, "
            "at most 63."
        )
    return name


def choice(setting: str, value: str) -> str:
    """The value, if the setting can have it."""
    if value not in CHOICES[setting]:
        raise UsageError(f"{setting} is one of {', '.join(CHOICES[setting])}, not '{value}'.")
    return value


def parse_mapping(text: str) -> BridgeMapping:
    """``physnet=nic`` (its bridge is then ``br-nic``) or ``physnet=bridge:nic``."""
    physical_network, sign, rest = text.partition("=")
    bridge, colon, nic = rest.partition(":")
    if not colon:
        bridge, nic = f"br-{rest}", rest
    if not sign or not _PHYSICAL_NETWORK.fullmatch(physical_network):
        raise UsageError(f"'{text}' is not a mapping like physnet1=eth1 or external=br-ex:eth2.")
    if not _DEVICE.fullmatch(nic) or not _DEVICE.fullmatch(bridge):
        raise UsageError(f"'{text}' names a bridge or NIC that cannot be.")
    if len(bridge) > MAX_BRIDGE_NAME:
        raise UsageError(
            f"The bridge name '{bridge}' has more than {MAX_BRIDGE_NAME} characters; "
            f"give a shorter one: {physical_network}=br-{physical_network[:8]}:{nic}"
        )
    if bridge in INTEGRATION_BRIDGES:
        raise UsageError(f"'{bridge}' belongs to stackctl and cannot lead to a NIC.")
    return BridgeMapping(physical_network, bridge, nic)


def mappings(items: Iterable[BridgeMapping]) -> tuple[BridgeMapping, ...]:
    """The mappings of one host, sorted; each physical network, bridge and NIC only once."""
    found = sorted(items, key=lambda item: item.physical_network)
    for field in ("physical_network", "bridge", "nic"):
        values = [getattr(item, field) for item in found]
        for value in values:
            if values.count(value) > 1:
                raise UsageError(f"The bridge mappings name {value} twice.")
    return tuple(found)


def ratio(name: str, value: float) -> float:
    """The value, if it can be an overcommit ratio."""
    if not 0 < value <= 1000:
        raise UsageError(f"The {name} ratio is a number above 0, not {value:g}.")
    return value


def amount(name: str, value: int) -> int:
    """The value, if it can be an amount of something."""
    if not 0 <= value < 2**40:
        raise UsageError(f"{name} cannot be {value}.")
    return value


def tunnel_address(reader: Reader, host_id: str, text: str, facts: dict[str, Any]) -> str:
    """The address in its usual form, if the host has it and no other host does."""
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        raise UsageError(f"'{text}' is not an IP address.") from None
    other = reader.value(
        "SELECT name FROM hosts WHERE tunnel_address = ? AND id <> ? AND deleted_at IS NULL",
        address,
        host_id,
    )
    if other is not None:
        raise Conflict(f"The tunnel address {address} belongs to host {other}.")
    present = host_addresses(facts)
    if present and address not in present:
        raise Conflict(
            f"The host has no address {address}. It has {', '.join(sorted(present))}. "
            "Nothing was changed."
        )
    return address


def nics_exist(wanted: Iterable[BridgeMapping], facts: dict[str, Any]) -> None:
    """Conflict when a NIC is not there (hosts that never said what they have are believed)."""
    present = {str(nic.get("name")) for nic in _nics(facts)}
    for mapping in wanted:
        if present and mapping.nic not in present:
            raise Conflict(
                f"The host has no NIC {mapping.nic} for physical network "
                f"{mapping.physical_network}. It has {', '.join(sorted(present - {'lo'}))}. "
                "Nothing was changed."
            )


def host_addresses(facts: dict[str, Any]) -> set[str]:
    """The addresses of a host, as it said."""
    found: set[str] = set()
    for nic in _nics(facts):
        addresses = nic.get("addresses", [])
        if isinstance(addresses, list):
            found |= {str(address).partition("/")[0] for address in addresses}
    return found


def _nics(facts: dict[str, Any]) -> list[dict[str, Any]]:
    nics = facts.get("nics", [])
    return [nic for nic in nics if isinstance(nic, dict)] if isinstance(nics, list) else []
