"""Follow one packet from host to host, as their switches and routers would carry it now.

The controller knows where everything is; what happens to the packet it asks the hosts. Nothing is
sent and nothing changed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from stackctl.compute.seeing.trace_ends import (
    OUTSIDE_MAC,
    Ends,
    Packet,
    Sender,
    TraceRequest,
    numbers_of,
)
from stackctl.compute.seeing.trace_map import Cloudmap, PortSpot
from stackctl.errors import AgentFailed
from stackctl.identity.context import Context
from stackctl.network import reach, trace_words
from stackctl.network.reach import PortEnd
from stackctl.network.traffic import Address
from stackctl.network.ways import next_hop
from stackctl.operation.convergence import acting_session
from stackctl.state import Row, read

__all__ = ["Hop", "Trace", "TraceRequest", "trace"]

_MOST_HOPS = 32

Json = dict[str, Any]
Act = Callable[[str, str, Json], Json]
"""(host id, action, arguments) -> what the host's agent answers."""


@dataclass(frozen=True)
class Hop:
    """A step: what happened to the packet on a host (or in a guest). ``flows`` are those that it
    hit there, ``raw`` the switch's own words; both empty where no switch was asked."""

    host: str
    what: str
    flows: tuple[Json, ...] = ()
    raw: str = ""


@dataclass(frozen=True)
class Trace:
    """The way of a packet. ``end`` says in words where it ended; ``mtu`` is the smallest on the
    way, in bytes of an IP packet, and ``narrow`` the network that has it. ``reply`` is the way
    back, where it was asked for and there is one."""

    delivered: bool
    packet: str
    end: str
    hops: tuple[Hop, ...]
    mtu: int
    narrow: str
    reply: Trace | None = None


@dataclass(frozen=True)
class _Place:
    """Where the packet comes into a host's switch."""

    host: Row
    device: str
    network_id: str
    vlan: int = 0
    tunnel: Json | None = None
    came: str = ""


@dataclass(frozen=True)
class _Router:
    """Where it comes into a router."""

    host: Row
    device: str
    port: PortSpot


@dataclass(frozen=True)
class _End:
    """Where it ended, and whether that is where it should."""

    delivered: bool
    words: str


_Step = _Place | _Router | _End


def trace(context: Context, request: TraceRequest) -> Trace:
    """Follow a packet; NotFound and UsageError when the words of its ends mean nothing."""
    with read(context.cloud) as reader:
        map_ = Cloudmap(context, reader)
        sender, target = Ends(context, reader, map_).find(request)
    number, port, source_port = numbers_of(request, target.version)
    packet = Packet(OUTSIDE_MAC, OUTSIDE_MAC, sender.address, target, number, source_port, port)
    with ExitStack() as sessions:
        walk = Walk(map_, _acting(context, map_, sessions), packet)
        there = walk.run(sender, request.size)
        if not request.reply or not there.delivered:
            return there
        return replace(there, reply=walk.back(request.size))


def _acting(context: Context, map_: Cloudmap, sessions: ExitStack) -> Act:
    """One session with each host that is met, opened when it is met first."""
    opened: dict[str, Any] = {}

    def act(host_id: str, action: str, arguments: Json) -> Json:
        if host_id not in opened:
            session = acting_session(context, map_.hosts[host_id])
            opened[host_id] = sessions.enter_context(session)
        answer = opened[host_id].act(action, arguments)
        return answer if isinstance(answer, dict) else {}

    return act


@dataclass
class Walk:
    """A packet on its way."""

    map: Cloudmap
    act: Act
    packet: Packet
    crossings: list[tuple[str, Packet, Packet]] = field(default_factory=list)
    """Routers (ids) with the packet before and after each; given, it is a reply that they know."""
    arrived: PortSpot | None = None
    left_by: str = ""
    """The network in which it left the cloud."""
    hops: list[Hop] = field(default_factory=list)
    mtus: list[tuple[int, str]] = field(default_factory=list)

    def run(self, sender: Sender, size: int | None = None) -> Trace:
        """Follow it to its end."""
        asked = self.packet
        step = self._begin(sender)
        self._meets(sender.network_id)
        while not isinstance(step, _End):
            if len(self.hops) > _MOST_HOPS:
                step = _End(False, f"it is sent round in a circle: {_MOST_HOPS} hops")
            else:
                step = self._through(step) if isinstance(step, _Place) else self._cross(step)
        mtu, narrow = min(self.mtus)
        if size is not None and size > mtu and step.delivered:
            step = _End(
                False, f"with {size} bytes it is too large for {narrow}, which carries {mtu}"
            )
        return Trace(step.delivered, str(asked), step.words, tuple(self.hops), mtu, narrow)

    def back(self, size: int | None = None) -> Trace | None:
        """Follow the reply; None when whoever it arrived at is no server and not outside."""
        walk = Walk(self.map, self.act, self.packet.answered(), self.crossings)
        if self.left_by:
            return walk.run(Sender(None, self.left_by, walk.packet.src, None), size)
        end = self.map.end(self.arrived)
        if end is None or self.arrived is None:
            return None
        fixed = next((each for each in end.addresses if each.address == walk.packet.src), None)
        sender = Sender(self.arrived, self.arrived.network_id, walk.packet.src, fixed)
        return walk.run(sender, size)

    def _meets(self, network_id: str) -> None:
        row = self.map.networks[network_id]
        self.mtus.append((int(row["mtu"]), f"net {row['name']}"))

    # --- the first step ---

    def _begin(self, sender: Sender) -> _Step:
        if sender.port is None:
            return self._enters(sender.network_id)
        port = sender.port
        if port.host_id is None or sender.fixed is None:
            return _End(False, f"{port.words} is on no host")
        host = self.map.hosts[port.host_id]
        nexthop = next_hop(sender.fixed.subnet, self.packet.dst)
        if nexthop is None:
            return _End(
                False, f"{port.words} has no way to {self.packet.dst}: no gateway, no route"
            )
        eth_dst = self._ethernet(port.network_id, nexthop)
        if eth_dst is None:
            name = self.map.network_name(port.network_id)
            return _End(False, f"nobody in net {name} has {nexthop}: {port.words} gets no answer")
        self.packet = replace(self.packet, eth_src=port.mac, eth_dst=eth_dst)
        by = "" if nexthop == self.packet.dst else f" by way of {nexthop}"
        said = f"{port.words} sends {self.packet}{by}"
        return _Place(host, port.device, port.network_id, came=said)

    def _enters(self, network_id: str) -> _Step:
        """From outside, to whichever host has the port that answers for the address."""
        port = self.map.by_address(network_id, self.packet.dst)
        name = self.map.network_name(network_id)
        if port is None or port.host_id is None:
            return _End(False, f"no host has {self.packet.dst} in net {name}")
        self.packet = replace(self.packet, eth_dst=port.mac)
        return self._arrives(port, network_id, f"from outside comes {self.packet}")

    def _arrives(self, port: PortSpot, network_id: str, came: str) -> _Step:
        """By the physical network to the host that has a port."""
        host = self.map.hosts[port.host_id or ""]
        nic = self.map.nic(host, network_id)
        if not nic:
            name = self.map.network_name(network_id)
            return _End(False, f"{came}, but host {host['name']} has no NIC for net {name}")
        vlan = self.map.vlan(network_id)
        tag = f" with VLAN {vlan}" if vlan else ""
        return _Place(host, nic, network_id, vlan=vlan, came=f"{came}, in by {nic}{tag}")

    def _ethernet(self, network_id: str, address: Address) -> str | None:
        """The answer to ARP: a port's, or of somebody outside on a network that reaches there."""
        port = self.map.by_address(network_id, address)
        if port is not None:
            return port.mac
        return None if self.map.is_tunnelled(network_id) else OUTSIDE_MAC

    # --- a switch ---

    def _through(self, place: _Place) -> _Step:
        arguments: Json = {"device": place.device, "packet": self.packet.plain()}
        arguments |= {"vlan": place.vlan, "ct": [self.packet.ct] * 4}
        if place.tunnel is not None:
            arguments["tunnel"] = place.tunnel
        answer = self.act(place.host["id"], "trace-flow", arguments)
        if answer.get("missing"):
            words = f"there is no device {place.device} on it"
            return self._end(place, (), "", False, words)
        return self._judge(place, trace_words.checked_hits(answer.get("hits")), answer)

    def _judge(self, place: _Place, hits: list[Json], answer: Json) -> _Step:
        flows, raw = tuple(hits), str(answer.get("text", ""))
        outputs = trace_words.checked_outputs(answer.get("outputs"), place.device)
        said = self._rules(place, hits)
        if not outputs:
            if not hits:
                return self._end(place, flows, raw, False, "the switch did not say why", said)
            return self._end(place, flows, raw, False, self._why(place, hits[-1]), said)
        step, words = self._leaves(place, outputs)
        self.hops.append(Hop(place.host["name"], _joined(place.came, *said, words), flows, raw))
        return step

    def _end(
        self,
        place: _Place,
        flows: tuple[Json, ...],
        raw: str,
        delivered: bool,
        words: str,
        said: list[str] | None = None,
    ) -> _End:
        name = str(place.host["name"])
        what = _joined(place.came, *(said or ()), words if delivered else f"dropped: {words}")
        self.hops.append(Hop(name, what, flows, raw))
        return _End(delivered, f"{words} (host {name})")

    def _rules(self, place: _Place, hits: list[Json]) -> list[str]:
        """The rules that let it pass here, and what flows do that no rule explains."""
        said = []
        for direction, hit in trace_words.deciders(hits).items():
            if hit["priority"] not in (trace_words.RULE, trace_words.REPLY):
                continue
            end = self._filtered(place, direction)
            way = "out" if direction == "egress" else "in"
            if end is None:
                continue
            rules = self._allowing(end, direction)
            if hit["priority"] == trace_words.REPLY:
                said.append(f"let {way} as a reply")
            elif rules:
                said.append(f"let {way} by {rules[0]}")
            else:
                said.append(f"let {way} by a flow that no rule explains ({_drift(place)})")
        return said

    def _filtered(self, place: _Place, direction: str) -> PortEnd | None:
        """The server's port whose rules are asked: the sender's here, or the receiver's."""
        if direction == "egress":
            return self.map.end(self.map.by_device(place.device))
        return self.map.end(self.map.by_mac(place.network_id, self.packet.eth_dst))

    def _allowing(self, end: PortEnd, direction: str) -> tuple[str, ...]:
        far = self.packet.dst if direction == "egress" else self.packet.src
        return reach.deciding(self.map.world, end, direction, far, self.packet.traffic)

    def _why(self, place: _Place, hit: Json) -> str:
        direction = {trace_words.EGRESS: "egress", trace_words.INGRESS: "ingress"}.get(hit["table"])
        end = self._filtered(place, direction) if direction is not None else None
        if direction is None or end is None or hit["priority"] == 100:
            return trace_words.why_dropped(hit, str(self.packet.src))
        groups = [self.map.world.groups[id_].name for id_ in end.groups]
        rules = self._allowing(end, direction)
        if rules:
            return f"{rules[0]} would allow it, but the host has no such flow ({_drift(place)})"
        way = "out of" if direction == "egress" else "in to"
        whose = self.map.ports[end.id].words
        if not groups:
            return f"{whose} is in no security group, so nothing is let {way} it"
        return f"no rule of group {', '.join(groups)} lets it {way} {whose}"

    # --- out of a switch ---

    def _leaves(self, place: _Place, outputs: list[Json]) -> tuple[_Step, str]:
        known = [(out, self.map.by_device(str(out["device"]))) for out in outputs]
        for out, port in known:
            if port is not None and port.mac == self.packet.eth_dst:
                return self._at_port(place, port, str(out["device"]))
        wanted = self.map.by_mac(place.network_id, self.packet.eth_dst)
        tunnels = [out for out, _ in known if out.get("remote")]
        for out in tunnels:
            peer = self.map.host_by_tunnel(str(out["remote"]))
            if peer is not None and (wanted is None or wanted.host_id in (None, peer["id"])):
                return self._to_peer(place, peer, str(out["device"]))
        if tunnels:
            words = f"goes by {tunnels[0]['device']} to a host that has nobody with its address"
            return _End(False, f"{words} (host {place.host['name']})"), words
        for out, port in known:
            if port is None and out.get("bridge") not in ("br-int", "br-tun"):
                return self._to_physical(place, wanted, out)
        device = str(outputs[0]["device"])
        words = f"goes out by {device}, which is not where its Ethernet address is"
        return _End(False, f"{words} (host {place.host['name']})"), words

    def _at_port(self, place: _Place, port: PortSpot, device: str) -> tuple[_Step, str]:
        if port.is_router:
            words = f"to {port.words} by {device}"
            return _Router(place.host, device, port), words
        self.arrived = port
        words = f"arrives at {port.words} by {device}"
        return _End(True, f"it {words} (host {place.host['name']})"), words

    def _to_peer(self, place: _Place, peer: Row, device: str) -> tuple[_Step, str]:
        network = self.map.networks[place.network_id]
        key = network["segmentation_id"]
        own, far = str(place.host["tunnel_address"]), str(peer["tunnel_address"])
        back = f"{network['type']}-{int(ipaddress.IPv4Address(own)):08x}"
        tunnel = {"id": key, "src": own, "dst": far}
        kind = f"{network['type']} {key}"
        came = f"by {kind} from {place.host['name']}"
        there = _Place(peer, back, place.network_id, tunnel=tunnel, came=came)
        return there, f"to host {peer['name']} by {kind} ({device})"

    def _to_physical(self, place: _Place, wanted: PortSpot | None, out: Json) -> tuple[_Step, str]:
        tag = f" with VLAN {out['vlan']}" if out.get("vlan") else ""
        words = f"out by {out['device']}{tag}"
        if wanted is not None and wanted.host_id not in (None, place.host["id"]):
            return self._arrives(wanted, place.network_id, "by the physical network"), words
        self.left_by = place.network_id
        name = self.map.network_name(place.network_id)
        return _End(
            True, f"it leaves the cloud, {words} of host {place.host['name']} (net {name})"
        ), (f"{words}, into the physical network")

    # --- a router ---

    def _cross(self, at: _Router) -> _Step:
        arguments: Json = {"router_id": at.port.device_id, "device": at.device}
        arguments["packet"] = self.packet.plain()
        arguments["reply"] = self._known(at.port.device_id)
        answer = self.act(at.host["id"], "trace-router", arguments)
        verdict = answer.get("verdict")
        name, host = at.port.words, str(at.host["name"])
        before = self.packet
        if verdict in ("forward", "local"):
            src, dst = (_told(at.host, answer, key) for key in ("src", "dst"))
            self.packet = replace(self.packet, src=src, dst=dst)
            self.crossings = [*self.crossings, (at.port.device_id, before, self.packet)]
        changed = _translation(before, self.packet)
        if verdict == "local":
            self._router_hop(host, _joined(name, *changed, "it is for the router itself"))
            return _End(True, f"it arrives at {name} (host {host})")
        if verdict != "forward":
            why = str(answer.get("why", "it did not say why"))
            self._router_hop(host, f"{name}, dropped: {why}")
            return _End(False, f"{name} drops it: {why} (host {host})")
        return self._onward(at, answer, changed)

    def _known(self, router_id: str) -> Json | None:
        """What a router makes of a reply: its connection's addresses from before, turned round."""
        for id_, before, after in self.crossings if self.packet.is_reply else ():
            same = (after.dst, after.src) == (self.packet.src, self.packet.dst)
            if id_ == router_id and same and not before.is_reply:
                return {"src": str(before.dst), "dst": str(before.src)}
        return None

    def _router_hop(self, host: str, what: str) -> None:
        self.hops.append(Hop(host, what))

    def _onward(self, at: _Router, answer: Json, changed: list[str]) -> _Step:
        host, device = str(at.host["name"]), str(answer.get("device"))
        nexthop = _told(at.host, answer, "nexthop")
        out = self.map.by_device(device)
        if out is None:
            self._router_hop(host, f"{at.port.words}, dropped: it would go out by {device}")
            return _End(False, f"{at.port.words} sends it out by {device} (host {host})")
        self._meets(out.network_id)
        net = self.map.network_name(out.network_id)
        words = _joined(at.port.words, *changed, f"routed to {nexthop} in net {net}")
        eth_dst = self._ethernet(out.network_id, nexthop)
        if eth_dst is None:
            self._router_hop(host, f"{words}, dropped: nobody there has {nexthop}")
            return _End(False, f"nobody in net {net} has {nexthop} (host {host})")
        self._router_hop(host, words)
        self.packet = replace(self.packet, eth_src=out.mac, eth_dst=eth_dst)
        return _Place(at.host, device, out.network_id, came=f"from {at.port.words} by {device}")


def _told(host: Row, answer: Json, key: str) -> Address:
    try:
        return ipaddress.ip_address(str(answer.get(key)))
    except ValueError:
        raise AgentFailed(
            f"The agent on host {host['name']} said no address where one belongs."
        ) from None


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _translation(before: Packet, after: Packet) -> list[str]:
    changed = []
    if before.dst != after.dst:
        changed.append(f"target {before.dst} becomes {after.dst}")
    if before.src != after.src:
        changed.append(f"source {before.src} becomes {after.src}")
    return changed


def _drift(place: _Place) -> str:
    return f"see stackctl drift {place.host['name']}"
