"""Adding a host: its key pinned, the cloud's key on it, its capacity learned, then its row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stackctl.errors import Conflict, StackctlError, UsageError
from stackctl.fleet import Hello, Opening, Target, keys, open_session, target_of
from stackctl.fleet.pins import fingerprint, parse_host_key, pin_line
from stackctl.hosts import checks
from stackctl.hosts.facts import NOT_PREPARED, capacity, declared_values, missing_engines
from stackctl.hosts.types import Host, HostKey, NewHost
from stackctl.hosts.views import read_host
from stackctl.identity.bootstrap import public_key
from stackctl.identity.context import Context
from stackctl.operation import Done, run
from stackctl.operation.events import note
from stackctl.state import Reader, Row, Writer, new_id, now, read


def scan_host_key(address: str, port: int = 22, timeout_s: float = 10) -> HostKey:
    """The key that a host shows now; whether it is the right one is for a person to say."""
    from stackctl.fleet.ssh import fetch_host_key

    key_type, encoded, shown = fetch_host_key(address, port, timeout_s)
    return HostKey(f"{key_type} {encoded}", shown)


def known_key(line: str) -> HostKey:
    """A key line that somebody gives; UsageError if it is none."""
    _, blob = parse_host_key(line)
    return HostKey(pin_line(line), fingerprint(blob))


def add_host(context: Context, new: NewHost) -> Done[Host]:
    """Add a host and bring it to what an empty host of this cloud is.

    A host that lacks engines is added disabled; preparing it enables it. When anything fails
    before its row is written, nothing of it stays, not even the cloud's key on the host.
    """
    host_id = new_id()
    with read(context.cloud) as reader:
        row = _checked_row(reader, host_id, new)
    target = target_of(row, context.cloud)
    with _key_on(target, context, new):
        hello = ask(context, target)
        missing = missing_engines(hello.facts)
        row |= _learned(hello, new, missing)

        def work(writer: Writer) -> Host:
            _require_free(writer, row)
            _check_network(writer, row, new, hello.facts)
            writer.insert("hosts", row)
            _note_added(context, writer, row, missing)
            # A rehearsal has no row that a convergence could find.
            if not missing and not context.dry_run:
                writer.change.hosts.add(host_id)
            return read_host(writer, host_id)

        arguments = {"name": new.name, "address": new.address, "port": new.port}
        done = run(context, "host-add", f"add host {new.name}", arguments, work)
    if missing:
        context.watch.warn(
            f"Host {new.name} is added but disabled: {'; '.join(missing)}. "
            f"Next: stackctl host-prepare {new.name}"
        )
    if context.dry_run:
        return done
    with read(context.cloud) as reader:
        return done.with_value(read_host(reader, host_id))


def _checked_row(reader: Reader, host_id: str, new: NewHost) -> Row:
    """The columns that need no word from the host."""
    if new.transport not in ("ssh", "local"):
        raise UsageError(f"A host's transport is ssh or local, not '{new.transport}'.")
    is_local = new.transport == "local"
    if not is_local and not new.host_key:
        raise UsageError(f"The key of host {new.name} is not given.")
    row = {
        "id": host_id,
        "name": checks.host_name(new.name),
        "transport": new.transport,
        "address": "localhost" if is_local else new.address,
        "ssh_port": new.port,
        "ssh_user": new.user,
        "host_key": "" if is_local else pin_line(new.host_key),
        "zone": new.zone,
        "bridge_mappings_json": mappings_json(checks.mappings(new.bridge_mappings)),
        "cpu_ratio": checks.ratio("CPU", new.ratios.cpu),
        "ram_ratio": checks.ratio("RAM", new.ratios.ram),
        "disk_ratio": checks.ratio("disk", new.ratios.disk),
        "reserved_ram_mb": checks.amount("reserved RAM", new.ratios.reserved_ram_mb),
        "declared_json": json.dumps(declared_values(new.declared)),
        "created_at": now(),
    }
    _require_free(reader, row)
    return row


def mappings_json(mappings: Any) -> str:
    """Bridge mappings as the database keeps them."""
    return json.dumps([vars(mapping) for mapping in mappings])


def _require_free(reader: Reader, row: Row) -> None:
    live = "SELECT name FROM hosts WHERE deleted_at IS NULL AND id <> ?"
    if reader.one(f"{live} AND name = ?", row["id"], row["name"]):
        raise Conflict(f"There is already a host '{row['name']}'.", hint="stackctl host-list")
    if row["transport"] == "local":
        other = reader.value(f"{live} AND transport = 'local'", row["id"])
    else:
        other = reader.value(
            f"{live} AND transport = 'ssh' AND address = ? AND ssh_port = ?",
            row["id"],
            row["address"],
            row["ssh_port"],
        )
    if other is not None:
        raise Conflict(
            f"{row['address']} is host '{other}' already.", hint=f"stackctl host-show {other}"
        )


@contextmanager
def _key_on(target: Target, context: Context, new: NewHost) -> Iterator[None]:
    """The cloud's key on the host; taken away again if the block fails."""
    installed = False
    if target.transport == "ssh":
        context.watch.progress(f"logging in to {target.name}", 0, 0)
        installed = keys.install(target, public_key(context.cloud), new.first_login)
    try:
        yield
    except BaseException:
        if installed:
            with suppress(StackctlError):
                keys.remove(target, public_key(context.cloud))
        raise


def ask(context: Context, target: Target) -> Hello:
    """What the host says about itself; Conflict if it belongs to another cloud."""
    with read(context.cloud) as reader:
        cloud_id = reader.value("SELECT id FROM cloud")
    opening = Opening(cloud_id, "act", claim=True)
    session = open_session(target, opening, progress=context.watch.progress)
    session.close()
    return session.hello


def _learned(hello: Hello, new: NewHost, missing: list[str]) -> Row:
    for name, value in declared_values(new.declared).items():
        checks.amount(name, value)
    return {
        **capacity(hello.facts, new.declared),
        "facts_json": json.dumps(hello.facts),
        "boot_id": hello.boot_id,
        "seen_at": now(),
        "enabled": 0 if missing else 1,
        "disabled_reason": f"{NOT_PREPARED} {new.name}" if missing else "",
    }


def _check_network(writer: Writer, row: Row, new: NewHost, facts: dict[str, Any]) -> None:
    checks.nics_exist(new.bridge_mappings, facts)
    if new.tunnel_address:
        row["tunnel_address"] = checks.tunnel_address(writer, row["id"], new.tunnel_address, facts)


def _note_added(context: Context, writer: Writer, row: Row, missing: list[str]) -> None:
    message = f"{row['vcpus']} CPUs, {row['ram_mb']} MB, {row['disk_gb']} GB"
    note(
        writer,
        "host-add",
        "host",
        row,
        "; ".join([message, *missing]),
        host=row["name"],
        level="warning" if missing else "info",
        user_name=context.operator,
    )
