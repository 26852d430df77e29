"""image-upload, -save, -copy, -deactivate, -activate: the content of images that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, shows
from stackctl.cli.image import SHOW, content_options, size_of, source_of
from stackctl.cli.several import Spelled, each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context


@command("image-upload")
@changes
@shows(SHOW)
@click.argument("image", type=words.IMAGE)
@content_options
@click.option(
    "--method",
    type=click.Choice(["glance-direct", "web-download"]),
    hidden=True,
    help="Glance's word for --file or --url, which say it already.",
)
def image_upload(
    context: Context,
    output: Output,
    image: str,
    file: BinaryIO | None,
    url: str | None,
    host_fetch: bool,
    sha256: str | None,
    sha512: str | None,
    store: str | None,
    method: str | None,
) -> None:
    """Give a queued image its content. It is saving or importing meanwhile, and queued again if
    that fails."""
    from stackctl.image.uploading import Upload, upload_image

    source = source_of(file, url, host_fetch)
    if source is None:
        raise click.UsageError("Give the image's content: --file FILE or --url URL.")
    upload = Upload(store, sha256, sha512)
    done = upload_image(context, image, source, upload, size_of(file))
    output.show(done.value)
    finish(context, done)


@command("image-deactivate")
@changes
@click.argument("images", nargs=-1, required=True, type=words.IMAGE)
def image_deactivate(context: Context, images: tuple[str, ...]) -> None:
    """Keep images from being booted until they are activated again. Servers go on."""
    from stackctl.image.service import deactivate_image

    each_of(context, images, deactivate_image, "Deactivated image")


@command("image-activate")
@changes
@click.argument("images", nargs=-1, required=True, type=words.IMAGE)
def image_activate(context: Context, images: tuple[str, ...]) -> None:
    """Let deactivated images be booted again."""
    from stackctl.image.service import reactivate_image

    each_of(context, images, reactivate_image, "Activated image")


@command("image-save")
@click.argument("image", type=words.IMAGE)
@click.option("--file", required=True, type=words.NewFile(), help="Where to; '-': standard output.")
def image_save(context: Context, image: str, file: words.Target) -> None:
    """Write an image's content to a file, which appears when it is whole and checked."""
    from stackctl.image.copying import save_image

    with file.open() as stream:
        save_image(context, image, stream)


@command("image-copy")
@changes
@shows(SHOW)
@click.argument("image", type=words.IMAGE)
@click.option(
    "--to",
    "--store",
    "store",
    cls=Spelled,
    older=("--store",),
    required=True,
    help="The store to keep it in, besides where it is.",
)
def image_copy(context: Context, output: Output, image: str, store: str) -> None:
    """Keep an image's content in one more store."""
    from stackctl.image.copying import copy_image

    done = copy_image(context, image, store)
    output.show(done.value)
    finish(context, done)
