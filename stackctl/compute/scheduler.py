"""Pure: where servers go, and why, with each host's numbers.

Filters say which hosts can take a request at all; weighers order those that can, each
normalised to 0..1 over the candidates (Nova's rule) and times its multiplier. All or nothing: a
request that fits nowhere makes the whole decision one of "no valid host".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

UNREACHABLE_WEIGHT = -10.0
"""A host that did not answer lately is a last resort, not forbidden: it may be back."""

HOSTS_SHOWN = 20
"""Of how many hosts a refusal says why, in its one paragraph."""


@dataclass(frozen=True)
class Candidate:
    """A host as the scheduler sees it: totals already times their overcommit ratios."""

    id: str
    name: str
    enabled: bool
    disabled_reason: str
    zone: str
    fenced: bool
    recently_unreachable: bool
    vcpus_total: float
    ram_mb_total: float
    disk_gb_total: float
    vcpus_used: int = 0
    ram_mb_used: int = 0
    disk_gb_used: int = 0
    servers: int = 0
    physical_networks: frozenset[str] = frozenset()
    tunnels: bool = True

    @property
    def vcpus_free(self) -> float:
        """Virtual CPUs that may still be given."""
        return self.vcpus_total - self.vcpus_used

    @property
    def ram_mb_free(self) -> float:
        """Memory that may still be given, in MB."""
        return self.ram_mb_total - self.ram_mb_used

    @property
    def disk_gb_free(self) -> float:
        """Disk that may still be given, in GB."""
        return self.disk_gb_total - self.disk_gb_used


@dataclass(frozen=True)
class Request:
    """What one server needs. ``host`` and ``zone`` are hints that must hold."""

    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    physical_networks: frozenset[str] = frozenset()
    needs_tunnels: bool = False
    host: str | None = None
    zone: str | None = None


@dataclass(frozen=True)
class Verdict:
    """One host for one request: refused by a filter with numbers, or its weight."""

    host_id: str
    host: str
    refused_by: str = ""
    why: str = ""
    weight: float = 0.0
    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Decision:
    """Where one request went (``host_id`` None: nowhere) and what every host said."""

    request: Request
    host_id: str | None
    host: str
    verdicts: tuple[Verdict, ...] = field(default_factory=tuple)


Filter = Callable[[Candidate, Request], str]
Weigher = Callable[[Candidate], float]


def _enabled(host: Candidate, _: Request) -> str:
    if host.fenced:
        return "is fenced; stackctl host-return brings it back"
    if not host.enabled:
        return f"is disabled{': ' + host.disabled_reason if host.disabled_reason else ''}"
    return ""


def _hinted(host: Candidate, request: Request) -> str:
    if request.host is not None and request.host not in (host.id, host.name):
        return "is not the host asked for"
    if request.zone is not None and request.zone != host.zone:
        return f"is in zone {host.zone}, not {request.zone}"
    return ""


def _networks(host: Candidate, request: Request) -> str:
    missing = sorted(request.physical_networks - host.physical_networks)
    if missing:
        return f"has no bridge for physical network {', '.join(missing)}"
    if request.needs_tunnels and not host.tunnels:
        return "has no tunnel address (host-set --tunnel-address)"
    return ""


def _cpu(host: Candidate, request: Request) -> str:
    return _short("vcpus", "", request.vcpus, host.vcpus_free)


def _ram(host: Candidate, request: Request) -> str:
    return _short("RAM", " MB", request.ram_mb, host.ram_mb_free)


def _disk(host: Candidate, request: Request) -> str:
    return _short("disk", " GB", request.disk_gb, host.disk_gb_free)


def _short(what: str, unit: str, needed: float, free: float) -> str:
    if needed <= free:
        return ""
    # All digits, which :g alone would round beyond a million.
    return f"{what}: needs {needed:.12g}{unit}, {max(free, 0):.12g}{unit} free"


FILTERS: tuple[tuple[str, Filter], ...] = (
    ("ComputeFilter", _enabled),
    ("HostHintFilter", _hinted),
    ("NetworkFilter", _networks),
    ("CoreFilter", _cpu),
    ("RamFilter", _ram),
    ("DiskFilter", _disk),
)

WEIGHERS: tuple[tuple[str, float, Weigher], ...] = (
    ("RAMWeigher", 1.0, lambda host: host.ram_mb_free),
    ("CPUWeigher", 1.0, lambda host: host.vcpus_free),
    ("DiskWeigher", 1.0, lambda host: host.disk_gb_free),
)


def place(requests: Sequence[Request], hosts: Sequence[Candidate]) -> list[Decision]:
    """Place requests one after another, each seeing what the ones before it took.

    Stops at the first that fits nowhere: its decision, the last one, has no host.
    """
    state = {host.id: host for host in hosts}
    decisions = []
    for request in requests:
        decision = decide(request, list(state.values()))
        decisions.append(decision)
        if decision.host_id is None:
            break
        state[decision.host_id] = _taken(state[decision.host_id], request)
    return decisions


def decide(request: Request, hosts: Sequence[Candidate]) -> Decision:
    """Filter and weigh all hosts for one request; ties go to the first name."""
    refused, candidates = [], []
    for host in hosts:
        name, why = _refusal(host, request)
        if name:
            refused.append(Verdict(host.id, host.name, name, why))
        else:
            candidates.append(host)
    weighed = _weigh(candidates)
    best = min(weighed, key=lambda verdict: (-verdict.weight, verdict.host), default=None)
    verdicts = sorted(weighed, key=lambda verdict: (-verdict.weight, verdict.host)) + refused
    if best is None:
        return Decision(request, None, "", tuple(verdicts))
    return Decision(request, best.host_id, best.host, tuple(verdicts))


def no_valid_host(decision: Decision, placed: int, wanted: int) -> str:
    """Why a request fits nowhere, host by host with numbers."""
    if not decision.verdicts:
        return "No valid host was found: this cloud has no hosts."
    shown, more = decision.verdicts[:HOSTS_SHOWN], len(decision.verdicts) - HOSTS_SHOWN
    reasons = "; ".join(f"{item.host}: {item.why}" for item in shown)
    reasons += f"; and {more} more hosts" if more > 0 else ""
    after = f" after {placed} of {wanted} were placed" if placed else ""
    return f"No valid host was found for {decision.request.name}{after}. {reasons}."


def _refusal(host: Candidate, request: Request) -> tuple[str, str]:
    for name, check in FILTERS:
        why = check(host, request)
        if why:
            return name, why
    return "", ""


def _weigh(hosts: Sequence[Candidate]) -> list[Verdict]:
    columns = []
    for name, multiplier, weigher in WEIGHERS:
        values = [weigher(host) for host in hosts]
        columns.append((name, [multiplier * value for value in _normalised(values)]))
    verdicts = []
    for index, host in enumerate(hosts):
        weights = [(name, round(values[index], 4)) for name, values in columns]
        if host.recently_unreachable:
            weights.append(("ReachableWeigher", UNREACHABLE_WEIGHT))
        total = round(sum(weight for _, weight in weights), 4)
        verdicts.append(Verdict(host.id, host.name, weight=total, weights=tuple(weights)))
    return verdicts


def _normalised(values: Sequence[float]) -> list[float]:
    if not values:
        return []
    low, high = min(values), max(values)
    if high == low:
        return [0.0 for _ in values]
    return [(value - low) / (high - low) for value in values]


def _taken(host: Candidate, request: Request) -> Candidate:
    return replace(
        host,
        vcpus_used=host.vcpus_used + request.vcpus,
        ram_mb_used=host.ram_mb_used + request.ram_mb,
        disk_gb_used=host.disk_gb_used + request.disk_gb,
        servers=host.servers + 1,
    )
