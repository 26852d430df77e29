"""From what a person types (a name, an id, the unique beginning of an id) to a row."""

from __future__ import annotations

import re

from stackctl.errors import NotFound
from stackctl.names import some
from stackctl.state.db import Reader, Row

_ID_START = re.compile(r"[0-9a-f][0-9a-f-]{3,35}")


def find(
    reader: Reader,
    table: str,
    word: str,
    *,
    noun: str,
    where: str = "1",
    parameters: tuple[str, ...] = (),
) -> Row:
    """The live row that ``word`` means: an id, a name, or the unique beginning of an id.

    ``where`` narrows what the asker can see. NotFound when there is none, or more than one.
    """
    visible = f"SELECT * FROM {table} WHERE deleted_at IS NULL AND ({where})"
    rows = reader.all(f"{visible} AND id = ?", *parameters, word)
    rows = rows or reader.all(f"{visible} AND name = ?", *parameters, word)
    if not rows and _ID_START.fullmatch(word):
        rows = reader.all(f"{visible} AND id >= ? AND id < ?", *parameters, word, word + "g")
    if not rows:
        raise NotFound(f"There is no {noun} '{word}'.", hint=f"stackctl {list_command(noun)}")
    if len(rows) > 1:
        ids = some([str(row["id"]) for row in rows])
        raise NotFound(f"More than one {noun} is called '{word}': {ids}. Give the id instead.")
    return rows[0]


def list_command(noun: str) -> str:
    """The command that lists things of this kind."""
    names = {"server": "list", "network": "net-list", "floating IP": "floatingip-list"}
    return names.get(noun, f"{noun.replace(' ', '-')}-list")
