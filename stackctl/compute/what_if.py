"""Plans that nobody carries out: where servers would go. Nothing is written, no host is asked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace

from stackctl.compute import volume_rows
from stackctl.compute.capacity import candidates
from stackctl.compute.placing import placement_of
from stackctl.compute.resolving import MAX_COUNT, root_disk_gb
from stackctl.compute.scheduling.policy import policy_of
from stackctl.compute.scheduling.scheduler import Placer, Request, decide, reasons
from stackctl.errors import UsageError
from stackctl.identity.context import Context
from stackctl.image.service import usable_image
from stackctl.state import Reader, Row, find, read

MOST_ON_A_HOST = 10_000


@dataclass(frozen=True)
class Move:
    """A server of a host that is drained: where it would go (empty: nowhere), or why not."""

    id: str
    name: str
    status: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    to: str
    why: str


@dataclass(frozen=True)
class Fit:
    """How many servers of a flavor one host would take, and why no more."""

    host: str
    count: int
    why: str


@dataclass(frozen=True)
class Wanted:
    """What shall fit: ``count`` servers (None: as many as do) of a flavor, perhaps of an image and
    in a zone."""

    flavor: str
    count: int | None = None
    image: str | None = None
    zone: str | None = None


def drain(context: Context, word: str) -> list[Move]:
    """Where the servers of a host would go, the largest first; those that fit nowhere say why."""
    with read(context.cloud) as reader:
        host = find(reader, "hosts", word, noun="host")
        servers = reader.all(
            "SELECT * FROM servers WHERE host_id = ? AND deleted_at IS NULL "
            "ORDER BY ram_mb DESC, vcpus DESC, disk_gb DESC, name",
            host["id"],
        )
        leaving = [server["id"] for server in servers]
        policy = policy_of(context.cloud.config["scheduler"])
        placer = Placer(candidates(reader, {host["id"]}), policy)
        ties = {id_: volume_rows.tie(reader, id_) for id_ in leaving}
        tied = {id_: tie["name"] for id_, tie in ties.items() if tie is not None}
        return [
            _move(server, placer, placement_of(reader, server, leaving), tied.get(server["id"], ""))
            for server in servers
        ]


def fit(context: Context, wanted: Wanted) -> list[Fit]:
    """How many servers of a flavor fit, host by host; those that take some come first.

    With a count: where so many would go, one after another, as boot would place them.
    """
    if wanted.count is not None and not 1 <= wanted.count <= MAX_COUNT:
        raise UsageError(f"--count {wanted.count}: between 1 and {MAX_COUNT} servers at a time.")
    with read(context.cloud) as reader:
        request = _request(context, reader, wanted)
        hosts = candidates(reader)
    policy = policy_of(context.cloud.config["scheduler"])
    placer = Placer(hosts, policy)
    if wanted.count is None:
        counts = {host.id: placer.fill(host.id, request, MOST_ON_A_HOST) for host in hosts}
    else:
        counts = _placed(placer, request, wanted.count)
    # What each host says to one more.
    last = decide(request, placer.hosts, policy)
    why = {verdict.host_id: verdict.why for verdict in last.verdicts}
    found = [Fit(host.name, counts.get(host.id, 0), why[host.id]) for host in hosts]
    return sorted(found, key=lambda item: (-item.count, item.host))


def _placed(placer: Placer, request: Request, count: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for _ in range(count):
        decision = placer.place(request)
        if decision.host_id is None:
            break
        counts[decision.host_id] += 1
    return counts


def _move(server: Row, placer: Placer, request: Request, volume: str) -> Move:
    to, why = "", f"its volume {volume} is a file on this host"
    if not volume:
        # That it was booted for this host (--host) was about its boot.
        decision = placer.place(replace(request, host=None))
        to = decision.host
        why = "" if to else reasons(decision) or "this cloud has no other host"
    return Move(
        id=server["id"],
        name=server["name"],
        status=server["vm_state"],
        vcpus=request.vcpus,
        ram_mb=request.ram_mb,
        disk_gb=request.disk_gb,
        to=to,
        why=why,
    )


def _request(context: Context, reader: Reader, wanted: Wanted) -> Request:
    flavor = find(reader, "flavors", wanted.flavor, noun="flavor")
    image = None if wanted.image is None else usable_image(context, reader, wanted.image)
    root_gb = max(flavor["disk_gb"], 1) if image is None else root_disk_gb(image, flavor)
    swap_gb = -(-flavor["swap_mb"] // 1024)
    return Request(
        name=flavor["name"],
        vcpus=flavor["vcpus"],
        ram_mb=flavor["ram_mb"],
        disk_gb=root_gb + flavor["ephemeral_gb"] + swap_gb,
        zone=wanted.zone,
        project_id=context.project_id,
        image_id=image["id"] if image else None,
        extra_specs=json.loads(flavor["extra_specs_json"]),
        image_properties=json.loads(image["properties_json"]) if image else {},
    )
