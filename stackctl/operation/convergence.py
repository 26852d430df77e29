"""Many exchanges at once: carrying hosts are waited for, peripheral ones are only told."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from agent.spec import HostSpec, Image
from stackctl import killpoint
from stackctl.errors import HostUnreachable, StackctlError
from stackctl.fleet.types import Opening, Session, Target
from stackctl.identity.context import Context
from stackctl.operation import exchange as one
from stackctl.operation.exchange import Exchange
from stackctl.operation.spreading import Spreading
from stackctl.state import Row, read

if TYPE_CHECKING:
    from stackctl.fleet.parallel import OpenSessions

TRIES_AFTER_LOSS = 2
"""An agent that vanished in the middle is followed by one more exchange: converging is safe to
repeat, and finishes what the first one began."""

T = TypeVar("T")

Body = Callable[[Session, Exchange], None]
OnStep = Callable[[dict[str, Any]], None]


def converge(
    context: Context,
    carrying: Iterable[str],
    peripheral: Iterable[str],
    operation_id: str,
) -> list[Exchange]:
    """Bring hosts up to date. Errors are in the exchanges; peripheral ones are also warned of."""

    def work(host: Row, brief: bool, sessions: OpenSessions) -> Exchange:
        images, copies = one.wanted_before(context, host["id"])
        kill_at, claim = killpoint.for_agents(), _unclaimed(host)
        opening = one.opening(context, "converge", images, kill_at, copies=copies, claim=claim)

        def body(session: Session, exchange: Exchange) -> None:
            one.converge_host(context, session, exchange, operation_id)

        return _with_tries(context, host, opening, body, brief, sessions, spread)

    spread = _spreading(context)
    with closing(spread):
        exchanges = _each(
            context, dict.fromkeys(peripheral, True) | dict.fromkeys(carrying, False), work
        )
    for exchange in exchanges:
        _remember_error(context, exchange)
    return exchanges


def observe(
    context: Context, hosts: Iterable[str], spec_of: Callable[[str], HostSpec]
) -> list[Exchange]:
    """Ask hosts what they would do to become the specs that ``spec_of`` makes for their ids."""

    def work(host: Row, brief: bool, sessions: OpenSessions) -> Exchange:
        def body(session: Session, exchange: Exchange) -> None:
            one.observe_host(context, session, exchange, spec_of)

        opening = one.opening(context, "observe", (), 0, claim=_unclaimed(host))
        return _with_tries(context, host, opening, body, brief, sessions)

    return _each(context, dict.fromkeys(hosts, True), work)


@contextmanager
def acting_session(
    context: Context,
    host: Row,
    images: tuple[Image, ...] = (),
    spread: Spreading | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Session]:
    """An exchange that only asks or acts: no host lock, no spec. ``images`` are brought first;
    ``on_step`` hears what an action tells of itself."""
    opening = one.opening(context, "act", images, killpoint.for_agents())
    with _session(context, host, opening, False, None, spread, on_step=on_step) as session:
        yield session


def act_on_each(
    context: Context,
    hosts: Iterable[Row],
    body: Callable[[Row, Session], T],
    images: tuple[Image, ...] = (),
) -> dict[str, T | StackctlError]:
    """Do the same on many hosts at once; what came of it, or what failed, by host id."""
    from stackctl.fleet.parallel import for_each
    from stackctl.fleet.target import target_of

    rows = {row["id"]: row for row in hosts}

    def work(target: Target) -> T:
        row = rows[target.host_id]
        with acting_session(context, row, images, spread) as session:
            return body(row, session)

    spread = _spreading(context)
    with closing(spread):
        results = for_each([target_of(row, context.cloud) for row in rows.values()], work)
    told: dict[str, T | StackctlError] = {}
    for host_id, result in results.items():
        if isinstance(result, Exception) and not isinstance(result, StackctlError):
            raise result
        told[host_id] = result
    return told


def _spreading(context: Context) -> Spreading:
    def host_of(host_id: str) -> Row:
        with read(context.cloud) as reader:
            return reader.get("hosts", host_id)

    def keepers(sha256: str) -> list[Row]:
        with read(context.cloud) as reader:
            return one.keepers_of(reader, sha256)

    least_mb = context.cloud.config["image_from_hosts_mb"]
    return Spreading(least_mb, lambda host: acting_session(context, host), host_of, keepers)


def _unclaimed(host: Row) -> bool:
    """Only a host that was never converged may be without a claim: later that is a fault."""
    return bool(host["applied_serial"] == 0)


def _each(
    context: Context,
    hosts: Mapping[str, bool],
    work: Callable[[Row, bool, OpenSessions], Exchange],
) -> list[Exchange]:
    """Work on all hosts at once. ``hosts``: id -> whether little time is to be spent on it."""
    if not hosts:
        return []
    # Reaching hosts costs 0.2 s of imports, which commands that reach none do not pay.
    from stackctl.fleet.parallel import OpenSessions, for_each
    from stackctl.fleet.target import target_of

    with read(context.cloud) as reader:
        rows = {host_id: reader.get("hosts", host_id) for host_id in sorted(hosts)}
    sessions = OpenSessions()
    results = for_each(
        [target_of(row, context.cloud) for row in rows.values()],
        lambda target: work(rows[target.host_id], hosts[target.host_id], sessions),
        sessions=sessions,
    )
    for result in results.values():
        if isinstance(result, Exception):  # errors of hosts are in exchanges: this one is ours
            raise result
    return [result for result in results.values() if isinstance(result, Exchange)]


def _with_tries(
    context: Context,
    host: Row,
    opening: Opening,
    body: Body,
    brief: bool,
    sessions: OpenSessions,
    spread: Spreading | None = None,
) -> Exchange:
    from stackctl.fleet.errors import ChannelLost

    exchange = Exchange(host["id"], host["name"], peripheral=brief)
    for _ in range(TRIES_AFTER_LOSS):
        exchange.error = None
        exchange.failures.clear()
        try:
            with _session(context, host, opening, brief, sessions, spread, exchange) as session:
                body(session, exchange)
        except StackctlError as error:
            exchange.error = error
        if not isinstance(exchange.error, ChannelLost):
            break
        # A point at which a test ends the agent is reached once.
        opening = dataclasses.replace(opening, kill_at=0)
    return exchange


@contextmanager
def _session(
    context: Context,
    host: Row,
    opening: Opening,
    brief: bool,
    sessions: OpenSessions | None,
    spread: Spreading | None = None,
    exchange: Exchange | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Session]:
    from stackctl.fleet.session import open_session
    from stackctl.fleet.target import target_of

    spread = spread or Spreading(None, lambda row: acting_session(context, row))
    with spread.part(host, opening.images) as part:
        started = time.monotonic()
        session = open_session(
            target_of(host, context.cloud, peripheral=brief),
            opening,
            open_image=lambda sha256: one.open_image(context, sha256),
            progress=context.watch.progress,
            on_step=on_step or _heard(context, host["name"], exchange),
            peer=part.peer,
            disk_peer=spread.disk,
        )
        part.arrived(session.hello.lacking)
        answered = time.monotonic() - started
        context.watch.trace("host answered", host["name"], host["address"], answered)
        if sessions is not None:
            sessions.add(session)
        try:
            yield session
        finally:
            if sessions is not None:
                sessions.discard(session)
            session.close()


def _heard(context: Context, host: str, exchange: Exchange | None) -> OnStep:
    """What keeps the domains that a host begins to change, and shows how far copies are."""

    def on_step(step: dict[str, Any]) -> None:
        if exchange is not None and step.get("kind") == "domain":
            exchange.begun.add(str(step.get("id")))
        done, total = step.get("done_bytes"), step.get("total_bytes")
        if step.get("kind") == "disk" and isinstance(done, int) and isinstance(total, int):
            context.watch.progress(f"copying disk {str(step.get('id'))[:8]} to {host}", done, total)

    return on_step


def _remember_error(context: Context, exchange: Exchange) -> None:
    error = exchange.error
    if error is None:
        return
    if isinstance(error, HostUnreachable):
        one.mark_unreachable(context, exchange.host_id, error.message)
    if exchange.peripheral:
        context.watch.warn(f"{error.message} It learns of this when it is converged next.")
