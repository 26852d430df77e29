"""Every way that a packet can take, by the real command on a lab: it arrives whole, and only then.

Two hosts, two networks with a router between them and to the internet: a, b and c are in the
network blue, d and e in red, shut is in blue and in a group of its own that lets nobody in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from agent.resources.flow_plan import DESTINATION
from tests.engines import eventually
from tests.fleet import Fleet
from tests.system.endpoints import Endpoint, boot, end_of, internet, ports_of

SERVERS = {
    "a": ("host1", "blue"),
    "b": ("host1", "blue"),
    "c": ("host2", "blue"),
    "d": ("host2", "red"),
    "e": ("host1", "red"),
    "shut": ("host2", "blue"),
}
FLOATING = "203.0.113.150"
OUTSIDE = "198.51.100.10"
OUTSIDE_SEES = "203.0.113.1"
TUNNELLED = 1450


@dataclass
class Site:
    """The lab's cloud with its ends."""

    fleet: Fleet
    ends: dict[str, Endpoint]
    addresses: dict[str, str]
    ports: dict[str, str]

    def router_host(self) -> str:
        """Where the router is."""
        return str(self.fleet.run("router-show", "edge", "-f", "json", "-c", "Host").json["Host"])

    def gateway(self) -> str:
        """The address of the router outside."""
        (row,) = self.fleet.rows(
            "SELECT address FROM addresses JOIN ports ON ports.id = port_id "
            "WHERE device_owner = 'network:router_gateway' AND released_serial IS NULL"
        )
        return str(row["address"])

    def id_of(self, kind: str) -> str:
        """The id of the only router."""
        (row,) = self.fleet.rows(f"SELECT id FROM {kind} WHERE deleted_at IS NULL")
        return str(row["id"])

    def drift(self) -> list[dict[str, str]]:
        """What ``drift`` shows."""
        said: list[dict[str, str]] = self.fleet.run("drift", "-f", "json").json
        return said

    def everything_works(self) -> None:
        """One packet on each kind of path."""
        for source, target in (("a", "b"), ("a", "c"), ("a", "d"), ("c", "d"), ("c", "e")):
            assert self.ends[source].reaches(self.addresses[target]), (source, target)
        for source in ("a", "c"):
            assert self.ends[source].reaches(OUTSIDE), source
        assert self.ends["internet"].reaches(FLOATING)


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> Iterator[Site]:
    build(fleet)
    with ExitStack() as stack:
        ends = {"internet": internet(fleet)}
        stack.callback(ends["internet"].close)
        for name, (host, _) in SERVERS.items():
            ends[name] = end_of(fleet, name, host)
            stack.callback(ends[name].close)
        ports = {name: ports_of(fleet, name)[0] for name in SERVERS}
        addresses = {name: port["IP Addresses"][0] for name, port in ports.items()}
        yield Site(fleet, ends, addresses, {name: port["Port ID"] for name, port in ports.items()})
    take_down(fleet)


def build(fleet: Fleet) -> None:
    pool = "start=203.0.113.100,end=203.0.113.199"
    external = ("--type", "flat", "--physical-network", "external")
    fleet.run("net-create", "public", "--external", *external)
    fleet.run("subnet-create", "public", "203.0.113.0/24", "--allocation-pool", pool, "--no-dhcp")
    fleet.run("router-create", "edge", "--external-gateway", "public")
    for name, cidr in (("blue", "192.168.51.0/24"), ("red", "192.168.52.0/24")):
        fleet.run("net-create", name)
        fleet.run("subnet-create", name, cidr, "--name", name)
        fleet.run("router-interface-add", "edge", name)
    fleet.run("security-group-create", "closed")
    for name, (host, network) in SERVERS.items():
        group = ("--security-group", "closed") if name == "shut" else ()
        boot(fleet, name, host, "--nic", f"net={network}", *group)
    fleet.run("stop", *SERVERS)
    fleet.run("security-group-rule-create", "default", "--remote-ip", "203.0.113.0/24")
    fleet.run("floatingip-create", "public", "--floating-ip-address", FLOATING)
    fleet.run("floatingip-associate", FLOATING, "c")


def rule_of(fleet: Fleet, group: str, remote: str) -> str:
    """The id of a group's rule for a prefix."""
    words = ("-f", "json", "-c", "ID", "-c", "IP Range")
    rules = fleet.run("security-group-rule-list", group, *words).json
    (id_,) = (row["ID"] for row in rules if row["IP Range"] == remote)
    return str(id_)


def take_down(fleet: Fleet) -> None:
    fleet.delete_all()
    fleet.run("floatingip-delete", FLOATING)
    for name in ("blue", "red"):
        fleet.run("router-interface-delete", "edge", name)
    fleet.run("router-delete", "edge")
    fleet.run("net-delete", "blue", "red", "public")
    fleet.run("security-group-delete", "closed")
    fleet.run("security-group-rule-delete", rule_of(fleet, "default", "203.0.113.0/24"))
    fleet.check_at_rest()


# --- paths --------------------------------------------------------------------------------------

PATHS = {
    "same host": ("a", "b"),
    "other host": ("a", "c"),
    "router, same host": ("a", "e"),
    "router, other host": ("a", "d"),
    "router, the other one of two on one host": ("c", "d"),
    "router, back": ("d", "a"),
}


@pytest.mark.parametrize("path", PATHS)
def test_full_size_packets_between_servers(site: Site, path: str) -> None:
    source, target = PATHS[path]
    end = site.ends[source]
    assert end.mtu == TUNNELLED, "what DHCP told"
    end.speaks(site.addresses[target], seen=site.addresses[source])


def test_full_size_packets_to_the_internet_by_snat(site: Site) -> None:
    for name in ("a", "e", "d"):
        site.ends[name].speaks(OUTSIDE, seen=site.gateway())


def test_full_size_packets_by_a_floating_ip_both_ways(site: Site) -> None:
    site.ends["c"].speaks(OUTSIDE, seen=FLOATING)
    site.ends["internet"].speaks(FLOATING, seen=OUTSIDE_SEES, mtu=TUNNELLED)


def test_full_size_packets_to_a_floating_ip_from_behind_its_router(site: Site) -> None:
    site.ends["a"].speaks(FLOATING, seen=site.gateway())
    site.ends["d"].speaks(FLOATING, seen=site.gateway())
    site.ends["c"].speaks(FLOATING, seen=FLOATING)


# --- security groups ----------------------------------------------------------------------------


def test_nobody_reaches_a_server_in_another_group_until_a_rule_lets_him(site: Site) -> None:
    ends, addresses, fleet = site.ends, site.addresses, site.fleet
    for name in ("a", "d"):
        assert ends[name].is_shut_out(addresses["shut"]), f"{name} gets in"
    assert ends["shut"].is_shut_out(addresses["a"]), "the default group lets a stranger in"
    allow = ("security-group-rule-create", "closed", "--remote-ip")
    fleet.run(*allow, "192.168.51.0/24")
    fleet.run(*allow, "192.168.52.0/24")
    for name in ("a", "d"):
        ends[name].speaks(addresses["shut"], seen=addresses[name])
    with ends["a"].stream(addresses["shut"]) as cut, ends["d"].stream(addresses["shut"]) as kept:
        assert cut.flows() and kept.flows()
        with kept.undisturbed():
            fleet.run("security-group-rule-delete", rule_of(fleet, "closed", "192.168.51.0/24"))
            assert not cut.flows(1), "cut when the command returns"
        assert ends["a"].is_shut_out(addresses["shut"])
        fleet.run(*allow, "192.168.51.0/24")
        assert kept.flows()
    fleet.run("security-group-rule-delete", rule_of(fleet, "closed", "192.168.51.0/24"))
    fleet.run("security-group-rule-delete", rule_of(fleet, "closed", "192.168.52.0/24"))


# --- down and up --------------------------------------------------------------------------------


def test_a_port_that_is_disabled_carries_nothing_until_it_is_enabled(site: Site) -> None:
    ends, fleet = site.ends, site.fleet
    with ends["a"].stream(site.addresses["c"]) as other:
        with other.undisturbed():
            fleet.run("port-set", site.ports["b"], "--disable")
            assert ends["a"].is_shut_out(site.addresses["b"])
            assert ends["b"].is_shut_out(site.addresses["c"])
            assert ends["b"].is_shut_out(OUTSIDE)
            fleet.run("port-set", site.ports["b"], "--enable")
        ends["a"].speaks(site.addresses["b"])
        ends["b"].speaks(OUTSIDE)


def test_a_network_that_is_disabled_carries_nothing_until_it_is_enabled(site: Site) -> None:
    ends, fleet = site.ends, site.fleet
    with ends["a"].stream(site.addresses["c"]) as other:
        with other.undisturbed():
            fleet.run("net-set", "red", "--disable")
            assert ends["d"].is_shut_out(site.addresses["e"])
            assert ends["a"].is_shut_out(site.addresses["e"])
            assert ends["d"].is_shut_out(OUTSIDE)
            fleet.run("net-set", "red", "--enable")
        ends["d"].speaks(site.addresses["e"])
        ends["a"].speaks(site.addresses["d"])
        ends["d"].speaks(OUTSIDE)


# --- coming, going, moving ----------------------------------------------------------------------


def test_a_nic_attached_to_a_server_speaks_and_one_detached_does_not(site: Site) -> None:
    fleet, end = site.fleet, site.ends["b"]
    with site.ends["a"].stream(site.addresses["b"]) as other:
        with other.undisturbed():
            fleet.run("interface-attach", "b", "--net", "red", "--fixed-ip", "192.168.52.77")
        port = ports_of(fleet, "b")[-1]
        end.plug(port["Port ID"], port["MAC Address"], "eth1")
        site.ends["d"].speaks("192.168.52.77", seen=site.addresses["d"])
        site.ends["e"].speaks("192.168.52.77", seen=site.addresses["e"])
        with other.undisturbed():
            fleet.run("interface-detach", "b", "192.168.52.77")
        assert site.ends["e"].is_shut_out("192.168.52.77")


def test_a_router_that_moves_keeps_its_addresses(site: Site) -> None:
    before, gateway = site.router_host(), site.gateway()
    after = {"host1": "host2", "host2": "host1"}[before]
    with site.ends["a"].stream(site.addresses["c"]) as other, other.undisturbed():
        site.fleet.run("router-move", "edge", after)
    assert (site.router_host(), site.gateway()) == (after, gateway)
    eventually(lambda: site.ends["internet"].reaches(FLOATING), "the floating IP answers")
    for name in ("a", "d"):
        site.ends[name].speaks(OUTSIDE, seen=gateway)
    site.ends["c"].speaks(OUTSIDE, seen=FLOATING)
    site.ends["internet"].speaks(FLOATING, seen=OUTSIDE_SEES, mtu=TUNNELLED)
    site.ends["a"].speaks(FLOATING, seen=gateway)
    for source, target in PATHS.values():
        site.ends[source].speaks(site.addresses[target], seen=site.addresses[source])
    assert site.drift() == []


# --- engines that die, and drift ----------------------------------------------------------------


def pids(site: Site, host: str, name: str) -> list[str]:
    return site.fleet.inside(host, "pidof", name, check=False).split()


@pytest.mark.parametrize("host", ["host1", "host2"])
def test_all_traffic_is_back_after_the_switch_and_dnsmasq_were_killed(
    site: Site, host: str
) -> None:
    before = pids(site, host, "ovs-vswitchd")
    site.fleet.inside(host, "kill", "-9", *before, *pids(site, host, "dnsmasq"))
    eventually(lambda: pids(site, host, "ovs-vswitchd") not in ([], before), "a new switch")
    kinds = {row["Kind"] for row in site.drift()}
    assert {"flows", "dhcp"} <= kinds
    site.fleet.run("converge", host)
    site.everything_works()
    assert site.drift() == []
    for name, (where, _) in SERVERS.items():
        if where == host:
            assert site.ends[name].ask("lease", device="eth0") == TUNNELLED


Spoil = Callable[[Site, str], tuple[str, ...]]


def port_on(site: Site, host: str) -> dict[str, str]:
    """The port of the server of network red that is on a host."""
    name = {"host1": "e", "host2": "d"}[host]
    return {
        "tap": f"tap{site.ports[name][:11]}",
        "mac": ports_of(site.fleet, name)[0]["MAC Address"],
    }


def flow(site: Site, host: str, *command: str) -> tuple[str, ...]:
    words, actions = command[0], command[1:]
    match = f"table={DESTINATION},dl_dst={port_on(site, host)['mac']}"
    return ("ovs-ofctl", "-O", "OpenFlow13", words, "br-int", ",".join([match, *actions]))


def router_netns(site: Site) -> str:
    return f"qrouter-{site.id_of('routers')}"


def subnet_id(site: Site) -> str:
    (row,) = site.fleet.rows("SELECT id FROM subnets WHERE name = 'red' AND deleted_at IS NULL")
    return str(row["id"])


DRIFT: dict[str, tuple[str, str, Spoil]] = {
    "flow deleted": (
        "flows", "missing or altered", lambda site, host: flow(site, host, "del-flows")),
    "flow altered": (
        "flows", "missing or altered",
        lambda site, host: flow(site, host, "mod-flows", "actions=drop")),
    "switch port deleted": (
        "port", "is not in br-int",
        lambda site, host: ("ovs-vsctl", "del-port", port_on(site, host)["tap"])),
    "chain emptied": (
        "router", "lacks",
        lambda site, host: ("ip", "netns", "exec", router_netns(site), "iptables", "-t", "nat",
                            "-F", "stackctl-prerouting")),
    "rule added": (
        "router", "too many",
        lambda site, host: ("ip", "netns", "exec", router_netns(site), "iptables", "-I",
                            "FORWARD", "-j", "DROP")),
    "router's namespace deleted": (
        "router", "no namespace", lambda site, host: ("ip", "netns", "delete", router_netns(site))),
    "DHCP namespace deleted": (
        "dhcp", "no namespace",
        lambda site, host: ("ip", "netns", "delete", f"qdhcp-{subnet_id(site)}")),
    "dnsmasq killed": (
        "dhcp", "not running", lambda site, host: ("pkill", "-9", "-f", subnet_id(site))),
}  # fmt: skip


@pytest.mark.parametrize("name", DRIFT)
def test_drift_is_told_in_words_and_healed_while_others_go_on(site: Site, name: str) -> None:
    kind, words, spoil = DRIFT[name]
    host = site.router_host()
    with site.ends["a"].stream(site.addresses["c"]) as other, other.undisturbed():
        site.fleet.inside(host, *spoil(site, host))
        told = site.drift()
        assert {row["Host"] for row in told} == {host}
        assert any(row["Kind"] == kind and words in row["Why"] for row in told), told
        site.fleet.run("converge", host)
    assert site.drift() == []
    site.everything_works()
    assert site.ends[{"host1": "e", "host2": "d"}[host]].ask("lease", device="eth0") == TUNNELLED
