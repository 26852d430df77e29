"""libvirt, in the few words that domains need; every call has a timeout.

libvirt's own calls wait for ever when its daemon hangs, so each runs in a thread of its own that
is left behind when it takes too long.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

URI = "qemu:///system"
CALL_TIMEOUT_S = 60.0
QUERY_TIMEOUT_S = 20.0
NAME_PREFIX = "sc-"

_T = TypeVar("_T")

_STATES = ("NOSTATE", "RUNNING", "RUNNING", "PAUSED", "RUNNING", "SHUTDOWN", "CRASHED", "SUSPENDED")
"""OpenStack's words for libvirt's states, by number (blocked and shutting down still run)."""

SAVED = "SAVED"
"""A domain that is off and whose memory lies on disk: its next start goes on from there."""

CRASHED = "CRASHED"
"""A domain that is off because qemu died or the guest panicked, until it is started again."""

SAVE_TIMEOUT_S = 600.0
"""For writing a guest's memory to disk and reading it back."""

AGENT_TIMEOUT_S = 5
"""For the agent in a guest; one that is busy with something else does not answer at all."""

_idle: list[Any] = []
"""Connections that no call uses. libvirt carries out the calls of one connection one after
another, so calls that run at once have one each; one whose call hangs is never used again."""

_current = threading.local()
_stuck: Optional[threading.Thread] = None


class LibvirtError(Exception):
    """libvirt refused, or did not answer; the message is its own."""


@dataclass(frozen=True)
class DomainView:
    """A domain as libvirt has it. ``xml`` is what its next start will use, or of a running one
    what it has now."""

    id: str
    name: str
    state: str
    xml: str


@dataclass(frozen=True)
class Versions:
    """Versions of libvirt and of the qemu it runs, dotted."""

    libvirt: str
    qemu: str


def observe(wanted: Collection[str]) -> dict[str, DomainView]:
    """All domains that may be ours (by name) or are asked for (by id), by their id."""
    return _call(lambda: _observe(wanted), QUERY_TIMEOUT_S)


def observe_one(domain_id: str) -> Optional[DomainView]:
    """One domain, or None when libvirt does not have it."""
    return _call(lambda: _observe_one(domain_id), QUERY_TIMEOUT_S)


def running(wanted: Collection[str]) -> dict[str, DomainView]:
    """Those of these domains that run, as they run: with what was plugged into them since."""
    return _call(lambda: _running(wanted), QUERY_TIMEOUT_S)


def state(domain_id: str) -> str:
    """The power state of a domain in OpenStack's words (NOSTATE when it does not exist)."""
    return _call(lambda: _state(domain_id), QUERY_TIMEOUT_S)


def state_word(number: int) -> str:
    """OpenStack's word for one of libvirt's numbers."""
    return _STATES[number]


def define(xml: str) -> None:
    """Define a domain, or replace its definition; libvirt validates it against its schema."""

    def work() -> None:
        _open().defineXMLFlags(xml, _libvirt().VIR_DOMAIN_DEFINE_VALIDATE)

    _call(work)


def start(domain_id: str) -> None:
    """Start a defined domain."""
    _call(lambda: _domain(domain_id).create())


def pause(domain_id: str) -> None:
    """Stop the virtual CPUs of a domain that runs; its memory stays."""
    _call(lambda: _domain(domain_id).suspend())


def unpause(domain_id: str) -> None:
    """Let a paused domain go on; well if it does already."""

    def work() -> None:
        domain = _domain(domain_id)
        if domain.state()[0] == _libvirt().VIR_DOMAIN_PAUSED:
            domain.resume()

    _call(work)


def save(domain_id: str) -> None:
    """Write a domain's memory to disk and switch it off; well if it is off already."""

    def work() -> None:
        domain = _domain(domain_id)
        if domain.isActive():
            domain.managedSave()

    _call(work, SAVE_TIMEOUT_S)


def restore(domain_id: str) -> None:
    """Start a domain from its saved memory, or from the beginning where there is none."""

    def work() -> None:
        domain = _domain(domain_id)
        if not domain.isActive():
            domain.create()

    _call(work, SAVE_TIMEOUT_S)


def forget_saved(domain_id: str) -> None:
    """Throw saved memory away, so that the next start is from the beginning."""

    def work() -> None:
        domain = _domain(domain_id)
        if domain.hasManagedSaveImage():
            domain.managedSaveRemove()

    _call(work)


def shutdown(domain_id: str) -> None:
    """Ask the guest to shut down; it may take its time or ignore it."""
    _call(lambda: _domain(domain_id).shutdown())


def destroy(domain_id: str) -> None:
    """Switch a domain off at once; well if it was off already."""

    def work() -> None:
        domain = _domain(domain_id)
        if domain.isActive():
            domain.destroy()

    _call(work)


def undefine(domain_id: str) -> None:
    """Forget a domain with everything that libvirt kept for it; well if it has none.

    Its UEFI variables stay: like a disk they go when their own tombstone says so.
    """

    def work() -> None:
        module = _libvirt()
        flags = (
            module.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | module.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | module.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | module.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        )
        try:
            _domain(domain_id).undefineFlags(flags)
        except module.libvirtError as error:
            # One that was never more than a guest on its way here went when it was switched off.
            if not _is_missing(error):
                raise

    _call(work)


def set_metadata(domain_id: str, element: str, key: str, uri: str) -> None:
    """Replace our element in the metadata of a domain's definition."""

    def work() -> None:
        module = _libvirt()
        kind, flags = module.VIR_DOMAIN_METADATA_ELEMENT, module.VIR_DOMAIN_AFFECT_CONFIG
        _domain(domain_id).setMetadata(kind, element, key, uri, flags)

    _call(work)


def plug(domain_id: str, device: str) -> None:
    """Give a running domain a device (XML); its definition stays as it is."""
    _call(lambda: _domain(domain_id).attachDeviceFlags(device, _libvirt().VIR_DOMAIN_AFFECT_LIVE))


def unplug(domain_id: str, alias: str) -> None:
    """Have the guest of a running domain asked to release a device; does not wait for it."""
    _call(lambda: _domain(domain_id).detachDeviceAlias(alias, _libvirt().VIR_DOMAIN_AFFECT_LIVE))


def resize_disk(domain_id: str, path: str, size_bytes: int) -> None:
    """Have a running domain's disk grow; its guest is told."""

    def work() -> None:
        _domain(domain_id).blockResize(path, size_bytes, _libvirt().VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    _call(work)


def backup_begin(domain_id: str, xml: str) -> None:
    """Begin to copy disks of a running domain as they are at this moment; does not wait.

    What an earlier agent began and did not see to its end is broken off: see to it that none is
    at work.
    """

    def work() -> None:
        domain = _domain(domain_id)
        _end_backup(domain)
        domain.backupBegin(xml, None, 0)

    _call(work)


def backup_ended(domain_id: str) -> Optional[str]:
    """None while a domain's backup goes on; then empty, or why it did not succeed."""

    def work() -> Optional[str]:
        module, domain = _libvirt(), _domain(domain_id)
        if domain.jobInfo()[0] != module.VIR_DOMAIN_JOB_NONE:
            return None
        last = domain.jobStats(module.VIR_DOMAIN_JOB_STATS_COMPLETED)
        if last.get("success", True) and last.get("type") == module.VIR_DOMAIN_JOB_COMPLETED:
            return ""
        return str(last.get("errmsg") or "the job was cancelled, or the guest went off")

    return _call(work, QUERY_TIMEOUT_S)


def backup_abort(domain_id: str) -> None:
    """Break a domain's backup off, and see its end; well if there is none."""

    def work() -> None:
        domain = _domain(domain_id)
        if domain.isActive():
            _end_backup(domain)

    _call(work)


def _end_backup(domain: Any) -> None:
    """Only backups are broken off: LibvirtError when libvirt is at work on something else."""
    module = _libvirt()
    deadline = time.monotonic() + QUERY_TIMEOUT_S
    asked = False
    while domain.jobInfo()[0] != module.VIR_DOMAIN_JOB_NONE:
        operation = domain.jobStats().get("operation", module.VIR_DOMAIN_JOB_OPERATION_BACKUP)
        if operation != module.VIR_DOMAIN_JOB_OPERATION_BACKUP:
            raise LibvirtError("libvirt is at work on the domain with something else")
        if time.monotonic() > deadline:
            raise LibvirtError("the backup before this one does not end")
        if not asked:
            domain.abortJob()
            asked = True
        time.sleep(0.1)


def freeze(domain_id: str) -> bool:
    """Have the agent in a guest write out and freeze its file systems; False where there is none,
    or where it cannot."""
    try:
        _call(lambda: _domain(domain_id).fsFreeze())
    except LibvirtError:
        return False
    return True


def thaw(domain_id: str) -> None:
    """Let a guest's file systems go on."""
    _call(lambda: _domain(domain_id).fsThaw())


def ask(work: Callable[[Any, Any], _T], timeout_s: float = CALL_TIMEOUT_S) -> _T:
    """What some work with (libvirt's module, a connection) returns."""
    return _call(lambda: work(_libvirt(), _open()), timeout_s)


def set_password(domain_id: str, user: str, password: str) -> None:
    """Have the agent in a guest set a user's password."""
    _call(lambda: _domain(domain_id).setUserPassword(user, password, 0))


def ask_agent(domain_id: str, command: str, **arguments: Any) -> Any:
    """What the agent in a guest says to one of its own commands."""

    def work() -> Any:
        import libvirt_qemu

        question = json.dumps({"execute": command, "arguments": arguments})
        answer = libvirt_qemu.qemuAgentCommand(_domain(domain_id), question, AGENT_TIMEOUT_S, 0)
        return json.loads(answer).get("return")

    return _call(work, QUERY_TIMEOUT_S)


def screenshot(domain_id: str) -> bytes:
    """What the first display of a running domain shows, as qemu writes it (PPM or PNG)."""

    def work() -> bytes:
        connection, pieces = _open(), []
        stream = connection.newStream()
        _domain(domain_id).screenshot(stream, 0)
        while piece := stream.recv(65536):
            pieces.append(piece)
        stream.finish()
        return b"".join(pieces)

    return _call(work)


def live_xml(domain_id: str) -> str:
    """The XML of a domain as it runs (or would run)."""
    text: str = _call(lambda: _domain(domain_id).XMLDesc(0), QUERY_TIMEOUT_S)
    return text


def inactive_xml(domain_id: str) -> str:
    """The XML with which a domain is started next."""
    flags = _libvirt().VIR_DOMAIN_XML_INACTIVE
    text: str = _call(lambda: _domain(domain_id).XMLDesc(flags), QUERY_TIMEOUT_S)
    return text


def capabilities() -> str:
    """libvirt's description of this host and what it can emulate (XML)."""
    text: str = _call(lambda: _open().getCapabilities(), QUERY_TIMEOUT_S)
    return text


def versions() -> Versions:
    """What runs here."""
    return _call(
        lambda: Versions(_dotted(_open().getLibVersion()), _dotted(_open().getVersion())),
        QUERY_TIMEOUT_S,
    )


def _dotted(number: int) -> str:
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _observe(wanted: Collection[str]) -> dict[str, DomainView]:
    module = _libvirt()
    found = {}
    for domain, stats in _open().getAllDomainStats(module.VIR_DOMAIN_STATS_STATE, 0):
        domain_id, name = domain.UUIDString(), domain.name()
        if domain_id in wanted or name.startswith(NAME_PREFIX):
            view = _view(domain, (stats["state.state"], stats["state.reason"]))
            if view is not None:
                found[domain_id] = view
    return found


def _running(wanted: Collection[str]) -> dict[str, DomainView]:
    found = {}
    for domain in _open().listAllDomains(_libvirt().VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        if domain.UUIDString() in wanted:
            view = _view(domain, domain.state(), flags=0)
            if view is not None:
                found[view.id] = view
    return found


def _observe_one(domain_id: str) -> Optional[DomainView]:
    try:
        domain = _domain(domain_id)
        return _view(domain, domain.state())
    except _libvirt().libvirtError as error:
        if _is_missing(error):
            return None
        raise


def _state(domain_id: str) -> str:
    try:
        number = _domain(domain_id).state()[0]
    except _libvirt().libvirtError as error:
        if _is_missing(error):
            return _STATES[0]
        raise
    return _STATES[number]


def _state_word(domain: Any, number: int, reason: int) -> str:
    module = _libvirt()
    if number != module.VIR_DOMAIN_SHUTOFF:
        return _STATES[number]
    if domain.hasManagedSaveImage():
        return SAVED
    # qemu died, or the guest's kernel panicked and said so.
    return CRASHED if reason == module.VIR_DOMAIN_SHUTOFF_CRASHED else _STATES[number]


def _view(domain: Any, state: Sequence[int], flags: Optional[int] = None) -> Optional[DomainView]:
    module = _libvirt()
    try:
        # Without SECURE: passwords of a foreign domain are none of our business.
        xml = domain.XMLDesc(module.VIR_DOMAIN_XML_INACTIVE if flags is None else flags)
        word = _state_word(domain, *state)
    except module.libvirtError as error:
        if _is_missing(error):
            return None
        raise
    return DomainView(domain.UUIDString(), domain.name(), word, xml)


def _is_missing(error: Any) -> bool:
    return bool(error.get_error_code() == _libvirt().VIR_ERR_NO_DOMAIN)


def _domain(domain_id: str) -> Any:
    return _open().lookupByUUIDString(domain_id)


def _open() -> Any:
    """The connection of the call that this thread carries out."""
    return _current.connection


def _borrow() -> Any:
    while True:
        try:
            connection = _idle.pop()
        except IndexError:
            return _libvirt().open(URI)
        if connection.isAlive():
            return connection


def _libvirt() -> Any:
    try:
        import libvirt
    except ImportError:
        raise LibvirtError("python3-libvirt is not installed on this host") from None
    return libvirt


def _call(work: Callable[[], _T], timeout_s: float = CALL_TIMEOUT_S) -> _T:
    global _stuck
    if _stuck is not None and _stuck.is_alive():
        # Once is enough: a hundred servers must not wait for it one after another.
        raise LibvirtError("libvirt still does not answer an earlier call")
    outcome: list[Any] = []
    thread = threading.Thread(target=_catch, args=(work, outcome), name="libvirt", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        _stuck = thread
        raise LibvirtError(f"libvirt did not answer within {timeout_s:g} s")
    value, error = outcome
    if error is None:
        result: _T = value
        return result
    if isinstance(error, LibvirtError):
        raise error
    if type(error).__name__ == "libvirtError":
        raise LibvirtError(str(error)) from None
    raise error


def _catch(work: Callable[[], Any], outcome: list[Any]) -> None:
    try:
        _libvirt().registerErrorHandler(lambda context, error: None, None)
        connection = _current.connection = _borrow()
        try:
            value = work()
        finally:
            _current.connection = None
            _idle.append(connection)
        outcome[:] = [value, None]
    except Exception as error:
        outcome[:] = [None, error]
