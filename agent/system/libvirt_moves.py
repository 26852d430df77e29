"""libvirt's migration of running domains, in the few words that moving them needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

from agent.system import libvirt_conn
from agent.system.libvirt_conn import QUERY_TIMEOUT_S, LibvirtError

MARGIN_S = 60.0
"""What libvirt gets to end a migration that was called off."""

SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
"""Where libvirt listens: one daemon for all, or (modular) the one for qemu."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Journey:
    """How a domain goes: the other libvirt's URI, those of the sockets for its memory and its
    disks, which disks are copied (their targets), and what it becomes there: ``xml`` as it goes
    on, ``definition`` from its next start on. ``shared``: it has disks that both hosts reach."""

    destination: str
    memory: str
    disks: str
    copied: tuple[str, ...]
    xml: str
    definition: str
    shared: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a migration is, in bytes."""

    memory_bytes: int = 0
    memory_total: int = 0
    disk_bytes: int = 0
    disk_total: int = 0
    downtime_ms: int = 0


@dataclass(frozen=True)
class Place:
    """What libvirt has of a domain. ``arriving``: it is not whole here yet, or was not let go;
    ``busy``: libvirt is at work on it."""

    exists: bool
    state: str = "NOSTATE"
    persistent: bool = False
    arriving: bool = False
    busy: bool = False

    @property
    def on(self) -> bool:
        """Whether a guest is there, running or paused."""
        return self.state in ("RUNNING", "PAUSED", "SUSPENDED")


def own_socket() -> Path:
    """The socket of this host's libvirt."""
    found = next((path for path in map(Path, SOCKETS) if path.exists()), None)
    if found is None:
        raise LibvirtError(f"libvirt does not listen here: there is no {SOCKETS[0]}")
    return found


def migrate(domain_id: str, journey: Journey, limit_s: float) -> None:
    """Move a running domain; returns when it is gone here and waits, paused, at its destination.

    LibvirtError when it stays here.
    """

    def work(module: Any, connection: Any) -> None:
        domain = connection.lookupByUUIDString(domain_id)
        domain.migrateToURI3(
            journey.destination, _parameters(module, journey), _flags(module, journey)
        )

    libvirt_conn.ask(work, limit_s + MARGIN_S)


def _flags(module: Any, journey: Journey) -> int:
    """PAUSED: whoever asked for it lets it go on there, when it is certain that it is gone here.
    Its disks lie on the same images there: only what is above them is copied."""
    flags = (
        module.VIR_MIGRATE_LIVE
        | module.VIR_MIGRATE_PEER2PEER
        | module.VIR_MIGRATE_PERSIST_DEST
        | module.VIR_MIGRATE_UNDEFINE_SOURCE
        | module.VIR_MIGRATE_PAUSED
        | module.VIR_MIGRATE_ABORT_ON_ERROR
        | module.VIR_MIGRATE_AUTO_CONVERGE
    )
    flags |= module.VIR_MIGRATE_NON_SHARED_INC if journey.copied else 0
    # libvirt knows few file systems as shared ones; of ours the cloud has its own proof.
    return int(flags | (module.VIR_MIGRATE_UNSAFE if journey.shared else 0))


def _parameters(module: Any, journey: Journey) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        module.VIR_MIGRATE_PARAM_URI: journey.memory,
        module.VIR_MIGRATE_PARAM_DEST_XML: journey.xml,
        module.VIR_MIGRATE_PARAM_PERSIST_XML: journey.definition,
    }
    if journey.copied:
        parameters[module.VIR_MIGRATE_PARAM_DISKS_URI] = journey.disks
        parameters[module.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(journey.copied)
    return parameters


def progress(domain_id: str) -> Optional[Progress]:
    """How far a domain's migration is; None when there is none (any more)."""

    def work(module: Any, domain: Any) -> Optional[Progress]:
        if not _is_leaving(module, domain):
            return None
        stats = domain.jobStats()
        return Progress(
            memory_bytes=int(stats.get("memory_processed", 0)),
            memory_total=int(stats.get("memory_total", 0)),
            disk_bytes=int(stats.get("disk_processed", 0)),
            disk_total=int(stats.get("disk_total", 0)),
            downtime_ms=int(stats.get("downtime", 0)),
        )

    return _on(domain_id, work)


def call_off(domain_id: str) -> bool:
    """Break a domain's migration off, so that it stays here; whether there was one."""

    def work(module: Any, domain: Any) -> bool:
        if not _is_leaving(module, domain):
            return False
        domain.abortJob()
        return True

    return _on(domain_id, work)


def place(domain_id: str) -> Place:
    """What libvirt has of a domain here."""

    def work(module: Any, connection: Any) -> Place:
        try:
            domain = connection.lookupByUUIDString(domain_id)
            number, reason = domain.state()
            return Place(
                exists=True,
                state=libvirt_conn.state_word(number),
                persistent=bool(domain.isPersistent()),
                arriving=(number, reason)
                == (module.VIR_DOMAIN_PAUSED, module.VIR_DOMAIN_PAUSED_MIGRATION),
                busy=_has_job(module, domain),
            )
        except module.libvirtError as error:
            if error.get_error_code() == module.VIR_ERR_NO_DOMAIN:
                return Place(False)
            raise

    return libvirt_conn.ask(work, QUERY_TIMEOUT_S)


def migratable_xml(domain_id: str) -> str:
    """A running domain as another host must make it, secrets and all."""

    def work(module: Any, domain: Any) -> str:
        return str(domain.XMLDesc(module.VIR_DOMAIN_XML_MIGRATABLE | module.VIR_DOMAIN_XML_SECURE))

    return _on(domain_id, work)


def can_have_cpu(cpu: str, machine_type: str, virt_type: str) -> bool:
    """Whether guests here can have a CPU with all of these features (XML)."""

    def work(module: Any, connection: Any) -> bool:
        verdict = connection.compareHypervisorCPU(None, "x86_64", machine_type, virt_type, cpu, 0)
        return bool(verdict in (module.VIR_CPU_COMPARE_IDENTICAL, module.VIR_CPU_COMPARE_SUPERSET))

    return libvirt_conn.ask(work, QUERY_TIMEOUT_S)


class Elsewhere:
    """A connection to another host's libvirt, opened before it is needed."""

    def __init__(self, uri: str) -> None:
        self._connection = libvirt_conn.ask(lambda module, _: module.open(uri))

    def resume(self, domain_id: str) -> None:
        """Let a domain go on there that came paused."""

        def work(module: Any, _: Any) -> None:
            domain = self._connection.lookupByUUIDString(domain_id)
            if domain.state()[0] == module.VIR_DOMAIN_PAUSED:
                domain.resume()

        libvirt_conn.ask(work)

    def close(self) -> None:
        """End it."""
        with suppress(LibvirtError):
            libvirt_conn.ask(lambda _, __: self._connection.close())


def _on(domain_id: str, work: Callable[[Any, Any], _T]) -> _T:
    return libvirt_conn.ask(
        lambda module, connection: work(module, connection.lookupByUUIDString(domain_id)),
        QUERY_TIMEOUT_S,
    )


def _is_leaving(module: Any, domain: Any) -> bool:
    if not _has_job(module, domain):
        return False
    operation = domain.jobStats().get("operation")
    return bool(operation == module.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)


def _has_job(module: Any, domain: Any) -> bool:
    return bool(domain.isActive() and domain.jobInfo()[0] != module.VIR_DOMAIN_JOB_NONE)
