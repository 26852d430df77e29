"""Ways to a web server that are checked at every hop, for the controller and for hosts.

An address that the operator gave may be anywhere, the operator's own network too. What a server
redirects to may not: from a public address the way never leads to a private one. A name is
resolved once per hop, all its addresses are checked, and one of those is connected to.

Runs on both sides: standard library of Python 3.9 only.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import urllib.request
from typing import Any, Optional, Union

MAX_REDIRECTS = 3
SCHEMES = ("http://", "https://")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class Refused(Exception):
    """The way leads where it may not; the message says where. Nothing was asked there."""


class Hops:
    """Where a download came from so far."""

    def __init__(self) -> None:
        self.was_public = False
        self.redirected = False

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to one of the addresses of a name, if all of them may be talked to."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        public = [is_public(str(entry[4][0])) for entry in found]
        if self.redirected and self.was_public and not all(public):
            raise Refused(f"it redirects to {host}, which is a private address")
        self.was_public = self.was_public or any(public)
        return _first_that_answers(found, timeout_s)


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, also when it is IPv4 inside IPv6."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _inner(parsed)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        if parsed.is_site_local:  # given up long ago, and still routed inside
            return False
    return parsed.is_global and not parsed.is_multicast


def _inner(address: ipaddress.IPv6Address) -> Optional[ipaddress.IPv4Address]:
    """The IPv4 address that packets to this one may end at."""
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def opener(hops: Optional[Hops] = None) -> urllib.request.OpenerDirector:
    """What opens http and https addresses, and nothing else, by checked ways."""
    hops = hops or Hops()
    return urllib.request.build_opener(_Http(hops), _Https(hops), _Redirects(hops))


def _first_that_answers(found: list[Any], timeout_s: float) -> socket.socket:
    last = OSError("it has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
        else:
            return connection
    raise last


class _Checked:
    """What both kinds of connection have: they ask the hops for their socket."""

    def __init__(self, hops: Hops) -> None:
        self.hops = hops

    def plain(self, host: str, **options: Any) -> http.client.HTTPConnection:
        """A connection without TLS."""
        connection = http.client.HTTPConnection(host, **options)
        connection._create_connection = self._socket  # type: ignore[attr-defined]
        return connection

    def encrypted(self, host: str, **options: Any) -> http.client.HTTPSConnection:
        """A connection with TLS, the certificate checked against the name."""
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, context=context, **options)
        connection._create_connection = self._socket  # type: ignore[attr-defined]
        return connection

    def _socket(self, address: tuple[str, int], timeout_s: float, *_: Any) -> socket.socket:
        return self.hops.connect(*address, timeout_s)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, hops: Hops) -> None:
        super().__init__()
        self._checked = _Checked(hops)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._checked.plain, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, hops: Hops) -> None:
        super().__init__()
        self._checked = _Checked(hops)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._checked.encrypted, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def __init__(self, hops: Hops) -> None:
        self._hops = hops
        self._count = 0

    def redirect_request(self, *arguments: Any) -> Union[urllib.request.Request, None]:
        """Follow a few redirects, to web servers only."""
        _, response, _, _, _, target = arguments
        self._count += 1
        refusal = ""
        if self._count > MAX_REDIRECTS:
            refusal = f"it redirects more than {MAX_REDIRECTS} times"
        elif not target.startswith(SCHEMES):
            refusal = f"it redirects to {target[:200]!r}; only http and https are fetched"
        if refusal:
            response.close()
            raise Refused(refusal)
        self._hops.redirected = True
        return super().redirect_request(*arguments)
