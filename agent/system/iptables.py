"""netfilter rules through iptables-save and iptables-restore: one look, one atomic change."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from agent.system.run import CommandFailed, run

TIMEOUT_S = 20
_END = "# all of it\nCOMMIT"

Rule = tuple[str, ...]
"""The words of a rule after ``-A``: chain first."""


def rules() -> dict[str, list[Rule]]:
    """All IPv4 rules by table, in their order."""
    tables: dict[str, list[Rule]] = {}
    table = ""
    for line in run(["iptables-save"], timeout_s=TIMEOUT_S).splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A "):
            tables.setdefault(table, []).append(tuple(shlex.split(line)[1:]))
    return tables


def restore(tables: dict[str, Sequence[Sequence[str]]]) -> None:
    """Apply commands (``-I FORWARD 1 ...``, ``:chain - [0:0]``) by table; others stay as they are.

    Each table changes at once or not at all.
    """
    lines: list[str] = []
    for table, commands in tables.items():
        lines += [f"*{table}", *(_line(words) for words in commands), _END]
    text = "\n".join(lines) + "\n"
    run(["iptables-restore", "--noflush", "--wait", "10"], timeout_s=TIMEOUT_S, stdin=text)


def _line(words: Sequence[str]) -> str:
    """Words as iptables-restore splits them; it knows no quotes but double ones."""
    for word in words:
        if not word or any(character.isspace() or character in "\"'\\" for character in word):
            raise CommandFailed(("iptables-restore",), f"{word!r} is not one clean word")
    return " ".join(words)
