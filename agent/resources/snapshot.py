"""Copies of disks that nobody waits for any more: what a snapshot leaves when its agent dies."""

from __future__ import annotations

from collections.abc import Iterator

from agent.copies import snapshots
from agent.resources.base import Host, Step
from agent.spec import HostSpec


class SnapshotKind:
    """Files in the snapshots folder whose maker is gone."""

    name = "snapshot"

    def removals(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Copies without a maker; their guests go on without the job."""
        return (self._step(host, server_id) for server_id in snapshots.abandoned(host.data))

    def _step(self, host: Host, server_id: str) -> Step:
        def remove() -> None:
            snapshots.sweep(host.data, server_id)

        return Step(self.name, server_id, "removed", why="its maker is gone", apply=remove)

    def changes(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """None: copies are made by the action ``snapshot``."""
        return iter(())


KIND = SnapshotKind()
