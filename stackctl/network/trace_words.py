"""What a flow that a packet hit last means for people, by its table. Pure.

The tables are those that the agent compiles; their numbers are Neutron's where it has such a one.
"""

from __future__ import annotations

import re
from typing import Any

Hit = dict[str, Any]

EGRESS, INGRESS = 72, 82
RULE, REPLY = 70, 80
_SPOOFING = (24, 25, 26)

_FORBIDDEN = (
    (r"tp_src=67|tp_src=547", "guests may not be DHCP servers"),
    (r"icmp_type=134", "guests may not advertise themselves as routers"),
    (r"icmp_type=137", "guests may not redirect others"),
    (r"169\.254\.169\.254|a9fe:a9fe", "this cloud has no metadata service"),
)


def checked_hits(value: Any) -> list[Hit]:
    """What a host says that was hit, without what is not of the promised shape."""
    shape = {"bridge": str, "table": int, "priority": int, "match": str}
    return [
        hit
        for hit in (value if isinstance(value, list) else ())
        if isinstance(hit, dict) and all(type(hit.get(key)) is kind for key, kind in shape.items())
    ]


def checked_outputs(value: Any, came_by: str) -> list[Hit]:
    """The devices that a packet leaves by, as a host says. What a physical bridge, which learns as
    any switch does, floods to itself and its own NIC is not among them."""
    found = []
    for out in value if isinstance(value, list) else ():
        if isinstance(out, dict) and isinstance(out.get("device"), str):
            device, bridge = out["device"], out.get("bridge")
            if device not in (came_by, bridge):
                found.append(out)
    return found


def why_dropped(hit: Hit, source: str) -> str:
    """Why a packet ended at this flow; ``source`` is the address that it claims to come from.

    What security groups refuse is told elsewhere: here it is only said who refused.
    """
    table, priority = int(hit["table"]), int(hit["priority"])
    if hit["bridge"] == "br-tun":
        return _in_tunnel_bridge(table)
    if hit["bridge"].startswith("tbr-"):
        return "its trunk has no subport with that VLAN"
    if hit["bridge"] != "br-int":
        return _in_physical_bridge(priority)
    if table == 0:
        return _at_the_door(priority, str(hit["match"]))
    if table in _SPOOFING:
        return _spoofed(table, priority, str(hit["match"]), source)
    return _inside(table, priority)


def knows_no_way(hit: Hit) -> bool:
    """Whether a packet ended at this flow because nobody seems to have its Ethernet address."""
    if hit["bridge"] == "br-tun":
        return int(hit["table"]) == 22
    return hit["bridge"] == "br-int" and int(hit["table"]) in (61, 94)


def _in_tunnel_bridge(table: int) -> str:
    words = {
        0: "the tunnel that it came by is not one of this host",
        2: "it is from or to a DHCP server, which stays on each host",
        22: "no other host has this network",
    }
    return words.get(table, "this host has no network with the id of that tunnel")


def _in_physical_bridge(priority: int) -> str:
    if priority == 5:
        return "it is from or to a DHCP server, which stays on each host"
    return "its network may not leave by this physical bridge"


def _at_the_door(priority: int, match: str) -> str:
    if priority == 12:
        return "guests may not send VLAN tags"
    if priority == 5:
        return "it is from or to a DHCP server, which stays on each host"
    if priority == 65535:
        return "its port is dead: it or its network is down"
    if "int-" in match or "patch-tun" in match:
        return "no network of this host has that VLAN"
    return "this host lets nothing in by that port: it or its network is down"


def _spoofed(table: int, priority: int, match: str, source: str) -> str:
    if table == 25 and priority == 20:
        for pattern, words in _FORBIDDEN:
            if re.search(pattern, match):
                return words
    return f"anti-spoofing: {source} is not an address of this port, or its MAC address is not"


def _inside(table: int, priority: int) -> str:
    if table == 60:
        return "it claims to be from the DHCP server, or is DHCP and not for it"
    if table == 61:
        return "the port that it is for is down"
    if table in (EGRESS, INGRESS):
        if priority == 100:
            return "connection tracking says that it is invalid"
        return "no rule allows it"
    if table == 94:
        words = "nobody here has its Ethernet address"
        return f"{words}, and it came from outside" if priority == 100 else f"{words}"
    return "no flow lets it go on"


def deciders(hits: list[Hit]) -> dict[str, Hit]:
    """The flow of each direction's rules that was hit last, if any: ``egress``, ``ingress``."""
    names = {EGRESS: "egress", INGRESS: "ingress"}
    return {
        names[hit["table"]]: hit
        for hit in hits
        if hit["bridge"] == "br-int" and hit["table"] in names
    }
