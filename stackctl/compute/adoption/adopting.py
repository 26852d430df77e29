"""Taking over libvirt's domains as they run: looked at first, then all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from stackctl.compute.adoption.plan import (
    AdoptRequest,
    Found,
    Plan,
    PlannedNic,
    found_from,
    make_plan,
)
from stackctl.compute.adoption.rows import take_back, write_server
from stackctl.compute.commanding import note_server
from stackctl.compute.elsewhere import unreached_hosts
from stackctl.errors import ResourceFailed
from stackctl.identity.context import Context
from stackctl.operation import Done, Operation, begin
from stackctl.operation.convergence import acting_session
from stackctl.operation.exchange import Exchange
from stackctl.state import Row, Writer, find, read

Agree = Callable[["Adoption"], None]
"""Shows a plan to who asked for it; raises when it shall not be carried out."""


@dataclass(frozen=True)
class Adoption:
    """A domain and the server that it is, or would be. ``disks`` and ``nics`` say where they are
    and what becomes of them; ``lost`` what the guest's next start will not have."""

    id: str
    name: str
    host: str
    domain: str
    power_state: str
    flavor: str
    vcpus: int
    ram_mb: int
    disks: tuple[str, ...]
    nics: tuple[str, ...]
    security_groups: tuple[str, ...]
    lost: tuple[str, ...]


def adopt(context: Context, request: AdoptRequest, agree: Agree) -> Done[Adoption]:
    """Make a domain that libvirt has a server, with its disks and NICs, while its guest runs on.

    ``agree`` is shown the plan before anything is changed. Conflict with every reason when the
    domain cannot be adopted; ResourceFailed or HostUnreachable, and it is as it was, when its host
    could not.
    """
    what = f"adopt domain {request.domain} of host {request.host}"
    with begin(context, "adopt", what, asdict(request)) as operation:
        if operation.repeated is not None:
            return operation.again(_first_result)
        with read(context.cloud) as reader:
            host = find(reader, "hosts", request.host, noun="host")
        found = _inspect(context, host, request.domain)
        with read(context.cloud) as reader:
            agree(_told(make_plan(context, reader, host, request, found)))

        def work(writer: Writer) -> Adoption:
            plan = make_plan(context, writer, host, request, found)
            write_server(context, writer, plan, operation.id)
            server = writer.get("servers", found.id)
            words = f"domain {found.name} of {host['name']} to be taken over"
            note_server(context, writer, operation.id, "adopt", server, words, host["name"])
            return _told(plan)

        made = operation.transact(work, _remembered)
        exchanges = operation.converge()
        if not context.dry_run:
            _see_through(operation, made, host, exchanges)
        return operation.finish(made)


def _inspect(context: Context, host: Row, domain: str) -> Found:
    with acting_session(context, host) as session:
        return found_from(host["name"], session.act("inspect-domain", {"domain": domain}))


def _see_through(
    operation: Operation, made: Adoption, host: Row, exchanges: Sequence[Exchange]
) -> None:
    """Take the server back, and say why, when its domain is still somebody else's.

    A host that fell silent in between may have it: it goes on with that when it is converged.
    """
    with read(operation.context.cloud) as reader:
        server = reader.get("servers", made.id)
    unreached = host["id"] in unreached_hosts(exchanges)
    exchange = operation.exchanges.get(host["id"])
    lost = exchange is not None and exchange.error is not None and not unreached
    if server["adopting"] != 1 or lost:
        return
    error = exchange.error if exchange is not None else None
    why = error.message if error else f"{_fault(server)}."

    def undo(writer: Writer) -> bool:
        row = writer.get("servers", made.id)
        known = unreached and operation.is_known_to(writer, host["id"])
        if known or row["adopting"] != 1:
            return False
        take_back(writer, row)
        words = f"taken back, domain {made.domain} is as it was: {why}"
        note_server(operation.context, writer, operation.id, "adopt", row, words, made.host)
        return True

    if not operation.transact(undo):
        return
    if not unreached:
        operation.converge()
    operation.abandon("nothing was adopted")
    kind = type(error) if error else ResourceFailed
    raise kind(
        f"{why} Nothing was adopted: domain {made.domain} of host {made.host} is as it was.",
        hint=error.hint if error else f"stackctl adopt {made.host} {made.domain} --dry-run",
    )


def _fault(server: Row) -> str:
    fault = json.loads(server["fault_json"] or "{}")
    return str(fault.get("message", "Its host did not say what became of it")).rstrip(".")


def _told(plan: Plan) -> Adoption:
    found = plan.found
    return Adoption(
        id=found.id,
        name=plan.name,
        host=plan.host["name"],
        domain=found.name,
        power_state=found.state,
        flavor=plan.flavor_name if plan.flavor else f"{plan.flavor_name} (made)",
        vcpus=found.vcpus,
        ram_mb=found.ram_mb,
        disks=tuple(
            f"{disk.target} {disk.path} ({disk.format}, {disk.size_bytes} bytes)"
            for disk in found.disks
        ),
        nics=tuple(map(_nic, plan.nics)),
        security_groups=plan.group_names,
        lost=found.lost,
    )


def _nic(planned: PlannedNic) -> str:
    nic = planned.found
    before = " on ".join(word for word in (nic.device, nic.bridge) if word) or "not plugged in"
    addresses = " ".join(planned.addresses) or "no address"
    return f"{nic.mac} ({before}) to network {planned.network['name']} with {addresses}"


def _remembered(made: Adoption) -> dict[str, object]:
    return {"servers": [made.id], "adoption": asdict(made)}


def _first_result(operation: Row) -> Adoption:
    said = json.loads(operation["result_json"])["adoption"]
    lists = ("disks", "nics", "security_groups", "lost")
    return Adoption(**said | {name: tuple(said[name]) for name in lists})
