"""what-if drain, what-if fit: plans that nobody carries out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, command, lists, say
from stackctl.cli.render import Column
from stackctl.errors import NoCapacity
from stackctl.names import some

if TYPE_CHECKING:
    from stackctl.identity.context import Context

MOVES = (
    Column("ID", "id", extra=True),
    Column("Server", "name"),
    Column("State", "status"),
    Column("VCPUs", "vcpus"),
    Column("RAM MB", "ram_mb"),
    Column("Disk GB", "disk_gb"),
    Column("To", "to"),
    Column("Why not", "why"),
)

FITS = (
    Column("Host", "host"),
    Column("Servers", "count"),
    Column("Why no more", "why"),
)


@command("what-if-drain")
@lists(MOVES)
@click.argument("host", type=words.HOST)
def what_if_drain(context: Context, output: Output, host: str) -> None:
    """Say where the servers of a host would go. Nothing is touched, no host is asked.

    Ends with status 6 when some of them fit nowhere.
    """
    from stackctl.compute import what_if

    moves = what_if.drain(context, host)
    output.list(moves)
    stuck = [move.name for move in moves if not move.to]
    if stuck:
        raise NoCapacity(
            f"{len(stuck)} of {len(moves)} servers of host {host} fit nowhere else: "
            f"{some(stuck)}. Nothing was changed.",
            hint="stackctl host-list   (what each host has and has given)",
        )


@command("what-if-fit")
@lists(FITS)
@click.argument("flavor", type=words.FLAVOR)
@click.option("--count", type=int, help="Where so many would go (default: as many as fit).")
@click.option("--image", type=words.IMAGE, help="Of this image: its size and properties count.")
@click.option("--availability-zone", "--zone", "zone", help="Only on hosts of this zone.")
def what_if_fit(
    context: Context,
    output: Output,
    flavor: str,
    count: int | None,
    image: str | None,
    zone: str | None,
) -> None:
    """Say how many servers of a flavor fit, and where. Nothing is touched, no host is asked.

    Ends with status 6 when --count of them do not fit.
    """
    from stackctl.compute import what_if

    fits = what_if.fit(context, what_if.Wanted(flavor, count, image, zone))
    output.list(fits)
    total = sum(item.count for item in fits)
    if count is not None and total < count:
        raise NoCapacity(f"{total} of {count} servers of flavor {flavor} fit. Nothing was changed.")
    say(f"{total} servers of flavor {flavor} fit.")
