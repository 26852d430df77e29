"""Flavors: the sizes that servers come in."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stackctl.errors import Conflict, UsageError
from stackctl.identity.context import Context
from stackctl.names import checked_name
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read

LARGEST = 1 << 31


@dataclass(frozen=True)
class NewFlavor:
    """What is asked for. A root disk of 0 GB is as large as its image."""

    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0


@dataclass(frozen=True)
class Flavor(NewFlavor):
    """A size for servers, of the whole cloud. Servers keep the numbers they were made with."""

    id: str = ""
    created_at: str = ""


def create_flavor(context: Context, wanted: NewFlavor) -> Done[Flavor]:
    """Make a flavor; Conflict when another one has its name."""
    checked_name("flavor", wanted.name)
    _check_sizes(wanted)

    def work(writer: Writer) -> Flavor:
        row = {"id": new_id(), **asdict(wanted), "created_at": now()}
        if not writer.insert_if_free("flavors", row, "(name) WHERE deleted_at IS NULL"):
            raise Conflict(f"Flavor with name {wanted.name} already exists.")
        return flavor_from(writer, row)

    return change_one(context, "create", "flavor", wanted.name, asdict(wanted), work, flavor_from)


def list_flavors(context: Context) -> list[Flavor]:
    """All flavors, smallest first."""
    with read(context.cloud) as reader:
        rows = reader.all(
            "SELECT * FROM flavors WHERE deleted_at IS NULL"
            " ORDER BY ram_mb, vcpus, disk_gb, ephemeral_gb, name"
        )
        return [flavor_from(reader, row) for row in rows]


def show_flavor(context: Context, word: str) -> Flavor:
    """One flavor by name or id."""
    with read(context.cloud) as reader:
        return flavor_from(reader, find(reader, "flavors", word, noun="flavor"))


def delete_flavor(context: Context, word: str) -> Done[Flavor]:
    """Delete a flavor; servers made with it are not affected."""

    def work(writer: Writer) -> Flavor:
        row = find(writer, "flavors", word, noun="flavor")
        writer.update("flavors", row["id"], deleted_at=now())
        return flavor_from(writer, row)

    return change_one(context, "delete", "flavor", word, {}, work, flavor_from)


def flavor_from(_: Reader, row: Row) -> Flavor:
    """The value of a ``flavors`` row."""
    return Flavor(**{name: row[name] for name in Flavor.__dataclass_fields__})


def _check_sizes(wanted: NewFlavor) -> None:
    least = {"vcpus": 1, "ram_mb": 1, "disk_gb": 0, "ephemeral_gb": 0, "swap_mb": 0}
    for field, smallest in least.items():
        value = getattr(wanted, field)
        if not smallest <= value < LARGEST:
            raise UsageError(f"A flavor with {field} {value} makes no sense: at least {smallest}.")
