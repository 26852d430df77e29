"""Download an image over HTTP, by ways that are checked at every hop (see agent.web)."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent import web
from stackctl.errors import Conflict, NotFound, ResourceFailed, UsageError
from stackctl.names import refuse_control_characters

PIECE_BYTES = 1 << 20
TIMEOUT_S = 30.0
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
    request = urllib.request.Request(checked_url(url), headers=_HEADERS)
    with _network_errors(url):
        response = web.opener().open(request, timeout=TIMEOUT_S)
    with response:
        size = _announced_size(url, response.headers, limit_bytes)
        yield Download(url, size, response)


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
    except web.Refused as refusal:
        raise ResourceFailed(
            f"{url} cannot be fetched: {refusal}. Nothing was fetched from there.",
            hint="give the address itself, if you trust it",
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ResourceFailed(f"{url} cannot be fetched: {reason}.") from None
