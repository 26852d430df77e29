"""From what a transaction touched to the hosts that must hear of it."""

from __future__ import annotations

import json
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
    carrying |= _hosts_of(reader, _HOSTS_OF_SERVERS, change.servers, times=3)
    carrying |= _hosts_of(
        reader, "SELECT host_id FROM bindings WHERE port_id IN ({})", change.ports
    )
    carrying |= _hosts_of(
        reader, "SELECT host_id FROM routers WHERE id IN ({}) AND host_id <> ''", change.routers
    )
    carrying |= _hosts_of(reader, _HOSTS_OF_NETWORKS, change.altered)
    carrying |= _hosts_of(reader, _HOSTS_OF_GROUPS, change.security_groups)
    carrying |= _hosts_of(reader, _HOSTS_OF_VOLUMES, change.volumes, times=2)
    carrying |= _hosts_of(
        reader, "SELECT host_id FROM volume_types WHERE id IN ({})", change.volume_types
    )
    around = set(change.left)
    around |= _hosts_of(reader, _HOSTS_OF_TYPES, change.volume_types)
    around |= _hosts_of(reader, _HOSTS_OF_NETWORKS, change.networks)
    around |= _hosts_that_admit(reader, change)
    # Which networks a router connects decides whose members can send into them.
    around |= _hosts_of(reader, _HOSTS_JOINED, change.routers)
    around |= _hosts_of(reader, _HOSTS_OF_PORTS, change.ports)
    # Another tunnel address of a host is seen by all that share a network with it.
    around |= _hosts_of(reader, _HOSTS_BESIDE, change.underlays)
    live = set(reader.column("SELECT id FROM hosts WHERE deleted_at IS NULL"))
    return Affected(frozenset(carrying & live), frozenset((around - carrying) & live))


# A fenced host has its tombstones already, and obeys them when it returns.
_HOSTS_OF_SERVERS = """
SELECT host_id FROM servers WHERE id IN ({0}) AND host_id IS NOT NULL
UNION SELECT target_host_id FROM migrations WHERE server_id IN ({0}) AND kind = 'live'
  AND status IN ('preparing', 'running')
UNION SELECT host_id FROM tombstones JOIN hosts ON hosts.id = host_id
  WHERE server_id IN ({0}) AND acknowledged_at IS NULL AND fenced = 0
"""

_HOSTS_OF_VOLUMES = """
SELECT host_id FROM volumes WHERE id IN ({0}) AND host_id IS NOT NULL
UNION SELECT host_id FROM volume_snapshots WHERE id IN ({0})
"""

_HOSTS_OF_TYPES = """
SELECT hosts.id FROM hosts, volume_types WHERE volume_types.id IN ({}) AND claimed = 1
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


_HOSTS_OF_GROUPS = """
SELECT bindings.host_id FROM port_security_groups
JOIN bindings ON bindings.port_id = port_security_groups.port_id WHERE group_id IN ({})
"""

# Hosts with ports in groups whose rules name one of these groups, in the networks that packets of
# the members can reach: their own (of which the change tells, too) and those that routers join.
_HOSTS_THAT_ADMIT = """
WITH RECURSIVE joined(id) AS (
  SELECT value FROM json_each(?)
  UNION
  SELECT far.network_id FROM joined
  JOIN ports AS near ON near.network_id = joined.id AND near.deleted_at IS NULL
    AND near.device_owner = 'network:router_interface'
  JOIN ports AS far ON far.device_id = near.device_id AND far.deleted_at IS NULL
    AND far.device_owner = 'network:router_interface'
)
SELECT DISTINCT bindings.host_id FROM joined
CROSS JOIN ports ON ports.network_id = joined.id AND ports.deleted_at IS NULL
CROSS JOIN port_security_groups AS held ON held.port_id = ports.id
CROSS JOIN bindings ON bindings.port_id = ports.id
WHERE held.group_id IN (
  SELECT group_id FROM security_group_rules
  WHERE remote_group_id IN (SELECT value FROM json_each(?)) AND deleted_at IS NULL)
"""

# Hosts with any network that interfaces of these routers have or had, or that is joined to one.
_HOSTS_JOINED = """
WITH RECURSIVE joined(id) AS (
  SELECT network_id FROM ports WHERE device_id IN ({})
    AND device_owner = 'network:router_interface'
  UNION
  SELECT far.network_id FROM joined
  JOIN ports AS near ON near.network_id = joined.id AND near.deleted_at IS NULL
    AND near.device_owner = 'network:router_interface'
  JOIN ports AS far ON far.device_id = near.device_id AND far.deleted_at IS NULL
    AND far.device_owner = 'network:router_interface'
)
SELECT host_networks.host_id FROM joined
JOIN host_networks ON host_networks.network_id = joined.id
"""


def _hosts_that_admit(reader: Reader, change: Change) -> set[str]:
    if not change.members:
        return set()
    networks, groups = (json.dumps(sorted(ids)) for ids in (change.networks, change.members))
    return set(reader.column(_HOSTS_THAT_ADMIT, networks, groups))


def _hosts_of(reader: Reader, sql: str, ids: set[str], *, times: int = 1) -> set[str]:
    if not ids:
        return set()
    marks = ", ".join("?" for _ in ids)
    parameters = sorted(ids) * times
    return set(reader.column(sql.format(marks), *parameters))
