"""Into the guest: console log, waiting for it to answer, and a way to its SSH port."""

from __future__ import annotations

import base64
import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stackctl.compute.types import Json, Server, ServerAddress
from stackctl.compute.views import server_row, servers_by_id
from stackctl.errors import AgentFailed, Conflict, ResourceFailed
from stackctl.identity.context import Context
from stackctl.operation.convergence import acting_session
from stackctl.state import Reader, Row, read

CONSOLE_LIMIT_BYTES = 100 * 1024
"""Nova returns at most the last 100 KiB of a console."""

WAIT_TIMEOUT_S = 300

SAID = {
    "dhcp": "address in the guest",
    "ssh": "guest answers SSH",
    "cloud-init": "guest is set up",
}


@dataclass(frozen=True)
class SshEndpoint:
    """Where a server's SSH port is: reached from inside a subnet's namespace on its host."""

    server: Server
    address: str
    subnet_id: str


def console_log(context: Context, word: str, max_bytes: int = CONSOLE_LIMIT_BYTES) -> str:
    """The end of what a server wrote to its serial console."""
    with read(context.cloud) as reader:
        server = server_row(context, reader, word)
        host = _host_of(reader.get("hosts", server["host_id"]) if server["host_id"] else None, word)
    arguments = {"server_id": server["id"], "max_bytes": min(max_bytes, CONSOLE_LIMIT_BYTES)}
    with acting_session(context, host) as session:
        return str(session.act("console-log", arguments)["text"])


def wait_for_guests(
    context: Context, server_ids: Sequence[str], what: str, timeout_s: int = WAIT_TIMEOUT_S
) -> None:
    """Return when every guest has its DHCP lease (``dhcp``), answers on its SSH port (``ssh``), or
    was set up by cloud-init.

    One connection per host, hosts in parallel; ResourceFailed names the guests that did not.
    """
    with read(context.cloud) as reader:
        servers = servers_by_id(reader, server_ids)
        hosts = {id_: reader.get("hosts", id_) for id_ in {s.host_id for s in servers} if id_}
    by_host: dict[str, list[Server]] = defaultdict(list)
    for server in servers:
        if server.host_id is not None and (server.addresses or what == "cloud-init"):
            by_host[server.host_id].append(server)
    if not by_host:
        return

    def wait(host_id: str) -> list[tuple[str, str]]:
        return _wait_on_host(context, hosts[host_id], by_host[host_id], what, timeout_s)

    with ThreadPoolExecutor(len(by_host)) as pool:
        late = [each for part in pool.map(wait, sorted(by_host)) for each in part]
    if late:
        told = " ".join(message for _, message in late)
        raise ResourceFailed(told, hint=f"stackctl console-log {late[0][0]}")


def ssh_endpoint(context: Context, word: str) -> SshEndpoint:
    """The address to reach a server's SSH port at, from inside its host."""
    with read(context.cloud) as reader:
        row = server_row(context, reader, word)
        _host_of(reader.get("hosts", row["host_id"]) if row["host_id"] else None, word)
        server = servers_by_id(reader, [row["id"]])[0]
        served = _subnets_with_dhcp(reader)
    # IPv4 first: guests take its address before they have made or asked for one of IPv6.
    for address in sorted(server.addresses, key=_is_ipv6):
        if address.subnet_id in served:
            return SshEndpoint(server, address.address, address.subnet_id)
    raise Conflict(
        f"Server {server.name} has no address in a subnet with DHCP, so its host has no way in."
    )


def relay(
    context: Context, endpoint: SshEndpoint, from_fd: int, to_fd: int, port: int = 22
) -> None:
    """Carry bytes between two file descriptors and a port of the server, through its host."""
    with read(context.cloud) as reader:
        row = reader.get("hosts", endpoint.server.host_id) if endpoint.server.host_id else None
    with acting_session(context, _host_of(row, endpoint.server.name)) as session:
        session.relay(endpoint.subnet_id, endpoint.address, port, from_fd, os.dup(to_fd))


def console(context: Context, word: str, from_fd: int, to_fd: int) -> None:
    """Carry bytes between two file descriptors and a server's serial console, until the first one
    ends or the guest goes off."""
    with read(context.cloud) as reader:
        server = server_row(context, reader, word)
        host = _host_of(reader.get("hosts", server["host_id"]) if server["host_id"] else None, word)
    with acting_session(context, host) as session:
        session.console(server["id"], from_fd, to_fd)


def require_display(context: Context, word: str) -> None:
    """See that a server runs with a display; Conflict or ResourceFailed says why not."""
    server, host = _with_display(context, word)
    with acting_session(context, host) as session:
        session.act("has-display", {"server_id": server["id"]})


def display(context: Context, word: str, from_fd: int, to_fd: int) -> None:
    """Carry bytes between two file descriptors and a server's display, which speaks RFB."""
    server, host = _with_display(context, word)
    with acting_session(context, host) as session:
        session.display(server["id"], from_fd, to_fd)


def screenshot(context: Context, word: str) -> bytes:
    """What a server's display shows now, as a PNG."""
    server, host = _with_display(context, word)
    with acting_session(context, host) as session:
        value = session.act("screenshot", {"server_id": server["id"]})
    try:
        return base64.b64decode(value["png"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise AgentFailed(f"The agent on host {host['name']} sent no picture.") from None


def _with_display(context: Context, word: str) -> tuple[Row, Row]:
    """A server that is to have a display, and its host."""
    with read(context.cloud) as reader:
        server = server_row(context, reader, word)
        row = reader.get("hosts", server["host_id"]) if server["host_id"] else None
    if "video" not in json.loads(server["hardware_json"]):
        raise Conflict(
            f"Server {server['name']} has no display: neither its boot (--vnc) nor its image "
            "(hw_video_model) asked for one. Its serial console is there.",
            hint=f"stackctl server-set {server['name']} --vnc   (then stackctl reboot --hard "
            f"{server['name']})",
        )
    return server, _host_of(row, word)


def _is_ipv6(address: ServerAddress) -> bool:
    return ":" in address.address


def _waited_for(addresses: Sequence[ServerAddress], what: str) -> list[ServerAddress]:
    """Where a guest is looked for: anywhere it may answer SSH; for DHCP at one address of each
    NIC, an IPv4 one where it has both."""
    if what != "dhcp":
        return sorted(addresses, key=_is_ipv6)
    first: dict[str, ServerAddress] = {}
    for address in sorted(addresses, key=_is_ipv6):
        first.setdefault(address.mac, address)
    return list(first.values())


def _subnets_with_dhcp(reader: Reader) -> set[str]:
    return set(reader.column("SELECT id FROM subnets WHERE dhcp = 1 AND deleted_at IS NULL"))


def _host_of(host: Row | None, word: str) -> Row:
    if host is None:
        raise Conflict(f"Server {word} is on no host.")
    return host


def _wait_on_host(
    context: Context, host: Row, servers: Sequence[Server], what: str, timeout_s: int
) -> list[tuple[str, str]]:
    """The servers that were late, each with what its host said."""
    late = []
    with read(context.cloud) as reader:
        served = _subnets_with_dhcp(reader)
    with acting_session(context, host) as session:
        for server in servers:
            ports = [
                {"mac": item.mac, "address": item.address, "subnet_id": item.subnet_id}
                for item in _waited_for(
                    [each for each in server.addresses if each.subnet_id in served], what
                )
            ]
            if not ports and what != "cloud-init":
                continue
            arguments: Json = {"server_id": server.id, "what": what, "ports": ports}
            arguments |= {"timeout_s": timeout_s}
            started = time.monotonic()
            try:
                session.act("wait-guest", arguments, timeout_s=timeout_s + 15)
                seconds = time.monotonic() - started
                context.watch.trace(SAID[what], host["name"], server.name, seconds)
            except ResourceFailed as error:
                said = f"{server.name} on host {host['name']}: {error.message}"
                late.append((server.name, said))
    return late
