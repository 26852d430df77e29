"""Read the header of a disk image without any tool that would believe it.

A qcow2 header can name other files of the host (a backing file, a data file); a qemu tool that
opens such an image opens them too. So nothing of qemu ever opens a file that has not passed
``inspect``: plain qcow2 (version 2 or 3) and raw, whose tables lie inside the file.

Runs on both sides: standard library of Python 3.9 only.
"""

from __future__ import annotations

import array
import os
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Optional, Union

FORMATS = ("qcow2", "raw")
MAX_VIRTUAL_BYTES = 1 << 46
"""64 TiB: no disk of a server is larger; a header that says so lies."""

_QCOW2_MAGIC = b"QFI\xfb"
_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_DIRTY_BIT, _COMPRESSION_BIT = 1 << 0, 1 << 3
_RAW_EXTERNAL_BIT = 1 << 1
_INCOMPATIBLE_NAMES = {1: "corrupt", 2: "external data file", 4: "extended L2 entries"}
_MAX_L1_BYTES = 32 * 1024 * 1024
_MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62

_EXTENSION_END = 0
_BACKING_FORMAT = 0xE2792ACA
_EXTENSIONS_ALLOWED = {0x6803F857: "feature names", 0x23852875: "bitmaps"}
_EXTENSIONS_REFUSED = {
    0x44415441: "names an external data file",
    _BACKING_FORMAT: "names a backing format",
    0x0537BE77: "is encrypted",
}

_MAGICS = (
    (0, _QCOW2_MAGIC, "qcow2"),
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"OOOM", "user-mode Linux COW"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format", "cloop"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
)
# As qemu knows a descriptor: comments and blank lines, then its version.
_VMDK_TEXT = re.compile(rb"(?:#[^\n]*\n|[ \t\r]*\n)*version=\d")
_ISO_AT, _ISO_MAGIC = 0x8001, b"CD001"
_SECTOR = 512


class UnsafeImage(Exception):
    """The file is not an image that a host may open; the message is the reason."""


@dataclass(frozen=True)
class Inspection:
    """What a file is, by its own header."""

    format: str
    virtual_size_bytes: int


@dataclass(frozen=True)
class _Header:
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    incompatible: int
    autoclear: int
    refcount_order: int
    length: int
    compression: int

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits


def inspect(
    source: Union[str, os.PathLike[str], BinaryIO], declared_format: str, size_bytes: int
) -> Inspection:
    """Say what ``source`` (a path or a seekable stream of ``size_bytes``) is.

    UnsafeImage when it is not plainly what was declared, is cut off, or refers to anything
    outside itself.
    """
    if declared_format not in FORMATS:
        raise UnsafeImage(f"the format {declared_format[:20]!r} is not supported; use qcow2 or raw")
    with _opened(source) as stream:
        actual = stream.seek(0, os.SEEK_END)
        if actual != size_bytes:
            raise UnsafeImage(f"the file has {actual} bytes, {size_bytes} were announced")
        if declared_format == "raw":
            return _inspect_raw(stream, actual)
        return _inspect_qcow2(stream, actual)


def inspect_overlay(
    source: Union[str, os.PathLike[str], BinaryIO], size_bytes: int, base: Optional[str]
) -> Inspection:
    """The same for the qcow2 of a disk, which names one backing file: the image ``base``.

    Only the last part of its name is looked at: where images lie is this host's business.
    """
    with _opened(source) as stream:
        actual = stream.seek(0, os.SEEK_END)
        if actual != size_bytes:
            raise UnsafeImage(f"the file has {actual} bytes, {size_bytes} were announced")
        found = backing_file(stream)
        if (found or "").rpartition("/")[2] != (base or ""):
            raise UnsafeImage(f"it names the backing file {found}, not {base}")
        return _inspect_qcow2(stream, actual, overlay=base is not None)


def backing_file(source: Union[str, os.PathLike[str], BinaryIO]) -> Optional[str]:
    """The backing file that a disk's own header names; None for none, or for a raw disk."""
    with _opened(source) as stream:
        if _read(stream, 0, 4) != _QCOW2_MAGIC:
            return None
        header = _parse_header(stream)
        if header.backing_offset == 0:
            return None
        name = _read(stream, header.backing_offset, min(header.backing_size, 1023))
        return name.decode(errors="surrogateescape")


def virtual_size_bytes(source: Union[str, os.PathLike[str], BinaryIO], disk_format: str) -> int:
    """The size of the disk that a guest sees, by the header of a disk that we made ourselves."""
    with _opened(source) as stream:
        if disk_format == "qcow2":
            return _parse_header(stream).size
        return stream.seek(0, os.SEEK_END)


def _inspect_raw(stream: BinaryIO, size: int) -> Inspection:
    if size == 0:
        raise UnsafeImage("the file is empty")
    head = _read(stream, 0, _ISO_AT + len(_ISO_MAGIC))
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            raise UnsafeImage(f"declared raw, but its header is that of {name}")
    if _VMDK_TEXT.match(head):
        raise UnsafeImage("declared raw, but its header is that of VMDK")
    if size >= _SECTOR and _read(stream, size - _SECTOR, 8) == b"conectix":
        raise UnsafeImage("declared raw, but its footer is that of VHD")
    if size >= _SECTOR and _read(stream, size - _SECTOR, 4) == b"koly":
        raise UnsafeImage("declared raw, but its footer is that of DMG")
    if head[_ISO_AT:] == _ISO_MAGIC and _has_partitions(head):
        raise UnsafeImage("declared raw, but it is an ISO image and a partitioned disk at once")
    return Inspection("raw", size)


def _has_partitions(head: bytes) -> bool:
    return head[510:512] == b"\x55\xaa" or head[512:520] == b"EFI PART"


def _inspect_qcow2(stream: BinaryIO, file_bytes: int, overlay: bool = False) -> Inspection:
    magic = _read(stream, 0, 4)
    if magic != _QCOW2_MAGIC:
        raise UnsafeImage(f"declared qcow2, but it begins with {magic!r}")
    header = _parse_header(stream)
    _check_header(header, overlay)
    _check_extensions(stream, header, overlay)
    _check_tables(stream, header, file_bytes)
    return Inspection("qcow2", header.size)


def _parse_header(stream: BinaryIO) -> _Header:
    fields = _V2.unpack(_read_all(stream, 0, _V2.size))
    version = fields[1]
    if version not in (2, 3):
        raise UnsafeImage(f"qcow version {version} is not supported")
    incompatible, autoclear, refcount_order, length, compression = 0, 0, 4, _V2.size, 0
    if version == 3:
        tail = _V3.unpack(_read_all(stream, _V2.size, _V3.size))
        incompatible, autoclear, refcount_order, length = tail[0], tail[2], tail[3], tail[4]
        if length < _V2.size + _V3.size:
            raise UnsafeImage(f"its header says that it has {length} bytes")
        if length > _V2.size + _V3.size:
            compression = _read_all(stream, _V2.size + _V3.size, 1)[0]
    values = (*fields[2:12], incompatible, autoclear, refcount_order, length, compression)
    return _Header(*values)


def _check_header(header: _Header, overlay: bool) -> None:
    if not overlay and (header.backing_offset or header.backing_size):
        raise UnsafeImage("it names a backing file")
    if header.crypt_method:
        raise UnsafeImage("it is encrypted")
    if header.snapshots:
        raise UnsafeImage("it holds internal snapshots")
    _check_features(header)
    if not 9 <= header.cluster_bits <= 21:
        raise UnsafeImage(f"its clusters have 2^{header.cluster_bits} bytes")
    if not 0 < header.size <= MAX_VIRTUAL_BYTES:
        raise UnsafeImage(f"its virtual size is {header.size} bytes")
    if header.refcount_order > 6:
        raise UnsafeImage(f"its reference counts have 2^{header.refcount_order} bits")
    if header.length > header.cluster_bytes or header.length % 8:
        raise UnsafeImage(f"its header says that it has {header.length} bytes")


def _check_features(header: _Header) -> None:
    unknown = header.incompatible & ~(_DIRTY_BIT | _COMPRESSION_BIT)
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        name = _INCOMPATIBLE_NAMES.get(bit, "unknown")
        raise UnsafeImage(f"it needs the feature {bit} ({name})")
    if header.autoclear & _RAW_EXTERNAL_BIT:
        raise UnsafeImage("it says that its data file is raw")
    if header.compression > 1 or (header.compression and not header.incompatible & 8):
        raise UnsafeImage(f"its compression type is {header.compression}")


def _check_extensions(stream: BinaryIO, header: _Header, overlay: bool) -> None:
    position = header.length
    while position + 8 <= header.cluster_bytes:
        kind, length = struct.unpack(">II", _read_all(stream, position, 8))
        if kind == _EXTENSION_END:
            return
        if kind in _EXTENSIONS_REFUSED and not (overlay and kind == _BACKING_FORMAT):
            raise UnsafeImage(f"it {_EXTENSIONS_REFUSED[kind]}")
        if kind not in _EXTENSIONS_ALLOWED and kind != _BACKING_FORMAT:
            raise UnsafeImage(f"it has an unknown header extension {kind:#010x}")
        position += 8 + (length + 7) // 8 * 8
        if position > header.cluster_bytes:
            raise UnsafeImage("a header extension is longer than the header's cluster")


def _check_tables(stream: BinaryIO, header: _Header, file_bytes: int) -> None:
    l2_entries = header.cluster_bytes // 8
    needed = -(-header.size // (header.cluster_bytes * l2_entries))
    if not needed <= header.l1_entries <= _MAX_L1_BYTES // 8:
        raise UnsafeImage(f"its L1 table has {header.l1_entries} entries, {needed} are needed")
    refcount_bytes = header.refcount_clusters * header.cluster_bytes
    if not 0 < refcount_bytes <= _MAX_REFCOUNT_TABLE_BYTES:
        raise UnsafeImage(f"its refcount table has {refcount_bytes} bytes")
    l1 = _table(stream, header, header.l1_offset, header.l1_entries, file_bytes, "L1")
    refcounts = _table(
        stream, header, header.refcount_offset, refcount_bytes // 8, file_bytes, "refcount"
    )
    if max(refcounts) > file_bytes:
        raise UnsafeImage("it is cut off: a refcount block lies beyond its end")
    _check_clusters(stream, header, l1, file_bytes)


def _check_clusters(
    stream: BinaryIO, header: _Header, l1: array.array[int], file_bytes: int
) -> None:
    entries = header.cluster_bytes // 8
    offset_bits = 62 - (header.cluster_bits - 8)
    for entry in l1:
        offset = entry & _OFFSET_MASK
        if offset == 0:
            continue
        l2 = _table(stream, header, offset, entries, file_bytes, "L2")
        if max(l2) and _furthest(l2, offset_bits) >= file_bytes:
            raise UnsafeImage("it is cut off: data lies beyond its end")


def _furthest(l2: array.array[int], offset_bits: int) -> int:
    compressed_mask = (1 << offset_bits) - 1
    return max(
        entry & (compressed_mask if entry & _COMPRESSED else _OFFSET_MASK) for entry in l2 if entry
    )


def _table(
    stream: BinaryIO, header: _Header, offset: int, entries: int, file_bytes: int, name: str
) -> array.array[int]:
    if offset % header.cluster_bytes or offset < header.cluster_bytes:
        raise UnsafeImage(f"its {name} table is at {offset}, which is no cluster of its own")
    if offset + entries * 8 > file_bytes:
        raise UnsafeImage(f"it is cut off: the {name} table lies beyond its end")
    table = array.array("Q")
    table.frombytes(_read_all(stream, offset, entries * 8))
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _read(stream: BinaryIO, offset: int, count: int) -> bytes:
    stream.seek(offset)
    return stream.read(count)


def _read_all(stream: BinaryIO, offset: int, count: int) -> bytes:
    piece = _read(stream, offset, count)
    if len(piece) != count:
        raise UnsafeImage("it is cut off inside its header")
    return piece


@contextmanager
def _opened(source: Union[str, os.PathLike[str], BinaryIO]) -> Iterator[BinaryIO]:
    if isinstance(source, (str, os.PathLike)):
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            yield stream
    else:
        yield source
