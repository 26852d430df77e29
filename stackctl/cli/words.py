"""What people type after a command: names, local files, sizes, key=value pairs.

Names complete in the shell from the cloud's database, quickly, and silently when anything is
wrong with it.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
from click.shell_completion import CompletionItem

from stackctl.errors import ResourceFailed

_MOST_NAMES = 500
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


class Name(click.ParamType[str]):
    """The name or id of something that exists, completed from a table of the database."""

    def __init__(self, table: str, name: str, *, column: str = "name") -> None:
        self.table = table
        self.name = name
        self.column = column

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names in the table that begin so."""
        try:
            names = _names(ctx, self.table, self.column, incomplete)
        except Exception:
            # Whatever is wrong with the database, the next command says it; a prompt must not.
            return []
        return [CompletionItem(name) for name in names]


SERVER = Name("servers", "server")
CLUSTER = Name("clusters", "cluster")
NETWORK = Name("networks", "network")
SUBNET = Name("subnets", "subnet")
PORT = Name("ports", "port")
SECURITY_GROUP = Name("security_groups", "security group")
TRUNK = Name("trunks", "trunk")
ROUTER = Name("routers", "router")
FLOATING_IP = Name("floating_ips", "floating IP", column="address")
IMAGE = Name("images", "image")
FLAVOR = Name("flavors", "flavor")
KEYPAIR = Name("keypairs", "key pair")
HOST = Name("hosts", "host")
SERVER_GROUP = Name("server_groups", "server group")
AGGREGATE = Name("aggregates", "aggregate")
VOLUME = Name("volumes", "volume")
VOLUME_TYPE = Name("volume_types", "volume type")
SNAPSHOT = Name("volume_snapshots", "volume snapshot")


class LocalFile(click.ParamType[BinaryIO]):
    """A file of the person who types: an open binary stream, closed when the command ends.

    ``-`` is standard input.
    """

    name = "file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BinaryIO:
        """Open the file, or say why it cannot be."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        if value == "-":
            return sys.stdin.buffer
        try:
            stream = Path(value).expanduser().open("rb")
        except OSError as error:
            self.fail(f"'{value}' cannot be read: {error.strerror}.", param, ctx)
        if ctx is not None:
            ctx.call_on_close(stream.close)
        return stream

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The shell's own completion of files."""
        return [CompletionItem(incomplete, type="file")]


RESULT_FILE = click.File("w", encoding="utf-8", lazy=True, atomic=True)
"""A file that a result goes to: there once it is whole, in place of what was there before. ``-``
is standard output."""


@dataclass(frozen=True)
class Target:
    """A local file that is to be written; None is standard output."""

    path: Path | None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A stream whose content becomes the file when the block ends well, and is gone if not."""
        if self.path is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        part = self.path.with_name(f".{self.path.name}.part-{secrets.token_hex(4)}")
        try:
            with part.open("xb") as stream:
                yield stream
            part.replace(self.path)
        except OSError as error:
            raise ResourceFailed(f"{self.path} cannot be written: {error.strerror}.") from None
        finally:
            part.unlink(missing_ok=True)


class NewFile(click.ParamType[Target]):
    """A file of the person who types, to be written. ``-`` is standard output."""

    name = "file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Target:
        """Whether it can be written is seen when it is."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        return Target(None if value == "-" else Path(value).expanduser())

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The shell's own completion of files."""
        return [CompletionItem(incomplete, type="file")]


class Pair(click.ParamType[tuple[str, str]]):
    """KEY=VALUE, as a tuple; for options with ``multiple=True`` that become a dict."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first equals sign."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        key, sign, rest = value.partition("=")
        if not sign or not key:
            self.fail(f"'{value}' is not KEY=VALUE.", param, ctx)
        return key, rest


class Fields(click.ParamType[dict[str, str]]):
    """KEY=VALUE,KEY=VALUE with known keys, as a dict: ``Fields("net", "port", "fixed-ip")``.

    The value of ``list_key`` may hold commas: it goes on until the next known key.
    """

    def __init__(self, *keys: str, list_key: str = "") -> None:
        self.keys = keys
        self.list_key = list_key
        self.name = ",".join(f"{key}=..." for key in keys)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        """Split at commas; each key once, and none that is not known."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        found: dict[str, str] = {}
        last = ""
        for part in value.split(","):
            key, sign, rest = part.partition("=")
            if last == self.list_key != "" and not (sign and key in self.keys):
                found[last] += f",{part}"
                continue
            if not sign or not rest or key not in self.keys or key in found:
                known = ", ".join(self.keys)
                self.fail(
                    f"'{part}' is not KEY=VALUE with one of the keys {known} (each once), "
                    f"as in {self.keys[0]}=...",
                    param,
                    ctx,
                )
            found[key] = rest
            last = key
        return found


class Ports(click.ParamType[tuple[int, int]]):
    """A port (22) or a range of them (80:90), as the first and the last."""

    name = "port[:port]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Split at the colon."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", value, re.ASCII)
        if match is None:
            self.fail(f"'{value}' is not a port (22) or a range of ports (80:90).", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class Size(click.ParamType[int]):
    """An amount such as 512M or 4G, as a whole number of ``unit`` (without a letter: that)."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.name = f"size in {unit}iB"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn it into the unit; refuse what is not a whole number of it."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15})(?:([KMGT])(?:i?B)?)?", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"'{value}' is not a size such as 512M or 4G.", param, ctx)
        letter = (match[2] or self.unit).upper()
        amount = int(match[1]) << 10 * _POWERS[letter]
        whole, rest = divmod(amount, 1 << 10 * _POWERS[self.unit])
        if rest:
            self.fail(f"'{value}' is not a whole number of {self.unit}iB.", param, ctx)
        return whole


def read_all(stream: BinaryIO, limit_bytes: int, what: str) -> bytes:
    """The whole content of a small local file; UsageError when it is larger than the limit."""
    content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise click.UsageError(f"The {what} is larger than {limit_bytes} bytes.")
    return content


def _names(ctx: click.Context, table: str, column: str, incomplete: str) -> list[str]:
    from stackctl.cli.frame import settings
    from stackctl.state import existing_cloud, read

    sql = (
        f"SELECT DISTINCT {column} FROM {table} WHERE deleted_at IS NULL AND {column} <> '' "
        f"AND substr({column}, 1, ?) = ? ORDER BY {column} LIMIT ?"
    )
    with read(existing_cloud(settings(ctx).cloud_name)) as reader:
        return [str(name) for name in reader.column(sql, len(incomplete), incomplete, _MOST_NAMES)]
