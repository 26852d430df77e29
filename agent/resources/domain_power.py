"""Power: deciding what a command means for a domain as it is, and obeying it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from agent.faults import StepFailed
from agent.resources.domain_xml import MARK_KEY, MARK_URI, Mark, mark_xml
from agent.spec import Power
from agent.system import files, libvirt_conn
from agent.system.libvirt_conn import NAME_PREFIX, LibvirtError

QEMU_LOGS = Path("/var/log/libvirt/qemu")
LOG_LINES = 20
POLL_S = 0.2
ASK_AGAIN_S = 10.0
ACTIONS = ("start", "stop", "reboot", "reboot-hard", "pause", "unpause", "suspend", "resume")
STAYS_OFF = ("stop", "suspend")
"""After these a reboot of the host starts nothing."""


@dataclass(frozen=True)
class Command:
    """What to do: stop (with ``grace_s`` seconds for the guest), then start, then ``act``.

    ``act`` is pause, unpause, save, restore or empty; ``forgets`` saved memory before a start.
    ``obeyed_serial`` goes into the mark afterwards; None when nothing was commanded.
    """

    stops: bool = False
    grace_s: float = 0
    starts: bool = False
    act: str = ""
    forgets: bool = False
    obeyed_serial: Optional[int] = None
    why: str = ""


def command(power: Power, *, served: Optional[int], runs: bool, host_rebooted: bool) -> Command:
    """The command for a domain that has obeyed serial ``served`` (None: there is no domain).

    ``host_rebooted`` starts again what was to run before the host went down.
    """
    if power.action not in ACTIONS:
        raise StepFailed(f"unknown power action {power.action[:40]!r}")
    if served is None or power.serial > served:
        return _commanded(power, runs)
    if host_rebooted and not runs and power.action not in STAYS_OFF:
        return Command(starts=True, why="the host was rebooted")
    return Command()


def _commanded(power: Power, runs: bool) -> Command:
    asked = Command(obeyed_serial=power.serial, why=f"power command {power.serial}: {power.action}")
    if power.action == "stop":
        return replace(asked, stops=runs, grace_s=power.timeout_s)
    if power.action == "start":
        return replace(asked, starts=not runs)
    if power.action in _ACTS:
        # A guest that went off by itself has nothing to pause or to save.
        act = _ACTS[power.action]
        return replace(asked, act=act if runs or act == "restore" else "")
    hard = power.action == "reboot-hard"
    grace_s = 0 if hard else power.timeout_s
    return replace(asked, stops=runs, grace_s=grace_s, starts=True, forgets=hard)


_ACTS = {"pause": "pause", "unpause": "unpause", "suspend": "save", "resume": "restore"}
_CALLS = {
    "pause": libvirt_conn.pause,
    "unpause": libvirt_conn.unpause,
    "save": libvirt_conn.save,
    "restore": libvirt_conn.restore,
}


def act(domain_id: str, what: str) -> None:
    """Pause, unpause, save or restore a domain; StepFailed with qemu's last words."""
    try:
        _CALLS[what](domain_id)
    except LibvirtError as error:
        raise StepFailed(str(error), detail=log_tail(domain_id)) from None


def stop(domain_id: str, grace_s: float) -> None:
    """Have the guest shut down within ``grace_s`` seconds, or switch it off."""
    deadline = time.monotonic() + grace_s
    asked = 0.0
    while time.monotonic() < deadline:
        if not _is_on(domain_id):
            return
        if time.monotonic() - asked >= ASK_AGAIN_S:
            asked = time.monotonic()
            _ask(domain_id)
        time.sleep(POLL_S)
    libvirt_conn.destroy(domain_id)


def start(domain_id: str) -> None:
    """Start a domain; StepFailed with qemu's last words when its process does not live."""
    if _is_on(domain_id):
        return
    try:
        libvirt_conn.start(domain_id)
    except LibvirtError as error:
        raise StepFailed(str(error), detail=log_tail(domain_id)) from None
    if not _is_on(domain_id):
        raise StepFailed("qemu ended as soon as it was started", detail=log_tail(domain_id))


def remember(mark: Mark) -> None:
    """Write into the domain's mark that a power command was obeyed."""
    libvirt_conn.set_metadata(mark.server_id, mark_xml(mark), MARK_KEY, MARK_URI)


def log_tail(domain_id: str) -> str:
    """The last lines of qemu's log for a domain."""
    text = files.tail(QEMU_LOGS / f"{_name(domain_id)}.log", 16384)
    return "\n".join(text.decode(errors="replace").splitlines()[-LOG_LINES:])


def _name(domain_id: str) -> str:
    """What libvirt calls a domain: an adopted one keeps its name."""
    try:
        view = libvirt_conn.observe_one(domain_id)
    except LibvirtError:
        view = None
    return f"{NAME_PREFIX}{domain_id}" if view is None else view.name


def _ask(domain_id: str) -> None:
    try:
        libvirt_conn.shutdown(domain_id)
    except LibvirtError:
        # A paused guest cannot be asked, one that just went off need not be: the deadline decides.
        return


def _is_on(domain_id: str) -> bool:
    return libvirt_conn.state(domain_id) in ("RUNNING", "PAUSED", "SUSPENDED")
