"""Download an image over HTTP: every hop and every address is checked before it is talked to.

An address that the operator typed may be anywhere, the operator's own network too. What a server
redirects to may not: from a public address the way never leads to a private one. A name is
resolved once per hop, all its addresses are checked, and one of those is connected to.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stackctl.errors import Conflict, NotFound, ResourceFailed, StackctlError, UsageError
from stackctl.image.store import PIECE_BYTES
from stackctl.names import refuse_control_characters

TIMEOUT_S = 30.0
MAX_REDIRECTS = 3
SCHEMES = ("http", "https")

_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "stackctl"}


@dataclass(frozen=True)
class Download:
    """A response that is being read; ``size_bytes`` is 0 when the server did not say."""

    url: str
    size_bytes: int
    response: Any

    def pieces(self) -> Iterator[bytes]:
        """The content; Conflict when it ends before or after the announced size."""
        done = 0
        while True:
            try:
                piece = self.response.read(PIECE_BYTES)
            except (http.client.HTTPException, OSError) as error:
                raise _cut_off(self.url, done, self.size_bytes, str(error)) from None
            if not piece:
                break
            done += len(piece)
            yield piece
        if self.size_bytes and done != self.size_bytes:
            raise _cut_off(self.url, done, self.size_bytes, "the server closed the connection")


def checked_url(text: str) -> str:
    """The address of a file on a web server; UsageError when it is something else."""
    refuse_control_characters("address of the image", text)
    parts = _parsed(text)
    if parts is None or parts.scheme not in SCHEMES or not parts.hostname or " " in text:
        raise UsageError(f"'{text[:200]}' is not an http or https address.")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "An address with a user name or password is not accepted: it would be kept in the "
            "database and told to hosts."
        )
    return text


@contextmanager
def download(url: str, limit_bytes: int) -> Iterator[Download]:
    """Open ``url``. NotFound: nothing there. Conflict: larger than the limit, or compressed on
    the way. ResourceFailed: the server cannot be reached or refuses."""
    hops = _Hops()
    opener = urllib.request.build_opener(_Http(hops), _Https(hops), _Redirects(hops))
    request = urllib.request.Request(checked_url(url), headers=_HEADERS)
    with _network_errors(url):
        response = opener.open(request, timeout=TIMEOUT_S)
    with response:
        size = _announced_size(url, response.headers, limit_bytes)
        yield Download(url, size, response)


class _Hops:
    """Where this download came from so far."""

    def __init__(self) -> None:
        self.was_public = False
        self.redirected = False

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to one of the addresses of a name, if all of them may be talked to."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        public = [is_public(str(entry[4][0])) for entry in found]
        if self.redirected and self.was_public and not all(public):
            raise ResourceFailed(
                f"The image's server redirects to {host}, which is a private address. "
                "Nothing was fetched from there.",
                hint="give the private address itself, if you trust it",
            )
        self.was_public = self.was_public or any(public)
        return _first_that_answers(found, timeout_s)


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, also when it is IPv4 inside IPv6."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        return inner.is_global if inner is not None else parsed.is_global
    return parsed.is_global


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

    def __init__(self, hops: _Hops) -> None:
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
    def __init__(self, hops: _Hops) -> None:
        super().__init__()
        self._checked = _Checked(hops)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._checked.plain, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, hops: _Hops) -> None:
        super().__init__()
        self._checked = _Checked(hops)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._checked.encrypted, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def __init__(self, hops: _Hops) -> None:
        self._hops = hops
        self._count = 0

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        """Follow a few redirects, to web servers only."""
        _, response, _, _, _, target = arguments
        self._count += 1
        try:
            if self._count > MAX_REDIRECTS:
                raise ResourceFailed(f"It redirects more than {MAX_REDIRECTS} times.")
            checked_url(target)
        except StackctlError as error:
            response.close()
            raise ResourceFailed(f"The image's server redirects: {error.message}") from None
        self._hops.redirected = True
        return super().redirect_request(*arguments)


def _announced_size(url: str, headers: Any, limit_bytes: int) -> int:
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Conflict(
            f"{url} is sent compressed ({headers['Content-Encoding']}), which is not asked for."
        )
    text = headers.get("Content-Length", "")
    if not text.isdigit():
        return 0
    if int(text) > limit_bytes:
        raise Conflict(
            f"The image at {url} has {text} bytes; this cloud's limit is {limit_bytes} bytes."
        )
    return int(text)


def _parsed(text: str) -> urllib.parse.SplitResult | None:
    try:
        parts = urllib.parse.urlsplit(text)
        _ = parts.port  # a property that raises when it is no number
    except ValueError:
        return None
    return parts


def _cut_off(url: str, done: int, announced: int, why: str) -> Conflict:
    of = f" of {announced}" if announced else ""
    return Conflict(f"The download of {url} ended after {done}{of} bytes: {why}. Nothing was kept.")


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise NotFound(f"There is nothing at {url} (HTTP {error.code}).") from None
        raise ResourceFailed(
            f"The server of {url} refuses: HTTP {error.code} {error.reason}."
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ResourceFailed(f"{url} cannot be fetched: {reason}.") from None
