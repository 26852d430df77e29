"""What every noun module stands on: the decorators that give a command its common options.

A noun module parses words, calls one service function and renders what comes back::

    import click

    from stackctl import network                          # the services: one package per noun
    from stackctl.cli import words
    from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, lists, shows
    from stackctl.cli.render import Column, size
    from stackctl.identity.context import Context

    COLUMNS = (
        Column("ID", "id"),                               # attribute (or key) of the row
        Column("Name", "name"),
        Column("Subnets", lambda net: [subnet.cidr for subnet in net.subnets]),
        Column("MTU", "mtu", extra=True),                 # only with -c MTU
    )

    @command("net-create")                                # always outermost, named as in COMMANDS
    @changes                                              # --dry-run, --request-id
    @shows(COLUMNS)                                       # -f, -c; the function gets an Output
    @click.argument("name")
    @click.option("--shared", is_flag=True, help="All projects may use it.")
    def net_create(context: Context, output: Output, name: str, shared: bool) -> None:
        \"\"\"Create a network. The docstring is the text of ``net-create --help``.\"\"\"
        done = network.create_network(context, name, shared=shared)
        output.show(done.value)                           # first what there is,
        finish(context, done)                             # then what failed, and the exit status

    @command("net-list")
    @lists(COLUMNS)
    def net_list(context: Context, output: Output) -> None:
        \"\"\"List networks.\"\"\"
        output.list(network.list_networks(context))

    @command("net-delete")
    @changes
    @destroys                                             # --yes; makes ``confirm`` answerable
    @click.argument("networks", nargs=-1, required=True, type=words.NETWORK)
    def net_delete(context: Context, networks: tuple[str, ...]) -> None:
        \"\"\"Delete networks.\"\"\"
        confirm(f"Delete {len(networks)} networks?")
        finish(context, network.delete_networks(context, list(networks)))

The function is given, in this order: the Context (not with ``command(..., cloud=False)``), the
Output (with ``lists`` or ``shows``), then its own options by name. ``words`` has the types of
arguments: names that complete, LocalFile, Size, Pair, Fields. A module adds its commands to
stackctl/cli/commands.py. Errors are raised, never printed: main.py maps them.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stackctl.cli import render
from stackctl.errors import Conflict, UsageError

if TYPE_CHECKING:
    from stackctl.cli.render import Column
    from stackctl.cli.watch import Terminal
    from stackctl.identity.context import Context, Watch
    from stackctl.operation.outcome import Done, PlannedStep

DEFAULT_CLOUD = "default"

Function = TypeVar("Function", bound=Callable[..., Any])

_VERBS = {"made": "make", "changed": "change", "removed": "remove", "orphan": "leave alone"}


@dataclass
class Settings:
    """What the global options said, and what the command at hand was told."""

    cloud: str | None = None
    debug: bool = False
    trace: str | None = None
    no_color: bool = False
    dry_run: bool = False
    request_id: str | None = None
    yes: bool = False
    format: str = "table"
    titles: tuple[str, ...] = ()
    long: bool = False
    terminal: Terminal | None = field(default=None, repr=False)

    @property
    def cloud_name(self) -> str:
        """The cloud that was asked for, or the default one."""
        return self.cloud or os.environ.get("STACKCTL_CLOUD") or DEFAULT_CLOUD


@dataclass(frozen=True)
class Output:
    """Prints results in the format and with the columns that were asked for."""

    format: str
    columns: Sequence[Column]

    def list(self, items: Iterable[Any]) -> None:
        """Print many things, a line each."""
        click.echo(render.rows(self.format, self.columns, items, terminal_width()), nl=False)

    def show(self, item: Any) -> None:
        """Print one thing, a line for each of its fields."""
        click.echo(render.one(self.format, self.columns, item, terminal_width()), nl=False)


class Verb(click.Command):
    """A command of a noun module."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``--trace`` alone means text."""
        return super().parse_args(ctx, with_trace_kind(ctx, args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own options first, then those that most commands have."""
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                (own if param.expose_value else common).append(record)
        for heading, records in (("Options", own), ("Common options", common)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def with_trace_kind(ctx: click.Context, words: list[str]) -> list[str]:
    """The words with ``--trace`` as ``--trace=text``, so that the next word is never its value.

    What stands behind ``--``, or behind the first word of a command that hands the rest on (ssh),
    is not ours.
    """
    for at, word in enumerate(words):
        is_value = at > 0 and words[at - 1] == "--cloud"
        ends = not ctx.allow_interspersed_args and not word.startswith("-") and not is_value
        if word == "--" or ends:
            return words
        if word == "--trace":
            words = [*words[:at], "--trace=text", *words[at + 1 :]]
    return words


def settings(ctx: click.Context | None = None) -> Settings:
    """What the options of this run said."""
    root = (ctx or click.get_current_context()).find_root()
    return root.ensure_object(Settings)


def watch() -> Watch:
    """Where services tell what goes on: bars on a terminal, --trace, warnings on stderr."""
    from stackctl.cli.watch import Terminal

    chosen = settings()
    if chosen.terminal is None:
        chosen.terminal = Terminal(trace=chosen.trace, colour=not chosen.no_color)
        click.get_current_context().find_root().call_on_close(chosen.terminal.close)
    return chosen.terminal.watch()


def new_context() -> Context:
    """The Context of this command: the operator, in the cloud that was asked for."""
    from stackctl.identity.context import admin_context
    from stackctl.state import existing_cloud

    chosen = settings()
    return admin_context(
        existing_cloud(chosen.cloud_name),
        dry_run=chosen.dry_run,
        request_id=chosen.request_id,
        watch=watch(),
    )


def command(
    name: str, *, cloud: bool = True, **extra: Any
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a command. It gets a Context first, unless ``cloud`` is False.

    ``extra`` goes to click (``context_settings``, ``epilog``).
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        columns: Sequence[Column] | None = getattr(function, "columns", None)

        @functools.wraps(function)
        def run(**values: Any) -> Any:
            chosen = settings()
            given: list[Any] = []
            # -c is checked before anything is done: a wrong one must not change the world.
            output = columns and Output(chosen.format, _chosen(columns, chosen))
            if cloud:
                given.append(new_context())
            if output:
                given.append(output)
            return function(*given, **values)

        make: Callable[..., click.Command] = click.command(name, cls=Verb, **extra)
        return make(global_options(run))

    return decorate


def _chosen(columns: Sequence[Column], said: Settings) -> Sequence[Column]:
    return columns if said.long and not said.titles else render.choose(columns, said.titles)


def global_options(function: Function) -> Function:
    """The options that stand before or after the command."""
    decorators = (
        _stored("--cloud", metavar="NAME", help="The cloud to use (STACKCTL_CLOUD)."),
        _stored("--debug", is_flag=True, help="Show tracebacks."),
        _stored(
            "--trace",
            type=click.Choice(["text", "json"]),
            metavar="[=text|json]",
            help="Print each step with its time.",
        ),
        _stored("--no-color", is_flag=True, help="No colours (NO_COLOR)."),
    )
    return _apply(decorators, function)


def changes(function: Function) -> Function:
    """Add --dry-run and --request-id: for every command that changes something."""
    decorators = (
        _stored("--dry-run", is_flag=True, help="Say what would be done; change nothing."),
        _stored("--request-id", metavar="ID", help="Repeating the command with it is harmless."),
    )
    return _apply(decorators, function)


def destroys(function: Function) -> Function:
    """Add --yes: for commands that ``confirm`` because data dies."""
    return _apply((_stored("--yes", "-y", is_flag=True, help="Do not ask."),), function)


def lists(columns: Sequence[Column]) -> Callable[[Function], Function]:
    """Add -f and -c; the function gets an Output with these columns."""
    titles = ", ".join(column.title for column in columns)
    extra = any(column.extra for column in columns)

    def decorate(function: Function) -> Function:
        function.columns = columns  # type: ignore[attr-defined]
        decorators = [
            _stored(
                "-f",
                "--format",
                type=click.Choice(render.FORMATS),
                help="How to print the result (default: table).",
            ),
            _stored(
                "-c",
                "--column",
                "titles",
                multiple=True,
                metavar="COLUMN",
                help=f"Print only this column; repeatable. Columns: {titles}.",
            ),
            # Accepted by all, as OpenStack's scripts say it; told where it makes a difference.
            _stored("--long", is_flag=True, hidden=not extra, help="Print all columns."),
        ]
        return _apply(decorators, function)

    return decorate


shows = lists
"""The same options for a command that shows one thing."""


def confirm(question: str) -> None:
    """Ask before data dies; no question with --yes or --dry-run, or when nobody can answer."""
    if asks():
        click.confirm(render.printable(question), abort=True, err=True)


def asks() -> bool:
    """Whether ``confirm`` would ask."""
    chosen = settings()
    return not chosen.yes and not chosen.dry_run and is_terminal()


def promise_off(host: str, consequence: str) -> None:
    """A fence: the operator's typed word. Without a terminal only --yes can give it."""
    chosen = settings()
    if chosen.yes or chosen.dry_run:
        return
    if not is_terminal():
        raise UsageError(
            f"Somebody must say that {host} is off. Nothing was done.",
            hint="make sure that it is, then add --yes",
        )
    say(f"If {host} still runs, two copies of a server can destroy its data; {consequence}.")
    if click.prompt(f"Type '{host}' if it is off and stays off", err=True) != host:
        raise Conflict("The name does not match. Nothing was done.")


def confirm_host_key(host: str, fingerprint: str) -> bool:
    """Show the key that a host presents and ask whether it is the right one.

    Without a terminal nobody can compare it: then the key has to be given.
    """
    if not is_terminal():
        raise UsageError(
            f"Host {host} shows the key {fingerprint}, which nobody is here to confirm. "
            "Nothing was done.",
            hint=f"stackctl host-add {host} --host-key '...' with the line that ssh-keyscan prints",
        )
    click.echo(f"The key of host {render.printable(host)} is {fingerprint}.", err=True)
    return click.confirm("Is that the key of this host?", err=True)


def terminal_width() -> int | None:
    """How wide a table may be: as the terminal that it is printed on; elsewhere as it likes."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def say(text: str) -> None:
    """A line for people, on stderr, so that stdout holds nothing but results."""
    click.echo(render.printable(text), err=True)


def finish(context: Context, done: Done[Any]) -> None:
    """End a command that changed something: print the rehearsal, then raise what failed."""
    if context.dry_run:
        # A format for programs must stay one document.
        aside = settings().format != "table"
        for line in rehearsal(done.planned):
            click.echo(line, err=aside)
    done.check()


def rehearsal(steps: Sequence[PlannedStep]) -> list[str]:
    """What --dry-run says that hosts would do, a line each."""
    lines = [
        f"host {step.host}: {_VERBS.get(step.result, step.result)} {step.kind} "
        + (step.name or step.id)
        + (f" ({step.why})" if step.why else "")
        for step in steps
    ]
    end = "Dry run: nothing was changed." if steps else "Dry run: no host would do anything."
    return [*map(render.printable, lines), end]


def _apply(decorators: Sequence[Callable[[Any], Any]], function: Function) -> Function:
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def _stored(*names: str, **settings_: Any) -> Callable[[Any], Any]:
    """An option whose value goes into Settings, whether it stands before or after the command."""
    return click.option(*names, expose_value=False, callback=_store, **settings_)


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    # Not given (None, False, ()): what was said before the command stays.
    if value and param.name is not None:
        setattr(settings(ctx), param.name, value)
