"""flavor-create, -list, -show, -delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context

COLUMNS = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("RAM MB", "ram_mb"),
    Column("Disk GB", "disk_gb"),
    Column("Ephemeral GB", "ephemeral_gb"),
    Column("Swap MB", "swap_mb"),
    Column("VCPUs", "vcpus"),
)

USAGE = "NAME --ram SIZE [--disk SIZE] [--vcpus N], or nova's NAME ID RAM DISK VCPUS"


@command("flavor-create")
@changes
@shows(COLUMNS)
@click.argument("given", nargs=-1, required=True, metavar="NAME")
@click.option("--ram", type=words.Size("M"), help="Memory: 512M, 4G (without a letter: MB).")
@click.option("--disk", type=words.Size("G"), default="0", help="Root disk; 0: as the image.")
@click.option("--ephemeral", type=words.Size("G"), default="0", help="Second, empty disk.")
@click.option("--swap", type=words.Size("M"), default="0", help="Swap disk.")
@click.option("--vcpus", type=int, default=1, show_default=True, help="Virtual processors.")
@click.option("--id", "id_", hidden=True, help="Ignored: ids are made here.")
def flavor_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    ram: int | None,
    disk: int,
    ephemeral: int,
    swap: int,
    vcpus: int,
    id_: str | None,
) -> None:
    """Create a flavor.

    Example: stackctl flavor-create small --ram 2G --disk 20 --vcpus 2
    """
    from stackctl.compute.flavors import NewFlavor, create_flavor

    if len(given) == 5 and ram is None:
        ram, disk, vcpus = _nova_sizes(given[2:])
    elif len(given) != 1 or ram is None:
        raise click.UsageError(f"Give {USAGE}.")
    wanted = NewFlavor(given[0], vcpus, ram, disk, ephemeral, swap)
    done = create_flavor(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("flavor-list")
@lists(COLUMNS)
def flavor_list(context: Context, output: Output) -> None:
    """List flavors, smallest first."""
    from stackctl.compute.flavors import list_flavors

    output.list(list_flavors(context))


@command("flavor-show")
@shows(COLUMNS)
@click.argument("flavor", type=words.FLAVOR)
def flavor_show(context: Context, output: Output, flavor: str) -> None:
    """Show a flavor."""
    from stackctl.compute.flavors import show_flavor

    output.show(show_flavor(context, flavor))


@command("flavor-delete")
@changes
@click.argument("flavors", nargs=-1, required=True, type=words.FLAVOR)
def flavor_delete(context: Context, flavors: tuple[str, ...]) -> None:
    """Delete flavors; servers made with them are not affected."""
    from stackctl.compute.flavors import delete_flavor

    each_of(context, flavors, delete_flavor, "Deleted flavor")


def _nova_sizes(given: tuple[str, ...]) -> tuple[int, int, int]:
    try:
        ram, disk, vcpus = (int(number) for number in given)
    except ValueError:
        raise click.UsageError(f"RAM, DISK and VCPUS are whole numbers. Give {USAGE}.") from None
    return ram, disk, vcpus
