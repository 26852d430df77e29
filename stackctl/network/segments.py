"""What a network is on the wire: its type, physical network, segmentation id and MTU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stackctl.errors import Conflict, UsageError
from stackctl.network.choice import lowest_free
from stackctl.state import Reader, Row

TYPES = ("vxlan", "gre", "vlan", "flat")
ON_PHYSICAL = ("vlan", "flat")

TUNNEL_OVERHEAD = {"vxlan": 50, "gre": 42}
"""Bytes that a tunnel takes from the physical MTU: IPv4 header, tunnel header, inner Ethernet."""

SMALLEST_MTU = 68  # RFC 791

_LARGEST_ID = {"vxlan": (1 << 24) - 1, "gre": (1 << 32) - 1, "vlan": 4094}


@dataclass(frozen=True)
class Segment:
    """A network's place on the wire."""

    type: str
    physical_network: str | None
    segmentation_id: int | None


def wanted_type(config: dict[str, Any], wanted: Segment | None) -> Segment:
    """What is asked for, completed: the cloud's own type, or what a physical network implies.

    UsageError when type, physical network and id do not go together.
    """
    kind = wanted.type if wanted else ""
    physical = wanted.physical_network if wanted else None
    number = wanted.segmentation_id if wanted else None
    if not kind and physical is not None:
        kind = "flat" if number is None else "vlan"
    kind = kind or str(config["network_type"])
    if kind not in TYPES:
        raise UsageError(f"'{kind}' is not a network type: use one of {', '.join(TYPES)}.")
    if kind in ON_PHYSICAL and not physical:
        raise UsageError(f"A {kind} network needs a physical network (--physical-network).")
    if kind not in ON_PHYSICAL and physical:
        raise UsageError(f"A {kind} network is not on a physical network; '{physical}' was given.")
    _check_number(config, kind, physical, number)
    return Segment(kind, physical, number)


def take_segment(reader: Reader, config: dict[str, Any], wanted: Segment) -> Segment:
    """The segment with its id: the wanted one, or the lowest free of the cloud's range.

    An id of a deleted network is free again when no host can still carry that network. Conflict
    when the wanted id is in use or the range exhausted.
    """
    taken = _taken(reader, wanted)
    if wanted.type == "flat":
        if 0 in taken:
            raise Conflict(
                "Unable to create the flat network. "
                f"Physical network {wanted.physical_network} is in use{taken[0]}."
            )
        return wanted
    if wanted.segmentation_id is not None:
        if wanted.segmentation_id in taken:
            raise Conflict(_in_use(wanted, taken[wanted.segmentation_id]))
        return wanted
    first, last = id_range(config, wanted.type, wanted.physical_network)
    number = lowest_free(first, last, taken.keys())
    if number is None:
        raise Conflict(
            "Unable to create the network. No tenant network is available for allocation: all "
            f"{wanted.type} ids from {first} to {last} are in use."
        )
    return Segment(wanted.type, wanted.physical_network, number)


def id_range(config: dict[str, Any], kind: str, physical: str | None) -> tuple[int, int]:
    """First and last segmentation id that the cloud's configuration allows."""
    setting, pair = f"{kind}_range", config.get(f"{kind}_range")
    if kind == "vlan":
        setting, pair = "default_vlan_range", config["default_vlan_range"]
        ranges = config["vlan_ranges"]
        if isinstance(ranges, dict) and physical in ranges:
            setting, pair = f"vlan_ranges: {physical}", ranges[physical]
    return _checked_range(setting, pair, _LARGEST_ID[kind])


def _checked_range(setting: str, pair: object, largest: int) -> tuple[int, int]:
    """What config.yaml says of ids; UsageError when it is no range of them."""
    if isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair):
        first, last = pair
        if 1 <= first <= last <= largest:
            return first, last
    raise UsageError(
        f"config.yaml of this cloud has {setting}: {pair}; it must be two ids from 1 to {largest}, "
        "such as [100, 199]."
    )


def mtu_for(config: dict[str, Any], kind: str, wanted: int | None) -> int:
    """The MTU of a network of this type; UsageError when more is wanted than fits."""
    largest = int(config["physical_mtu"]) - TUNNEL_OVERHEAD.get(kind, 0)
    if wanted is None:
        return largest
    if not SMALLEST_MTU <= wanted <= largest:
        raise UsageError(
            f"MTU {wanted} does not fit a {kind} network here: use {SMALLEST_MTU} to {largest}."
        )
    return wanted


def _check_number(
    config: dict[str, Any], kind: str, physical: str | None, number: int | None
) -> None:
    if number is None:
        return
    if kind == "flat":
        raise UsageError("A flat network has no segmentation id.")
    first, last = 1, _LARGEST_ID[kind]
    if kind == "vlan":
        first, last = id_range(config, kind, physical)
    if not first <= number <= last:
        raise UsageError(
            f"Segmentation id {number} is not one for {kind} networks here: use {first} to {last}."
        )


def _taken(reader: Reader, wanted: Segment) -> dict[int, str]:
    """Ids in use, each with words that say by whom (flat networks count as id 0)."""
    live = "deleted_at IS NULL"
    # A deleted network is on a host until the host has applied a serial after its last port left.
    carried = """deleted_at IS NOT NULL AND EXISTS (
        SELECT 1 FROM host_networks JOIN hosts ON hosts.id = host_networks.host_id
        WHERE host_networks.network_id = networks.id AND hosts.fenced = 0
        AND hosts.deleted_at IS NULL
        AND hosts.applied_serial < ifnull(host_networks.released_serial, 9e15))"""
    found: dict[int, str] = {}
    for rows, words in (
        (_segments(reader, wanted, carried), " on hosts that have not applied its deletion"),
        (_segments(reader, wanted, live), ""),
    ):
        for row in rows:
            found[row["segmentation_id"] or 0] = words
    return found


def _segments(reader: Reader, wanted: Segment, where: str) -> list[Row]:
    return reader.all(
        "SELECT segmentation_id FROM networks"
        f" WHERE type = ? AND ifnull(physical_network, '') = ? AND {where}",
        wanted.type,
        wanted.physical_network or "",
    )


def _in_use(segment: Segment, words: str) -> str:
    if segment.type == "vlan":
        return (
            f"Unable to create the network. The VLAN {segment.segmentation_id} on physical network "
            f"{segment.physical_network} is in use{words}."
        )
    return (
        f"Unable to create the network. The tunnel ID {segment.segmentation_id} is in use{words}."
    )
