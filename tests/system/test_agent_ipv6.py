"""IPv6 on real engines: advertisements, SLAAC in the kernel, DHCPv6 with dhclient, names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from agent.resources.topology import tap_name
from agent.spec import DhcpOption, FixedAddress, HostSpec, Power, Server, to_plain
from agent.spec import Guest as GuestData
from tests import agent_networks as net
from tests.system.nethost import Guest, NetHost, hosts

SLAAC, STATEFUL, STATELESS = (net.uid("six", number) for number in (1, 2, 3))
NODE_V6 = net.ipv6_of(1, net.mac(4))
ASKED = "dhcp6.name-servers, dhcp6.domain-search, dhcp6.bootfile-url"
SCRIPT = """\
#!/bin/sh
env > {folder}/lease6
[ -z "$new_ip6_address" ] || ip -6 addr replace $new_ip6_address/128 dev $interface nodad
exit 0
"""


@dataclass
class Dual:
    """A converged host and its guests: dual stack, DHCPv6 alone, and stateless."""

    host: NetHost
    node: Guest
    head: Guest
    third: Guest

    def converge(self, spec: HostSpec) -> list[dict[str, object]]:
        made = self.host.steps(spec)
        let_ipv6_through(self.host)
        return made


def let_ipv6_through(host: NetHost) -> None:
    host.ok("ovs-ofctl", "add-flow", "br-int", "table=0,priority=50,ipv6,actions=NORMAL")


def soon(check: Callable[[], object], seconds: float = 15) -> object:
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def addresses(guest: Guest, *options: str) -> list[str]:
    """Usable IPv6 addresses of a guest."""
    lines = guest.ok("ip", "-6", "-o", "addr", "show", "dev", "eth0", *options).splitlines()
    return [line.split()[3] for line in lines if " tentative" not in line]


def dhclient(guest: Guest, *options: str) -> dict[str, str]:
    """What a DHCPv6 client was told; nothing when nobody answered it."""
    assert soon(lambda: addresses(guest, "scope", "link")), "no link-local address"
    folder = guest.host.folder
    conf, script, told = folder / "dhclient.conf", folder / "dhclient-script", folder / "lease6"
    conf.write_text(f"option dhcp6.bootfile-url code 59 = text;\nrequest {ASKED};\n")
    script.write_text(SCRIPT.format(folder=folder))
    script.chmod(0o755)
    told.unlink(missing_ok=True)
    files = ["-cf", conf, "-sf", script, "-lf", folder / "lf", "-pf", folder / "pf"]
    (folder / "lf").write_text("")
    argv = ["timeout", "8", "dhclient", "-6", "-1", *options, *map(str, files), "eth0"]
    status = guest.sh(*argv)["status"]
    if (folder / "pf").exists():
        guest.sh("pkill", "-F", str(folder / "pf"))
        (folder / "pf").unlink()
    if status != 0:
        return {}
    return dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)


@pytest.fixture(scope="module")
def dual() -> Iterator[Dual]:
    with hosts(1) as (host,):
        # The only host: no cable to a neighbour, so eth1 is made here.
        host.ok("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far1")
        spec = net.ipv6_spec()
        made = host.steps(spec)
        assert {report["result"] for report in made} <= {"made", "changed"}
        let_ipv6_through(host)
        node, head, third = (
            host.guest(name, port) for name, port in zip(("node", "head", "third"), spec.ports)
        )
        yield Dual(host, node, head, third)


def test_a_second_convergence_finds_nothing_to_do(dual: Dual) -> None:
    dual.converge(net.ipv6_spec())
    answer = dual.host.ask("converge", spec=to_plain(net.ipv6_spec()))
    let_ipv6_through(dual.host)
    changed = [r for r in answer["reports"] if r["result"] != "unchanged" and r["kind"] != "flows"]
    assert changed == []


def test_the_kernel_of_a_guest_makes_exactly_the_address_of_its_port(dual: Dual) -> None:
    wanted = [f"{NODE_V6}/64"]
    assert soon(lambda: addresses(dual.node, "scope", "global") == wanted)
    routes = dual.node.ok("ip", "-6", "route")
    assert "fd00:1::/64" in routes and "default" not in routes
    assert dual.node.ok("sysctl", "-n", "net.ipv6.conf.eth0.mtu").strip() == "1450"
    assert dual.node.lease()["ip"] == "192.168.1.4"
    assert dual.node.pings("fd00:1::2")


def test_dhcpv6_gives_the_address_of_the_port_found_by_its_mac(dual: Dual) -> None:
    told = dhclient(dual.head)
    assert told["new_ip6_address"] == "fd00:2::44"
    assert told["new_dhcp6_name_servers"] == "fd00:2::2"
    assert told["new_dhcp6_domain_search"] == "enterprise.example."
    assert told["new_dhcp6_server_id"] == "0:3:0:1:fa:16:3e:0:0:f2"
    assert addresses(dual.head, "scope", "global") == ["fd00:2::44/128"]
    assert "default" not in dual.head.ok("ip", "-6", "route")
    assert dual.head.pings("fd00:2::2")


def test_stateless_gives_what_is_not_an_address(dual: Dual) -> None:
    assert soon(lambda: addresses(dual.third, "scope", "global"))
    assert addresses(dual.third, "scope", "global") == [f"{net.ipv6_of(3, net.mac(8))}/64"]
    told = dhclient(dual.third, "-S")
    assert told["new_dhcp6_name_servers"] == "fd00:3::2" and "new_ip6_address" not in told


def test_names_are_answered_over_ipv6_and_others_forwarded(dual: Dual) -> None:
    assert NODE_V6 in dual.node.resolves("node-1.worf.local", "fd00:1::2", "-type=aaaa")
    assert NODE_V6 in dual.node.resolves("node-1.worf.local", "192.168.1.3", "-type=aaaa")
    assert "192.168.1.2" in dual.node.resolves("head.worf.local", "fd00:1::2", "-type=a")
    assert "node-1.worf.local" in dual.node.resolves(NODE_V6, "fd00:1::2")
    assert "203.0.113.80" in dual.node.resolves("www.example.test", "fd00:1::2", "-type=a")


def with_disk(disk: str) -> HostSpec:
    """The spec with a server behind the head's port, on this disk."""
    guest = GuestData("head", "head", "p", 0, "nova")
    port = net.ipv6_spec().ports[1]
    server = Server(port.server_id, 1, 1, 64, Power(1, "start"), guest, disks=(disk,))
    return replace(net.ipv6_spec(), servers=(server,))


def test_a_guest_on_a_new_disk_gets_its_address_with_another_duid(dual: Dual) -> None:
    """dnsmasq refuses an address that another DUID has; a rebuilt guest has another."""
    dual.converge(with_disk(net.uid("disk", 1)))
    assert dhclient(dual.head, "-D", "LLT")["new_ip6_address"] == "fd00:2::44"
    assert dhclient(dual.head, "-D", "LL") == {}
    steps = dual.converge(with_disk(net.uid("disk", 2)))
    assert any("leased" in str(s["why"]) or "holders" in str(s["why"]) for s in steps)
    assert dhclient(dual.head, "-D", "LL")["new_ip6_address"] == "fd00:2::44"
    dual.converge(net.ipv6_spec())


def test_an_address_goes_to_its_next_port_at_once(dual: Dual) -> None:
    assert dhclient(dual.head)["new_ip6_address"] == "fd00:2::44"
    spec = net.ipv6_spec()
    node, head, third = spec.ports
    head = replace(head, addresses=(FixedAddress(STATEFUL, "fd00:2::45"),))
    heir = replace(net.provider_port(9, "heir"), addresses=(FixedAddress(STATEFUL, "fd00:2::44"),))
    dual.converge(replace(spec, ports=(node, head, third, heir)))
    second = dual.host.guest("heir", heir)
    assert dhclient(second)["new_ip6_address"] == "fd00:2::44"
    dual.converge(spec)
    assert [s for s in dual.converge(spec) if s["kind"] == "dhcp"] == []


def test_a_server_that_has_forgotten_is_still_the_same(dual: Dual) -> None:
    before = dhclient(dual.head)
    folder = dual.host.folder / "data/dhcp" / STATEFUL
    dual.host.ok("pkill", "-9", "-F", str(folder / "pid"))
    (folder / "leases").unlink()
    dual.converge(net.ipv6_spec())
    after = dhclient(dual.head)
    assert after["new_dhcp6_server_id"] == before["new_dhcp6_server_id"]
    assert after["new_ip6_address"] == "fd00:2::44"


def test_options_of_a_port_reach_it_alone(dual: Dual) -> None:
    spec = net.ipv6_spec()
    node, head, third = spec.ports
    options = (
        DhcpOption(4, 66, "10.9.9.9"),
        DhcpOption(4, 26, "1400"),
        DhcpOption(4, 42, "10.0.0.1,10.0.0.2"),
        DhcpOption(6, 59, "tftp://[fd00::1]/boot#1"),
    )
    node = replace(node, dhcp_options=options)
    head = replace(head, dhcp_options=options)
    dual.converge(replace(spec, ports=(node, head, third)))
    told = dual.node.lease("-O", "tftp", "-O", "ntpsrv")
    assert (told["tftp"], told["ntpsrv"]) == ("10.9.9.9", "10.0.0.1 10.0.0.2")
    assert told["mtu"] == "1400"
    assert dhclient(dual.head)["new_dhcp6_bootfile_url"] == "tftp://[fd00::1]/boot#1"
    dual.converge(spec)
    told = dual.node.lease("-O", "tftp", "-O", "ntpsrv")
    assert "tftp" not in told and told["mtu"] == "1450"


def test_a_namespace_altered_by_hand_is_set_right(dual: Dual) -> None:
    device, inside = tap_name(net.uid("dhcp", 101)), f"qdhcp-{SLAAC}"
    enter = ("ip", "netns", "exec", inside)
    for spoil, why in (
        (("ip", "addr", "add", "fd00:1::99/64", "dev", device), "fd00:1::99"),
        (("sysctl", "-qw", f"net.ipv6.conf.{device}.accept_ra=1"), "as a server"),
        (("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"), "forwards"),
        (("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1"), "address"),
    ):
        dual.host.ok(*enter, *spoil)
        steps = dual.converge(net.ipv6_spec())
        assert any(why in str(s["why"]) for s in steps if s["kind"] == "dhcp"), (why, steps)
        assert [s for s in dual.converge(net.ipv6_spec()) if s["kind"] == "dhcp"] == []
    assert dual.node.pings("fd00:1::2")
