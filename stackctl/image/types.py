"""What the image services take and return."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stackctl.state import Reader, Row

GIB = 1 << 30

DISK_FORMATS = ("qcow2", "raw", "aki", "ari")
"""Disks, and the raw files of a kernel (aki) and a ramdisk (ari), by Glance's names."""

CONTAINER_FORMATS = ("bare", "aki", "ari", "ami")
VISIBILITIES = ("public", "private", "shared", "community")


@dataclass(frozen=True)
class Url:
    """Where to download an image from (http or https). ``host_fetch``: hosts may do so too."""

    address: str
    host_fetch: bool = False


@dataclass(frozen=True)
class NewImage:
    """What is asked for. ``disk_format`` None: told by the header. ``min_disk_gb`` None: the
    image's virtual size. ``kernel`` and ``ramdisk`` name images by name or id."""

    name: str
    disk_format: str | None = None
    container_format: str = ""
    visibility: str = "shared"
    min_disk_gb: int | None = None
    min_ram_mb: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)
    expected_sha256: str | None = None
    kernel: str | None = None
    ramdisk: str | None = None
    expected_sha512: str | None = None
    store: str | None = None
    protected: bool = False
    hidden: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageChange:
    """What shall be different; None leaves it as it is. A property set to "" is removed."""

    name: str | None = None
    visibility: str | None = None
    min_disk_gb: int | None = None
    min_ram_mb: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    protected: bool | None = None
    hidden: bool | None = None
    tags: tuple[str, ...] = ()
    tags_removed: tuple[str, ...] = ()
    properties_removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFilter:
    """Which images to list; what is None or empty does not matter. Tags and properties: all."""

    name: str | None = None
    status: str | None = None
    visibility: str | None = None
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    hidden: bool = False


@dataclass(frozen=True)
class Member:
    """A project that an image is shared with."""

    id: str
    name: str
    image_id: str
    status: str
    created_at: str


@dataclass(frozen=True)
class Image:
    """An image. ``virtual_size_bytes`` is the size of the disk that a guest sees.

    Without content (queued) its formats, sizes and hash are empty.
    """

    id: str
    project_id: str
    name: str
    status: str
    disk_format: str
    container_format: str
    visibility: str
    size_bytes: int
    virtual_size_bytes: int
    sha256: str
    source_url: str | None
    host_may_fetch: bool
    min_disk_gb: int
    min_ram_mb: int
    kernel_id: str | None
    ramdisk_id: str | None
    properties: Mapping[str, str]
    created_at: str
    protected: bool = False
    hidden: bool = False
    tags: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()


def image_from(reader: Reader, row: Row) -> Image:
    """The value of an ``images`` row, with the stores that have its content."""
    values: dict[str, Any] = {name: row.get(name) for name in Image.__dataclass_fields__}
    for name in ("host_may_fetch", "protected", "hidden"):
        values[name] = bool(row[name])
    values["properties"] = json.loads(row["properties_json"])
    values["tags"] = tuple(json.loads(row["tags_json"]))
    places = "SELECT store FROM image_locations WHERE image_id = ? ORDER BY created_at, store"
    values["stores"] = tuple(reader.column(places, row["id"]))
    return Image(**values)
