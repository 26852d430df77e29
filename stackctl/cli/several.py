"""One action on several names: all are tried, then what failed is told at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from stackctl.cli.frame import finish, say
from stackctl.errors import PartlyDone, StackctlError, UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.operation.outcome import Done


def each_of(
    context: Context,
    names: Sequence[str],
    action: Callable[[Context, str], Done[Any]],
    told: str,
) -> None:
    """Do ``action`` for every name, going on when one fails; ``told`` says what was done to it.

    All failed: the first failure's status. Some failed: 40.
    """
    failures: list[StackctlError] = []
    for name in names:
        try:
            finish(context, action(_request_of(context, names, name), name))
        except StackctlError as error:
            failures.append(error)
        else:
            if not context.dry_run:
                say(f"{told} {name}.")
    if len(names) == 1 and failures:
        raise failures[0]
    if failures:
        message = " ".join(error.message for error in failures)
        kind = type(failures[0]) if len(failures) == len(names) else PartlyDone
        raise kind(message, hint=failures[0].hint)


def _request_of(context: Context, names: Sequence[str], name: str) -> Context:
    """Each of several names is a request of its own."""
    if context.request_id is None or len(names) == 1:
        return context
    return dataclasses.replace(context, request_id=f"{context.request_id}/{name}")


class Spelled(click.Option):
    """An option that is also known by OpenStack's older spellings, which its help leaves out.

    Those are the names with a colon or an underscore (``--provider:network_type``) and those
    listed in ``older``.
    """

    def __init__(self, *arguments: Any, older: Sequence[str] = (), **settings: Any) -> None:
        self.older = tuple(older)
        super().__init__(*arguments, **settings)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The line of the help without the older spellings."""
        opts, secondary = self.opts, self.secondary_opts
        self.opts = [name for name in opts if self._shown(name)]
        self.secondary_opts = [name for name in secondary if self._shown(name)]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts, self.secondary_opts = opts, secondary

    def _shown(self, name: str) -> bool:
        return ":" not in name and "_" not in name and name not in self.older


def settled(*names: str, why: str) -> Callable[[Any], Any]:
    """Options of a thing's creation that cannot be changed later: given, they are refused with the
    reason instead of as unknown."""

    def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            raise UsageError(f"That cannot be changed: {why}")

    return click.option(
        *names,
        "settled",
        expose_value=False,
        hidden=True,
        callback=refuse,
        help="Refused, with the reason.",
    )


def at_most(given: Sequence[str], count: int, usage: str) -> None:
    """Refuse more words than a command takes; ``usage`` says which it does."""
    if len(given) > count:
        raise click.UsageError(f"Too many words: {' '.join(given)}. Give {usage}.")
