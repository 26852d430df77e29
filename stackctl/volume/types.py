"""What the volume services take and return."""

from __future__ import annotations

import json
from dataclasses import dataclass

from stackctl.operation.volume_keepers import is_shared
from stackctl.state import Reader, Row

GIB = 1 << 30
MAX_SIZE_GB = 64 * 1024


@dataclass(frozen=True)
class NewVolume:
    """What is asked for: an empty volume, or one made of an ``image``, a ``snapshot`` or another
    volume (``source``).

    A copy is made by the host of what it is a copy of, and as large where ``size_gb`` is None.
    Others are made by ``host`` at once, or (None) by that of the first server that they are
    attached to; those of a shared ``type`` at once by any. ``type`` None: that of what it copies,
    or the cloud's default.
    """

    name: str
    size_gb: int | None = None
    image: str | None = None
    host: str | None = None
    description: str = ""
    snapshot: str | None = None
    source: str | None = None
    type: str | None = None


@dataclass(frozen=True)
class VolumeFilter:
    """Which volumes are listed: those of which all that is given here is true."""

    server: str = ""
    name: str = ""
    status: str = ""


@dataclass(frozen=True)
class VolumeChange:
    """What shall be different; None leaves it as it is."""

    name: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Volume:
    """A volume. ``host`` is empty until its place is known, and of a ``shared`` one, which servers
    of any host with its ``type`` can have: ``keeper`` is the host that makes, grows and removes it
    just now. ``server_name`` and ``device`` are empty while no server has it; ``fault`` says why it
    is not what it should be."""

    id: str
    project_id: str
    name: str
    description: str
    status: str
    size_gb: int
    format: str
    type: str
    shared: bool
    host: str
    keeper: str
    image: str
    server_id: str | None
    server_name: str
    device: str
    delete_on_termination: bool
    fault: str
    created_at: str

    @property
    def bootable(self) -> bool:
        """Whether it was made of something that boots."""
        return self.image != ""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a volume as it was at ``taken_at``. ``consistency`` is at-rest, quiesced or
    crash-consistent."""

    id: str
    project_id: str
    name: str
    description: str
    status: str
    size_gb: int
    volume_id: str
    volume_name: str
    type: str
    host: str
    consistency: str
    taken_at: str | None
    fault: str
    created_at: str


def snapshot_from(reader: Reader, row: Row) -> Snapshot:
    """The value of a ``volume_snapshots`` row."""
    fault = json.loads(row["fault_json"]) if row["fault_json"] else {}
    names = ("id", "project_id", "name", "description", "status", "size_gb", "volume_id")
    return Snapshot(
        **{name: row[name] for name in (*names, "consistency", "taken_at", "created_at")},
        volume_name=_name(reader, "volumes", row["volume_id"]),
        type=_name(reader, "volume_types", row["type_id"]) or "local",
        host="" if is_shared(reader, row) else _name(reader, "hosts", row["host_id"]),
        fault=fault.get("message", ""),
    )


def volume_from(reader: Reader, row: Row) -> Volume:
    """The value of a ``volumes`` row."""
    fault = json.loads(row["fault_json"]) if row["fault_json"] else {}
    names = ("id", "project_id", "name", "description", "status", "size_gb", "format")
    keeper, shared = _name(reader, "hosts", row["host_id"]), is_shared(reader, row)
    return Volume(
        **{name: row[name] for name in (*names, "server_id", "created_at")},
        type=_name(reader, "volume_types", row["type_id"]) or "local",
        shared=shared,
        host="" if shared else keeper,
        keeper=keeper,
        image=_name(reader, "images", row["image_id"]),
        server_name=_name(reader, "servers", row["server_id"]),
        device=f"/dev/{row['device']}" if row["device"] else "",
        delete_on_termination=bool(row["delete_on_termination"]),
        fault=fault.get("message", ""),
    )


def _name(reader: Reader, table: str, id_: str | None) -> str:
    return "" if id_ is None else str(reader.get(table, id_)["name"])
