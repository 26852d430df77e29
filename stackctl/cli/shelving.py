"""shelve, shelve-offload, unshelve: servers that take no host's room for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import changes, command
from stackctl.cli.several import each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context


@command("shelve")
@changes
@click.option(
    "--offload/--keep", default=True, help="Free its host at once (the default), or not yet."
)
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def shelve(context: Context, offload: bool, servers: tuple[str, ...]) -> None:
    """Switch servers off, keep their root disks as images NAME-shelved, and free their hosts.

    They keep their addresses. Ephemeral disks and swap are empty after unshelve.
    """
    from stackctl.compute.moves import shelving

    each_of(
        context,
        servers,
        lambda asker, name: shelving.shelve(asker, name, keep=not offload),
        "Shelved",
    )


@command("shelve-offload")
@changes
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def shelve_offload(context: Context, servers: tuple[str, ...]) -> None:
    """Free the hosts of servers that were shelved with --keep."""
    from stackctl.compute.moves import shelving

    each_of(context, servers, shelving.offload, "Offloaded")


@command("unshelve")
@changes
@click.option("--host", type=words.HOST, help="Only on this host.")
@click.option("--availability-zone", "--zone", "zone", help="Only on hosts of this zone.")
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def unshelve(
    context: Context, host: str | None, zone: str | None, servers: tuple[str, ...]
) -> None:
    """Start shelved servers again, on whatever host has room; their images go."""
    from stackctl.compute.moves import shelving
    from stackctl.compute.moves.rehousing import Wish

    wish = Wish(host, zone)
    each_of(context, servers, lambda asker, name: shelving.unshelve(asker, name, wish), "Unshelved")
