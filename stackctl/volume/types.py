"""What the volume services take and return."""

from __future__ import annotations

import json
from dataclasses import dataclass

from stackctl.state import Reader, Row

GIB = 1 << 30
MAX_SIZE_GB = 64 * 1024


@dataclass(frozen=True)
class NewVolume:
    """What is asked for: an empty volume or one made of an ``image``; on ``host`` at once, or
    (None) on that of the first server that it is attached to."""

    name: str
    size_gb: int
    image: str | None = None
    host: str | None = None
    description: str = ""


@dataclass(frozen=True)
class VolumeChange:
    """What shall be different; None leaves it as it is."""

    name: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Volume:
    """A volume. ``host`` is empty until its place is known, ``server_name`` and ``device`` while
    no server has it; ``fault`` says why it is not what it should be."""

    id: str
    project_id: str
    name: str
    description: str
    status: str
    size_gb: int
    format: str
    host: str
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


def volume_from(reader: Reader, row: Row) -> Volume:
    """The value of a ``volumes`` row."""
    fault = json.loads(row["fault_json"]) if row["fault_json"] else {}
    names = ("id", "project_id", "name", "description", "status", "size_gb", "format")
    return Volume(
        **{name: row[name] for name in (*names, "server_id", "created_at")},
        host=_name(reader, "hosts", row["host_id"]),
        image=_name(reader, "images", row["image_id"]),
        server_name=_name(reader, "servers", row["server_id"]),
        device=f"/dev/{row['device']}" if row["device"] else "",
        delete_on_termination=bool(row["delete_on_termination"]),
        fault=fault.get("message", ""),
    )


def _name(reader: Reader, table: str, id_: str | None) -> str:
    return "" if id_ is None else str(reader.get(table, id_)["name"])
