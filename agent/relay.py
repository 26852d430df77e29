"""A TCP connection to a guest, joined to the channel."""

from __future__ import annotations

import select
import socket
import threading
from typing import Any

from agent import layout
from agent.channel import Channel, ChannelLost
from agent.faults import StepFailed
from agent.system import sockets
from agent.wire import BLOB_CHUNK_BYTES

CONNECT_TIMEOUT_S = 15.0
WRITE_TIMEOUT_S = 60.0
POLL_S = 0.5


class Relay:
    """Bytes of the channel go to the guest and back; an empty frame ends a direction.

    It is over when the guest has said all it had to say: what still comes for it is dropped.
    """

    def __init__(self, channel: Channel, args: dict[str, Any]) -> None:
        """Connect: {subnet_id, address, port}; StepFailed when the guest does not answer."""
        self._channel = channel
        address, port = str(args["address"]), int(args["port"])
        namespace = layout.dhcp_namespace(args["subnet_id"])
        try:
            self._guest = sockets.connect(namespace, address, port, CONNECT_TIMEOUT_S)
        except OSError as error:
            raise StepFailed(f"{address} port {port}: {error}") from None
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
