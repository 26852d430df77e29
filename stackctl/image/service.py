"""Images: create, list, show, change and delete them.

An image's content is received, hashed and inspected before any transaction begins, and its row is
there only with its file: whatever fails leaves neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import BinaryIO

from agent import inspection
from stackctl.errors import Conflict, UnsafeImage, UsageError
from stackctl.identity.context import Context, find_own
from stackctl.image import store
from stackctl.image.fetch import checked_url, download
from stackctl.image.types import (
    CONTAINER_FORMATS,
    DISK_FORMATS,
    GIB,
    VISIBILITIES,
    Image,
    ImageChange,
    NewImage,
    Url,
    image_from,
)
from stackctl.names import checked_name, refuse_control_characters
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one, prepare_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read, write

MAX_PROPERTIES = 128
PROPERTY_LIMIT = 1024

_QCOW2_MAGIC = b"QFI\xfb"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PROPERTY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}")

LISTED = "(project_id = ? OR visibility = 'public')"
USABLE = "(project_id = ? OR visibility IN ('public', 'community'))"
"""As in Glance: a community image can be used by all but is listed for none; takes the project."""


def create_image(
    context: Context, wanted: NewImage, source: BinaryIO | Url, size_hint: int = 0
) -> Done[Image]:
    """Receive an image from a stream (of about ``size_hint`` bytes, for the progress) or a URL.

    UnsafeImage (31): the header is not plainly what was declared. Conflict (4): wrong checksum or
    size. NotFound, ResourceFailed: what the server said, or the disk. Nothing is left then.
    """
    _check_words(wanted)
    arguments = asdict(wanted)
    if isinstance(source, Url):
        checked_url(source.address)
        arguments["url"] = asdict(source)
    with ExitStack() as open_until_the_end:
        kept: list[store.Part] = []

        def prepare() -> Callable[[Writer], Image]:
            with read(context.cloud) as reader:
                _parts_of(context, reader, wanted)  # before the download, not after it
            part = open_until_the_end.enter_context(_received(context, wanted, source, size_hint))
            _check_sum(wanted, part)
            row = _row(context, wanted, source, part, *_inspected(wanted, part))

            def work(writer: Writer) -> Image:
                full = {**row, **_parts_of(context, writer, wanted)}
                writer.insert("images", full)
                store.sweep(context.cloud, writer)
                if not context.dry_run:
                    kept.append(part)
                    store.keep(context.cloud, part)
                return image_from(writer, writer.get("images", full["id"]))

            return work

        try:
            return prepare_one(
                context, "create", "image", wanted.name, arguments, prepare, image_from
            )
        except BaseException:
            # The row is not there: if its file got its name already, that must go too.
            if kept:
                _sweep(context)
            raise


def list_images(context: Context) -> list[Image]:
    """The project's images and public ones, oldest first."""
    with read(context.cloud) as reader:
        rows = reader.all(
            f"SELECT * FROM images WHERE deleted_at IS NULL AND {LISTED} ORDER BY rowid",
            context.project_id,
        )
        return [image_from(reader, row) for row in rows]


def show_image(context: Context, word: str) -> Image:
    """One image by name or id."""
    with read(context.cloud) as reader:
        return image_from(reader, usable_image(context, reader, word))


def usable_image(context: Context, reader: Reader, word: str) -> Row:
    """The row of an image that the asker may boot from."""
    return find(
        reader, "images", word, noun="image", where=USABLE, parameters=(context.project_id,)
    )


def set_image(context: Context, word: str, change: ImageChange) -> Done[Image]:
    """Change an image's name, visibility, minimum sizes or properties; never its content."""
    values = {key: value for key, value in asdict(change).items() if value not in (None, {})}
    if not values:
        raise UsageError("Nothing to change was given.", hint="stackctl image-set --help")
    _check_change(change)

    def work(writer: Writer) -> Image:
        image = find_own(context, writer, "images", word, noun="image")
        columns = {key: value for key, value in values.items() if key != "properties"}
        if change.properties:
            properties = {**json.loads(image["properties_json"]), **change.properties}
            kept = {key: value for key, value in properties.items() if value != ""}
            columns["properties_json"] = json.dumps(_checked_properties(kept))
        writer.update("images", image["id"], **columns, version=image["version"] + 1)
        return image_from(writer, writer.get("images", image["id"]))

    return change_one(context, "set", "image", word, values, work, image_from)


def delete_image(context: Context, word: str) -> Done[Image]:
    """Delete an image; its file goes when no other image has the same content.

    Servers made from it keep their disks: hosts have their own copies. Conflict when protected.
    """

    def work(writer: Writer) -> Image:
        image = image_from(writer, find_own(context, writer, "images", word, noun="image"))
        if image.protected:
            raise Conflict(
                f"Image {image.name} is protected and cannot be deleted.",
                hint=f"stackctl image-set {image.id} --property protected=",
            )
        writer.update("images", image.id, status="deleted", deleted_at=now())
        return image

    done = change_one(context, "delete", "image", word, {}, work, image_from)
    _sweep(context)
    return done


def _sweep(context: Context) -> None:
    if not context.dry_run:
        with write(context.cloud) as writer:
            store.sweep(context.cloud, writer)


@contextmanager
def _received(
    context: Context, wanted: NewImage, source: BinaryIO | Url, size_hint: int
) -> Iterator[store.Part]:
    def progress_to(total: int) -> Callable[[int], None]:
        return lambda done: context.watch.progress(f"image {wanted.name}", done, total)

    with ExitStack() as stack:
        if isinstance(source, Url):
            limit = context.cloud.config["image_size_limit_gb"] * GIB
            response = stack.enter_context(download(source.address, limit))
            pieces, total = response.pieces(), response.size_bytes
        else:
            pieces, total = store.pieces_of(source), size_hint
        yield stack.enter_context(store.received(context.cloud, pieces, progress_to(total)))


def _check_sum(wanted: NewImage, part: store.Part) -> None:
    if wanted.expected_sha256 is not None and wanted.expected_sha256.lower() != part.sha256:
        raise Conflict(
            f"The image {wanted.name} is not the one expected: its SHA-256 is {part.sha256}, not "
            f"{wanted.expected_sha256.lower()} ({part.size_bytes} bytes were read). "
            "Nothing was kept."
        )


def _inspected(wanted: NewImage, part: store.Part) -> tuple[str, int]:
    """Disk format and virtual size by the file's own header, which must be plain."""
    disk_format = wanted.disk_format
    if disk_format is None:
        part.stream.seek(0)
        disk_format = "qcow2" if part.stream.read(4) == _QCOW2_MAGIC else "raw"
    plain = "qcow2" if disk_format == "qcow2" else "raw"
    try:
        found = inspection.inspect(part.stream, plain, part.size_bytes)
    except inspection.UnsafeImage as refusal:
        raise UnsafeImage(
            f"The image {wanted.name} was refused and nothing of it kept: {refusal}."
        ) from None
    return disk_format, found.virtual_size_bytes


def _row(
    context: Context,
    wanted: NewImage,
    source: BinaryIO | Url,
    part: store.Part,
    disk_format: str,
    virtual_size_bytes: int,
) -> Row:
    boots = disk_format in ("aki", "ari")
    fits_gb = 0 if boots else -(-virtual_size_bytes // GIB)
    url = source if isinstance(source, Url) else None
    return {
        "id": new_id(),
        "project_id": context.project_id,
        "name": wanted.name,
        "status": "active",
        "disk_format": disk_format,
        "container_format": wanted.container_format or (disk_format if boots else "bare"),
        "visibility": wanted.visibility,
        "size_bytes": part.size_bytes,
        "virtual_size_bytes": virtual_size_bytes,
        "sha256": part.sha256,
        "source_url": url.address if url else None,
        "host_may_fetch": int(url is not None and url.host_fetch),
        "min_disk_gb": fits_gb if wanted.min_disk_gb is None else wanted.min_disk_gb,
        "min_ram_mb": wanted.min_ram_mb,
        "properties_json": json.dumps(dict(wanted.properties)),
        "created_at": now(),
    }


def _parts_of(context: Context, reader: Reader, wanted: NewImage) -> dict[str, str | None]:
    """The ids of the kernel and ramdisk images that are named."""
    named = (("kernel", wanted.kernel, "aki"), ("ramdisk", wanted.ramdisk, "ari"))
    ids: dict[str, str | None] = {}
    for noun, word, disk_format in named:
        ids[f"{noun}_id"] = None
        if word is not None:
            image = usable_image(context, reader, word)
            if image["disk_format"] not in (disk_format, "raw"):
                raise Conflict(
                    f"Image {image['name']} is no {noun}: its disk format is "
                    f"{image['disk_format']}, not {disk_format}."
                )
            ids[f"{noun}_id"] = image["id"]
    return ids


def _check_words(wanted: NewImage) -> None:
    checked_name("image", wanted.name)
    _check_choice("disk format", wanted.disk_format, DISK_FORMATS)
    _check_choice("container format", wanted.container_format or None, CONTAINER_FORMATS)
    _check_choice("visibility", wanted.visibility, VISIBILITIES)
    _check_sizes(wanted.min_disk_gb, wanted.min_ram_mb)
    _checked_properties(wanted.properties)
    if wanted.expected_sha256 is not None and not _SHA256.fullmatch(wanted.expected_sha256.lower()):
        raise UsageError("A SHA-256 has 64 hexadecimal digits.")
    if wanted.ramdisk is not None and wanted.kernel is None:
        raise UsageError("A ramdisk is of no use without a kernel (--kernel).")
    if wanted.kernel is not None and wanted.disk_format in ("aki", "ari"):
        raise UsageError("A kernel or ramdisk image does not have a kernel of its own.")


def _check_change(change: ImageChange) -> None:
    if change.name is not None:
        checked_name("image", change.name)
    _check_choice("visibility", change.visibility, VISIBILITIES)
    _check_sizes(change.min_disk_gb, change.min_ram_mb)


def _check_choice(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise UsageError(f"'{value}' is not a {what} here: use one of {', '.join(known)}.")


def _check_sizes(min_disk_gb: int | None, min_ram_mb: int | None) -> None:
    for size in (min_disk_gb, min_ram_mb):
        if size is not None and not 0 <= size < 1 << 31:
            raise UsageError(f"A minimum of {size} makes no sense.")


def _checked_properties(properties: Mapping[str, str]) -> dict[str, str]:
    if len(properties) > MAX_PROPERTIES:
        raise UsageError(f"An image has at most {MAX_PROPERTIES} properties.")
    for key, value in properties.items():
        if not _PROPERTY.fullmatch(key):
            raise UsageError(f"'{key[:100]}' cannot be the name of a property.")
        if len(value) > PROPERTY_LIMIT:
            raise UsageError(f"Property {key} has more than {PROPERTY_LIMIT} characters.")
        refuse_control_characters(f"property {key}", value)
    return dict(properties)
