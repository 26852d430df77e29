"""Contents as objects of an OpenStack Swift container.

Swift takes objects up to a limit (5 GiB): larger contents go up in segments with a manifest, as
static large objects, which Swift shows only when all of it is there.

Who asks is said by Swift's own authentication (``v1``), or to a Keystone, which also knows where
Swift is: with a password, or with an application credential (its id is the user, its secret the
key).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from stackctl.errors import NotFound, ResourceFailed, UsageError
from stackctl.stores.types import PIECE_BYTES, StoreSettings

SEGMENT_BYTES = 1 << 30
TIMEOUT_S = 60

V1, PASSWORD, CREDENTIAL = AUTHS = ("v1", "password", "application-credential")
"""Ways to say who asks; without one that is named it is the first."""

_OF_PASSWORDS = ("project", "project_domain", "user_domain")
_DEFAULT_DOMAIN = "Default"


class SwiftStore:
    """One container, made when it is not there. Each content is named by its SHA-256."""

    def __init__(self, settings: StoreSettings) -> None:
        self._name = settings.name
        self._container = settings.options["container"]
        self._segments = f"{self._container}_segments"
        self._client, self._failures = _client(settings, _auth(settings))

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
        except (RequestException, OSError, *self._failures) as error:
            raise self._failed(str(error)) from None
        finally:
            self._client.close()

    def _failed(self, words: str) -> ResourceFailed:
        # The client's own words hold the start of the answer, on lines of their own.
        line = " ".join(words.split())[:300].rstrip(".")
        return ResourceFailed(
            f"The store {self._name} (container {self._container}) failed: {line}."
        )


def _client(settings: StoreSettings, auth: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """What speaks to Swift, and what it may raise beside its own errors."""
    try:
        from swiftclient.client import Connection

        if auth != V1:
            return _keystone_client(settings, auth)
    except ImportError:
        raise ResourceFailed(
            f"The store {settings.name} needs the packages python-swiftclient and, for a Keystone, "
            "keystoneauth1, which are not installed.",
            hint="pip install 'stackctl[swift]'",
        ) from None
    who = {"user": settings.secrets["user"], "key": settings.secrets["key"]}
    address = settings.options["auth_url"]
    return Connection(authurl=address, auth_version="1", **who, **_common(settings)), ()


def _keystone_client(settings: StoreSettings, auth: str) -> tuple[Any, tuple[type[Exception], ...]]:
    from keystoneauth1.exceptions import ClientException
    from swiftclient.client import Connection

    class Client(Connection):  # type: ignore[misc]
        """Lets go of the way to the Keystone with that to Swift."""

        def close(self) -> None:
            super().close()
            self.session.session.close()

    region = {"region_name": settings.options.get("region")}
    session = _session(settings, auth)
    return Client(session=session, os_options=region, **_common(settings)), (ClientException,)


def _common(settings: StoreSettings) -> dict[str, Any]:
    return {"cacert": settings.options.get("ca_file"), "retries": 2, "timeout": TIMEOUT_S}


def _auth(settings: StoreSettings) -> str:
    """How the store is to be told who asks; UsageError when the options do not go together."""
    auth = settings.options.get("auth", V1)
    for_passwords = [name for name in _OF_PASSWORDS if name in settings.options]
    why = ""
    if auth not in AUTHS:
        why = f"its auth is one of {', '.join(AUTHS)}"
    elif auth == PASSWORD and "project" not in settings.options:
        why = "with auth: password it needs project"
    elif auth != PASSWORD and for_passwords:
        why = f"{for_passwords[0]} is for auth: password"
    elif auth == V1 and "region" in settings.options:
        why = "region is for a Keystone, which auth: v1 does not ask"
    if why:
        raise UsageError(f"The store {settings.name} in config.yaml cannot be used: {why}.")
    return auth


def _session(settings: StoreSettings, auth: str) -> Any:
    """A session with a Keystone, which renews its token by itself."""
    from keystoneauth1.identity import v3
    from keystoneauth1.session import Session

    options, (user, key) = settings.options, (settings.secrets["user"], settings.secrets["key"])
    who: Any
    if auth == CREDENTIAL:
        who = v3.ApplicationCredential(
            options["auth_url"], application_credential_id=user, application_credential_secret=key
        )
    else:
        who = v3.Password(
            options["auth_url"],
            username=user,
            password=key,
            user_domain_name=options.get("user_domain", _DEFAULT_DOMAIN),
            project_name=options["project"],
            project_domain_name=options.get("project_domain", _DEFAULT_DOMAIN),
        )
    return Session(auth=who, verify=options.get("ca_file", True), timeout=TIMEOUT_S)
