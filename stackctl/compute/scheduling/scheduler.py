"""Pure: where servers go, and why, with each host's numbers.

Filters say which hosts can take a request at all; weighers order those that can. All or nothing:
a request that fits nowhere makes the whole decision one of "no valid host".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from stackctl.compute.scheduling.policy import DEFAULT_POLICY, Policy
from stackctl.compute.scheduling.types import Aggregate as Aggregate
from stackctl.compute.scheduling.types import Candidate, Decision, Group, Request, Verdict
from stackctl.compute.scheduling.types import ServerAt as ServerAt
from stackctl.compute.scheduling.weighers import weigh

HOSTS_SHOWN = 20
"""Of how many hosts a refusal says why, in its one paragraph."""


class Placer:
    """Places requests one after another, each seeing what the ones before it took."""

    def __init__(self, hosts: Iterable[Candidate], policy: Policy = DEFAULT_POLICY) -> None:
        self._hosts = {host.id: host for host in hosts}
        self._policy = policy
        # Group id -> host id -> how many were placed here, beside those that were there before.
        self._placed: dict[str, dict[str, int]] = {}

    @property
    def hosts(self) -> list[Candidate]:
        """The hosts as they are after what was placed."""
        return list(self._hosts.values())

    def place(self, request: Request) -> Decision:
        """The best host for a request; what it takes is taken from there on."""
        request = self._with_placed(request)
        decision = decide(request, list(self._hosts.values()), self._policy)
        if decision.host_id is not None:
            self._take(decision.host_id, request)
        return decision

    def fill(self, host_id: str, request: Request, most: int) -> int:
        """How often a request fits on one host, up to ``most`` times; all of that is taken."""
        filters = self._policy.filters_for(request)
        for count in range(most):
            seen, host = self._with_placed(request), self._hosts[host_id]
            if any(item.refusal(host, seen) for item in filters):
                return count
            self._take(host_id, seen)
        return most

    def _with_placed(self, request: Request) -> Request:
        group = request.group
        if group is None or group.id not in self._placed:
            return request
        members = _sum(group.members, self._placed[group.id])
        return replace(request, group=replace(group, members=members))

    def _take(self, host_id: str, request: Request) -> None:
        self._hosts[host_id] = _taken(self._hosts[host_id], request)
        if request.group is not None:
            here = self._placed.setdefault(request.group.id, {})
            here[host_id] = here.get(host_id, 0) + 1


def place(
    requests: Sequence[Request], hosts: Sequence[Candidate], policy: Policy = DEFAULT_POLICY
) -> list[Decision]:
    """Place requests one after another.

    Stops at the first that fits nowhere: its decision, the last one, has no host.
    """
    placer = Placer(hosts, policy)
    decisions = []
    for request in requests:
        decisions.append(placer.place(request))
        if decisions[-1].host_id is None:
            break
    return decisions


def decide(
    request: Request, hosts: Sequence[Candidate], policy: Policy = DEFAULT_POLICY
) -> Decision:
    """Filter and weigh all hosts for one request; ties go to the first name."""
    filters = policy.filters_for(request)
    refused, able = [], []
    for host in hosts:
        for item in filters:
            if why := item.refusal(host, request):
                refused.append(Verdict(host.id, host.name, item.name, why))
                break
        else:
            able.append(host)
    weighed = weigh(able, request, policy.weighers)
    verdicts = (*weighed, *refused)
    if not weighed:
        return Decision(request, None, "", verdicts, tuple(hosts))
    return Decision(request, weighed[0].host_id, weighed[0].host, verdicts, tuple(hosts))


@dataclass(frozen=True)
class Said:
    """What one filter said of one host."""

    filter: str
    passes: bool
    words: str


def examine(decision: Decision, host_id: str, policy: Policy) -> list[Said]:
    """What each filter that matters says of a host as it was when the decision fell."""
    host = next(host for host in decision.hosts if host.id == host_id)
    said = []
    for item in policy.filters_for(decision.request):
        why = item.refusal(host, decision.request)
        words = why or item.note(host, decision.request)
        said.append(Said(item.name, not why, words))
    return said


def no_valid_host(decision: Decision, placed: int, wanted: int) -> str:
    """Why a request fits nowhere, host by host with numbers."""
    if not decision.verdicts:
        return "No valid host was found: this cloud has no hosts."
    after = f" after {placed} of {wanted} were placed" if placed else ""
    return f"No valid host was found for {decision.request.name}{after}. {reasons(decision)}."


def reasons(decision: Decision) -> str:
    """What the hosts that were refused said, in one line."""
    refused = [verdict for verdict in decision.verdicts if verdict.refused_by]
    shown, more = refused[:HOSTS_SHOWN], len(refused) - HOSTS_SHOWN
    text = "; ".join(f"{item.host}: {item.why}" for item in shown)
    return text + (f"; and {more} more hosts" if more > 0 else "")


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in (*one, *other)}


def _taken(host: Candidate, request: Request) -> Candidate:
    return replace(
        host,
        vcpus_used=host.vcpus_used + request.vcpus,
        ram_mb_used=host.ram_mb_used + request.ram_mb,
        disk_gb_used=host.disk_gb_used + request.disk_gb,
        servers=host.servers + 1,
        builds=host.builds + 1,
    )


__all__ = [
    "Aggregate",
    "Candidate",
    "Decision",
    "Group",
    "Placer",
    "Policy",
    "Request",
    "Said",
    "ServerAt",
    "Verdict",
    "decide",
    "examine",
    "no_valid_host",
    "place",
    "reasons",
]
