"""A router's namespace as it is, and what differs from its plan, in words.

Looking happens in the namespace of the calling thread; differences are pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from agent.resources import router_rules
from agent.resources.router_plan import Device, Plan, Route
from agent.resources.router_rules import Chain, Tables
from agent.system import iptables, links, routing, sysctl

_ENDS = ("qr-", "qg-")
LOOPBACK = "lo"


@dataclass
class Inside:
    """A router's namespace as it is."""

    devices: dict[str, Optional[links.Configured]] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    rules: dict[int, Tables] = field(default_factory=dict)
    routing: routing.Found = field(default_factory=routing.Found)


def look_inside(plan: Plan) -> Inside:
    """All that the plan speaks of."""
    names = [device.name for device in plan.devices]
    return Inside(
        devices={name: links.configured(name) for name in (*names, LOOPBACK)},
        strangers=strangers(plan),
        sysctls=sysctl.read({**plan.sysctls, **plan.device_sysctls}),
        rules={version: tables_of(version) for version in versions(plan)},
        routing=routing.look(),
    )


def strangers(plan: Plan) -> list[str]:
    """Ends of a router that it does not have (any more)."""
    known = {device.name for device in plan.devices}
    return [n for n in sorted(links.names()) if n.startswith(_ENDS) and n not in known]


def versions(plan: Plan) -> list[int]:
    """The IP versions that the kernel speaks, of those with rules."""
    return [version for version in plan.rules if version == 4 or sysctl.has_ipv6()]


def tables_of(version: int) -> Tables:
    """All chains but those that accept everything, as they always do."""
    found = {
        table: {name: Chain(c.policy, c.rules) for name, c in chains.items()}
        for table, chains in iptables.look(version).items()
    }
    idle = Chain("ACCEPT")
    kept = {t: {n: c for n, c in chains.items() if c != idle} for t, chains in found.items()}
    return {table: chains for table, chains in kept.items() if chains}


def rules_difference(plan: Plan, found: Inside) -> str:
    """What is not right about netfilter's rules."""
    for version, tables in found.rules.items():
        words = router_rules.difference(plan.rules[version], tables)
        if words:
            return f"IPv{version}: {words}"
    return ""


def sysctl_difference(plan: Plan, found: Inside) -> str:
    """Which setting of the kernel is not right."""
    wanted = {**plan.sysctls, **plan.device_sysctls}
    for name, value in found.sysctls.items():
        if value != wanted[name]:
            return f"{name} is {value or 'not there'}, should be {wanted[name]}"
    return ""


def devices_difference(plan: Plan, found: Inside) -> str:
    """What is not right about devices and their addresses."""
    loopback = found.devices.get(LOOPBACK)
    if loopback is None or not loopback.up:
        return f"{LOOPBACK} is down"
    if found.strangers:
        return f"{found.strangers[0]} is not an end of it"
    differences = (_device_difference(device, found) for device in plan.devices)
    return next(filter(None, differences), "")


def _device_difference(device: Device, found: Inside) -> str:
    there = found.devices.get(device.name)
    if there is None:
        return f"{device.name} is not in its namespace"
    if there.mac != device.mac:
        return f"mac of {device.name} is {there.mac}, should be {device.mac}"
    if there.mtu != device.mtu:
        return f"MTU of {device.name} is {there.mtu}, should be {device.mtu}"
    if not there.up:
        return f"{device.name} is down"
    if there.tx_checksum:
        return f"{device.name} leaves checksums to a card that it does not have"
    missing, extra = addresses(device, found.routing)
    if missing:
        return f"{device.name} lacks the address {missing[0]}"
    return f"{device.name} has the address {extra[0]} too many" if extra else ""


def addresses(device: Device, found: routing.Found) -> tuple[list[str], list[str]]:
    """What a device lacks, and what it has too many; the kernel makes link-local ones itself."""
    unusable = {text for name, text in found.unusable if name == device.name}
    there = [a for a in found.addresses.get(device.name, []) if a not in unusable]
    wanted = [*device.addresses, *filter(None, [device.link_local])]
    extra = [a for a in there if a not in wanted and not a.startswith("fe80:")]
    return [a for a in wanted if a not in there], [*extra, *sorted(unusable)]


def routes_difference(plan: Plan, found: Inside) -> str:
    """What is not right about routes."""
    missing, extra = routes(plan, found.routing)
    if missing:
        by = f" by {missing[0].nexthop}" if missing[0].nexthop else f" on {missing[0].device}"
        return f"there is no route to {missing[0].destination}{by}"
    return f"there is a route to {extra[0].destination} too many" if extra else ""


def routes(plan: Plan, found: routing.Found) -> tuple[list[Route], list[routing.FoundRoute]]:
    """What is missing of the plan's routes, and what is too many; those of links aside."""
    wanted = {route.key for route in plan.routes}
    there = {
        (r.destination, r.nexthop, r.device): r
        for r in found.routes
        if not r.destination.startswith(("fe80:", "ff00:"))
    }
    extra = [r for key, r in there.items() if r.type or key not in wanted]
    missing = [r for r in plan.routes if r.key not in there or there[r.key].type]
    return missing, extra


def indexes(plan: Plan, found: Inside) -> list[int]:
    """The kernel's numbers of the devices that are advertised on."""
    names = dict.fromkeys(prefix.device for prefix in plan.prefixes)
    there = [found.devices.get(name) for name in names]
    return [device.index if device is not None else 0 for device in there]
