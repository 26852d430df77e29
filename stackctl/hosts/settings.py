"""Changing a host: what it must be goes through an operation, the rest is only written down."""

from __future__ import annotations

import json
from typing import Any

from agent.spec import BridgeMapping
from stackctl.errors import Conflict, HostUnreachable, NotFound, StackctlError, UsageError
from stackctl.fleet import for_each, target_of
from stackctl.fleet.pins import pin_line
from stackctl.hosts import checks
from stackctl.hosts.aggregates import own_zone
from stackctl.hosts.facts import capacity, declared_values, missing_engines
from stackctl.hosts.joining import mappings_json
from stackctl.hosts.types import Declared, Host, HostChanges
from stackctl.hosts.views import mappings_of, read_host
from stackctl.identity.context import Context
from stackctl.operation import Done, run
from stackctl.operation.convergence import acting_session
from stackctl.operation.events import note
from stackctl.operation.exchange import mark_unreachable
from stackctl.state import Row, Writer, find, now, read, write

_SPEC_COLUMNS = frozenset(
    {"virt_type", "datapath", "on_boot", "tunnel_address", "bridge_mappings_json"}
)
"""What the host itself must hear of; its neighbours hear of its tunnel address by that."""

_REACH_COLUMNS = frozenset({"address", "ssh_port", "ssh_user", "host_key"})
"""A change of how the host is reached is tried out at once."""


def set_host(context: Context, word: str, changes: HostChanges) -> Done[Host]:
    """Change a host's settings; those that alter what it must be are carried out there."""

    def work(writer: Writer) -> Host:
        row = find(writer, "hosts", word, noun="host")
        values = _changed(row, _values(writer, row, changes))
        if values:
            writer.update("hosts", row["id"], **values)
            _note_changes(context, writer, row, values)
        if values.keys() & (_SPEC_COLUMNS | _REACH_COLUMNS):
            writer.change.hosts.add(row["id"])
        if "tunnel_address" in values:
            writer.change.underlays.add(row["id"])
        return read_host(writer, row["id"])

    arguments = {"host": word, "changes": repr(changes)}
    done = run(context, "host-set", f"change host {word}", arguments, work)
    return done if context.dry_run else done.with_value(_now(context, done.value.id))


def refresh_host(context: Context, word: str) -> Host:
    """Ask a host what it has now, and write that down."""
    with read(context.cloud) as reader:
        row = find(reader, "hosts", word, noun="host")
    _refresh(context, row)
    return _now(context, row["id"])


def refresh_hosts(context: Context) -> dict[str, StackctlError]:
    """Ask all hosts at once; errors by host name."""
    with read(context.cloud) as reader:
        rows = reader.all("SELECT * FROM hosts WHERE deleted_at IS NULL")
    by_id = {row["id"]: row for row in rows}
    targets = [target_of(row, context.cloud, peripheral=True) for row in rows]
    results = for_each(targets, lambda target: _refresh(context, by_id[target.host_id]))
    errors: dict[str, StackctlError] = {}
    for host_id, result in results.items():
        if isinstance(result, StackctlError):
            errors[by_id[host_id]["name"]] = result
        elif isinstance(result, Exception):
            raise result
    return errors


def _refresh(context: Context, row: Row) -> None:
    try:
        with acting_session(context, row) as session:
            hello = session.hello
    except HostUnreachable as error:
        mark_unreachable(context, row["id"], error.message)
        raise
    declared = Declared(**json.loads(row["declared_json"]))
    values = {
        **capacity(hello.facts, declared),
        "facts_json": json.dumps(hello.facts),
        "boot_id": hello.boot_id,
        "seen_at": now(),
        "unreachable_since": None,
        "unreachable_why": "",
    }
    with write(context.cloud) as writer:
        writer.update("hosts", row["id"], **values)


def _now(context: Context, host_id: str) -> Host:
    with read(context.cloud) as reader:
        return read_host(reader, host_id)


def _values(writer: Writer, row: Row, changes: HostChanges) -> Row:
    """The columns as they shall be, checked."""
    return {
        **_names(writer, row, changes),
        **_availability(row, changes),
        **_engines(changes),
        **_network(writer, row, changes),
        **_capacity(row, changes),
        **_reach(writer, row, changes),
    }


def _changed(row: Row, values: Row) -> Row:
    return {name: value for name, value in values.items() if row[name] != value}


def _names(writer: Writer, row: Row, changes: HostChanges) -> Row:
    values: Row = {}
    if changes.name is not None:
        values["name"] = checks.host_name(changes.name)
        taken = "SELECT id FROM hosts WHERE name = ? AND id <> ? AND deleted_at IS NULL"
        if writer.one(taken, changes.name, row["id"]):
            raise Conflict(f"There is already a host '{changes.name}'. Nothing was changed.")
    if changes.zone is not None:
        values["zone"] = own_zone(writer, row, checks.host_name(changes.zone))
    return values


def _availability(row: Row, changes: HostChanges) -> Row:
    if changes.enabled is None:
        return {}
    if changes.enabled and (missing := missing_engines(json.loads(row["facts_json"]))):
        raise Conflict(
            f"Host {row['name']} cannot carry servers: {'; '.join(missing)}. It stays disabled.",
            hint=f"stackctl host-prepare {row['name']}",
        )
    reason = "" if changes.enabled else changes.disabled_reason
    return {"enabled": int(changes.enabled), "disabled_reason": reason}


def _engines(changes: HostChanges) -> Row:
    chosen = {name: getattr(changes, name) for name in checks.CHOICES}
    return {name: checks.choice(name, value) for name, value in chosen.items() if value is not None}


def _network(writer: Writer, row: Row, changes: HostChanges) -> Row:
    facts: dict[str, Any] = json.loads(row["facts_json"])
    values: Row = {}
    if changes.tunnel_address is not None:
        values["tunnel_address"] = None
        if changes.tunnel_address:
            text = changes.tunnel_address
            values["tunnel_address"] = checks.tunnel_address(writer, row["id"], text, facts)
        else:
            _refuse_in_use(writer, row, "type IN ('vxlan', 'gre')", "its tunnel address")
    if changes.bridge_mappings or changes.removed_mappings:
        checks.nics_exist(changes.bridge_mappings, facts)
        values["bridge_mappings_json"] = mappings_json(_new_mappings(writer, row, changes))
    return values


def _new_mappings(writer: Writer, row: Row, changes: HostChanges) -> tuple[BridgeMapping, ...]:
    mappings = {mapping.physical_network: mapping for mapping in mappings_of(row)}
    for name in changes.removed_mappings:
        if mappings.pop(name, None) is None:
            raise NotFound(f"Host {row['name']} has no bridge mapping for '{name}'.")
        _refuse_in_use(writer, row, "physical_network = ?", f"its mapping of {name}", name)
    mappings |= {mapping.physical_network: mapping for mapping in changes.bridge_mappings}
    return checks.mappings(mappings.values())


def _refuse_in_use(writer: Writer, row: Row, where: str, what: str, *values: str) -> None:
    networks = writer.column(
        "SELECT DISTINCT networks.name FROM host_networks "
        "JOIN networks ON networks.id = host_networks.network_id "
        f"WHERE host_id = ? AND host_networks.released_serial IS NULL AND {where}",
        row["id"],
        *values,
    )
    if networks:
        raise Conflict(
            f"Host {row['name']} needs {what} for networks of servers on it: "
            f"{', '.join(sorted(networks))}. Nothing was changed."
        )


def _capacity(row: Row, changes: HostChanges) -> Row:
    values: Row = {}
    for name in ("cpu_ratio", "ram_ratio", "disk_ratio"):
        if (value := getattr(changes, name)) is not None:
            values[name] = checks.ratio(name.partition("_")[0], value)
    if changes.reserved_ram_mb is not None:
        values["reserved_ram_mb"] = checks.amount("reserved RAM", changes.reserved_ram_mb)
    asked = declared_values(changes.declared)
    if asked:
        kept = {**json.loads(row["declared_json"]), **asked}
        kept = {name: checks.amount(name, value) for name, value in kept.items() if value != 0}
        values["declared_json"] = json.dumps(kept)
        values |= capacity(json.loads(row["facts_json"]), Declared(**kept))
    return values


def _reach(writer: Writer, row: Row, changes: HostChanges) -> Row:
    asked = {"address": changes.address, "ssh_port": changes.port, "ssh_user": changes.user}
    values: Row = {name: value for name, value in asked.items() if value is not None}
    if changes.host_key is not None:
        values["host_key"] = pin_line(changes.host_key)
        if values["host_key"] != row["host_key"]:
            # Installed anew, it belongs to nobody: the next convergence claims it.
            values["applied_serial"] = 0
    if values and row["transport"] == "local":
        raise UsageError(f"Host {row['name']} is this machine; it is not reached by SSH.")
    taken = (
        "SELECT name FROM hosts WHERE transport = 'ssh' AND address = ? AND ssh_port = ? "
        "AND id <> ? AND deleted_at IS NULL"
    )
    where = (values.get("address", row["address"]), values.get("ssh_port", row["ssh_port"]))
    if values and (other := writer.value(taken, *where, row["id"])):
        raise Conflict(f"{where[0]}:{where[1]} is host '{other}' already. Nothing was changed.")
    return values


def _note_changes(context: Context, writer: Writer, row: Row, values: Row) -> None:
    shown = [f"{name} {row[name]!r} -> {value!r}" for name, value in values.items()]
    note(
        writer,
        "host-set",
        "host",
        row,
        ", ".join(shown),
        host=row["name"],
        user_name=context.operator,
    )
