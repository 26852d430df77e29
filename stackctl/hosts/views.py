"""Hosts as they are shown: capacity, what is given of it, versions, and how fresh all that is."""

from __future__ import annotations

import base64
import json
from typing import Any

from agent.spec import BridgeMapping
from stackctl.hosts.types import Amount, Declared, Host, Ratios
from stackctl.identity.context import Context
from stackctl.state import Reader, Row, find, read
from stackctl.state.usage import HOSTS_WITH_USAGE


def list_hosts(context: Context) -> list[Host]:
    """All hosts by name, as last seen."""
    with read(context.cloud) as reader:
        rows = reader.all(f"{HOSTS_WITH_USAGE} WHERE hosts.deleted_at IS NULL ORDER BY hosts.name")
    return [view(row) for row in rows]


def show_host(context: Context, word: str) -> Host:
    """One host, by name or id, as last seen."""
    with read(context.cloud) as reader:
        return read_host(reader, find(reader, "hosts", word, noun="host")["id"])


def read_host(reader: Reader, host_id: str) -> Host:
    """The host with this id, deleted or not."""
    (row,) = reader.all(f"{HOSTS_WITH_USAGE} WHERE hosts.id = ?", host_id)
    return view(row)


def view(row: Row) -> Host:
    """A row, with what placed servers take of it, as it is shown."""
    facts: dict[str, Any] = json.loads(row["facts_json"])
    usable_ram = max(row["ram_mb"] - row["reserved_ram_mb"], 0)
    return Host(
        id=row["id"],
        name=row["name"],
        state=state(row),
        enabled=bool(row["enabled"]),
        disabled_reason=row["disabled_reason"],
        behind=row["issued_serial"] > row["applied_serial"],
        transport=row["transport"],
        address=row["address"],
        port=row["ssh_port"],
        user=row["ssh_user"],
        host_key=row["host_key"],
        fingerprint=_fingerprint(row["host_key"]),
        zone=row["zone"],
        virt_type=row["virt_type"],
        datapath=row["datapath"],
        on_boot=row["on_boot"],
        tunnel_address=row["tunnel_address"],
        bridge_mappings=mappings_of(row),
        vcpus=Amount(row["vcpus"], int(row["vcpus"] * row["cpu_ratio"]), row["vcpus_used"]),
        ram_mb=Amount(row["ram_mb"], int(usable_ram * row["ram_ratio"]), row["ram_mb_used"]),
        disk_gb=Amount(
            row["disk_gb"], int(row["disk_gb"] * row["disk_ratio"]), row["disk_gb_used"]
        ),
        ratios=Ratios(
            row["cpu_ratio"], row["ram_ratio"], row["disk_ratio"], row["reserved_ram_mb"]
        ),
        declared=Declared(**json.loads(row["declared_json"])),
        servers=row["servers"],
        facts=facts,
        versions=_dict(facts.get("versions")),
        bridges=_texts(facts.get("bridges")),
        issued_serial=row["issued_serial"],
        applied_serial=row["applied_serial"],
        seen_at=row["seen_at"],
        unreachable_since=row["unreachable_since"],
        unreachable_why=row["unreachable_why"],
        created_at=row["created_at"],
    )


def state(row: Row) -> str:
    """One word for how a host is: up, unreachable, fenced or new."""
    if row["fenced"]:
        return "fenced"
    if row["unreachable_since"] is not None:
        return "unreachable"
    return "up" if row["applied_serial"] else "new"


def mappings_of(row: Row) -> tuple[BridgeMapping, ...]:
    """The bridge mappings of a host's row."""
    return tuple(BridgeMapping(**item) for item in json.loads(row["bridge_mappings_json"]))


def _fingerprint(line: str) -> str:
    from stackctl.fleet.pins import fingerprint

    return fingerprint(base64.b64decode(line.split()[1])) if line else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
