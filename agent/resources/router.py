"""Routers: a namespace each, with the devices of its ends, addresses, routes and translation.

``data/routers/<id>/`` is the record that the namespace ``qrouter-<id>`` is ours; everything in it
is, so whatever does not belong there is taken out. Only what differs is changed: connections that
cross the router go on, except those through a floating IP that was taken from its port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from agent.resources import router_apply, router_look, switch, texts, topology
from agent.resources.base import Facts, Host, Step
from agent.resources.router_adverts import Adverts
from agent.resources.router_plan import Plan, compile_plan
from agent.spec import HostSpec
from agent.spec import Router as Wanted
from agent.system import dnsmasq, links, netns, public_files
from agent.wire import Fault

T = TypeVar("T")


class Routers:
    """The kind ``router``; ids are those of routers."""

    name = "router"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Routers that are not on this host any more."""
        wanted = {router.id for router in spec.routers}
        folder = host.data / "routers"
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if entry.name not in wanted:
                apply = partial(_remove, host, entry.name)
                why = "it is not on this host"
                yield Step(self.name, entry.name, "removed", why=why, apply=apply)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Routers to make or to set right."""
        for wanted in spec.routers:
            problem = _problem(host, wanted)
            if problem:
                yield switch.failed(self.name, wanted.id, wanted.version, problem)
            else:
                yield from self._router(host, spec, wanted)

    def _router(self, host: Host, spec: HostSpec, wanted: Wanted) -> Iterator[Step]:
        plan = compile_plan(switch.topology_of(host, spec), wanted, _unusable(host, wanted))
        router = Router(host, plan, wanted)
        why = router.difference()
        facts = router.facts()
        if not why:
            yield Step(self.name, wanted.id, "unchanged", wanted.version, facts=facts)
        else:
            result = "changed" if router.folder.is_dir() else "made"
            yield Step(self.name, wanted.id, result, wanted.version, why, router.apply, facts=facts)
        if router.plan.refused:
            reason = "; ".join(router.plan.refused)
            fault = Fault(f"the rest of the router works, but not this: {reason}")
            yield Step(self.name, wanted.id, "failed", wanted.version, reason, fault=fault)


KIND = Routers()


def _problem(host: Host, wanted: Wanted) -> str:
    """Why a router cannot be made at all."""
    try:
        texts.uuid(wanted.id)
    except texts.BadText as error:
        return f"router: {error}"
    namespace = topology.router_netns(wanted.id)
    recorded = (host.data / "routers" / wanted.id).is_dir()
    if recorded or netns.identity(namespace) is None:
        return ""
    if {end.device for end in topology.router_ends(wanted)} & _devices_in(namespace):
        return ""
    return (
        f"a namespace {namespace} that stackctl did not make is on this host; remove it "
        f"('ip netns delete {namespace}') and converge again"
    )


def _unusable(host: Host, wanted: Wanted) -> list[str]:
    """Ports of a router that failed and are not in their place from before either."""
    inside = _devices_in(topology.router_netns(wanted.id))
    ends = list(topology.router_ends(wanted))
    failed = [end for end in ends if ("port", end.port.id) in host.failed]
    return [end.port.id for end in failed if end.device not in inside]


def _devices_in(namespace: str) -> set[str]:
    there = netns.identity(namespace) is not None
    return netns.inside(namespace, links.names) if there else set()


class Router:
    """One router: what it should be, what it is, and how to get from one to the other."""

    def __init__(self, host: Host, plan: Plan, wanted: Wanted) -> None:
        self.plan = plan
        self.folder = host.data / "routers" / wanted.id
        self._host = host
        self._mark = f"router-{wanted.id}"
        self._adverts = Adverts(plan, self.folder)

    def facts(self) -> Facts:
        """Where it is, and that it works."""
        return {"status": "ACTIVE", "namespace": self.plan.namespace}

    # --- what is there ---

    def difference(self) -> str:
        """What is not as it should be, in words; empty when all is."""
        if netns.identity(self.plan.namespace) is None:
            return f"there is no namespace {self.plan.namespace}"
        outside = [d.name for d in self.plan.devices if links.exists(d.name)]
        if outside:
            return f"{outside[0]} is outside {self.plan.namespace}"
        found = self._look()
        return (
            router_look.rules_difference(self.plan, found)
            or router_look.sysctl_difference(self.plan, found)
            or router_look.devices_difference(self.plan, found)
            or router_look.routes_difference(self.plan, found)
            or self._adverts.difference(router_look.indexes(self.plan, found))
            or self._unfinished()
        )

    def _unfinished(self) -> str:
        left = switch.pending_file(self._host, self._mark).exists()
        return "an earlier change was not finished" if left else ""

    def _look(self) -> router_look.Inside:
        return self._inside(partial(router_look.look_inside, self.plan))

    def _inside(self, work: Callable[[], T]) -> T:
        return netns.inside(self.plan.namespace, work)

    # --- making it so ---

    def apply(self) -> Facts:
        """Set right whatever differs, from the namespace up to the advertisements."""
        public_files.make_public(self._host.data, self.folder)
        again = bool(self._unfinished())
        # Announcing and forgetting cannot be seen afterwards: the mark has them done again.
        with switch.pending(self._host, self._mark):
            netns.make(self.plan.namespace)
            self._inside(partial(router_apply.set_up_namespace, self.plan, again))
            self._move_devices()
            self._inside(partial(router_apply.set_up_ends, self.plan, again))
        indexes = router_look.indexes(self.plan, self._look())
        if self._adverts.difference(indexes):
            self._adverts.apply(indexes)
        return self.facts()

    def _move_devices(self) -> None:
        for device in self.plan.devices:
            if links.exists(device.name):
                # A switch that was killed leaves its old device behind in there.
                self._inside(partial(links.delete, device.name))
                links.move(device.name, self.plan.namespace)


def _remove(host: Host, router_id: str) -> None:
    """Take a router away; the folder goes last: it is the record."""
    folder = host.data / "routers" / router_id
    dnsmasq.stop(folder / "conf")
    netns.delete(topology.router_netns(router_id))
    switch.pending_file(host, f"router-{router_id}").unlink(missing_ok=True)
    public_files.remove_tree(folder)
