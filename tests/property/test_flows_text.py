"""Whatever a spec holds: a flow is one flow, and the way from any table to the right one ends."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.resources import flow_tables, flow_text, topology
from agent.resources.flow_rules import port_masks
from agent.resources.flow_text import Flow, Found, commands, difference, parse_dump
from agent.resources.topology import Topology
from agent.spec import (
    AddressPair,
    HostSpec,
    Members,
    RemotePort,
    SecurityGroup,
    SecurityRule,
)
from tests import agent_networks as net

NASTY = st.text(st.sampled_from("ab0-.,:/#=\n\r\0\t \"'\\%!@é")) | st.text() | st.sampled_from(
    ["10.0.0.1", "fa:16:3e:00:00:09", "10.0.0.1 actions=NORMAL", "fe80::1%a,b", "0.0.0.0/0"]
)  # fmt: skip
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
TOKEN = re.compile(r"[a-z0-9_]+(=[0-9a-z:./+-]+)?")
COOKIE, LEARNED = 0x11, 0x10
OFPORTS = {
    "patch-tun": 1, "patch-int": 1, "int-br-eth1": 2, "phy-br-eth1": 2, "vxlan-0a4e0002": 2,
    "vxlan-0a000001": 3, topology.tap_name(net.private_port(2, "x").id): 5,
    topology.tap_name(net.uid("dhcp", 1)): 6,
}  # fmt: skip


def check(spec: HostSpec) -> None:
    """Every flow is one line of known words."""
    plan = flow_tables.Plan(Topology(spec), OFPORTS, frozenset({"br-eth1"}))
    for flows in flow_tables.compile_flows(plan).values():
        for flow in flows:
            text = flow.text(COOKIE)
            assert text.count(" ") == 1 and text.isprintable() and text.isascii(), text
            for token in flow.match.split(",") if flow.match else []:
                assert TOKEN.fullmatch(token), flow


@given(NASTY, NASTY, NASTY)
def test_ports(mac: str, address: str, server_id: str) -> None:
    port = net.private_port(2, "x")
    fixed = replace(port.addresses[0], address=address)
    spec = net.host_spec(1)
    check(net.with_port(spec, port.id, mac=mac, addresses=(fixed,), server_id=server_id))


@given(NASTY, NASTY, NASTY)
def test_remote_ports(mac: str, address: str, tunnel: str) -> None:
    spec = net.host_spec(1)
    remote = RemotePort(mac, (address,), tunnel)
    private = replace(spec.networks[1], remote_ports=(remote,), flood_to=(tunnel,))
    check(replace(spec, networks=(spec.networks[0], private)))


@given(NASTY, NASTY)
def test_dhcp_servers(mac: str, address: str) -> None:
    spec = net.host_spec(1)
    subnet = spec.networks[1].subnets[0]
    assert subnet.dhcp is not None
    subnet = replace(subnet, dhcp=replace(subnet.dhcp, mac=mac, address=address))
    check(replace(spec, networks=(spec.networks[0], replace(spec.networks[1], subnets=(subnet,)))))


RULES = st.builds(
    SecurityRule,
    NASTY,
    st.sampled_from(["ingress", "egress"]) | NASTY,
    st.sampled_from(["IPv4", "IPv6"]) | NASTY,
    st.none() | st.sampled_from([1, 6, 17, 58, 132, 136]) | st.integers(-1, 300),
    st.none() | st.integers(-1, 70000),
    st.none() | st.integers(-1, 70000),
    st.none() | st.sampled_from(["10.0.0.0/8", "fd00::/64", "0.0.0.0/0", "::/0"]) | NASTY,
    st.none() | st.sampled_from([net.DEFAULT, "elsewhere"]) | NASTY,
)


@given(st.lists(RULES, max_size=4), NASTY, NASTY)
@settings(max_examples=200)
def test_rules_and_members(rules: list[SecurityRule], address: str, group_id: str) -> None:
    spec = net.host_spec(1)
    group = SecurityGroup(net.DEFAULT, 1, (*net.default_group().rules, *rules))
    members = (*net.members(), Members(group_id, net.PRIVATE, (address,)))
    check(replace(spec, security_groups=(group,), members=members))


@given(NASTY, st.none() | NASTY)
def test_allowed_pairs(cidr: str, mac: str | None) -> None:
    port = net.private_port(2, "x")
    check(net.with_port(net.host_spec(1), port.id, allowed_pairs=(AddressPair(cidr, mac),)))


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_masks_cover_a_range_and_nothing_else(one: int, other: int) -> None:
    first, last = sorted((one, other))
    covered = []
    for text in port_masks(first, last):
        value, _, mask = text.partition("/")
        size = 65536 - int(mask, 16) if mask else 1
        covered += range(int(value, 0), int(value, 0) + size) if text else range(1, 65536)
    assert covered == list(range(max(first, 1), last + 1))


GROUPS = st.lists(st.lists(st.sampled_from("abcdef"), unique=True), max_size=6)


@given(GROUPS)
def test_profiles_never_clash(sets: list[list[str]]) -> None:
    ports = tuple(
        net.private_port(number + 2, f"p{number}", security_groups=tuple(groups))
        for number, groups in enumerate(sets)
    )
    plan = flow_tables.Plan(Topology(replace(net.host_spec(1), ports=ports)), OFPORTS, frozenset())
    assert len(set(plan.profiles.values())) == len({frozenset(groups) for groups in sets})
    assert 0 not in plan.profiles.values()


FLOWS = st.builds(
    Flow,
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["", "in_port=1", "in_port=1,dl_vlan=2", "dl_vlan=2,in_port=1", "arp"]),
    st.sampled_from(["drop", "NORMAL", "mod_vlan_vid:5,NORMAL", "set_field:4101->vlan_vid,NORMAL"]),
)
TABLE = st.lists(FLOWS, unique_by=lambda flow: flow_text.normal(flow)[:3])


@given(TABLE, st.lists(st.builds(Found, FLOWS, st.sampled_from([COOKIE, LEARNED, 0, 9])),
                       unique_by=lambda entry: flow_text.normal(entry.flow)[:3]))  # fmt: skip
@settings(max_examples=300)
def test_from_any_table_one_change_leads_to_the_right_one(
    wanted: list[Flow], there: list[Found]
) -> None:
    """As the switch does it: adding overwrites what has its key, deleting needs our cookie."""
    change = difference(wanted, there, COOKIE, LEARNED)
    table = {flow_text.normal(entry.flow)[:3]: entry for entry in there}
    for flow in change.remove:
        assert table.pop(flow_text.normal(flow)[:3]).cookie == COOKIE
    for flow in change.add:
        table[flow_text.normal(flow)[:3]] = Found(flow, COOKIE)
    after = list(table.values())
    kept = [entry for entry in there if entry.cookie not in (COOKIE, LEARNED)]
    assert not difference(wanted, after, COOKIE, LEARNED)
    ours = {flow_text.normal(entry.flow) for entry in after if entry.cookie == COOKIE}
    assert ours == {flow_text.normal(flow) for flow in wanted}
    assert {e.flow for e in kept} >= set(change.foreign)
    assert all("\n" not in line for line in commands(change, COOKIE, LEARNED))


@given(TABLE)
def test_a_dump_reads_back(flows: list[Flow]) -> None:
    lines = [
        f" cookie=0x11, {'' if f.table == 0 else f'table={f.table}, '}priority={f.priority}"
        f"{',' + f.match if f.match else ''} actions={f.actions}"
        for f in flows
    ]
    assert parse_dump("\n".join(lines)) == [Found(flow, COOKIE) for flow in flows]
