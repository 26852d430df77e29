"""Cloud images that the distributions publish: a list of addresses, and of files of checksums.

The list is playbooks/images/catalogue.yaml, or the file that config.yaml names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from stackctl.errors import NotFound, ResourceFailed, UsageError
from stackctl.identity.context import Context
from stackctl.image.types import NewImage, Url
from stackctl.state import Cloud
from stackctl.stores.web import checked_url, download

SUMS_LIMIT_BYTES = 1 << 20

# As sha256sum prints it (a star before the name of a binary file), and as with --tag.
_PLAIN = re.compile(r"([0-9a-fA-F]{64}|[0-9a-fA-F]{128})\s+\*?(?:\./)?(\S+)")
_TAGGED = re.compile(r"SHA(?:256|512) \((\S+)\) = ([0-9a-fA-F]{64}|[0-9a-fA-F]{128})")


@dataclass(frozen=True)
class Published:
    """One image of the list. ``sums``: where its checksum is."""

    name: str
    url: str
    sums: str
    min_disk_gb: int | None = None
    min_ram_mb: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)


def published(cloud: Cloud) -> list[Published]:
    """All images of the list."""
    where, text = _list(cloud)
    import yaml

    try:
        entries = yaml.safe_load(text) or {}
        return [_entry(str(name), values) for name, values in entries.items()]
    except (yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{where} is not a catalogue of images: {error}.") from None


def find_published(cloud: Cloud, name: str) -> Published:
    """The image of this name."""
    entries = published(cloud)
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries)
    raise NotFound(
        f"There is no image '{name}' in the catalogue; there is {known}.",
        hint="stackctl image-catalogue   (or: image-create NAME --url URL)",
    )


def is_published(cloud: Cloud, name: str) -> bool:
    """Whether the list has an image of this name."""
    return any(entry.name == name for entry in published(cloud))


def from_catalogue(context: Context, name: str, wanted: NewImage) -> tuple[NewImage, Url]:
    """What is to be created from the catalogue's image ``name``, with its checksum of today.

    What ``wanted`` says itself counts more.
    """
    entry = find_published(context.cloud, name)
    digest = checksum(entry)
    given_ram, given_disk = wanted.min_ram_mb, wanted.min_disk_gb
    sums: dict[str, str] = {"expected_sha256" if len(digest) == 64 else "expected_sha512": digest}
    full = replace(
        wanted,
        min_disk_gb=entry.min_disk_gb if given_disk is None else given_disk,
        min_ram_mb=given_ram or entry.min_ram_mb,
        properties={**entry.properties, **wanted.properties},
        **sums,  # type: ignore[arg-type]
    )
    return full, Url(entry.url)


def checksum(entry: Published) -> str:
    """The hexadecimal SHA-256 or SHA-512 of an image, by the file of checksums beside it."""
    name = unquote(urlsplit(entry.url).path).rpartition("/")[2]
    with download(entry.sums, SUMS_LIMIT_BYTES) as response:
        content = b""
        for piece in response.pieces():
            content += piece
            if len(content) > SUMS_LIMIT_BYTES:
                raise ResourceFailed(f"{entry.sums} is no file of checksums: it is too long.")
    found = _sums(content.decode(errors="replace")).get(name)
    if found is None:
        raise ResourceFailed(
            f"{entry.sums} has no checksum of {name}, so the image cannot be trusted. "
            "Nothing was fetched.",
            hint=f"stackctl image-create {entry.name} --url {entry.url} --sha256 ...",
        )
    return found


def _sums(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if match := _PLAIN.fullmatch(line.strip()):
            found[match[2]] = match[1].lower()
        elif match := _TAGGED.fullmatch(line.strip()):
            found[match[1]] = match[2].lower()
    return found


def _list(cloud: Cloud) -> tuple[str, str]:
    other = cloud.config["image_catalogue"]
    if other is None:
        file = resources.files("playbooks") / "images" / "catalogue.yaml"
        return "playbooks/images/catalogue.yaml", file.read_text(encoding="utf-8")
    path = cloud.folder / Path(str(other))
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The catalogue of images {path} cannot be read: {error}.") from None


def _entry(name: str, values: Mapping[str, Any]) -> Published:
    min_disk = values.get("min_disk")
    return Published(
        name=name,
        url=checked_url(str(values["url"])),
        sums=checked_url(str(values["sums"])),
        min_disk_gb=None if min_disk is None else int(min_disk),
        min_ram_mb=int(values.get("min_ram", 0)),
        properties={str(key): str(value) for key, value in values.get("properties", {}).items()},
    )
