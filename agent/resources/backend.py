"""Backends of volumes: whether this host has them; the cloud's own place in one is made once.

That a host does not have a backend is no failure of the host: it is told to the controller, which
places nothing there that needs it. What needs it all the same fails for that reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent import killpoint
from agent.faults import fault_of
from agent.resources.base import Facts, Host, Step
from agent.resources.home import Home, home_of
from agent.spec import Backend, HostSpec

_WHY = "why-no-backend"
"""Under this name ``Host.seen`` keeps why backends cannot be used, by id."""


class BackendKind:
    """The places that volumes of the cloud have beside the hosts' own folders."""

    name = "backend"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """None: what is in them goes volume by volume."""
        return ()

    def changes(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Those to be made, those that something here needs, and those that are asked about."""
        needed = {volume.backend_id for volume in spec.volumes}
        needed |= {stone.backend_id for stone in spec.tombstones}
        for backend in spec.backends:
            if backend.claim or backend.look or backend.id in needed:
                yield self._step(host, spec, backend)

    def _step(self, host: Host, spec: HostSpec, backend: Backend) -> Step:
        step = Step(self.name, backend.id, "unchanged", backend.version)
        try:
            home = home_of(host, spec, backend.id)
            home.check()
            return replace(step, facts=_well(home))
        except Exception as error:
            words = fault_of(error).message
        if backend.claim:
            return self._claim(host, home_of(host, spec, backend.id), step)
        host.failed.add((self.name, backend.id))
        host.seen.setdefault(_WHY, {})[backend.id] = words
        return replace(step, facts={"usable": False, "why": words})

    def _claim(self, host: Host, home: Home, step: Step) -> Step:
        def claim() -> Facts:
            home.claim()
            killpoint.reached(f"backend {step.id} claimed")
            home.check()
            return _well(home)

        return replace(step, result="made", why="has no place for the cloud", apply=claim)


def why_not(host: Host, backend_id: str) -> str:
    """Why a backend cannot be used here."""
    found: dict[str, str] = host.seen.get(_WHY, {})
    return found.get(backend_id, f"backend {backend_id} failed")


def usable(host: Host, spec: HostSpec) -> list[str]:
    """The backends that something here needs and that were found well."""
    needed = {volume.backend_id for volume in spec.volumes}
    ids = [backend.id for backend in spec.backends if backend.id in needed]
    return [id_ for id_ in ids if (KIND.name, id_) not in host.failed]


def _well(home: Home) -> Facts:
    free, total = home.free_bytes()
    return {"usable": True, "free_gb": free >> 30, "total_gb": total >> 30}


KIND = BackendKind()
