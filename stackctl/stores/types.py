"""What a store can do, and what is told to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class StoreSettings:
    """A store as config.yaml describes it. ``secrets`` come from a file or the environment."""

    name: str
    kind: str
    options: Mapping[str, str]
    secrets: Mapping[str, str]

    def __repr__(self) -> str:
        return f"StoreSettings({self.name!r}, {self.kind!r})"


class Store(Protocol):
    """Contents named by their SHA-256.

    NotFound: the store does not have it. ResourceFailed: it cannot be reached or refuses.
    """

    def put(self, sha256: str, content: BinaryIO, size_bytes: int) -> None:
        """Keep what the stream holds from where it is; it is there whole, or not at all."""
        ...

    def get(self, sha256: str) -> Iterator[bytes]:
        """The content, piece by piece; whoever reads it checks it."""
        ...

    def delete(self, sha256: str) -> None:
        """Forget it; nothing happens when it is not there."""
        ...

    def exists(self, sha256: str) -> bool:
        """Whether it is there (by name: what it holds is found out by reading it)."""
        ...
