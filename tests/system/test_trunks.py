"""Trunks of servers on the lab: subports come, go and move with the server, and nothing is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stackctl.identity.context import admin_context
from stackctl.network.networks import NewNetwork, create_network, delete_network
from stackctl.network.subnets import NewSubnet
from tests.fleet import Fleet

PORTS = ("trunk-parent", "trunk-red", "trunk-blue")


@pytest.fixture
def wired(fleet: Fleet) -> Iterator[Fleet]:
    """A trunk ``wire`` with the subport trunk-red, and trunk-blue that is in none."""
    context = admin_context(fleet.cloud)
    subnet = NewSubnet("10.83.0.0/24")
    create_network(context, NewNetwork("trunk-net", subnet=subnet)).check()
    for name in PORTS:
        fleet.run("port-create", "trunk-net", "--name", name)
    fleet.run("trunk-create", "wire", "--parent-port", PORTS[0], "--subport",
              "port=trunk-red,segmentation-type=vlan,segmentation-id=101")  # fmt: skip
    yield fleet
    fleet.delete_all()
    fleet.run("trunk-delete", "wire")
    fleet.run("port-delete", *PORTS)
    delete_network(context, "trunk-net").check()
    fleet.check_at_rest()


def bound(fleet: Fleet) -> set[tuple[str, str]]:
    """(port, host) of the trunk's ports."""
    rows = fleet.rows(
        "SELECT ports.name AS port, hosts.name AS host FROM bindings "
        "JOIN ports ON ports.id = port_id JOIN hosts ON hosts.id = host_id "
        "WHERE ports.name LIKE 'trunk-%'"
    )
    return {(row["port"], row["host"]) for row in rows}


def test_subports_follow_the_server(wired: Fleet) -> None:
    wired.boot("carrier", "--nic", "port=trunk-parent", "--host", "host1")
    wired.check()
    assert bound(wired) == {("trunk-parent", "host1"), ("trunk-red", "host1")}
    wired.run("trunk-subport-add", "wire", "port=trunk-blue,segmentation-id=102")
    wired.check()
    wired.run("live-migrate", "carrier", "--host", "host2")
    wired.check()
    assert bound(wired) == {(name, "host2") for name in PORTS}
    wired.run("trunk-subport-delete", "wire", "trunk-red")
    wired.check()
    assert bound(wired) == {("trunk-parent", "host2"), ("trunk-blue", "host2")}
    assert wired.run("drift").exit == 0
