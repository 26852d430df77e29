"""From a row of the hosts table to how that host is reached."""

from __future__ import annotations

from typing import Any

from stackctl.fleet.types import Target
from stackctl.state import Cloud


def target_of(row: dict[str, Any], cloud: Cloud, *, peripheral: bool = False) -> Target:
    """The target for a host's row; ``peripheral`` hosts get a short time to connect."""
    limit = "peripheral_connect_timeout_s" if peripheral else "connect_timeout_s"
    return Target(
        host_id=row["id"],
        name=row["name"],
        transport=row["transport"],
        address=row["address"],
        ssh_port=row["ssh_port"],
        ssh_user=row["ssh_user"],
        host_key=row["host_key"],
        key_file=cloud.key_file,
        connect_timeout_s=float(cloud.config[limit]),
    )
