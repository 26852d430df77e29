"""Fetch a file over HTTP, piece by piece."""

from __future__ import annotations

from collections.abc import Generator

from agent.faults import StepFailed

TIMEOUT_S = 30.0
PIECE_BYTES = 256 * 1024
MAX_REDIRECTS = 3
_SCHEMES = ("http://", "https://")
_ONLY_HTTP = "only http and https are fetched"


def stream(url: str) -> Generator[bytes, None, None]:
    """The bytes behind an http(s) URL; StepFailed when the server does not give them."""
    import http.client
    import urllib.error
    import urllib.request

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections = MAX_REDIRECTS

        def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
            if not newurl.startswith(_SCHEMES):
                # Refused by its status, so that urllib closes the connection with the error.
                raise urllib.error.HTTPError(newurl, code, _ONLY_HTTP, headers, fp)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    _check_scheme(url)
    try:
        with urllib.request.build_opener(Redirects).open(url, timeout=TIMEOUT_S) as response:
            while True:
                piece = response.read(PIECE_BYTES)
                if not piece:
                    return
                yield piece
    except urllib.error.HTTPError as error:
        error.close()
        raise StepFailed(f"{url}: {error}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise StepFailed(f"{url}: {error}") from None


def _check_scheme(url: str) -> None:
    if not url.startswith(_SCHEMES):
        raise StepFailed(f"{url[:200]}: {_ONLY_HTTP}")
