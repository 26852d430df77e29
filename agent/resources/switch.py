"""What the network kinds share: one look at Open vSwitch, and changes made together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Generic, Optional, TypeVar

from agent.resources import topology
from agent.resources.base import Facts, Host, Step
from agent.resources.topology import Topology
from agent.spec import HostSpec
from agent.system import links, ovs
from agent.system.run import CommandFailed
from agent.wire import Fault

T = TypeVar("T")

_SEEN = "ovs"
_DEVICES = "devices"
_TOPOLOGY = "topology"


def look(host: Host) -> ovs.Switch:
    """Bridges and ports as they are, read once until somebody changes them."""
    found = host.seen.get(_SEEN)
    if not isinstance(found, ovs.Switch):
        found = host.seen[_SEEN] = ovs.observe()
    return found


def change(host: Host, commands: Sequence[Sequence[str]]) -> None:
    """Change Open vSwitch in one transaction; the next look reads it again."""
    host.seen.pop(_SEEN, None)
    ovs.transact(commands)


def devices(host: Host) -> dict[str, links.Link]:
    """The host's devices as they are, read once until taps are made or removed."""
    found: dict[str, links.Link] = host.seen.get(_DEVICES) or links.look_all()
    host.seen[_DEVICES] = found
    return found


def devices_changed(host: Host, names: Iterable[str]) -> None:
    """Have a new look at these devices: a host can have thousands of others."""
    known = devices(host)
    for name in names:
        link = links.look(name)
        if link is not None:
            known[name] = link
        else:
            known.pop(name, None)


def topology_of(host: Host, spec: HostSpec) -> Topology:
    """What the spec means for this host, worked out once."""
    known = host.seen.get(_TOPOLOGY)
    if not isinstance(known, Topology) or known.spec is not spec:
        known = host.seen[_TOPOLOGY] = Topology(spec)
    return known


def is_ours(external_ids: dict[str, str], spec: HostSpec) -> bool:
    """Whether a row of OVS carries this cloud's mark."""
    return external_ids.get(topology.MARK) == spec.cloud_id


def mark(spec: HostSpec) -> str:
    """The mark as ``ovs-vsctl set`` takes it."""
    return ovs.pair("external_ids", topology.MARK, spec.cloud_id)


def failed(kind: str, resource: str, version: int, message: str) -> Step:
    """A step that says why nothing can be done."""
    return Step(kind, resource, "failed", version, message, fault=Fault(message))


@contextmanager
def pending(host: Host, *names: str) -> Iterator[None]:
    """Mark effects that cannot be seen afterwards; the marks stay when the work dies."""
    files = [pending_file(host, name) for name in names]
    for file in files:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch()
    yield
    for file in files:
        file.unlink(missing_ok=True)


def pending_file(host: Host, name: str) -> Path:
    """Where the mark of an unfinished effect lies."""
    return host.data / "pending" / name


class Together(Generic[T]):
    """Several resources that an engine takes in one call, each still reported by itself.

    The first that is applied makes the call for all. If that fails, each is tried alone, so that
    one bad resource does not take the others with it.
    """

    def __init__(
        self,
        items: Sequence[T],
        apply: Callable[[Sequence[T]], None],
        facts: Callable[[T], Optional[Facts]] = lambda item: None,
    ) -> None:
        self._items = items
        self._apply = apply
        self._facts = facts
        self._done = False
        self._errors: dict[Any, CommandFailed] = {}

    def apply(self, item: T) -> Optional[Facts]:
        """Apply all (once) and say how it went for ``item``."""
        if not self._done:
            self._apply_all()
            self._done = True
        if item in self._errors:
            raise self._errors[item]
        return self._facts(item)

    def _apply_all(self) -> None:
        try:
            self._apply(self._items)
        except CommandFailed as error:
            if len(self._items) == 1:
                self._errors[self._items[0]] = error
                return
            for item in self._items:
                self._apply_one(item)

    def _apply_one(self, item: T) -> None:
        try:
            self._apply([item])
        except CommandFailed as error:
            self._errors[item] = error
