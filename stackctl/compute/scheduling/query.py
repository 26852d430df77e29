"""The hint ``query``: an expression about hosts, as JSON: ``[">=", "$free_ram_mb", 4096]``."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stackctl.compute.scheduling.specs import lookup
from stackctl.compute.scheduling.types import ATTRIBUTES, FACTS
from stackctl.errors import UsageError

MOST_CHARACTERS = 4096
DEEPEST = 16

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}

OPERATORS = (*_COMPARISONS, "in", "not", "or", "and")


def parse_query(text: str) -> Any:
    """The expression of a query; UsageError says what is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"The hint query has more than {MOST_CHARACTERS} characters.")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The hint query is not JSON: {error}.", hint=_example()) from None
    if not isinstance(parsed, list):
        raise UsageError("The hint query is a JSON list.", hint=_example())
    _check(parsed, 1)
    return parsed


def holds(query: Any, capabilities: Mapping[str, Any]) -> bool:
    """Whether a host with these capabilities satisfies a query."""
    return bool(_value(query, capabilities))


def _check(part: Any, depth: int) -> None:
    if isinstance(part, str) and part.startswith("$"):
        _check_variable(part)
    if not isinstance(part, list):
        return
    if depth > DEEPEST:
        raise UsageError(f"The hint query is nested more than {DEEPEST} deep.")
    if len(part) < 2 or part[0] not in OPERATORS:
        known = ", ".join(OPERATORS)
        raise UsageError(
            f"In the hint query, {json.dumps(part)[:80]} does not begin with one of {known}, "
            "or has nothing behind it.",
            hint=_example(),
        )
    for item in part[1:]:
        _check(item, depth + 1)


def _check_variable(word: str) -> None:
    name = word[1:].partition(".")[0]
    if name not in ATTRIBUTES and name not in FACTS:
        known = ", ".join(f"${item}" for item in (*ATTRIBUTES, *FACTS))
        raise UsageError(f"The hint query asks about {word}; what can be asked: {known}.")


def _value(part: Any, capabilities: Mapping[str, Any]) -> Any:
    if isinstance(part, str) and part.startswith("$"):
        return lookup(capabilities, part[1:].split("."))
    if not isinstance(part, list):
        return part
    return _apply(part[0], [_value(item, capabilities) for item in part[1:]])


def _apply(sign: str, values: Sequence[Any]) -> bool:
    if sign == "not":
        return not any(values)
    if sign == "and":
        return all(values)
    if sign == "or":
        return any(values)
    if sign == "in":
        return values[0] in values[1:]
    try:
        return all(_COMPARISONS[sign](values[0], value) for value in values[1:])
    except TypeError:
        return False  # what cannot be compared, or is not known of this host


def _example() -> str:
    return """stackctl boot ... --hint query='[">=", "$free_ram_mb", 4096]'"""
