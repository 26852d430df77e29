"""The front door: finds the command, runs it, and turns whatever happens into an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from stackctl.cli import commands
from stackctl.cli.frame import Settings, global_options, with_trace_kind
from stackctl.cli.render import printable
from stackctl.errors import StackctlError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "stackctl"
COMPLETE_VARIABLE = "_STACKCTL_COMPLETE"
INTERRUPTED = 130
BROKEN_PIPE = 141
BUG = 70
USAGE = 2


class FrontDoor(click.Group):
    """A group that imports the module of a command only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, as they stand in the table."""
        return list(commands.listed())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        return commands.load(cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``--trace`` alone means text."""
        return super().parse_args(ctx, with_trace_kind(ctx, args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Accept OpenStack's spelling (``server list``); suggest near names for an unknown one."""
        name, used = args[0], 1
        meant: list[str] = []
        known = name in commands.COMMANDS
        meaning = commands.spelled(args) if known else commands.translate(args)
        if meaning is not None:
            used = meaning[1]
            name, *meant = meaning[0].split()
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            raise click.UsageError(_no_command(args), ctx)
        return (name if command else None), command, [*meant, *args[used:]]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names from the table (click's own way would import every module), then options."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=entry.help)
            for name, entry in commands.listed().items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview under headings, from the table alone."""
        listed = commands.listed()
        width = max(map(len, listed))
        for panel in commands.PANELS:
            lines = [
                (name.ljust(width), entry.help)
                for name, entry in listed.items()
                if entry.panel == panel
            ]
            if lines:
                with formatter.section(panel):
                    formatter.write_dl(lines)

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run and exit; the only place where an exception becomes an exit status."""
        instruction = os.environ.get(COMPLETE_VARIABLE)
        if instruction:
            from click.shell_completion import shell_complete

            sys.exit(shell_complete(self, {}, PROGRAM, COMPLETE_VARIABLE, instruction))
        words = sys.argv[1:] if args is None else list(args)
        sys.exit(run(self, words or ["--help"]))


@click.command(
    cls=FrontDoor,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="stackctl COMMAND --help tells more of a command.",
)
@global_options
def cli() -> None:
    """An OpenStack without daemons: networks, servers and clusters on your own Linux hosts."""


def run(group: click.Group, args: list[str]) -> int:
    """Run a command line; whatever goes wrong is told on stderr. Returns the exit status."""
    chosen = Settings(no_color=_no_color())
    try:
        with group.make_context(PROGRAM, args, obj=chosen) as ctx:
            ctx.color = False if chosen.no_color else None
            group.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        _silence()
        return BROKEN_PIPE
    except BaseException as error:
        return report(error, chosen)
    return 0


def report(error: BaseException, chosen: Settings) -> int:
    """Tell what went wrong and return its exit status."""
    if chosen.debug and not isinstance(error, (click.exceptions.Abort, click.ClickException)):
        import traceback

        _tell("".join(traceback.format_exception(error)))
    if isinstance(error, StackctlError) and error.exit_status != BUG:
        _fail(error.message, error.hint, chosen)
        return error.exit_status
    if isinstance(error, click.ClickException):
        _fail(error.format_message(), _usage_hint(error), chosen)
        return USAGE
    if isinstance(error, KeyboardInterrupt):
        _tell(_wrapped("Interrupted. What was done is kept; 'stackctl recover' settles the rest."))
        return INTERRUPTED
    if isinstance(error, (click.exceptions.Abort, EOFError)):
        _tell("Stopped: nothing was changed.")
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BUG
    _fail(_bug(error), "" if chosen.debug else "the same command with --debug", chosen)
    return BUG


def main() -> NoReturn:
    """The entry point."""
    cli.main()


def _no_command(args: list[str]) -> str:
    import difflib

    advice = commands.instead(args)
    if advice is not None:
        return f"There is no command '{advice[0]}' here. {advice[1]}"
    names = list(commands.listed())
    said = typed = args[0]
    if typed in commands.NOUNS and len(args) > 1:
        said = f"{args[0]} {args[1]}"
        typed = f"{commands.NOUNS[args[0]]}{args[1]}"
    near = difflib.get_close_matches(typed, names, 3)
    noun = typed.removesuffix("s")
    if typed not in commands.NOUNS and noun in commands.NOUNS:
        near = [f"{commands.NOUNS[noun]}list"]
    if not near:
        return f"There is no command '{said}'."
    return f"There is no command '{said}'. Did you mean {' or '.join(near)}?"


def _usage_hint(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    return f"{ctx.command_path} --help" if ctx is not None else f"{PROGRAM} --help"


def _bug(error: BaseException) -> str:
    import traceback

    said = str(error).strip()
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    what = type(error).__name__ + (f": {said}" if said else "")
    return (
        f"This is a bug in stackctl, not something you did: {what}{where}. What was done is kept; "
        "'stackctl recover' settles it. Please report it with the command that you typed."
    )


def _fail(message: str, hint: str, chosen: Settings) -> None:
    colour = False if chosen.no_color else None
    head, _, rest = _wrapped(f"Error: {message}").partition(" ")
    click.echo(f"{click.style(head, fg='red', bold=True)} {rest}", err=True, color=colour)
    if hint:
        click.echo(f"Try: {printable(hint)}", err=True)


def _tell(text: str) -> None:
    click.echo(printable(text), err=True)


def _wrapped(text: str) -> str:
    """For a terminal, lines no longer than it is wide; a log gets its lines as they are."""
    lines = [line.rstrip() for line in printable(text).splitlines() if line.strip()]
    if not sys.stderr.isatty():
        return "\n".join(lines)
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size().columns, 100)
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in lines)


def _no_color() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _silence() -> None:
    """Nobody reads any more: the flush at the end must not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main()
