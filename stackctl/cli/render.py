"""From rows to text: a table, JSON, YAML, CSV or bare values. Pure functions.

A noun declares its columns once. JSON and YAML keep numbers, lists and null as they are; the
table, CSV and bare values show them as people write them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackctl.errors import UsageError

FORMATS = ("table", "json", "yaml", "csv", "value")

# A time as the database has it; tables leave out what nobody reads.
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d+Z$")

# A column that is folded keeps this much.
_NARROWEST = 8

# Terminal commands (CSI, OSC), then what is left of control characters and direction overrides.
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Column:
    """A column: its title, where its value comes from, and how a person reads it.

    ``value`` is an attribute or key of the row, or a function of the row; ``text`` makes the
    readable form; an ``extra`` column is shown only when asked for with -c.
    """

    title: str
    value: str | Callable[[Any], Any]
    text: Callable[[Any], str] | None = None
    extra: bool = False

    def of(self, row: Any) -> Any:
        """The value of this column in a row."""
        if callable(self.value):
            return self.value(row)
        if isinstance(row, Mapping):
            return row[self.value]
        return getattr(row, self.value)

    def text_of(self, row: Any) -> str:
        """The value as a person reads it, without control characters."""
        value = self.of(row)
        if self.text is not None and value is not None:
            return printable(self.text(value))
        return human(value)


def choose(columns: Sequence[Column], titles: Sequence[str]) -> list[Column]:
    """The columns of these titles, in that order; those that are not extra when there are none."""
    if not titles:
        return [column for column in columns if not column.extra]
    by_title = {column.title.lower(): column for column in columns}
    for title in titles:
        if title.lower() not in by_title:
            known = ", ".join(column.title for column in columns)
            raise UsageError(f"There is no column '{title}'. The columns are: {known}.")
    return [by_title[title.lower()] for title in titles]


def rows(
    form: str, columns: Sequence[Column], items: Iterable[Any], width: int | None = None
) -> str:
    """Many things, a line (or an object) each. A table is folded to ``width``, if there is one."""
    items = list(items)
    if form in ("json", "yaml"):
        return _document(form, [_object(columns, item) for item in items])
    titles = [column.title for column in columns]
    cells = [[column.text_of(item) for column in columns] for item in items]
    if form == "csv":
        return _csv([titles, *cells])
    if form == "value":
        return "".join(" ".join(line) + "\n" for line in cells)
    numeric = [_is_numeric(column, items) for column in columns]
    return table(titles, cells, numeric, width)


def one(form: str, columns: Sequence[Column], item: Any, width: int | None = None) -> str:
    """One thing, a line for each of its fields."""
    if form in ("json", "yaml"):
        return _document(form, _object(columns, item))
    fields = [[column.title, column.text_of(item)] for column in columns]
    if form == "csv":
        return _csv([["Field", "Value"], *fields])
    if form == "value":
        return "".join(f"{text}\n" for _, text in fields)
    return table(["Field", "Value"], fields, width=width)


def table(
    titles: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool] = (),
    width: int | None = None,
) -> str:
    """The plain grid that OpenStack's clients draw; columns marked ``right`` are numbers."""
    from tabulate import tabulate

    cells = [[_TIME.sub(r"\1 \2Z", cell) for cell in line] for line in cells]
    if width is not None:
        titles, *cells = folded([titles, *cells], width)
    sides = ["right" if at < len(right) and right[at] else "left" for at in range(len(titles))]
    if not cells:
        # tabulate cannot draw a table without lines: let it draw an empty one and leave it out.
        drawn = tabulate([["-"] * len(titles)], titles, tablefmt="pretty", colalign=sides)
        lines = drawn.splitlines()
        del lines[-2]
        return "\n".join(lines) + "\n"
    return tabulate(cells, titles, tablefmt="pretty", colalign=sides) + "\n"


def folded(lines: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """The cells with line ends such that their grid is no wider than ``width``, if it can be.

    The widest column gives way first, and down to its longest word; only when all have done so
    are words broken.
    """
    from wcwidth import wcswidth, wrap

    columns = list(zip(*lines))
    widths = [max(map(wcswidth, _parts(column, "\n"))) for column in columns]
    words = [max(map(wcswidth, _parts(column, None)), default=0) for column in columns]
    spare = width - 3 * len(widths) - 1  # "| cell | cell |"
    for least in (words, [min(word, _NARROWEST) for word in words]):
        while sum(widths) > spare:
            wide = [have if have > low else 0 for have, low in zip(widths, least)]
            if not any(wide):
                break
            widths[wide.index(max(wide))] -= 1
    return [
        [
            "\n".join(
                piece
                for part in cell.split("\n")
                for piece in wrap(part, limit, break_on_hyphens=False) or [""]
            )
            for cell, limit in zip(line, widths)
        ]
        for line in lines
    ]


def _parts(cells: Iterable[str], separator: str | None) -> list[str]:
    return [part for cell in cells for part in cell.split(separator)]


def human(value: Any) -> str:
    """A value as a person reads it: nothing for null, lists with commas, key='value' pairs."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}='{human(item)}'" for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(human(item) for item in value)
    return printable(str(value))


def size(count: int) -> str:
    """Bytes as a person reads them: 1.5 GiB."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def printable(text: str) -> str:
    """The text without what would command a terminal; line ends and tabs stay."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text.replace("\r\n", "\n")))


def _object(columns: Sequence[Column], item: Any) -> dict[str, Any]:
    return {column.title: _plain(column.of(item)) for column in columns}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value)


def _document(form: str, content: Any) -> str:
    if form == "json":
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _csv(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _is_numeric(column: Column, items: Sequence[Any]) -> bool:
    values = [value for value in map(column.of, items) if value is not None]
    numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in values]
    return bool(numbers) and all(numbers)
