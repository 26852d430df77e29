"""Read an image's content, and keep it in more or fewer stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import BinaryIO

from stackctl.errors import Conflict, Forbidden, NotFound, ResourceFailed
from stackctl.identity.context import ADMIN_PROJECT, Context
from stackctl.image import placing, states
from stackctl.image.service import own_image, usable_image
from stackctl.image.types import Image, image_from
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one, prepare_one
from stackctl.state import Reader, Row, Writer, read
from stackctl.stores import WEB, checked_store, local
from stackctl.stores.contents import Content, content_of, opened


def save_image(context: Context, word: str, target: BinaryIO) -> Image:
    """Write an image's content to a stream; ResourceFailed when it is not what was kept."""
    with read(context.cloud) as reader:
        row = usable_image(context, reader, word)
        states.after(row, "read")
        _refuse_deactivated(context, row)
        image, content = image_from(reader, row), content_of(reader, row["sha256"])
    hashed = local.hasher()
    for piece in _pieces(context, image, content):
        hashed.update(piece)
        target.write(piece)
    if hashed.hexdigest() != image.sha256:
        raise ResourceFailed(
            f"What is kept of image {image.name} has the SHA-256 {hashed.hexdigest()}, not "
            f"{image.sha256}: it was changed in {context.cloud.images}."
        )
    return image


def copy_image(context: Context, word: str, store: str) -> Done[Image]:
    """Keep an image's content in one more store."""
    if checked_store(context.cloud, store) == WEB:
        raise Conflict("The store http keeps nothing: contents are not copied to it.")
    with placing.swept_on_failure(context) as stack:

        def prepare() -> Callable[[Writer], Image]:
            with read(context.cloud) as reader:
                row = own_image(context, reader, word)
                image = _lacking(reader, row, store)
                content = content_of(reader, row["sha256"])
            stack.placing = True
            place = stack.enter_context(_copied(context, image, content, store))

            def work(writer: Writer) -> Image:
                row = own_image(context, writer, word)
                place.record(writer, _lacking(writer, row, store).id)
                return image_from(writer, row)

            return work

        return prepare_one(context, "copy", "image", word, {"store": store}, prepare, image_from)


def remove_copy(context: Context, word: str, store: str) -> Done[Image]:
    """Keep an image's content in one store less; Conflict when no other has it."""

    def work(writer: Writer) -> Image:
        image = image_from(writer, own_image(context, writer, word))
        if store not in image.stores:
            raise NotFound(f"Image {image.name} is not in the store {store}: {_where(image)}.")
        if len(image.stores) == 1:
            raise Conflict(
                f"Image {image.name} is in the store {store} only.",
                hint=f"stackctl image-delete {image.id}   (or: image-copy {image.id} --to STORE)",
            )
        writer.run("DELETE FROM image_locations WHERE image_id = ? AND store = ?", image.id, store)
        if store == WEB:
            writer.update("images", image.id, host_may_fetch=0)  # hosts ask there no more, either
        return image_from(writer, writer.get("images", image.id))

    done = change_one(context, "uncopy", "image", word, {"store": store}, work, image_from)
    placing.sweep(context)
    return done


def _lacking(reader: Reader, row: Row, store: str) -> Image:
    """An image that can be copied to a store, since it has content and is not there yet."""
    states.after(row, "copy")
    image = image_from(reader, row)
    if store in image.stores:
        raise Conflict(f"Image {image.name} is in the store {store} already: {_where(image)}.")
    return image


def _refuse_deactivated(context: Context, row: Row) -> None:
    """As in Glance: what was deactivated is looked at by the operator only."""
    if row["status"] == "deactivated" and context.project_name != ADMIN_PROJECT:
        raise Forbidden(f"Image {row['name']} is deactivated: only the operator may read it.")


def _where(image: Image) -> str:
    return f"it is in {', '.join(image.stores) or 'no store'}"


@contextmanager
def _copied(
    context: Context, image: Image, content: Content, store: str
) -> Iterator[placing.Placement]:
    """The content, read once more and checked, in its new store."""
    pieces = _pieces(context, image, content)
    with local.received(context.cloud, pieces, lambda _: None) as part:
        if part.sha256 != content.sha256:
            raise ResourceFailed(
                f"What is kept of image {image.name} has the SHA-256 {part.sha256}, not "
                f"{content.sha256}: it was changed in {context.cloud.images}. Nothing was copied."
            )
        with placing.placed(context, store, part) as place:
            yield place


def _pieces(context: Context, image: Image, content: Content) -> Iterator[bytes]:
    def progress(done: int) -> None:
        context.watch.progress(f"image {image.name}", done, image.size_bytes)

    with closing(opened(context.cloud, content, progress)) as stream:
        yield from local.pieces_of(stream)
