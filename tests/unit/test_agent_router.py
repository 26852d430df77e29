"""What plugs a router in, and the netfilter rules that it compiles to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.resources import topology
from agent.resources.topology import Plug, RouterEnd, Topology
from agent.spec import FixedAddress, HostSpec
from tests import agent_networks as net
from tests import agent_routers as routers


def ends_of(spec: HostSpec) -> list[RouterEnd]:
    return list(Topology(spec).router_ends)


def plug_of(spec: HostSpec, end: RouterEnd) -> Plug:
    return topology.router_plug(end, Topology(spec).networks.get(end.port.network_id))


def test_ends_of_a_router_plug_into_their_networks_vlans() -> None:
    spec = routers.host_spec(1)
    plugs = [plug_of(spec, end) for end in ends_of(spec)]
    assert [(plug.device, plug.tag, plug.mtu) for plug in plugs] == [
        ("qr-" + routers.INTERFACE[:11], 2, 1450),
        ("qr-" + routers.SECOND_INTERFACE[:11], 4, 1450),
        ("qg-" + routers.GATEWAY[:11], 5, 1500),
    ]
    assert {plug.netns for plug in plugs} == {f"qrouter-{routers.ROUTER}"}
    assert all(plug.internal and not plug.dead for plug in plugs)


def test_an_end_is_dead_while_its_router_port_or_network_is_down() -> None:
    spec = routers.host_spec(1)
    down = routers.with_router(spec, admin_up=False)
    assert all(plug_of(down, end).dead for end in ends_of(down))
    down = routers.with_router(spec, interfaces=(routers.interface(admin_up=False),))
    assert [plug_of(down, end).dead for end in ends_of(down)] == [True, False]
    networks = tuple(replace(n, admin_up=n.id != routers.EXTERNAL) for n in spec.networks)
    down = replace(spec, networks=networks)
    assert [plug_of(down, end).dead for end in ends_of(down)] == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_id": "elsewhere"}, "does not hold network 'elsewhere'"),
        ({"id": "x; rm"}, "is not a UUID"),
        ({"mac": "fa:16:3e:00:00:01,normal"}, "is not an Ethernet address"),
        ({"addresses": (FixedAddress(routers.INSIDE, "1.2.3.4 -j"),)}, "is not an IPv4 address"),
        ({"addresses": (FixedAddress("nowhere", "192.168.1.1"),)}, "has no subnet 'nowhere'"),
    ],
)
def test_an_end_that_cannot_be_plugged_in_says_why(changes: dict[str, object], words: str) -> None:
    spec = routers.host_spec(1)
    spec = routers.with_router(spec, interfaces=(routers.interface(**changes),))
    known = Topology(spec)
    assert words in known.end_problem(known.router_ends[0])
    assert known.end_problem(known.router_ends[1]) == ""


def test_a_router_without_a_uuid_is_refused() -> None:
    spec = routers.with_router(routers.host_spec(1), id="../../etc")
    known = Topology(spec)
    assert all("is not a UUID" in known.end_problem(end) for end in known.router_ends)


def test_networks_of_the_sample_can_be_carried() -> None:
    for host in (1, 2):
        assert set(Topology(routers.host_spec(host)).problems.values()) == {""}
    assert net.PRIVATE in Topology(routers.host_spec(1)).networks
