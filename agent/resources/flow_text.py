"""Flows as text, and the difference between two tables. Pure.

``ovs-ofctl`` reads many spellings and prints one. A flow is therefore compared as it stands
first, which is enough for nearly all, and in a normal form when that fails: fields sorted,
OpenFlow 1.0's words for VLAN actions turned into those of 1.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

LEARN_TABLE = 20
"""The table of br-tun that holds unicast entries, the learned ones among them."""

DEFAULT_PRIORITY = 32768
_VLAN_PRESENT = 0x1000
_DL_VLAN = re.compile(r"\bdl_vlan=(\d+)")
_MOD_VLAN = re.compile(r"\bmod_vlan_vid:(\d+)")


class Flow(NamedTuple):
    """One flow: what it matches and what it does, in the words of ovs-fields(7)."""

    table: int
    priority: int
    match: str
    actions: str

    def text(self, cookie: int) -> str:
        """The flow as ``ovs-ofctl add-flow`` reads it."""
        return f"cookie={cookie:#x},{self.where()} actions={self.actions}"

    def where(self) -> str:
        """Table, priority and match: what names a flow."""
        match = f",{self.match}" if self.match else ""
        return f"table={self.table},priority={self.priority}{match}"


@dataclass(frozen=True)
class Found:
    """A flow that is there, with its cookie."""

    flow: Flow
    cookie: int


@dataclass(frozen=True)
class Difference:
    """What must change in a bridge: flows to add (or overwrite), to remove, and foreign ones."""

    add: tuple[Flow, ...] = ()
    remove: tuple[Flow, ...] = ()
    foreign: tuple[Flow, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


def parse_dump(text: str) -> list[Found]:
    """Read ``ovs-ofctl --no-stats --no-names dump-flows``."""
    return [_parse_line(line) for line in text.splitlines() if " actions=" in line]


def _parse_line(line: str) -> Found:
    head, actions = line.strip().split(" actions=", 1)
    cookie, table, priority, match = 0, 0, DEFAULT_PRIORITY, ""
    for word in head.split(", "):
        if word.startswith("cookie="):
            cookie = int(word[7:], 16)
        elif word.startswith("table="):
            table = int(word[6:])
        elif word.startswith("priority="):
            number, _, match = word[9:].partition(",")
            priority = int(number)
        elif "_timeout=" not in word:
            match = word
    return Found(Flow(table, priority, match, actions), cookie)


def normal(flow: Flow) -> Flow:
    """The one form of a flow among its spellings."""
    match = ",".join(sorted(flow.match.replace(" ", "").split(",")))
    actions = _MOD_VLAN.sub(_set_field, flow.actions).replace("strip_vlan", "pop_vlan")
    return flow._replace(match=match, actions=actions)


def _set_field(found: re.Match[str]) -> str:
    return f"set_field:{int(found[1]) | _VLAN_PRESENT}->vlan_vid"


def difference(
    wanted: Iterable[Flow], found: Iterable[Found], cookie: int, learned: int
) -> Difference:
    """What turns ``found`` into ``wanted``; flows under other cookies are only counted.

    A flow with the key of a wanted one but with other actions or another cookie is overwritten
    by adding. Entries under the cookie ``learned`` are OVS's own and are not looked at.
    """
    ours = {entry.flow for entry in found if entry.cookie == cookie}
    wanted_all = list(wanted)
    missing = [flow for flow in wanted_all if flow not in ours]
    extra = ours.difference(wanted_all)
    add, remove = _settle(missing, extra)
    foreign = [e.flow for e in found if e.cookie not in (cookie, learned)]
    return Difference(tuple(add), tuple(remove), tuple(_not_overwritten(foreign, add)))


def _settle(missing: list[Flow], extra: set[Flow]) -> tuple[list[Flow], list[Flow]]:
    """Compare in normal form what did not agree letter by letter."""
    extra_normal = {normal(flow): flow for flow in extra}
    add = []
    keys = set()
    for flow in missing:
        form = normal(flow)
        if extra_normal.pop(form, None) is None:
            add.append(flow)
            keys.add(form[:3])
    remove = [flow for form, flow in extra_normal.items() if form[:3] not in keys]
    return add, sorted(remove)


def _not_overwritten(foreign: Iterable[Flow], add: Iterable[Flow]) -> list[Flow]:
    keys = {normal(flow)[:3] for flow in add}
    return [flow for flow in foreign if normal(flow)[:3] not in keys]


def commands(change: Difference, cookie: int, learned: int) -> list[str]:
    """The lines of one ``ovs-ofctl --bundle add-flows``.

    Where a known unicast entry changes, what was learned for that address goes with it: it leads
    to where the port was.
    """
    lines = [f"delete_strict cookie={cookie:#x}/-1,{flow.where()}" for flow in change.remove]
    for flow in (*change.remove, *change.add):
        if flow.table == LEARN_TABLE and flow.match:
            match = _DL_VLAN.sub(_as_learned, flow.match)
            lines.append(f"delete cookie={learned:#x}/-1,table={LEARN_TABLE},{match}")
    return lines + [f"add {flow.text(cookie)}" for flow in change.add]


def _as_learned(found: re.Match[str]) -> str:
    """The VLAN as ``learn`` matches it: its twelve bits alone."""
    return f"vlan_tci={int(found[1]):#06x}/0x0fff"
