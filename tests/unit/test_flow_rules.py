"""Rules of security groups as flows: ranges, numbers, and no way around the check of the source."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from agent.resources import flow_meters, flow_rules, flow_tables
from agent.resources.flow_plan import (
    ARP_SPOOF,
    MAC_SPOOF,
    OWN_SOURCE,
    RULES_EGRESS,
    RULES_INGRESS,
    TRANSIENT,
    numbered,
)
from agent.resources.flow_text import Flow
from agent.resources.topology import Topology
from agent.spec import BandwidthLimit, Members, SecurityGroup
from tests import agent_networks as net
from tests import packets
from tests.unit.test_packets import NUMBERS, OFPORTS


def compiled(spec=None) -> list[Flow]:  # type: ignore[no-untyped-def]
    plan = flow_tables.Plan(Topology(spec or packets.spec()), OFPORTS, frozenset({"br-eth1"}))
    return flow_tables.compile_flows(plan)["br-int"]


def target(flow: Flow) -> int | None:
    """The table that a flow sends its packets on to."""
    found = re.search(r"(?:goto_table:|resubmit\(,|ct\(table=)(\d+)", flow.actions)
    return int(found[1]) if found else None


SOURCES = ("nw_src=", "ipv6_src=", "arp_spa=")
PROTECTED = [name for name, port in packets.GUESTS.items() if port.port_security]


@pytest.mark.parametrize("name", PROTECTED)
def test_no_flow_accepts_before_the_source_is_checked(name: str) -> None:
    """From table 0 a guest's frames lead to the checks alone, and these let pass by source only."""
    flows, here = compiled(), f"in_port={NUMBERS[name]}"
    entering = [flow for flow in flows if flow.table == 0 and here in flow.match.split(",")]
    assert {target(flow) for flow in entering} == {None, ARP_SPOOF, MAC_SPOOF}
    assert all(flow.actions == "drop" for flow in entering if target(flow) is None)
    for flow in flows:
        if flow.table in (ARP_SPOOF, MAC_SPOOF) and flow.actions != "drop":
            fields = flow.match.split(",")
            assert any(field.startswith("in_port=") for field in fields), flow
            assert any(field.startswith("dl_src=") for field in fields), flow
            reverse = fields[0] == "rarp" and any(f.startswith("arp_sha=") for f in fields)
            assert reverse or any(field.startswith(SOURCES) for field in fields), flow
            assert target(flow) in (OWN_SOURCE, TRANSIENT)


def test_only_the_checks_lead_to_what_an_honest_guest_says() -> None:
    for flow in compiled():
        if target(flow) == OWN_SOURCE:
            assert flow.table == MAC_SPOOF, flow
        if target(flow) == RULES_EGRESS:
            assert flow.table == OWN_SOURCE, flow


def test_drops_of_what_no_guest_sends_stand_above_all_that_passes() -> None:
    flows = [flow for flow in compiled() if flow.table == MAC_SPOOF]
    drops = [flow for flow in flows if flow.actions == "drop" and flow.match]
    assert min(f.priority for f in drops) > max(f.priority for f in flows if f.actions != "drop")


@pytest.mark.parametrize(
    ("first", "last", "masks"),
    [
        (80, 80, ["80"]),
        (0, 65535, [""]),
        (1, 65535, [""]),
        (0, 0, []),
        (0, 1, ["1"]),
        (8000, 8010, ["0x1f40/0xfff8", "0x1f48/0xfffe", "8010"]),
        (32768, 65535, ["0x8000/0x8000"]),
    ],
)
def test_ranges_become_masks(first: int, last: int, masks: list[str]) -> None:
    assert flow_rules.port_masks(first, last) == masks


def test_a_thousand_ports_in_one_group_have_its_rules_once() -> None:
    def rules(count: int) -> int:
        base = packets.spec()
        ports = tuple(
            replace(packets.HEAD, id=net.uid("many", n), mac=net.mac(n % 256)) for n in range(count)
        )
        plan = flow_tables.Plan(
            Topology(replace(base, ports=ports)), OFPORTS, frozenset({"br-eth1"})
        )
        flows = flow_tables.compile_flows(plan)["br-int"]
        return len([flow for flow in flows if flow.table in (RULES_EGRESS, RULES_INGRESS)])

    assert rules(1000) == rules(1)


def test_numbers_depend_on_names_alone_and_never_clash() -> None:
    names = [f"group-{n}" for n in range(2000)]
    found = numbered(names)
    assert len(set(found.values())) == len(names) and 0 not in found.values()
    assert numbered(reversed(names)) == found
    assert all(found[name] == numbered([name])[name] for name in names[:50])


def test_two_names_with_one_number_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Poor:
        def __init__(self, text: bytes) -> None:
            self.length = len(text)

        def digest(self) -> bytes:
            return self.length.to_bytes(4, "big")

    monkeypatch.setattr("agent.resources.flow_plan.hashlib.sha256", Poor)
    found = numbered(["aa", "bb", "ccc", ""])
    assert sorted(found.values()) == [1, 2, 3, 4]
    assert numbered(["ccc", "bb", "", "aa"]) == found


def test_members_of_a_group_that_no_rule_names_have_no_flows() -> None:
    base = packets.spec()
    other = Members(net.uid("grou", 9), net.PRIVATE, ("192.168.1.77",))
    flows = compiled(replace(base, members=(*base.members, other)))
    assert not any("192.168.1.77" in flow.match for flow in flows)


def test_who_is_in_two_groups_has_one_flow_with_both() -> None:
    base = packets.spec()
    second = Members(net.uid("grou", 9), net.PRIVATE, ("192.168.1.2",))
    rule = net.rule(91, "ingress", remote_group_id=net.uid("grou", 9), protocol=6)
    group = SecurityGroup(packets.WEB, 1, (rule,))
    groups = tuple(group if g.id == group.id else g for g in base.security_groups)
    flows = compiled(replace(base, members=(*base.members, second), security_groups=groups))
    found = [
        flow for flow in flows
        if flow.table == RULES_INGRESS and flow.match == "ip,reg6=0x2,nw_src=192.168.1.2"
    ]  # fmt: skip
    assert len(found) == 1 and found[0].actions.count("conjunction(") == 2


BAD = {
    "protocol": {"protocol": 256},
    "ports": {"protocol": 6, "port_min": 90, "port_max": 80},
    "no ports": {"protocol": 50, "port_min": 1, "port_max": 2},
    "UDP-Lite ports": {"protocol": 136, "port_min": 1, "port_max": 2},
    "another version": {"remote_cidr": "fd00::/64"},
    "a prefix that is none": {"remote_cidr": "10.0.0.0/8 actions=NORMAL"},
    "type of ICMP": {"protocol": 1, "port_min": 256},
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_rule_that_no_flow_can_say_allows_nothing_and_is_told(name: str) -> None:
    group = SecurityGroup(packets.WEB, 1, (net.rule(99, "ingress", **BAD[name]),))
    ((rule, why),) = flow_rules.problems((group,))
    assert rule == net.uid("rule", 99) and packets.WEB in why
    base = packets.spec()
    bare = tuple(replace(g, rules=()) if g.id == packets.WEB else g for g in base.security_groups)
    bad = tuple(group if g.id == packets.WEB else g for g in base.security_groups)
    with_bad, without = replace(base, security_groups=bad), replace(base, security_groups=bare)
    assert compiled(with_bad) == compiled(without)


# --- limits -------------------------------------------------------------------------------------


def test_limits_become_meters_numbered_like_their_ports() -> None:
    limit = BandwidthLimit(egress_kbps=1000, ingress_kbps=2000, ingress_burst_kb=500)
    spec = net.with_port(packets.spec(), packets.HEAD.id, limit=limit)
    plan = flow_tables.Plan(Topology(spec), OFPORTS, frozenset())
    assert NUMBERS["head"] == 15
    assert flow_tables.limits(plan) == {30: (1000, 800), 31: (2000, 500)}
    used = [f.actions for f in flow_tables.compile_flows(plan)["br-int"] if "meter:" in f.actions]
    assert [int(text.split(":")[1].split(",")[0]) for text in used] == [30, 30, 31]


def test_meters_are_read_as_the_switch_prints_them() -> None:
    text = """OFPST_METER_CONFIG reply (OF1.3) (xid=0x2):
meter=30 kbps burst bands=
type=drop rate=1000 burst_size=800

meter=31 pktps bands=
type=drop rate=9
"""
    there = flow_meters.parse_meters(text)
    assert there == {30: (1000, 800), 31: (0, 0)}
    change = flow_meters.difference({30: (1000, 800), 31: (5, 4), 32: (7, 6)}, there)
    assert [command for command, _ in change.before] == ["mod-meter", "add-meter"]
    assert flow_meters.difference({}, there).after == [
        ("del-meter", "meter=30"),
        ("del-meter", "meter=31"),
    ]
    assert flow_meters.difference({30: (1000, 800)}, {30: (1000, 800)}).why == ""
