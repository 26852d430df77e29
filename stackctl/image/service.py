"""Images: create, list, show, change and delete them.

An image's content is received, hashed and inspected before any transaction begins, and its row
says that it is active only with its content: whatever fails leaves nothing, or a queued image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from stackctl.errors import Conflict, UsageError
from stackctl.identity.context import Context, find_own
from stackctl.image import placing, states
from stackctl.image.receiving import Expected, Received, Source, received
from stackctl.image.types import Image, ImageChange, ImageFilter, NewImage, Url, image_from
from stackctl.image.words import check_change, check_new, checked_properties, checked_tags
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one, prepare_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read

_MEMBER = "SELECT 1 FROM image_members WHERE image_id = images.id AND project_id = ?"

LISTED = (
    "(project_id = ? OR visibility = 'public' OR (visibility = 'shared' AND EXISTS "
    f"({_MEMBER} AND image_members.status = 'accepted')))"
)
USABLE = (
    "(project_id = ? OR visibility IN ('public', 'community') OR "
    f"(visibility = 'shared' AND EXISTS ({_MEMBER})))"
)
"""As in Glance: a community image can be used by all but is listed for none, and a member may use
what he has not accepted. Both take the project twice."""


def create_image(
    context: Context, wanted: NewImage, source: Source | None = None, size_hint: int = 0
) -> Done[Image]:
    """Receive an image from a stream (of about ``size_hint`` bytes, for the progress) or a URL;
    without either it is queued until its content is uploaded.

    UnsafeImage (31): the header is not plainly what was declared. Conflict (4): wrong checksum or
    size. NotFound, ResourceFailed: what the server, the disk or a store said. Then nothing is left.
    """
    check_new(wanted)
    arguments = asdict(wanted)
    if source is None and wanted.store is not None:
        raise UsageError("A store is chosen with the content (image-upload --store).")
    url = source if isinstance(source, Url) else None
    if url is not None:
        from stackctl.stores.web import checked_url

        checked_url(url.address)
        arguments["url"] = asdict(url)
    with placing.swept_on_failure(context) as stack:
        prepare = _preparation(context, wanted, source, size_hint, stack)
        return prepare_one(context, "create", "image", wanted.name, arguments, prepare, image_from)


def _preparation(
    context: Context,
    wanted: NewImage,
    source: Source | None,
    size_hint: int,
    stack: placing.Attempt,
) -> Callable[[], Callable[[Writer], Image]]:
    def prepare() -> Callable[[Writer], Image]:
        url = source.address if isinstance(source, Url) else None
        with read(context.cloud) as reader:
            _parts_of(context, reader, wanted)  # before the download, not after it
        if source is None:
            return lambda writer: _inserted(context, writer, wanted, None, None, None)
        store = placing.chosen_store(context, wanted.store, url)
        got = stack.enter_context(received(context, source, expected_of(wanted, size_hint)))
        stack.placing = True
        place = stack.enter_context(placing.placed(context, store, got.part, url))
        return lambda writer: _inserted(context, writer, wanted, source, got, place)

    return prepare


def expected_of(wanted: NewImage, size_hint: int) -> Expected:
    """What a new image's content must be."""
    sums = wanted.expected_sha256, wanted.expected_sha512
    return Expected(wanted.name, wanted.disk_format, *sums, size_hint)


def _inserted(
    context: Context,
    writer: Writer,
    wanted: NewImage,
    source: Source | None,
    got: Received | None,
    place: placing.Placement | None,
) -> Image:
    row = _row(context, wanted, source) | _parts_of(context, writer, wanted)
    if got is not None:
        row |= got.columns(wanted.min_disk_gb, wanted.container_format)
    writer.insert("images", row)
    if place is not None:
        place.record(writer, row["id"])
    return image_from(writer, writer.get("images", row["id"]))


def _row(context: Context, wanted: NewImage, source: Source | None) -> Row:
    url = source if isinstance(source, Url) else None
    return {
        "id": new_id(),
        "project_id": context.project_id,
        "name": wanted.name,
        "status": "queued" if source is None else "active",
        "disk_format": wanted.disk_format or "",
        "container_format": wanted.container_format,
        "visibility": wanted.visibility,
        "source_url": url.address if url else None,
        "host_may_fetch": int(url is not None and url.host_fetch),
        "min_disk_gb": wanted.min_disk_gb or 0,
        "min_ram_mb": wanted.min_ram_mb,
        "properties_json": json.dumps(dict(wanted.properties)),
        "protected": int(wanted.protected),
        "hidden": int(wanted.hidden),
        "tags_json": json.dumps(checked_tags(wanted.tags)),
        "created_at": now(),
    }


def list_images(context: Context, wanted: ImageFilter | None = None) -> list[Image]:
    """The project's images, public ones and those it accepted as a member, oldest first."""
    wanted = wanted or ImageFilter()
    sql = f"SELECT * FROM images WHERE deleted_at IS NULL AND {LISTED} AND hidden = ?"
    parameters: list[Any] = [context.project_id, context.project_id, int(wanted.hidden)]
    for column in ("name", "status", "visibility"):
        value = getattr(wanted, column)
        if value is not None:
            sql += f" AND {column} = ?"
            parameters.append(value)
    with read(context.cloud) as reader:
        rows = reader.all(f"{sql} ORDER BY rowid", *parameters)
        images = [image_from(reader, row) for row in rows]
    return [
        image
        for image in images
        if set(wanted.tags) <= set(image.tags)
        and wanted.properties.items() <= dict(image.properties).items()
    ]


def show_image(context: Context, word: str) -> Image:
    """One image by name or id."""
    with read(context.cloud) as reader:
        return image_from(reader, usable_image(context, reader, word))


def usable_image(context: Context, reader: Reader, word: str) -> Row:
    """The row of an image that the asker may boot from."""
    project = (context.project_id, context.project_id)
    return find(reader, "images", word, noun="image", where=USABLE, parameters=project)


def own_image(context: Context, reader: Reader, word: str) -> Row:
    """The row of an image of the asker's own project."""
    return find_own(context, reader, "images", word, noun="image")


def set_image(context: Context, word: str, change: ImageChange) -> Done[Image]:
    """Change what is said about an image; never its content."""
    values = {key: value for key, value in asdict(change).items() if value not in (None, {}, ())}
    if not values:
        raise UsageError("Nothing to change was given.", hint="stackctl image-set --help")
    check_change(change)

    def work(writer: Writer) -> Image:
        image = own_image(context, writer, word)
        columns = {key: value for key, value in values.items() if key in image}
        columns |= _changed_properties(image, change) | _changed_tags(image, change)
        writer.update("images", image["id"], **columns, version=image["version"] + 1)
        return image_from(writer, writer.get("images", image["id"]))

    return change_one(context, "set", "image", word, values, work, image_from)


def _changed_properties(image: Row, change: ImageChange) -> dict[str, str]:
    if not change.properties and not change.properties_removed:
        return {}
    properties = {**json.loads(image["properties_json"]), **change.properties}
    kept = {
        key: value
        for key, value in properties.items()
        if value != "" and key not in change.properties_removed
    }
    return {"properties_json": json.dumps(checked_properties(kept))}


def _changed_tags(image: Row, change: ImageChange) -> dict[str, str]:
    tags = {*json.loads(image["tags_json"]), *change.tags} - set(change.tags_removed)
    return {"tags_json": json.dumps(checked_tags(tags))}


def deactivate_image(context: Context, word: str) -> Done[Image]:
    """Keep an image from being booted and fetched, until it is reactivated."""
    return _to_status(context, "deactivate", word)


def reactivate_image(context: Context, word: str) -> Done[Image]:
    """Let a deactivated image be used again."""
    return _to_status(context, "reactivate", word)


def _to_status(context: Context, action: str, word: str) -> Done[Image]:
    def work(writer: Writer) -> Image:
        image = own_image(context, writer, word)
        writer.update("images", image["id"], status=states.after(image, action))
        return image_from(writer, writer.get("images", image["id"]))

    return change_one(context, action, "image", word, {}, work, image_from)


def _refuse_shelved(reader: Reader, image: Image) -> None:
    """Conflict when an image is all that there is of a server's disk."""
    server = reader.one(
        "SELECT name, shelved_nvram_id FROM servers "
        "WHERE ? IN (shelved_image_id, shelved_nvram_id) AND deleted_at IS NULL",
        image.id,
    )
    if server is not None:
        disk = "UEFI variables" if server["shelved_nvram_id"] == image.id else "root disk"
        raise Conflict(
            f"Image {image.name} is the {disk} of server {server['name']}, which is shelved. "
            "Nothing was deleted.",
            hint=f"stackctl unshelve {server['name']}   (it goes by itself then)",
        )


def delete_image(context: Context, word: str) -> Done[Image]:
    """Delete an image; its content goes when no other image has the same.

    Servers made from it keep their disks: hosts have their own copies. Conflict when protected.
    """

    def work(writer: Writer) -> Image:
        row = own_image(context, writer, word)
        image = image_from(writer, row)
        if image.protected:
            raise Conflict(
                f"Image {image.name} is protected and cannot be deleted.",
                hint=f"stackctl image-set {image.id} --unprotected",
            )
        _refuse_shelved(writer, image)
        writer.update("images", image.id, status=states.after(row, "delete"), deleted_at=now())
        return image

    done = change_one(context, "delete", "image", word, {}, work, image_from)
    placing.sweep(context)
    return done


def _parts_of(context: Context, reader: Reader, wanted: NewImage) -> dict[str, str | None]:
    """The ids of the kernel and ramdisk images that are named."""
    named = (("kernel", wanted.kernel, "aki"), ("ramdisk", wanted.ramdisk, "ari"))
    ids: dict[str, str | None] = {}
    for noun, word, disk_format in named:
        ids[f"{noun}_id"] = None
        if word is not None:
            image = usable_image(context, reader, word)
            states.after(image, "boot-with")
            if image["disk_format"] not in (disk_format, "raw"):
                raise Conflict(
                    f"Image {image['name']} is no {noun}: its disk format is "
                    f"{image['disk_format']}, not {disk_format}."
                )
            ids[f"{noun}_id"] = image["id"]
    return ids
