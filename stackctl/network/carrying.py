"""Whether a host can carry a network: a bridge for what is physical, an address for tunnels."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stackctl.errors import Conflict
from stackctl.hostspec.build import TUNNEL_TYPES
from stackctl.state import Reader, Row


def needs_tunnels(reader: Reader, networks: Sequence[Row]) -> bool:
    """Whether a host of these networks needs a tunnel address: a lone one has nowhere to tunnel."""
    if not any(row["type"] in TUNNEL_TYPES for row in networks):
        return False
    return int(reader.value("SELECT count(*) FROM hosts WHERE deleted_at IS NULL")) > 1


def refuse_out_of_reach(reader: Reader, host_id: str, network: Row, refusal: str) -> None:
    """Conflict when a network cannot come to a host; ``refusal`` begins what is said then."""
    host = reader.get("hosts", host_id)
    mapped = {item["physical_network"] for item in json.loads(host["bridge_mappings_json"])}
    physical = network["physical_network"]
    if physical and physical not in mapped:
        raise Conflict(
            f"{refusal}: its host {host['name']} has no bridge for physical network {physical}. "
            "Nothing was changed.",
            hint=f"stackctl host-set {host['name']} --bridge-mapping {physical}=NIC",
        )
    if needs_tunnels(reader, [network]) and host["tunnel_address"] is None:
        raise Conflict(
            f"{refusal}: its host {host['name']} has no tunnel address. Nothing was changed.",
            hint=f"stackctl host-set {host['name']} --tunnel-address ADDRESS",
        )
