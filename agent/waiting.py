"""Reaching guests: wait until one answers, or relay a connection to it."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from agent import layout
from agent.channel import Channel, ChannelLost
from agent.faults import StepFailed, fault_of
from agent.spec import to_plain
from agent.store import Store
from agent.system import files, sockets
from agent.wire import BLOB_CHUNK_BYTES, WireError

LOOK_AGAIN_S = 0.25
CONNECT_TIMEOUT_S = 3.0
RELAY_CONNECT_TIMEOUT_S = 15.0
RELAY_WRITE_TIMEOUT_S = 60.0
POLL_S = 0.5
SSH_PORT = 22

Args = dict[str, Any]


def wait_guest(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Wait until a server has its leases (``dhcp``) or answers SSH on one of its ports (``ssh``).

    {server_id, what, timeout_s, ports: [{mac, address, subnet_id}, ...]}; for ``dhcp`` every port
    must have its lease. StepFailed when the time is over.
    """
    ready = {"dhcp": _has_leases, "ssh": _answers_ssh}.get(args["what"])
    if ready is None:
        raise StepFailed(f"cannot wait for {str(args['what'])[:40]!r}")
    begun = time.monotonic()
    deadline = begun + float(args["timeout_s"])
    while True:
        check()
        if ready(store, args["ports"]):
            return {"seconds": round(time.monotonic() - begun, 3)}
        if time.monotonic() >= deadline:
            raise StepFailed(
                f"server {args['server_id']}: no {args['what']} within {args['timeout_s']} s"
            )
        time.sleep(LOOK_AGAIN_S)


def _has_leases(store: Store, ports: list[Args]) -> bool:
    return all(_has_lease(store, port) for port in ports)


def _has_lease(store: Store, port: Args) -> bool:
    text = files.read_bytes(layout.leases(store.data, port["subnet_id"])) or b""
    mac = str(port["mac"]).lower()
    return any(mac in line.split()[1:2] for line in text.decode(errors="replace").splitlines())


def _answers_ssh(store: Store, ports: list[Args]) -> bool:
    return any(_has_ssh_banner(port) for port in ports)


def _has_ssh_banner(port: Args) -> bool:
    namespace = layout.dhcp_namespace(port["subnet_id"])
    try:
        with sockets.connect(namespace, port["address"], SSH_PORT, CONNECT_TIMEOUT_S) as guest:
            return guest.recv(4).startswith(b"SSH-")
    except OSError:
        return False


def relay(channel: Channel, message: Args) -> None:
    """Join the channel and a TCP connection to a guest: {subnet_id, address, port}.

    After ``result`` both sides send binary frames; an empty one says that a side has no more to
    send. The relay is over when both have said so, and ends with ``relay-end`` from the agent.
    """
    reply: Args = {"type": "result", "id": message.get("id")}
    try:
        args = message.get("args") or {}
        namespace = layout.dhcp_namespace(args["subnet_id"])
        guest = sockets.connect(
            namespace, args["address"], int(args["port"]), RELAY_CONNECT_TIMEOUT_S
        )
    except (OSError, KeyError, ValueError) as error:
        channel.send({**reply, "ok": False, "fault": to_plain(fault_of(error))})
        return
    with guest:
        channel.send({**reply, "ok": True, "value": {}})
        guest.settimeout(RELAY_WRITE_TIMEOUT_S)
        _join(channel, guest)
    channel.send({"type": "relay-end", "id": message.get("id")})


def _join(channel: Channel, guest: socket.socket) -> None:
    sender = threading.Thread(target=_from_guest, args=(channel, guest), daemon=True)
    sender.start()
    try:
        _to_guest(channel, guest)
        while sender.is_alive():
            channel.check()
            sender.join(POLL_S)
    except BaseException:
        _shut(guest, socket.SHUT_RDWR)
        raise


def _to_guest(channel: Channel, guest: socket.socket) -> None:
    while True:
        frame = channel.receive()
        if frame.message is not None:
            raise WireError("a relay carries bytes only")
        if not frame.data:
            _shut(guest, socket.SHUT_WR)
            return
        try:
            guest.sendall(frame.data)
        except OSError:
            # The guest hung up: the other direction says so, what still comes is dropped.
            _shut(guest, socket.SHUT_RDWR)


def _from_guest(channel: Channel, guest: socket.socket) -> None:
    try:
        while True:
            data = _receive(channel, guest)
            channel.send_bytes(data)
            if not data:
                return
    except ChannelLost:
        return


def _receive(channel: Channel, guest: socket.socket) -> bytes:
    while not select.select([guest], [], [], POLL_S)[0]:
        channel.check()
    try:
        return guest.recv(BLOB_CHUNK_BYTES)
    except OSError:
        return b""


def _shut(guest: socket.socket, how: int) -> None:
    try:
        guest.shutdown(how)
    except OSError:
        return
