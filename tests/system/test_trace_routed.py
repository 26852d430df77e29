"""What trace says and what packets do, through routers, source NAT and floating IPs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import Fleet
from tests.system.test_trace import ADDRESSES, Traced, guests

__all__ = ["guests"]

INNER = "10.66.1.2"
OUTSIDE = "198.51.100.53"
"""The name server of the lab's internet."""


@pytest.fixture(scope="module")
def routed(guests: Traced, guest_image: Path) -> Iterator[tuple[Traced, str]]:
    """d on host1 in a network of its own, behind a router on host2; with its floating IP."""
    fleet = guests.fleet
    image = ("--image", "traced", "--flavor", "traced", "--key", "tracer", "--wait", "ssh")
    fleet.run("net-create", "inner", "--subnet", "10.66.1.0/24")
    outer = ("--external", "--type", "flat", "--physical-network", "external")
    fleet.run("net-create", "public", *outer)
    fleet.run("subnet-create", "public", "203.0.113.0/24", "--no-dhcp")
    fleet.run("router-create", "edge", "--external-gateway", "public", "--host", "host2")
    for subnet in fleet.run("subnet-list", "-f", "json", "-c", "ID", "-c", "CIDR").json:
        if subnet["CIDR"].startswith("10.66."):
            fleet.run("router-interface-add", "edge", subnet["ID"])
    fleet.run("boot", "d", *image, "--host", "host1", "--nic", "net=inner")
    made = fleet.run("floatingip-create", "public", "-f", "json").json
    floating = made["Floating IP Address"]
    fleet.run("add-floating-ip", "d", floating)
    yield guests, floating
    fleet.delete_all()
    fleet.run("floatingip-delete", floating)
    for subnet in fleet.run("subnet-list", "-f", "json", "-c", "ID", "-c", "CIDR").json:
        if subnet["CIDR"].startswith("10.66."):
            fleet.run("router-interface-delete", "edge", subnet["ID"])
    fleet.run("router-delete", "edge")
    fleet.run("net-delete", "inner", "public")


def said(found: dict[str, Any]) -> str:
    return "\n".join(hop["what"] for hop in found["hops"])


def test_from_network_to_network(routed: tuple[Traced, str]) -> None:
    guests = routed[0]
    found = guests.trace("a", "d")
    assert found["delivered"], found
    assert [hop["host"] for hop in found["hops"]] == ["host1", *["host2"] * 3, "host1"]
    assert f"router edge, routed to {INNER} in net inner" in said(found)
    assert guests.pings("a", INNER)


def test_to_the_outside(routed: tuple[Traced, str]) -> None:
    guests, floating = routed
    for name, address in (("a", "203.0.113."), ("d", floating)):
        found = guests.trace(name, OUTSIDE)
        assert found["end"].startswith("it leaves the cloud, out by "), found
        assert f" becomes {address}" in said(found)
        assert guests.pings(name, OUTSIDE)


def test_from_the_outside_and_by_the_floating_address(routed: tuple[Traced, str]) -> None:
    guests, floating = routed
    refused = "no rule of group default lets it in to server d (host host1)"
    assert guests.trace("internet", "d")["end"] == refused
    assert guests.trace("a", floating)["end"] == refused
    assert not guests.pings("a", floating)
    rule = ("security-group-rule-create", "default", "--protocol", "icmp", "-f", "json")
    rule_id = guests.fleet.run(*rule).json["ID"]
    try:
        found = guests.trace("internet", floating)
        assert found["delivered"], found
        assert f"target {floating} becomes {INNER}" in said(found)
        assert f"let in by rule {rule_id[:8]} of group default" in said(found)
        assert guests.trace("a", floating)["delivered"]
        assert guests.pings("a", floating)
    finally:
        guests.fleet.run("security-group-rule-delete", rule_id)


def test_the_router_answers_itself(routed: tuple[Traced, str]) -> None:
    guests = routed[0]
    found = guests.trace("a", "edge")
    assert found["end"] == "it arrives at router edge (host host2)"
    assert guests.pings("a", "10.66.0.1")


def test_reachability_says_the_same(routed: tuple[Traced, str]) -> None:
    """For all pairs, and from and to the outside, what the rows say is what the hosts do."""
    guests = routed[0]
    every = ("reachability", "--proto", "icmp", "--all", "-f", "json")
    rows = guests.fleet.run(*every).json
    told = {(row["From"], row["To"]): bool(row["Allowed"]) for row in rows}
    names = [*ADDRESSES, "d"]
    assert told.keys() >= set(permutations(names, 2))
    for (source, target), allowed in told.items():
        if "internet" not in (source, target):
            assert guests.trace(source, target)["delivered"] == allowed, (source, target)
    assert told["d", "internet"] and not told["internet", "d"]


def test_a_router_that_is_down(routed: tuple[Traced, str]) -> None:
    guests = routed[0]
    fleet: Fleet = guests.fleet
    fleet.run("router-set", "edge", "--disable")
    try:
        assert not guests.trace("a", "d")["delivered"]
        assert not guests.pings("a", INNER)
    finally:
        fleet.run("router-set", "edge", "--enable")
    assert guests.trace("a", "d")["delivered"]
