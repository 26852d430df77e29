"""From the classes of the contract to plain JSON, and back: checked, and in one form only.

This module runs on both sides, like ``agent.spec``, which has its names, too.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class SpecError(ValueError):
    """A document that does not have the shape of the class it should become."""


def to_plain(value: Any) -> Any:
    """Turn a dataclass (or a tuple of them) into dicts, lists and scalars for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def from_plain(cls: type[T], data: Any) -> T:
    """Build ``cls`` from what ``to_plain`` made of it; SpecError says what does not fit."""
    if not isinstance(data, dict):
        raise SpecError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
    anything: Any = cls  # a bare type[T] does not count as hashable
    hints = _hints(anything)
    unknown = data.keys() - hints.keys()
    if unknown:
        raise SpecError(f"{cls.__name__}: unknown fields {sorted(unknown)}")
    values = {name: _convert(hints[name], item, cls, name) for name, item in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise SpecError(f"{cls.__name__}: {error}") from None


def canonical(value: Any) -> bytes:
    """The one JSON form of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical form: equal digests, equal values."""
    return hashlib.sha256(canonical(value)).hexdigest()


@functools.cache
def _field_names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: Any, owner: type, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Union:
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return None if value is None else _convert(inner, value, owner, name)
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), value, owner, name)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast("type[Any]", hint), value)
    # bool is a subclass of int: a flag where a number belongs is as wrong as the reverse.
    if type(value) is not hint:
        raise SpecError(
            f"{owner.__name__}.{name}: expected {hint.__name__}, got {type(value).__name__}"
        )
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, owner: type, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SpecError(f"{owner.__name__}.{name}: expected a list, got {type(value).__name__}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, owner, name) for item in value)
    if len(args) != len(value):
        raise SpecError(f"{owner.__name__}.{name}: expected {len(args)} items, got {len(value)}")
    return tuple(_convert(arg, item, owner, name) for arg, item in zip(args, value))
