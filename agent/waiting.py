"""Wait until a guest answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agent import layout
from agent.faults import StepFailed
from agent.store import Store
from agent.system import files, sockets

LOOK_AGAIN_S = 0.25
CONNECT_TIMEOUT_S = 3.0
SSH_PORT = 22

Args = dict[str, Any]


def wait_guest(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Wait until a server has its leases (``dhcp``) or answers SSH on one of its ports (``ssh``).

    {server_id, what, timeout_s, ports: [{mac, address, subnet_id}, ...]}; for ``dhcp`` every port
    must have its lease, or the IPv6 address that its guest made. StepFailed when the time is over.
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
    lines = [line.split() for line in text.decode(errors="replace").splitlines()]
    address, mac = str(port["address"]), str(port["mac"]).lower()
    if ":" in address:
        # DHCPv6 leases do not name the MAC, and without DHCPv6 there are none.
        return any(address in words[2:3] for words in lines) or _is_there(port)
    return any(mac in words[1:2] for words in lines)


def _is_there(port: Args) -> bool:
    """Whether a guest has its address: it accepts a connection, or refuses it itself."""
    namespace = layout.dhcp_namespace(port["subnet_id"])
    try:
        sockets.connect(namespace, port["address"], SSH_PORT, CONNECT_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def _answers_ssh(store: Store, ports: list[Args]) -> bool:
    return any(_has_ssh_banner(port) for port in ports)


def _has_ssh_banner(port: Args) -> bool:
    namespace = layout.dhcp_namespace(port["subnet_id"])
    try:
        with sockets.connect(namespace, port["address"], SSH_PORT, CONNECT_TIMEOUT_S) as guest:
            return guest.recv(4).startswith(b"SSH-")
    except OSError:
        return False
