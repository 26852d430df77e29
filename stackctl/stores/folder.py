"""Contents as files of a folder, such as a mounted network file system."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from stackctl.errors import NotFound, ResourceFailed
from stackctl.stores.types import PIECE_BYTES, StoreSettings


class FolderStore:
    """A folder that exists already: an absent one may be a file system that is not mounted."""

    def __init__(self, settings: StoreSettings) -> None:
        self._name = settings.name
        self._folder = Path(settings.options["folder"])

    def put(self, sha256: str, content: BinaryIO, size_bytes: int) -> None:
        """Write beside, then rename."""
        part = self._folder / f".part-{secrets.token_hex(8)}"
        with self._errors(sha256):
            try:
                with part.open("xb") as file:
                    shutil.copyfileobj(content, file, PIECE_BYTES)
                    file.flush()
                    os.fsync(file.fileno())
                part.rename(self._folder / sha256)
            finally:
                part.unlink(missing_ok=True)

    def get(self, sha256: str) -> Iterator[bytes]:
        """The file's content."""
        with self._errors(sha256), (self._folder / sha256).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def delete(self, sha256: str) -> None:
        """Unlink the file."""
        with self._errors(sha256):
            self._folder.stat()
            (self._folder / sha256).unlink(missing_ok=True)

    def exists(self, sha256: str) -> bool:
        """Whether the file is there."""
        with self._errors(sha256):
            self._folder.stat()
            return (self._folder / sha256).is_file()

    @contextmanager
    def _errors(self, sha256: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if self._folder.is_dir():
                raise NotFound(f"The store {self._name} does not have {sha256}.") from None
            raise ResourceFailed(
                f"The folder of the store {self._name} is not there: {self._folder}."
            ) from None
        except OSError as error:
            raise ResourceFailed(
                f"The store {self._name} ({self._folder}) failed: {error.strerror}."
            ) from None
