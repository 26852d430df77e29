"""Open vSwitch: one look at its database, one transaction to change it, bundles of flows."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from agent import killpoint
from agent.system.run import CommandFailed, run

TIMEOUT_S = 20
"""Seconds until ovs-vsctl or ovs-ofctl gives up on a daemon that does not answer."""

_MODULE = Path("/sys/module/openvswitch")
_OPENFLOW = "OpenFlow13"
_STARTING_S = 3.0
_OFCTL = ("ovs-ofctl", "-O", _OPENFLOW, f"--timeout={TIMEOUT_S}")
_APPCTL = ("ovs-appctl", f"--timeout={TIMEOUT_S}")
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_LOOK = (
    ("Bridge", "name,ports,fail_mode,datapath_type,external_ids"),
    ("Port", "_uuid,name,interfaces,tag,vlan_mode,trunks,external_ids"),
    ("Interface", "_uuid,name,type,options,external_ids,ofport,error,mtu_request"),
)


@dataclass(frozen=True)
class Interface:
    """A row of the Interface table. ``ofport`` is None until the switch has given a number."""

    name: str
    type: str
    options: dict[str, str]
    external_ids: dict[str, str]
    ofport: Optional[int]
    error: str
    mtu_request: Optional[int]


@dataclass(frozen=True)
class Port:
    """A row of the Port table with its bridge and interfaces (one, unless it is a bond)."""

    name: str
    bridge: str
    tag: Optional[int]
    vlan_mode: str
    trunks: tuple[int, ...]
    external_ids: dict[str, str]
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True)
class Bridge:
    """A row of the Bridge table."""

    name: str
    fail_mode: str
    datapath_type: str
    external_ids: dict[str, str]
    ports: tuple[str, ...]


@dataclass(frozen=True)
class Switch:
    """All bridges and ports of this host, by name."""

    bridges: dict[str, Bridge] = field(default_factory=dict)
    ports: dict[str, Port] = field(default_factory=dict)

    def ofports(self) -> dict[str, int]:
        """The OpenFlow numbers of all devices that have one."""
        return {
            port.name: port.interfaces[0].ofport
            for port in self.ports.values()
            if port.interfaces and port.interfaces[0].ofport is not None
        }


def observe() -> Switch:
    """Read bridges, ports and interfaces in one call; CommandFailed when OVS does not answer."""
    argv = ["ovs-vsctl", f"--timeout={TIMEOUT_S}", "--format=json", "--data=json"]
    for number, (table, columns) in enumerate(_LOOK):
        argv += (["--"] if number else []) + [f"--columns={columns}", "list", table]
    lines = run(argv, timeout_s=TIMEOUT_S + 5).splitlines()
    if len(lines) != len(_LOOK):
        raise CommandFailed(argv, f"expected {len(_LOOK)} tables, got {len(lines)} lines")
    return _switch(*(_rows(line) for line in lines))


Row = dict[str, Any]


def _rows(line: str) -> list[Row]:
    table = json.loads(line)
    return [
        {name: _value(cell) for name, cell in zip(table["headings"], row)} for row in table["data"]
    ]


def _value(cell: Any) -> Any:
    """An OVSDB value (RFC 7047): sets become lists, maps dicts, uuids strings."""
    if isinstance(cell, list) and len(cell) == 2:
        kind, content = cell
        if kind == "set":
            return [_value(item) for item in content]
        if kind == "map":
            return {_value(key): _value(value) for key, value in content}
        if kind == "uuid":
            return content
    return cell


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _one(value: Any) -> Any:
    return None if value == [] else value


def _switch(bridges: list[Row], ports: list[Row], interfaces: list[Row]) -> Switch:
    by_uuid = {row["_uuid"]: _interface(row) for row in interfaces}
    home = {uuid: row["name"] for row in bridges for uuid in _many(row["ports"])}
    switch = Switch()
    for row in ports:
        port = _port(row, home.get(row["_uuid"], ""), by_uuid)
        switch.ports[port.name] = port
    names = {row["_uuid"]: row["name"] for row in ports}
    for row in bridges:
        inside = tuple(names[uuid] for uuid in _many(row["ports"]) if uuid in names)
        switch.bridges[row["name"]] = Bridge(
            name=row["name"],
            fail_mode=_one(row["fail_mode"]) or "",
            datapath_type=row["datapath_type"] or "system",
            external_ids=row["external_ids"],
            ports=inside,
        )
    return switch


def _port(row: Row, bridge: str, interfaces: dict[str, Interface]) -> Port:
    return Port(
        name=row["name"],
        bridge=bridge,
        tag=_one(row["tag"]),
        vlan_mode=_one(row["vlan_mode"]) or "",
        trunks=tuple(_many(row["trunks"])),
        external_ids=row["external_ids"],
        interfaces=tuple(interfaces[u] for u in _many(row["interfaces"]) if u in interfaces),
    )


def _interface(row: Row) -> Interface:
    ofport = _one(row["ofport"])
    return Interface(
        name=row["name"],
        type=row["type"],
        options=row["options"],
        external_ids=row["external_ids"],
        # -1 is the switch's word for "could not open it".
        ofport=ofport if ofport is not None and ofport > 0 else None,
        error=_one(row["error"]) or "",
        mtu_request=_one(row["mtu_request"]),
    )


def pair(column: str, key: str, value: str) -> str:
    """``column:key="value"`` for ``set``, the value quoted as OVSDB reads it."""
    return f"{column}:{key}={json.dumps(value)}"


def transact(commands: Iterable[Sequence[str]]) -> None:
    """Run ovs-vsctl commands as one transaction; waits until the switch has followed."""
    argv = ["ovs-vsctl", f"--timeout={TIMEOUT_S}"]
    for command in commands:
        argv += ["--", *command]
    if len(argv) > 2:
        run(argv, timeout_s=TIMEOUT_S + 5)
        killpoint.reached("switch changed")


def dump_flows(bridge: str) -> str:
    """The flows of a bridge with their cookies, ports as numbers, no counters.

    A switch that is just starting opens its bridges a moment later: that moment is waited for.
    """
    argv = ["ovs-ofctl", "-O", _OPENFLOW, "--no-stats", "--no-names", f"--timeout={TIMEOUT_S}"]
    deadline = time.monotonic() + _STARTING_S
    while True:
        try:
            return run([*argv, "dump-flows", bridge], timeout_s=TIMEOUT_S + 5)
        except CommandFailed as error:
            if "failed to open socket" not in error.output or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def trace(bridge: str, flow: str, ct_states: Sequence[str]) -> str:
    """What the switch says it would do with a packet, by device names; nothing is sent.

    ``ct_states``: what connection tracking says of it, each time that it is asked.
    """
    argv = ["ovs-appctl", f"--timeout={TIMEOUT_S}", "ofproto/trace", "--names", bridge, flow]
    for state in ct_states:
        argv += ["--ct-next", state]
    return run(argv, timeout_s=TIMEOUT_S + 5)


def change_flows(bridge: str, lines: Sequence[str]) -> None:
    """Apply ``add``/``delete_strict``/``delete`` lines in one atomic bundle."""
    argv = ["ovs-ofctl", "-O", _OPENFLOW, "--bundle", f"--timeout={TIMEOUT_S}", "add-flows"]
    run([*argv, bridge, "-"], timeout_s=TIMEOUT_S + 5, stdin="\n".join(lines) + "\n")
    killpoint.reached(f"flows of {bridge} changed")


def forget_decisions() -> None:
    """Have the switch look into its tables for every packet anew: its cache is emptied."""
    run([*_APPCTL, "revalidator/purge"], timeout_s=TIMEOUT_S + 5)
    killpoint.reached("decisions forgotten")


def delete_flows(bridge: str, cookie: int) -> None:
    """Remove the flows with a cookie."""
    argv = ["ovs-ofctl", "-O", _OPENFLOW, f"--timeout={TIMEOUT_S}", "del-flows", bridge]
    run([*argv, f"cookie={cookie:#x}/-1"], timeout_s=TIMEOUT_S + 5)


def dump_meters(bridge: str) -> str:
    """The meters of a bridge: what limits how much."""
    return run([*_OFCTL, "dump-meters", bridge], timeout_s=TIMEOUT_S + 5)


def meters_possible(bridge: str) -> int:
    """How many meters the datapath of a bridge can have."""
    out = run([*_OFCTL, "meter-features", bridge], timeout_s=TIMEOUT_S + 5)
    found = re.search(r"max_meter:(\d+)", out)
    return int(found[1]) if found else 0


def change_meter(bridge: str, command: str, text: str) -> None:
    """``add-meter``, ``mod-meter`` or ``del-meter``; flows that use a removed one go with it."""
    run([*_OFCTL, command, bridge, text], timeout_s=TIMEOUT_S + 5)
    killpoint.reached(f"meter of {bridge} changed")


def flush_zone(number: int) -> None:
    """Forget all connections of a zone, in whichever datapath this host has."""
    _flush(f"zone={number}")
    killpoint.reached(f"zone {number} flushed")


def flush_addresses(zone: int, addresses: Iterable[str]) -> None:
    """Forget the connections from and to some addresses in a zone (of ICMPv6: none)."""
    for address in addresses:
        try:
            for words in _selections(address):
                # The reply comes from where the connection led, by whatever name it was called.
                _flush(f"zone={zone}", words)
                _flush(f"zone={zone}", "", words)
        except CommandFailed:
            # Open vSwitch before 3.1 flushes whole connections only.
            _flush_each(zone, address)
    killpoint.reached(f"addresses in zone {zone} flushed")


def _selections(address: str) -> list[str]:
    if ":" not in address:
        return [f"ct_nw_src={address}"]
    # ovs-vswitchd 3.1 dies when it flushes a connection of ICMPv6 by its addresses.
    protocols = [n for name, n in _PROTOCOLS.items() if not name.startswith("icmp")]
    return [f"ct_ipv6_src={address},ct_nw_proto={number}" for number in protocols]


def _flush(*words: str) -> None:
    run([*_APPCTL, "dpctl/flush-conntrack", *words], timeout_s=TIMEOUT_S + 5)


def _flush_each(zone: int, address: str) -> None:
    out = run([*_APPCTL, "dpctl/dump-conntrack", f"zone={zone}"], timeout_s=TIMEOUT_S + 5)
    for line in out.splitlines():
        if f"src={address}," in line and not line.startswith("icmpv6"):
            _flush(f"zone={zone}", _tuple(line))


def _tuple(line: str) -> str:
    """One connection of a dump in the words of ``flush-conntrack``."""
    protocol, _, rest = line.partition(",orig=(")
    fields = dict(word.split("=", 1) for word in rest.partition(")")[0].split(","))
    kind = "ct_ipv6" if ":" in fields["src"] else "ct_nw"
    number = _PROTOCOLS.get(protocol) or protocol
    words = [f"{kind}_src={fields['src']}", f"{kind}_dst={fields['dst']}", f"ct_nw_proto={number}"]
    if "sport" in fields:
        words += [f"ct_tp_src={fields['sport']}", f"ct_tp_dst={fields['dport']}"]
    else:
        words += [f"icmp_{name}={fields[name]}" for name in ("id", "type", "code")]
    return ",".join(words)


def kernel_datapath() -> bool:
    """Whether this host has Open vSwitch's kernel module, loaded or loadable."""
    return _MODULE.exists() or _module_loads()


@functools.cache
def _module_loads() -> bool:
    """Tried once in a process: what cannot be loaded now cannot be a moment later."""
    try:
        run(["modprobe", "-q", "openvswitch"], timeout_s=15)
    except CommandFailed:
        return False
    return _MODULE.exists()
