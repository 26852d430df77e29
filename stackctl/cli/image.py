"""Images: image-create, -list, -show, -set, -delete and what else is done to one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, lists, shows
from stackctl.cli.render import Column, size
from stackctl.cli.several import Spelled, each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.image.types import Image, Url
    from stackctl.operation.outcome import Done

Function = TypeVar("Function", bound=Callable[..., Any])

LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Disk Format", "disk_format"),
    Column("Container Format", "container_format"),
    Column("Size", "size_bytes", text=size),
    Column("Status", "status"),
    Column("Visibility", "visibility", extra=True),
    Column("Protected", "protected", extra=True),
    Column("Hidden", "hidden", extra=True),
    Column("Tags", "tags", extra=True),
    Column("Stores", "stores", extra=True),
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
    Column("Hidden", "hidden"),
    Column("Tags", "tags"),
    Column("Properties", "properties"),
    Column("Stores", "stores"),
    Column("Source", "source_url"),
    Column("Hosts Fetch", "host_may_fetch"),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)

CATALOGUE = (
    Column("Name", "name"),
    Column("URL", "url"),
    Column("Min Disk GB", "min_disk_gb"),
    Column("Min RAM MB", "min_ram_mb"),
    Column("Checksums", "sums", extra=True),
    Column("Properties", "properties", extra=True),
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

CONTENT = (
    click.option(
        "--file", "file", type=words.LocalFile(), help="The image; '-' is standard input."
    ),
    click.option(
        "--url",
        "--copy-from",
        "--location",
        "--uri",
        "url",
        cls=Spelled,
        older=("--copy-from", "--location", "--uri"),
        help="Download the image from an http or https address.",
    ),
    click.option("--host-fetch", is_flag=True, help="With --url: hosts download it by themselves."),
    click.option("--sha256", help="What its SHA-256 must be."),
    click.option("--sha512", help="What its SHA-512 must be."),
    click.option(
        "--store", help="Where to keep it: a store of config.yaml, local, or http (stays at --url)."
    ),
)


def content_options(function: Function) -> Function:
    """The options that say where an image's content comes from, and where it goes."""
    for option in reversed(CONTENT):
        function = option(function)
    return function


TAGS = click.option("--tag", "tags", multiple=True, help="A tag; repeatable.")


@command("image-create")
@changes
@shows(SHOW)
@click.argument("given", nargs=-1, metavar="NAME")
@click.option("--name", "named", hidden=True, help="Glance's way to give the name.")
@content_options
@click.option("--from", "published", help="The catalogue's image of this name.")
@click.option("--empty", is_flag=True, help="Without content, whatever its name.")
@click.option("--disk-format", help="qcow2, raw, aki or ari (default: told by the header).")
@click.option("--container-format", default="", help="bare, aki, ari or ami.")
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
@TAGS
@click.option("--protected", is_flag=True, help="Refuse to delete it.")
@click.option("--hidden", is_flag=True, help="Leave it out of image-list.")
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
    sha256: str | None,
    sha512: str | None,
    store: str | None,
    published: str | None,
    empty: bool,
    disk_format: str | None,
    container_format: str,
    min_disk: int | None,
    min_ram: int,
    kernel: str | None,
    ramdisk: str | None,
    properties: tuple[tuple[str, str], ...],
    tags: tuple[str, ...],
    protected: bool,
    hidden: bool,
    visibility: str | None,
    is_public: bool | None,
) -> None:
    """Register an image: it is hashed and its header inspected before anything opens it.

    Without --file and --url it is the distributions' image of that name (image-catalogue); when
    there is none, or with --empty, the image is queued until image-upload.

    Example: stackctl image-create debian --url https://.../debian-12.qcow2 --sha256 ...
    """
    from stackctl.image.catalogue import from_catalogue
    from stackctl.image.service import create_image
    from stackctl.image.types import NewImage

    name = _one_name(given, named)
    source = source_of(file, url, host_fetch)
    if is_public is not None:
        visibility = "public" if is_public else "private"
    wanted = NewImage(
        name=name,
        disk_format=disk_format,
        container_format=container_format,
        visibility=visibility or "shared",
        min_disk_gb=min_disk,
        min_ram_mb=min_ram,
        properties=dict(properties),
        expected_sha256=sha256,
        expected_sha512=sha512,
        kernel=kernel,
        ramdisk=ramdisk,
        store=store,
        protected=protected,
        hidden=hidden,
        tags=tags,
    )
    published = published or _published(context, name, source, empty)
    if published is not None:
        if source is not None or empty:
            raise click.UsageError("--from says where the content is: no --file, --url, --empty.")
        wanted, source = from_catalogue(context, published, wanted)
    done = create_image(context, wanted, source, size_of(file))
    output.show(done.value)
    finish(context, done)


@command("image-catalogue")
@lists(CATALOGUE)
def image_catalogue(context: Context, output: Output) -> None:
    """List the distributions' images that image-create fetches by name."""
    from stackctl.image.catalogue import published

    output.list(published(context.cloud))


@command("image-list")
@lists(LIST)
@click.option("--name", help="Only images of this name.")
@click.option("--status", help="Only those in this state: queued, active, deactivated ...")
@click.option("--visibility", help="Only these: public, private, shared or community.")
@click.option("--public", "visibility", flag_value="public", hidden=True, help="The same.")
@click.option("--private", "visibility", flag_value="private", hidden=True, help="The same.")
@click.option("--shared", "visibility", flag_value="shared", hidden=True, help="The same.")
@click.option("--community", "visibility", flag_value="community", hidden=True, help="The same.")
@click.option("--tag", "tags", multiple=True, help="Only those with this tag; repeatable.")
@click.option(
    "--property",
    "properties",
    multiple=True,
    type=words.Pair(),
    help="Only those with KEY=VALUE; repeatable.",
)
@click.option("--hidden", is_flag=True, help="The hidden ones instead of the others.")
def image_list(
    context: Context,
    output: Output,
    name: str | None,
    status: str | None,
    visibility: str | None,
    tags: tuple[str, ...],
    properties: tuple[tuple[str, str], ...],
    hidden: bool,
) -> None:
    """List the project's images, public ones, and shared ones that it accepted."""
    from stackctl.image.service import list_images
    from stackctl.image.types import ImageFilter

    wanted = ImageFilter(name, status, visibility, tags, dict(properties), hidden)
    output.list(list_images(context, wanted))


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
@TAGS
@click.option("--protected/--unprotected", default=None, help="Whether it refuses to be deleted.")
@click.option("--hidden/--unhidden", default=None, help="Whether image-list leaves it out.")
@click.option("--activate/--deactivate", default=None, hidden=True, help="image-activate, ...")
@click.option("--accept", "answer", flag_value="accepted", help="As a member: list it here.")
@click.option("--reject", "answer", flag_value="rejected", help="As a member: do not list it.")
@click.option("--pending", "answer", flag_value="pending", help="As a member: not decided.")
@click.option("--project", help="With --accept, --reject, --pending: for this project.")
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
    tags: tuple[str, ...],
    protected: bool | None,
    hidden: bool | None,
    activate: bool | None,
    answer: str | None,
    project: str | None,
    visibility: str | None,
) -> None:
    """Change what is said about an image; its content never changes."""
    from stackctl.image import service, sharing
    from stackctl.image.types import ImageChange

    change = ImageChange(
        name, visibility, min_disk, min_ram, dict(properties), protected, hidden, tags
    )
    if project is not None and answer is None:
        raise click.UsageError("--project goes with --accept, --reject or --pending.")
    if (answer is not None) + (activate is not None) + (change != ImageChange()) > 1:
        raise click.UsageError("Change states, memberships and the rest one after the other.")
    if answer is not None:
        done = sharing.set_member(context, image, project, answer)
    elif activate is not None:
        to_status = service.reactivate_image if activate else service.deactivate_image
        done = to_status(context, image)
    else:
        done = service.set_image(context, image, change)
    output.show(done.value)
    finish(context, done)


@command("image-unset")
@changes
@shows(SHOW)
@click.argument("image", type=words.IMAGE)
@click.option("--property", "properties", multiple=True, help="A property's name; repeatable.")
@TAGS
def image_unset(
    context: Context,
    output: Output,
    image: str,
    properties: tuple[str, ...],
    tags: tuple[str, ...],
) -> None:
    """Remove properties and tags from an image."""
    from stackctl.image.service import set_image
    from stackctl.image.types import ImageChange

    change = ImageChange(tags_removed=tags, properties_removed=properties)
    done = set_image(context, image, change)
    output.show(done.value)
    finish(context, done)


@command("image-delete")
@changes
@destroys
@click.argument("images", nargs=-1, required=True, type=words.IMAGE)
@click.option("--store", help="Only what is kept in this store; another one must have it.")
def image_delete(context: Context, images: tuple[str, ...], store: str | None) -> None:
    """Delete images. Servers made from them keep their disks."""
    from stackctl.image.copying import remove_copy
    from stackctl.image.service import delete_image

    if store is not None:
        confirm(f"Delete {', '.join(images)} from {store}?")

        def remove(asker: Context, image: str) -> Done[Image]:
            return remove_copy(asker, image, store)

        each_of(context, images, remove, f"Deleted from {store}: image")
        return
    confirm(f"Delete {', '.join(images)}?")
    each_of(context, images, delete_image, "Deleted image")


def _published(
    context: Context, name: str, source: BinaryIO | Url | None, empty: bool
) -> str | None:
    """The catalogue's image that a name alone means."""
    if source is not None or empty:
        return None
    from stackctl.image.catalogue import is_published

    return name if is_published(context.cloud, name) else None


def source_of(file: BinaryIO | None, url: str | None, host_fetch: bool) -> BinaryIO | Url | None:
    """Where the content comes from, by the options that say so; None when none does."""
    from stackctl.image.types import Url

    if None not in (file, url):
        raise click.UsageError("Give the image's content once: --file FILE or --url URL.")
    if host_fetch and url is None:
        raise click.UsageError("--host-fetch needs --url URL.")
    return Url(url, host_fetch) if url is not None else file


def _one_name(given: tuple[str, ...], named: str | None) -> str:
    names = [*given, *([named] if named is not None else [])]
    if len(names) != 1:
        raise click.UsageError("Give one name for the image.")
    return names[0]


def size_of(file: BinaryIO | None) -> int:
    """Bytes of a regular file, for the progress; 0 for what has no size, such as a pipe."""
    if file is None:
        return 0
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
