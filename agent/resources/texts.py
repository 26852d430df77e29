"""Texts from the spec that reach an engine's own language: one clean token, or refused.

Flow rules, ``ovs-vsctl`` commands and dnsmasq's files are languages with separators of their own.
A text gets into them only through one of these functions, which accept the narrow form that the
text must have anyway. Nothing is repaired or shortened: what does not fit is refused with
``BadText``, so that a name can never become a second rule or option.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Union

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,9}")
_PLAIN = re.compile(r"[ !#-+\--\[\]-~]{1,255}")
MAX_DOMAIN = 253
"""Characters of a domain name in text form (RFC 1035)."""


class BadText(ValueError):
    """A text that is not the single token it has to be."""


def token(value: str) -> str:
    """An id that need not be a UUID: letters, digits and hyphens, at most 64."""
    return _match(_TOKEN, value, "an id")


def uuid(value: str) -> str:
    """A UUID in its canonical lower-case form."""
    return _match(_UUID, value, "a UUID")


def mac(value: str) -> str:
    """A unicast Ethernet address in lower case, colons between the bytes."""
    found = _match(_MAC, value, "an Ethernet address")
    if int(found[:2], 16) & 1:
        raise BadText(f"{value} is a multicast Ethernet address")
    return found


def ipv4(value: str) -> str:
    """An IPv4 address in dotted form."""
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise BadText(f"{value!r} is not an IPv4 address") from None


def ipv6(value: str) -> str:
    """An IPv6 address without a zone."""
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        raise BadText(f"{value!r} is not an IPv6 address") from None
    if "%" in value:
        raise BadText(f"{value!r} names a zone")
    return str(address)


def ip(value: str) -> str:
    """An IPv4 or IPv6 address."""
    return ipv6(value) if ":" in value else ipv4(value)


def network_v4(value: str) -> ipaddress.IPv4Network:
    """An IPv4 network in CIDR form, without host bits."""
    try:
        return ipaddress.IPv4Network(value)
    except ValueError:
        raise BadText(f"{value!r} is not an IPv4 network") from None


def network(value: str) -> Union[ipaddress.IPv4Network, ipaddress.IPv6Network]:
    """An IPv4 or IPv6 network in CIDR form, without host bits."""
    if ":" not in value:
        return network_v4(value)
    try:
        found = ipaddress.IPv6Network(value)
    except ValueError:
        raise BadText(f"{value!r} is not an IPv6 network") from None
    if "%" in value:
        raise BadText(f"{value!r} names a zone")
    return found


def prefix(value: str) -> Union[ipaddress.IPv4Network, ipaddress.IPv6Network]:
    """An address, or a prefix; what stands behind the prefix does not count."""
    try:
        found = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise BadText(f"{value!r} is not an address or prefix") from None
    if "%" in value:
        raise BadText(f"{value!r} names a zone")
    return found


def number(value: str) -> str:
    """A decimal number of at most 32 bits, with or without a sign."""
    if not _NUMBER.fullmatch(value) or not -(2**31) <= int(value) < 2**32:
        raise BadText(f"{value!r} is not a number of 32 bits")
    return value


def plain(value: str) -> str:
    """Printable ASCII without the separators of the engines: fit to stand between quotes."""
    return _match(_PLAIN, value, "plain text (printable ASCII without comma, quote, backslash)")


def hostname(value: str) -> str:
    """One label of a host name (RFC 1123)."""
    return _match(_LABEL, value, "a host name")


def domain(value: str) -> str:
    """A domain name: labels and dots, no dot at the end (RFC 1035)."""
    if len(value) > MAX_DOMAIN:
        raise BadText(f"a domain name has at most {MAX_DOMAIN} characters")
    for label in value.split("."):
        if not _LABEL.fullmatch(label):
            raise BadText(f"{value!r} is not a domain name")
    return value


def device(value: str) -> str:
    """The name of a network device: at most 15 characters, so that the kernel takes it."""
    return _match(_DEVICE, value, "a device name")


def _match(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise BadText(f"{value!r} is not {what}")
    return value
