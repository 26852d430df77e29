"""ofproto/trace: the packet that it is asked about, and its answer as values. Pure.

The answer (of Open vSwitch 2.17 to 3.x, with ``--names``) is meant for people: sections for each
time that the packet comes back from connection tracking, in them the flows that it hit, bridge
after bridge, and at the end what the datapath would do with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from agent.resources import texts

CT_STATES = ("new", "est", "rel", "rpl", "inv", "trk")

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
_NAMES = {
    4: {ICMP: "icmp", TCP: "tcp", UDP: "udp", SCTP: "sctp"},
    6: {ICMPV6: "icmp6", TCP: "tcp6", UDP: "udp6", SCTP: "sctp6"},
}

_BRIDGE = re.compile(r'bridge\("([^"]+)"\)')
_HIT = re.compile(r" *(\d+)\. (?:(.*), )?priority (\d+)(?:, cookie 0x([0-9a-f]+))?")
_NO_MATCH = re.compile(r" *(\d+)\. No match\.?")
_NOTE = re.compile(r" *(?:->|>>+) (.*)")
_OUTPUT = re.compile(r'output:"?([^"\s]+?)"?')
_PUSH_VLAN = re.compile(r"push_vlan\((?:tpid=0x[0-9a-f]+,)?vid=(\d+)")
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


@dataclass(frozen=True)
class Packet:
    """One IP packet. Ports are None where the protocol has none; so are type and code of ICMP."""

    eth_src: str
    eth_dst: str
    src: str
    dst: str
    protocol: int
    sport: Optional[int] = None
    dport: Optional[int] = None
    icmp_type: Optional[int] = None
    icmp_code: Optional[int] = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.src else 4


@dataclass(frozen=True)
class Hit:
    """A flow that the packet hit: where, and what it did. ``cookie`` is in hexadecimal; priority
    -1 means that no flow of the table fits."""

    bridge: str
    table: int
    priority: int
    match: str
    cookie: str
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """A device that the packet leaves by, with the VLAN tag that it has then (0: none)."""

    device: str
    vlan: int


@dataclass(frozen=True)
class Traced:
    """What became of a packet: no outputs, and it was dropped by the last of the hits."""

    hits: tuple[Hit, ...]
    outputs: tuple[Output, ...]
    notes: tuple[str, ...]


def packet_from(plain: Any) -> Packet:
    """A packet from an action's arguments; BadText when something does not belong into one."""
    if not isinstance(plain, dict):
        raise texts.BadText("a packet is an object")
    packet = Packet(
        eth_src=texts.mac(str(plain.get("eth_src"))),
        eth_dst=texts.mac(str(plain.get("eth_dst"))),
        src=texts.ip(str(plain.get("src"))),
        dst=texts.ip(str(plain.get("dst"))),
        protocol=_number(plain, "protocol", 255) or 0,
        sport=_number(plain, "sport", 65535),
        dport=_number(plain, "dport", 65535),
        icmp_type=_number(plain, "icmp_type", 255),
        icmp_code=_number(plain, "icmp_code", 255),
    )
    if (":" in packet.src) != (":" in packet.dst):
        raise texts.BadText(f"{packet.src} and {packet.dst} are not of one kind")
    return packet


def _number(plain: dict[str, Any], name: str, most: int) -> Optional[int]:
    value = plain.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= most:
        raise texts.BadText(f"{name} is a number from 0 to {most}")
    return value


def flow_text(packet: Packet, in_port: str, vlan: int = 0, tunnel: str = "") -> str:
    """The packet as ofproto/trace reads it; ``tunnel`` holds the fields of one that came by one."""
    kind = "ip" if packet.version == 4 else "ipv6"
    name = _NAMES[packet.version].get(packet.protocol)
    source, target = ("nw_src", "nw_dst") if packet.version == 4 else ("ipv6_src", "ipv6_dst")
    parts = [
        f"in_port={texts.device(in_port)}",
        tunnel,
        f"dl_vlan={vlan}" if vlan else "",
        name or f"{kind},nw_proto={packet.protocol}",
        f"dl_src={packet.eth_src}",
        f"dl_dst={packet.eth_dst}",
        f"{source}={packet.src}",
        f"{target}={packet.dst}",
        "nw_ttl=64",
        *(_fields(packet) if name else ()),
    ]
    return ",".join(filter(None, parts))


def _fields(packet: Packet) -> Iterator[str]:
    # Of an exact flow it takes the full names of fields only: udp_src, never tp_src.
    if packet.protocol in (ICMP, ICMPV6):
        name = "icmp" if packet.protocol == ICMP else "icmpv6"
        fields = {f"{name}_type": packet.icmp_type, f"{name}_code": packet.icmp_code}
    else:
        name = _NAMES[4][packet.protocol]
        fields = {f"{name}_src": packet.sport, f"{name}_dst": packet.dport}
    for key, value in fields.items():
        if value is not None:
            yield f"{key}={value}"


def parse(text: str) -> Traced:
    """The answer of ``ofproto/trace --names``."""
    hits: list[Hit] = []
    outputs: list[Output] = []
    notes: list[str] = []
    for section in re.split(r"^=+\nrecirc\(.*\n=+$", text, flags=re.MULTILINE):
        in_section, said = _section(section)
        hits += in_section
        notes += said
        outputs += _tunnels(in_section)
        outputs += _outputs(section)
    return Traced(tuple(hits), tuple(dict.fromkeys(outputs)), tuple(notes))


def _section(text: str) -> tuple[list[Hit], list[str]]:
    hits: list[Hit] = []
    notes: list[str] = []
    bridge, resumed = "", False
    for line in text.splitlines():
        header = _BRIDGE.match(line)
        found, nothing = _HIT.fullmatch(line), _NO_MATCH.fullmatch(line)
        note = _NOTE.fullmatch(line)
        if header:
            bridge, resumed = header[1], False
        elif line.strip() == "thaw":
            resumed = True
        elif found:
            at = "br-int" if resumed else bridge
            hits.append(Hit(at, int(found[1]), int(found[3]), found[2] or "", found[4] or "0", ()))
        elif nothing:
            hits.append(Hit("br-int" if resumed else bridge, int(nothing[1]), -1, "", "0", ()))
        elif note:
            notes.append(note[1])
        elif hits and line.startswith("    "):
            hits[-1] = _with_action(hits[-1], line.strip())
    return hits, notes


def _with_action(hit: Hit, action: str) -> Hit:
    # "drop" after ct means that the original goes nowhere: its copy comes back tracked.
    if action == "drop" and hit.actions and hit.actions[-1].startswith("ct("):
        return hit
    return Hit(hit.bridge, hit.table, hit.priority, hit.match, hit.cookie, (*hit.actions, action))


def _tunnels(hits: Sequence[Hit]) -> Iterator[Output]:
    """Tunnels are known by the flow that sends into them: what the datapath does is their inside,
    and nothing at all while the other end's Ethernet address is still asked for."""
    for hit in hits:
        for action in hit.actions:
            found = _OUTPUT.fullmatch(action)
            if found and found[1].startswith(("vxlan-", "gre-")):
                yield Output(found[1], 0)


def _outputs(text: str) -> Iterator[Output]:
    vlan = 0
    for line in re.findall(r"^Datapath actions: (.*)$", text, flags=re.MULTILINE):
        for action in split_actions(line):
            if action.startswith(("tnl_push(", "clone(tnl_push(", "set(tunnel(")):
                break  # what follows is how the tunnel's own packets travel
            pushed = _PUSH_VLAN.match(action)
            if pushed:
                vlan = int(pushed[1])
            elif action == "pop_vlan":
                vlan = 0
            elif action != "drop" and _DEVICE.fullmatch(action):
                yield Output(action, vlan)


def split_actions(text: str) -> Iterator[str]:
    """A list of datapath actions, split at the commas that are in no parentheses."""
    depth, begin = 0, 0
    for at, sign in enumerate(text):
        if sign == "," and depth == 0:
            yield text[begin:at].strip()
            begin = at + 1
        depth += (sign == "(") - (sign == ")")
    yield text[begin:].strip()
