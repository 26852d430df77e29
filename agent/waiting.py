"""Wait until a guest answers."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from typing import Any, Optional

from agent import layout
from agent.faults import StepFailed
from agent.resources.domain_xml import has_guest_agent
from agent.store import Store
from agent.system import files, libvirt_conn, sockets
from agent.system.libvirt_conn import LibvirtError

LOOK_AGAIN_S = 0.25
CONNECT_TIMEOUT_S = 3.0
SSH_PORT = 22
RESULT = "/run/cloud-init/result.json"
CONSOLE_BYTES = 256 * 1024
_FINISHED = re.compile(rb"Cloud-init v\. \S+ finished at ")

Args = dict[str, Any]


def wait_guest(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Wait until a server has its leases (``dhcp``), answers SSH on one of its ports (``ssh``), or
    says that cloud-init is through with it (``cloud-init``).

    {server_id, what, timeout_s, ports: [{mac, address, subnet_id}, ...]}; for ``dhcp`` every port
    must have its lease, or the IPv6 address that its guest made. StepFailed when the time is over,
    or cloud-init ended with errors.
    """
    ready = {"dhcp": _has_leases, "ssh": _answers_ssh, "cloud-init": _is_set_up}.get(args["what"])
    if ready is None:
        raise StepFailed(f"cannot wait for {str(args['what'])[:40]!r}")
    begun = time.monotonic()
    deadline = begun + float(args["timeout_s"])
    while True:
        check()
        if ready(store, args):
            return {"seconds": round(time.monotonic() - begun, 3)}
        if time.monotonic() >= deadline:
            raise StepFailed(
                f"server {args['server_id']}: no {args['what']} within {args['timeout_s']} s"
            )
        time.sleep(LOOK_AGAIN_S)


def _has_leases(store: Store, args: Args) -> bool:
    return all(_has_lease(store, port) for port in args["ports"])


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


def _answers_ssh(store: Store, args: Args) -> bool:
    return any(_has_ssh_banner(port) for port in args["ports"])


def _is_set_up(store: Store, args: Args) -> bool:
    """Its agent knows, and how it ended; without one its console says it."""
    server_id = layout.checked(args["server_id"])
    try:
        if has_guest_agent(libvirt_conn.live_xml(server_id)):
            result = _result_in_guest(server_id)
            if result is not None:
                _refuse_errors(result)
            return result is not None
    except LibvirtError:
        pass  # an agent that may not read files
    log = files.tail(layout.console_log(store.data, server_id), CONSOLE_BYTES)
    return _FINISHED.search(log) is not None


def _result_in_guest(server_id: str) -> Optional[bytes]:
    """What cloud-init wrote at its end; None before that."""
    try:
        handle = libvirt_conn.ask_agent(server_id, "guest-file-open", path=RESULT, mode="r")
    except LibvirtError as error:
        if "No such file" in str(error):
            return None
        raise
    try:
        read = libvirt_conn.ask_agent(server_id, "guest-file-read", handle=handle, count=65536)
    finally:
        libvirt_conn.ask_agent(server_id, "guest-file-close", handle=handle)
    return base64.b64decode(read["buf-b64"])


def _refuse_errors(result: bytes) -> None:
    """StepFailed when cloud-init says that something went wrong."""
    try:
        errors = json.loads(result)["v1"]["errors"]
    except (ValueError, KeyError, TypeError):
        return
    if errors:
        raise StepFailed(f"cloud-init ended with errors: {'; '.join(map(str, errors))[:1000]}")


def _has_ssh_banner(port: Args) -> bool:
    namespace = layout.dhcp_namespace(port["subnet_id"])
    try:
        with sockets.connect(namespace, port["address"], SSH_PORT, CONNECT_TIMEOUT_S) as guest:
            return guest.recv(4).startswith(b"SSH-")
    except OSError:
        return False
