"""Rules of security groups: create, list, show and delete them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from agent.spec import SecurityRule
from stackctl.errors import Conflict
from stackctl.identity import quota
from stackctl.identity.context import Context
from stackctl.network.finding import own_group, own_rule
from stackctl.network.groups import checked_description, ensure_default, rules_changed
from stackctl.network.rule_checks import NewRule, checked_rule
from stackctl.network.types import GroupRule, rule_from
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Writer, new_id, now, read

_TOLD_BY = (
    "direction",
    "ethertype",
    "protocol",
    "port_min",
    "port_max",
    "remote_cidr",
    "remote_group_id",
)


def create_rule(context: Context, group: str, wanted: NewRule) -> Done[GroupRule]:
    """Allow what ``wanted`` says to the ports of a group; their hosts are brought up to date.

    UsageError: it makes no sense. Conflict: there is such a rule. QuotaExceeded.
    """
    rule = checked_rule(wanted)
    description = checked_description(wanted.description)

    def work(writer: Writer) -> GroupRule:
        owner = own_group(context, writer, group)
        remote = wanted.remote_group
        remote_id = None if remote is None else own_group(context, writer, remote)["id"]
        complete = replace(rule, id=new_id(), remote_group_id=remote_id)
        quota.require(writer, context.project_id, "security_group_rules", 1)
        _insert(writer, owner["project_id"], owner["id"], complete, description)
        rules_changed(writer, owner["id"])
        return rule_from(writer, writer.get("security_group_rules", complete.id))

    arguments = asdict(wanted)
    return change_one(context, "create", "security group rule", group, arguments, work, rule_from)


def list_rules(context: Context, *, group: str | None = None) -> list[GroupRule]:
    """The project's rules, those of one group together, the oldest first."""
    ensure_default(context)
    with read(context.cloud) as reader:
        where, parameters = "project_id = ?", [context.project_id]
        if group is not None:
            where += " AND group_id = ?"
            parameters.append(own_group(context, reader, group)["id"])
        rows = reader.all(
            "SELECT * FROM security_group_rules WHERE deleted_at IS NULL AND "
            f"{where} ORDER BY (SELECT security_groups.rowid FROM security_groups"
            " WHERE security_groups.id = group_id), rowid",
            *parameters,
        )
        return [rule_from(reader, row) for row in rows]


def show_rule(context: Context, word: str) -> GroupRule:
    """One rule by its id, or the beginning of it."""
    with read(context.cloud) as reader:
        return rule_from(reader, own_rule(context, reader, word))


def delete_rule(context: Context, word: str) -> Done[GroupRule]:
    """Delete a rule; what only it allowed is cut at once, connections that stand included."""

    def work(writer: Writer) -> GroupRule:
        row = own_rule(context, writer, word)
        value = rule_from(writer, row)
        writer.update("security_group_rules", row["id"], deleted_at=now())
        rules_changed(writer, row["group_id"])
        return value

    return change_one(context, "delete", "security group rule", word, {}, work, rule_from)


def _insert(
    writer: Writer, project_id: str, group_id: str, rule: SecurityRule, description: str
) -> None:
    same = _same_rule(writer, group_id, rule)
    if same is not None:
        raise Conflict(
            f"Security group rule already exists. Rule id is {same}.",
            hint=f"stackctl security-group-rule-show {same}",
        )
    row: dict[str, Any] = {"project_id": project_id, "group_id": group_id, **asdict(rule)}
    writer.insert("security_group_rules", row | {"description": description, "created_at": now()})


def _same_rule(reader: Reader, group_id: str, rule: SecurityRule) -> str | None:
    where = " AND ".join(f"{name} IS ?" for name in _TOLD_BY)
    held = reader.value(
        "SELECT id FROM security_group_rules"
        f" WHERE group_id = ? AND deleted_at IS NULL AND {where}",
        group_id,
        *(getattr(rule, name) for name in _TOLD_BY),
    )
    return None if held is None else str(held)
