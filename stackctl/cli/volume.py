"""volume-create, -list, -show, -set, -extend, -retry, -delete, -attach, -detach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import (
    Output,
    changes,
    command,
    confirm,
    destroys,
    finish,
    lists,
    say,
    shows,
)
from stackctl.cli.render import Column
from stackctl.cli.several import each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.volume.types import Volume


def _attached(volume: Volume) -> str:
    return f"{volume.server_name} on {volume.device}" if volume.server_id else ""


LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Status", "status"),
    Column("Size", "size_gb"),
    Column("Attached to", _attached),
    Column("Type", "type"),
    Column("Host", "host"),
    Column("Bootable", "bootable", extra=True),
    Column("Created", "created_at", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Description", "description"),
    Column("Status", "status"),
    Column("Size GB", "size_gb"),
    Column("Type", "type"),
    Column("Shared", "shared"),
    Column("Host", "host"),
    Column("Cared for by", "keeper"),
    Column("Format", "format"),
    Column("Image", "image"),
    Column("Bootable", "bootable"),
    Column("Server", "server_name"),
    Column("Device", "device"),
    Column("Delete on Termination", "delete_on_termination"),
    Column("Fault", "fault"),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)


@command("volume-create")
@changes
@shows(SHOW)
@click.argument("name")
@click.option("--size", type=words.Size("G"), help="20, or 20G (a copy: as what it copies).")
@click.option("--image", type=words.IMAGE, help="Make it of an image.")
@click.option("--snapshot", type=words.SNAPSHOT, help="Make it of a snapshot.")
@click.option("--source", type=words.VOLUME, help="Make it of another volume, as that is now.")
@click.option("--type", "kind", type=words.VOLUME_TYPE, help="Where it is kept: volume-type-list.")
@click.option("--host", type=words.HOST, help="Where its file is (default: with its first server).")
@click.option("--description", default="", help="What it is for.")
def volume_create(
    context: Context,
    output: Output,
    name: str,
    size: int | None,
    image: str | None,
    snapshot: str | None,
    source: str | None,
    kind: str | None,
    host: str | None,
    description: str,
) -> None:
    """Create a volume: a disk that lives longer than a server.

    Its file is made on the host of the first server that it is attached to, or at once on --host;
    from then on servers of that host can have it. A copy is on the host of what it copies. One of
    a --type that hosts share is made at once, and servers of all these hosts can have it.

    Example: stackctl volume-create data --size 20
    """
    from stackctl.volume.service import create_volume
    from stackctl.volume.types import NewVolume

    wanted = NewVolume(name, size, image, host, description, snapshot, source, kind)
    done = create_volume(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("volume-list")
@lists(LIST)
@click.option("--server", default="", type=words.SERVER, help="Only those that this server has.")
@click.option("--name", default="", help="Only those of this name.")
@click.option("--status", default="", help="Only those in this state: available, in-use, error ...")
def volume_list(context: Context, output: Output, server: str, name: str, status: str) -> None:
    """List volumes."""
    from stackctl.volume.service import list_volumes
    from stackctl.volume.types import VolumeFilter

    output.list(list_volumes(context, VolumeFilter(server, name, status)))


@command("volume-show")
@shows(SHOW)
@click.argument("volume", type=words.VOLUME)
def volume_show(context: Context, output: Output, volume: str) -> None:
    """Show a volume."""
    from stackctl.volume.service import show_volume

    output.show(show_volume(context, volume))


@command("volume-set")
@changes
@shows(SHOW)
@click.argument("volume", type=words.VOLUME)
@click.option("--name", help="Another name.")
@click.option("--description", help="What it is for.")
def volume_set(
    context: Context, output: Output, volume: str, name: str | None, description: str | None
) -> None:
    """Change a volume's name or description; see volume-extend for its size."""
    from stackctl.volume.service import set_volume
    from stackctl.volume.types import VolumeChange

    done = set_volume(context, volume, VolumeChange(name, description))
    output.show(done.value)
    finish(context, done)


@command("volume-extend")
@changes
@shows(SHOW)
@click.argument("volume", type=words.VOLUME)
@click.argument("size", type=words.Size("G"))
def volume_extend(context: Context, output: Output, volume: str, size: int) -> None:
    """Make a volume larger; SIZE is the whole new size in GB.

    A guest that has it sees the new size at once; its file system is the guest's own to grow.

    Example: stackctl volume-extend data 40
    """
    from stackctl.volume.service import extend_volume

    done = extend_volume(context, volume, size)
    output.show(done.value)
    finish(context, done)


@command("volume-retry")
@changes
@click.argument("volumes", nargs=-1, required=True, type=words.VOLUME)
def volume_retry(context: Context, volumes: tuple[str, ...]) -> None:
    """Try again to make volumes that could not be made. Nothing else tries it."""
    from stackctl.volume.service import retry_volume

    each_of(context, volumes, retry_volume, "Made volume")


@command("volume-delete")
@changes
@destroys
@click.argument("volumes", nargs=-1, required=True, type=words.VOLUME)
def volume_delete(context: Context, volumes: tuple[str, ...]) -> None:
    """Delete volumes with their data. One that a server has is refused."""
    from stackctl.volume.service import delete_volume

    confirm(f"Delete {', '.join(volumes)} and all data on {'it' if len(volumes) == 1 else 'them'}?")
    each_of(context, volumes, delete_volume, "Deleted volume")


@command("volume-attach")
@changes
@shows(SHOW)
@click.argument("server", type=words.SERVER)
@click.argument("volume", type=words.VOLUME)
@click.argument("device_word", metavar="[DEVICE]", required=False)
@click.option("--device", help="As which device, /dev/vdb (default: the next free one).")
@click.option(
    "--delete-on-termination/--keep-on-termination",
    "--enable-delete-on-termination/--disable-delete-on-termination",
    "delete_on_termination",
    default=False,
    help="Whether it is deleted with the server.",
)
def volume_attach(
    context: Context,
    output: Output,
    server: str,
    volume: str,
    device_word: str | None,
    device: str | None,
    delete_on_termination: bool,
) -> None:
    """Give a server a volume; one that runs gets it at once.

    In the guest it is /dev/disk/by-id/virtio-ID with the first 20 characters of its id, whatever
    name the kernel gave it.

    Example: stackctl volume-attach web data
    """
    from stackctl.compute import attachments

    done = attachments.attach_volume(
        context,
        server,
        volume,
        device=device or device_word,
        delete_on_termination=delete_on_termination,
    )
    output.show(done.value)
    finish(context, done)


@command("volume-detach")
@changes
@click.argument("server", type=words.SERVER)
@click.argument("volume", type=words.VOLUME)
def volume_detach(context: Context, server: str, volume: str) -> None:
    """Take a volume from a server: VOLUME is its name, its id or its device.

    A guest that runs is asked to release it; unmount it there first. Its data stay.
    """
    from stackctl.compute import attachments

    done = attachments.detach_volume(context, server, volume)
    finish(context, done)
    if not context.dry_run:
        say(f"Detached volume {done.value.name} from {server}.")
