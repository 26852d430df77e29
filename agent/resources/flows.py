"""The flow tables of this host's bridges: what the compiler says, put in place by difference.

One look and at most one atomic bundle per bridge. Flows under another cookie are left alone and
reported; what br-tun learned by itself is neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from agent.resources import flow_meters, flow_rules, flow_tables, flow_text, switch, topology
from agent.resources.base import Facts, Host, Step
from agent.resources.bridge import own_bridges
from agent.resources.flow_meters import MeterDifference
from agent.resources.flow_text import Difference, Flow
from agent.spec import HostSpec
from agent.system import ovs
from agent.system.run import CommandFailed

_USERSPACE = "netdev"

_EXAMPLES = 2
"""How many differing flows a step spells out."""


class Flows:
    """The kind ``flows``; ids are names of bridges."""

    name = "flows"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Nothing: flows leave with their bridge, or by the difference that adds others."""
        return ()

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """The difference of every bridge, physical bridges first."""
        found = switch.look(host)
        plan = flow_tables.Plan(
            switch.topology_of(host, spec), found.ofports(), own_bridges(spec, found)
        )
        if flow_tables.limits(plan) and not _metered(found):
            plan = replace(plan, metered=False)
            why = "the datapath of this host has no meters: no port is limited"
            yield switch.failed(self.name, f"{topology.INTEGRATION}:limits", 0, why)
        for rule, problem in flow_rules.problems(spec.security_groups):
            yield switch.failed(self.name, rule, 0, problem)
        for bridge, flows in flow_tables.compile_flows(plan).items():
            if ("bridge", bridge) in host.failed:
                yield switch.failed(self.name, bridge, 0, f"bridge {bridge} is not usable")
            elif bridge not in found.bridges:
                why = f"there is no bridge {bridge} yet"
                yield Step(self.name, bridge, "made", why=why, apply=partial(_missing, bridge))
            else:
                table = Table(host, plan, found.bridges[bridge])
                yield from self._bridge(table, _unique(flows))

    def _bridge(self, table: Table, flows: list[Flow]) -> Iterable[Step]:
        plan, bridge = table.plan, table.bridge.name
        cookie = flow_tables.cookie_of(plan.spec.cloud_id)
        learned = flow_tables.learned_cookie_of(plan.spec.cloud_id)
        try:
            there = flow_text.parse_dump(ovs.dump_flows(bridge))
            meters = _meters(plan, bridge)
        except CommandFailed as error:
            yield switch.failed(self.name, bridge, 0, str(error))
            return
        change = flow_text.difference(flows, there, cookie, learned)
        if change.foreign and bridge in plan.own_bridges:
            why = f"{len(change.foreign)} flows of somebody else: {_examples(change.foreign)}"
            yield Step(self.name, f"{bridge}:foreign", "orphan", why=why)
        facts = {"flows": len(flows)}
        if not change and not meters.why and not table.is_pending():
            yield Step(self.name, bridge, "unchanged", facts=facts)
            return
        why = _why(change, meters, any(entry.cookie == cookie for entry in there))
        result = "changed" if there else "made"
        apply = partial(_apply, table, change, meters, facts)
        yield Step(self.name, bridge, result, why=why, apply=apply)


@dataclass(frozen=True)
class Table:
    """The tables of one bridge, and what the switch derived from them."""

    host: Host
    plan: flow_tables.Plan
    bridge: ovs.Bridge

    def is_pending(self) -> bool:
        """Whether whoever changed them last did not live to have the switch look at them anew."""
        return self._remembers and switch.pending_file(self.host, self._mark).exists()

    def change(self, lines: list[str]) -> None:
        """Apply lines of a bundle, and have the switch go by them at once.

        The userspace datapath of Open vSwitch (seen in 3.1) can go on for seconds with what it
        derived from the flows before, it seems where two cached decisions overlap. So it is made
        to forget them all, which costs each connection one packet's look into the tables and
        loses none.
        """
        if not self._remembers:
            ovs.change_flows(self.bridge.name, lines)
            return
        with switch.pending(self.host, self._mark):
            if lines:
                ovs.change_flows(self.bridge.name, lines)
            ovs.forget_decisions()

    @property
    def _remembers(self) -> bool:
        return self.bridge.datapath_type == _USERSPACE

    @property
    def _mark(self) -> str:
        return f"flows-{self.bridge.name}"


KIND = Flows()


def _unique(flows: list[Flow]) -> list[Flow]:
    """One flow per table, priority and match: the last one, as the switch would keep it."""
    return list({flow[:3]: flow for flow in flows}.values())


def _metered(found: ovs.Switch) -> bool:
    bridge = topology.INTEGRATION
    return bridge not in found.bridges or ovs.meters_possible(bridge) > flow_tables.MAX_METER


def _meters(plan: flow_tables.Plan, bridge: str) -> MeterDifference:
    """What must change among the meters; only br-int has any."""
    if bridge != topology.INTEGRATION:
        return MeterDifference([], [])
    there = flow_meters.parse_meters(ovs.dump_meters(bridge))
    return flow_meters.difference(flow_tables.limits(plan), there)


def _why(change: Difference, meters: MeterDifference, known: bool) -> str:
    if not known:
        return f"the switch has none of our {len(change.add)} flows (new, or restarted)"
    if not change and not meters.why:
        return "the switch may still go by the flows before"
    parts = []
    if change.add:
        parts.append(f"{len(change.add)} flows missing or altered: {_examples(change.add)}")
    if change.remove:
        parts.append(f"{len(change.remove)} flows too many: {_examples(change.remove)}")
    return "; ".join([*parts, meters.why] if meters.why else parts)


def _examples(flows: Iterable[Flow]) -> str:
    listed = list(flows)
    shown = " | ".join(flow.where() for flow in listed[:_EXAMPLES])
    return shown + (" | ..." if len(listed) > _EXAMPLES else "")


def _apply(table: Table, change: Difference, meters: MeterDifference, facts: Facts) -> Facts:
    cloud_id, bridge = table.plan.spec.cloud_id, table.bridge.name
    cookie = flow_tables.cookie_of(cloud_id)
    learned = flow_tables.learned_cookie_of(cloud_id)
    for command, text in meters.before:
        ovs.change_meter(bridge, command, text)
    if change or table.is_pending():
        table.change(flow_text.commands(change, cookie, learned))
    for command, text in meters.after:
        ovs.change_meter(bridge, command, text)
    return facts


def _missing(bridge: str) -> None:
    """Reached only when a bridge vanished between the look and the change."""
    ovs.dump_flows(bridge)
