"""Changing a router's namespace to what its plan says, from within.

Everything here acts in the namespace of the calling thread, and changes only what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Optional

from agent.resources import router_look, router_rules
from agent.resources.router_plan import Plan, Route
from agent.system import announce, conntrack, iptables, links, routing, sysctl
from agent.system.conntrack import Translated


def set_up_namespace(plan: Plan, again: bool) -> None:
    """What needs no device: rules first, so that nothing is forwarded without them.

    ``again`` has everything done that cannot be seen to have been done.
    """
    _translate(plan, again)
    _set(plan.sysctls)
    loopback = links.configured(router_look.LOOPBACK)
    if loopback is None or not loopback.up:
        routing.change([("link", "set", "dev", router_look.LOOPBACK, "up")])


def set_up_ends(plan: Plan, again: bool) -> None:
    """Devices, addresses, routes; then the networks are told what has come."""
    come = _set_up_devices(plan)
    _set_up_routes(plan)
    _announce(plan, None if again else come)


def _translate(plan: Plan, again: bool) -> None:
    """Put the rules in place, then forget connections that the new ones would not make."""
    for version in router_look.versions(plan):
        found = router_look.tables_of(version)
        if router_rules.difference(plan.rules[version], found):
            iptables.replace(version, router_rules.commands(plan.rules[version], found))
            again = again or version == 4
    if again:
        conntrack.forget(stale(plan, conntrack.translated()))


def stale(plan: Plan, known: Iterable[Translated]) -> list[Translated]:
    """Connections through an address that does not stand for their guest (any more)."""
    return [each for each in known if not _is_right(plan, each)]


def _is_right(plan: Plan, each: Translated) -> bool:
    to_guest = (each.destination, each.answer_source)
    if each.destination != each.answer_source and to_guest not in plan.floating:
        return False
    if each.answer_destination in (each.source, *plan.gateway_addresses):
        return True
    return (each.answer_destination, each.source) in plan.floating


def _set(wanted: Mapping[str, str]) -> None:
    found = sysctl.read(wanted)
    sysctl.write({name: wanted[name] for name, value in found.items() if value != wanted[name]})


def _set_up_devices(plan: Plan) -> dict[str, list[str]]:
    """Devices and addresses; returns the addresses that each device did not have before."""
    _set(plan.device_sysctls)
    for device in plan.devices:
        links.tx_checksum_off(device.name)
    links.delete_all(router_look.strangers(plan))
    found = router_look.look_inside(plan)
    commands: list[Sequence[str]] = []
    come: dict[str, list[str]] = {}
    for device in plan.devices:
        there = found.devices.get(device.name)
        missing, extra = router_look.addresses(device, found.routing)
        anew = there is None or not there.up or there.mac != device.mac
        if anew or (there and there.mtu != device.mtu):
            how = ("address", device.mac, "mtu", str(device.mtu), "up")
            commands.append(("link", "set", "dev", device.name, *how))
        come[device.name] = list(device.addresses) if anew else missing
        commands += _address_commands(device.name, missing, extra)
    routing.change(commands)
    return come


def _address_commands(
    name: str, missing: Sequence[str], extra: Sequence[str]
) -> Iterator[Sequence[str]]:
    for address in extra:
        yield ("addr", "del", address, "dev", name)
    for address in missing:
        how = ("nodad",) if ":" in address else ()
        yield ("addr", "replace", address, "dev", name, *how)


def _set_up_routes(plan: Plan) -> None:
    """Routes, once the addresses are there that they need."""
    missing, extra = router_look.routes(plan, routing.look())
    commands: list[Sequence[str]] = []
    for route in extra:
        by = ("via", route.nexthop) if route.nexthop else ()
        dev = ("dev", route.device) if route.device else ()
        commands.append(("route", "del", *filter(None, [route.type]), route.destination, *by, *dev))
    for wanted in missing:
        commands.append(("route", "replace", wanted.destination, *_way(wanted)))
    routing.change(commands)


def _way(route: Route) -> Sequence[str]:
    if route.nexthop:
        return ("via", route.nexthop, "dev", route.device)
    if ":" in route.destination:
        return ("dev", route.device, "proto", "kernel", "metric", "256")
    kernel = ("proto", "kernel", "scope", "link")
    return ("dev", route.device, *kernel, "src", route.source)


def _announce(plan: Plan, come: Optional[dict[str, list[str]]]) -> None:
    """Tell the networks which addresses have come here; None: all of them."""
    for device in plan.devices:
        addresses = device.addresses if come is None else come[device.name]
        if addresses:
            hosts = [address.partition("/")[0] for address in addresses]
            announce.announce(device.name, device.mac, hosts)
