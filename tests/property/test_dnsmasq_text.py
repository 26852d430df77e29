"""Whatever anybody calls anything: refused, or exactly one line of dnsmasq's files."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from agent.resources import dnsmasq_files
from agent.resources.dnsmasq_files import Files
from agent.resources.topology import Topology
from agent.spec import DhcpOption, HostRoute, HostSpec, Name, Network
from tests import agent_networks as net

NASTY = st.text(st.sampled_from("ab0-.,:/#=\n\r\0\t \"'\\%!@é")) | st.text() | st.sampled_from(
    ["node", "worf.local", "10.0.0.1", "fa:16:3e:00:00:09", "x\ndhcp-script=/bin/sh", "fe80::1%a,b"]
)  # fmt: skip

HOST = re.compile(r"[0-9a-f:]{17},[0-9.]+(,[A-Za-z0-9-]+)?")
HOST6 = re.compile(r"[0-9a-f:]{17}(,\[[0-9a-f:]+\])?(,[A-Za-z0-9-]+)?")
OWN = re.compile(
    r"tag:port-[0-9a-f-]{36},(option6:)?[0-9]{1,5},"
    r"([A-Za-z0-9.:,\[\]-]+|\"[^\x00-\x1f\x7f-\U0010ffff,\"\\]+\")"
)
OPTION6 = re.compile(r"option6:[a-z-]+(,[A-Za-z0-9.:\[\]-]+)+")
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


# --- IPv6, and options of single ports ----------------------------------------------------------


def compiled_v6(spec: HostSpec, number: int) -> Files:
    server = next(s for s in Topology(spec).servers if s.subnet.id == net.uid("six", number))
    return dnsmasq_files.compile_files(server, "/data", "nobody", ())


def check_v6(spec: HostSpec) -> None:
    """The same forms in the files of all IPv6 servers."""
    for number in (1, 2, 3):
        made = compiled_v6(spec, number)
        for name, forms in (
            ("hosts", (HOST6,)),
            ("names", (NAME,)),
            ("options", (OPTION6, OWN)),
            ("servers", (SERVER,)),
        ):
            lines = made.reloaded[name].split("\n")
            assert lines.pop() == ""
            for line in lines:
                assert any(form.fullmatch(line) for form in forms), (name, line)


@given(NASTY, NASTY, NASTY)
def test_ports_in_ipv6_subnets(hostname: str, mac: str, address: str) -> None:
    spec = net.ipv6_spec()
    bad = [
        replace(
            port,
            hostname=hostname,
            mac=mac,
            addresses=tuple(replace(fixed, address=address) for fixed in port.addresses),
        )
        for port in spec.ports
    ]
    check_v6(replace(spec, ports=tuple(bad)))


@given(NASTY, st.lists(NASTY, max_size=3))
def test_domain_and_name_servers_of_ipv6_subnets(domain: str, servers: list[str]) -> None:
    spec = net.ipv6_spec()
    networks = [
        replace(
            network,
            domain=domain,
            subnets=tuple(replace(s, dns_nameservers=tuple(servers)) for s in network.subnets),
        )
        for network in spec.networks
    ]
    check_v6(replace(spec, networks=tuple(networks)))


VALUES = NASTY | st.sampled_from(
    ["10.0.0.1,10.0.0.2", "fd00::1", "1400", "-7", "a.b,c.d", 'x"y', "x,option:router,1.2.3.4"]
)


@given(st.sampled_from([4, 6, 5]), st.integers(-2, 70000), VALUES)
@example(4, 66, "a\noption:router,10.0.0.9")
@example(6, 59, 'x",option6:dns-server,"y')
def test_an_option_of_a_port_is_one_line_or_refused(version: int, number: int, value: str) -> None:
    option = DhcpOption(version, number, value)
    spec = net.ipv6_spec()
    ports = tuple(replace(port, dhcp_options=(option,)) for port in spec.ports)
    spec = replace(spec, ports=ports)
    check_v6(spec)
    v4 = next(s for s in Topology(spec).servers if s.subnet.id == net.uid("subn", 1))
    files = dnsmasq_files.compile_files(v4, "/data", "nobody", ())
    own = [line for line in files.reloaded["options"].split("\n") if line.startswith("tag:port")]
    assert all(OWN.fullmatch(line) for line in own)
    assert len(own) + len(files.refused) == (1 if version == 4 else 0)
