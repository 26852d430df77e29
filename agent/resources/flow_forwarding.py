"""br-int, tables 60 to 96: where a packet goes, and what it passes on the way there. Pure.

Every Ethernet address of this host is known, so nothing is learned and ``NORMAL`` is not used:
a frame goes to the port that has its address, to all ports of its network, or to the uplink.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.resources import flow_rules
from agent.resources.flow_plan import (
    ACCEPT_INGRESS,
    BASE_INGRESS,
    DESTINATION,
    FLOOD_ALL,
    FLOOD_CHECKED,
    IP_VERSIONS,
    LOCAL_OUT,
    MULTICAST,
    MULTICAST_OUT,
    NEIGHBOUR_TALK,
    RULES_INGRESS,
    TAGGED,
    TO_UPLINK,
    TRANSIENT,
    UPLINK_OUT,
    ZONE,
    Net,
    Plan,
    Tap,
    load,
    outputs,
)
from agent.resources.flow_text import Flow

VLAN_PRESENT = 0x1000


def compile_forwarding(plan: Plan) -> Iterator[Flow]:
    """Everything from table 60 on, but DHCP and the rules of groups."""
    yield from _inside()
    yield from _accepted()
    for net in plan.nets:
        yield from _destinations(net)
        yield from _floods(net)
        yield from _multicast_out(net)
        for server in net.servers:
            yield Flow(
                BASE_INGRESS, 100, f"in_port={server.ofport}", f"goto_table:{ACCEPT_INGRESS}"
            )
        for tap in net.taps:
            if tap.ingress_meter:
                limited = f"{tap.ingress_meter}output:{tap.ofport}"
                yield Flow(LOCAL_OUT, 10, f"reg5={tap.ofport:#x}", limited)
        if net.uplink is not None:
            tag = f"push_vlan:0x8100,set_field:{net.vlan | VLAN_PRESENT}->vlan_vid"
            yield Flow(UPLINK_OUT, 10, net.here, f"{tag},output:{net.uplink}")


def _inside() -> Iterator[Flow]:
    """What is the same for all networks: tags end here, and kinds of destinations part."""
    # Only an uplink brings tags; a second one would name a network that the frame is not in.
    inward = f"move:NXM_OF_VLAN_TCI[0..11]->NXM_NX_REG6[0..11],{load(1, 4)},pop_vlan"
    yield Flow(TRANSIENT, 200, f"reg4=0,{TAGGED}", f"{inward},resubmit(,{TRANSIENT})")
    yield Flow(TRANSIENT, 190, TAGGED, "drop")
    yield Flow(TRANSIENT, 0, "", f"goto_table:{DESTINATION}")
    for kind in ("arp", "rarp"):
        yield Flow(DESTINATION, 12, f"{kind},{MULTICAST}", f"goto_table:{FLOOD_ALL}")
    for number in NEIGHBOUR_TALK:
        match = f"icmp6,{MULTICAST},icmp_type={number}"
        yield Flow(DESTINATION, 12, match, f"goto_table:{FLOOD_ALL}")
    yield Flow(DESTINATION, 10, MULTICAST, f"goto_table:{FLOOD_CHECKED}")
    yield Flow(DESTINATION, 0, "", f"goto_table:{TO_UPLINK}")
    yield Flow(FLOOD_ALL, 0, "", "drop")
    yield Flow(FLOOD_CHECKED, 0, "", "drop")
    yield from _base_ingress()


def _base_ingress() -> Iterator[Flow]:
    """Before the rules of the receiver: what needs none, and what must be tracked."""
    onward = f"goto_table:{ACCEPT_INGRESS}"
    yield Flow(BASE_INGRESS, 95, "arp", onward)
    for number in NEIGHBOUR_TALK:
        yield Flow(BASE_INGRESS, 95, f"icmp6,icmp_type={number}", onward)
    for ip in IP_VERSIONS:
        track = f"ct(table={RULES_INGRESS},{ZONE})"
        yield Flow(BASE_INGRESS, 90, f"ct_state=-trk,{ip}", track)
        yield Flow(BASE_INGRESS, 80, f"ct_state=+trk,{ip}", f"goto_table:{RULES_INGRESS}")
    yield Flow(BASE_INGRESS, 0, "", "drop")


def _accepted() -> Iterator[Flow]:
    """Connections are committed where their first packet has passed all checks."""
    unmark = flow_rules.mark(flow_rules.INGRESS.bit, 0)
    yield Flow(ACCEPT_INGRESS, 100, "reg5=0", f"goto_table:{MULTICAST_OUT}")
    for ip in IP_VERSIONS:
        new = f"ct_state=+new+trk,{ip}"
        marked = f"ct_state=+est-rpl+trk,ct_mark=0x2/0x2,{ip}"
        yield Flow(ACCEPT_INGRESS, 95, marked, f"{unmark},goto_table:{LOCAL_OUT}")
        yield Flow(ACCEPT_INGRESS, 90, new, f"ct(commit,{ZONE}),goto_table:{LOCAL_OUT}")
        yield Flow(TO_UPLINK, 90, f"{new},reg4=0", f"ct(commit,{ZONE}),goto_table:{UPLINK_OUT}")
    yield Flow(ACCEPT_INGRESS, 0, "", f"goto_table:{LOCAL_OUT}")
    yield Flow(TO_UPLINK, 0, "", f"goto_table:{UPLINK_OUT}")
    yield Flow(UPLINK_OUT, 100, "reg4=0x1", "drop")
    yield Flow(UPLINK_OUT, 0, "", "drop")
    yield Flow(MULTICAST_OUT, 0, "", "drop")
    yield Flow(LOCAL_OUT, 0, "", "output:NXM_NX_REG5[]")


# --- one network --------------------------------------------------------------------------------


def _destinations(net: Net) -> Iterator[Flow]:
    """Where each Ethernet address of this host is."""
    for mac in net.down:
        yield Flow(DESTINATION, 15, f"{net.here},dl_dst={mac}", "drop")
    for router in net.routers:
        where = f"{load(router.ofport, 5)},goto_table:{ACCEPT_INGRESS}"
        yield Flow(DESTINATION, 20, f"{net.here},dl_dst={router.mac}", where)
    shared = _shared_macs(net)
    for tap in net.taps:
        if tap.port.mac not in shared:
            match = f"{net.here},dl_dst={tap.port.mac}"
            yield Flow(DESTINATION, 20, match, _deliver(tap, "goto_table:{}"))
    for mac, taps in shared.items():
        each = [_deliver(tap, "resubmit(,{})") for tap in taps]
        onward = ",".join([*each, f"goto_table:{TO_UPLINK}"])
        yield Flow(DESTINATION, 20, f"{net.here},dl_dst={mac}", onward)
    if net.open_taps:
        # Behind a port without port security may be more addresses than its own.
        onward = ",".join([*_outputs(net.open_taps), f"goto_table:{TO_UPLINK}"])
        yield Flow(DESTINATION, 5, net.here, onward)


def _shared_macs(net: Net) -> dict[str, list[Tap]]:
    """Addresses that may be elsewhere too: of allowed pairs, and of servers on the move."""
    shared: dict[str, list[Tap]] = {}
    for tap in net.taps:
        for mac in tap.macs:
            if mac != tap.port.mac or tap.port.role != "active":
                shared.setdefault(mac, [])
    for tap in net.taps if shared else ():
        for mac in tap.macs:
            if mac in shared:
                shared[mac].append(tap)
    return shared


def _deliver(tap: Tap, how: str) -> str:
    if not tap.protected:
        return f"{load(tap.ofport, 5)},{how.format(ACCEPT_INGRESS)}"
    return f"{load(tap.ofport, 5)},{load(tap.profile, 7)},{how.format(BASE_INGRESS)}"


def _floods(net: Net) -> Iterator[Flow]:
    """To everybody: ARP and IPv6's neighbour talk as they are, all else as receivers' rules say."""
    taps, routers = _outputs(net.taps), outputs(end.ofport for end in net.routers)
    servers = outputs(server.ofport for server in net.servers)
    uplink = f"goto_table:{UPLINK_OUT}"
    for server in net.servers:
        match = f"{net.here},in_port={server.ofport},{MULTICAST}"
        yield Flow(DESTINATION, 15, match, f"goto_table:{FLOOD_ALL}")
    inward, outward = f"reg4=0x1,{net.here}", f"reg4=0,{net.here}"
    yield Flow(FLOOD_ALL, 10, inward, ",".join([*taps, *routers]) or "drop")
    yield Flow(FLOOD_ALL, 10, outward, ",".join([*taps, *routers, *servers, uplink]))
    checked = [*_outputs(net.open_taps), *routers]
    for profile in _profiles(net):
        checked += [load(profile, 7), f"resubmit(,{RULES_INGRESS})"]
    yield Flow(FLOOD_CHECKED, 10, inward, ",".join(checked) or "drop")
    yield Flow(FLOOD_CHECKED, 10, outward, ",".join([*checked, uplink]))


def _multicast_out(net: Net) -> Iterator[Flow]:
    """To all ports of a profile whose rules have let a packet pass."""
    for profile, taps in _profiles(net).items():
        match = f"{net.here},reg7={profile:#x}"
        yield Flow(MULTICAST_OUT, 10, match, ",".join(_outputs(taps)))


def _profiles(net: Net) -> dict[int, list[Tap]]:
    found: dict[int, list[Tap]] = {}
    for tap in net.taps:
        if tap.protected:
            found.setdefault(tap.profile, []).append(tap)
    return found


def _outputs(taps: Iterable[Tap]) -> list[str]:
    return outputs(tap.ofport for tap in taps)
