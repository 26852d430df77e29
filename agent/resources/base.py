"""What every kind of resource has in common: observe, take the difference, apply, report.

A kind is a module-level object with ``removals`` and ``changes``. Both look at the host first
and return steps; a step without ``apply`` says that a resource is as it should be. Convergence
runs the removals of all kinds in reverse order, then the changes of all kinds in order, so a
kind's ``changes`` may rely on the kinds before it. Observing (drift, --dry-run) takes the same
steps and applies none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Protocol

from agent.spec import Disk, HostSpec, Image
from agent.wire import Fault

DATA_FOLDER = Path("/var/lib/stackctl/host")
"""Everything stackctl keeps on a host, except what engines keep themselves."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One resource and what must happen to it.

    ``result`` is what the report says when ``apply`` succeeded (made, changed, removed), or
    stands for itself when there is nothing to apply (unchanged, orphan, held, busy, failed).
    ``why`` tells the difference in words: "tag is 3, should be 1". ``parallel`` steps of one kind
    may run in threads.
    """

    kind: str
    id: str
    result: str
    version: int = 0
    why: str = ""
    apply: Optional[Callable[[], Optional[Facts]]] = None
    facts: Facts = field(default_factory=dict)
    fault: Optional[Fault] = None
    parallel: bool = False


@dataclass
class Host:
    """What kinds need to know beside the spec.

    ``blob`` returns the content behind a SHA-256 that the controller was asked for. ``failed``
    holds (kind, id) of steps that failed in this convergence: what depends on them is not tried.
    ``observing`` is set when nothing may be changed. ``fetch_image`` brings an image into the
    cache, ``fetch_disk`` the disk of another host beside the disks (None where there is no
    controller to ask). ``seen`` keeps observations that several
    kinds share; whoever changes an engine drops its entry.
    """

    data: Path
    boot_id: str
    boot_id_before: Optional[str]
    blob: Callable[[str], bytes]
    failed: set[tuple[str, str]] = field(default_factory=set)
    observing: bool = False
    fetch_image: Optional[Callable[[Image], None]] = None
    fetch_disk: Optional[Callable[[Disk], None]] = None
    seen: dict[str, Any] = field(default_factory=dict)

    def not_tried(self, *needs: tuple[str, Optional[str]]) -> str:
        """Which of these parts (kind, id) has failed, as a reason not to try; empty: none has."""
        failed = next((need for need in needs if need in self.failed), None)
        return "" if failed is None else f"not tried: {failed[0]} {failed[1]} failed"


class Kind(Protocol):
    """One kind of resource."""

    name: str

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Steps that take away what the spec no longer has."""
        ...

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Steps that make or change what the spec has (and report what is as it should be)."""
        ...
