"""From what a transaction touched to the hosts that must hear of it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from stackctl.state import Change, Reader


@dataclass(frozen=True)
class Affected:
    """Hosts whose spec a change alters.

    ``carrying``: they hold what was changed itself, so the command waits for them and fails with
    them. ``peripheral``: they only learn of it (a name, a tunnel to a new peer).
    """

    carrying: frozenset[str]
    peripheral: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Both."""
        return self.carrying | self.peripheral

    def without(self, hosts: Set[str]) -> Affected:
        """The same but for some hosts."""
        return Affected(self.carrying - hosts, self.peripheral - hosts)


def affected_hosts(reader: Reader, change: Change) -> Affected:
    """Every host whose spec differs because of ``change`` (and perhaps a few more)."""
    carrying = set(change.hosts)
    carrying |= _hosts_of(reader, _HOSTS_OF_SERVERS, change.servers, twice=True)
    carrying |= _hosts_of(
        reader, "SELECT host_id FROM bindings WHERE port_id IN ({})", change.ports
    )
    around = _hosts_of(reader, _HOSTS_OF_NETWORKS, change.networks)
    around |= _hosts_of(reader, _HOSTS_OF_PORTS, change.ports)
    # Another tunnel address of a host is seen by all that share a network with it.
    around |= _hosts_of(reader, _HOSTS_BESIDE, change.underlays)
    live = set(reader.column("SELECT id FROM hosts WHERE deleted_at IS NULL"))
    return Affected(frozenset(carrying & live), frozenset((around - carrying) & live))


_HOSTS_OF_SERVERS = """
SELECT host_id FROM servers WHERE id IN ({0}) AND host_id IS NOT NULL
UNION SELECT host_id FROM tombstones WHERE server_id IN ({0}) AND acknowledged_at IS NULL
"""

_HOSTS_OF_NETWORKS = "SELECT host_id FROM host_networks WHERE network_id IN ({})"

_HOSTS_OF_PORTS = """
SELECT host_networks.host_id FROM ports
JOIN host_networks ON host_networks.network_id = ports.network_id WHERE ports.id IN ({})
"""

_HOSTS_BESIDE = """
SELECT other.host_id FROM host_networks AS mine
JOIN host_networks AS other ON other.network_id = mine.network_id WHERE mine.host_id IN ({})
"""


def _hosts_of(reader: Reader, sql: str, ids: set[str], *, twice: bool = False) -> set[str]:
    if not ids:
        return set()
    marks = ", ".join("?" for _ in ids)
    parameters = [*sorted(ids)] * (2 if twice else 1)
    return set(reader.column(sql.format(marks), *parameters))
