"""The states of a volume, in Cinder's words, and the one table of what is allowed in which.

``creating`` becomes ``available`` or ``error``, ``attaching`` becomes ``in-use`` and ``detaching``
``available`` when the volume's host says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from stackctl.errors import Conflict
from stackctl.state import Reader, Row


@dataclass(frozen=True)
class Transition:
    """An action: the states it starts from, and the state that it leads to (empty: the same)."""

    action: str
    allowed: tuple[str, ...]
    status: str = ""


TRANSITIONS = {
    item.action: item
    for item in (
        Transition("attach", ("available",), "attaching"),
        Transition("detach", ("in-use", "attaching"), "detaching"),
        Transition("extend", ("available", "in-use")),
        Transition("copy", ("available", "in-use")),
        Transition("delete", ("available", "error", "creating"), "deleted"),
    )
}


def require(reader: Reader, volume: Row, action: str) -> Transition:
    """The transition of an action; Conflict in Cinder's words when the state does not allow it."""
    transition = TRANSITIONS[action]
    if volume["status"] in transition.allowed:
        return transition
    allowed = " or ".join(transition.allowed)
    holder, hint = "", ""
    if volume["server_id"] is not None:
        server = reader.get("servers", volume["server_id"])
        if server["deleted_at"] is None:
            holder = f" (it belongs to server {server['name']} as /dev/{volume['device']})"
        hint = f"stackctl volume-detach {server['name']} {volume['name']}"
        if volume["status"] == "detaching":
            host = reader.get("hosts", volume["host_id"])["name"]
            hint = f"stackctl converge {host}   (asks the guest again to let go of it)"
    raise Conflict(
        f"Invalid volume: to {action} it, the status of volume {volume['name']} must be {allowed}, "
        f"but it is {volume['status']}{holder}. Nothing was changed.",
        hint=hint,
    )
