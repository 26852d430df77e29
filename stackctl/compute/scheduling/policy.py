"""Which filters and weighers a cloud uses, with what limits: ``scheduler`` in its config.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stackctl.compute.scheduling.base import Filter
from stackctl.compute.scheduling.filters import ALWAYS, OPTIONAL
from stackctl.compute.scheduling.types import Request
from stackctl.compute.scheduling.weighers import WEIGHERS, Weigher
from stackctl.errors import UsageError

ENABLED = (
    "ComputeCapabilitiesFilter",
    "ImagePropertiesFilter",
    "ServerGroupAntiAffinityFilter",
    "ServerGroupAffinityFilter",
    "DifferentHostFilter",
    "SameHostFilter",
    "SimpleCIDRAffinityFilter",
    "JsonFilter",
)
"""Nova's own default, and those that say nothing until a hint asks them: a hint is never ignored
in silence."""

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Policy:
    """The filters and weighers of a cloud. ``max_attempts``: to how many hosts a server is given
    at most before its build is given up."""

    filters: tuple[Filter, ...]
    weighers: tuple[Weigher, ...]
    max_attempts: int = MAX_ATTEMPTS

    def has(self, name: str) -> bool:
        """Whether a filter is in use."""
        return any(item.name == name for item in self.filters)

    def filters_for(self, request: Request) -> tuple[Filter, ...]:
        """Those that matter for a request."""
        return tuple(item for item in self.filters if item.concerns(request))


def policy_of(settings: Mapping[str, Any] | None) -> Policy:
    """The policy that a configuration asks for; UsageError names what is not known in it."""
    settings = {} if settings is None else settings
    _refuse_unknown(settings)
    names = settings.get("enabled_filters", ENABLED)
    always = {item.name for item in ALWAYS}
    chosen = [_filter(name, settings) for name in dict.fromkeys(names) if name not in always]
    weighers = tuple(
        replace(item, multiplier=_number(settings, item.setting, item.multiplier))
        for item in WEIGHERS
    )
    attempts = settings.get("max_attempts", MAX_ATTEMPTS)
    if not isinstance(attempts, int) or attempts < 1:
        raise UsageError(f"scheduler: max_attempts {attempts!r} is not a number of 1 or more.")
    return Policy((*ALWAYS, *chosen), weighers, attempts)


def _filter(name: str, settings: Mapping[str, Any]) -> Filter:
    """A filter with the limits that the configuration gives it."""
    kind: Callable[..., Filter] = OPTIONAL[name]
    given = {key: settings[key] for key in OPTIONAL[name].limits if key in settings}
    return kind(**{key: _limit(key, value) for key, value in given.items()})


def _limit(key: str, value: Any) -> Any:
    wanted = bool if key.startswith("restrict_") else int if key.startswith("max_") else list
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UsageError(f"scheduler: {key} {value!r} is not {_KINDS[wanted]}.")
    return frozenset(map(str, value)) if isinstance(value, list) else value


_KINDS: Mapping[type, str] = {bool: "true or false", int: "a whole number", list: "a list"}


def _number(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"scheduler: {name} {value!r} is not a number.")
    return float(value)


def _refuse_unknown(settings: Any) -> None:
    if not isinstance(settings, Mapping):
        raise UsageError("scheduler: settings are NAME: VALUE pairs.")
    limits = [limit for kind in OPTIONAL.values() for limit in kind.limits]
    known = ["enabled_filters", "max_attempts", *limits, *(item.setting for item in WEIGHERS)]
    _refuse_others("setting", settings, known)
    names: Sequence[Any] = settings.get("enabled_filters", ENABLED)
    if not isinstance(names, (list, tuple)):
        raise UsageError("scheduler: enabled_filters is not a list of names of filters.")
    _refuse_others("filter", names, [*OPTIONAL, *(item.name for item in ALWAYS)])


def _refuse_others(what: str, given: Any, known: Sequence[str]) -> None:
    other = sorted(str(name) for name in given if name not in known)
    if other:
        raise UsageError(
            f"scheduler: there is no {what} {', '.join(other)}; there are {', '.join(known)}."
        )


DEFAULT_POLICY = policy_of({})
