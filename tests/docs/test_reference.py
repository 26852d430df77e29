"""docs/reference.md says what the commands are now."""

import importlib.util
from pathlib import Path

import click
import pytest

from stackctl.cli import commands

ROOT = Path(__file__).parents[2]


def generator():
    path = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("reference_generator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_is_fresh():
    module = generator()
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python docs/generate.py"


@pytest.mark.parametrize("name", commands.listed())
def test_every_command_imports_and_says_what_it_does(name):
    command = commands.load(name)
    assert command is not None, f"stackctl/cli/{commands.COMMANDS[name].module}.py has no '{name}'"
    assert command.help
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"{name} {param.opts[0]} has no help"


def test_every_command_has_a_heading():
    headings = {entry.panel for entry in commands.COMMANDS.values()}
    assert headings == set(commands.PANELS)
