"""What hosts say, made harmless: bounded, free of control characters, of the promised shape.

A host that was taken over must not harm the controller, the other hosts or the terminal.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from agent.wire import RESULTS, Fault, Report
from stackctl.errors import AgentFailed

TEXT_LIMIT = 4096
"""Characters kept of one text in a report, a fault or the facts of a host."""

VALUE_LIMIT = 2 * 1024 * 1024
"""Characters kept of one text in the result of an action (a console log is long)."""

MAX_DEPTH = 8
MAX_ITEMS = 10_000
MAX_REPORTS = 100_000
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/@-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEPT = {"\n": "\n", "\t": "\t"}


def text(value: Any, limit: int = TEXT_LIMIT) -> str:
    """A text without control, format or surrogate characters (line feeds and tabs stay)."""
    if not isinstance(value, str):
        raise AgentFailed(f"The agent sent {type(value).__name__} where a text belongs.")
    short = value[:limit]
    if short.isascii() and short.isprintable():
        return short
    return "".join(_KEPT.get(sign, "") if _is_control(sign) else sign for sign in short)


def _is_control(sign: str) -> bool:
    return unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def line(value: Any, limit: int = TEXT_LIMIT) -> str:
    """A text on one line."""
    return " ".join(text(value, limit).split())


def plain(value: Any, limit: int = TEXT_LIMIT, depth: int = MAX_DEPTH) -> Any:
    """Any JSON value with its texts made harmless; too deep or too many: AgentFailed."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0
    if isinstance(value, str):
        return text(value, limit)
    if depth == 0 or len(value) > MAX_ITEMS:
        raise AgentFailed("The agent sent a value that is nested too deeply or has too many items.")
    if isinstance(value, list):
        return [plain(item, limit, depth - 1) for item in value]
    return {line(key, 256): plain(item, limit, depth - 1) for key, item in value.items()}


def mapping(value: Any, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """A JSON object made harmless; None counts as an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AgentFailed(f"The agent sent {type(value).__name__} where an object belongs.")
    cleaned: dict[str, Any] = plain(value, limit)
    return cleaned


def number(value: Any) -> int:
    """A whole number that a database column can hold."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise AgentFailed(f"The agent sent {line(repr(value), 60)} where a number belongs.")
    return value


def hashes(value: Any, allowed: set[str]) -> list[str]:
    """The SHA-256s that an agent asks for; it may only ask for what it was told of."""
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise AgentFailed("The agent asked for contents in a way that makes no sense.")
    for item in value:
        if not isinstance(item, str) or not _SHA256.fullmatch(item) or item not in allowed:
            raise AgentFailed("The agent asked for a content that is not part of its spec.")
    return list(value)


def reports(value: Any) -> list[Report]:
    """The reports of one message."""
    if not isinstance(value, list) or len(value) > MAX_REPORTS:
        raise AgentFailed("The agent sent reports that are not a list, or far too many.")
    return [_report(item) for item in value]


def _report(item: Any) -> Report:
    if not isinstance(item, dict):
        raise AgentFailed("The agent sent a report that is not an object.")
    kind, id_, result = item.get("kind"), item.get("id"), item.get("result")
    if not isinstance(kind, str) or not _WORD.fullmatch(kind):
        raise AgentFailed("The agent sent a report of a kind that cannot be.")
    if not isinstance(id_, str) or not _ID.fullmatch(id_):
        raise AgentFailed(f"The agent sent a report of a {kind} whose id cannot be.")
    if result not in RESULTS:
        raise AgentFailed(f"The agent sent a report of {kind} {id_} with an unknown result.")
    seconds = item.get("seconds", 0.0)
    return Report(
        kind=kind,
        id=id_,
        result=result,
        version=number(item.get("version", 0)),
        facts=mapping(item.get("facts")),
        fault=None if item.get("fault") is None else fault(item["fault"]),
        seconds=float(seconds) if type(seconds) in (int, float) and 0 <= seconds < 1e9 else 0.0,
    )


def fault(value: Any) -> Fault:
    """Why something failed, in the engine's words."""
    if not isinstance(value, dict):
        return Fault(line(str(value)))
    return Fault(
        message=line(value.get("message", "")) or "no reason given",
        command=line(value.get("command", "")),
        detail=text(value.get("detail", "")),
    )
