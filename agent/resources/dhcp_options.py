"""Extra DHCP options of a port as dnsmasq reads them: typed, so that a value stays a value. Pure.

An option has one of four types: addresses, a number, a domain, or a text between quotes. What
dnsmasq would guess from a value's looks is decided here by the option's number; only for numbers
that no table knows the value's form decides. Options by which the protocol itself works cannot be
given: they would break leases, not configure guests.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.resources import texts
from agent.spec import DhcpOption

PROTOCOL_OWN = {
    4: {0, 1, 50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 81, 82, 121, 249, 255},
    6: {*range(21), 25, 26, 39, 79},
}
"""Numbers that the protocol or the server itself uses (the routes among them)."""

LAST = {4: 254, 6: 65535}

_ADDRESSES = {
    4: {3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 28, 32, 41, 42, 44, 45, 48, 49, 65, 68, 69, 70, 71, 72,
        73, 74, 75, 76, 150},
    6: {22, 23, 27, 28, 31, 34, 56},
}  # fmt: skip
_NUMBERS = {
    4: {2, 13, 19, 20, 22, 23, 24, 26, 27, 29, 30, 31, 34, 35, 36, 37, 38, 39, 46},
    6: {32},
}
_DOMAINS = {4: {15, 119}, 6: {21, 24, 29, 30, 33}}
_TEXTS = {
    4: {12, 14, 17, 18, 40, 47, 60, 62, 64, 66, 67, 100, 101, 114, 209, 210, 252},
    6: {41, 42, 59},
}


def line(option: DhcpOption) -> str:
    """What stands after an option line's tag; BadText when the option cannot be given."""
    if option.ip_version not in LAST:
        raise texts.BadText(f"there is no DHCP for IP version {option.ip_version}")
    name = f"DHCPv{option.ip_version} option {option.number}"
    if not 0 <= option.number <= LAST[option.ip_version]:
        raise texts.BadText(f"there is no {name}")
    if option.number in PROTOCOL_OWN[option.ip_version]:
        raise texts.BadText(f"{name} is the server's own")
    prefix = "option6:" if option.ip_version == 6 else ""
    return f"{prefix}{option.number},{_value(option)}"


def _value(option: DhcpOption) -> str:
    """The value in the form of its type."""
    for kinds, form in (
        (_ADDRESSES, _addresses),
        (_NUMBERS, _number),
        (_DOMAINS, _domain),
        (_TEXTS, _text),
    ):
        if option.number in kinds[option.ip_version]:
            return form(option)
    for guess in (_addresses, _number, _text):
        if _fits(guess, option):
            return guess(option)
    return _text(option)


def _fits(form: Callable[[DhcpOption], str], option: DhcpOption) -> bool:
    try:
        form(option)
    except texts.BadText:
        return False
    return True


def _addresses(option: DhcpOption) -> str:
    parts = option.value.split(",")
    if option.ip_version == 6:
        return ",".join(f"[{texts.ipv6(part)}]" for part in parts)
    return ",".join(texts.ipv4(part) for part in parts)


def _number(option: DhcpOption) -> str:
    return texts.number(option.value)


def _domain(option: DhcpOption) -> str:
    return texts.domain(option.value)


def _text(option: DhcpOption) -> str:
    return f'"{texts.plain(option.value)}"'
