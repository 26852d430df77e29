"""What a rule of a security group may say, with Neutron's refusals. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from agent.spec import SecurityRule
from stackctl.errors import UsageError
from stackctl.network.rule_words import (
    ICMP,
    ICMPV6,
    ONLY_IPV6,
    PROTOCOLS,
    WITH_PORTS,
    WITH_TYPES,
    protocol_name,
)

DIRECTIONS = ("ingress", "egress")
ETHERTYPES = ("IPv4", "IPv6")
PORTS = (1, 65535)


@dataclass(frozen=True)
class NewRule:
    """What is asked for. ``ethertype`` follows from prefix and protocol where it is None.

    ``protocol`` is a name, a number or any. ``ports`` are the first and last port, ``icmp_type``
    and ``icmp_code`` what they say; ``remote_cidr`` or ``remote_group`` (name or id) the other
    side, neither of them anybody.
    """

    direction: str = "ingress"
    ethertype: str | None = None
    protocol: str | None = None
    ports: tuple[int, int] | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_cidr: str | None = None
    remote_group: str | None = None
    description: str = ""


def checked_rule(wanted: NewRule) -> SecurityRule:
    """The rule as it is stored, but for its id and remote group; UsageError says what is wrong."""
    if wanted.direction not in DIRECTIONS:
        raise UsageError(f"A rule is for ingress or egress, not for '{wanted.direction}'.")
    if wanted.remote_cidr is not None and wanted.remote_group is not None:
        raise UsageError("Only one of remote IP prefix and remote group may be given.")
    cidr = None if wanted.remote_cidr is None else checked_prefix(wanted.remote_cidr)
    number = checked_protocol(wanted.protocol)
    ethertype = _ethertype(wanted.ethertype, number, cidr)
    if number == ICMP and ethertype == "IPv6":
        number = ICMPV6  # the ICMP of IPv6 is a protocol of its own
    if number in ONLY_IPV6 and ethertype != "IPv6":
        raise UsageError(f"Invalid ethertype {ethertype} for protocol {protocol_name(number)}.")
    first, last = _range(wanted, number)
    return SecurityRule(
        id="",
        direction=wanted.direction,
        ethertype=ethertype,
        protocol=number,
        port_min=first,
        port_max=last,
        remote_cidr=None if cidr is None else str(cidr),
    )


def checked_protocol(text: str | None) -> int | None:
    """The number of a protocol; None for any."""
    word = (text or "any").strip().lower()
    if word == "any":
        return None
    if word in PROTOCOLS:
        return PROTOCOLS[word]
    if word.isascii() and word.isdigit() and int(word) <= 255:
        return int(word)
    raise UsageError(
        f"Security group rule protocol {text} not supported. Only protocol values "
        f"any, {', '.join(PROTOCOLS)} and integer representations [0 to 255] are supported."
    )


def checked_prefix(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The prefix that a text says; an address alone is a prefix of that address."""
    try:
        cidr = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise UsageError(f"'{text}' is not a valid IP subnet: write it as 10.0.0.0/8.") from None
    given = text.strip().partition("/")[0]
    if ipaddress.ip_address(given) != cidr.network_address:
        raise UsageError(f"'{text}' isn't a recognized IP subnet cidr, '{cidr}' is recommended.")
    return cidr


def _ethertype(
    wanted: str | None,
    number: int | None,
    cidr: ipaddress.IPv4Network | ipaddress.IPv6Network | None,
) -> str:
    if wanted is None:
        is_ipv6 = number in ONLY_IPV6 if cidr is None else cidr.version == 6
        return "IPv6" if is_ipv6 else "IPv4"
    ethertype = {name.lower(): name for name in ETHERTYPES}.get(wanted.strip().lower())
    if ethertype is None:
        raise UsageError(
            f"Security group rule for ethertype '{wanted}' not supported. Allowed values are "
            f"{', '.join(ETHERTYPES)}."
        )
    if cidr is not None and ethertype != f"IPv{cidr.version}":
        raise UsageError(f"Conflicting value ethertype {ethertype} for CIDR {cidr}.")
    return ethertype


def _range(wanted: NewRule, number: int | None) -> tuple[int | None, int | None]:
    """Ports, or type and code, as the two numbers of a rule."""
    if number in WITH_TYPES:
        if wanted.ports is not None:
            raise UsageError("A range of ports is not allowed with ICMP: give type and code.")
        return _types(wanted)
    if wanted.icmp_type is not None or wanted.icmp_code is not None:
        raise UsageError("ICMP type and code are only allowed with protocol icmp or icmpv6.")
    if wanted.ports is None:
        return None, None
    if number is None:
        raise UsageError("Must also specify protocol if port range is given.")
    if number not in WITH_PORTS:
        raise UsageError(
            f"Invalid protocol {protocol_name(number)} for port range, only supported for TCP, "
            "UDP, UDPLITE, SCTP and DCCP."
        )
    return _ports(*wanted.ports)


def _ports(first: int, last: int) -> tuple[int, int]:
    for port in (first, last):
        if not PORTS[0] <= port <= PORTS[1]:
            raise UsageError(f"Invalid value for port {port}: ports are {PORTS[0]} to {PORTS[1]}.")
    if first > last:
        raise UsageError(
            f"For TCP/UDP protocols, port_range_min must be <= port_range_max ({first}, {last})."
        )
    return first, last


def _types(wanted: NewRule) -> tuple[int | None, int | None]:
    for name, value in (("type", wanted.icmp_type), ("code", wanted.icmp_code)):
        if value is not None and not 0 <= value <= 255:
            raise UsageError(f"Invalid value for ICMP {name} {value}. It must be 0 to 255.")
    if wanted.icmp_type is None and wanted.icmp_code is not None:
        raise UsageError(f"ICMP code {wanted.icmp_code} is provided but ICMP type is missing.")
    return wanted.icmp_type, wanted.icmp_code
