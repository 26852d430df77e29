"""Ways into a guest joined to the channel: a TCP connection, its display, its serial console."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

from agent import layout
from agent.channel import Channel, ChannelLost
from agent.faults import StepFailed
from agent.resources.domain_xml import console_path
from agent.resources.hardware_xml import display_socket
from agent.system import files, libvirt_conn, sockets
from agent.wire import BLOB_CHUNK_BYTES

CONNECT_TIMEOUT_S = 15.0
WRITE_TIMEOUT_S = 60.0
POLL_S = 0.5


class Relay:
    """Bytes of the channel go to the guest and back; an empty frame ends a direction.

    It is over when the guest has said all it had to say: what still comes for it is dropped.
    """

    def __init__(self, channel: Channel, guest: socket.socket) -> None:
        """Take a connection that is there."""
        self._channel, self._guest = channel, guest
        self._guest.settimeout(WRITE_TIMEOUT_S)
        self._thread = threading.Thread(target=self._from_guest, name="relay", daemon=True)

    def start(self) -> None:
        """Begin to send what the guest says."""
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Hand bytes to the guest; empty: there will be no more."""
        try:
            if data:
                self._guest.sendall(data)
            else:
                self._guest.shutdown(socket.SHUT_WR)
        except OSError:
            # The guest hung up: the other direction says so.
            self.close()

    def close(self) -> None:
        """End both directions."""
        try:
            self._guest.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _from_guest(self) -> None:
        with self._guest:
            try:
                while True:
                    data = self._receive()
                    self._channel.send_bytes(data)
                    if not data:
                        return
            except ChannelLost:
                return

    def _receive(self) -> bytes:
        while not select.select([self._guest], [], [], POLL_S)[0]:
            self._channel.check()
        try:
            return self._guest.recv(BLOB_CHUNK_BYTES)
        except OSError:
            return b""


def to_port(channel: Channel, args: dict[str, Any]) -> Relay:
    """A TCP port of a guest: {subnet_id, address, port}; StepFailed when it does not answer."""
    address, port = str(args["address"]), int(args["port"])
    namespace = layout.dhcp_namespace(args["subnet_id"])
    try:
        return Relay(channel, sockets.connect(namespace, address, port, CONNECT_TIMEOUT_S))
    except OSError as error:
        raise StepFailed(f"{address} port {port}: {error}") from None


def to_display(channel: Channel, args: dict[str, Any]) -> Relay:
    """A guest's display, which speaks RFB: {server_id}; StepFailed when it has none now."""
    path = running_display(args["server_id"])
    try:
        return Relay(channel, sockets.connect_local(path, CONNECT_TIMEOUT_S))
    except OSError as error:
        raise StepFailed(f"the display of the guest does not answer: {error}") from None


def running_display(server_id: str) -> str:
    """Where the display of a guest is; StepFailed when it does not run with one."""
    server_id = layout.checked(server_id)
    if libvirt_conn.state(server_id) not in ("RUNNING", "PAUSED"):
        raise StepFailed("the guest does not run, so it shows nothing")
    path = display_socket(libvirt_conn.live_xml(server_id))
    if path is None:
        raise StepFailed("the guest was started without a display; it has one after a hard reboot")
    return path


class Console:
    """Bytes of the channel go to a guest's serial console and back; an empty frame ends it.

    One at a time: two would each get a part of what the guest says. The log gets all of it.
    """

    def __init__(self, channel: Channel, data: Path, args: dict[str, Any]) -> None:
        """Open: {server_id}; StepFailed when the guest does not run or somebody is there."""
        self._channel = channel
        self._ended = threading.Event()
        server_id = layout.checked(args["server_id"])
        path = console_path(libvirt_conn.live_xml(server_id))
        if path is None:
            raise StepFailed("the guest does not run, so it has no console")
        with ExitStack() as stack:
            lock = files.make_folder(data / "locks") / f"console-{server_id}"
            try:
                stack.enter_context(files.locked(lock, 0, str(os.getpid())))
            except files.LockHeld as held:
                raise StepFailed(f"process {held} has the console open") from None
            self._descriptor = files.open_terminal(path)
            stack.callback(os.close, self._descriptor)
            self._held = stack.pop_all()
        self._thread = threading.Thread(target=self._from_guest, name="console", daemon=True)

    def start(self) -> None:
        """Begin to send what the guest says."""
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Hand bytes to the guest; empty: whoever typed has gone."""
        if not data:
            self._ended.set()
            return
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._ended.set()

    def close(self) -> None:
        """End it and wait until the terminal is free."""
        self._ended.set()
        self._thread.join(WRITE_TIMEOUT_S)

    def _from_guest(self) -> None:
        with self._held:
            try:
                while not self._ended.is_set():
                    data = self._receive()
                    if data is None:
                        break
                    if data:
                        self._channel.send_bytes(data)
                self._channel.send_bytes(b"")
            except ChannelLost:
                return

    def _receive(self) -> Optional[bytes]:
        """What the guest says now; nothing for a while; None when it is gone."""
        if not select.select([self._descriptor], [], [], POLL_S)[0]:
            self._channel.check()
            return b""
        try:
            return os.read(self._descriptor, BLOB_CHUNK_BYTES) or None
        except OSError:
            return None
