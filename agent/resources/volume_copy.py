"""A volume becomes the copy of another one as it is at one moment, whoever uses that meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from agent import killpoint, store
from agent.faults import StepFailed
from agent.resources.base import Facts
from agent.resources.domain_xml import backup_xml, describe
from agent.system import libvirt_conn, qemu_img
from agent.system.libvirt_conn import LibvirtError
from agent.system.qemu_img import ImageFile

POLL_S = 0.2
LIMIT_S = 3600.0


def copy(source: ImageFile, target: ImageFile, users: Sequence[str]) -> Facts:
    """Copy a volume; the facts say of which moment the copy is and how consistent.

    ``at-rest``: nobody had it. ``quiesced``: the guest's agent brought its file systems to rest
    for that moment. ``crash-consistent``: as after a power failure, which file systems recover
    from.
    """
    if not users:
        taken = store.now()
        qemu_img.copy(source, target)
        return {"taken": taken, "consistency": "at-rest"}
    return _copy_from_guest(users[0], source, target)


def _copy_from_guest(server_id: str, source: ImageFile, target: ImageFile) -> Facts:
    xml = backup_xml(_target_of(server_id, source.path), str(target.path), target.format)
    frozen = libvirt_conn.freeze(server_id)
    try:
        taken = store.now()
        libvirt_conn.backup_begin(server_id, xml)
    finally:
        if frozen:
            libvirt_conn.thaw(server_id)
    killpoint.reached(f"copy of {source.path.name} begun")
    _await(server_id)
    return {"taken": taken, "consistency": "quiesced" if frozen else "crash-consistent"}


def _await(server_id: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while libvirt_conn.backup_runs(server_id):
        if time.monotonic() > deadline:
            libvirt_conn.backup_abort(server_id)
            raise StepFailed(f"the copy was not ready within {LIMIT_S:g} s")
        time.sleep(POLL_S)


def _target_of(server_id: str, path: Path) -> str:
    view = libvirt_conn.running({server_id}).get(server_id)
    volumes = () if view is None else describe(view.xml).volumes
    found = [volume.target for volume in volumes if volume.path == str(path)]
    if not found:
        raise LibvirtError(f"server {server_id} does not run with {path.name} any more")
    return found[0]
