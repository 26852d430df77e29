"""What ofproto/trace is asked, and what its answers (golden/traces, of OVS 3.1) say."""

from pathlib import Path

import pytest

from agent.resources.texts import BadText
from agent.trace import flow_trace
from agent.trace.flow_trace import Output, Packet, flow_text, packet_from, parse

GOLDEN = Path(__file__).parents[1] / "golden" / "traces"


def traced(name):
    return parse((GOLDEN / f"{name}.txt").read_text())


def tables(found):
    return [(hit.bridge, hit.table, hit.priority) for hit in found.hits]


@pytest.mark.parametrize(
    ("name", "outputs", "last"),
    [
        ("same-host", [("tap706f0004-00", 0)], ("br-int", 96, 0)),
        ("members", [("tap706f0004-00", 0)], ("br-int", 96, 0)),
        ("reply", [("tap706f0004-00", 0)], ("br-int", 96, 0)),
        ("dropped", [], ("br-int", 82, 0)),
        ("spoofed", [], ("br-int", 25, 0)),
        ("to-tunnel", [("vxlan-0a4e0002", 0)], ("br-phy", 0, 0)),
        ("from-tunnel", [("tap706f0005-00", 0)], ("br-int", 96, 0)),
        ("to-vlan", [("eth1", 101)], ("br-eth1", 0, 4)),
        ("from-vlan", [], ("br-int", 82, 0)),
    ],
)
def test_answers(name, outputs, last):
    found = traced(name)
    assert found.outputs == tuple(Output(*each) for each in outputs)
    assert tables(found)[-1] == last


def test_every_flow_on_the_way():
    found = traced("same-host")
    assert [hit.table for hit in found.hits] == [0, 25, 26, 72, 73, 60, 61, 81, 82, 92, 96]
    rule = found.hits[8]
    assert rule.match == "ct_state=-rel-rpl-inv,tcp,reg7=0x2b376c21,tp_dst=22"
    assert (rule.priority, rule.cookie, rule.actions) == (
        70,
        "29405cfe59e5b00b",
        ("goto_table:92",),
    )
    assert found.hits[2].actions == ("ct(table=72,zone=NXM_NX_REG6[0..15])",)
    assert "output port is 4" in found.notes


def test_a_copy_to_everybody():
    assert [each.device for each in traced("arp").outputs] == [
        "tap706f0004-00",
        "tap64680001-00",
        "tap706f0002-00",
    ]


def test_a_kernel_datapath_says_tunnels_otherwise():
    text = (GOLDEN / "to-tunnel.txt").read_text()
    begin = text.index("tnl_push(")
    kernel = text[:begin] + (
        "set(tunnel(tun_id=0x65,src=10.78.0.1,dst=10.78.0.2,ttl=64,tp_dst=4789,flags(df|key))),"
        "pop_vlan,vxlan_sys_4789\n"
    )
    assert parse(kernel).outputs == (Output("vxlan-0a4e0002", 0),)


def test_a_tunnel_whose_end_is_still_asked_for():
    text = (GOLDEN / "to-tunnel.txt").read_text()
    asking = text[: text.index("Datapath actions: ct(commit")] + "Datapath actions: br-phy,eth3\n"
    assert Output("vxlan-0a4e0002", 0) in parse(asking).outputs


def test_a_table_in_which_nothing_fits():
    text = 'bridge("br-int")\n----------------\n 0. No match.\n    drop\n\nDatapath actions: drop\n'
    assert tables(parse(text)) == [("br-int", 0, -1)]
    assert parse(text).outputs == ()
    assert parse("") == flow_trace.Traced((), (), ())


def packet(**changes):
    values = {"eth_src": "fa:16:3e:00:00:02", "eth_dst": "fa:16:3e:00:00:04"}
    values |= {"src": "192.168.1.2", "dst": "192.168.1.4", "protocol": 6}
    return {**values, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sport": 4000, "dport": 22},
            ",tcp,",
        ),
        ({"sport": 4000, "dport": 22}, ",tcp_src=4000,tcp_dst=22"),
        ({"protocol": 17, "dport": 53}, ",nw_ttl=64,udp_dst=53"),
        ({"protocol": 1, "icmp_type": 8, "icmp_code": 0}, ",icmp_type=8,icmp_code=0"),
        ({"protocol": 47}, ",ip,nw_proto=47,"),
        (
            {"protocol": 58, "src": "fd00::1", "dst": "fd00::2", "icmp_type": 128},
            "ipv6_src=fd00::1,ipv6_dst=fd00::2,nw_ttl=64,icmpv6_type=128",
        ),
    ],
)
def test_questions(changes, said):
    assert said in flow_text(packet_from(packet(**changes)), "tap1")


def test_where_it_comes_from():
    asked = packet_from(packet())
    assert flow_text(asked, "eth1", vlan=101).startswith("in_port=eth1,dl_vlan=101,tcp,")
    tunnel = "tun_id=0x65,tun_src=10.0.0.1,tun_dst=10.0.0.2"
    assert flow_text(asked, "vxlan-1", tunnel=tunnel).startswith(f"in_port=vxlan-1,{tunnel},tcp,")


@pytest.mark.parametrize(
    "changes",
    [
        {"eth_dst": "ff:ff:ff:ff:ff:ff"},
        {"src": "192.168.1.2,in_port=1"},
        {"src": "fd00::1"},
        {"protocol": 300},
        {"dport": "22"},
        {"dport": True},
        {"eth_src": None},
    ],
)
def test_what_is_no_packet_is_refused(changes):
    with pytest.raises(BadText):
        packet_from(packet(**changes))
    assert isinstance(packet_from(packet()), Packet)
