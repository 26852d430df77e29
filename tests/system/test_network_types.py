"""Networks of each type between two hosts: two servers that have a NIC in one of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.fleet import Fleet
from tests.system.endpoints import Endpoint, boot, internet, ports_of

RANGES = {"provider": [300, 309], "external": [400, 409]}
NETWORKS = {
    "gre": ("192.168.61.0/24", 1458, ("--type", "gre")),
    "vlan1": ("192.168.62.0/24", 1500, ("--type", "vlan", "--physical-network", "provider")),
    "vlan2": ("192.168.63.0/24", 1500, ("--type", "vlan", "--physical-network", "external")),
    "flat": ("10.2.0.0/24", 1500, ("--type", "flat", "--physical-network", "provider")),
}
HOSTS = {"one": "host1", "two": "host2"}
OUTSIDE = "198.51.100.10"


@dataclass
class Pair:
    """The cloud, the two ends and the internet, and the address of each end in each network."""

    fleet: Fleet
    ends: dict[str, Endpoint]
    addresses: dict[str, dict[str, str]]
    mtus: dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def ranges(fleet: Fleet) -> Iterator[None]:
    """Each physical network has VLANs of its own."""
    file = fleet.cloud.folder / "config.yaml"
    before = file.read_text()
    file.write_text(yaml.safe_dump({**yaml.safe_load(before), "vlan_ranges": RANGES}))
    yield
    file.write_text(before)


@pytest.fixture(scope="module")
def pair(fleet: Fleet, ranges: None) -> Iterator[Pair]:
    for name, (cidr, _, words) in NETWORKS.items():
        fleet.run("net-create", name, *words)
        pool = ("--allocation-pool", "start=10.2.0.50,end=10.2.0.99") if name == "flat" else ()
        gateway = ("--gateway", "10.2.0.1") if name == "flat" else ("--no-gateway",)
        fleet.run("subnet-create", name, cidr, *pool, *gateway)
    nics = [word for name in NETWORKS for word in ("--nic", f"net={name}")]
    for name, host in HOSTS.items():
        boot(fleet, name, host, *nics)
    fleet.run("stop", *HOSTS)
    with ExitStack() as stack:
        made = Pair(fleet, {"internet": internet(fleet)}, {}, {})
        stack.callback(made.ends["internet"].close)
        for name, host in HOSTS.items():
            end = made.ends[name] = Endpoint(fleet.cloud.lab / "hosts" / host)
            stack.callback(end.close)
            plug_all(made, name, end)
        yield made
    fleet.delete_all()
    fleet.run("net-delete", *NETWORKS)
    fleet.check_at_rest()


def plug_all(pair: Pair, server: str, end: Endpoint) -> None:
    """Join the NICs of a server, and note what they got."""
    pair.addresses[server], pair.mtus[server] = {}, {}
    for number, port in enumerate(ports_of(pair.fleet, server)):
        end.plug(port["Port ID"], port["MAC Address"], f"eth{number}")
        pair.addresses[server][port["Network"]] = port["IP Addresses"][0]
        pair.mtus[server][port["Network"]] = end.mtu


@pytest.mark.parametrize("network", NETWORKS)
def test_full_size_packets_from_host_to_host(pair: Pair, network: str) -> None:
    mtu = NETWORKS[network][1]
    addresses = {name: pair.addresses[name][network] for name in HOSTS}
    for source, target in (("one", "two"), ("two", "one")):
        assert pair.mtus[source][network] == mtu
        pair.ends[source].speaks(addresses[target], seen=addresses[source], mtu=mtu)


def test_a_flat_network_leads_outside(pair: Pair) -> None:
    address = pair.addresses["two"]["flat"]
    pair.ends["two"].speaks(OUTSIDE, seen=address, mtu=1500)
    rule = ("default", "--remote-ip", "10.2.0.1/32")
    assert pair.ends["internet"].is_shut_out(address)
    made = pair.fleet.run("security-group-rule-create", *rule, "-f", "json", "-c", "ID").json
    pair.ends["internet"].speaks(address, seen="10.2.0.1", mtu=1500)
    pair.fleet.run("security-group-rule-delete", made["ID"])


def test_vlans_of_two_physical_networks_are_of_their_ranges(pair: Pair) -> None:
    columns = ("-f", "json", "-c", "Segmentation ID")

    def number(name: str) -> Any:
        return pair.fleet.run("net-show", name, *columns).json["Segmentation ID"]

    assert (number("vlan1"), number("vlan2")) == (300, 400)
    for host in HOSTS.values():
        for bridge, vlan in (("br-eth1", 300), ("br-ex", 400)):
            flows = pair.fleet.inside(host, "ovs-ofctl", "-O", "OpenFlow13", "dump-flows", bridge)
            assert f"set_field:{4096 + vlan}->vlan_vid" in flows
    other = ("--type", "vlan", "--physical-network", "provider", "--segmentation-id", "400")
    refused = pair.fleet.run("net-create", "refused", *other, exit=2)
    assert "use 300 to 309" in refused.err


def test_networks_of_one_server_do_not_mix(pair: Pair) -> None:
    """What is sent into one network for an address of another one gets nowhere."""
    target, end = pair.addresses["two"]["vlan2"], pair.ends["one"]
    end.run("ip", "route", "add", target, "dev", "eth1")
    try:
        assert end.is_shut_out(target)
    finally:
        end.run("ip", "route", "del", target, "dev", "eth1")
    pair.ends["one"].speaks(target, mtu=1500)
