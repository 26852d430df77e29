"""Which address, number, MAC or host name is next: pure choices, without database or chance."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Collection

from stackctl.errors import UsageError

MAC_PREFIX = "fa:16:3e"
"""OpenStack's own; the other three octets are random."""

LABEL_MAX = 63
"""Characters in a DNS label (RFC 1035)."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NOT_DNS = re.compile(r"[^a-z0-9]+")

# Words that dnsmasq reads as something else in a host line (lease times, its keywords), or that
# already mean this machine.
_NOT_A_NAME = re.compile(r"[0-9]+[smhdw]?|ignore|infinite|localhost")


def lowest_gap(first: int, last: int, used: Callable[[int, int], int]) -> int | None:
    """The lowest number of first..last that is not used; None when all are.

    ``used(a, b)`` counts the used numbers of a..b, both included. It is asked about stretches
    that double until one has a gap, then about halves of that one: what lies beyond the gap
    costs nothing, and what lies before it is counted about twice.
    """
    stretch = 1
    while first <= last:
        end = min(last, first + stretch - 1)
        if used(first, end) < end - first + 1:
            return _gap_in(first, end, used)
        first, stretch = end + 1, stretch * 2
    return None


def _gap_in(first: int, last: int, used: Callable[[int, int], int]) -> int:
    """The lowest unused number of a stretch that has one."""
    while first < last:
        middle = (first + last) // 2
        if used(first, middle) == middle - first + 1:
            first = middle + 1
        else:
            last = middle
    return first


def lowest_free(first: int, last: int, taken: Collection[int]) -> int | None:
    """The lowest number of first..last that is not in ``taken``; None when all are."""
    for number in range(first, min(last, first + len(taken)) + 1):
        if number not in taken:
            return number
    return None


def sortable(address: str) -> str:
    """An address as 32 hex digits: text that sorts as addresses do, IPv6 too."""
    return sortable_number(int(ipaddress.ip_address(address)))


def sortable_number(number: int) -> str:
    """A number as 32 hex digits: text that sorts as numbers do."""
    return f"{number:032x}"


def mac_from(random_octets: bytes) -> str:
    """A MAC address from three octets of chance."""
    return ":".join([MAC_PREFIX, *(f"{octet:02x}" for octet in random_octets[:3])])


def eui64(cidr: str, mac: str) -> str:
    """The address that the owner of a MAC makes itself in a /64 (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    tail = bytes([octets[0] ^ 0x02]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    prefix = ipaddress.IPv6Network(cidr).network_address
    return str(prefix + int.from_bytes(tail, "big"))


def checked_mac(text: str) -> str:
    """A MAC address as it is stored (lower case, colons); UsageError when it cannot be a NIC's."""
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise UsageError(f"'{text}' is not a valid MAC address: six octets, as fa:16:3e:00:00:01.")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise UsageError(f"'{text}' is not the address of one NIC (multicast, or all zero).")
    return mac


def dns_label(name: str) -> str:
    """A host name (a-z, 0-9 and dashes, at most 63) from any text.

    Accents are dropped; letters of other scripts become punycode, or, where that is too long or
    impossible, ``server-`` and eight hex digits of the name's hash.
    """
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    if any(c.isalnum() and not c.isascii() for c in bare):
        label = _punycode(bare)
    else:
        label = _NOT_DNS.sub("-", bare).strip("-")[:LABEL_MAX].rstrip("-")
    label = label or f"server-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return f"server-{label}" if _NOT_A_NAME.fullmatch(label) else label


def unused_label(label: str, taken: Collection[str]) -> str:
    """``label``, or the first of label-2, label-3, ... that nobody has."""
    candidate, count = label, 1
    while candidate in taken:
        count += 1
        suffix = f"-{count}"
        candidate = label[: LABEL_MAX - len(suffix)].rstrip("-") + suffix
    return candidate


def _punycode(text: str) -> str:
    """The ``xn--`` form (RFC 3492) of a text with letters beyond ASCII; empty if it has none."""
    kept = "".join(c if c.isalnum() else "-" for c in text)
    kept = re.sub("-+", "-", unicodedata.normalize("NFC", kept)).strip("-")
    label = "xn--" + kept.encode("punycode").decode("ascii").lower()
    fits = len(label) <= LABEL_MAX and re.fullmatch(r"[a-z0-9-]*[a-z0-9]", label)
    return label if fits else ""
