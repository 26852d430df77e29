"""How much a project may have. Checked inside the transaction that takes it."""

from __future__ import annotations

from stackctl.errors import QuotaExceeded
from stackctl.state import Reader

UNLIMITED = -1

# Nova's, Neutron's and Cinder's defaults for a project that nobody configured.
DEFAULTS = {
    "instances": 10,
    "cores": 20,
    "ram_mb": 51200,
    "server_groups": 10,
    "server_group_members": 10,
    "networks": 100,
    "subnets": 100,
    "ports": 500,
    "routers": 10,
    "floating_ips": 50,
    "security_groups": 10,
    "security_group_rules": 100,
    "volumes": 10,
    "gigabytes": 1000,
    "snapshots": 10,
}

_LIVE = "WHERE deleted_at IS NULL AND project_id = ?"
_USED = {
    "instances": f"SELECT count(*) FROM servers {_LIVE}",
    "cores": f"SELECT ifnull(sum(vcpus), 0) FROM servers {_LIVE}",
    "ram_mb": f"SELECT ifnull(sum(ram_mb), 0) FROM servers {_LIVE}",
    "server_groups": f"SELECT count(*) FROM server_groups {_LIVE}",
    "networks": f"SELECT count(*) FROM networks {_LIVE}",
    "subnets": f"SELECT count(*) FROM subnets {_LIVE}",
    "ports": f"SELECT count(*) FROM ports {_LIVE}",
    "routers": f"SELECT count(*) FROM routers {_LIVE}",
    "floating_ips": f"SELECT count(*) FROM floating_ips {_LIVE}",
    "security_groups": f"SELECT count(*) FROM security_groups {_LIVE}",
    "volumes": f"SELECT count(*) FROM volumes {_LIVE}",
    "gigabytes": "SELECT ifnull(sum(size_gb), 0) FROM (SELECT size_gb, project_id, deleted_at "
    "FROM volumes UNION ALL SELECT size_gb, project_id, deleted_at FROM volume_snapshots) "
    f"{_LIVE}",
    "snapshots": f"SELECT count(*) FROM volume_snapshots {_LIVE}",
    "security_group_rules": f"SELECT count(*) FROM security_group_rules {_LIVE}",
}


def maximum(reader: Reader, project_id: str, resource: str) -> int:
    """The project's limit for a resource; UNLIMITED when there is none."""
    row = reader.one(
        "SELECT maximum FROM quotas WHERE project_id = ? AND resource = ?", project_id, resource
    )
    return DEFAULTS[resource] if row is None else int(row["maximum"])


def used(reader: Reader, project_id: str, resource: str) -> int:
    """How much of a resource the project has now."""
    return int(reader.value(_USED[resource], project_id))


def require(
    reader: Reader, project_id: str, resource: str, amount: int, have: int | None = None
) -> None:
    """Refuse when ``amount`` more would be over the project's quota.

    ``have``: how much there is already, where it is counted in each of several things.
    """
    limit = maximum(reader, project_id, resource)
    if limit == UNLIMITED:
        return
    have = used(reader, project_id, resource) if have is None else have
    if have + amount > limit:
        raise QuotaExceeded(
            f"Quota exceeded for {resource}: Requested {amount}, but already used {have} of "
            f"{limit} {resource}."
        )
