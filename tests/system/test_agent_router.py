"""Routers on real engines: two hosts, guests behind real taps, and a world beyond the gateway."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.resources.topology import gateway_name, interface_name
from agent.spec import FixedAddress, HostSpec, Port, to_plain
from tests import agent_networks as net
from tests import agent_routers as routers
from tests.system.nethost import Guest, NetHost, hosts, run

TALK = str(Path(__file__).with_name("talk.py"))
NETNS = f"qrouter-{routers.ROUTER}"
INTERFACE, SECOND = interface_name(routers.INTERFACE), interface_name(routers.SECOND_INTERFACE)
GATEWAY = gateway_name(routers.GATEWAY)
LINK_LOCAL = "fe80::f816:3eff:fe00:81"
WORLD = "198.51.100.1"
PORT = "7007"
THIRD = routers.private_port(6, "node-3")


class Outside:
    """The world beyond the gateway: a namespace at the far end of host 1's eth2."""

    def __init__(self, host: NetHost) -> None:
        self.namespace = f"out{secrets.token_hex(3)}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", "eth2", "netns", host.namespace, "type", "veth",
            "peer", "out0", "netns", self.namespace)  # fmt: skip
        self.ok("ethtool", "-K", "out0", "tx", "off")
        self.ok("sysctl", "-qw", "net.ipv6.conf.out0.accept_dad=0")
        for device, address in (("lo", f"{WORLD}/32"), ("out0", "203.0.113.1/24")):
            self.ok("ip", "addr", "add", address, "dev", device)
            self.ok("ip", "link", "set", device, "up")
        self.ok("ip", "addr", "add", "2001:db8::1/64", "dev", "out0", "nodad")
        self.ok("ip", "route", "add", "fd01::/64", "via", "2001:db8::10")
        self.processes = [self.popen(TALK, "serve", PORT)]

    def popen(self, *argv: str) -> subprocess.Popen[bytes]:
        full = ["ip", "netns", "exec", self.namespace, sys.executable, *argv]
        return subprocess.Popen(full, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ok(self, *argv: str) -> str:
        return run("ip", "netns", "exec", self.namespace, *argv)

    def pings(self, address: str, *options: str) -> bool:
        argv = ["ip", "netns", "exec", self.namespace, "ping", "-c", "2", "-i", "0.2", "-W", "1"]
        return not subprocess.run(
            [*argv, *options, address], capture_output=True, check=False
        ).returncode

    def whoami(self, address: str) -> str:
        return self.ok(sys.executable, TALK, "whoami", address, PORT).strip()

    @contextlib.contextmanager
    def stream(self, address: str, folder: Path) -> Iterator[Stream]:
        file = folder / f"stream-{secrets.token_hex(3)}"
        process = self.popen(TALK, "stream", address, PORT, str(file))
        try:
            yield Stream(file)
        finally:
            process.kill()
            process.wait(10)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)
        run("ip", "netns", "delete", self.namespace)


@dataclass
class Stream:
    """One TCP connection; it is never made again."""

    file: Path

    def count(self) -> int:
        try:
            return int(self.file.read_text() or 0)
        except FileNotFoundError:
            return 0

    def flows(self, seconds: float = 8) -> bool:
        """Whether something comes through from now on."""
        before, deadline = self.count(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.count() > before + 2:
                return True
            time.sleep(0.02)
        return False


@dataclass
class Site:
    one: NetHost
    two: NetHost
    outside: Outside
    guests: dict[str, Guest]


def spec_of(host: int, **router: Any) -> HostSpec:
    """The sample, with a third guest on host 1; only node-2 has a floating IP."""
    spec = routers.host_spec(host)
    if host == 2:
        return spec
    spec = replace(spec, ports=(*spec.ports, THIRD))
    wanted = {"floating_ips": (routers.floating(25, "192.168.2.5"),), **router}
    return routers.with_router(spec, **wanted)


def steps(host: NetHost, spec: HostSpec, **options: Any) -> list[dict[str, Any]]:
    return [step for step in host.steps(spec, **options) if step["result"] != "orphan"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with hosts(2) as (one, two), contextlib.closing(Outside(one)) as outside:
        for host in (one, two):
            host.converge(spec_of(host.number))
        guests = {}
        for host in (one, two):
            for port in spec_of(host.number).ports:
                guests[port.hostname] = guest_of(host, port)
        yield Site(one, two, outside, guests)


def guest_of(host: NetHost, port: Port) -> Guest:
    """A guest with its address, a default route, and a server."""
    guest = host.guest(port.hostname, port)
    address = port.addresses[0].address
    guest.ok("ip", "link", "set", "lo", "up")
    guest.ok("ip", "link", "set", "eth0", "mtu", "1450")
    guest.ok("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    guest.ok("ip", "route", "add", "default", "via", address.rpartition(".")[0] + ".1")
    argv = f"ip netns exec {guest.name} {sys.executable} {TALK} serve {PORT}"
    host.ok("sh", "-c", f"{argv} >/dev/null 2>&1 &")
    return guest


def whoami(guest: Guest, address: str) -> str:
    done = guest.sh(sys.executable, TALK, "whoami", address, PORT)
    return str(done["out"]).strip()


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- traffic ------------------------------------------------------------------------------------


def test_a_second_convergence_finds_nothing_to_do(site: Site) -> None:
    for host in (site.one, site.two):
        answer = host.ask("converge", spec=to_plain(spec_of(host.number)))
        assert {report["result"] for report in answer["reports"]} <= {"unchanged", "orphan"}
        assert answer["effects"] == 0


def test_guests_of_two_subnets_on_two_hosts_meet_with_full_size_packets(site: Site) -> None:
    node = site.guests["node-1"]
    assert node.pings("192.168.2.5", "-M", "do", "-s", "1422")
    assert whoami(node, "192.168.2.5") == "192.168.1.4"
    assert whoami(site.guests["node-2"], "192.168.1.4") == "192.168.2.5"
    assert "ttl=63" in node.ok("ping", "-c1", "-W2", "192.168.2.5")


def test_what_has_no_floating_ip_leaves_with_the_gateways_address(site: Site) -> None:
    assert whoami(site.guests["node-1"], WORLD) == "203.0.113.10"
    assert site.guests["node-1"].pings(WORLD, "-M", "do", "-s", "1422")


def test_a_floating_ip_stands_for_its_guest_both_ways(site: Site) -> None:
    assert site.outside.whoami("203.0.113.25") == "203.0.113.1"
    assert whoami(site.guests["node-2"], WORLD) == "203.0.113.25"
    assert site.outside.pings("203.0.113.25")


def test_whoever_sends_more_than_fits_is_told(site: Site) -> None:
    assert site.outside.pings("203.0.113.25", "-M", "do", "-s", "1422")
    argv = ["ip", "netns", "exec", site.outside.namespace, "ping", "-c1", "-W2", "-M", "do"]
    done = subprocess.run(
        [*argv, "-s", "1472", "203.0.113.25"], capture_output=True, text=True, check=False
    )
    assert "mtu = 1450" in done.stdout
    site.outside.ok("ip", "route", "flush", "cache")


def test_guests_reach_floating_ips_their_own_too(site: Site) -> None:
    assert whoami(site.guests["node-1"], "203.0.113.25") == "203.0.113.10"
    assert whoami(site.guests["node-2"], "203.0.113.25") == "203.0.113.25"
    spec = spec_of(
        1, floating_ips=(routers.floating(24, "192.168.1.4"), routers.floating(25, "192.168.2.5"))
    )
    site.one.converge(spec)
    assert whoami(site.guests["node-1"], "203.0.113.25") == "203.0.113.24"
    assert whoami(site.guests["node-3"], "203.0.113.24") == "203.0.113.10"
    assert whoami(site.guests["node-1"], "203.0.113.24") == "203.0.113.24"
    site.one.converge(spec_of(1))


def test_without_snat_only_owners_of_floating_ips_get_out(site: Site) -> None:
    site.one.converge(spec_of(1, snat=False))
    assert not site.guests["node-1"].pings(WORLD)
    assert whoami(site.guests["node-2"], WORLD) == "203.0.113.25"
    assert whoami(site.guests["node-1"], "203.0.113.25") == "203.0.113.10"
    site.one.converge(spec_of(1))
    assert whoami(site.guests["node-1"], WORLD) == "203.0.113.10"


def test_a_router_that_is_down_forwards_nothing(site: Site) -> None:
    site.one.converge(spec_of(1, admin_up=False))
    assert not site.guests["node-1"].pings("192.168.2.5")
    assert not site.guests["node-1"].pings(WORLD)
    assert not site.outside.pings("203.0.113.25")
    rules = site.one.ok("ip", "netns", "exec", NETNS, "iptables-save")
    assert "-A stackctl-forward -j DROP" in rules
    site.one.converge(spec_of(1))
    assert site.guests["node-1"].pings("192.168.2.5") and site.outside.pings("203.0.113.25")


def test_a_moved_floating_ip_cuts_its_own_flows_and_no_others(site: Site, tmp_path: Path) -> None:
    kept = routers.floating(24, "192.168.1.4")
    site.one.converge(spec_of(1, floating_ips=(kept, routers.floating(25, "192.168.2.5"))))
    stream = site.outside.stream
    with stream("203.0.113.24", tmp_path) as other, stream("203.0.113.25", tmp_path) as moved:
        assert other.flows() and moved.flows()
        site.one.converge(spec_of(1, floating_ips=(kept, routers.floating(25, "192.168.1.6"))))
        assert other.flows()
        assert not moved.flows(1.5)
        assert site.outside.whoami("203.0.113.25") == "203.0.113.1"
        assert whoami(site.guests["node-3"], WORLD) == "203.0.113.25"
        assert whoami(site.guests["node-2"], WORLD) == "203.0.113.10"
        site.one.converge(spec_of(1, floating_ips=(routers.floating(25, "192.168.1.6"),)))
        assert not other.flows(1.5)
    assert not site.outside.pings("203.0.113.24")
    site.one.converge(spec_of(1))


def test_established_connections_outlive_changes_of_rules(site: Site, tmp_path: Path) -> None:
    file = site.one.folder / "stream"
    inner = f"ip netns exec node-1 {sys.executable} {TALK} stream 192.168.2.5 {PORT} {file}"
    site.one.ok("sh", "-c", f"{inner} >/dev/null 2>&1 & echo $! > {file}.pid")
    with site.outside.stream("203.0.113.25", tmp_path) as stream:
        streams = (stream, Stream(file))
        for last in range(30, 45):
            more = (routers.floating(25, "192.168.2.5"), routers.floating(last, "192.168.1.6"))
            site.one.converge(spec_of(1, floating_ips=more))
        for each in streams:
            assert each.flows()
        site.one.converge(spec_of(1))
        assert all(each.flows() for each in streams)
    site.one.ok("kill", Path(f"{file}.pid").read_text().strip())


def test_neighbours_are_told_of_an_address_that_came(site: Site) -> None:
    wrong = ["lladdr", "02:00:00:00:00:99", "dev", "out0", "nud", "reachable"]
    for address in ("203.0.113.24", "2001:db8::10"):
        site.outside.ok("ip", "neigh", "replace", address, *wrong)
    site.one.ok(
        "ip", "netns", "exec", NETNS, "ip", "addr", "del", "2001:db8::10/64", "dev", GATEWAY
    )
    more = (routers.floating(24, "192.168.1.4"), routers.floating(25, "192.168.2.5"))
    site.one.converge(spec_of(1, floating_ips=more))
    for address in ("203.0.113.24", "2001:db8::10"):
        eventually(lambda: routers.gateway().mac in site.outside.ok("ip", "neigh", "show", address))  # noqa: B023
    site.one.converge(spec_of(1))


# --- IPv6 ---------------------------------------------------------------------------------------


def test_a_guest_finds_its_ipv6_address_and_way_by_advertisement(site: Site) -> None:
    guest = site.guests["node-1"]
    eventually(
        lambda: "fd01::" in guest.ok("ip", "-6", "addr", "show", "dev", "eth0", "scope", "global")
    )
    eventually(lambda: LINK_LOCAL in guest.ok("ip", "-6", "route", "show", "default"))
    eventually(lambda: guest.pings("2001:db8::1"), 20)
    assert whoami(guest, "2001:db8::1") == "fd01::f816:3eff:fe00:4"
    assert guest.pings("2001:db8::1", "-M", "do", "-s", "1402")
    assert guest.ok("cat", "/proc/sys/net/ipv6/conf/eth0/mtu").strip() == "1450"


@pytest.mark.parametrize(
    ("mode", "flags", "autonomous"),
    [
        ("slaac", "managed 0 other 0", 1),
        ("dhcpv6-stateless", "managed 0 other 1", 1),
        ("dhcpv6-stateful", "managed 1 other 1", 0),
    ],
)
def test_advertisements_say_how_addresses_are_got(
    site: Site, mode: str, flags: str, autonomous: int
) -> None:
    spec = spec_of(1)
    private = spec.networks[0]
    subnets = (private.subnets[0], replace(private.subnets[1], ipv6_mode=mode))
    networks = (replace(private, subnets=subnets), *spec.networks[1:])
    site.one.converge(replace(spec, networks=networks))
    told = site.guests["node-3"].ok(sys.executable, TALK, "adverts", "eth0", LINK_LOCAL)
    assert set(told.splitlines()) == {
        flags,
        "lifetime 1800",
        f"prefix fd01::/64 autonomous {autonomous}",
        "mtu 1450",
    }
    site.one.converge(spec)


# --- drift --------------------------------------------------------------------------------------

Spoil = Callable[[NetHost], object]


def command(*argv: str) -> Spoil:
    return lambda host: host.ok(*argv)


def inside(*argv: str) -> Spoil:
    return command("ip", "netns", "exec", NETNS, *argv)


def reorder(host: NetHost) -> None:
    rule = ("-m", "mark", "!", "--mark", "0x2/0xffff", "-m", "conntrack", "--ctstate", "DNAT",
            "-j", "SNAT", "--to-source", "203.0.113.10", "--random-fully")  # fmt: skip
    inside("iptables", "-t", "nat", "-D", "stackctl-snat", *rule)(host)
    inside("iptables", "-t", "nat", "-I", "stackctl-snat", "1", *rule)(host)


def kill_dnsmasq(host: NetHost) -> None:
    host.ok("pkill", "-9", "-F", str(host.folder / "data/routers" / routers.ROUTER / "pid"))


def sysctl(name: str, value: str) -> Spoil:
    return inside("sysctl", "-qw", f"{name}={value}")


def edit_conf(host: NetHost) -> None:
    with (host.folder / "data/routers" / routers.ROUTER / "conf").open("a") as file:
        file.write("dhcp-script=/bin/true\n")


DRIFT = {
    "rule removed": (inside("iptables", "-t", "nat", "-F", "stackctl-prerouting"), "lacks"),
    "rule added": (inside("iptables", "-A", "stackctl-forward", "-j", "DROP"), "too many"),
    "rule added before ours": (inside("iptables", "-I", "FORWARD", "-j", "DROP"), "too many"),
    "rules reordered": (reorder, "another order"),
    "jump removed": (inside("iptables", "-t", "nat", "-F", "POSTROUTING"), "POSTROUTING"),
    "policy changed": (inside("iptables", "-P", "FORWARD", "DROP"), "policy"),
    "chain added": (inside("iptables", "-N", "mine"), "does not belong"),
    "raw rule added": (
        inside("iptables", "-t", "raw", "-A", "PREROUTING", "-j", "CT", "--notrack"), "raw"),
    "IPv6 rule added": (inside("ip6tables", "-A", "FORWARD", "-j", "DROP"), "IPv6"),
    "address missing": (inside("ip", "addr", "del", "192.168.1.1/24", "dev", INTERFACE), "lacks"),
    "IPv6 address missing": (inside("ip", "addr", "del", "fd01::1/64", "dev", INTERFACE), "lacks"),
    "link-local missing": (inside("ip", "-6", "addr", "flush", "dev", INTERFACE), "lacks"),
    "address added": (inside("ip", "addr", "add", "192.168.1.77/24", "dev", INTERFACE), "too many"),
    "floating IP missing": (
        inside("ip", "addr", "del", "203.0.113.25/32", "dev", GATEWAY), "lacks"),
    "default route missing": (inside("ip", "route", "del", "default"), "no route to 0.0.0.0/0"),
    "IPv6 route missing": (inside("ip", "-6", "route", "del", "default"), "no route to ::/0"),
    "static route missing": (inside("ip", "route", "del", "10.99.0.0/16"), "10.99.0.0/16"),
    "connected route missing": (inside("ip", "route", "del", "192.168.2.0/24"), "192.168.2.0/24"),
    "default route elsewhere": (
        inside("ip", "route", "replace", "default", "via", "192.168.2.77"), "no route to 0"),
    "route added": (
        inside("ip", "route", "add", "198.51.100.0/24", "via", "192.168.2.9"), "too many"),
    "blackhole added": (inside("ip", "route", "add", "blackhole", "198.51.100.0/24"), "too many"),
    "device down": (inside("ip", "link", "set", SECOND, "down"), "is down"),
    "gateway down": (inside("ip", "link", "set", GATEWAY, "down"), "is down"),
    "MAC changed": (inside("ip", "link", "set", SECOND, "address", "02:00:00:00:00:07"), "mac of"),
    "MTU changed": (inside("ip", "link", "set", SECOND, "mtu", "1300"), "MTU"),
    "device moved out": (inside("ip", "link", "set", SECOND, "netns", "1"), "outside"),
    "port deleted": (command("ovs-vsctl", "del-port", GATEWAY), "not in its namespace"),
    "namespace deleted": (command("ip", "netns", "delete", NETNS), "no namespace"),
    "forwarding off": (sysctl("net.ipv4.ip_forward", "0"), "ip_forward is 0"),
    "IPv6 forwarding off": (sysctl("net.ipv6.conf.all.forwarding", "0"), "forwarding is 0"),
    "ARP setting flipped": (sysctl("net.ipv4.conf.all.arp_ignore", "0"), "arp_ignore"),
    "conntrack setting flipped": (
        sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0"), "be_liberal"),
    "dnsmasq killed": (kill_dnsmasq, "not running"),
    "conf edited": (edit_conf, "conf of"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DRIFT))
def test_drift_is_told_and_healed(site: Site, name: str) -> None:
    spoil, words = DRIFT[name]
    spoil(site.one)
    told = steps(site.one, spec_of(1), observing=True)
    assert any(s["kind"] in ("router", "port") for s in told), told
    assert any(words in s["why"] for s in told) or name == "port deleted", told
    assert any(s["kind"] == "router" for s in steps(site.one, spec_of(1)))
    assert steps(site.one, spec_of(1)) == []
    assert whoami(site.guests["node-1"], "192.168.2.5") == "192.168.1.4"
    assert whoami(site.guests["node-1"], WORLD) == "203.0.113.10"
    assert site.outside.whoami("203.0.113.25") == "203.0.113.1"
    told6 = site.guests["node-3"].ok(sys.executable, TALK, "adverts", "eth0", LINK_LOCAL)
    assert "prefix fd01::/64" in told6


def test_healing_does_not_touch_what_was_right(site: Site, tmp_path: Path) -> None:
    with site.outside.stream("203.0.113.25", tmp_path) as stream:
        assert stream.flows()
        inside("ip", "addr", "del", "192.168.1.1/24", "dev", INTERFACE)(site.one)
        inside("iptables", "-A", "stackctl-input", "-j", "DROP")(site.one)
        site.one.converge(spec_of(1))
        assert stream.flows()
    assert site.guests["node-1"].pings("192.168.2.5")


def test_a_killed_switch_is_given_everything_back(site: Site) -> None:
    site.one.ask("restart-vswitchd")
    steps(site.one, spec_of(1))
    assert steps(site.one, spec_of(1)) == []
    eventually(lambda: site.guests["node-1"].pings("192.168.2.5", "-M", "do", "-s", "1422"))
    assert whoami(site.guests["node-1"], WORLD) == "203.0.113.10"
    assert site.outside.whoami("203.0.113.25") == "203.0.113.1"


# --- alone --------------------------------------------------------------------------------------


@pytest.fixture
def lone() -> Iterator[NetHost]:
    with hosts(1) as (host,):
        host.ok("ip", "link", "add", "eth2", "type", "veth", "peer", "far2")
        yield host


def lone_spec(**router: Any) -> HostSpec:
    """Host 1 with nobody to tunnel to."""
    spec = routers.host_spec(1)
    settings = replace(spec.settings, tunnel_address=None)
    networks = tuple(replace(n, flood_to=(), remote_ports=()) for n in spec.networks)
    return routers.with_router(replace(spec, settings=settings, networks=networks), **router)


def without_router(spec: HostSpec) -> HostSpec:
    return replace(spec, routers=(), networks=(spec.networks[0],))


def no_router_left(host: NetHost) -> None:
    assert "qrouter-" not in host.ok("ip", "netns")
    assert not {p[:3] for p in host.ok("ovs-vsctl", "list-ports", "br-int").split()} & {
        "qr-",
        "qg-",
    }
    assert list((host.folder / "data/routers").glob("*")) == []
    assert list((host.folder / "data/pending").iterdir()) == []
    assert "data/routers" not in host.ok("ps", "axww", "-o", "args")


def test_a_router_that_left_leaves_nothing(lone: NetHost) -> None:
    lone.converge(lone_spec())
    assert NETNS in lone.ok("ip", "netns")
    removed = lone.steps(without_router(lone_spec()))
    assert ("router", routers.ROUTER, "removed") in [
        (s["kind"], s["id"], s["result"]) for s in removed
    ]
    assert lone.steps(without_router(lone_spec())) == []
    no_router_left(lone)
    lone.converge(lone_spec())
    # As when the host leaves the cloud.
    lone.converge(replace(without_router(lone_spec()), networks=(), ports=()))
    no_router_left(lone)


def test_a_strangers_namespace_is_refused(lone: NetHost) -> None:
    lone.converge(without_router(lone_spec()))
    lone.ok("ip", "netns", "add", NETNS)
    answer = lone.ask("converge", spec=to_plain(lone_spec()))
    found = {(r["kind"], r["id"]): r for r in answer["reports"]}
    fault = found[("router", routers.ROUTER)]["fault"]
    assert "did not make" in fault and f"ip netns delete {NETNS}" in fault
    assert (
        lone.ok("ip", "netns", "exec", NETNS, "iptables-save", "-t", "nat").count("stackctl") == 0
    )
    assert "qr-" not in lone.ok("ip", "netns", "exec", NETNS, "ip", "link")
    lone.ok("ip", "netns", "delete", NETNS)
    lone.converge(lone_spec())
    assert lone.steps(lone_spec()) == []


def test_an_interface_added_or_taken_leaves_the_rest_alone(lone: NetHost) -> None:
    lone.converge(lone_spec())
    index = lone.ok("ip", "netns", "exec", NETNS, "cat", f"/proc/sys/net/ipv6/conf/{INTERFACE}/mtu")
    fewer = lone_spec(interfaces=(routers.interface(),), routes=(), floating_ips=())
    lone.converge(fewer)
    assert lone.steps(fewer) == []
    devices = lone.ok("ip", "netns", "exec", NETNS, "ip", "-br", "link")
    assert SECOND not in devices and INTERFACE in devices and GATEWAY in devices and index
    lone.converge(lone_spec(gateway=None, floating_ips=()))
    devices = lone.ok("ip", "netns", "exec", NETNS, "ip", "-br", "link")
    assert SECOND in devices and GATEWAY not in devices
    assert "default" not in lone.ok("ip", "netns", "exec", NETNS, "ip", "route")
    lone.converge(lone_spec())
    assert lone.steps(lone_spec()) == []


def test_two_routers_do_not_touch_each_other(lone: NetHost) -> None:
    address = FixedAddress(routers.SECOND_SUBNET, "192.168.2.254")
    port = routers.second_interface(id=net.uid("qz", 9), mac=net.mac(0x99), addresses=(address,))
    other = routers.router(
        id=net.uid("rout", 2), interfaces=(port,), gateway=None, routes=(), floating_ips=()
    )
    spec = lone_spec()
    both = replace(spec, routers=(*spec.routers, other))
    lone.converge(both)
    second = f"qrouter-{other.id}"
    lone.ok("ip", "netns", "exec", second, "ip", "neigh", "replace", "192.168.2.9", "lladdr",
            "02:00:00:00:00:09", "dev", interface_name(port.id), "nud", "permanent")  # fmt: skip
    lone.ok("ip", "netns", "exec", NETNS, "iptables", "-t", "nat", "-F")
    assert [s["id"] for s in lone.steps(both)] == [routers.ROUTER]
    assert "02:00:00:00:00:09" in lone.ok("ip", "netns", "exec", second, "ip", "neigh")
    lone.converge(spec)
    assert second not in lone.ok("ip", "netns") and NETNS in lone.ok("ip", "netns")
    assert lone.steps(spec) == []


def test_what_cannot_be_taken_in_is_told_and_the_rest_works(lone: NetHost) -> None:
    bad = replace(routers.floating(26, "192.168.1.4 -j ACCEPT"), id="x")
    spec = lone_spec(floating_ips=(routers.floating(24, "192.168.1.4"), bad))
    answer = lone.ask("converge", spec=to_plain(spec))
    found = [r for r in answer["reports"] if r["kind"] == "router"]
    assert [r["result"] for r in found] == ["made", "failed"]
    assert "is not an IPv4 address" in found[1]["fault"]
    assert "203.0.113.24/32" in lone.ok("ip", "netns", "exec", NETNS, "iptables-save")


# --- an agent that dies -------------------------------------------------------------------------


def die_before(host: NetHost, before: HostSpec, after: HostSpec, effect: str) -> None:
    """Be killed on the way from one spec to the other, before this effect."""
    for number in range(1, 100):
        host.converge(before)
        answer = host.ask("converge", spec=to_plain(after), kill_at=number)
        if answer.get("killed") == effect:
            return
    raise AssertionError(f"{effect} is not on the way")


def test_an_announcement_that_a_death_prevented_is_made_up_for(site: Site) -> None:
    more = spec_of(1, floating_ips=(routers.floating(24, "192.168.1.4"),))
    die_before(site.one, spec_of(1), more, "announce")
    wrong = ["lladdr", "02:00:00:00:00:99", "dev", "out0", "nud", "reachable"]
    site.outside.ok("ip", "neigh", "replace", "203.0.113.24", *wrong)
    assert "not finished" in steps(site.one, more)[0]["why"]
    told = ("ip", "neigh", "show", "203.0.113.24")
    eventually(lambda: routers.gateway().mac in site.outside.ok(*told))
    assert steps(site.one, more) == []
    site.one.converge(spec_of(1))


def test_flows_that_a_death_left_are_cut_by_the_next_convergence(
    site: Site, tmp_path: Path
) -> None:
    moved = spec_of(1, floating_ips=(routers.floating(25, "192.168.1.6"),))
    for number in range(1, 100):
        site.one.converge(spec_of(1))
        with site.outside.stream("203.0.113.25", tmp_path) as stream:
            assert stream.flows()
            killed = site.one.ask("converge", spec=to_plain(moved), kill_at=number)["killed"]
            if killed == "forget":
                assert stream.flows(), "cut before it was to be cut"
            site.one.converge(moved)
            assert not stream.flows(1)
        if killed == "forget":
            break
    site.one.converge(spec_of(1))


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_death_between_any_two_effects_is_repaired(lone: NetHost, stride: int) -> None:
    bare, full = without_router(lone_spec()), lone_spec()
    making = set(lone.kills(bare, full, stride))
    if stride == 1:
        assert {"make", "replace", "write", "move", "change", "announce", "start"} <= making
    for _ in lone.kills(full, bare, stride):
        no_router_left(lone)
    changed = lone_spec(
        interfaces=(routers.interface(),),
        routes=(),
        floating_ips=(routers.floating(24, "192.168.1.6"),),
    )
    changing = set(lone.kills(full, changed, stride))
    if stride == 1:
        assert {"replace", "forget", "transact", "change"} <= changing
