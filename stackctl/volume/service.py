"""Volumes: create, list, show, change, extend and delete them."""

from __future__ import annotations

from dataclasses import asdict

from stackctl.errors import Conflict, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context, find_own, own_rows
from stackctl.image.service import usable_image
from stackctl.names import checked_name, refuse_control_characters, some
from stackctl.operation import Done, Operation
from stackctl.operation import volume_keepers as keeping
from stackctl.operation.resource import as_it_became, change_one
from stackctl.state import Reader, Row, Writer, new_id, now, read
from stackctl.volume import backends, room, states
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

_NAME_INDEX = "(project_id, name) WHERE deleted_at IS NULL"


def create_volume(context: Context, wanted: NewVolume) -> Done[Volume]:
    """Make a volume; on a host at once when one is named, else when a server first needs it. One of
    a shared type is made at once, by the next host if the first one is not reached.

    Conflict: the name is taken, the image does not fit. NoCapacity: the host has no room.
    """
    check_words(NOUN, wanted.name, wanted.description)
    if len([word for word in (wanted.image, wanted.snapshot, wanted.source) if word]) > 1:
        raise UsageError("A volume is made of an image, a snapshot or a volume: give one of them.")

    def work(writer: Writer) -> Volume:
        row = _new_row(context, writer, wanted)
        quota.require(writer, context.project_id, "volumes", 1)
        quota.require(writer, context.project_id, "gigabytes", row["size_gb"])
        if not writer.insert_if_free("volumes", row, _NAME_INDEX):
            raise _taken(wanted.name)
        writer.change.volumes.add(row["id"])
        return volume_from(writer, writer.get("volumes", row["id"]))

    def see_to_it(operation: Operation, made: Volume) -> None:
        free = wanted.host is None and wanted.source is None and wanted.snapshot is None
        tried: set[str] = set()
        while (
            _is_unheard(operation, made)
            and free
            and operation.transact(lambda writer: _by_another(operation, writer, made, tried))
        ):
            pass

    done = change_one(
        context, "create", NOUN, wanted.name, asdict(wanted), work, volume_from, see_to_it
    )
    return as_it_became(context, done, NOUN, volume_from)


def _is_unheard(operation: Operation, volume: Volume) -> bool:
    """Converge; whether the host that is to make a shared volume did not get to know of it."""
    lost = {each.host_id for each in operation.converge() if each.error and not each.sent}
    if not lost or not volume.shared or operation.context.dry_run:
        return False
    with read(operation.context.cloud) as reader:
        return reader.get("volumes", volume.id)["host_id"] in lost


def _by_another(operation: Operation, writer: Writer, volume: Volume, tried: set[str]) -> bool:
    """Give a volume of which its host has not heard, from nobody, to the next one."""
    row = writer.get("volumes", volume.id)
    if operation.is_known_to(writer, row["host_id"]):
        return False
    tried.add(row["host_id"])
    able = keeping.able_hosts(writer, row["type_id"])
    others = [each["id"] for each in able if each["id"] not in tried]
    if not others:
        return False
    operation.work_around(row["host_id"])
    writer.update("volumes", row["id"], host_id=others[0], version=row["version"] + 1)
    writer.change.volumes.add(row["id"])
    return True


def list_volumes(context: Context) -> list[Volume]:
    """The project's volumes, oldest first."""
    with read(context.cloud) as reader:
        return [volume_from(reader, row) for row in own_rows(context, reader, "volumes")]


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
    check_words(NOUN, values.get("name", word), values.get("description", ""))

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
        _refuse_busy(writer, volume, "grow")
        quota.require(writer, context.project_id, "gigabytes", more_gb)
        room.require_room(writer, volume, more_gb)
        volume = keeping.with_able_keeper(writer, volume)
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
        refuse_needed(writer, volume)
        volume = keeping.with_able_keeper(writer, volume)
        bury(writer, volume)
        return volume_from(writer, writer.get("volumes", volume["id"]))

    return change_one(context, "delete", NOUN, word, {}, work, volume_from)


def retry_volume(context: Context, word: str) -> Done[Volume]:
    """Have a volume that could not be made tried again. Conflict for one that is no such."""

    def work(writer: Writer) -> Volume:
        volume = own_volume(context, writer, word)
        if volume["built"] or not volume["held"]:
            raise Conflict(
                f"Volume {volume['name']} is {volume['status']}: making it has not failed. "
                "Nothing was changed.",
                hint=f"stackctl volume-show {volume['name']}",
            )
        try_again(writer, volume)
        return volume_from(writer, writer.get("volumes", volume["id"]))

    done = change_one(context, "retry", NOUN, word, {}, work, volume_from)
    return as_it_became(context, done, NOUN, volume_from)


def try_again(writer: Writer, volume: Row) -> None:
    """Somebody has named it: its host may try once more."""
    status = "creating" if volume["server_id"] is None else volume["status"]
    values: Row = {"held": 0, "status": status, "version": volume["version"] + 1}
    writer.update("volumes", volume["id"], **values)
    writer.change.volumes.add(volume["id"])


def refuse_needed(reader: Reader, volume: Row) -> None:
    """Conflict when a copy of a volume or snapshot is not ready yet."""
    copies = reader.column(
        "SELECT name FROM volumes WHERE source_id = ? AND built = 0 AND deleted_at IS NULL "
        "UNION SELECT name FROM volume_snapshots WHERE volume_id = ? AND built = 0 "
        "AND status = 'creating' AND deleted_at IS NULL",
        volume["id"],
        volume["id"],
    )
    if copies:
        host = reader.get("hosts", volume["host_id"])["name"]
        raise Conflict(
            f"{volume['name']} is needed for {some(copies)}, which is still to be copied "
            f"from it on host {host}. Nothing was changed.",
            hint=f"stackctl converge {host}",
        )


def bury(writer: Writer, volume: Row, table: str = "volumes") -> None:
    """The transaction of a deletion: the row goes, a tombstone lets its host destroy the file."""
    if volume["host_id"] is not None:
        host_id = keeping.destroyer(writer, volume)
        stone: Row = {"kind": "volume", "id": volume["id"], "host_id": host_id}
        stone |= {"server_id": "", "created_serial": writer.serial, "created_at": now()}
        writer.insert("tombstones", stone | {"type_id": volume["type_id"]})
        writer.change.hosts.add(host_id)
    version = volume["version"] + 1
    writer.update(table, volume["id"], status="deleted", deleted_at=now(), version=version)
    writer.change.volumes.add(volume["id"])


def _new_row(context: Context, writer: Writer, wanted: NewVolume) -> Row:
    origin = _origin(context, writer, wanted)
    size_gb = _size(wanted, origin)
    image = None if wanted.image is None else _image(context, writer, wanted.image, size_gb)
    kind = _type(context, writer, wanted, origin)
    host_id = _place(writer, wanted, origin, kind)
    row = _row(context, wanted, kind, host_id, size_gb)
    room.require_room(writer, row, size_gb)
    return row | {
        "image_id": origin["image_id"] if origin else image and image["id"],
        "source_id": origin and origin["id"],
    }


def _row(
    context: Context, wanted: NewVolume, kind: Row | None, host_id: str | None, size_gb: int
) -> Row:
    return {
        "id": new_id(),
        "project_id": context.project_id,
        "name": wanted.name,
        "description": wanted.description,
        "size_gb": size_gb,
        "host_id": host_id,
        "type_id": kind and kind["id"],
        "format": kind["format"] if kind else "qcow2",
        # Without a place there is nothing to wait for: its file comes with its first server.
        "status": "available" if host_id is None else "creating",
        "created_at": now(),
    }


def _origin(context: Context, writer: Writer, wanted: NewVolume) -> Row | None:
    """The volume or snapshot that a new volume is to be a copy of."""
    if wanted.source is not None:
        return copyable(context, writer, wanted.source)
    if wanted.snapshot is None:
        return None
    row = own_snapshot(context, writer, wanted.snapshot)
    if row["status"] != "available":
        raise Conflict(
            f"Invalid snapshot: the status of snapshot {row['name']} must be available, but it is "
            f"{row['status']}. Nothing was made."
        )
    return keeping.with_able_keeper(writer, row, "volume_snapshots")


def own_snapshot(context: Context, reader: Reader, word: str) -> Row:
    """A snapshot of the asker's project."""
    return find_own(context, reader, "volume_snapshots", word, noun="volume snapshot")


def copyable(context: Context, writer: Writer, word: str) -> Row:
    """A volume that has something to copy."""
    volume = own_volume(context, writer, word)
    states.require(writer, volume, "copy")
    _refuse_busy(writer, volume, "be copied")
    if volume["host_id"] is None:
        raise Conflict(
            f"Volume {volume['name']} has no file yet: nothing was written to it that could be "
            "copied.",
            hint=f"stackctl volume-attach SERVER {volume['name']}",
        )
    return keeping.with_able_keeper(writer, volume)


def _type(context: Context, reader: Reader, wanted: NewVolume, origin: Row | None) -> Row | None:
    """The type that was asked for, that of what it copies, or the cloud's own."""
    if wanted.type is not None:
        return backends.type_called(reader, wanted.type)
    if origin is not None:
        return reader.get("volume_types", origin["type_id"]) if origin["type_id"] else None
    return backends.type_called(reader, str(context.cloud.config["default_volume_type"]))


def _size(wanted: NewVolume, origin: Row | None) -> int:
    if origin is None:
        if wanted.size_gb is None:
            raise UsageError("A volume that is no copy needs a size: --size GB.")
        return _check_size(wanted.size_gb)
    size_gb = int(origin["size_gb"] if wanted.size_gb is None else _check_size(wanted.size_gb))
    if size_gb < origin["size_gb"]:
        raise UsageError(
            f"Volume size {size_gb}GB cannot be smaller than that of {origin['name']}, "
            f"{origin['size_gb']}GB."
        )
    return size_gb


def _place(reader: Reader, wanted: NewVolume, origin: Row | None, kind: Row | None) -> str | None:
    """The host that makes it; None: that of the first server that gets it."""
    host = None if wanted.host is None else room.host_for(reader, wanted.host)
    host_id = None if host is None else str(host["id"])
    if origin is not None:
        if host is not None and host_id != origin["host_id"]:
            there = reader.get("hosts", origin["host_id"])["name"]
            raise Conflict(
                f"{origin['name']} is a file on host {there}: a copy of it is made there, not on "
                f"{host['name']}. Nothing was made."
            )
        host_id = str(origin["host_id"])
    if kind is None:
        return host_id
    if host_id is not None:
        keeping.require_usable(reader, kind["id"], host_id, wanted.name)
    elif kind["shared"]:
        host_id = keeping.first_keeper(reader, kind)
    return host_id


def _image(context: Context, reader: Reader, word: str, size_gb: int) -> Row:
    """The image that a volume shall be made of; Cinder's words when it does not fit."""
    image = usable_image(context, reader, word)
    if image["status"] != "active" or image["disk_format"] in ("aki", "ari"):
        raise Conflict(f"Image {image['name']} is no disk that a volume could be made of.")
    needs_gb = max(-(-image["virtual_size_bytes"] // GIB), image["min_disk_gb"])
    if needs_gb > size_gb:
        raise Conflict(
            f"Image {image['name']} needs {needs_gb} GB and doesn't fit in a volume of size "
            f"{size_gb} GB. Nothing was made."
        )
    return image


def _refuse_busy(reader: Reader, volume: Row, what: str) -> None:
    """Memory that was saved remembers its disks as they were, and holds what belongs on them; a
    server on its way leaves its volumes to another host."""
    if volume["server_id"] is None:
        return
    server = reader.get("servers", volume["server_id"])
    if server["task_state"] is not None and keeping.is_shared(reader, volume):
        raise Conflict(
            f"Volume {volume['name']} belongs to server {server['name']}, which is in task_state "
            f"{server['task_state']}: it cannot {what} until that is over. Nothing was changed.",
            hint=f"stackctl show {server['name']}",
        )
    if server["vm_state"] == "suspended":
        raise Conflict(
            f"Volume {volume['name']} belongs to server {server['name']}, whose memory is saved: "
            f"it cannot {what} until that goes on. Nothing was changed.",
            hint=f"stackctl resume {server['name']}",
        )


def check_words(noun: str, name: str, description: str) -> None:
    """UsageError when a name or description is none."""
    checked_name(noun, name)
    refuse_control_characters(f"description of a {noun}", description)
    if len(description) > DESCRIPTION_MAX:
        raise UsageError(f"A description has at most {DESCRIPTION_MAX} characters.")


def _check_size(size_gb: int) -> int:
    if not 1 <= size_gb <= MAX_SIZE_GB:
        raise UsageError(f"A volume of {size_gb} GB: between 1 and {MAX_SIZE_GB} GB are possible.")
    return size_gb


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is already a volume called {name}. Nothing was changed.",
        hint="stackctl volume-list",
    )
