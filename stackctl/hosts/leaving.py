"""Taking a host out of the cloud, fencing one that does not answer, and taking it back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from stackctl.errors import Conflict, HostUnreachable, StackctlError
from stackctl.fleet import keys, target_of
from stackctl.hosts.types import Host
from stackctl.hosts.views import read_host
from stackctl.identity.bootstrap import public_key
from stackctl.identity.context import Context
from stackctl.names import some
from stackctl.operation import Done, run
from stackctl.operation import volume_keepers as keeping
from stackctl.operation.convergence import acting_session
from stackctl.operation.events import note
from stackctl.state import Reader, Row, Writer, find, now, read, write

PURGE_TIMEOUT_S = 300.0


def delete_host(context: Context, word: str, *, off_for_good: bool = False) -> Done[Host]:
    """Take a host out of the cloud and everything of ours off the host.

    Refused while servers are on it or data waits there to be deleted. ``off_for_good``: the
    operator's word that a host which does not answer is off and stays off; then only its row
    goes, and what is on its disks is given up.
    """
    row = _close(context, word, off_for_good)
    if not context.dry_run:
        _clean(context, row, off_for_good)

    def work(writer: Writer) -> Host:
        _require_empty(writer, row, off_for_good)
        before = read_host(writer, row["id"])
        _forget(writer, row)
        how = "given up without an answer" if off_for_good else "removed"
        _note(context, writer, row, "host-delete", how)
        return before

    arguments = {"host": row["id"], "off_for_good": off_for_good}
    return run(context, "host-delete", f"delete host {row['name']}", arguments, work)


def _close(context: Context, word: str, off_for_good: bool) -> Row:
    """From here on nothing new is placed on the host."""
    with write(context.cloud, dry_run=context.dry_run) as writer:
        row = find(writer, "hosts", word, noun="host")
        keeping.leave(writer, row["id"])
        _require_empty(writer, row, off_for_good)
        writer.update("hosts", row["id"], enabled=0, disabled_reason="leaves the cloud")
    return row


def _require_empty(reader: Reader, row: Row, off_for_good: bool) -> None:
    servers = reader.column(
        "SELECT name FROM servers WHERE host_id = ? AND deleted_at IS NULL ORDER BY name",
        row["id"],
    )
    _refuse(servers, "servers are on", row, "delete them first: stackctl delete NAME")
    _refuse_routers(reader, row)
    _refuse_volumes(reader, row)
    _refuse_moves(reader, row)
    waiting = reader.value(
        "SELECT count(*) FROM tombstones WHERE host_id = ? AND acknowledged_at IS NULL", row["id"]
    )
    if waiting and not off_for_good:
        raise Conflict(
            f"{waiting} deleted disks, volumes or domains still wait on host {row['name']} to be "
            "removed. Nothing was changed.",
            hint=f"stackctl converge {row['name']}",
        )


def _refuse(names: Sequence[str], what: str, host: Row, hint: str) -> None:
    """Conflict while any are there; ``what`` they are and how they hold the host; {} in the hint
    is the first of them."""
    if names:
        raise Conflict(
            f"{len(names)} {what} host {host['name']}: {some(names)}. Nothing was changed.",
            hint=hint.format(names[0]),
        )


def _refuse_routers(reader: Reader, row: Row) -> None:
    routers = reader.column(
        "SELECT name FROM routers WHERE host_id = ? AND deleted_at IS NULL ORDER BY name", row["id"]
    )
    _refuse(routers, "routers are on", row, "move them first: stackctl router-move {}")


def _refuse_moves(reader: Reader, row: Row) -> None:
    """What a server left behind on this host goes when its move is confirmed."""
    moved = reader.column(
        "SELECT servers.name FROM migrations JOIN servers ON servers.id = migrations.server_id "
        "WHERE migrations.claim_host_id = ? AND servers.deleted_at IS NULL ORDER BY servers.name",
        row["id"],
    )
    what = "servers that move, or were moved, have disks or room on"
    _refuse(moved, what, row, "stackctl resize-confirm {}   (or resize-revert)")


def _refuse_volumes(reader: Reader, row: Row) -> None:
    volumes = reader.column(
        "SELECT name FROM volumes WHERE host_id = ? AND deleted_at IS NULL UNION ALL "
        "SELECT name FROM volume_snapshots WHERE host_id = ? AND deleted_at IS NULL ORDER BY name",
        row["id"],
        row["id"],
    )
    hint = "delete them first: stackctl volume-delete, stackctl volume-snapshot-delete"
    _refuse(volumes, "volumes or snapshots are on", row, hint)


def _clean(context: Context, row: Row, off_for_good: bool) -> None:
    try:
        with acting_session(context, row) as session:
            session.act("purge", {"host_id": row["id"]}, PURGE_TIMEOUT_S)
    except HostUnreachable as error:
        if off_for_good:
            return
        _open_again(context, row)
        raise HostUnreachable(
            f"{error.message} The host stays in the cloud.",
            hint=f"if it is gone for good: stackctl host-delete {row['name']} --force",
        ) from None
    except StackctlError as error:
        if not _never_claimed(row, error):
            _open_again(context, row)
            raise
    if row["transport"] == "ssh":
        with suppress(StackctlError):
            keys.remove(target_of(row, context.cloud), public_key(context.cloud))


def _never_claimed(row: Row, error: StackctlError) -> bool:
    """A host that was never converged holds nothing of ours."""
    return row["applied_serial"] == 0 and isinstance(error, Conflict)


def _open_again(context: Context, row: Row) -> None:
    with write(context.cloud) as writer:
        was = {name: row[name] for name in ("enabled", "disabled_reason")}
        writer.update("hosts", row["id"], **was)


def _forget(writer: Writer, row: Row) -> None:
    networks = "SELECT network_id FROM host_networks WHERE host_id = ?"
    writer.change.networks |= set(writer.column(networks, row["id"]))
    writer.run("DELETE FROM host_networks WHERE host_id = ?", row["id"])
    writer.run("DELETE FROM bindings WHERE host_id = ?", row["id"])
    writer.run("DELETE FROM aggregate_hosts WHERE host_id = ?", row["id"])
    writer.run("DELETE FROM volume_type_hosts WHERE host_id = ?", row["id"])
    writer.run(
        "UPDATE tombstones SET acknowledged_at = ? WHERE host_id = ? AND acknowledged_at IS NULL",
        now(),
        row["id"],
    )
    writer.run("UPDATE routers SET host_asked = NULL WHERE host_asked = ?", row["id"])
    writer.update("hosts", row["id"], deleted_at=now(), enabled=0)


def fence_host(context: Context, word: str) -> Host:
    """Take the operator's word that a host is off, so that others may act for it.

    Conflict when it answers. It gets no servers until ``return_host``.
    """
    with read(context.cloud) as reader:
        row = find(reader, "hosts", word, noun="host")
    try:
        with acting_session(context, row):
            pass
    except HostUnreachable:
        pass
    else:
        raise Conflict(
            f"Host {row['name']} answers: it is not off. Nothing was changed.",
            hint=f"stackctl host-set {row['name']} --disable   (no new servers go there)",
        )
    with write(context.cloud, dry_run=context.dry_run) as writer:
        writer.update("hosts", row["id"], fenced=1)
        keeping.leave(writer, row["id"])
        _note(context, writer, row, "host-fence", f"{context.operator} says that it is off")
        return read_host(writer, row["id"])


def return_host(context: Context, word: str) -> Done[Host]:
    """Take a fenced host back: it is brought up to date, then it may get servers again."""
    with read(context.cloud) as reader:
        row = find(reader, "hosts", word, noun="host")
    with acting_session(context, row):
        pass  # it answers; what it must be follows

    def work(writer: Writer) -> Host:
        writer.update("hosts", row["id"], fenced=0)
        writer.change.hosts.add(row["id"])
        _note(context, writer, row, "host-return", "back")
        return read_host(writer, row["id"])

    return run(context, "host-return", f"take back {row['name']}", {"host": row["id"]}, work)


def _note(context: Context, writer: Writer, row: Row, action: str, message: str) -> None:
    note(writer, action, "host", row, message, host=row["name"], user_name=context.operator)
