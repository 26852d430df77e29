"""Many exchanges at once: carrying hosts are waited for, peripheral ones are only told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from agent.spec import HostSpec, Image
from stackctl.errors import ChannelLost, HostAhead, HostKeyMismatch, StackctlError
from stackctl.fleet.types import Opening, Session
from stackctl.identity.context import Context
from stackctl.operation import exchange as one
from stackctl.operation.exchange import Exchange
from stackctl.state import Row, read

MAX_PARALLEL_HOSTS = 32
TRIES_AFTER_LOSS = 2
"""An agent that vanished in the middle is followed by one more exchange: converging is safe to
repeat, and finishes what the first one began."""


def converge(
    context: Context,
    carrying: Iterable[str],
    peripheral: Iterable[str],
    operation_id: str,
    *,
    kill_at: int = 0,
) -> list[Exchange]:
    """Bring hosts up to date. Errors are in the exchanges; peripheral ones are also warned of."""

    def work(host_id: str, brief: bool) -> Exchange:
        images = one.images_wanted(context, host_id)

        def body(session: Session, exchange: Exchange) -> None:
            one.converge_host(context, session, exchange, operation_id)

        opening = one.opening(context, "converge", images, kill_at)
        return _with_tries(context, host_id, opening, body, brief)

    exchanges = _each(
        [(host_id, False) for host_id in sorted(carrying)]
        + [(host_id, True) for host_id in sorted(peripheral)],
        work,
    )
    for exchange in exchanges:
        _remember_errors(context, exchange)
    return exchanges


def observe(context: Context, specs: Mapping[str, HostSpec]) -> list[Exchange]:
    """Ask hosts what they would do to become these specs."""

    def work(host_id: str, brief: bool) -> Exchange:
        def body(session: Session, exchange: Exchange) -> None:
            one.observe_host(context, session, exchange, specs[host_id])

        no_images: tuple[Image, ...] = ()
        return _with_tries(
            context, host_id, one.opening(context, "observe", no_images, 0), body, brief
        )

    exchanges = _each([(host_id, True) for host_id in sorted(specs)], work)
    for exchange in exchanges:
        if exchange.error is not None:
            context.watch.warn(f"{exchange.error.message}")
    return exchanges


def _each(items: list[tuple[str, bool]], work: Callable[[str, bool], Exchange]) -> list[Exchange]:
    if len(items) <= 1:
        return [work(*item) for item in items]
    with ThreadPoolExecutor(min(len(items), MAX_PARALLEL_HOSTS)) as pool:
        return [future.result() for future in [pool.submit(work, *item) for item in items]]


def _with_tries(
    context: Context,
    host_id: str,
    opening: Opening,
    body: Callable[[Session, Exchange], None],
    brief: bool,
) -> Exchange:
    exchange = Exchange(host_id, "", peripheral=brief)
    for _ in range(TRIES_AFTER_LOSS):
        exchange.error = None
        exchange.failures.clear()
        try:
            _once(context, exchange, opening, body, brief)
        except StackctlError as error:
            exchange.error = error
        if not (isinstance(exchange.error, ChannelLost) and exchange.sent):
            break
        # A point at which a test ends the agent is reached once.
        opening = dataclasses.replace(opening, kill_at=0)
    return exchange


def _once(
    context: Context,
    exchange: Exchange,
    opening: Opening,
    body: Callable[[Session, Exchange], None],
    brief: bool,
) -> None:
    with read(context.cloud) as reader:
        row = reader.get("hosts", exchange.host_id)
    exchange.host_name = row["name"]
    with _session(context, row, opening, brief) as session:
        body(session, exchange)


@contextmanager
def acting_session(context: Context, host: Row) -> Iterator[Session]:
    """An exchange that only asks or acts: no host lock, no spec."""
    with _session(context, host, one.opening(context, "act", (), 0), False) as session:
        yield session


@contextmanager
def _session(context: Context, host: Row, opening: Opening, brief: bool) -> Iterator[Session]:
    # Reaching hosts costs 0.2 s of imports, which commands that reach none do not pay.
    from stackctl.fleet.session import open_session
    from stackctl.fleet.target import target_of

    limit = "peripheral_connect_timeout_s" if brief else "connect_timeout_s"
    target = dataclasses.replace(
        target_of(host, context.cloud), connect_timeout_s=float(context.cloud.config[limit])
    )
    session = open_session(
        target,
        opening,
        image_file=lambda sha256: one.image_file(context, sha256),
        watch=context.watch,
    )
    try:
        yield session
    finally:
        session.close()


def _remember_errors(context: Context, exchange: Exchange) -> None:
    error = exchange.error
    if error is None:
        return
    if not isinstance(error, (HostAhead, HostKeyMismatch)):
        one.mark_unreachable(context, exchange.host_id, error.message)
    if exchange.peripheral:
        context.watch.warn(
            f"{error.message} It will learn of this change when it is converged next."
        )
