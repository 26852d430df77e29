"""server-group-create, -list, -show, -delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import at_most, each_of
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.compute.server_groups import ServerGroup
    from stackctl.identity.context import Context


def _members(group: ServerGroup) -> dict[str, str]:
    return {member.name: member.host for member in group.members}


def _members_text(members: dict[str, str]) -> str:
    return "\n".join(f"{name} on {host or 'no host'}" for name, host in members.items())


LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Policy", "policy"),
    Column("Rules", "rules"),
    Column("Members", lambda group: len(group.members)),
    Column("Project", "project_id", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Policy", "policy"),
    Column("Rules", "rules"),
    Column("Members", _members, text=_members_text),
    Column("Member IDs", lambda group: [item.id for item in group.members], text="\n".join),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)

POLICIES = ("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity")

USAGE = "NAME --policy POLICY, or nova's NAME POLICY"


@command("server-group-create")
@changes
@shows(SHOW)
@click.argument("given", nargs=-1, required=True, metavar="NAME")
@click.option("--policy", type=click.Choice(POLICIES), help="What its servers have in common.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    type=words.Pair(),
    metavar="max_server_per_host=N",
    help="With anti-affinity: so many of its servers on a host (default: 1).",
)
def server_group_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    policy: str | None,
    rules: tuple[tuple[str, str], ...],
) -> None:
    """Create a server group; boot --hint group=NAME puts servers into it.

    Servers of a group are on one host (affinity) or on different ones (anti-affinity); with the
    soft policies only where that can be.
    """
    from stackctl.compute.server_groups import NewServerGroup, create_server_group

    at_most(given, 1 if policy else 2, USAGE)
    policy = policy or (given[1] if len(given) > 1 else None)
    if policy is None:
        raise click.UsageError(f"Give {USAGE}.")
    wanted = NewServerGroup(given[0], policy, _most_per_host(rules))
    done = create_server_group(context, wanted)
    output.show(done.value)
    finish(context, done)


def _most_per_host(rules: tuple[tuple[str, str], ...]) -> int | None:
    most = None
    for key, value in rules:
        if key != "max_server_per_host" or not value.isdecimal():
            raise UsageError(f"The only rule is max_server_per_host=N, not {key}={value}.")
        most = int(value)
    return most


@command("server-group-list")
@lists(LIST)
def server_group_list(context: Context, output: Output) -> None:
    """List the project's server groups."""
    from stackctl.compute.server_groups import list_server_groups

    output.list(list_server_groups(context))


@command("server-group-show")
@shows(SHOW)
@click.argument("group", type=words.SERVER_GROUP)
def server_group_show(context: Context, output: Output, group: str) -> None:
    """Show a server group and where its servers are."""
    from stackctl.compute.server_groups import show_server_group

    output.show(show_server_group(context, group))


@command("server-group-delete")
@changes
@click.argument("groups", nargs=-1, required=True, type=words.SERVER_GROUP)
def server_group_delete(context: Context, groups: tuple[str, ...]) -> None:
    """Delete server groups; their servers stay, and are bound by them no longer."""
    from stackctl.compute.server_groups import delete_server_group

    each_of(context, groups, delete_server_group, "Deleted server group")
