"""Flavors: the sizes that servers come in."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field

from stackctl.compute.hardware import check_specs
from stackctl.compute.scheduling.policy import policy_of
from stackctl.compute.scheduling.traits import AGGREGATE_SCOPE
from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.identity.context import Context
from stackctl.names import checked_name, refuse_control_characters
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read

LARGEST = 1 << 31
MOST_SPECS = 128
_SPEC = re.compile(r"[A-Za-z0-9_.:\- ]{1,255}")


@dataclass(frozen=True)
class NewFlavor:
    """What is asked for. A root disk of 0 GB is as large as its image. ``extra_specs`` are what
    its hosts must be: filters read them."""

    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0
    extra_specs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Flavor(NewFlavor):
    """A size for servers, of the whole cloud. Servers keep the numbers they were made with."""

    id: str = ""
    created_at: str = ""


def create_flavor(context: Context, wanted: NewFlavor) -> Done[Flavor]:
    """Make a flavor; Conflict when another one has its name."""
    checked_name("flavor", wanted.name)
    _check_sizes(wanted)
    specs = _checked_specs(context, wanted.extra_specs)

    def work(writer: Writer) -> Flavor:
        row = {"id": new_id(), **asdict(wanted), "created_at": now()}
        del row["extra_specs"]
        row["extra_specs_json"] = json.dumps(specs)
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


def set_specs(
    context: Context, word: str, specs: Mapping[str, str], removed: Collection[str] = ()
) -> Done[Flavor]:
    """Give a flavor extra specs, and take others away; servers keep those they were made with.

    NotFound when one that is to be taken away is not there.
    """
    if not specs and not removed:
        raise UsageError("Nothing to change was given.", hint="stackctl flavor-set --help")
    checked = _checked_specs(context, specs)

    def work(writer: Writer) -> Flavor:
        row = find(writer, "flavors", word, noun="flavor")
        kept = json.loads(row["extra_specs_json"])
        for key in removed:
            if kept.pop(key, None) is None:
                raise NotFound(f"Flavor {row['name']} has no extra spec '{key}'.")
        values = _checked_specs(context, {**kept, **checked})
        writer.update("flavors", row["id"], extra_specs_json=json.dumps(values))
        return flavor_from(writer, writer.get("flavors", row["id"]))

    arguments = {"specs": dict(specs), "removed": sorted(removed)}
    return change_one(context, "set", "flavor", word, arguments, work, flavor_from)


def delete_flavor(context: Context, word: str) -> Done[Flavor]:
    """Delete a flavor; servers made with it are not affected."""

    def work(writer: Writer) -> Flavor:
        row = find(writer, "flavors", word, noun="flavor")
        writer.update("flavors", row["id"], deleted_at=now())
        return flavor_from(writer, row)

    return change_one(context, "delete", "flavor", word, {}, work, flavor_from)


def flavor_from(_: Reader, row: Row) -> Flavor:
    """The value of a ``flavors`` row."""
    columns = Flavor.__dataclass_fields__.keys() - {"extra_specs"}
    values = {name: row[name] for name in columns}
    return Flavor(**values, extra_specs=json.loads(row["extra_specs_json"]))


def _check_sizes(wanted: NewFlavor) -> None:
    least = {"vcpus": 1, "ram_mb": 1, "disk_gb": 0, "ephemeral_gb": 0, "swap_mb": 0}
    for size, smallest in least.items():
        value = getattr(wanted, size)
        if not smallest <= value < LARGEST:
            raise UsageError(f"A flavor with {size} {value} makes no sense: at least {smallest}.")


def _checked_specs(context: Context, specs: Mapping[str, str]) -> dict[str, str]:
    if len(specs) > MOST_SPECS:
        raise UsageError(f"A flavor has at most {MOST_SPECS} extra specs.")
    for key, value in specs.items():
        if not _SPEC.fullmatch(key) or len(value) > 255:
            raise UsageError(f"'{key[:80]}={value[:80]}' cannot be an extra spec.")
        refuse_control_characters(f"extra spec {key}", value)
    check_specs(specs)
    asks = any(key.startswith(f"{AGGREGATE_SCOPE}:") for key in specs)
    name = "AggregateInstanceExtraSpecsFilter"
    if asks and not policy_of(context.cloud.config["scheduler"]).has(name):
        context.watch.warn(
            f"Extra specs {AGGREGATE_SCOPE}:... have no effect: {name} is not among the "
            "enabled_filters of this cloud."
        )
    return dict(specs)
