"""Types of volumes: the places beside the hosts' own folders that volumes can be kept in."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import asdict, dataclass

from stackctl.errors import Conflict, NoCapacity, NotFound, UsageError
from stackctl.identity.context import Context
from stackctl.names import checked_name, refuse_control_characters
from stackctl.operation import Done, Operation, begin
from stackctl.operation import volume_keepers as keeping
from stackctl.operation.events import note
from stackctl.operation.resource import as_it_became, change_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read

NOUN = "volume type"
LOCAL = "local"
"""The type that every cloud has: files in the hosts' own folders."""

FORMATS = ("qcow2", "raw")
_NAME_INDEX = "(name) WHERE deleted_at IS NULL"
_EXPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*:(/[^:?#%]*)")
_POOL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True)
class NewVolumeType:
    """A place for volumes. ``driver`` is folder, nfs or pool, ``location`` its path, its
    ``server:/export`` or its name.

    Folders and exports are the same on all hosts; of a pool ``shared`` says so. ``host`` is the
    one that makes the cloud's place in it (None: any). ``format`` None: raw in pools, else qcow2.
    """

    name: str
    driver: str
    location: str
    shared: bool = False
    format: str | None = None
    host: str | None = None
    description: str = ""


@dataclass(frozen=True)
class VolumeType:
    """A type of volumes. ``hosts`` have it; ``lacking`` says of others why they do not."""

    id: str
    name: str
    description: str
    driver: str
    location: str
    shared: bool
    format: str
    hosts: tuple[str, ...]
    lacking: tuple[str, ...]
    free_gb: int | None
    total_gb: int | None
    created_at: str


def create_type(context: Context, wanted: NewVolumeType) -> Done[VolumeType]:
    """Name a place for volumes, and ask all hosts whether they have it.

    Conflict: the name or the place is taken. NoCapacity: there is no host that could make it.
    """
    values = _checked(wanted)

    def work(writer: Writer) -> VolumeType:
        row: Row = {"id": new_id(), **values, "created_at": now()}
        if row["shared"]:
            row["host_id"] = _first_host(writer, wanted.host)
        _refuse_taken_place(writer, row)
        if not writer.insert_if_free("volume_types", row, _NAME_INDEX):
            raise Conflict(
                f"There is already a volume type called {wanted.name}. Nothing was changed.",
                hint="stackctl volume-type-list",
            )
        writer.change.volume_types.add(row["id"])
        _note(context, writer, operation, row)
        return type_from(writer, writer.get("volume_types", row["id"]))

    summary = f"create {NOUN} {wanted.name}"
    with begin(context, "volume-type-create", summary, asdict(wanted)) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _first_result(context, row))
        made = operation.transact(work, lambda made: {"type": made.id})
        operation.converge()
        # The others can have it only when the first one has made the cloud's place in it.
        operation.transact(lambda writer: writer.change.volume_types.add(made.id))
        operation.converge()
        return as_it_became(context, operation.finish(made), NOUN, type_from)


def list_types(context: Context) -> list[VolumeType]:
    """All types, the hosts' own folders first."""
    with read(context.cloud) as reader:
        rows = reader.all("SELECT * FROM volume_types WHERE deleted_at IS NULL ORDER BY name")
        return [_local(reader), *(type_from(reader, row) for row in rows)]


def show_type(context: Context, word: str) -> VolumeType:
    """One type by name or id."""
    with read(context.cloud) as reader:
        row = type_called(reader, word)
        return _local(reader) if row is None else type_from(reader, row)


def delete_type(context: Context, word: str) -> Done[VolumeType]:
    """Forget a type that no volume has; what the operator made of it stays as it is."""

    def work(writer: Writer) -> VolumeType:
        row = type_called(writer, word)
        if row is None:
            raise Conflict(f"Volume type {LOCAL} is what every host has: it stays.")
        _refuse_used(writer, row)
        writer.update("volume_types", row["id"], deleted_at=now(), version=row["version"] + 1)
        writer.change.volume_types.add(row["id"])
        return type_from(writer, writer.get("volume_types", row["id"]))

    return change_one(context, "delete", NOUN, word, {}, work, type_from)


def type_called(reader: Reader, word: str) -> Row | None:
    """The row of a type; None for the hosts' own folders."""
    if word == LOCAL:
        return None
    try:
        return find(reader, "volume_types", word, noun=NOUN)
    except NotFound as error:
        names = reader.column("SELECT name FROM volume_types WHERE deleted_at IS NULL")
        known = ", ".join([LOCAL, *sorted(names)])
        raise NotFound(f"{error.message} There are {known}.", hint=error.hint) from None


def type_from(reader: Reader, row: Row) -> VolumeType:
    """The value of a ``volume_types`` row."""
    said = reader.all(
        "SELECT hosts.name, said.* FROM volume_type_hosts AS said "
        "JOIN hosts ON hosts.id = said.host_id "
        "WHERE said.type_id = ? AND hosts.deleted_at IS NULL ORDER BY hosts.name",
        row["id"],
    )
    well = [each for each in said if each["usable"]]
    newest = max(well, key=lambda each: str(each["seen_at"]), default=None)
    names = ("id", "name", "description", "driver", "location", "format", "created_at")
    return VolumeType(
        **{name: row[name] for name in names},
        shared=bool(row["shared"]),
        hosts=tuple(each["name"] for each in well),
        lacking=tuple(f"{each['name']}: {each['why']}" for each in said if not each["usable"]),
        # Of a pool that each host has for itself, one number would say nothing.
        free_gb=newest["free_gb"] if newest and row["shared"] else None,
        total_gb=newest["total_gb"] if newest and row["shared"] else None,
    )


def _local(reader: Reader) -> VolumeType:
    hosts = reader.column("SELECT name FROM hosts WHERE deleted_at IS NULL ORDER BY name")
    words = "files in each host's own data folder"
    created_at = str(reader.value("SELECT created_at FROM cloud"))
    return VolumeType(
        LOCAL, LOCAL, words, LOCAL, "", False, "qcow2", tuple(hosts), (), None, None, created_at
    )


def _note(context: Context, writer: Writer, operation: Operation, row: Row) -> None:
    note(
        writer,
        "create",
        NOUN,
        row,
        f"{row['driver']} {row['location']}",
        user_name=context.operator,
        operation_id=operation.id,
    )


def _first_result(context: Context, operation: Row) -> VolumeType:
    with read(context.cloud) as reader:
        id_ = json.loads(operation["result_json"])["type"]
        return type_from(reader, reader.get("volume_types", id_))


def _checked(wanted: NewVolumeType) -> Row:
    """The columns of what is asked for; UsageError says what is wrong with it."""
    checked_name(NOUN, wanted.name)
    if wanted.name == LOCAL:
        raise UsageError(f"'{LOCAL}' is the type that every cloud has.")
    refuse_control_characters("description of a volume type", wanted.description)
    if wanted.format not in (None, *FORMATS):
        raise UsageError(f"Volumes are {' or '.join(FORMATS)}, not '{wanted.format}'.")
    location = _LOCATIONS[wanted.driver](wanted.location)
    usual = "raw" if wanted.driver == "pool" else "qcow2"
    shared = wanted.driver != "pool" or wanted.shared
    return {
        "name": wanted.name,
        "description": wanted.description,
        "driver": wanted.driver,
        "location": location,
        "shared": int(shared),
        "format": wanted.format or usual,
        "claimed": int(not shared),
    }


def _folder(text: str) -> str:
    refuse_control_characters("path", text)
    if not text.startswith("/") or posixpath.normpath(text) in ("/", "//"):
        raise UsageError(f"'{text}' is no folder for volumes: give its whole path, /mnt/volumes.")
    return posixpath.normpath(text)


def _export(text: str) -> str:
    refuse_control_characters("export", text)
    if not _EXPORT.fullmatch(text):
        raise UsageError(f"'{text}' is no NFS export: give SERVER:/PATH, nas.example.com:/volumes.")
    return text.rstrip("/") if not text.endswith(":/") else text


def _pool(text: str) -> str:
    if not _POOL.fullmatch(text):
        raise UsageError(f"'{text}' is no name of a storage pool: see virsh pool-list on a host.")
    return text


_LOCATIONS = {"folder": _folder, "nfs": _export, "pool": _pool}


def _first_host(reader: Reader, word: str | None) -> str:
    """The host that makes the cloud's place."""
    if word is not None:
        return str(find(reader, "hosts", word, noun="host")["id"])
    able = keeping.able_hosts(reader)
    if not able:
        raise NoCapacity(
            "No host could make a place for volumes: none is enabled and reachable. Nothing was "
            "changed.",
            hint="stackctl host-list",
        )
    return str(able[0]["id"])


def _refuse_taken_place(reader: Reader, row: Row) -> None:
    other = reader.value(
        "SELECT name FROM volume_types WHERE driver = ? AND location = ? AND deleted_at IS NULL",
        row["driver"],
        row["location"],
    )
    if other is not None:
        raise Conflict(
            f"Volume type {other} is {row['driver']} {row['location']} already. Nothing was "
            "changed.",
            hint=f"stackctl volume-type-show {other}",
        )


def _refuse_used(reader: Reader, row: Row) -> None:
    count = reader.value(
        "SELECT (SELECT count(*) FROM volumes WHERE type_id = ?1 AND deleted_at IS NULL) "
        "+ (SELECT count(*) FROM volume_snapshots WHERE type_id = ?1 AND deleted_at IS NULL) "
        "+ (SELECT count(*) FROM tombstones WHERE type_id = ?1 AND acknowledged_at IS NULL)",
        row["id"],
    )
    if count:
        raise Conflict(
            f"{count} volumes or snapshots are of the type {row['name']}, or wait to be removed "
            "from there. Nothing was changed.",
            hint="stackctl volume-list   (then stackctl volume-delete, stackctl converge)",
        )
