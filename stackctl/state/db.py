"""The only place that opens transactions: ``read`` for a snapshot, ``write`` for a change.

WAL, ``synchronous=FULL``, foreign keys on. A write is ``BEGIN IMMEDIATE``: whoever cannot have
the lock within LOCK_TIMEOUT_S is told who holds it. Network traffic, downloads and hashing never
happen inside a transaction.
"""

from __future__ import annotations

import getpass
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackctl import killpoint
from stackctl.errors import Conflict, StateCorrupt, StateLocked, UsageError
from stackctl.state.clock import new_nonce, now
from stackctl.state.cloud import Cloud
from stackctl.state.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION

LOCK_TIMEOUT_S = float(os.environ.get("STACKCTL_LOCK_TIMEOUT_S", "30"))
_MOUNTS = Path("/proc/self/mounts")
_NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"}

_FILE_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)
"""What the file or the machine is to blame for, not our statement."""

Row = dict[str, Any]


@dataclass
class Change:
    """What a transaction touched, by id: from it follows which hosts must hear of it.

    ``underlays``: hosts whose tunnel address is another now. ``routers``: other interfaces, or
    anything else of a router. ``security_groups``: other rules; ``members``: groups that have
    other members or addresses of members, in ``networks``. ``volumes``: those themselves, to
    which server they belong, or snapshots of them. ``left``: hosts that no longer care for some.
    ``volume_types``: those that every host hears of. ``altered``: networks that are themselves
    others now, or whose subnets are; in ``networks`` only what is on them changed.
    """

    hosts: set[str] = field(default_factory=set)
    underlays: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    ports: set[str] = field(default_factory=set)
    servers: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)
    security_groups: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    volumes: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    volume_types: set[str] = field(default_factory=set)


class Reader:
    """Questions to one consistent snapshot."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.rows_read = 0

    def all(self, sql: str, *parameters: Any) -> list[Row]:
        """All rows of a query, as dicts."""
        rows = [dict(row) for row in self._connection.execute(sql, parameters)]
        self.rows_read += len(rows)
        return rows

    def one(self, sql: str, *parameters: Any) -> Row | None:
        """The first row of a query, or None."""
        rows = self.all(sql, *parameters)
        return rows[0] if rows else None

    def value(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.one(sql, *parameters)
        return None if row is None else next(iter(row.values()))

    def column(self, sql: str, *parameters: Any) -> list[Any]:
        """The first column of all rows."""
        return [next(iter(row.values())) for row in self.all(sql, *parameters)]

    def get(self, table: str, id_: str) -> Row:
        """The row with this id, deleted or not; it must exist."""
        row = self.one(f"SELECT * FROM {table} WHERE id = ?", id_)
        if row is None:
            raise StateCorrupt(f"The database has no {table} row {id_}, though others name it.")
        return row


class Writer(Reader):
    """One write transaction with its own ``serial`` and ``nonce``; ``change``: what it touched."""

    def __init__(self, connection: sqlite3.Connection, serial: int, nonce: str) -> None:
        super().__init__(connection)
        self.serial = serial
        self.nonce = nonce
        self.change = Change()

    def insert(self, table: str, row: Mapping[str, Any]) -> Row:
        """Insert a row; values that are lists or dicts must be JSON already."""
        columns = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        self.run(f"INSERT INTO {table} ({columns}) VALUES ({marks})", *row.values())
        return dict(row)

    def insert_if_free(self, table: str, row: Mapping[str, Any], unique: str) -> bool:
        """Insert a row unless a live one stands in its way; says whether it did.

        ``unique`` names the index that decides: "(mac) WHERE deleted_at IS NULL".
        """
        columns = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        statement = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
        return self.run(f"{statement} ON CONFLICT {unique} DO NOTHING", *row.values()) == 1

    def update(self, table: str, id_: str, **values: Any) -> None:
        """Set columns of the row with this id."""
        columns = ", ".join(f"{name} = ?" for name in values)
        self.run(f"UPDATE {table} SET {columns} WHERE id = ?", *values.values(), id_)

    def upsert(self, table: str, row: Mapping[str, Any], pk: str | tuple[str, ...]) -> None:
        """Insert a row or replace the values of the one with the same key."""
        # Imported here: it costs every command 0.05 s, and few come this way.
        from sqlite_utils import Database

        Database(self._connection, execute_plugins=False).table(table).upsert(dict(row), pk=pk)

    def run(self, sql: str, *parameters: Any) -> int:
        """Run a statement; returns the number of rows it changed."""
        return self._connection.execute(sql, parameters).rowcount


def create(
    cloud: Cloud, first_rows: Callable[[Writer], None], first_files: Callable[[], None]
) -> None:
    """Make the folder (0700) and the database (0600) of a cloud.

    ``first_rows(writer)`` fills the new database inside its first transaction. ``first_files()``
    makes what else belongs to the cloud: the database appears last, so it is never without.
    """
    if cloud.database.exists():
        raise Conflict(f"The cloud '{cloud.name}' exists already in {cloud.folder}.")
    try:
        cloud.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {cloud.folder} cannot be made: {error.strerror}.") from None
    cloud.folder.chmod(0o700)
    _refuse_network_filesystem(cloud.folder)
    fresh = cloud.folder / f".state.{os.getpid()}.db"
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            _prepare(connection)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _migrate(connection, first_rows)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        first_files()
        # link, not rename: of two who create the same cloud, one is told.
        os.link(fresh, cloud.database)
    except FileExistsError:
        raise Conflict(f"The cloud '{cloud.name}' exists already in {cloud.folder}.") from None
    finally:
        for leftover in cloud.folder.glob(f"{fresh.name}*"):
            leftover.unlink()


@contextmanager
def read(cloud: Cloud) -> Iterator[Reader]:
    """A consistent snapshot of the cloud."""
    with closing(_open(cloud)) as connection, _explained(cloud):
        connection.execute("BEGIN")
        yield Reader(connection)


@contextmanager
def write(cloud: Cloud, *, dry_run: bool = False) -> Iterator[Writer]:
    """One write transaction: committed when the block ends well, else as if never begun.

    With ``dry_run`` it is always rolled back.
    """
    with closing(_open(cloud)) as connection, _explained(cloud):
        _begin(connection, cloud)
        serial = connection.execute("SELECT serial FROM cloud").fetchone()[0] + 1
        nonce = new_nonce()
        connection.execute("UPDATE cloud SET serial = ?, nonce = ?", (serial, nonce))
        writer = Writer(connection, serial, nonce)
        try:
            yield writer
            if dry_run:
                connection.execute("ROLLBACK")
                return
            killpoint.reached("before-commit")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        killpoint.reached("after-commit")


def _open(cloud: Cloud) -> sqlite3.Connection:
    with _explained(cloud):
        connection = sqlite3.connect(
            f"{cloud.database.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=LOCK_TIMEOUT_S,
            check_same_thread=False,
        )
        try:
            _check_ours(connection, cloud.database)
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def _explained(cloud: Cloud) -> Iterator[None]:
    """Trouble with the file itself, in words; a wrong statement stays the bug that it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # The primary code of an extended one is in its lowest byte.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _FILE_TROUBLE:
            raise
        raise _explain(error, cloud) from None


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StateCorrupt(f"{path} is not the database of a cloud (other application id).")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StateCorrupt(
            f"{path} was written by a newer stackctl (schema {version}; this one knows "
            f"{SCHEMA_VERSION}). Nothing was read or changed.",
            hint="use the stackctl that wrote it, or a newer one",
        )
    if version < SCHEMA_VERSION:
        _migrate(connection, None)


def _migrate(connection: sqlite3.Connection, first_rows: Callable[[Writer], None] | None) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StateCorrupt("A newer stackctl changed the database meanwhile. Nothing was changed.")
    for script in MIGRATIONS[version:]:
        for statement in split_statements(script):
            connection.execute(statement)
    # PRAGMA user_version is part of the transaction: old or new, never between.
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if first_rows is not None:
        first_rows(Writer(connection, 1, new_nonce()))
    connection.execute("COMMIT")


def split_statements(script: str) -> list[str]:
    """The statements of a script, one by one (executescript would commit in between)."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def _begin(connection: sqlite3.Connection, cloud: Cloud) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Only a help for whoever waits too long; not being able to write it is no reason to stop.
    with suppress(OSError, KeyError):
        command = " ".join(sys.argv[:3])
        note = {"pid": os.getpid(), "user": getpass.getuser(), "command": command, "since": now()}
        (cloud.folder / "writer.json").write_text(json.dumps(note), encoding="utf-8")


def _explain(error: sqlite3.DatabaseError, cloud: Cloud) -> Exception:
    words, code = str(error), getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StateLocked(
            f"Another command has been writing to cloud '{cloud.name}' for more than "
            f"{LOCK_TIMEOUT_S:g} s{_holder(cloud)}. Nothing was changed.",
            hint="try again; if that process hangs, end it: what it did is kept",
        )
    if code == sqlite3.SQLITE_FULL:
        return StateCorrupt(
            f"No space left for {cloud.database}: {words}. Nothing was changed.",
            hint=f"df -h {cloud.folder}",
        )
    return StateCorrupt(
        f"{cloud.database} cannot be used: {words}. Nothing was changed.",
        hint=f"sqlite3 {cloud.database} 'PRAGMA integrity_check'",
    )


def _holder(cloud: Cloud) -> str:
    try:
        note = json.loads((cloud.folder / "writer.json").read_text(encoding="utf-8"))
        return f": pid {note['pid']}, user {note['user']}, '{note['command']}', {note['since']}"
    except (OSError, ValueError, KeyError):
        return ""


def _refuse_network_filesystem(folder: Path) -> None:
    """SQLite's WAL needs shared memory between processes: local file systems only."""
    best, kind = "", ""
    for line in _MOUNTS.read_text(encoding="utf-8").splitlines():
        _, where, filesystem, *_ = line.split()
        inside = where == "/" or str(folder.resolve()).startswith(where.rstrip("/") + "/")
        if inside and len(where) > len(best):
            best, kind = where, filesystem
    if kind in _NETWORK_FILESYSTEMS:
        raise StateCorrupt(
            f"{folder} is on a network file system ({kind}); the database needs a local one."
        )
