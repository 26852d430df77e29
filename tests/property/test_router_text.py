"""Whatever stands in a router: refused, or exactly one word of a rule, a command, a line."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from agent.resources.router_adverts import compile_conf
from agent.resources.router_plan import Plan, compile_plan
from agent.resources.topology import Topology
from agent.spec import FixedAddress, HostRoute, HostSpec
from tests import agent_routers as routers

NASTY = st.text(st.sampled_from("0123456789.:/abf \n\t-\"'\\%#,")) | st.text() | st.sampled_from(
    ["10.0.0.1", "fd01::5", "0.0.0.0/0", "::/0", "1.2.3.4 -j X", "fe80::1%lo", "ra-only\nuser=x"]
)  # fmt: skip

WORD = re.compile(r"[!:A-Za-z0-9_./\[\]-]+")


def plan_of(spec: HostSpec) -> Plan:
    return compile_plan(Topology(spec), spec.routers[0])


def check(plan: Plan) -> Plan:
    """Nothing that reaches an engine is more than one word."""
    words = [word for route in plan.routes for word in route.key if word]
    words += [a for device in plan.devices for a in (device.name, device.mac, *device.addresses)]
    for tables in plan.rules.values():
        for chains in tables.values():
            words += [word for chain in chains.values() for rule in chain.rules for word in rule]
    assert [word for word in words if not WORD.fullmatch(word)] == []
    for line in compile_conf(plan.prefixes, "/data", "nobody").splitlines():
        assert re.fullmatch(r"[a-z-]+(=[A-Za-z0-9:!/.,-]+)?", line), line
    return plan


SAMPLE = routers.host_spec(1)


@given(NASTY, NASTY)
@example("203.0.113.9", "192.168.1.9\n-A INPUT -j DROP")
def test_floating_ip(address: str, fixed: str) -> None:
    each = replace(routers.floating(9, fixed), address=address)
    plan = check(plan_of(routers.with_router(SAMPLE, floating_ips=(each,))))
    assert len(plan.floating) + len(plan.refused) == 1


@given(NASTY, NASTY)
@example("10.0.0.0/8", "192.168.1.9 dev lo")
def test_route(destination: str, nexthop: str) -> None:
    bare = plan_of(routers.with_router(SAMPLE, routes=()))
    route = HostRoute(destination, nexthop)
    plan = check(plan_of(routers.with_router(SAMPLE, routes=(route,))))
    known = {each.destination for each in bare.routes}
    taken = [each for each in plan.routes if each not in bare.routes]
    assert len(taken) + len(plan.refused) == 1
    assert len({each.destination for each in plan.routes}) == len(
        known | {t.destination for t in taken}
    )


@given(NASTY, NASTY)
def test_interface(address: str, mac: str) -> None:
    fixed = (FixedAddress(routers.INSIDE, address),)
    end = routers.interface(addresses=fixed, mac=mac)
    plan = check(plan_of(routers.with_router(SAMPLE, interfaces=(end,), routes=())))
    assert len(plan.devices) + len(plan.refused) == 2


@given(NASTY, NASTY, NASTY)
def test_subnet(cidr: str, gateway: str, mode: str) -> None:
    private, second, outer = SAMPLE.networks
    subnets = (private.subnets[0], replace(private.subnets[1], cidr=cidr, ipv6_mode=mode))
    beyond = (outer.subnets[0], replace(outer.subnets[1], gateway=gateway))
    networks = (replace(private, subnets=subnets), second, replace(outer, subnets=beyond))
    check(plan_of(replace(SAMPLE, networks=networks)))
