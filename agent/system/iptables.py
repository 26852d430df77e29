"""netfilter rules through iptables-save and iptables-restore: one look, one atomic change."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent import killpoint
from agent.system.run import CommandFailed, run

TIMEOUT_S = 20
_END = "# all of it\nCOMMIT"
_TOOLS = {4: "iptables", 6: "ip6tables"}

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


@dataclass(frozen=True)
class Found:
    """A chain as it is: its policy (``-`` for one that was added), and its rules in order."""

    policy: str
    rules: tuple[Rule, ...]


def look(version: int) -> dict[str, dict[str, Found]]:
    """Chains by table and name, of IP version 4 or 6, in the namespace of the calling thread."""
    policies: dict[str, dict[str, str]] = {}
    rules: dict[tuple[str, str], list[Rule]] = {}
    table = ""
    for line in run([_TOOLS[version] + "-save"], timeout_s=TIMEOUT_S).splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            policies.setdefault(table, {})[name] = policy
        elif line.startswith("-A "):
            words = tuple(shlex.split(line)[1:])
            rules.setdefault((table, words[0]), []).append(words[1:])
    return {
        table: {n: Found(policy, tuple(rules.get((table, n), ()))) for n, policy in chains.items()}
        for table, chains in policies.items()
    }


def replace(version: int, tables: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Make these tables hold what is given and nothing else, in the calling thread's namespace.

    Each table changes at once or not at all; connections that are known stay known.
    """
    killpoint.reached(f"IPv{version} rules about to be replaced")
    run([_TOOLS[version] + "-restore", "--wait", "10"], timeout_s=TIMEOUT_S, stdin=_text(tables))


def _text(tables: Mapping[str, Sequence[Sequence[str]]]) -> str:
    lines: list[str] = []
    for table, commands in tables.items():
        lines += [f"*{table}", *(_line(words) for words in commands), _END]
    return "\n".join(lines) + "\n"


def restore(tables: dict[str, Sequence[Sequence[str]]]) -> None:
    """Apply commands (``-I FORWARD 1 ...``, ``:chain - [0:0]``) by table; others stay as they are.

    Each table changes at once or not at all.
    """
    run(["iptables-restore", "--noflush", "--wait", "10"], timeout_s=TIMEOUT_S, stdin=_text(tables))


def _line(words: Sequence[str]) -> str:
    """Words as iptables-restore splits them; it knows no quotes but double ones."""
    for word in words:
        if not word or any(character.isspace() or character in "\"'\\" for character in word):
            raise CommandFailed(("iptables-restore",), f"{word!r} is not one clean word")
    return " ".join(words)
