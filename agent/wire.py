"""Frames and messages between the controller and an agent.

A frame is one byte for its kind (``J`` JSON, ``B`` bytes), four bytes of length (big endian) and
the payload. Every JSON frame is an object with a ``type``. One exchange, on one channel::

    controller                               agent
    open {mode, cloud, host, images}    ->   claim checked; images fetched under a lock per hash
                                        <-   want {hashes}                   (images it lacks)
    blob {sha256, size_bytes}, bytes..  ->
                                        <-   hello {...}                     (host lock is held)
    spec {spec}                         ->   pair and spec fsynced
                                        <-   want {hashes}                   (keys, user data)
    blob ..                             ->
                                        <-   reports {reports}, step {...}   (as they happen)
                                        <-   done {}                         (host lock released)
    act {id, name, args}                ->                                   (any number of times)
                                        <-   result {id, ok, value | fault}
    bye                                 ->   the agent leaves

``hello`` has in ``lacking`` why images of ``open`` could not be fetched, by SHA-256. A ``blob``
with ``error`` instead of a size says that the controller cannot send it: only what needs it fails.
One with ``peer`` (address, port, token, certificate) says which host has the image; an agent that
cannot get it there says ``want`` again, with ``why``. ``want {disk}`` asks who has the disk that
one here is to be a copy of (``open`` names those in ``copies``); the answer is ``peer {disk,
peer}``, or one with ``error``. A ``step`` tells what is about to change (kind, id, result, why),
how far an image or a copy is (done_bytes, total_bytes), or how far a server is on its way to
another host (memory_bytes, memory_total, disk_bytes, disk_total); it may come before hello. After
the ``result`` of the action ``relay`` or ``console``, bytes frames are the relay's, both ways; an
empty one ends a direction, and the agent's ends it. The action ``snapshot`` sends a file: ``stream
{id, size_bytes}``, bytes frames of that size together, then its ``result``; no other action sends
bytes meanwhile. Actions run side by side.

Both sides send ``ping`` every PING_INTERVAL_S while they have nothing else to say. An agent that
heard nothing for SILENCE_LIMIT_S finishes the resource in hand and leaves. ``error`` from the
agent ends the exchange. What an agent sends is untrusted: sizes are capped here, meaning is
checked by the receiver.

This module runs on both sides: standard library of Python 3.9 only.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

PROTOCOL = 1
"""Raised when messages change; both sides refuse another number."""

PING_INTERVAL_S = 5.0
SILENCE_LIMIT_S = 30.0
MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_REPLY_BYTES = 4 * 1024 * 1024
"""What a controller accepts in one JSON frame from a host."""

BLOB_CHUNK_BYTES = 256 * 1024

_HEADER = struct.Struct(">cI")

RESULTS = ("unchanged", "made", "changed", "removed", "failed", "busy", "orphan", "held")
"""What can become of a resource in one convergence."""

ERROR_CODES = (
    "busy",  # another exchange holds the host lock
    "claim",  # the host belongs to another cloud, or its data folder is unclaimed
    "stale",  # the spec is older than the one this host has accepted
    "protocol",  # a message this agent does not understand
    "format",  # the spec's format is unknown here, or the agent is older than the spec's writer
    "environment",  # an engine is missing or does not answer
    "bug",
)


class WireError(Exception):
    """The stream ended or holds something that is not a frame."""


class StreamClosed(WireError):
    """The other side is gone."""


@dataclass(frozen=True)
class Fault:
    """Why a resource failed: the engine's own words, and what produced them."""

    message: str
    command: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What became of one resource. ``version`` is the row's that the spec carried (0: none)."""

    kind: str
    id: str
    result: str
    version: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    fault: Optional[Fault] = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Frame:
    """One received frame: ``message`` for JSON, ``data`` for bytes."""

    message: Optional[dict[str, Any]]
    data: bytes


def encode_message(message: dict[str, Any]) -> bytes:
    """The frame of a JSON message."""
    payload = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(b"J", len(payload)) + payload


def encode_bytes(data: bytes) -> bytes:
    """The frame of a piece of a blob or of a relayed stream."""
    return _HEADER.pack(b"B", len(data)) + data


def read_frame(read: Callable[[int], bytes], max_json_bytes: int = MAX_JSON_BYTES) -> Frame:
    """Read one frame with ``read(n)``, which returns at most n bytes and b'' at the end."""
    kind, length = _HEADER.unpack(_read_exactly(read, _HEADER.size))
    limit = {b"J": max_json_bytes, b"B": BLOB_CHUNK_BYTES}.get(kind)
    if limit is None:
        raise WireError(f"not a frame: kind {kind!r}")
    if length > limit:
        raise WireError(f"frame of {length} bytes; at most {limit} are accepted")
    payload = _read_exactly(read, length)
    if kind == b"B":
        return Frame(None, payload)
    return Frame(_parse(payload), b"")


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a JSON frame that is not JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise WireError("a JSON frame without a type")
    return message


def _read_exactly(read: Callable[[int], bytes], count: int) -> bytes:
    pieces = []
    while count > 0:
        piece = read(count)
        if not piece:
            raise StreamClosed("the stream ended")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
