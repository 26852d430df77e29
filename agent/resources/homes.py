"""All homes of volumes, by the names of their drivers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Callable

from agent import layout
from agent.faults import StepFailed
from agent.resources.base import Host
from agent.resources.home import Home
from agent.resources.home_folder import Folder, SharedFolder
from agent.resources.home_nfs import Export
from agent.resources.home_pool import Pool
from agent.spec import Backend, HostSpec

PLACE = "stackctl-"
"""How the names begin of what is a cloud's own in a place that others use, too."""


def own(host: Host) -> Home:
    """The host's own data folder."""
    return Folder(layout.volumes(host.data))


def of_backend(host: Host, spec: HostSpec, backend: Backend) -> Home:
    """The home that a backend describes; StepFailed for one that this agent does not know."""
    make = _DRIVERS.get(backend.driver)
    if make is None:
        raise StepFailed(f"unknown driver of volumes: {backend.driver[:40]!r}")
    return make(host, backend, f"{PLACE}{layout.checked(spec.cloud_id)}")


def _folder(host: Host, backend: Backend, place: str) -> Home:
    return SharedFolder(Path(backend.location), place)


def _nfs(host: Host, backend: Backend, place: str) -> Home:
    server, _, export = backend.location.partition(":")
    return Export(server, export, place)


def _pool(host: Host, backend: Backend, place: str) -> Home:
    return Pool(host.data, backend.location, place if backend.shared else "")


_DRIVERS: Mapping[str, Callable[[Host, Backend, str], Home]] = {
    "folder": _folder,
    "nfs": _nfs,
    "pool": _pool,
}
