"""DHCP options that people may set for a port, each with the type of its value. Pure.

A value ends up in a line that dnsmasq reads, so what is not of its option's type is refused: never
cut, never quoted away. Options that follow from the network itself are not theirs to set.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.spec import DhcpOption
from stackctl.errors import UsageError

MAX_OPTIONS = 20
TEXT_MAX = 255
ADDRESSES_MAX = 8

_DOMAIN = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_NUMBER = re.compile(r"-?[0-9]{1,10}")
# What a URL, a path or a time zone is written with; no comma, quote, backslash or space.
_TEXT = re.compile(r"[A-Za-z0-9!$%&()*+./:;<=>?@\[\]^_{|}~-]+")


@dataclass(frozen=True)
class NewDhcpOption:
    """What is asked for: an option by name or number, and its value as text."""

    name: str
    value: str
    ip_version: int = 4


# number: (names, kind). The names are dnsmasq's, which Neutron's users know.
IPV4: dict[int, tuple[tuple[str, ...], str]] = {
    2: (("time-offset",), "int32"),
    4: (("time-server",), "ips"),
    7: (("log-server",), "ips"),
    9: (("lpr-server",), "ips"),
    13: (("boot-file-size",), "uint16"),
    15: (("domain-name",), "domain"),
    16: (("swap-server",), "ip"),
    17: (("root-path",), "text"),
    18: (("extension-path",), "text"),
    19: (("ip-forward-enable",), "flag"),
    23: (("default-ttl",), "uint8"),
    37: (("tcp-ttl",), "uint8"),
    38: (("tcp-keepalive",), "uint32"),
    40: (("nis-domain",), "domain"),
    41: (("nis-server",), "ips"),
    42: (("ntp-server",), "ips"),
    44: (("netbios-ns",), "ips"),
    45: (("netbios-dd",), "ips"),
    46: (("netbios-nodetype",), "uint8"),
    47: (("netbios-scope",), "text"),
    48: (("x-windows-fs",), "ips"),
    49: (("x-windows-dm",), "ips"),
    64: (("nis+-domain",), "domain"),
    65: (("nis+-server",), "ips"),
    66: (("tftp-server",), "text"),
    67: (("bootfile-name",), "text"),
    69: (("smtp-server",), "ips"),
    70: (("pop3-server",), "ips"),
    71: (("nntp-server",), "ips"),
    74: (("irc-server",), "ips"),
    100: (("posix-timezone",), "text"),
    101: (("tzdb-timezone",), "text"),
    114: (("captive-portal",), "text"),
    119: (("domain-search",), "domains"),
    150: (("tftp-server-address", "server-ip-address"), "ips"),
    209: (("config-file",), "text"),
    210: (("path-prefix",), "text"),
    252: (("wpad",), "text"),
}

IPV6: dict[int, tuple[tuple[str, ...], str]] = {
    21: (("sip-server-domain",), "domains"),
    22: (("sip-server",), "ips"),
    24: (("domain-search",), "domains"),
    27: (("nis-server",), "ips"),
    28: (("nis+-server",), "ips"),
    29: (("nis-domain",), "domains"),
    30: (("nis+-domain",), "domains"),
    31: (("sntp-server",), "ips"),
    32: (("information-refresh-time",), "uint32"),
    59: (("bootfile-url",), "text"),
}

# What follows from the network or belongs to the protocol, and what to say instead.
OURS_IPV4 = {
    1: "netmask",
    3: "router",
    6: "dns-server",
    12: "hostname",
    26: "mtu",
    28: "broadcast",
    33: "static-route",
    **dict.fromkeys(range(50, 62), ""),
    77: "user-class",
    81: "client-fqdn",
    82: "agent-id",
    121: "classless-static-route",
    249: "",
}
OURS_IPV6 = {**dict.fromkeys(range(1, 21), ""), 23: "dns-server", 25: "", 26: "", 39: "fqdn"}

_KNOWN = {4: IPV4, 6: IPV6}
_OURS = {4: OURS_IPV4, 6: OURS_IPV6}


def checked_options(wanted: Sequence[NewDhcpOption]) -> tuple[DhcpOption, ...]:
    """The options by version and number; UsageError for what is not one, or is given twice."""
    if len(wanted) > MAX_OPTIONS:
        raise UsageError(f"A port has at most {MAX_OPTIONS} DHCP options: {len(wanted)} are given.")
    found = sorted(
        map(checked_option, wanted), key=lambda option: (option.ip_version, option.number)
    )
    for first, second in zip(found, found[1:], strict=False):
        if (first.ip_version, first.number) == (second.ip_version, second.number):
            raise UsageError(f"The DHCP option {option_name(first)} is given twice.")
    return tuple(found)


def checked_option(wanted: NewDhcpOption) -> DhcpOption:
    """One option with its number and its value in the one way that it is written."""
    if wanted.ip_version not in _KNOWN:
        raise UsageError(f"DHCP options are of IP version 4 or 6, not {wanted.ip_version}.")
    number = _number_of(wanted)
    kind = _KNOWN[wanted.ip_version][number][1]
    value = _KINDS[kind](wanted.value, wanted.ip_version)
    if value is None:
        # The value itself is not repeated: it may be anything.
        raise UsageError(f"The value of DHCP option {wanted.name} is not {_SAID[kind]}.")
    return DhcpOption(wanted.ip_version, number, value)


def option_name(option: DhcpOption) -> str:
    """What people call an option."""
    known = _KNOWN[option.ip_version].get(option.number)
    return known[0][0] if known else str(option.number)


def _number_of(wanted: NewDhcpOption) -> int:
    word, version = wanted.name.lower(), wanted.ip_version
    known, ours = _KNOWN[version], _OURS[version]
    number = int(word) if word.isascii() and word.isdigit() and len(word) <= 5 else None
    if number in ours or (word and word in ours.values()):
        raise UsageError(
            f"DHCP option {word} (IPv{version}) follows from the network and cannot be set for a "
            "port: see the options of net-create and subnet-set.",
        )
    for candidate, (names, _) in known.items():
        if number == candidate or word in names:
            return candidate
    options = ", ".join(f"{names[0]} ({at})" for at, (names, _) in known.items())
    raise UsageError(f"'{wanted.name}' is not a DHCP option for IPv{version}. Known: {options}.")


def _address(text: str, version: int) -> str | None:
    try:
        address = ipaddress.ip_address(text.strip(" "))
    except ValueError:
        return None
    return str(address) if address.version == version and "%" not in text else None


def _list_of(
    item: Callable[[str, int], str | None],
) -> Callable[[str, int], str | None]:
    def checked(text: str, version: int) -> str | None:
        found = [item(part, version) for part in text.split(",")]
        if len(found) > ADDRESSES_MAX or None in found:
            return None
        return ",".join(part for part in found if part is not None)

    return checked


def _domain(text: str, _version: int) -> str | None:
    domain = text.strip(" ").rstrip(".")
    return domain.lower() if len(domain) <= 190 and _DOMAIN.fullmatch(domain) else None


def _text(text: str, _version: int) -> str | None:
    return text if len(text) <= TEXT_MAX and _TEXT.fullmatch(text) else None


def _number(first: int, last: int) -> Callable[[str, int], str | None]:
    def checked(text: str, _version: int) -> str | None:
        word = text.strip(" ")
        fits = _NUMBER.fullmatch(word) and first <= int(word) <= last
        return str(int(word)) if fits else None

    return checked


_KINDS: dict[str, Callable[[str, int], str | None]] = {
    "ip": _address,
    "ips": _list_of(_address),
    "domain": _domain,
    "domains": _list_of(_domain),
    "text": _text,
    "flag": _number(0, 1),
    "uint8": _number(0, 2**8 - 1),
    "uint16": _number(0, 2**16 - 1),
    "uint32": _number(0, 2**32 - 1),
    "int32": _number(-(2**31), 2**31 - 1),
}

_SAID = {
    "ip": "an IP address of that version",
    "ips": f"a list of 1 to {ADDRESSES_MAX} IP addresses of that version, with commas",
    "domain": "a DNS domain",
    "domains": f"a list of 1 to {ADDRESSES_MAX} DNS domains, with commas",
    "text": f"1 to {TEXT_MAX} letters, digits and signs without spaces, commas, quotes, "
    "backslashes and '#'",
    "flag": "0 or 1",
    "uint8": "a number from 0 to 255",
    "uint16": "a number from 0 to 65535",
    "uint32": "a number from 0 to 4294967295",
    "int32": "a number from -2147483648 to 2147483647",
}
