"""Fetch a file over HTTP, piece by piece, by ways that are checked at every hop."""

from __future__ import annotations

from collections.abc import Generator

from agent.faults import StepFailed

TIMEOUT_S = 30.0
PIECE_BYTES = 256 * 1024


def stream(url: str) -> Generator[bytes, None, None]:
    """The bytes behind an http(s) URL; StepFailed when the server does not give them."""
    import http.client
    import urllib.error

    from agent import web

    if not url.startswith(web.SCHEMES):
        raise StepFailed(f"{url[:200]}: only http and https are fetched")
    try:
        with web.opener().open(url, timeout=TIMEOUT_S) as response:
            while True:
                piece = response.read(PIECE_BYTES)
                if not piece:
                    return
                yield piece
    except urllib.error.HTTPError as error:
        error.close()
        raise StepFailed(f"{url}: {error}") from None
    except (web.Refused, urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise StepFailed(f"{url}: {error}") from None
