"""Volumes: create, list, show, change, extend and delete them."""

from __future__ import annotations

from dataclasses import asdict

from stackctl.errors import Conflict, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context, find_own
from stackctl.names import checked_name, refuse_control_characters
from stackctl.operation.outcome import Done
from stackctl.operation.resource import as_it_became, change_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read
from stackctl.volume import room, states
from stackctl.volume.types import (
    GIB,
    MAX_SIZE_GB,
    NewVolume,
    Volume,
    VolumeChange,
    volume_from,
)

NOUN = "volume"
DESCRIPTION_MAX = 255

_USABLE_IMAGE = "(project_id = ? OR visibility IN ('public', 'community'))"
_NAME_INDEX = "(project_id, name) WHERE deleted_at IS NULL"


def create_volume(context: Context, wanted: NewVolume) -> Done[Volume]:
    """Make a volume; on a host at once when one is named, else when a server first needs it.

    Conflict: the name is taken, the image does not fit. NoCapacity: the host has no room.
    """
    _check_words(wanted.name, wanted.description)
    _check_size(wanted.size_gb)

    def work(writer: Writer) -> Volume:
        row = _new_row(context, writer, wanted)
        quota.require(writer, context.project_id, "volumes", 1)
        quota.require(writer, context.project_id, "gigabytes", wanted.size_gb)
        if not writer.insert_if_free("volumes", row, _NAME_INDEX):
            raise _taken(wanted.name)
        writer.change.volumes.add(row["id"])
        return volume_from(writer, writer.get("volumes", row["id"]))

    done = change_one(context, "create", NOUN, wanted.name, asdict(wanted), work, volume_from)
    return as_it_became(context, done, NOUN, volume_from)


def list_volumes(context: Context) -> list[Volume]:
    """The project's volumes, oldest first."""
    with read(context.cloud) as reader:
        rows = reader.all(
            "SELECT * FROM volumes WHERE deleted_at IS NULL AND project_id = ? ORDER BY rowid",
            context.project_id,
        )
        return [volume_from(reader, row) for row in rows]


def show_volume(context: Context, word: str) -> Volume:
    """One volume by name or id."""
    with read(context.cloud) as reader:
        return volume_from(reader, own_volume(context, reader, word))


def own_volume(context: Context, reader: Reader, word: str) -> Row:
    """A volume of the asker's project."""
    return find_own(context, reader, "volumes", word, noun=NOUN)


def set_volume(context: Context, word: str, change: VolumeChange) -> Done[Volume]:
    """Change a volume's name or description."""
    values = {key: value for key, value in asdict(change).items() if value is not None}
    if not values:
        raise UsageError("Nothing to change was given.", hint="stackctl volume-set --help")
    _check_words(values.get("name", word), values.get("description", ""))

    def work(writer: Writer) -> Volume:
        volume = own_volume(context, writer, word)
        name = str(values.get("name", volume["name"]))
        others = "SELECT 1 FROM volumes WHERE project_id = ? AND name = ? AND id <> ? "
        parameters = (context.project_id, name, volume["id"])
        if writer.one(f"{others} AND deleted_at IS NULL", *parameters):
            raise _taken(name)
        writer.update("volumes", volume["id"], **values)
        return volume_from(writer, writer.get("volumes", volume["id"]))

    return change_one(context, "set", NOUN, word, values, work, volume_from)


def extend_volume(context: Context, word: str, size_gb: int) -> Done[Volume]:
    """Make a volume larger, while a guest uses it too; the guest sees the new size at once."""
    _check_size(size_gb)

    def work(writer: Writer) -> Volume:
        volume = own_volume(context, writer, word)
        states.require(writer, volume, "extend")
        more_gb = size_gb - volume["size_gb"]
        if more_gb <= 0:
            raise UsageError(
                f"New size for extend must be greater than current size. (current: "
                f"{volume['size_gb']}, extended: {size_gb})."
            )
        _refuse_saved(writer, volume)
        quota.require(writer, context.project_id, "gigabytes", more_gb)
        if volume["host_id"] is not None:
            room.require_room(writer, volume["host_id"], volume["name"], more_gb)
        version = volume["version"] + 1
        writer.update("volumes", volume["id"], size_gb=size_gb, version=version)
        writer.change.volumes.add(volume["id"])
        return volume_from(writer, writer.get("volumes", volume["id"]))

    done = change_one(context, "extend", NOUN, word, {"size_gb": size_gb}, work, volume_from)
    return as_it_became(context, done, NOUN, volume_from)


def delete_volume(context: Context, word: str) -> Done[Volume]:
    """Delete a volume with its data. Conflict while a server has it."""

    def work(writer: Writer) -> Volume:
        volume = own_volume(context, writer, word)
        states.require(writer, volume, "delete")
        bury(writer, volume)
        return volume_from(writer, writer.get("volumes", volume["id"]))

    return change_one(context, "delete", NOUN, word, {}, work, volume_from)


def bury(writer: Writer, volume: Row) -> None:
    """The transaction of a deletion: the row goes, a tombstone lets its host destroy the file."""
    if volume["host_id"] is not None:
        stone: Row = {"kind": "volume", "id": volume["id"], "host_id": volume["host_id"]}
        stone |= {"server_id": "", "created_serial": writer.serial, "created_at": now()}
        writer.insert("tombstones", stone)
    version = volume["version"] + 1
    writer.update("volumes", volume["id"], status="deleted", deleted_at=now(), version=version)
    writer.change.volumes.add(volume["id"])


def _new_row(context: Context, reader: Reader, wanted: NewVolume) -> Row:
    image = None if wanted.image is None else _image(context, reader, wanted.image, wanted.size_gb)
    host = None if wanted.host is None else room.host_for(reader, wanted.host)
    if host is not None:
        room.require_room(reader, host["id"], wanted.name, wanted.size_gb)
    return {
        "id": new_id(),
        "project_id": context.project_id,
        "name": wanted.name,
        "description": wanted.description,
        "size_gb": wanted.size_gb,
        "host_id": host and host["id"],
        "image_id": image and image["id"],
        # Without a place there is nothing to wait for: its file comes with its first server.
        "status": "available" if host is None else "creating",
        "created_at": now(),
    }


def _image(context: Context, reader: Reader, word: str, size_gb: int) -> Row:
    """The image that a volume shall be made of; Cinder's words when it does not fit."""
    parameters = (context.project_id,)
    image = find(reader, "images", word, noun="image", where=_USABLE_IMAGE, parameters=parameters)
    if image["status"] != "active" or image["disk_format"] in ("aki", "ari"):
        raise Conflict(f"Image {image['name']} is no disk that a volume could be made of.")
    needs_gb = max(-(-image["virtual_size_bytes"] // GIB), image["min_disk_gb"])
    if needs_gb > size_gb:
        raise Conflict(
            f"Image {image['name']} needs {needs_gb} GB and doesn't fit in a volume of size "
            f"{size_gb} GB. Nothing was made."
        )
    return image


def _refuse_saved(reader: Reader, volume: Row) -> None:
    """Memory that was saved remembers its disks as they were."""
    if volume["server_id"] is None:
        return
    server = reader.get("servers", volume["server_id"])
    if server["vm_state"] == "suspended":
        raise Conflict(
            f"Volume {volume['name']} belongs to server {server['name']}, whose memory is saved: "
            "it cannot grow until that goes on. Nothing was changed.",
            hint=f"stackctl resume {server['name']}",
        )


def _check_words(name: str, description: str) -> None:
    checked_name(NOUN, name)
    refuse_control_characters("description of a volume", description)
    if len(description) > DESCRIPTION_MAX:
        raise UsageError(f"A description has at most {DESCRIPTION_MAX} characters.")


def _check_size(size_gb: int) -> None:
    if not 1 <= size_gb <= MAX_SIZE_GB:
        raise UsageError(f"A volume of {size_gb} GB: between 1 and {MAX_SIZE_GB} GB are possible.")


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is already a volume called {name}. Nothing was changed.",
        hint="stackctl volume-list",
    )
