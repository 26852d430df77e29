"""The table of packets, followed through the flows of a switch without devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.resources import flow_tables, topology
from agent.resources.topology import Topology
from tests import agent_networks as net
from tests import packets
from tests.dummy_switch import DummySwitch

DEVICES = {
    "router": topology.interface_name(packets.ROUTER.id),
    "dhcp4": topology.tap_name(net.uid("dhcp", 1)),
    "dhcp6": topology.tap_name(net.uid("dhcp", 101)),
    "dhcp2": topology.tap_name(net.uid("dhcp", 2)),
    "outer": topology.tap_name(packets.OUTER.id),
    **{name: topology.tap_name(port.id) for name, port in packets.GUESTS.items()},
}
NUMBERS = {name: 10 + number for number, name in enumerate(DEVICES)}
OFPORTS = {
    "patch-tun": 1,
    "patch-int": 1,
    "int-br-eth1": 2,
    "phy-br-eth1": 2,
    **{device: NUMBERS[name] for name, device in DEVICES.items()},
}


@pytest.fixture(scope="module")
def dummy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DummySwitch]:
    switch = DummySwitch(flow_tables.cookie_of(net.CLOUD), tmp_path_factory.mktemp("ovs"))
    switch.start()
    try:
        plan = flow_tables.Plan(Topology(packets.spec()), OFPORTS, frozenset({"br-eth1"}))
        wire = {"wire": (1, ""), "phy-br-eth1": (2, "type=patch options:peer=int-br-eth1")}
        inside = {name: (number, "") for name, number in NUMBERS.items()}
        switch.build(flow_tables.compile_flows(plan), {
            "br-eth1": wire,
            "br-tun": {"patch-int": (1, "type=patch options:peer=patch-tun")},
            "br-int": {
                "patch-tun": (1, "type=patch options:peer=patch-int"),
                "int-br-eth1": (2, "type=patch options:peer=phy-br-eth1"),
                **inside,
            },
        })  # fmt: skip
        yield switch
    finally:
        switch.stop()


@pytest.mark.parametrize("row", packets.TABLE, ids=[row.name for row in packets.TABLE])
def test_packet(dummy: DummySwitch, row: packets.Row) -> None:
    bridge, port = ("br-eth1", 1) if row.sender == "wire" else ("br-int", NUMBERS[row.sender])
    actions = dummy.trace(bridge, f"in_port={port}", *[row.state] * 9, frame=row.frame)
    words = set(actions.replace(",", " ").replace("(", " ").split())
    assert words & {*DEVICES, "wire"} == row.reached, actions
