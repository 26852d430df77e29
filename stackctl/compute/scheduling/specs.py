"""Extra specs of flavors: what a value such as ``>= 4`` or ``<in> avx`` asks of a capability."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

_NUMBERS: Mapping[str, Callable[[float, float], bool]] = {
    # Nova's "=" means "at least", which is what its oldest specs meant.
    "=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
}

_TEXTS: Mapping[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s>=": operator.ge,
    "s>": operator.gt,
    "s<=": operator.le,
    "s<": operator.lt,
}

_SETS = ("<in>", "<all-in>", "<or>")

OPERATORS = (*_NUMBERS, *_TEXTS, *_SETS)


def matches(value: Any, wanted: str) -> bool:
    """Whether a capability satisfies the value of an extra spec; without an operator: is equal."""
    words = wanted.split()
    if not words or words[0] not in OPERATORS:
        return _text(value) == wanted
    sign, rest = words[0], words[1:]
    if sign in _NUMBERS:
        return _compare_numbers(_NUMBERS[sign], value, " ".join(rest))
    if sign in _TEXTS:
        return _TEXTS[sign](_text(value), " ".join(rest))
    return _in_set(sign, value, [word for word in rest if word != sign])


def lookup(capabilities: Mapping[str, Any], path: list[str]) -> Any:
    """The capability at a path of names (``cpu_info``, ``arch``); None when there is none."""
    found: Any = capabilities
    for name in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def _compare_numbers(compare: Callable[[float, float], bool], value: Any, wanted: str) -> bool:
    try:
        return compare(float(value), float(wanted))
    except (TypeError, ValueError):
        return False


def _in_set(sign: str, value: Any, words: list[str]) -> bool:
    if sign == "<or>":
        return _text(value) in words
    # A text holds another, a list holds an item.
    has = [str(item) for item in value] if isinstance(value, (list, tuple)) else _text(value)
    return bool(words) and all(word in has for word in words)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)
