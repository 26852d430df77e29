"""Images are judged by their own headers; the corpus is built here, byte by byte."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import inspection
from agent.inspection import Inspection, UnsafeImage, inspect

CLUSTER = 65536
GIB = 1 << 30


def qcow2(
    *,
    version: int = 3,
    size: int = GIB,
    backing: bytes = b"",
    incompatible: int = 0,
    autoclear: int = 0,
    crypt: int = 0,
    snapshots: int = 0,
    cluster_bits: int = 16,
    l1_entries: int = 2,
    l1_offset: int = 3 * CLUSTER,
    l1: tuple[int, ...] = (0, 0),
    refcount_offset: int = CLUSTER,
    refcount_clusters: int = 1,
    refcount_order: int = 4,
    header_bytes: int = 104,
    extensions: bytes = b"",
    length: int = 4 * CLUSTER,
) -> bytes:
    backing_offset = 2048 if backing else 0
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        backing_offset,
        len(backing),
        cluster_bits,
        size,
        crypt,
        l1_entries,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        snapshots,
        0,
    )
    if version == 3:
        header += struct.pack(">QQQII", incompatible, 0, autoclear, refcount_order, header_bytes)
    header += extensions + struct.pack(">II", 0, 0)
    image = bytearray(header.ljust(4 * CLUSTER, b"\0"))
    image[2048 : 2048 + len(backing)] = backing
    if 0 < l1_offset < len(image):
        struct.pack_into(f">{len(l1)}Q", image, l1_offset, *l1)
    struct.pack_into(">Q", image, CLUSTER, 2 * CLUSTER)
    return bytes(image[:length])


def look(image: bytes, declared: str = "qcow2") -> Inspection:
    return inspect(io.BytesIO(image), declared, len(image))


def refusal(image: bytes, declared: str = "qcow2") -> str:
    with pytest.raises(UnsafeImage) as caught:
        look(image, declared)
    return str(caught.value)


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">II", kind, len(content)) + content.ljust(-(-len(content) // 8) * 8, b"\0")


def test_plain_images_are_accepted():
    assert look(qcow2()) == Inspection("qcow2", GIB)
    assert look(qcow2(version=2)) == Inspection("qcow2", GIB)
    assert look(b"\x1f\x8b a ramdisk", "raw") == Inspection("raw", 12)
    names = extension(0x6803F857, b"dirty bit")
    assert look(qcow2(incompatible=1, extensions=names)).format == "qcow2"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (qcow2(backing=b"/etc/shadow"), "backing file"),
        (qcow2(incompatible=4), "external data file"),
        (qcow2(autoclear=2), "data file is raw"),
        (qcow2(incompatible=4, autoclear=2), "external data file"),
        (qcow2(incompatible=2), "corrupt"),
        (qcow2(incompatible=1 << 4), "extended L2"),
        (qcow2(incompatible=1 << 63), "feature 63"),
        (qcow2(extensions=extension(0x44415441, b"/etc/shadow")), "external data file"),
        (qcow2(extensions=extension(0xE2792ACA, b"raw")), "backing format"),
        (qcow2(extensions=extension(0x12345678, b"?")), "unknown header extension"),
        (qcow2(extensions=struct.pack(">II", 0x6803F857, 2**32 - 1)), "longer than"),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(snapshots=1), "snapshots"),
        (qcow2(size=0), "virtual size"),
        (qcow2(size=2**63), "virtual size"),
        (qcow2(size=2**64 - 1), "virtual size"),
        (qcow2(cluster_bits=63), "clusters"),
        (qcow2(refcount_order=7), "reference counts"),
        (qcow2(header_bytes=4), "header says"),
        (qcow2(header_bytes=2**31), "header says"),
        (qcow2(version=1), "version 1"),
        (qcow2(l1_entries=1), "L1 table has 1 entries"),
        (qcow2(l1_entries=2**32 - 1), "L1 table"),
        (qcow2(l1_offset=2**63), "L1 table"),
        (qcow2(l1_offset=0), "no cluster of its own"),
        (qcow2(refcount_offset=CLUSTER + 8), "refcount table"),
        (qcow2(refcount_clusters=0), "refcount table"),
        (qcow2(refcount_clusters=2**32 - 1), "refcount table"),
        (qcow2(length=3 * CLUSTER), "cut off"),
        (qcow2(length=CLUSTER), "cut off"),
        (qcow2(length=50), "cut off"),
        (qcow2(length=4), "cut off"),
        (qcow2(l1=(9 * CLUSTER, 0)), "cut off: the L2 table"),
        (b"", "begins with"),
        (b"KDMV" + bytes(512), "begins with"),
    ],
)
def test_everything_else_is_refused_with_a_reason(image, reason):
    assert reason in refusal(image)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"QFI\xfb", "qcow2"),
        (b"QED\0", "QED"),
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile\n", "VMDK"),
        (b"# anything\n\n  \n# more\nversion=1\nCID=fffffffe\n", "VMDK"),
        (b"version=3\n", "VMDK"),
        (b"COWD", "VMDK"),
        (b"WithoutFreeSpace", "Parallels"),
        (b"Bochs Virtual HD Image", "Bochs"),
        (b"OOOM", "user-mode Linux"),
        (b"#!/bin/sh\n#V2.0 Format", "cloop"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"LUKS\xba\xbe", "LUKS"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe", "VDI"),
    ],
)
def test_another_format_declared_raw_is_refused(head, name):
    assert name in refusal(head.ljust(1 << 20, b"\0"), "raw")


def test_raw_footers_and_hybrids_are_refused():
    assert "VHD" in refusal(bytes(4096) + b"conectix".ljust(512, b"\0"), "raw")
    assert "DMG" in refusal(bytes(4096) + b"koly".ljust(512, b"\0"), "raw")
    hybrid = bytearray(1 << 16)
    hybrid[0x8001:0x8006] = b"CD001"
    assert look(bytes(hybrid), "raw").format == "raw"
    hybrid[510:512] = b"\x55\xaa"
    assert "at once" in refusal(bytes(hybrid), "raw")


def test_an_image_inside_an_image_stays_inside():
    """What a guest's disk holds is nobody's business; what a raw file holds at its start is."""
    inner = qcow2(backing=b"/etc/shadow")
    l2 = struct.pack(">Q", 1 << 63 | 5 * CLUSTER).ljust(CLUSTER, b"\0")
    assert look(qcow2(l1=(4 * CLUSTER, 0)) + l2 + inner).format == "qcow2"
    assert "qcow2" in refusal(inner, "raw")
    assert look(bytes(512) + inner, "raw").format == "raw"


def test_scripts_and_texts_are_raw():
    for content in (b"#!/bin/sh\nexec true\n", b"# a comment\nversions=1\n", b"\n\nversion 1"):
        assert look(content, "raw").format == "raw"


def test_data_beyond_the_end_is_noticed():
    l2 = struct.pack(">Q", 1 << 63 | 5 * CLUSTER).ljust(CLUSTER, b"\0")
    image = qcow2(l1=(4 * CLUSTER, 0)) + l2
    assert "data lies beyond" in refusal(image)
    assert look(image + bytes(CLUSTER)).virtual_size_bytes == GIB


def test_the_announced_size_counts():
    with pytest.raises(UnsafeImage, match="announced"):
        inspect(io.BytesIO(qcow2()), "qcow2", 7)


def test_unknown_formats_are_not_looked_at():
    with pytest.raises(UnsafeImage, match="not supported"):
        inspect(io.BytesIO(b"x"), "vmdk", 1)


def test_a_symbolic_link_is_not_followed(tmp_path: Path):
    target = tmp_path / "image"
    target.write_bytes(qcow2())
    link = tmp_path / "link"
    link.symlink_to(target)
    assert inspect(target, "qcow2", 4 * CLUSTER).format == "qcow2"
    with pytest.raises(OSError):
        inspect(link, "qcow2", 4 * CLUSTER)


def test_the_backing_file_of_our_own_disks_can_be_read():
    assert inspection.backing_file(io.BytesIO(qcow2(backing=b"/images/ab"))) == "/images/ab"
    assert inspection.backing_file(io.BytesIO(qcow2())) is None
    assert inspection.backing_file(io.BytesIO(bytes(512))) is None


GOOD = qcow2()


@given(
    st.lists(st.tuples(st.integers(0, 111), st.integers(0, 255)), max_size=6),
    st.integers(0, len(GOOD)),
)
def test_a_damaged_header_is_refused_or_harmless(changes, length):
    image = bytearray(GOOD[:length])
    for position, value in changes:
        if position < len(image):
            image[position] = value
    try:
        found = look(bytes(image))
    except UnsafeImage:
        return
    assert image[8:20] == bytes(12)  # no backing file
    assert not struct.unpack_from(">Q", image, 72)[0] & ~9 or image[7] == 2
    assert not struct.unpack_from(">Q", image, 88)[0] & 2 or image[7] == 2
    assert 0 < found.virtual_size_bytes <= inspection.MAX_VIRTUAL_BYTES


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(content):
    for declared in ("qcow2", "raw"):
        try:
            look(content, declared)
        except UnsafeImage:
            continue
