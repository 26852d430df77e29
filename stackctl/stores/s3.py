"""Contents as objects of an S3 bucket (Amazon's, Ceph's, MinIO's, Swift's s3api ...)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from stackctl.errors import NotFound, ResourceFailed
from stackctl.stores.types import PIECE_BYTES, StoreSettings

PART_BYTES = 64 << 20
"""Larger contents go up in parts, as S3 asks for beyond 5 GiB; 10,000 parts hold 640 GB."""

_ABSENT = ("404", "NoSuchKey", "NotFound")


class S3Store:
    """One bucket, which exists already. Each content is an object named by its SHA-256."""

    def __init__(self, settings: StoreSettings) -> None:
        self._name = settings.name
        self._bucket = settings.options["bucket"]
        self._client = _client(settings)

    def put(self, sha256: str, content: BinaryIO, size_bytes: int) -> None:
        """Upload; S3 shows an object only when it is whole."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False
        )
        with self._errors(sha256):
            # The client closes what it is given; the caller's stream stays open.
            self._client.upload_fileobj(_Borrowed(content), self._bucket, sha256, Config=config)

    def get(self, sha256: str) -> Iterator[bytes]:
        """Download as a stream."""
        with self._errors(sha256):
            body = self._client.get_object(Bucket=self._bucket, Key=sha256)["Body"]
            try:
                yield from body.iter_chunks(PIECE_BYTES)
            finally:
                body.close()

    def delete(self, sha256: str) -> None:
        """Delete the object; S3 says nothing of one that is not there."""
        with self._errors(sha256):
            self._client.delete_object(Bucket=self._bucket, Key=sha256)

    def exists(self, sha256: str) -> bool:
        """Ask for its head."""
        try:
            with self._errors(sha256):
                self._client.head_object(Bucket=self._bucket, Key=sha256)
        except NotFound:
            return False
        return True

    @contextmanager
    def _errors(self, sha256: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _ABSENT:
                raise NotFound(
                    f"The store {self._name} does not have {sha256} (bucket {self._bucket})."
                ) from None
            raise self._failed(error) from None
        except (Boto3Error, BotoCoreError, HTTPClientError, OSError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> ResourceFailed:
        words = str(error).rstrip(".")
        return ResourceFailed(f"The store {self._name} (bucket {self._bucket}) failed: {words}.")


class _Borrowed:
    """Somebody else's stream, to be read but not closed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell

    def close(self) -> None:
        """Not ours to close."""


def _client(settings: StoreSettings) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ResourceFailed(
            f"The store {settings.name} needs the package boto3, which is not installed.",
            hint="pip install 'stackctl[s3]'",
        ) from None
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"max_attempts": 3},
        s3={"addressing_style": "path"},
        # Newer checksums than S3 itself had: other servers do not know them. Ours is the name.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # A session of its own: it looks at no profile or credentials of this machine's user.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.options["endpoint"],
        region_name=settings.options.get("region", "us-east-1"),
        aws_access_key_id=settings.secrets["access_key"],
        aws_secret_access_key=settings.secrets["secret_key"],
        verify=settings.options.get("ca_file"),
        config=config,
    )
