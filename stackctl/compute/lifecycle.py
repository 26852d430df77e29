"""The states of a server and the one table of what is allowed in which of them.

vm_state, task_state and power state are Nova's; Status is computed from the first two.
"""

from __future__ import annotations

from dataclasses import dataclass

from stackctl.errors import Conflict
from stackctl.state import Row


@dataclass(frozen=True)
class Transition:
    """An action: the vm_states it starts from, its task meanwhile, its power command.

    Those that only change what belongs to a server have neither task nor command.
    """

    action: str
    allowed: tuple[str, ...]
    task_state: str = ""
    power_action: str = ""


TRANSITIONS = {
    item.action: item
    for item in (
        Transition("start", ("stopped",), "powering-on", "start"),
        Transition("stop", ("active", "error"), "powering-off", "stop"),
        Transition("reboot", ("active",), "rebooting", "reboot"),
        Transition(
            "reboot-hard",
            ("active", "stopped", "paused", "suspended", "error"),
            "rebooting-hard",
            "reboot-hard",
        ),
        Transition("pause", ("active",), "pausing", "pause"),
        Transition("unpause", ("paused",), "unpausing", "unpause"),
        Transition("suspend", ("active",), "suspending", "suspend"),
        Transition("resume", ("suspended",), "resuming", "resume"),
        Transition("attach-interface", ("active", "paused", "stopped")),
        Transition("detach-interface", ("active", "paused", "stopped")),
        Transition("attach-volume", ("active", "paused", "stopped")),
        Transition("detach-volume", ("active", "paused", "stopped")),
    )
}

_TASK_STATUS = {
    "rebooting": "REBOOT",
    "rebooting-hard": "HARD_REBOOT",
    "deleting": "DELETED",
}

_VM_STATUS = {
    "building": "BUILD",
    "active": "ACTIVE",
    "stopped": "SHUTOFF",
    "paused": "PAUSED",
    "suspended": "SUSPENDED",
    "error": "ERROR",
    "deleted": "DELETED",
}


def status(vm_state: str, task_state: str | None) -> str:
    """What list shows in its Status column."""
    return _TASK_STATUS.get(task_state or "", _VM_STATUS.get(vm_state, "UNKNOWN"))


def require(server: Row, action: str) -> Transition:
    """The transition of an action; Conflict in Nova's words when the state does not allow it."""
    transition = TRANSITIONS[action]
    if server["task_state"] is not None:
        raise Conflict(
            f"Cannot '{action}' instance {server['name']} while it is in task_state "
            f"{server['task_state']}.",
            hint="stackctl recover   (if the command that began it was interrupted)",
        )
    if server["vm_state"] not in transition.allowed:
        raise Conflict(
            f"Cannot '{action}' instance {server['name']} while it is in vm_state "
            f"{server['vm_state']}."
        )
    return transition
