"""Glance's states of an image, and what may be done in which: one table.

queued -> saving -> active <-> deactivated -> deleted
queued -> importing -> active           (a failure leads back to queued)
"""

from __future__ import annotations

from dataclasses import dataclass

from stackctl.errors import Conflict
from stackctl.state import Row

STATUSES = ("queued", "saving", "importing", "active", "deactivated", "deleted")
RECEIVING = ("saving", "importing")


@dataclass(frozen=True)
class Action:
    """In which states it is allowed, what the image is then (None: as before), and in words."""

    allowed: tuple[str, ...]
    becomes: str | None
    told: str


ACTIONS = {
    "upload": Action(("queued",), "saving", "given content"),
    "import": Action(("queued",), "importing", "given content"),
    "keep": Action(RECEIVING, "active", "given content"),
    "deactivate": Action(("active", "deactivated"), "deactivated", "deactivated"),
    "reactivate": Action(("active", "deactivated"), "active", "reactivated"),
    "read": Action(("active", "deactivated"), None, "read"),
    "copy": Action(("active", "deactivated"), None, "copied"),
    "boot-with": Action(("active",), None, "used as kernel or ramdisk"),
    "fetch": Action(("active",), None, "brought to hosts"),
    "delete": Action(STATUSES[:-1], "deleted", "deleted"),
}


_WAY_TO_ACTIVE = {"queued": "image-upload", "deactivated": "image-activate"}


def require_active(image: Row) -> None:
    """Conflict in Nova's words when no server can be made of an image now."""
    if image["status"] != "active":
        command = _WAY_TO_ACTIVE.get(image["status"], "image-show")
        raise Conflict(
            f"Image {image['name']} is not active.", hint=f"stackctl {command} {image['id']}"
        )


def after(image: Row, action: str) -> str:
    """The status after an action; Conflict when the present one does not allow it."""
    known = ACTIONS[action]
    if image["status"] not in known.allowed:
        raise Conflict(
            f"Image {image['name']} is {image['status']}: it can be {known.told} when it is "
            f"{' or '.join(known.allowed)}. Nothing was changed.",
            hint=f"stackctl image-show {image['id']}",
        )
    return known.becomes or str(image["status"])
