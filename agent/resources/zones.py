"""Connection tracking zones: one for each local VLAN, emptied before another network has it.

What a zone remembers lets replies pass, so nothing of an earlier network, and nothing of an
address that has left its port, may be in it. The ledger ``zones.json`` says which network and
which addresses each zone was last used for.

The kind ``zone`` comes before the ports: what leaves is unplugged first and forgotten then, what
comes finds a clean zone. The kind ``connection`` comes after the flows: only when a guest can no
longer send from an address that it has lost, what it was used for stays forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Optional

from agent.resources import switch, topology
from agent.resources.base import Host, Step
from agent.spec import HostSpec
from agent.system import files, ovs

LEDGER = "zones.json"
_MARK = "zone-"


@dataclass(frozen=True)
class Zone:
    """What a zone is used for: a network, and the port (by id) that has each address."""

    network: str
    addresses: dict[str, str] = field(default_factory=dict)


class Zones:
    """The kind ``zone``; ids are those of networks."""

    name = "zone"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Zones of networks that are not here any more."""
        if topology.INTEGRATION not in switch.look(host).bridges:
            return
        wanted, ledger = _wanted(host, spec), _ledger(host)
        for number in sorted((ledger.keys() | _begun(host)) - wanted.keys()):
            # One that was begun only, by an agent that died, stands in no ledger.
            used_by = ledger[number].network if number in ledger else _mark(number)
            apply = partial(_empty, host, number)
            why = f"no network has local VLAN {number}"
            yield Step(self.name, used_by, "removed", why=why, apply=apply)

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Zones that another network had, and addresses that their ports have lost."""
        ledger = _ledger(host)
        versions = {network.id: network.version for network in spec.networks}
        for number, zone in _wanted(host, spec).items():
            version, before = versions[zone.network], ledger.get(number)
            pending = switch.pending_file(host, _mark(number)).exists()
            if before is None or pending or before.network != zone.network:
                why = f"zone {number} must be empty"
                apply = partial(_empty, host, number, Zone(zone.network))
                result = "made" if before is None else "changed"
                yield Step(self.name, zone.network, result, version, why, apply)
                continue
            lost = _lost(before, zone)
            if lost:
                apply = partial(ovs.flush_addresses, number, lost)
                yield Step(self.name, zone.network, "changed", version, _why(lost), apply)
            else:
                yield Step(self.name, zone.network, "unchanged", version)


class Connections:
    """The kind ``connection``; ids are those of networks."""

    name = "connection"

    def removals(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """Nothing: what leaves with its network is forgotten with the zone."""
        return ()

    def changes(self, host: Host, spec: HostSpec) -> Iterable[Step]:
        """What is remembered of addresses that their ports have lost; who has which from now on."""
        ledger = _ledger(host)
        versions = {network.id: network.version for network in spec.networks}
        for number, zone in _wanted(host, spec).items():
            version, before = versions[zone.network], ledger.get(number)
            if before is not None and before.network != zone.network:
                why = f"zone {number} was not emptied"
                yield switch.failed(self.name, zone.network, version, why)
            elif before is not None and before.addresses == zone.addresses:
                yield Step(self.name, zone.network, "unchanged", version)
            else:
                lost = _lost(before, zone) if before is not None else []
                apply = partial(_forget, host, number, zone, lost)
                result = "changed" if before is not None and before.addresses else "made"
                yield Step(self.name, zone.network, result, version, _why(lost), apply)


KIND = Zones()
CONNECTIONS = Connections()


def _wanted(host: Host, spec: HostSpec) -> dict[int, Zone]:
    known = switch.topology_of(host, spec)
    zones = {n.id: Zone(n.id) for n in spec.networks if not known.problems[n.id]}
    for port in spec.ports:
        zone = zones.get(port.network_id)
        if zone is not None and not known.port_problem(port):
            zone.addresses.update((fixed.address, port.id) for fixed in port.addresses)
    return {known.networks[id].local_vlan: zone for id, zone in zones.items()}


def _lost(before: Zone, after: Zone) -> list[str]:
    """The addresses that a port had and has no longer, or that another port has now."""
    return [a for a, port_id in before.addresses.items() if after.addresses.get(a) != port_id]


def _why(lost: list[str]) -> str:
    return f"ports have lost {', '.join(lost)}" if lost else "ports have more addresses"


def _ledger(host: Host) -> dict[int, Zone]:
    content = files.read_bytes(host.data / LEDGER)
    plain: dict[str, Any] = json.loads(content) if content is not None else {}
    return {int(number): Zone(**zone) for number, zone in plain.items()}


def _write(host: Host, number: int, zone: Optional[Zone]) -> None:
    ledger = _ledger(host)
    ledger.pop(number, None)
    if zone is not None:
        ledger[number] = zone
    plain = {str(key): asdict(entry) for key, entry in sorted(ledger.items())}
    files.write_atomic(host.data / LEDGER, json.dumps(plain).encode())


def _mark(number: int) -> str:
    return f"{_MARK}{number}"


def _begun(host: Host) -> set[int]:
    """Zones that an agent was about to empty when it died."""
    marks = switch.pending_file(host, _MARK).parent.glob(f"{_MARK}*")
    return {int(mark.name[len(_MARK) :]) for mark in marks}


def _empty(host: Host, number: int, zone: Optional[Zone] = None) -> None:
    """Forget all connections of a zone, and write down what it is used for from now on."""
    with switch.pending(host, _mark(number)):
        ovs.flush_zone(number)
        _write(host, number, zone)


def _forget(host: Host, number: int, zone: Zone, gone: list[str]) -> None:
    """Forget the connections of some addresses; the others go on."""
    if gone:
        ovs.flush_addresses(number, gone)
    _write(host, number, zone)
