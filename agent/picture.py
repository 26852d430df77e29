"""What a display shows as a PNG: qemu of some hosts writes plain pixels (PPM)."""

from __future__ import annotations

import re
import struct
import zlib

from agent.faults import StepFailed

PNG = b"\x89PNG\r\n\x1a\n"
_PPM = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")


def to_png(picture: bytes) -> bytes:
    """The same picture as a PNG; StepFailed when it is neither PPM nor PNG."""
    if picture.startswith(PNG):
        return picture
    head = _PPM.match(picture)
    if head is None:
        raise StepFailed("qemu gave a picture that is neither PPM nor PNG")
    width, height = int(head[1]), int(head[2])
    pixels = picture[head.end() :]
    if len(pixels) < width * height * 3:
        raise StepFailed("qemu gave a picture that is cut off")
    rows = (pixels[at * width * 3 : (at + 1) * width * 3] for at in range(height))
    # Each row begins with its filter: none.
    content = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
