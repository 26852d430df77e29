"""flavor-create, -list, -show, -set, -unset, -key, -delete."""

from __future__ import annotations

from dataclasses import replace
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
    Column("Properties", "extra_specs", extra=True),
)

SHOW = tuple(replace(column, extra=False) for column in COLUMNS)

_SPECS = "An extra spec, which filters compare with hosts; repeatable."

USAGE = "NAME --ram SIZE [--disk SIZE] [--vcpus N], or nova's NAME ID RAM DISK VCPUS"


@command("flavor-create")
@changes
@shows(SHOW)
@click.argument("given", nargs=-1, required=True, metavar="NAME")
@click.option("--ram", type=words.Size("M"), help="Memory: 512M, 4G (without a letter: MB).")
@click.option("--disk", type=words.Size("G"), default="0", help="Root disk; 0: as the image.")
@click.option("--ephemeral", type=words.Size("G"), default="0", help="Second, empty disk.")
@click.option("--swap", type=words.Size("M"), default="0", help="Swap disk.")
@click.option("--vcpus", type=int, default=1, show_default=True, help="Virtual processors.")
@click.option("--property", "specs", multiple=True, type=words.Pair(), help=_SPECS)
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
    specs: tuple[tuple[str, str], ...],
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
    wanted = NewFlavor(given[0], vcpus, ram, disk, ephemeral, swap, dict(specs))
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
@shows(SHOW)
@click.argument("flavor", type=words.FLAVOR)
def flavor_show(context: Context, output: Output, flavor: str) -> None:
    """Show a flavor."""
    from stackctl.compute.flavors import show_flavor

    output.show(show_flavor(context, flavor))


@command("flavor-set")
@changes
@shows(SHOW)
@click.argument("flavor", type=words.FLAVOR)
@click.option("--property", "specs", multiple=True, type=words.Pair(), help=_SPECS)
def flavor_set(
    context: Context, output: Output, flavor: str, specs: tuple[tuple[str, str], ...]
) -> None:
    """Give a flavor extra specs: what hosts of its servers must be. Servers keep what they had.

    Example: stackctl flavor-set fast --property capabilities:virt_type=kvm
    """
    from stackctl.compute.flavors import set_specs

    done = set_specs(context, flavor, dict(specs))
    output.show(done.value)
    finish(context, done)


@command("flavor-unset")
@changes
@shows(SHOW)
@click.argument("flavor", type=words.FLAVOR)
@click.option(
    "--property", "keys", multiple=True, required=True, metavar="KEY", help="Which; repeatable."
)
def flavor_unset(context: Context, output: Output, flavor: str, keys: tuple[str, ...]) -> None:
    """Take extra specs from a flavor."""
    from stackctl.compute.flavors import set_specs

    done = set_specs(context, flavor, {}, keys)
    output.show(done.value)
    finish(context, done)


@command("flavor-key")
@changes
@shows(SHOW)
@click.argument("flavor", type=words.FLAVOR)
@click.argument("action", type=click.Choice(["set", "unset"]))
@click.argument("specs", nargs=-1, required=True, metavar="KEY=VALUE")
def flavor_key(
    context: Context, output: Output, flavor: str, action: str, specs: tuple[str, ...]
) -> None:
    """Give a flavor extra specs (set KEY=VALUE ...) or take them away (unset KEY ...)."""
    from stackctl.compute.flavors import set_specs

    if action == "unset":
        done = set_specs(context, flavor, {}, specs)
    else:
        pairs = dict(words.Pair().convert(word, None, None) for word in specs)
        done = set_specs(context, flavor, pairs)
    output.show(done.value)
    finish(context, done)


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
