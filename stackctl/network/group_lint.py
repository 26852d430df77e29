"""What is odd about security groups: rules that change nothing, groups that guard nobody, open
doors. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from agent.spec import SecurityRule
from stackctl.network import rule_words, traffic
from stackctl.network.reach import Group, World

_DEFAULT = "default"


def remarks(world: World) -> list[str]:
    """A line for each oddity, groups in the order of their names."""
    found: list[str] = []
    for group in sorted(world.groups.values(), key=lambda each: (each.name, each.id)):
        found += _of_group(world, group)
    found += _open(world)
    found += (
        f"server {end.name}: a port of it has no port security, so no rule is looked at"
        for end in world.ends
        if any(not port.protected for port in end.ports)
    )
    return found


def _of_group(world: World, group: Group) -> Iterator[str]:
    used = any(group.id in port.groups for end in world.ends for port in end.ports)
    if not used and group.name != _DEFAULT:
        yield f"group {group.name}: no server is in it"
    for rule in group.rules:
        said = f"group {group.name}, rule {rule.id} ({_words(world, rule)})"
        wider = _wider(rule, group.rules)
        if wider is not None:
            yield f"{said}: allows nothing that rule {wider.id} ({_words(world, wider)}) does not"
        elif used and rule.remote_group_id is not None and _lonely(world, group, rule):
            yield f"{said}: that group has no member that could be met"


def _words(world: World, rule: SecurityRule) -> str:
    remote = world.groups.get(rule.remote_group_id or "")
    return rule_words.in_words(rule, remote.name if remote else "")


def _wider(rule: SecurityRule, rules: Iterable[SecurityRule]) -> SecurityRule | None:
    """Another rule that allows all that this one does; of two equal ones the second is told."""
    for other in rules:
        if (
            other.id != rule.id
            and _covers(other, rule)
            and not (_covers(rule, other) and other.id > rule.id)
        ):
            return other
    return None


def _covers(whole: SecurityRule, part: SecurityRule) -> bool:
    if (whole.direction, whole.ethertype) != (part.direction, part.ethertype):
        return False
    return _far_covers(whole, part) and traffic.contains(
        traffic.traffic_of(whole), traffic.traffic_of(part)
    )


def _far_covers(whole: SecurityRule, part: SecurityRule) -> bool:
    if traffic.is_anybody(whole):
        return True
    if whole.remote_group_id is not None or part.remote_group_id is not None:
        return whole.remote_group_id == part.remote_group_id
    if traffic.is_anybody(part) or whole.remote_cidr is None or part.remote_cidr is None:
        return False
    wide = ipaddress.ip_network(whole.remote_cidr)
    return ipaddress.ip_network(part.remote_cidr).subnet_of(wide)  # type: ignore[arg-type]


def _lonely(world: World, group: Group, rule: SecurityRule) -> bool:
    networks = {
        port.network_id for end in world.ends for port in end.ports if group.id in port.groups
    }
    return not any(world.members.get((rule.remote_group_id or "", each)) for each in networks)


def _open(world: World) -> Iterator[str]:
    """Everything but single ports that the whole outside may send to a server it can reach."""
    for end in world.ends:
        for port in end.ports:
            outward = [each.floating for each in port.addresses if each.floating]
            if world.map.networks[port.network_id].external:
                outward += [str(each.address) for each in port.addresses]
            for id_ in port.groups if outward and port.protected else ():
                yield from _doors(world.groups[id_], end.name, ", ".join(outward))


def _doors(group: Group, server: str, addresses: str) -> Iterator[str]:
    for rule in group.rules:
        if rule.direction == "ingress" and traffic.is_anybody(rule):
            what = traffic.in_words([traffic.traffic_of(rule)])
            yield (
                f"server {server} ({addresses}): {what} is open to the world "
                f"({rule.ethertype}, rule {rule.id} of group {group.name})"
            )
