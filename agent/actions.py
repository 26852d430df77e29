"""Actions: what a controller asks of a host beside being what its spec says.

They run side by side, each answered by its own ``result``, until ``bye``. One ``relay`` (or
``console``, or ``display``) at a time may be open: after its result, bytes on the channel are the
relay's. Or one ``snapshot``: bytes between its ``stream`` and its result are a file.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, Union

from agent import layout
from agent.channel import Channel, ChannelLost
from agent.copies import snapshots
from agent.faults import StepFailed, fault_of
from agent.moves import whereabouts
from agent.relay import Console, Relay, running_display, to_display, to_port
from agent.resources.domain_xml import has_guest_agent
from agent.spec import to_plain
from agent.store import Store
from agent.system import files, libvirt_conn
from agent.wire import MAX_REPLY_BYTES, WireError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

WORKERS = 16
MAX_CONSOLE_BYTES = 2 * 1024 * 1024
"""Console bytes in one reply: JSON may need two for one."""

Way = Union[Relay, Console]
"""A way into a guest."""

Args = dict[str, Any]
Action = Callable[[Store, Args, Callable[[], None]], Any]


def serve(channel: Channel, store: Store) -> None:
    """Answer ``act`` messages until ``bye``; ChannelLost when the controller is gone."""
    pool: Optional[ThreadPoolExecutor] = None
    relay: Optional[Way] = None
    try:
        while True:
            frame = channel.receive()
            if frame.message is None:
                if relay is not None:
                    relay.write(frame.data)
            elif frame.message["type"] == "bye":
                return
            elif frame.message["type"] != "act":
                raise WireError(f"expected act or bye, got {frame.message['type'][:40]!r}")
            elif frame.message.get("name") in ("relay", "console", "display"):
                relay = _open_relay(channel, store, frame.message)
            else:
                pool = pool or _pool()
                pool.submit(_answer, channel, store, frame.message)
    finally:
        if relay is not None:
            relay.close()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool() -> ThreadPoolExecutor:
    """Threads for actions. Most exchanges ask for none, and loading this takes a while."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(WORKERS, thread_name_prefix="action")


def _open_relay(channel: Channel, store: Store, message: Args) -> Optional[Way]:
    relay: Way
    try:
        if message["name"] == "console":
            relay = Console(channel, store.data, _args(message))
        elif message["name"] == "display":
            relay = to_display(channel, _args(message))
        else:
            relay = to_port(channel, _args(message))
    except Exception as error:
        _send_fault(channel, message, error)
        return None
    channel.send({"type": "result", "id": message.get("id"), "ok": True, "value": {}})
    relay.start()
    return relay


def _answer(channel: Channel, store: Store, message: Args) -> None:
    try:
        value = _run(channel, store, message)
        if len(json.dumps(value)) > MAX_REPLY_BYTES - 4096:
            raise StepFailed(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        channel.send({"type": "result", "id": message.get("id"), "ok": True, "value": value})
    except Exception as error:
        _send_fault(channel, message, error)


def _send_fault(channel: Channel, message: Args, error: Exception) -> None:
    if isinstance(error, KeyError):
        error = StepFailed(f"the action {message.get('name')} needs the argument {error}")
    fault = to_plain(fault_of(error))
    try:
        channel.send({"type": "result", "id": message.get("id"), "ok": False, "fault": fault})
    except ChannelLost:
        return  # whoever asked is gone; the reader of the channel ends the exchange


def _run(channel: Channel, store: Store, message: Args) -> Any:
    if message.get("name") == "snapshot":
        return snapshots.serve(channel, store, str(message.get("id")), _args(message))
    if message.get("name") == "send-server":
        from agent.moves import departure

        return departure.send_server(channel, store, _args(message))
    action = _ACTIONS.get(str(message.get("name")))
    if action is None:
        raise StepFailed(f"unknown action {str(message.get('name'))[:40]!r}")
    return action(store, _args(message), channel.check)


def _args(message: Args) -> Args:
    args = message.get("args")
    if not isinstance(args, dict):
        raise StepFailed("an action has its arguments in args")
    return args


def console_log(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """The end of what a server printed on its serial console: {server_id, max_bytes}."""
    limit = max(0, min(int(args["max_bytes"]), MAX_CONSOLE_BYTES))
    path = layout.console_log(store.data, args["server_id"])
    text = files.tail(path, limit)
    if len(text) < limit:
        # virtlogd starts a new file when one is full; the one before has the rest.
        text = files.tail(path.with_name(f"{path.name}.0"), limit - len(text)) + text
    return {"text": text.decode(errors="replace")}


def lazily(module: str, name: str) -> Action:
    """An action of a module that is loaded when it is asked for: most exchanges ask for none."""

    def act(store: Store, args: Args, check: Callable[[], None]) -> Any:
        return getattr(importlib.import_module(module), name)(store, args, check)

    return act


def domain_xml(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """The XML of a server's domain as it runs: {server_id}."""
    return {"xml": libvirt_conn.live_xml(layout.checked(args["server_id"]))}


def has_display(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Whether a guest runs with a display: {server_id}; StepFailed says why not."""
    running_display(args["server_id"])
    return {}


def screenshot(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """What a guest's display shows, as a PNG: {server_id}."""
    from agent import picture

    running_display(args["server_id"])
    shown = libvirt_conn.screenshot(layout.checked(args["server_id"]))
    return {"png": base64.b64encode(picture.to_png(shown)).decode()}


def set_password(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Have the agent in a guest set a user's password: {server_id, user, password}."""
    server_id = layout.checked(args["server_id"])
    if not has_guest_agent(libvirt_conn.live_xml(server_id)):
        raise StepFailed("no qemu-guest-agent answers in the guest, and only that can do it")
    libvirt_conn.set_password(server_id, str(args["user"]), str(args["password"]))
    return {}


def power_states(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """What runs: {server_ids}; the power states of those that libvirt has, by id."""
    wanted = {layout.checked(str(each)) for each in args["server_ids"]}
    views = libvirt_conn.observe(wanted)
    return {"states": {id_: view.state for id_, view in views.items() if id_ in wanted}}


_ACTIONS: dict[str, Action] = {
    "abort-move": lazily("agent.moves.departure", "abort_move"),
    "can-run-server": lazily("agent.moves.arrival", "can_run"),
    "console-log": console_log,
    "describe-server": lazily("agent.moves.departure", "describe_server"),
    "domain-xml": domain_xml,
    "expect-server": lazily("agent.moves.arrival", "expect"),
    "look-server": whereabouts.look,
    "resume-server": whereabouts.resume,
    "inspect-domain": lazily("agent.adopting", "inspect_domain"),
    "has-display": has_display,
    "screenshot": screenshot,
    "set-password": set_password,
    "wait-guest": lazily("agent.waiting", "wait_guest"),
    "list-images": lazily("agent.prune", "list_images"),
    "power-states": power_states,
    "prune-images": lazily("agent.prune", "prune_images"),
    "purge": lazily("agent.purge", "purge"),
    "share-disk": lazily("agent.copies.peers", "share_disk"),
    "share-image": lazily("agent.copies.peers", "share_image"),
    "trace-flow": lazily("agent.trace.tracing", "trace_flow"),
    "trace-router": lazily("agent.trace.tracing", "trace_router"),
}
