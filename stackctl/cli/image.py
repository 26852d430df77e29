"""image-create, -list, -show, -set, -delete."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, lists, shows
from stackctl.cli.render import Column, size
from stackctl.cli.several import Spelled, each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context

LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Disk Format", "disk_format"),
    Column("Container Format", "container_format"),
    Column("Size", "size_bytes", text=size),
    Column("Status", "status"),
    Column("Visibility", "visibility", extra=True),
    Column("Virtual Size", "virtual_size_bytes", text=size, extra=True),
    Column("SHA256", "sha256", extra=True),
    Column("Created", "created_at", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Status", "status"),
    Column("Disk Format", "disk_format"),
    Column("Container Format", "container_format"),
    Column("Size", "size_bytes", text=size),
    Column("Virtual Size", "virtual_size_bytes", text=size),
    Column("SHA256", "sha256"),
    Column("Min Disk GB", "min_disk_gb"),
    Column("Min RAM MB", "min_ram_mb"),
    Column("Kernel", "kernel_id"),
    Column("Ramdisk", "ramdisk_id"),
    Column("Visibility", "visibility"),
    Column("Protected", "protected"),
    Column("Properties", "properties"),
    Column("Source", "source_url"),
    Column("Hosts Fetch", "host_may_fetch"),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)

VISIBILITY = {
    name: click.option(f"--{name}", "visibility", flag_value=name, help=text)
    for name, text in (
        ("public", "All projects may use it."),
        ("private", "Only this project may use it."),
        ("shared", "Only this project and members may use it (default)."),
        ("community", "All may use it, but it is listed for this project only."),
    )
}


@command("image-create")
@changes
@shows(SHOW)
@click.argument("given", nargs=-1, metavar="NAME")
@click.option("--name", "named", hidden=True, help="Glance's way to give the name.")
@click.option("--file", "file", type=words.LocalFile(), help="The image; '-' is standard input.")
@click.option(
    "--url",
    "--copy-from",
    "--location",
    "url",
    cls=Spelled,
    older=("--copy-from", "--location"),
    help="Download the image from an http or https address.",
)
@click.option("--host-fetch", is_flag=True, help="With --url: hosts download it by themselves.")
@click.option("--disk-format", help="qcow2, raw, aki or ari (default: told by the header).")
@click.option("--container-format", default="", help="bare, aki, ari or ami.")
@click.option("--sha256", help="What its SHA-256 must be.")
@click.option("--min-disk", type=words.Size("G"), help="Smallest root disk for it.")
@click.option("--min-ram", type=words.Size("M"), default="0", help="Least memory for it.")
@click.option(
    "--kernel",
    "--kernel-id",
    "kernel",
    cls=Spelled,
    older=("--kernel-id",),
    type=words.IMAGE,
    help="Image of the kernel to boot it with.",
)
@click.option(
    "--ramdisk",
    "--ramdisk-id",
    "ramdisk",
    cls=Spelled,
    older=("--ramdisk-id",),
    type=words.IMAGE,
    help="Image of the ramdisk that goes with the kernel.",
)
@click.option(
    "--property", "properties", multiple=True, type=words.Pair(), help="KEY=VALUE; repeatable."
)
@click.option("--protected", is_flag=True, help="Refuse to delete it.")
@VISIBILITY["public"]
@VISIBILITY["private"]
@VISIBILITY["shared"]
@VISIBILITY["community"]
@click.option("--is-public", type=bool, hidden=True, help="The same as --public or --private.")
def image_create(
    context: Context,
    output: Output,
    given: tuple[str, ...],
    named: str | None,
    file: BinaryIO | None,
    url: str | None,
    host_fetch: bool,
    disk_format: str | None,
    container_format: str,
    sha256: str | None,
    min_disk: int | None,
    min_ram: int,
    kernel: str | None,
    ramdisk: str | None,
    properties: tuple[tuple[str, str], ...],
    protected: bool,
    visibility: str | None,
    is_public: bool | None,
) -> None:
    """Register an image: it is hashed and its header inspected before anything opens it.

    Example: stackctl image-create debian --url https://.../debian-12.qcow2 --sha256 ...
    """
    from stackctl.image.service import create_image
    from stackctl.image.types import NewImage, Url

    name = _one_name(given, named)
    source = Url(url, host_fetch) if url is not None else file
    if source is None or None not in (file, url):
        raise click.UsageError("Give the image's content: --file FILE or --url URL.")
    if host_fetch and url is None:
        raise click.UsageError("--host-fetch needs --url URL.")
    if is_public is not None:
        visibility = "public" if is_public else "private"
    wanted = NewImage(
        name=name,
        disk_format=disk_format,
        container_format=container_format,
        visibility=visibility or "shared",
        min_disk_gb=min_disk,
        min_ram_mb=min_ram,
        properties=dict(properties) | ({"protected": "true"} if protected else {}),
        expected_sha256=sha256,
        kernel=kernel,
        ramdisk=ramdisk,
    )
    done = create_image(context, wanted, source, _size_of(file))
    output.show(done.value)
    finish(context, done)


@command("image-list")
@lists(LIST)
def image_list(context: Context, output: Output) -> None:
    """List the project's images and public ones."""
    from stackctl.image.service import list_images

    output.list(list_images(context))


@command("image-show")
@shows(SHOW)
@click.argument("image", type=words.IMAGE)
def image_show(context: Context, output: Output, image: str) -> None:
    """Show an image."""
    from stackctl.image.service import show_image

    output.show(show_image(context, image))


@command("image-set")
@changes
@shows(SHOW)
@click.argument("image", type=words.IMAGE)
@click.option("--name", help="Another name.")
@click.option("--min-disk", type=words.Size("G"), help="Smallest root disk for it.")
@click.option("--min-ram", type=words.Size("M"), help="Least memory for it.")
@click.option(
    "--property",
    "properties",
    multiple=True,
    type=words.Pair(),
    help="KEY=VALUE, or KEY= to remove it; repeatable.",
)
@click.option("--protected/--unprotected", default=None, help="Whether it refuses to be deleted.")
@VISIBILITY["public"]
@VISIBILITY["private"]
@VISIBILITY["shared"]
@VISIBILITY["community"]
def image_set(
    context: Context,
    output: Output,
    image: str,
    name: str | None,
    min_disk: int | None,
    min_ram: int | None,
    properties: tuple[tuple[str, str], ...],
    protected: bool | None,
    visibility: str | None,
) -> None:
    """Change what is said about an image; its content never changes."""
    from stackctl.image.service import set_image
    from stackctl.image.types import ImageChange

    changed = dict(properties)
    if protected is not None:
        changed["protected"] = "true" if protected else ""
    change = ImageChange(name, visibility, min_disk, min_ram, changed)
    done = set_image(context, image, change)
    output.show(done.value)
    finish(context, done)


@command("image-delete")
@changes
@destroys
@click.argument("images", nargs=-1, required=True, type=words.IMAGE)
def image_delete(context: Context, images: tuple[str, ...]) -> None:
    """Delete images. Servers made from them keep their disks."""
    from stackctl.image.service import delete_image

    confirm(f"Delete {', '.join(images)}?")
    each_of(context, images, delete_image, "Deleted image")


def _one_name(given: tuple[str, ...], named: str | None) -> str:
    names = [*given, *([named] if named is not None else [])]
    if len(names) != 1:
        raise click.UsageError("Give one name for the image.")
    return names[0]


def _size_of(file: BinaryIO | None) -> int:
    """Bytes of a regular file, for the progress; 0 for what has no size, such as a pipe."""
    if file is None:
        return 0
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
