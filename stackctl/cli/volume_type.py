"""volume-type-create, -list, -show, -delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import each_of
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context

LIST = (
    Column("ID", "id", extra=True),
    Column("Name", "name"),
    Column("Driver", "driver"),
    Column("Location", "location"),
    Column("Shared", "shared"),
    Column("Hosts", "hosts"),
    Column("Free GB", "free_gb"),
    Column("Description", "description", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Description", "description"),
    Column("Driver", "driver"),
    Column("Location", "location"),
    Column("Shared", "shared"),
    Column("Format", "format"),
    Column("Hosts", "hosts"),
    Column("Not on", "lacking"),
    Column("Free GB", "free_gb"),
    Column("Total GB", "total_gb"),
    Column("Created", "created_at"),
)


@command("volume-type-create")
@changes
@shows(SHOW)
@click.argument("name")
@click.option("--folder", metavar="PATH", help="A folder that is one shared file system on hosts.")
@click.option("--nfs", metavar="SERVER:/PATH", help="An NFS export; hosts need not mount it.")
@click.option("--pool", metavar="POOL", help="A storage pool that libvirt on hosts has.")
@click.option("--shared", is_flag=True, help="With --pool: it is the same on all hosts (Ceph RBD).")
@click.option(
    "--disk-format",
    type=click.Choice(["qcow2", "raw"]),
    help="Of the disks in it (default: qcow2, in a pool raw; pools of files need qcow2).",
)
@click.option("--host", type=words.HOST, help="Which host makes the cloud's place there.")
@click.option("--description", default="", help="What it is for.")
def volume_type_create(
    context: Context,
    output: Output,
    name: str,
    folder: str | None,
    nfs: str | None,
    pool: str | None,
    shared: bool,
    disk_format: str | None,
    host: str | None,
    description: str,
) -> None:
    """Name a place for volumes beside the hosts' own folders.

    Volumes in a shared place can be given to servers of all hosts that have it. Every host is
    asked at once whether it has it.

    Example: stackctl volume-type-create nas --nfs nas.example.com:/volumes
    """
    from stackctl.volume.backends import NewVolumeType, create_type

    asked = {"folder": folder, "nfs": nfs, "pool": pool}
    given = [(driver, where) for driver, where in asked.items() if where is not None]
    if len(given) != 1 or (shared and pool is None):
        raise UsageError("Give one of --folder, --nfs and --pool (--shared goes with --pool).")
    ((driver, location),) = given
    wanted = NewVolumeType(name, driver, location, shared, disk_format, host, description)
    done = create_type(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("volume-type-list")
@lists(LIST)
def volume_type_list(context: Context, output: Output) -> None:
    """List volume types; volume-create --type chooses one."""
    from stackctl.volume.backends import list_types

    output.list(list_types(context))


@command("volume-type-show")
@shows(SHOW)
@click.argument("volume_type", metavar="TYPE", type=words.VOLUME_TYPE)
def volume_type_show(context: Context, output: Output, volume_type: str) -> None:
    """Show a volume type: which hosts have it, and why others do not."""
    from stackctl.volume.backends import show_type

    output.show(show_type(context, volume_type))


@command("volume-type-delete")
@changes
@click.argument("types", nargs=-1, required=True, metavar="TYPE...", type=words.VOLUME_TYPE)
def volume_type_delete(context: Context, types: tuple[str, ...]) -> None:
    """Forget volume types that no volume has. The places themselves stay as they are."""
    from stackctl.volume.backends import delete_type

    each_of(context, types, delete_type, "Deleted volume type")
