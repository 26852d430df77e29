"""A file with holes as a stream of bytes: only its data travels, and nobody guesses how it ends.

First the file's size and how much of it is data, as two numbers; then pieces, each an offset and a
length before its bytes; last the file's size, a length of zero, and the SHA-256 of all before it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from agent.faults import StepFailed

PIECE_BYTES = 256 * 1024
_PAIR = struct.Struct(">QQ")
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Sizes:
    """How long a file is, and how much of that is not hole."""

    size_bytes: int
    data_bytes: int


def write(file: IO[bytes], send: Callable[[bytes], object]) -> None:
    """Send an open file."""
    digest = hashlib.sha256()

    def tell(*pieces: bytes) -> None:
        for piece in pieces:
            digest.update(piece)
            send(piece)

    status = os.fstat(file.fileno())
    tell(_PAIR.pack(status.st_size, min(status.st_size, status.st_blocks * 512)))
    for offset, length in _extents(file.fileno(), status.st_size):
        done = 0
        while done < length:
            piece = os.pread(file.fileno(), min(PIECE_BYTES, length - done), offset + done)
            if not piece:
                raise StepFailed("the file became shorter while it was sent")
            tell(_PAIR.pack(offset + done, len(piece)), piece)
            done += len(piece)
    tell(_PAIR.pack(status.st_size, 0))
    send(digest.digest())


class Reader:
    """Reads such a stream with ``read(n)``, which returns less at the end alone."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._digest = hashlib.sha256()
        self.sizes = Sizes(*self._pair())

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Offsets and bytes; StepFailed when what came is not all of what was sent."""
        size_bytes = self.sizes.size_bytes
        while True:
            offset, length = self._pair()
            if length == 0:
                break
            if length > PIECE_BYTES or offset + length > size_bytes:
                raise StepFailed("the copy is not one: a piece lies beyond its end")
            piece = self._exactly(length)
            self._digest.update(piece)
            yield offset, piece
        sent = self._exactly(_DIGEST_BYTES)
        if offset != size_bytes or sent != self._digest.digest():
            raise StepFailed(
                f"the copy has the SHA-256 {self._digest.hexdigest()}, {sent.hex()} was sent"
            )

    def _pair(self) -> tuple[int, int]:
        pair = self._exactly(_PAIR.size)
        self._digest.update(pair)
        first, second = _PAIR.unpack(pair)
        return first, second

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            piece = self._read(count - len(got))
            if not piece:
                raise StepFailed("the copy was broken off")
            got += piece
        return got


def _extents(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Where a file has data; all of it where the file system cannot tell."""
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position - start
