"""What rules of security groups let through, as sets that can be cut and joined. Pure.

The meaning is that of the flows on the hosts: everything that fits one rule is allowed, in the
direction of the rule; replies pass by themselves.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from agent.spec import SecurityRule
from stackctl.network.rule_words import ICMP, ICMPV6, WITH_PORTS, WITH_TYPES, protocol_name

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

ECHO = {ICMP: 8, ICMPV6: 128}
"""The type of a ping, by protocol."""


class Traffic(NamedTuple):
    """Packets of one IP version: a protocol (None: all), and what is in its header.

    ``first`` and ``last`` are the range of target ports, or type and code of ICMP; None is any.
    """

    protocol: int | None = None
    first: int | None = None
    last: int | None = None


ALL = Traffic()


def traffic_of(rule: SecurityRule) -> Traffic:
    """What a rule speaks of; other protocols than those with ports or types have no range."""
    if rule.protocol in WITH_PORTS or rule.protocol in WITH_TYPES:
        return Traffic(rule.protocol, rule.port_min, rule.port_max)
    return Traffic(rule.protocol)


def common(one: Traffic, other: Traffic) -> Traffic | None:
    """What is in both; None when nothing is."""
    if one.protocol is None or other.protocol is None:
        return other if one.protocol is None else one
    if one.protocol != other.protocol:
        return None
    if one.protocol in WITH_TYPES:
        return _common_types(one, other)
    if one.first is None or other.first is None:
        return other if one.first is None else one
    first = max(one.first, other.first)
    last = min(one.last or one.first, other.last or other.first)
    return Traffic(one.protocol, first, last) if first <= last else None


def _common_types(one: Traffic, other: Traffic) -> Traffic | None:
    both = []
    for a, b in ((one.first, other.first), (one.last, other.last)):
        if a is not None and b is not None and a != b:
            return None
        both.append(b if a is None else a)
    return Traffic(one.protocol, *both)


def contains(whole: Traffic, part: Traffic) -> bool:
    """Whether everything of ``part`` is in ``whole``."""
    return common(whole, part) == part


def joined(parts: Iterable[Traffic]) -> tuple[Traffic, ...]:
    """The same set in the fewest pieces, in the order of protocols and ports."""
    kept: list[Traffic] = []
    for part in sorted(set(parts), key=lambda item: tuple(-1 if x is None else x for x in item)):
        if any(contains(whole, part) for whole in kept):
            continue
        before = kept[-1] if kept else None
        if before is not None and _touch(before, part):
            kept[-1] = before._replace(last=max(_end(before), _end(part)))
        else:
            kept.append(part)
    return tuple(kept)


def _touch(before: Traffic, part: Traffic) -> bool:
    same = before.protocol == part.protocol and part.protocol in WITH_PORTS
    return same and before.first is not None and (part.first or 0) <= _end(before) + 1


def _end(part: Traffic) -> int:
    return (part.last if part.last is not None else part.first) or 0


def both(out: Iterable[Traffic], in_: Iterable[Traffic]) -> tuple[Traffic, ...]:
    """What one side lets out and the other one in."""
    inward = list(in_)
    met = (common(one, other) for one in out for other in inward)
    return joined(each for each in met if each is not None)


def in_words(parts: Iterable[Traffic]) -> str:
    """Traffic as people say it: ``all``, ``icmp``, ``tcp/22``, ``udp/5000-5010``."""
    return ", ".join(_word(part) for part in parts)


def _word(part: Traffic) -> str:
    if part.protocol is None:
        return "all"
    name = protocol_name(part.protocol)
    if part.first is None:
        return name
    if part.protocol in WITH_TYPES:
        return f"{name} type {part.first}" + ("" if part.last is None else f" code {part.last}")
    return f"{name}/{part.first}" + ("" if part.last in (None, part.first) else f"-{part.last}")


def version_of(rule: SecurityRule) -> int:
    """4 or 6."""
    return 6 if rule.ethertype == "IPv6" else 4


def fits(rule: SecurityRule, far: Address, members: tuple[str, ...]) -> bool:
    """Whether the other side is one that a rule means; ``members``: addresses and prefixes of the
    group that it names."""
    if version_of(rule) != far.version:
        return False
    if rule.remote_group_id is not None:
        single, prefixes = _parsed(members)
        return far in single or any(far in prefix for prefix in prefixes)
    return rule.remote_cidr is None or far in _prefix(rule.remote_cidr)


@functools.lru_cache(maxsize=1024)
def _parsed(members: tuple[str, ...]) -> tuple[frozenset[Address], tuple[Prefix, ...]]:
    """Single addresses, which can be looked up, and prefixes. A pair of servers asks once each."""
    networks = [_prefix(text) for text in members]
    single = {each.network_address for each in networks if each.prefixlen == each.max_prefixlen}
    wide = (each for each in networks if each.prefixlen < each.max_prefixlen)
    return frozenset(single), tuple(wide)


@functools.lru_cache(maxsize=4096)
def _prefix(text: str) -> Prefix:
    return ipaddress.ip_network(text, strict=False)


def is_anybody(rule: SecurityRule) -> bool:
    """Whether a rule means every address there is."""
    if rule.remote_group_id is not None:
        return False
    return rule.remote_cidr is None or rule.remote_cidr.endswith("/0")
