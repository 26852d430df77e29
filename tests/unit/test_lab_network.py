"""The addresses and names of a lab's wires."""

import json
from collections.abc import Callable

import pytest

from stackctl.lab import host, internet, network
from stackctl.lab.errors import LabError
from stackctl.lab.host import HostPlan

Routes = Callable[[list[str]], None]


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> Routes:
    """Sets what the machine's routing table shows."""

    def show(destinations: list[str]) -> None:
        text = json.dumps([{"dst": destination} for destination in destinations])
        monkeypatch.setattr(network, "run", lambda argv: text)

    return show


@pytest.mark.parametrize(
    ("taken", "wanted", "given"),
    [
        ([], None, "172.30.0.0/24"),
        (["default"], None, "172.30.0.0/24"),
        (["172.30.0.0/24", "172.30.2.0/24"], None, "172.30.1.0/24"),
        (["172.30.0.17"], None, "172.30.1.0/24"),
        (["172.30.0.0/22"], None, "172.30.4.0/24"),
        (["172.30.0.0/24"], "172.30.7.0/24", "172.30.7.0/24"),
        (["172.30.7.0/24"], "172.30.7.0/24", "172.30.0.0/24"),
        (["10.0.0.0/8", "192.168.0.0/16"], None, "172.30.0.0/24"),
    ],
)
def test_first_free_management_network(
    routes: Routes, taken: list[str], wanted: str | None, given: str
) -> None:
    routes(taken)
    assert network.free_management_cidr(wanted) == given


@pytest.mark.parametrize("taken", ["172.30.0.0/16", "172.16.0.0/12"])
def test_full_range_is_refused(routes: Routes, taken: str) -> None:
    routes([taken])
    with pytest.raises(LabError, match=r"No /24 of 172\.30\.0\.0/16 is free"):
        network.free_management_cidr()


def test_tunnel_network_has_the_number_of_the_management_network() -> None:
    assert network.tunnel_cidr("172.30.0.0/24") == "172.31.0.0/24"
    assert network.tunnel_cidr("172.30.255.0/24") == "172.31.255.0/24"


def test_hosts_of_all_labs_differ_in_names_addresses_and_macs() -> None:
    plans = [
        HostPlan(prefix, cidr, number)
        for prefix, cidr in (("one", "172.30.0.0/24"), ("two", "172.30.1.0/24"))
        for number in range(1, host.MAX_HOSTS + 1)
    ]
    wirings = [plan.wiring for plan in plans]
    wirings += [internet.wiring("one", "172.30.0.0/24"), internet.wiring("two", "172.30.1.0/24")]
    for values in (
        [plan.address for plan in plans],
        [plan.tunnel_address for plan in plans],
        [wiring.namespace for wiring in wirings],
        [nic.mac for wiring in wirings for nic in wiring.nics],
    ):
        assert len(set(values)) == len(values)


def test_device_names_fit_the_kernel() -> None:
    longest = HostPlan("a" * 9, "172.30.0.0/24", host.MAX_HOSTS).wiring
    names = [f"{longest.port}{nic.name}" for nic in longest.nics]
    names += [f"i-{nic.name}" for nic in internet.wiring("a" * 9, "172.30.0.0/24").nics]
    assert max(map(len, [*names, network.root_link("a" * 9)])) <= 15
