"""Contents as objects of an OpenStack Swift container.

Swift takes objects up to a limit (5 GiB): larger contents go up in segments with a manifest, as
static large objects, which Swift shows only when all of it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from stackctl.errors import NotFound, ResourceFailed
from stackctl.stores.types import PIECE_BYTES, StoreSettings

SEGMENT_BYTES = 1 << 30


class SwiftStore:
    """One container, made when it is not there. Each content is named by its SHA-256."""

    def __init__(self, settings: StoreSettings) -> None:
        self._name = settings.name
        self._container = settings.options["container"]
        self._segments = f"{self._container}_segments"
        self._client = _client(settings)

    def put(self, sha256: str, content: BinaryIO, size_bytes: int) -> None:
        """Upload, whole or in segments."""
        with self._errors(sha256):
            self._client.put_container(self._container)
            if size_bytes <= SEGMENT_BYTES:
                self._client.put_object(
                    self._container, sha256, contents=content, content_length=size_bytes
                )
            else:
                self._put_segments(sha256, content, size_bytes)

    def _put_segments(self, sha256: str, content: BinaryIO, size_bytes: int) -> None:
        self._client.put_container(self._segments)
        manifest = []
        for number, begin in enumerate(range(0, size_bytes, SEGMENT_BYTES)):
            length = min(SEGMENT_BYTES, size_bytes - begin)
            name = f"{sha256}/{number:08}"
            etag = self._client.put_object(
                self._segments,
                name,
                contents=content,
                content_length=length,
                chunk_size=PIECE_BYTES,
            )
            path = f"/{self._segments}/{name}"
            manifest.append({"path": path, "etag": etag.strip('"'), "size_bytes": length})
        self._client.put_object(
            self._container,
            sha256,
            contents=json.dumps(manifest),
            query_string="multipart-manifest=put",
        )

    def get(self, sha256: str) -> Iterator[bytes]:
        """Download as a stream."""
        with self._errors(sha256):
            _, body = self._client.get_object(self._container, sha256, resp_chunk_size=PIECE_BYTES)
            try:
                yield from body
            finally:
                body.close()

    def delete(self, sha256: str) -> None:
        """Delete it, and its segments, also of an upload that never ended."""
        self._delete(self._container, sha256)
        try:
            with self._errors(sha256):
                _, left = self._client.get_container(
                    self._segments, prefix=f"{sha256}/", full_listing=True
                )
        except NotFound:
            return
        for segment in left:
            self._delete(self._segments, segment["name"])

    def _delete(self, container: str, name: str) -> None:
        try:
            with self._errors(name):
                self._client.delete_object(container, name)
        except NotFound:
            return

    def exists(self, sha256: str) -> bool:
        """Ask for its head."""
        try:
            with self._errors(sha256):
                self._client.head_object(self._container, sha256)
        except NotFound:
            return False
        return True

    @contextmanager
    def _errors(self, sha256: str) -> Iterator[None]:
        from requests.exceptions import RequestException
        from swiftclient.exceptions import ClientException

        try:
            yield
        except ClientException as error:
            if error.http_status == 404:
                raise NotFound(
                    f"The store {self._name} does not have {sha256} (container {self._container})."
                ) from None
            raise self._failed(str(error)) from None
        except (RequestException, OSError) as error:
            raise self._failed(str(error)) from None
        finally:
            self._client.close()

    def _failed(self, words: str) -> ResourceFailed:
        # The client's own words hold the start of the answer, on lines of their own.
        line = " ".join(words.split())[:300].rstrip(".")
        return ResourceFailed(
            f"The store {self._name} (container {self._container}) failed: {line}."
        )


def _client(settings: StoreSettings) -> Any:
    try:
        from swiftclient.client import Connection
    except ImportError:
        raise ResourceFailed(
            f"The store {settings.name} needs the package python-swiftclient, which is not "
            "installed.",
            hint="pip install 'stackctl[swift]'",
        ) from None
    return Connection(
        authurl=settings.options["auth_url"],
        user=settings.secrets["user"],
        key=settings.secrets["key"],
        auth_version="1",
        cacert=settings.options.get("ca_file"),
        retries=2,
        timeout=60,
    )
