"""What may be said of a server, however it is said: its properties and its tags."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from stackctl.errors import UsageError
from stackctl.names import refuse_control_characters

MAX_PROPERTIES = 128
MAX_TAGS = 50
PROPERTY_LIMIT = 255
TAG_LIMIT = 60


def with_properties(before: Mapping[str, str], changed: Mapping[str, str]) -> dict[str, str]:
    """The properties after a change; one that is set to "" is gone. UsageError: not possible."""
    for key, value in changed.items():
        _check_text("property", key, PROPERTY_LIMIT)
        _check_text(f"value of {key}", value, PROPERTY_LIMIT, empty=True)
    kept = {key: value for key, value in {**before, **changed}.items() if value != ""}
    _refuse_too_many("properties", kept, MAX_PROPERTIES)
    return kept


def with_tags(
    before: Collection[str], added: Collection[str], removed: Collection[str] = ()
) -> list[str]:
    """The tags after a change, in order. UsageError: not possible."""
    for tag in (*added, *removed):
        _check_text("tag", tag, TAG_LIMIT)
        if "," in tag or "/" in tag:
            raise UsageError(f"'{tag}' cannot be a tag: no commas and slashes.")
    tags = {*before, *added} - {*removed}
    _refuse_too_many("tags", tags, MAX_TAGS)
    return sorted(tags)


def _refuse_too_many(noun: str, kept: Collection[str], most: int) -> None:
    if len(kept) > most:
        raise UsageError(f"A server has at most {most} {noun}; these would be {len(kept)}.")


def _check_text(what: str, text: str, most: int, *, empty: bool = False) -> None:
    refuse_control_characters(what, text)
    if len(text) > most or not (text or empty):
        raise UsageError(f"A {what} has between 1 and {most} characters.")
