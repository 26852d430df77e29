"""Weighers by Nova's names: the order of the hosts that can take a request.

Each value is normalised to 0..1 over those hosts and times the weigher's multiplier; the sum is
the host's weight, and the highest wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stackctl.compute.scheduling.types import Candidate, Request, Verdict

Value = Callable[[Candidate, Request], float]


@dataclass(frozen=True)
class Weigher:
    """One of them. ``setting`` is its multiplier's name in the configuration.

    ``policy``: it matters only for servers of groups with this policy.
    """

    name: str
    setting: str
    multiplier: float
    value: Value
    policy: str = ""

    def concerns(self, request: Request) -> bool:
        """Whether it can make any difference for this request."""
        if self.multiplier == 0:
            return False
        return not self.policy or (
            request.group is not None and request.group.policy == self.policy
        )


def _members(host: Candidate, request: Request) -> float:
    return request.group.members.get(host.id, 0) if request.group else 0


WEIGHERS: tuple[Weigher, ...] = (
    Weigher("RAMWeigher", "ram_weight_multiplier", 1.0, lambda host, _: host.ram_mb_free),
    Weigher("CPUWeigher", "cpu_weight_multiplier", 1.0, lambda host, _: host.vcpus_free),
    Weigher("DiskWeigher", "disk_weight_multiplier", 1.0, lambda host, _: host.disk_gb_free),
    Weigher("IoOpsWeigher", "io_ops_weight_multiplier", -1.0, lambda host, _: host.builds),
    Weigher(
        "NumInstancesWeigher", "num_instances_weight_multiplier", 0.0, lambda host, _: host.servers
    ),
    Weigher(
        "ServerGroupSoftAffinityWeigher",
        "soft_affinity_weight_multiplier",
        1.0,
        _members,
        "soft-affinity",
    ),
    Weigher(
        "ServerGroupSoftAntiAffinityWeigher",
        "soft_anti_affinity_weight_multiplier",
        1.0,
        lambda host, request: -_members(host, request),
        "soft-anti-affinity",
    ),
    # As large as Nova's: what failed to build elsewhere is a last resort until it builds again.
    Weigher(
        "BuildFailureWeigher",
        "build_failure_weight_multiplier",
        1000000.0,
        lambda host, _: -host.build_failures,
    ),
    # Ours: a host that did not answer lately is a last resort, not forbidden: it may be back.
    Weigher(
        "ReachableWeigher",
        "unreachable_weight_multiplier",
        10.0,
        lambda host, _: -float(host.recently_unreachable),
    ),
)


def weigh(
    hosts: Sequence[Candidate], request: Request, weighers: Sequence[Weigher]
) -> list[Verdict]:
    """The weights of hosts that can take a request, the best first; ties go to the first name."""
    columns = []
    for weigher in weighers:
        if weigher.concerns(request):
            values = normalised([weigher.value(host, request) for host in hosts])
            columns.append((weigher.name, [weigher.multiplier * value for value in values]))
    verdicts = []
    for index, host in enumerate(hosts):
        # 0 is added so that none is -0.
        weights = tuple((name, round(values[index], 4) + 0.0) for name, values in columns)
        total = round(sum(weight for _, weight in weights), 4) + 0.0
        verdicts.append(Verdict(host.id, host.name, weight=total, weights=weights))
    return sorted(verdicts, key=lambda verdict: (-verdict.weight, verdict.host))


def normalised(values: Sequence[float]) -> list[float]:
    """Values brought to 0..1; all 0 when they are alike."""
    if not values:
        return []
    low, high = min(values), max(values)
    if high == low:
        return [0.0 for _ in values]
    return [(value - low) / (high - low) for value in values]
