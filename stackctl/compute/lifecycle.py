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

    Those that only change what belongs to a server have neither task nor command. A locked server
    refuses all but those ``while_locked``. ``keeps_off``: one that is off is not started by it.
    """

    action: str
    allowed: tuple[str, ...]
    task_state: str = ""
    power_action: str = ""
    while_locked: bool = False
    keeps_off: bool = False


ON_A_HOST = ("active", "stopped", "paused", "suspended", "rescued", "resized", "error")
"""A server that was built and has its disks on a host, whatever became of it."""

EXISTING = (*ON_A_HOST, "shelved", "shelved_offloaded")
"""A server that was built."""

KEEPS_MEMORY = ("suspend", "live-migrate")
"""After these a guest goes on with its memory, so with the definition that it ran by."""

WAY_TO_ACTIVE = {
    "stopped": "start",
    "paused": "unpause",
    "suspended": "resume",
    "rescued": "unrescue",
    "resized": "resize-confirm",
    "shelved": "unshelve",
    "shelved_offloaded": "unshelve",
    "soft-delete": "restore",
    "error": "reboot --hard",
}
"""The command that makes a server active again."""

COPIED = ("active", "stopped", "paused", "suspended")
"""A server whose disk can become an image."""


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
        Transition(
            "rebuild", ("active", "stopped", "error"), "rebuilding", "reboot-hard", keeps_off=True
        ),
        Transition("rescue", ("active", "stopped", "error"), "rescuing", "reboot-hard"),
        Transition("unrescue", ("rescued", "error"), "unrescuing", "reboot-hard"),
        Transition("resize", ("active", "stopped"), "resizing", "reboot", keeps_off=True),
        Transition("migrate", ("active", "stopped"), "resize-prep"),
        Transition("live-migrate", ("active", "paused"), "migrating"),
        Transition("confirm-resize", ("resized",), "resize-confirming"),
        Transition(
            "revert-resize", ("resized", "error"), "resize-reverting", "reboot", keeps_off=True
        ),
        Transition("soft-delete", (*EXISTING, "building"), "soft-deleting", "stop"),
        Transition("restore", ("soft-delete",), "restoring", "start"),
        Transition("snapshot", COPIED, "image-snapshot", while_locked=True),
        Transition("backup", COPIED, "image-backup", while_locked=True),
        Transition("shelve", COPIED, "shelving", "stop"),
        Transition("shelve-offload", ("shelved",), "shelving-offloading"),
        Transition("unshelve", ("shelved", "shelved_offloaded"), "unshelving", "start"),
        Transition("evacuate", ON_A_HOST, "rebuilding"),
        Transition("attach-interface", ("active", "paused", "stopped")),
        Transition("detach-interface", ("active", "paused", "stopped")),
        Transition("attach-volume", ("active", "paused", "stopped")),
        Transition("detach-volume", ("active", "paused", "stopped")),
        Transition("set-password", ("active",)),
        Transition("rename", EXISTING, while_locked=True),
        Transition("set", EXISTING),
    )
}

_TASK_STATUS = {
    "rebooting": "REBOOT",
    "rebooting-hard": "HARD_REBOOT",
    "deleting": "DELETED",
    "rebuilding": "REBUILD",
    "resizing": "RESIZE",
    "migrating": "MIGRATING",
    "resize-prep": "RESIZE",
    "resize-migrating": "RESIZE",
    "resize-finish": "RESIZE",
    "resize-reverting": "REVERT_RESIZE",
    "revert-prep": "REVERT_RESIZE",
}

_VM_STATUS = {
    "building": "BUILD",
    "active": "ACTIVE",
    "stopped": "SHUTOFF",
    "paused": "PAUSED",
    "suspended": "SUSPENDED",
    "rescued": "RESCUE",
    "resized": "VERIFY_RESIZE",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
    "soft-delete": "SOFT_DELETED",
    "error": "ERROR",
    "deleted": "DELETED",
}


def status(vm_state: str, task_state: str | None) -> str:
    """What list shows in its Status column."""
    return _TASK_STATUS.get(task_state or "", _VM_STATUS.get(vm_state, "UNKNOWN"))


def require(server: Row, action: str) -> Transition:
    """The transition of an action; Conflict in Nova's words when the state does not allow it."""
    transition = TRANSITIONS[action]
    if not transition.while_locked:
        refuse_locked(server, action)
    if server["task_state"] is not None or server["moving"]:
        raise Conflict(
            f"Cannot '{action}' instance {server['name']} while it is in task_state "
            f"{server['task_state'] or 'moving to another host'}.",
            hint="stackctl recover   (if the command that began it was interrupted)",
        )
    if server["vm_state"] not in transition.allowed:
        raise Conflict(
            f"Cannot '{action}' instance {server['name']} while it is in vm_state "
            f"{server['vm_state']}.",
            hint=_way(server, transition),
        )
    _refuse_old_definition(server, action)
    return transition


def _way(server: Row, transition: Transition) -> str:
    """What to type instead of the action, or before it; nothing when neither makes sense."""
    if transition.action == "soft-delete":
        return f"stackctl delete --force {server['name']}"
    command = WAY_TO_ACTIVE.get(server["vm_state"])
    if command is None:
        return ""
    if transition.action == "start":
        return f"stackctl {command} {server['name']}"
    if "active" in transition.allowed:
        return f"stackctl {command} {server['name']}   (first)"
    return ""


def _refuse_old_definition(server: Row, action: str) -> None:
    """Conflict when memory would come back with a definition that is not ours."""
    if action in KEEPS_MEMORY and server["adopted_json"]:
        raise Conflict(
            f"Cannot '{action}' instance {server['name']}: it still runs by the definition that it "
            "had before it was adopted, and would come back with that. Nothing was changed.",
            hint=f"stackctl reboot {server['name']}",
        )


def refuse_locked(server: Row, action: str) -> None:
    """Conflict when a server is locked against such a slip."""
    if server["locked"]:
        reason = f" ({server['lock_reason']})" if server["lock_reason"] else ""
        raise Conflict(
            f"Instance {server['name']} is locked{reason}. Nothing was done ('{action}').",
            hint=f"stackctl unlock {server['id']}",
        )


def refuse_undecided(server: Row, action: str) -> None:
    """A server that was resized or moved has two sets of disks until one of them is chosen."""
    if server["before_resize_json"] is not None:
        raise Conflict(
            f"Cannot '{action}' instance {server['name']}: it was resized or moved, and that was "
            "neither confirmed nor reverted. Nothing was done.",
            hint=f"stackctl resize-revert {server['name']}",
        )
