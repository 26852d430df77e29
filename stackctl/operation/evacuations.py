"""The end of evacuations: plain rows, so that recovery can write it for a dead command."""

from __future__ import annotations

import json
from collections.abc import Collection

from stackctl.operation.server_moves import set_status
from stackctl.state import Row, Writer

_OPEN = (
    "SELECT * FROM migrations WHERE operation_id = ? AND kind = 'evacuate' AND status = 'running'"
)

# What an earlier move had set aside for a word is taken up again, or not needed any more.
_EARLIER = """
UPDATE migrations SET claim_host_id = NULL,
  status = CASE WHEN status <> 'finished' THEN status
    WHEN source_host_id = (SELECT host_id FROM servers WHERE servers.id = server_id)
    THEN 'reverted' ELSE 'confirmed' END
WHERE server_id = ? AND claim_host_id IS NOT NULL
"""


def conclude(writer: Writer, operation_id: str) -> None:
    """Write what became of the servers of an evacuation."""
    for migration in writer.all(_OPEN, operation_id):
        server = writer.get("servers", migration["server_id"])
        if server["host_id"] != migration["target_host_id"]:
            set_status(writer, migration, "failed", reason="its new host was not reached")
            continue
        writer.run(_EARLIER, server["id"])
        well = server["vm_state"] not in ("building", "error")
        fault = json.loads(server["fault_json"] or "{}")
        reason = "" if well else str(fault.get("message", "it could not be built"))
        set_status(writer, migration, "completed" if well else "error", reason=reason)


def next_phase(
    writer: Writer, operation: Row, behind: Collection[str], silent: Collection[str]
) -> str:
    """There is none: once its hosts have done their part, a dead command's evacuation has ended."""
    if not behind:
        conclude(writer, operation["id"])
    return ""
