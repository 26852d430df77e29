"""An operation on one named thing (a network, an image, a flavor ...): one phase, one event."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from stackctl.identity.context import Context
from stackctl.operation.events import note
from stackctl.operation.outcome import Done
from stackctl.operation.run import Operation, begin
from stackctl.state import Reader, Row, Writer, read


class Named(Protocol):
    """What every resource has."""

    @property
    def id(self) -> str:
        """Its UUID."""
        ...

    @property
    def name(self) -> str:
        """What people call it; may be empty."""
        ...


N = TypeVar("N", bound=Named)


def _converge(operation: Operation, _: object) -> None:
    operation.converge()


def change_one(
    context: Context,
    action: str,
    noun: str,
    word: str,
    arguments: dict[str, Any],
    work: Callable[[Writer], N],
    load: Callable[[Reader, Row], N],
    see_to_it: Callable[[Operation, N], None] = _converge,
) -> Done[N]:
    """Do ``work`` as one operation, leave its event, and bring the hosts up to date.

    ``word`` is what the asker calls the thing; ``arguments`` tell two requests with one request id
    apart; ``load`` makes the value again from its row when a request is repeated; ``see_to_it``
    converges, if there is more to it than that.
    """
    return prepare_one(context, action, noun, word, arguments, lambda: work, load, see_to_it)


def prepare_one(
    context: Context,
    action: str,
    noun: str,
    word: str,
    arguments: dict[str, Any],
    prepare: Callable[[], Callable[[Writer], N]],
    load: Callable[[Reader, Row], N],
    see_to_it: Callable[[Operation, N], None] = _converge,
) -> Done[N]:
    """The same for what needs long work before its transaction: ``prepare`` does it outside and
    returns the ``work``. It is not called when a request is repeated."""
    done_to = f"{action} {noun} {word}".rstrip()
    arguments = {"word": word, **arguments}
    with begin(context, f"{noun.replace(' ', '-')}-{action}", done_to, arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _repeated(context, row, load))

        work = prepare()

        def noted(writer: Writer) -> N:
            value = work(writer)
            note(
                writer,
                action,
                noun,
                {"id": value.id, "name": value.name},
                done_to,
                user_name=context.operator,
                operation_id=operation.id,
            )
            return value

        value = operation.transact(noted, lambda value: {"table": _table(noun), "id": value.id})
        see_to_it(operation, value)
        return operation.finish(value)


def as_it_became(
    context: Context, done: Done[N], noun: str, load: Callable[[Reader, Row], N]
) -> Done[N]:
    """The same end with the value as hosts have reported it since the transaction."""
    if context.dry_run:
        return done
    with read(context.cloud) as reader:
        return done.with_value(load(reader, reader.get(_table(noun), done.value.id)))


def _table(noun: str) -> str:
    return f"{noun.replace(' ', '_')}s"


def _repeated(context: Context, operation: Row, load: Callable[[Reader, Row], N]) -> N:
    result = json.loads(operation["result_json"])
    with read(context.cloud) as reader:
        return load(reader, reader.get(result["table"], result["id"]))
