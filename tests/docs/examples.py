"""The commands that stand in documentation: found, parsed, and run in order.

A block of a page that begins with ```console holds what is typed on lines that begin with ``$ ``
(and what is printed, on the others); in a ```sh block every line is typed, or those with ``$ ``
if there are any. A block whose fence says ``skip`` (```console skip) is checked but not run.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from stackctl.cli import commands

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=indent)```", re.M | re.S)
STOPS = set("|&;<>()")


@dataclass(frozen=True)
class Example:
    """One typed command: where it stands, its text, whether a walk runs it."""

    page: Path
    line: int
    text: str
    runs: bool

    def __str__(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"


def pages() -> list[Path]:
    """Every page of documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def examples(page: Path) -> list[Example]:
    """The typed commands of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        words = match["info"].split()
        if not words or words[0] not in ("console", "sh"):
            continue
        first = text.count("\n", 0, match.start("body")) + 1
        for offset, typed in typed_lines(match["body"], bare=words[0] == "sh"):
            found.append(Example(page, first + offset, typed, "skip" not in words[1:]))
    return found


def typed_lines(body: str, *, bare: bool) -> Iterator[tuple[int, str]]:
    """(line, command) of a block; a backslash at the end of a line goes on in the next."""
    lines = body.splitlines()
    prompts = not bare or any(line.lstrip().startswith("$ ") for line in lines)
    at = 0
    while at < len(lines):
        begin, line = at, lines[at].strip()
        at += 1
        if not line.startswith("$ " if prompts else ("$ ", *STARTERS)):
            continue
        while line.endswith("\\") and at < len(lines):
            line = line[:-1] + lines[at].strip().removeprefix("> ")
            at += 1
        yield begin, line.removeprefix("$ ")


STARTERS = ("stackctl ", "./bin/", "bin/")


def calls(text: str) -> list[list[str]]:
    """The words after each ``stackctl`` of a line of shell."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = []
    inside = False
    begins = True
    for word in lexer:
        if set(word) <= STOPS:
            inside, begins = False, True
            continue
        if begins and word in ("stackctl", "bin/stackctl", "./bin/stackctl"):
            found.append([])
            inside = True
        elif inside:
            found[-1].append(word)
        # A variable before the command (A=1 stackctl ...) and sudo leave it the first word.
        begins = begins and (word == "sudo" or re.match(r"\w+=", word) is not None)
    return found


def problem(words: list[str]) -> str:
    """What is wrong with a command line; empty when its command and options exist."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        takes_value = rest.pop(0) == "--cloud"
        del rest[: int(takes_value)]
    if not rest:
        return ""
    name, used = rest[0], 1
    if name not in commands.COMMANDS:
        spelled, used = commands.translate(rest) or (name, 1)
        name = spelled.partition(" ")[0]
    if name not in commands.COMMANDS:
        return f"there is no command '{name}'"
    command = commands.load(name)
    if command is None:
        return "" if name not in commands.listed() else f"'{name}' is not in its module"
    return parse_problem(
        command, ["--trace=text" if word == "--trace" else word for word in rest[used:]]
    )


def parse_problem(command: click.Command, words: list[str]) -> str:
    """What the parser of a command says of its words, without running anything."""
    context = click.Context(command, info_name=command.name, **command.context_settings)
    try:
        values, left, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    if left and not command.allow_extra_args:
        return f"unexpected words: {' '.join(left)}"
    said = (param_problem(param, values.get(param.name or "")) for param in command.params)
    return "" if values.get("help") else next(filter(None, said), "")


def param_problem(param: click.Parameter, value: object) -> str:
    """What is wrong with the value of one argument or option."""
    if param.required and (not isinstance(value, (str, list, tuple)) or not value):
        return f"missing {param.human_readable_name}"
    known = param.type.choices if isinstance(param.type, click.Choice) else ()
    if known and isinstance(value, str) and value not in known:
        return f"'{value}' is none of {', '.join(known)}"
    return ""


@dataclass
class Walk:
    """Runs the examples of pages in order, as one person would type them into one shell."""

    environment: dict[str, str]
    folder: Path
    timeout_s: float = 600
    outputs: dict[str, str] = field(default_factory=dict)

    def page(self, page: Path) -> None:
        """Run every example of a page; each must end well."""
        for example in examples(page):
            if example.runs:
                self.run(example)

    def run(self, example: Example) -> str:
        """Run one example; AssertionError with what it printed when it fails."""
        done = self.shell(example.text)
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode == 0, f"{example}: $ {example.text}\nexit {done.returncode}\n{said}"
        self.outputs[str(example)] = done.stdout
        return done.stdout

    def end(self, text: str) -> None:
        """Clean up after pages; whether there was anything to clean does not matter."""
        self.shell(text)

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        """Type a line."""
        path = f"{ROOT / 'bin'}:{self.environment.get('PATH', os.environ['PATH'])}"
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {text}"],
            cwd=self.folder,
            env={**os.environ, **self.environment, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )
