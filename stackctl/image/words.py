"""What may be said of an image: names, formats, sizes, properties and tags, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from stackctl.errors import UsageError
from stackctl.image.hardware_words import check_hardware
from stackctl.image.types import (
    CONTAINER_FORMATS,
    DISK_FORMATS,
    VISIBILITIES,
    ImageChange,
    NewImage,
)
from stackctl.names import checked_name, refuse_control_characters

MAX_PROPERTIES = 128
MAX_TAGS = 128
PROPERTY_LIMIT = 1024

_PROPERTY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}")
# What an image has of its own is no property: a guest would be made as if nothing had been said.
_OPTIONS = {
    "disk_format": "--disk-format of image-create",
    "container_format": "--container-format of image-create",
    "hidden": "--hidden or --unhidden",
    "min_disk": "--min-disk",
    "min_ram": "--min-ram",
    "name": "--name",
    "os_hidden": "--hidden or --unhidden",
    "protected": "--protected or --unprotected",
    "status": "image-activate or image-deactivate",
    "tags": "--tag",
    "visibility": "--public, --private, --shared or --community",
}

_HEX = re.compile(r"[0-9a-f]+")


def check_new(wanted: NewImage) -> None:
    """Refuse words that make no sense for a new image."""
    checked_name("image", wanted.name)
    check_choice("disk format", wanted.disk_format, DISK_FORMATS)
    check_choice("container format", wanted.container_format or None, CONTAINER_FORMATS)
    check_choice("visibility", wanted.visibility, VISIBILITIES)
    check_sizes(wanted.min_disk_gb, wanted.min_ram_mb)
    checked_properties(wanted.properties)
    checked_tags(wanted.tags)
    check_sums(wanted.expected_sha256, wanted.expected_sha512)
    if wanted.ramdisk is not None and wanted.kernel is None:
        raise UsageError("A ramdisk is of no use without a kernel (--kernel).")
    if wanted.kernel is not None and wanted.disk_format in ("aki", "ari"):
        raise UsageError("A kernel or ramdisk image does not have a kernel of its own.")


def check_change(change: ImageChange) -> None:
    """Refuse words that make no sense for an image that is there."""
    if change.name is not None:
        checked_name("image", change.name)
    check_choice("visibility", change.visibility, VISIBILITIES)
    check_sizes(change.min_disk_gb, change.min_ram_mb)


def check_choice(what: str, value: str | None, known: tuple[str, ...]) -> None:
    """Refuse what is none of the known words."""
    if value is not None and value not in known:
        raise UsageError(f"'{value}' is not a {what} here: use one of {', '.join(known)}.")


def check_sizes(min_disk_gb: int | None, min_ram_mb: int | None) -> None:
    """Refuse sizes that no flavor has."""
    for size in (min_disk_gb, min_ram_mb):
        if size is not None and not 0 <= size < 1 << 31:
            raise UsageError(f"A minimum of {size} makes no sense.")


def check_sums(sha256: str | None, sha512: str | None) -> None:
    """Refuse what is no SHA-256 or SHA-512."""
    for digits, text in ((64, sha256), (128, sha512)):
        if text is not None and (len(text) != digits or not _HEX.fullmatch(text.lower())):
            raise UsageError(f"A SHA-{digits * 4} has {digits} hexadecimal digits.")


def checked_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties themselves, when all of them can be kept."""
    if len(properties) > MAX_PROPERTIES:
        raise UsageError(f"An image has at most {MAX_PROPERTIES} properties.")
    for key, value in properties.items():
        if not _PROPERTY.fullmatch(key):
            raise UsageError(f"'{key[:100]}' cannot be the name of a property.")
        if key in _OPTIONS:
            raise UsageError(f"'{key}' is no property: use {_OPTIONS[key]}.")
        if len(value) > PROPERTY_LIMIT:
            raise UsageError(f"Property {key} has more than {PROPERTY_LIMIT} characters.")
        refuse_control_characters(f"property {key}", value)
    check_hardware(properties)
    return dict(properties)


def checked_tags(tags: Iterable[str]) -> list[str]:
    """The tags, each once, in order of the alphabet."""
    found = sorted(set(tags))
    if len(found) > MAX_TAGS:
        raise UsageError(f"An image has at most {MAX_TAGS} tags.")
    return [checked_name("tag", tag) for tag in found]
