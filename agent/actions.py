"""Actions: what a controller asks of a host beside being what its spec says.

They run side by side, each answered by its own ``result``, until ``bye``. Only ``relay`` has the
channel for itself, because its bytes carry no name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent import layout, prune, purge, waiting
from agent.channel import Channel
from agent.faults import StepFailed, fault_of
from agent.spec import to_plain
from agent.store import Store
from agent.system import files, libvirt_conn
from agent.wire import MAX_REPLY_BYTES, WireError

WORKERS = 16
MAX_CONSOLE_BYTES = 2 * 1024 * 1024
"""Console bytes in one reply: JSON may need two for one."""

Args = dict[str, Any]
Action = Callable[[Store, Args, Callable[[], None]], Any]


def serve(channel: Channel, store: Store) -> None:
    """Answer ``act`` messages until ``bye``; ChannelLost when the controller is gone."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="action")
    try:
        while True:
            message = channel.receive().message
            if message is not None and message["type"] == "bye":
                return
            if message is None or message["type"] != "act":
                raise WireError("expected act or bye")
            if message.get("name") == "relay":
                waiting.relay(channel, message)
            else:
                pool.submit(_answer, channel, store, message)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _answer(channel: Channel, store: Store, message: Args) -> None:
    reply: Args = {"type": "result", "id": message.get("id")}
    try:
        value = _run(store, message, channel.check)
        if len(json.dumps(value)) > MAX_REPLY_BYTES - 4096:
            raise StepFailed(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        channel.send({**reply, "ok": True, "value": value})
    except Exception as error:
        if not channel.lost.is_set():
            channel.send({**reply, "ok": False, "fault": to_plain(fault_of(error))})


def _run(store: Store, message: Args, check: Callable[[], None]) -> Any:
    action = _ACTIONS.get(str(message.get("name")))
    args = message.get("args")
    if action is None or not isinstance(args, dict):
        raise StepFailed(f"unknown action {str(message.get('name'))[:40]!r}")
    try:
        return action(store, args, check)
    except KeyError as error:
        raise StepFailed(f"the action {message['name']} needs the argument {error}") from None


def console_log(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """The end of what a server printed on its serial console: {server_id, max_bytes}."""
    limit = max(0, min(int(args["max_bytes"]), MAX_CONSOLE_BYTES))
    path = layout.console_log(store.data, args["server_id"])
    text = files.tail(path, limit)
    if len(text) < limit:
        # virtlogd starts a new file when one is full; the one before has the rest.
        text = files.tail(path.with_name(f"{path.name}.0"), limit - len(text)) + text
    return {"text": text.decode(errors="replace")}


def domain_xml(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """The XML of a server's domain as it runs: {server_id}."""
    return {"xml": libvirt_conn.live_xml(layout.checked(args["server_id"]))}


_ACTIONS: dict[str, Action] = {
    "console-log": console_log,
    "domain-xml": domain_xml,
    "wait-guest": waiting.wait_guest,
    "prune-images": prune.prune_images,
    "purge": purge.purge,
}
