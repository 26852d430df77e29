"""The second half of moving a router: plain rows, so that recovery can do it for a dead command.

In the first half its ports are bound to the new host with the role incoming, which has the
networks brought there, and the old host is told to let go of the router. Only when it has (or is
fenced) do they become active: a router is never on two hosts.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from stackctl.state import Row, Writer

_INCOMING = """
SELECT ports.id, ports.network_id FROM ports JOIN bindings ON bindings.port_id = ports.id
WHERE ports.device_id = ? AND ports.deleted_at IS NULL AND bindings.role = 'incoming'
"""


def bring_up(writer: Writer, router_id: str) -> bool:
    """Let the new host have a router that is on its way there; whether there was one."""
    ports = writer.all(_INCOMING, router_id)
    for port in ports:
        writer.run("UPDATE bindings SET role = 'active' WHERE port_id = ?", port["id"])
        writer.change.ports.add(port["id"])
        writer.change.networks.add(port["network_id"])
    if ports:
        writer.change.routers.add(router_id)
    return bool(ports)


def next_phase(
    writer: Writer, operation: Row, behind: Collection[str], silent: Collection[str]
) -> str:
    """What a command that died after the first half had still to do: see server_moves."""
    if behind or not bring_up(writer, json.loads(operation["result_json"])["id"]):
        return ""
    return "converge"
