"""Security groups: create, list, show, change and delete them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stackctl.errors import Conflict, UsageError
from stackctl.identity import quota
from stackctl.identity.context import Context, named, own_rows
from stackctl.names import checked_name, refuse_control_characters, some
from stackctl.network.finding import own_group
from stackctl.network.membership import DEFAULT, default_group, insert_group
from stackctl.network.types import SecurityGroup, group_from
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, now, read, write

DESCRIPTION_MAX = 255


@dataclass(frozen=True)
class NewGroup:
    """What is asked for."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class GroupChange:
    """What shall be different; None leaves it as it is."""

    name: str | None = None
    description: str | None = None


def create_group(context: Context, wanted: NewGroup) -> Done[SecurityGroup]:
    """Make a group: everything may leave, nothing may come in until rules say so.

    Conflict: the name is taken, or reserved. QuotaExceeded: the project has its share.
    """
    name = checked_name("security group", wanted.name)
    _refuse_default(name)
    description = checked_description(wanted.description)

    def work(writer: Writer) -> SecurityGroup:
        # First the default group, which counts, too.
        default_group(writer, context.project_id)
        quota.require(writer, context.project_id, "security_groups", 1)
        group_id = insert_group(writer, context.project_id, name, description)
        return group_from(writer, writer.get("security_groups", group_id))

    return change_one(context, "create", "security group", name, asdict(wanted), work, group_from)


def list_groups(context: Context) -> list[SecurityGroup]:
    """The project's groups, the oldest first."""
    ensure_default(context)
    with read(context.cloud) as reader:
        return [group_from(reader, row) for row in own_rows(context, reader, "security_groups")]


def show_group(context: Context, word: str) -> SecurityGroup:
    """One group by name or id, with its rules."""
    ensure_default(context)
    with read(context.cloud) as reader:
        return group_from(reader, own_group(context, reader, word))


def set_group(context: Context, word: str, change: GroupChange) -> Done[SecurityGroup]:
    """Change a group's name or description."""
    values = {key: value for key, value in asdict(change).items() if value is not None}
    if not values:
        raise UsageError("Nothing to change was given.", hint="stackctl security-group-set --help")
    if change.name is not None:
        checked_name("security group", change.name)
    if change.description is not None:
        checked_description(change.description)

    def work(writer: Writer) -> SecurityGroup:
        group = own_group(context, writer, word)
        if change.name is not None and change.name != group["name"]:
            if group["name"] == DEFAULT:
                raise Conflict("Updating default security group not allowed: it keeps its name.")
            _refuse_default(change.name)
            _refuse_taken(writer, context.project_id, change.name)
        writer.update("security_groups", group["id"], **values)
        return group_from(writer, writer.get("security_groups", group["id"]))

    return change_one(context, "set", "security group", word, values, work, group_from)


def delete_group(context: Context, word: str) -> Done[SecurityGroup]:
    """Delete a group that no port is in, with its rules and those of other groups that name it.

    The rules that name it go as they do in Neutron: what they admitted does not exist any more.
    """

    def work(writer: Writer) -> SecurityGroup:
        group = own_group(context, writer, word)
        if group["name"] == DEFAULT:
            raise Conflict(
                "Insufficient rights for removing default security group: every project has one."
            )
        _refuse_in_use(writer, group)
        value = group_from(writer, group)
        _drop_group(writer, group["id"])
        return value

    return change_one(context, "delete", "security group", word, {}, work, group_from)


def ensure_default(context: Context) -> None:
    """Make the project's default group if nobody has needed it yet."""
    with read(context.cloud) as reader:
        if named(reader, "security_groups", context.project_id, DEFAULT) is not None:
            return
    with write(context.cloud) as writer:
        default_group(writer, context.project_id)


def checked_description(text: str) -> str:
    """A description of one line; UsageError when it is not one."""
    refuse_control_characters("description", text)
    if len(text) > DESCRIPTION_MAX:
        raise UsageError(f"A description has at most {DESCRIPTION_MAX} characters.")
    return text


def _refuse_default(name: str) -> None:
    if name.lower() == DEFAULT:
        raise Conflict(
            "Default security group already exists: the name is reserved for it.",
            hint="stackctl security-group-show default",
        )


def _refuse_taken(reader: Reader, project_id: str, name: str) -> None:
    if named(reader, "security_groups", project_id, name) is not None:
        raise Conflict(f"There is already a security group called {name}. Nothing was changed.")


def _refuse_in_use(reader: Reader, group: Row) -> None:
    ports = reader.all(
        "SELECT ports.id, ports.name, ports.hostname FROM port_security_groups"
        " JOIN ports ON ports.id = port_security_groups.port_id AND ports.deleted_at IS NULL"
        " WHERE group_id = ? ORDER BY ports.rowid",
        group["id"],
    )
    if ports:
        names = some([port["name"] or port["hostname"] or port["id"] for port in ports])
        raise Conflict(
            f"Security Group {group['name']} in use. These ports are in it: {names}.",
            hint=f"stackctl port-list --security-group {group['id']}",
        )


def _drop_group(writer: Writer, group_id: str) -> None:
    naming = writer.column(
        "SELECT DISTINCT group_id FROM security_group_rules"
        " WHERE remote_group_id = ? AND group_id <> ? AND deleted_at IS NULL",
        group_id,
        group_id,
    )
    writer.run(
        "UPDATE security_group_rules SET deleted_at = ?"
        " WHERE (group_id = ? OR remote_group_id = ?) AND deleted_at IS NULL",
        now(),
        group_id,
        group_id,
    )
    for other in naming:
        rules_changed(writer, other)
    writer.update("security_groups", group_id, deleted_at=now())


def rules_changed(writer: Writer, group_id: str) -> None:
    """Note that a group has other rules: hosts that carry ports in it must hear of it."""
    writer.run("UPDATE security_groups SET version = version + 1 WHERE id = ?", group_id)
    writer.change.security_groups.add(group_id)
