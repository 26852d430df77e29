"""Rules of security groups in words, and the names of IP protocols. Pure."""

from __future__ import annotations

from agent.spec import SecurityRule

TCP, UDP, DCCP, SCTP, UDPLITE = 6, 17, 33, 132, 136
ICMP, ICMPV6 = 1, 58

WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
WITH_TYPES = frozenset({ICMP, ICMPV6})
ONLY_IPV6 = frozenset({43, 44, ICMPV6, 59, 60})

# Neutron's names; where a number has several, the one that is shown comes first.
PROTOCOLS = {
    "tcp": TCP,
    "udp": UDP,
    "icmp": ICMP,
    "icmpv6": ICMPV6,
    "ipv6-icmp": ICMPV6,
    "ah": 51,
    "dccp": DCCP,
    "egp": 8,
    "esp": 50,
    "gre": 47,
    "igmp": 2,
    "ipip": 4,
    "ipv6-encap": 41,
    "ipv6-frag": 44,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ipv6-route": 43,
    "ospf": 89,
    "pgm": 113,
    "rsvp": 46,
    "sctp": SCTP,
    "udplite": UDPLITE,
    "vrrp": 112,
}

_NAMES = {number: name for name, number in reversed(PROTOCOLS.items())}


def protocol_name(number: int | None) -> str:
    """What people call an IP protocol: a name, its number where it has none, or any."""
    return "any" if number is None else _NAMES.get(number, str(number))


def range_in_words(rule: SecurityRule) -> str:
    """The ports of a rule (22, 80-90), or type and code of ICMP; empty for all of them."""
    if rule.port_min is None and rule.port_max is None:
        return ""
    if rule.protocol in WITH_TYPES:
        code = "" if rule.port_max is None else f" code {rule.port_max}"
        return f"type {rule.port_min}{code}"
    same = rule.port_min == rule.port_max
    return f"{rule.port_min}" if same else f"{rule.port_min}-{rule.port_max}"


def in_words(rule: SecurityRule, remote_group: str = "") -> str:
    """A rule as people say it: "allow tcp 22 from 0.0.0.0/0".

    ``remote_group`` is the name of the group that it admits, or sends to.
    """
    what = [protocol_name(rule.protocol), range_in_words(rule)]
    if rule.protocol is None:
        what = ["any", rule.ethertype]
    elif rule.remote_cidr is None and rule.protocol not in WITH_TYPES:
        what.append(f"over {rule.ethertype}")
    far = rule.remote_cidr or "anywhere"
    if rule.remote_group_id is not None:
        far = f"group {remote_group or rule.remote_group_id}"
    way = "from" if rule.direction == "ingress" else "to"
    return " ".join(filter(None, ["allow", *what, way, far]))
