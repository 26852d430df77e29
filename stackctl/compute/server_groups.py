"""Server groups: servers that belong on one host, or on different ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stackctl.errors import Conflict, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context, find_own, own_rows
from stackctl.names import checked_name
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, new_id, now, read

POLICIES = ("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity")
MOST_PER_HOST = 1000


@dataclass(frozen=True)
class NewServerGroup:
    """What is asked for. ``max_per_host`` (anti-affinity only): how many may share a host."""

    name: str
    policy: str
    max_per_host: int | None = None


@dataclass(frozen=True)
class Member:
    """A server of a group, and where it is."""

    id: str
    name: str
    host: str


@dataclass(frozen=True)
class ServerGroup:
    """A group; its members are the servers booted into it that still live."""

    id: str
    project_id: str
    name: str
    policy: str
    max_per_host: int
    members: tuple[Member, ...]
    created_at: str

    @property
    def rules(self) -> dict[str, int]:
        """The policy's rules, by Nova's names."""
        return {"max_server_per_host": self.max_per_host} if self.policy == "anti-affinity" else {}


def create_server_group(context: Context, wanted: NewServerGroup) -> Done[ServerGroup]:
    """Make a group. Its policy never changes; Conflict when another one has its name."""
    checked_name("server group", wanted.name)
    _check(wanted)

    def work(writer: Writer) -> ServerGroup:
        quota.require(writer, context.project_id, "server_groups", 1)
        row: Row = {"id": new_id(), "project_id": context.project_id, "name": wanted.name}
        row |= {"policy": wanted.policy, "max_per_host": wanted.max_per_host or 1}
        row |= {"created_at": now()}
        free = writer.insert_if_free(
            "server_groups", row, "(project_id, name) WHERE deleted_at IS NULL"
        )
        if not free:
            raise Conflict(f"There is already a server group '{wanted.name}'. Nothing was made.")
        return server_group_from(writer, writer.get("server_groups", row["id"]))

    arguments = asdict(wanted)
    return change_one(
        context, "create", "server group", wanted.name, arguments, work, server_group_from
    )


def list_server_groups(context: Context) -> list[ServerGroup]:
    """The project's groups, the oldest first."""
    with read(context.cloud) as reader:
        rows = own_rows(context, reader, "server_groups", "created_at, name")
        return [server_group_from(reader, row) for row in rows]


def show_server_group(context: Context, word: str) -> ServerGroup:
    """One group by name or id, with its members."""
    with read(context.cloud) as reader:
        return server_group_from(reader, _own(context, reader, word))


def delete_server_group(context: Context, word: str) -> Done[ServerGroup]:
    """Delete a group. Its servers stay where they are, and are bound by it no longer."""

    def work(writer: Writer) -> ServerGroup:
        row = _own(context, writer, word)
        before = server_group_from(writer, row)
        writer.update("server_groups", row["id"], deleted_at=now())
        return before

    return change_one(context, "delete", "server group", word, {}, work, server_group_from)


def server_group_from(reader: Reader, row: Row) -> ServerGroup:
    """The value of a ``server_groups`` row."""
    members = reader.all(
        "SELECT servers.id, servers.name, ifnull(hosts.name, '') AS host FROM servers "
        "LEFT JOIN hosts ON hosts.id = servers.host_id "
        "WHERE servers.group_id = ? AND servers.deleted_at IS NULL ORDER BY servers.name",
        row["id"],
    )
    return ServerGroup(
        id=row["id"],
        project_id=row["project_id"],
        name=row["name"],
        policy=row["policy"],
        max_per_host=row["max_per_host"],
        members=tuple(Member(**member) for member in members),
        created_at=row["created_at"],
    )


def _own(context: Context, reader: Reader, word: str) -> Row:
    return find_own(context, reader, "server_groups", word, noun="server group")


def _check(wanted: NewServerGroup) -> None:
    if wanted.policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise UsageError(f"'{wanted.policy}' is no policy of server groups; there are {known}.")
    if wanted.max_per_host is None:
        return
    if wanted.policy != "anti-affinity":
        raise UsageError("Only the anti-affinity policy supports rules.")
    if not 1 <= wanted.max_per_host <= MOST_PER_HOST:
        raise UsageError(
            f"max_server_per_host={wanted.max_per_host}: between 1 and {MOST_PER_HOST}."
        )
