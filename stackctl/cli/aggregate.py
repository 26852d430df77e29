"""aggregate-create, -list, -show, -set, -unset, -delete, -add-host ...; availability-zone-list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled, at_most, each_of

if TYPE_CHECKING:
    from stackctl.hosts.aggregates import Aggregate, AggregateChange
    from stackctl.identity.context import Context
    from stackctl.operation.outcome import Done

LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Availability Zone", "zone"),
    Column("Hosts", "hosts", extra=True),
    Column("Properties", "metadata", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Availability Zone", "zone"),
    Column("Properties", "metadata"),
    Column("Hosts", "hosts"),
    Column("Created", "created_at"),
)

ZONES = (
    Column("Zone Name", "name"),
    Column("Zone Status", lambda zone: "available" if zone.available else "not available"),
    Column("Hosts", "hosts"),
)

_ZONE = click.option(
    "--zone",
    "--availability-zone",
    "zone",
    cls=Spelled,
    older=("--availability-zone",),
    metavar="ZONE",
    help="The zone of its hosts; with aggregate-set, '' takes it away.",
)
_PROPERTY = click.option(
    "--property", "properties", multiple=True, type=words.Pair(), help="Metadata; repeatable."
)


@command("aggregate-create")
@changes
@shows(SHOW)
@click.argument("given", nargs=-1, required=True, metavar="NAME")
@_ZONE
@_PROPERTY
def aggregate_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    zone: str | None,
    properties: tuple[tuple[str, str], ...],
) -> None:
    """Create an aggregate: a named set of hosts with properties that filters read.

    Example: stackctl aggregate-create fast --property ssd=true
    """
    from stackctl.hosts.aggregates import NewAggregate, create_aggregate

    at_most(given, 1 if zone else 2, "NAME [--zone ZONE], or nova's NAME ZONE")
    zone = zone or (given[1] if len(given) > 1 else None)
    done = create_aggregate(context, NewAggregate(given[0], zone, dict(properties)))
    output.show(done.value)
    finish(context, done)


@command("aggregate-list")
@lists(LIST)
def aggregate_list(context: Context, output: Output) -> None:
    """List aggregates."""
    from stackctl.hosts.aggregates import list_aggregates

    output.list(list_aggregates(context))


@command("aggregate-show")
@shows(SHOW)
@click.argument("aggregate", type=words.AGGREGATE)
def aggregate_show(context: Context, output: Output, aggregate: str) -> None:
    """Show an aggregate with its hosts and properties."""
    from stackctl.hosts.aggregates import show_aggregate

    output.show(show_aggregate(context, aggregate))


@command("aggregate-set")
@changes
@shows(SHOW)
@click.argument("aggregate", type=words.AGGREGATE)
@click.option("--name", help="Its new name.")
@_ZONE
@_PROPERTY
@click.option("--no-property", is_flag=True, help="Remove all properties that are not given.")
def aggregate_set(
    context: Context,
    output: Output,
    aggregate: str,
    name: str | None,
    zone: str | None,
    properties: tuple[tuple[str, str], ...],
    no_property: bool,
) -> None:
    """Change an aggregate's name, zone or properties. A new zone is that of its hosts."""
    from stackctl.hosts.aggregates import AggregateChange

    change = AggregateChange(name, zone, dict(properties), no_property)
    _set(context, output, aggregate, change)


@command("aggregate-set-metadata")
@changes
@shows(SHOW)
@click.argument("aggregate", type=words.AGGREGATE)
@click.argument("metadata", nargs=-1, required=True, metavar="KEY=VALUE")
def aggregate_set_metadata(
    context: Context, output: Output, aggregate: str, metadata: tuple[str, ...]
) -> None:
    """Set properties of an aggregate; KEY alone removes one. availability_zone is its zone."""
    from stackctl.hosts.aggregates import AggregateChange

    pairs = (word.partition("=") for word in metadata)
    values = {key: value if sign else None for key, sign, value in pairs}
    _set(context, output, aggregate, AggregateChange(metadata=values))


@command("aggregate-unset")
@changes
@shows(SHOW)
@click.argument("aggregate", type=words.AGGREGATE)
@click.option(
    "--property",
    "keys",
    multiple=True,
    required=True,
    metavar="KEY",
    help="The property to remove; repeatable.",
)
def aggregate_unset(
    context: Context, output: Output, aggregate: str, keys: tuple[str, ...]
) -> None:
    """Remove properties of an aggregate."""
    from stackctl.hosts.aggregates import AggregateChange

    _set(context, output, aggregate, AggregateChange(metadata=dict.fromkeys(keys)))


def _set(context: Context, output: Output, aggregate: str, change: AggregateChange) -> None:
    from stackctl.hosts.aggregates import set_aggregate

    _show(context, output, set_aggregate(context, aggregate, change))


def _show(context: Context, output: Output, done: Done[Aggregate]) -> None:
    output.show(done.value)
    finish(context, done)


@command("aggregate-delete")
@changes
@click.argument("aggregates", nargs=-1, required=True, type=words.AGGREGATE)
def aggregate_delete(context: Context, aggregates: tuple[str, ...]) -> None:
    """Delete aggregates that have no hosts."""
    from stackctl.hosts.aggregates import delete_aggregate

    each_of(context, aggregates, delete_aggregate, "Deleted aggregate")


@command("aggregate-add-host")
@changes
@shows(SHOW)
@click.argument("aggregate", type=words.AGGREGATE)
@click.argument("host", type=words.HOST)
def aggregate_add_host(context: Context, output: Output, aggregate: str, host: str) -> None:
    """Put a host into an aggregate; it gets the aggregate's zone."""
    from stackctl.hosts.aggregates import add_host

    _show(context, output, add_host(context, aggregate, host))


@command("aggregate-remove-host")
@changes
@shows(SHOW)
@click.argument("aggregate", type=words.AGGREGATE)
@click.argument("host", type=words.HOST)
def aggregate_remove_host(context: Context, output: Output, aggregate: str, host: str) -> None:
    """Take a host out of an aggregate; the aggregate's zone goes with it."""
    from stackctl.hosts.aggregates import remove_host

    _show(context, output, remove_host(context, aggregate, host))


@command("availability-zone-list")
@lists(ZONES)
@click.option("--compute", is_flag=True, hidden=True, help="All zones here are of hosts.")
def availability_zone_list(context: Context, output: Output, compute: bool) -> None:
    """List availability zones; boot --zone chooses one."""
    from stackctl.hosts.aggregates import list_zones

    output.list(list_zones(context))
