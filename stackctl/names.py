"""Names that people give to things: any Unicode text, as long as it is one visible line.

And how many of them a sentence names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from stackctl.errors import UsageError

NAME_MAX = 255
NAMED_AT_MOST = 10


def checked_name(noun: str, text: str) -> str:
    """The text as a name; UsageError when it is empty, too long or not one visible line.

    Control characters, line separators and lone surrogates would end up in terminals, logs and
    documents for guests, where they mean something else.
    """
    if not text.strip():
        raise UsageError(f"A {noun} needs a name that is not empty.")
    if len(text) > NAME_MAX:
        raise UsageError(f"The name of a {noun} has at most {NAME_MAX} characters.")
    refuse_control_characters(f"name of a {noun}", text)
    return text


def refuse_control_characters(what: str, text: str) -> None:
    """UsageError when a text is not one visible line; ``what`` says whose text it is."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise UsageError(
                f"The {what} holds a character that cannot be shown (U+{ord(character):04X})."
            )


def some(names: Sequence[str]) -> str:
    """Names for a sentence: the first ten, and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
