"""Write docs/reference.md from the commands themselves: ``python docs/generate.py``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from stackctl import errors
from stackctl.cli import commands
from stackctl.cli.main import PROGRAM, cli

PAGE = Path(__file__).with_name("reference.md")
INTRODUCTION = """\
# Reference

Every command with its options, and the exit statuses. Written by `docs/generate.py` from the
commands themselves: change the command, then run `python docs/generate.py`.

OpenStack's spelling works, too: `stackctl server list` is `stackctl list`,
`stackctl network create` is `stackctl net-create`.

```console
$ stackctl --help
$ stackctl completion bash > stackctl.bash
$ stackctl version --help
```
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## Options of all commands\n", options(cli, set())]
    common = {name for param in cli.params for name in param.opts}
    for panel in commands.PANELS:
        names = [name for name, entry in commands.listed().items() if entry.panel == panel]
        if names:
            parts.append(f"## {panel}\n")
            parts.extend(section(name, common) for name in names)
    parts.append("## Exit statuses\n")
    parts.append("".join(f"{line}\n" for line in statuses()))
    return "\n".join(parts)


def section(name: str, common: set[str]) -> str:
    """One command: usage, text, options."""
    command = commands.load(name)
    if command is None:
        raise LookupError(f"{name} stands in the table of commands, but its module has no such one")
    context = click.Context(command, info_name=f"{PROGRAM} {name}")
    words = [word for param in command.params for word in usage(param, context)]
    typed = " ".join([f"{PROGRAM} {name}", *words, "[OPTIONS]"])
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    parts = [f"### {name}\n", f"    {typed}\n", f"{text}\n", options(command, common)]
    return "\n".join(part for part in parts if part.strip())


def usage(param: click.Parameter, context: click.Context) -> list[str]:
    """The arguments of a command as its usage shows them."""
    if isinstance(param, click.Argument):
        return [param.make_metavar(context)]
    return []


def options(command: click.Command, common: set[str]) -> str:
    """The table of a command's own options; empty when it has none."""
    context = click.Context(command)
    records = [
        record
        for param in command.params
        if isinstance(param, click.Option)
        and not common.intersection(param.opts)
        and (record := param.get_help_record(context))
    ]
    if not records:
        return ""
    lines = [f"| `{cell(name)}` | {cell(text)} |" for name, text in records]
    return "\n".join(["| option | what it does |", "| --- | --- |", *lines, ""])


def cell(text: str) -> str:
    """Text that cannot end its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def statuses() -> Iterator[str]:
    """The table of exit statuses, from the error vocabulary."""
    known = {
        0: ["Done."],
        1: ["The answer is no: a traced packet does not arrive."],
        130: ["Interrupted; what was done is kept."],
        141: ["Nobody reads."],
    }
    for kind in vars(errors).values():
        if not inspect.isclass(kind) or not issubclass(kind, errors.StackctlError):
            continue
        if kind is not errors.StackctlError:
            known.setdefault(kind.exit_status, []).append(inspect.getdoc(kind) or "")
    yield "| status | what happened |"
    yield "| --- | --- |"
    for status in sorted(known):
        yield f"| {status} | {cell(' '.join(known[status]))} |"


if __name__ == "__main__":
    main()
