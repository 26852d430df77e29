"""converge, drift, recover, events: keeping hosts and database in agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, say
from stackctl.cli.render import Column
from stackctl.errors import HostUnreachable

if TYPE_CHECKING:
    from stackctl.identity.context import Context

HOSTS = (
    Column("Host", "name"),
    Column("Issued", "issued_serial"),
    Column("Applied", "applied_serial"),
    Column("Behind", lambda row: row["issued_serial"] > row["applied_serial"]),
    Column("Seen", "seen_at"),
)

STEPS = (
    Column("Host", "host"),
    Column("Kind", "kind"),
    Column("Name", "name"),
    Column("ID", "id", extra=True),
    Column("Would be", "result"),
    Column("Why", "why"),
)

RECOVERED = (
    Column("Operation", "id"),
    Column("Summary", "summary"),
    Column("Started", "started_at"),
    Column("Outcome", "outcome"),
    Column("Message", "message"),
)

EVENTS = (
    Column("Time", "at"),
    Column("Level", "level"),
    Column("User", "user_name"),
    Column("Action", "action"),
    Column("Kind", "kind"),
    Column("Name", "name"),
    Column("Host", "host"),
    Column("Seconds", "seconds"),
    Column("Message", "message"),
    Column("Resource", "resource_id", extra=True),
    Column("Operation", "operation_id", extra=True),
)


@command("converge")
@changes
@lists(HOSTS)
@click.option("--all", "everything", is_flag=True, help="All hosts, not only those behind.")
@click.argument("hosts", nargs=-1, type=words.HOST)
def converge(context: Context, output: Output, everything: bool, hosts: tuple[str, ...]) -> None:
    """Make hosts agree with the database: those named, or all that are behind.

    Servers whose time to be restored is over are deleted first.
    """
    from stackctl.compute.deleting import converge_hosts

    done = converge_hosts(context, hosts, everything=everything)
    output.list(done.value)
    if not done.value:
        say("No host is behind. What hosts differ in, drift shows; converge HOST heals it.")
    finish(context, done)


@command("drift")
@lists(STEPS)
@click.argument("hosts", nargs=-1, type=words.HOST)
def drift(context: Context, output: Output, hosts: tuple[str, ...]) -> None:
    """Show what on hosts differs from the database, without touching anything."""
    from stackctl.operation.keep import drift as look

    steps, errors = look(context, hosts)
    output.list(steps)
    if errors:
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else HostUnreachable
        words = " ".join(error.message for error in errors)
        hint = errors[0].hint or "stackctl host-list"
        raise kind(f"{words} What differs there is not known.", hint=hint)
    hosts_of = dict.fromkeys(step.host for step in steps if step.result != "orphan")
    if hosts_of:
        say(f"To heal it: stackctl converge {' '.join(hosts_of)}")
    if not steps:
        say("No drift: the hosts are what the database says.")


@command("recover")
@lists(RECOVERED)
@click.option("--adopt", is_flag=True, help="Accept hosts that are ahead of this database.")
@click.option("--host", type=words.HOST, help="With --adopt: only this host.")
def recover(context: Context, output: Output, adopt: bool, host: str | None) -> None:
    """Settle operations whose command was killed: what they began is finished or given up."""
    from stackctl import operation

    if adopt:
        names = operation.adopt(context, host)
        say(f"Adopted: {', '.join(names)}." if names else "No host is ahead of this database.")
    settled = operation.recover(context)
    output.list(settled)
    if not settled:
        say("Nothing was interrupted.")


@command("events")
@lists(EVENTS)
@click.option("--errors", is_flag=True, help="Only what went wrong.")
@click.option("--limit", default=50, show_default=True, help="How many, newest last.")
@click.argument("resource", required=False)
def events(
    context: Context, output: Output, errors: bool, limit: int, resource: str | None
) -> None:
    """Show who did what, where and how long it took; of one RESOURCE (name or id) or of all."""
    from stackctl.operation.keep import list_events

    found = list_events(context, resource=resource, errors_only=errors, limit=limit)
    output.list(found)
    if resource is not None and not found:
        say(f"Nothing is recorded of '{resource}'.")
