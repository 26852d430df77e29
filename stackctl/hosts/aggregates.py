"""Aggregates: named sets of hosts with metadata; and availability zones.

A host's zone is one column of its row. An aggregate with a zone gives that zone to the hosts put
in it and holds them there; a host without such an aggregate has the zone that ``host-set`` gave it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.hosts import checks
from stackctl.identity.context import Context
from stackctl.names import checked_name, refuse_control_characters, some
from stackctl.operation import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read

ZONE_KEY = "availability_zone"
DEFAULT_ZONE = "nova"
MOST_METADATA = 128
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,255}")


@dataclass(frozen=True)
class NewAggregate:
    """What is asked for."""

    name: str
    zone: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AggregateChange:
    """What shall be different; None leaves it as it is. ``metadata``: None as a value removes a
    key; ``clear`` removes all that is not given. An empty ``zone`` takes it away."""

    name: str | None = None
    zone: str | None = None
    metadata: Mapping[str, str | None] = field(default_factory=dict)
    clear: bool = False


@dataclass(frozen=True)
class Aggregate:
    """A set of hosts; ``zone`` is theirs by it, when it has one."""

    id: str
    name: str
    zone: str | None
    metadata: dict[str, str]
    hosts: tuple[str, ...]
    created_at: str


@dataclass(frozen=True)
class Zone:
    """An availability zone: available when any host in it takes servers."""

    name: str
    available: bool
    hosts: tuple[str, ...]


def create_aggregate(context: Context, wanted: NewAggregate) -> Done[Aggregate]:
    """Make an aggregate without hosts; Conflict when another one has its name."""
    checked_name("aggregate", wanted.name)
    metadata = dict(wanted.metadata)
    zone = metadata.pop(ZONE_KEY, None) or wanted.zone
    _check(metadata, zone)

    def work(writer: Writer) -> Aggregate:
        row = {"id": new_id(), "name": wanted.name, "zone": zone}
        row |= {"metadata_json": json.dumps(metadata), "created_at": now()}
        if not writer.insert_if_free("aggregates", row, "(name) WHERE deleted_at IS NULL"):
            raise Conflict(f"Aggregate {wanted.name} already exists.")
        return aggregate_from(writer, row)

    return _change(context, "create", wanted.name, {"zone": zone, "metadata": metadata}, work)


def list_aggregates(context: Context) -> list[Aggregate]:
    """All aggregates by name."""
    with read(context.cloud) as reader:
        rows = reader.all("SELECT * FROM aggregates WHERE deleted_at IS NULL ORDER BY name")
        return [aggregate_from(reader, row) for row in rows]


def show_aggregate(context: Context, word: str) -> Aggregate:
    """One aggregate by name or id."""
    with read(context.cloud) as reader:
        return aggregate_from(reader, _row(reader, word))


def set_aggregate(context: Context, word: str, change: AggregateChange) -> Done[Aggregate]:
    """Change an aggregate's name, zone or metadata. A changed zone is that of its hosts."""
    if change == AggregateChange():
        raise UsageError("Nothing to change was given.", hint="stackctl aggregate-set --help")
    if change.name is not None:
        checked_name("aggregate", change.name)

    def work(writer: Writer) -> Aggregate:
        row = _row(writer, word)
        metadata, zone = _changed(row, change)
        _check(metadata, zone)
        if change.name is not None and change.name != row["name"]:
            _refuse_taken(writer, change.name)
        values = {"name": change.name or row["name"], "zone": zone}
        writer.update("aggregates", row["id"], **values, metadata_json=json.dumps(metadata))
        if zone != row["zone"]:
            for host in _hosts(writer, row["id"]):
                _give_zone(writer, host, zone or DEFAULT_ZONE, row["id"], change.name or word)
        return aggregate_from(writer, writer.get("aggregates", row["id"]))

    return _change(context, "set", word, {"changes": repr(change)}, work)


def delete_aggregate(context: Context, word: str) -> Done[Aggregate]:
    """Delete an aggregate; Conflict while hosts are in it."""

    def work(writer: Writer) -> Aggregate:
        row = _row(writer, word)
        before = aggregate_from(writer, row)
        if before.hosts:
            raise Conflict(
                f"Cannot remove aggregate {row['name']}: it has hosts {', '.join(before.hosts)}. "
                "Nothing was changed.",
                hint=f"stackctl aggregate-remove-host {row['name']} {before.hosts[0]}",
            )
        writer.update("aggregates", row["id"], deleted_at=now())
        return before

    return _change(context, "delete", word, {}, work)


def add_host(context: Context, word: str, host_word: str) -> Done[Aggregate]:
    """Put a host into an aggregate; it gets the aggregate's zone.

    Conflict: it is in it, in one of another zone, or its servers are in another zone.
    """

    def work(writer: Writer) -> Aggregate:
        row, host = _row(writer, word), find(writer, "hosts", host_word, noun="host")
        member = {"aggregate_id": row["id"], "host_id": host["id"]}
        if not writer.insert_if_free("aggregate_hosts", member, "(aggregate_id, host_id)"):
            raise Conflict(f"Aggregate {row['name']} already has host {host['name']}.")
        if row["zone"] is not None:
            _give_zone(writer, host, row["zone"], row["id"], row["name"])
        return aggregate_from(writer, row)

    return _change(context, "add-host", word, {"host": host_word}, work)


def remove_host(context: Context, word: str, host_word: str) -> Done[Aggregate]:
    """Take a host out of an aggregate; the aggregate's zone goes with it.

    NotFound: it is not in it. Conflict: its servers are in that zone.
    """

    def work(writer: Writer) -> Aggregate:
        row, host = _row(writer, word), find(writer, "hosts", host_word, noun="host")
        gone = writer.run(
            "DELETE FROM aggregate_hosts WHERE aggregate_id = ? AND host_id = ?",
            row["id"],
            host["id"],
        )
        if not gone:
            raise NotFound(f"Aggregate {row['name']} has no host {host['name']}.")
        if row["zone"] is not None and zone_giver(writer, host["id"]) is None:
            _give_zone(writer, host, DEFAULT_ZONE, row["id"], row["name"])
        return aggregate_from(writer, row)

    return _change(context, "remove-host", word, {"host": host_word}, work)


def list_zones(context: Context) -> list[Zone]:
    """Zones by name: those of hosts, and those of aggregates without hosts."""
    with read(context.cloud) as reader:
        hosts = reader.all("SELECT * FROM hosts WHERE deleted_at IS NULL ORDER BY name")
        named = reader.column(
            "SELECT zone FROM aggregates WHERE deleted_at IS NULL AND zone IS NOT NULL"
        )
    zones: dict[str, list[Row]] = {name: [] for name in (DEFAULT_ZONE, *named)}
    for host in hosts:
        zones.setdefault(host["zone"], []).append(host)
    return [
        Zone(name, any(map(_takes_servers, rows)), tuple(row["name"] for row in rows))
        for name, rows in sorted(zones.items())
        if rows or name in named
    ]


def own_zone(reader: Reader, host: Row, zone: str) -> str:
    """A zone that a host can be given by itself; Conflict when an aggregate or servers hold it."""
    giver = zone_giver(reader, host["id"])
    if zone != host["zone"] and giver is not None:
        raise Conflict(
            f"Host {host['name']} is in zone {giver['zone']} by aggregate {giver['name']}. "
            "Nothing was changed.",
            hint=f"stackctl aggregate-remove-host {giver['name']} {host['name']}",
        )
    if zone != host["zone"]:
        _refuse_servers(reader, host, zone)
    return zone


def zone_giver(reader: Reader, host_id: str, other_than: str = "") -> Row | None:
    """The aggregate that gives a host its zone; None when the host's own setting does."""
    return reader.one(
        "SELECT aggregates.* FROM aggregates JOIN aggregate_hosts "
        "ON aggregate_hosts.aggregate_id = aggregates.id "
        "WHERE aggregate_hosts.host_id = ? AND aggregates.zone IS NOT NULL "
        "AND aggregates.deleted_at IS NULL AND aggregates.id <> ? ORDER BY aggregates.name",
        host_id,
        other_than,
    )


def aggregate_from(reader: Reader, row: Row) -> Aggregate:
    """The value of an ``aggregates`` row."""
    return Aggregate(
        id=row["id"],
        name=row["name"],
        zone=row["zone"],
        metadata=json.loads(row["metadata_json"]),
        hosts=tuple(host["name"] for host in _hosts(reader, row["id"])),
        created_at=row["created_at"],
    )


def _change(
    context: Context,
    action: str,
    word: str,
    arguments: dict[str, object],
    work: Callable[[Writer], Aggregate],
) -> Done[Aggregate]:
    return change_one(context, action, "aggregate", word, arguments, work, aggregate_from)


def _row(reader: Reader, word: str) -> Row:
    return find(reader, "aggregates", word, noun="aggregate")


def _hosts(reader: Reader, aggregate_id: str) -> list[Row]:
    return reader.all(
        "SELECT hosts.* FROM hosts JOIN aggregate_hosts ON aggregate_hosts.host_id = hosts.id "
        "WHERE aggregate_hosts.aggregate_id = ? AND hosts.deleted_at IS NULL ORDER BY hosts.name",
        aggregate_id,
    )


def _changed(row: Row, change: AggregateChange) -> tuple[dict[str, str], str | None]:
    """Metadata and zone as they shall be; the zone can be told as metadata, as in Nova."""
    metadata: dict[str, str] = {} if change.clear else json.loads(row["metadata_json"])
    zone = row["zone"] if change.zone is None else change.zone or None
    for key, value in change.metadata.items():
        if key == ZONE_KEY:
            zone = value or None
        elif value is None:
            metadata.pop(key, None)
        else:
            metadata[key] = value
    return metadata, zone


def _give_zone(writer: Writer, host: Row, zone: str, aggregate_id: str, name: str) -> None:
    """Move a host to the zone of an aggregate, unless something holds it in its own."""
    if host["zone"] == zone:
        return
    other = zone_giver(writer, host["id"], other_than=aggregate_id)
    if other is not None:
        raise Conflict(
            f"Host {host['name']} is in zone {other['zone']} by aggregate {other['name']}, so it "
            f"cannot get zone {zone} by aggregate {name}. Nothing was changed.",
            hint=f"stackctl aggregate-remove-host {other['name']} {host['name']}",
        )
    _refuse_servers(writer, host, zone)
    writer.update("hosts", host["id"], zone=zone)


def _refuse_servers(reader: Reader, host: Row, zone: str) -> None:
    """Servers know their zone, and guests do: a host that has some stays in it."""
    servers = reader.column(
        "SELECT name FROM servers WHERE host_id = ? AND deleted_at IS NULL ORDER BY name",
        host["id"],
    )
    if servers:
        raise Conflict(
            f"Host {host['name']} cannot go from zone {host['zone']} to {zone}: one or more hosts "
            f"contain instances in this zone: {some(servers)}. Nothing was changed."
        )


def _refuse_taken(reader: Reader, name: str) -> None:
    if reader.one("SELECT id FROM aggregates WHERE name = ? AND deleted_at IS NULL", name):
        raise Conflict(f"Aggregate {name} already exists.")


def _check(metadata: Mapping[str, str], zone: str | None) -> None:
    if zone is not None:
        checks.host_name(zone)
    if len(metadata) > MOST_METADATA:
        raise UsageError(f"An aggregate has at most {MOST_METADATA} items of metadata.")
    for key, value in metadata.items():
        if not _KEY.fullmatch(key) or len(value) > 255:
            raise UsageError(f"'{key[:80]}={value[:80]}' cannot be metadata of an aggregate.")
        refuse_control_characters(f"metadata {key}", value)


def _takes_servers(host: Row) -> bool:
    return bool(host["enabled"]) and not host["fenced"]
