"""Whatever anybody calls anything: refused, or exactly one line of dnsmasq's files."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from agent.resources import dnsmasq_files
from agent.resources.dnsmasq_files import Files
from agent.resources.topology import Topology
from agent.spec import HostRoute, HostSpec, Name, Network
from tests import agent_networks as net

NASTY = st.text(st.sampled_from("ab0-.,:/#=\n\r\0\t \"'\\%!@é")) | st.text() | st.sampled_from(
    ["node", "worf.local", "10.0.0.1", "fa:16:3e:00:00:09", "x\ndhcp-script=/bin/sh", "fe80::1%a,b"]
)  # fmt: skip

HOST = re.compile(r"[0-9a-f:]{17},[0-9.]+(,[A-Za-z0-9-]+)?")
NAME = re.compile(r"[0-9a-f.:]+\t([A-Za-z0-9.-]+ )?[A-Za-z0-9-]+")
OPTION = re.compile(r"(tag:!?no-[a-z]+,)?(option:[a-z-]+|249)(,[A-Za-z0-9./-]+)*")
SERVER = re.compile(r"server=[0-9.]+@upstream")


def compiled(spec: HostSpec) -> Files:
    server = next(s for s in Topology(spec).servers if s.subnet.id == net.uid("subn", 1))
    return dnsmasq_files.compile_files(server, "/data", "nobody", ())


def with_network(**changes: object) -> HostSpec:
    spec = net.host_spec(1)
    network: Network = replace(spec.networks[1], **changes)  # type: ignore[arg-type]
    return replace(spec, networks=(spec.networks[0], network))


def with_subnet(**changes: object) -> HostSpec:
    subnet = net.host_spec(1).networks[1].subnets[0]
    return with_network(subnets=(replace(subnet, **changes),))  # type: ignore[arg-type]


def check(spec: HostSpec) -> Files:
    """Every line of every file has its one form, and the configuration is what it was."""
    made = compiled(spec)
    for name, form in (("hosts", HOST), ("names", NAME), ("options", OPTION), ("servers", SERVER)):
        lines = made.reloaded[name].split("\n")
        assert lines.pop() == ""
        for line in lines:
            assert form.fullmatch(line), (name, line)
    return made


@given(NASTY)
@example("a\nb")
def test_hostname(text: str) -> None:
    spec = net.with_port(net.host_spec(1), net.private_port(4, "x").id, hostname=text)
    made = check(spec)
    assert made.reloaded["hosts"].count("\n") + len(made.refused) == 2
    assert made.conf == compiled(net.host_spec(1)).conf


@given(NASTY, NASTY)
def test_mac_and_address(mac: str, address: str) -> None:
    port = net.private_port(4, "x")
    fixed = replace(port.addresses[0], address=address)
    made = check(net.with_port(net.host_spec(1), port.id, mac=mac, addresses=(fixed,)))
    assert made.reloaded["hosts"].count("\n") + len(made.refused) == 2


@given(NASTY, NASTY)
def test_names(hostname: str, address: str) -> None:
    made = check(with_network(names=(Name(hostname, address),)))
    assert made.reloaded["names"].count("\n") + len(made.refused) == 1


@given(NASTY)
def test_domain(domain: str) -> None:
    made = check(with_network(domain=domain))
    assert made.reloaded["options"].count("domain-name") <= 1
    assert made.conf == compiled(net.host_spec(1)).conf


@given(NASTY, NASTY, NASTY)
def test_gateway_and_routes(gateway: str, destination: str, nexthop: str) -> None:
    made = check(with_subnet(gateway=gateway, host_routes=(HostRoute(destination, nexthop),)))
    assert made.conf == compiled(net.host_spec(1)).conf


@given(st.lists(NASTY, max_size=3))
def test_name_servers(servers: list[str]) -> None:
    check(with_subnet(dns_nameservers=tuple(servers)))
