"""Actions that follow a packet through this host. They only ask: nothing is sent, nothing changed.

``trace-flow`` asks the switch what its flows do with a packet that comes in by a device;
``trace-router`` asks the kernel where a router's namespace sends one, and reads the chains that
translate it on the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from agent.faults import StepFailed
from agent.resources import flow_tables, texts, topology
from agent.spec import to_plain
from agent.store import Store
from agent.system import iptables, links, netns, ovs
from agent.system.run import CommandFailed, run
from agent.trace import chain_walk, flow_trace
from agent.trace.chain_walk import State
from agent.trace.flow_trace import Output, Packet

Args = dict[str, Any]

_MOST_STATES = 8
_REFUSED = {
    "Network is unreachable": "there is no route to it",
    "No route to host": "its route says unreachable",
    "Invalid cross-device link": "replies to its sender would leave by another device (rp_filter)",
    "Invalid argument": "its sender is an address of the router itself",
}


def trace_flow(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Ask the switch: {device, packet, ct: [[state, ...], ...], vlan, tunnel: {id, src, dst}}.

    The answer has the flows that were hit, each with whose it is (ours, learned or other), the
    devices that the packet leaves by, the switch's remarks and, for people, its own words.
    """
    try:
        packet, device = flow_trace.packet_from(args["packet"]), texts.device(args["device"])
        flow = flow_trace.flow_text(packet, device, _vlan(args), _tunnel(args))
        states = [_state(each) for each in list(args.get("ct") or ())[:_MOST_STATES]]
    except texts.BadText as error:
        raise StepFailed(f"the packet cannot be traced: {error}") from None
    found = ovs.observe()
    port = found.ports.get(device)
    if port is None:
        return {"missing": device}
    text = ovs.trace(port.bridge, flow, states)
    traced = flow_trace.parse(text)
    return {
        "hits": [{**to_plain(hit), "whose": _whose(store, hit.cookie)} for hit in traced.hits],
        "outputs": [_output(found, each) for each in traced.outputs],
        "notes": list(traced.notes),
        "flow": flow,
        "text": text,
    }


def _vlan(args: Args) -> int:
    vlan = args.get("vlan") or 0
    if type(vlan) is not int or not 0 <= vlan < topology.DEAD_VLAN:
        raise texts.BadText(f"{vlan!r} is not a VLAN")
    return vlan


def _tunnel(args: Args) -> str:
    tunnel = args.get("tunnel")
    if not tunnel:
        return ""
    key = tunnel["id"]
    if type(key) is not int or not 0 <= key < 2**32:
        raise texts.BadText(f"{key!r} is not the id of a tunnel")
    src, dst = texts.ipv4(str(tunnel["src"])), texts.ipv4(str(tunnel["dst"]))
    return f"tun_id={key:#x},tun_src={src},tun_dst={dst}"


def _state(words: Any) -> str:
    """A state of connection tracking: ``new,trk``."""
    chosen = [word for word in flow_trace.CT_STATES if word in (words or ())]
    return ",".join(dict.fromkeys([*chosen, "trk"]))


def _whose(store: Store, cookie: str) -> str:
    claim = store.claimed_by()
    if claim is None:
        return "other"
    number = int(cookie, 16)
    if number == flow_tables.cookie_of(claim[0]):
        return "ours"
    return "learned" if number == flow_tables.learned_cookie_of(claim[0]) else "other"


def _output(found: ovs.Switch, output: Output) -> Args:
    """A device with where it leads: ``remote`` is the other end of a tunnel."""
    port = found.ports.get(output.device)
    interface = port.interfaces[0] if port and port.interfaces else None
    return {
        "device": output.device,
        "vlan": output.vlan,
        "bridge": port.bridge if port else "",
        "remote": interface.options.get("remote_ip", "") if interface else "",
    }


def trace_router(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Ask a router: {router_id, device, packet, reply: {src, dst}}.

    ``device`` is where the packet comes in. ``reply`` makes it one of a known connection: then its
    translation is not asked of the chains but given: the target that it has from now on, and the
    source that it leaves with. The answer says ``forward`` (with device, next hop, MTU and the
    packet as it leaves), ``local`` or ``drop`` (with why).
    """
    try:
        packet = flow_trace.packet_from(args["packet"])
        device, router_id = texts.device(args["device"]), texts.uuid(args["router_id"])
        reply = _reply(args.get("reply"))
    except texts.BadText as error:
        raise StepFailed(f"the packet cannot be traced: {error}") from None
    namespace = topology.router_netns(router_id)
    if netns.identity(namespace) is None:
        return {"verdict": "missing", "why": f"there is no namespace {namespace}"}
    tables = netns.inside(namespace, partial(iptables.look, packet.version))
    return _Crossing(namespace, tables, packet, device, reply).result()


def _reply(plain: Any) -> Optional[tuple[str, str]]:
    return (texts.ip(str(plain["src"])), texts.ip(str(plain["dst"]))) if plain else None


class _Crossing:
    """One packet through one router."""

    def __init__(
        self,
        namespace: str,
        tables: chain_walk.Tables,
        packet: Packet,
        device: str,
        reply: Optional[tuple[str, str]],
    ) -> None:
        self.namespace, self.tables, self.reply = namespace, tables, reply
        self.state = State(
            src=packet.src,
            dst=packet.dst,
            protocol=packet.protocol,
            sport=packet.sport or 0,
            dport=packet.dport or 0,
            iif=device,
        )

    def result(self) -> Args:
        for table in ("raw", "mangle", "nat"):
            if self._blocked(table, "PREROUTING"):
                return self._dropped()
        if self.reply is not None:
            self.state.dst = self.reply[1]
        try:
            route = self._route()
        except CommandFailed as error:
            why = next((said for words, said in _REFUSED.items() if words in error.output), "")
            return self._answer("drop", why=why or f"the kernel says: {error.output}")
        if route.get("type", "unicast") != "unicast":
            return self._local(str(route["type"]))
        self.state.oif = str(route.get("dev", ""))
        if any(self._blocked(table, "FORWARD") for table in ("mangle", "filter")):
            return self._dropped()
        for table in ("mangle", "nat"):
            if self._blocked(table, "POSTROUTING"):
                return self._dropped()
        if self.reply is not None:
            self.state.src = self.reply[0]
        configured = netns.inside(self.namespace, partial(links.configured, self.state.oif))
        return self._answer(
            "forward",
            device=self.state.oif,
            nexthop=str(route.get("gateway", self.state.dst)),
            mtu=configured.mtu if configured else 0,
        )

    def _blocked(self, table: str, chain: str) -> bool:
        # The chains of translation see only the first packet of a connection.
        if table == "nat" and self.reply is not None:
            return False
        return chain_walk.walk(self.tables, table, chain, self.state) in ("DROP", "REJECT")

    def _local(self, kind: str) -> Args:
        if kind != "local":
            return self._answer("drop", why=f"its route says {kind}")
        if any(self._blocked(table, "INPUT") for table in ("mangle", "filter")):
            return self._dropped()
        return self._answer("local")

    def _route(self) -> Args:
        family = "-6" if ":" in self.state.dst else "-4"
        argv = ["ip", family, "-json", "route", "get", self.state.dst, "from", self.state.src]
        argv += ["iif", self.state.iif]
        text = run(argv, timeout_s=10, netns=self.namespace)
        found: list[Args] = json.loads(text or "[]")
        return next((entry for entry in found if entry), {})

    def _dropped(self) -> Args:
        return self._answer("drop", why=f"rule {self.state.said[-1] if self.state.said else '?'}")

    def _answer(self, verdict: str, **more: Any) -> Args:
        return {
            "verdict": verdict,
            "src": self.state.src,
            "dst": self.state.dst,
            "said": self.state.said,
            "unclear": self.state.unclear,
            **more,
        }
