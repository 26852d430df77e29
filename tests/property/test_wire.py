"""Frames: what is encoded is read back, and nothing else is."""

from __future__ import annotations

import io
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.spec import HostSettings, HostSpec, SpecError, digest, from_plain, to_plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
MESSAGES = st.builds(
    lambda kind, rest: {**rest, "type": kind}, st.text(), st.dictionaries(st.text(), JSON)
)
FRAMES = st.lists(MESSAGES | st.binary(max_size=200), max_size=6)


def encode(item) -> bytes:
    return wire.encode_bytes(item) if isinstance(item, bytes) else wire.encode_message(item)


def decode(stream: bytes, sizes: list[int]) -> list:
    """Read all frames, never getting more than the given number of bytes at once."""
    file, found, turn = io.BytesIO(stream), [], iter(sizes * (len(stream) + 1))
    while file.tell() < len(stream):
        frame = wire.read_frame(lambda count: file.read(min(count, next(turn))))
        found.append(frame.data if frame.message is None else frame.message)
    return found


@given(FRAMES, st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_round_trip_in_pieces_of_any_size(items, sizes):
    assert decode(b"".join(encode(item) for item in items), sizes) == items


@given(FRAMES.filter(bool), st.data())
def test_a_cut_stream_is_never_a_frame(items, data):
    last = encode(items[-1])
    stream = b"".join(encode(item) for item in items[:-1])
    cut = data.draw(st.integers(1, len(last) - 1)) if len(last) > 1 else 0
    file = io.BytesIO(stream + last[:cut])
    for _ in items[:-1]:
        wire.read_frame(file.read)
    with pytest.raises(wire.StreamClosed):
        wire.read_frame(file.read)


@given(st.binary(max_size=64))
def test_any_bytes_are_frames_or_an_error(stream):
    file = io.BytesIO(stream)
    try:
        frame = wire.read_frame(file.read)
    except wire.WireError:
        return
    assert stream[:1] in (b"J", b"B")
    assert frame.message is None or isinstance(frame.message["type"], str)


@given(st.sampled_from([b"J", b"B"]), st.integers(1, 2**32 - 1))
def test_a_length_is_judged_before_anything_is_read(kind, length):
    limit = 1000 if kind == b"J" else wire.BLOB_CHUNK_BYTES
    asked = []

    def read(count: int) -> bytes:
        asked.append(count)
        return struct.pack(">cI", kind, length) if len(asked) == 1 else b""

    with pytest.raises(wire.WireError):
        wire.read_frame(read, max_json_bytes=limit)
    assert max(asked) <= max(5, limit)


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"{}", b'{"type":1}', b"\xff", b"[" * 9999])
def test_json_that_is_no_message(payload):
    stream = io.BytesIO(struct.pack(">cI", b"J", len(payload)) + payload)
    with pytest.raises(wire.WireError):
        wire.read_frame(stream.read)


@given(st.text(), st.text(), st.integers(), st.sampled_from(["auto", "kvm", "qemu"]))
def test_a_spec_survives_the_wire(cloud, nonce, serial, virt_type):
    spec = HostSpec(1, cloud, "host", serial, nonce, HostSettings(virt_type=virt_type))
    message = wire.encode_message({"type": "spec", "spec": to_plain(spec)})
    plain = wire.read_frame(io.BytesIO(message).read).message["spec"]
    assert from_plain(HostSpec, plain) == spec
    assert digest(plain) == digest(spec)


@given(JSON)
def test_any_document_is_a_spec_or_refused(document):
    try:
        spec = from_plain(HostSpec, document)
    except SpecError:
        return
    assert json.loads(json.dumps(to_plain(spec))) == document
