"""security-group-*, security-group-rule-*; for servers: add-secgroup, remove-, list-secgroup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled, each_of
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.network.service import GroupRule, NewRule, SecurityGroup


def _rules(group: SecurityGroup) -> list[str]:
    return [rule.words for rule in group.rules]


LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Description", "description"),
    Column("Rules", _rules, text="\n".join, extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Description", "description"),
    Column("Rules", _rules, text="\n".join),
    Column("Rule IDs", lambda group: [rule.id for rule in group.rules], text="\n".join),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)


def _protocol(rule: GroupRule) -> str:
    from stackctl.network.rule_words import protocol_name

    return protocol_name(rule.rule.protocol)


def _range(rule: GroupRule) -> str:
    from stackctl.network.rule_words import range_in_words

    return range_in_words(rule.rule)


RULES = (
    Column("ID", "id"),
    Column("IP Protocol", _protocol),
    Column("Ethertype", lambda rule: rule.rule.ethertype),
    Column("IP Range", lambda rule: rule.rule.remote_cidr),
    Column("Port Range", _range),
    Column("Direction", lambda rule: rule.rule.direction),
    Column("Remote Security Group", "remote_group_name"),
    Column("Security Group", "group_name"),
    Column("Rule", "words", extra=True),
    Column("Description", "description", extra=True),
    Column("Remote Security Group ID", lambda rule: rule.rule.remote_group_id, extra=True),
    Column("Security Group ID", "group_id", extra=True),
    Column("Project", "project_id", extra=True),
)

RULE = (*(Column(column.title, column.value) for column in RULES), Column("Created", "created_at"))


@command("security-group-create")
@changes
@shows(SHOW)
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
def security_group_create(context: Context, output: Output, name: str, description: str) -> None:
    """Create a security group: everything may leave, nothing may come in until a rule says so.

    Example: stackctl security-group-create web --description 'Web servers'
    """
    from stackctl.network.service import NewGroup, create_group

    done = create_group(context, NewGroup(name, description))
    output.show(done.value)
    finish(context, done)


@command("security-group-list")
@lists(LIST)
def security_group_list(context: Context, output: Output) -> None:
    """List the project's security groups."""
    from stackctl.network.service import list_groups

    output.list(list_groups(context))


@command("security-group-show")
@shows(SHOW)
@click.argument("group", type=words.SECURITY_GROUP)
def security_group_show(context: Context, output: Output, group: str) -> None:
    """Show a security group with its rules in words."""
    from stackctl.network.service import show_group

    output.show(show_group(context, group))


@command("security-group-set")
@changes
@shows(SHOW)
@click.argument("group", type=words.SECURITY_GROUP)
@click.option("--name", help="Another name.")
@click.option("--description", help="Another description.")
def security_group_set(
    context: Context, output: Output, group: str, name: str | None, description: str | None
) -> None:
    """Change a security group."""
    from stackctl.network.service import GroupChange, set_group

    done = set_group(context, group, GroupChange(name, description))
    output.show(done.value)
    finish(context, done)


@command("security-group-delete")
@changes
@click.argument("groups", nargs=-1, required=True, type=words.SECURITY_GROUP)
def security_group_delete(context: Context, groups: tuple[str, ...]) -> None:
    """Delete security groups; refused while ports are in them.

    Rules of other groups that name them as the remote group are deleted, too.
    """
    from stackctl.network.service import delete_group

    each_of(context, groups, delete_group, "Deleted security group")


# Nova's -1 is a number, not an option.
@command("security-group-rule-create", context_settings={"ignore_unknown_options": True})
@changes
@shows(RULE)
@click.argument(
    "given",
    nargs=-1,
    required=True,
    metavar="GROUP [PROTOCOL FROM TO CIDR]",
    type=words.SECURITY_GROUP,
)
@click.option("--ingress", is_flag=True, help="What may come to the ports (the default).")
@click.option("--egress", is_flag=True, help="What may leave them.")
@click.option("--ethertype", help="IPv4 or IPv6 (default: as the prefix and protocol say; IPv4).")
@click.option(
    "--direction",
    type=click.Choice(["ingress", "egress"]),
    hidden=True,
    help="Neutron's --ingress or --egress.",
)
@click.option(
    "--protocol",
    "--proto",
    cls=Spelled,
    older=("--proto",),
    help="tcp, udp, icmp, icmpv6, ah, sctp ..., a number, or any.",
)
@click.option("--dst-port", "ports", type=words.Ports(), help="A port, or a range: 80:90.")
@click.option("--port-range-min", "lowest", type=int, hidden=True, help="Neutron's --dst-port.")
@click.option("--port-range-max", "highest", type=int, hidden=True, help="Neutron's --dst-port.")
@click.option("--icmp-type", type=int, help="Type of ICMP: 8 is the echo request of ping.")
@click.option("--icmp-code", type=int, help="Code of ICMP.")
@click.option(
    "--remote-ip",
    "--src-ip",
    "--remote-ip-prefix",
    "remote_cidr",
    cls=Spelled,
    older=("--src-ip", "--remote-ip-prefix"),
    metavar="CIDR",
    help="Only from (or to) these addresses (default: all).",
)
@click.option(
    "--remote-group",
    "--src-group",
    "--remote-group-id",
    "remote_group",
    cls=Spelled,
    older=("--src-group", "--remote-group-id"),
    type=words.SECURITY_GROUP,
    help="Only from (or to) ports in this group.",
)
@click.option("--description", default="", help="What it is for.")
def security_group_rule_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    ingress: bool,
    egress: bool,
    ethertype: str | None,
    direction: str | None,
    protocol: str | None,
    ports: tuple[int, int] | None,
    lowest: int | None,
    highest: int | None,
    icmp_type: int | None,
    icmp_code: int | None,
    remote_cidr: str | None,
    remote_group: str | None,
    description: str,
) -> None:
    """Allow something to the ports of a security group; all else stays forbidden.

    Replies are always let through. As in Nova: GROUP tcp 22 22 0.0.0.0/0.

    Example: stackctl security-group-rule-create web --protocol tcp --dst-port 80
    """
    from stackctl.network.service import NewRule, create_rule

    if (ingress, egress, direction is not None).count(True) > 1:
        raise UsageError("Either --ingress or --egress.")
    if lowest is not None or highest is not None:
        ports = _as_in_neutron(ports, lowest, highest)
    rule = NewRule(
        direction=direction or ("egress" if egress else "ingress"),
        ethertype=ethertype,
        protocol=protocol,
        ports=ports,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        remote_cidr=remote_cidr,
        remote_group=remote_group,
        description=description,
    )
    group, *rest = given
    for word in given:
        if word.startswith("-") and word != "-1":
            raise click.UsageError(f"No such option '{word}'.")
    done = create_rule(context, group, _as_in_nova(rule, rest) if rest else rule)
    output.show(done.value)
    finish(context, done)


def _as_in_neutron(
    ports: tuple[int, int] | None, lowest: int | None, highest: int | None
) -> tuple[int, int]:
    """--port-range-min and --port-range-max as a range."""
    if ports is not None or lowest is None or highest is None:
        raise UsageError("Give --dst-port, or both of --port-range-min and --port-range-max.")
    return lowest, highest


def _as_in_nova(rule: NewRule, given: list[str]) -> NewRule:
    """PROTOCOL FROM TO CIDR as a rule; FROM and TO are type and code of icmp, -1 is any."""
    from dataclasses import replace

    asked = (rule.protocol, rule.ports, rule.icmp_type, rule.icmp_code, rule.remote_cidr)
    numbers = given[1:3]
    if len(given) != 4 or any(item is not None for item in asked) or rule.remote_group:
        raise click.UsageError("Give GROUP with options, or GROUP PROTOCOL FROM TO CIDR alone.")
    if not all(text.removeprefix("-").isdecimal() for text in numbers):
        raise click.UsageError(
            f"'{' '.join(numbers)}' are not two ports, or an ICMP type and code."
        )
    first, last = (None if int(text) == -1 else int(text) for text in numbers)
    rule = replace(rule, protocol=given[0], remote_cidr=given[3])
    if given[0].lower() in ("icmp", "icmpv6"):
        return replace(rule, icmp_type=first, icmp_code=last)
    return rule if first is None or last is None else replace(rule, ports=(first, last))


@command("security-group-rule-list")
@lists(RULES)
@click.argument("group", required=False, type=words.SECURITY_GROUP)
def security_group_rule_list(context: Context, output: Output, group: str | None) -> None:
    """List the rules of a security group, or of all."""
    from stackctl.network.service import list_rules

    output.list(list_rules(context, group=group))


@command("security-group-rule-show")
@shows(RULE)
@click.argument("rule")
def security_group_rule_show(context: Context, output: Output, rule: str) -> None:
    """Show a rule; RULE is its id or the beginning of it."""
    from stackctl.network.service import show_rule

    output.show(show_rule(context, rule))


@command("security-group-rule-delete")
@changes
@click.argument("rules", nargs=-1, required=True)
def security_group_rule_delete(context: Context, rules: tuple[str, ...]) -> None:
    """Delete rules by id; connections that only they allowed are cut at once."""
    from stackctl.network.service import delete_rule

    each_of(context, rules, delete_rule, "Deleted security group rule")


GROUPS = tuple(column for column in LIST if column.title != "Project")


@command("add-secgroup")
@changes
@click.argument("server", type=words.SERVER)
@click.argument("group", type=words.SECURITY_GROUP)
def add_secgroup(context: Context, server: str, group: str) -> None:
    """Put all ports of a server into a security group, beside those that they are in."""
    from stackctl.compute.secgroups import add_group

    finish(context, add_group(context, server, group))


@command("remove-secgroup")
@changes
@click.argument("server", type=words.SERVER)
@click.argument("group", type=words.SECURITY_GROUP)
def remove_secgroup(context: Context, server: str, group: str) -> None:
    """Take all ports of a server out of a security group."""
    from stackctl.compute.secgroups import remove_group

    finish(context, remove_group(context, server, group))


@command("list-secgroup")
@lists(GROUPS)
@click.argument("server", type=words.SERVER)
def list_secgroup(context: Context, output: Output, server: str) -> None:
    """List the security groups that any port of a server is in."""
    from stackctl.compute.secgroups import list_groups_of

    output.list(list_groups_of(context, server))
