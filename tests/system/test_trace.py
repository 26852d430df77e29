"""What trace says and what packets do: the same, on hosts with real switches and guests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stackctl.compute.keypairs import add_keypair
from stackctl.identity.context import admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from tests.fleet import Fleet

NOT_DELIVERED = 1


@dataclass
class Traced:
    """Three guests in one network: a and b on host1, c on host2."""

    fleet: Fleet
    key: Path

    def trace(self, *words: str) -> dict[str, Any]:
        """What trace says; its exit status must agree."""
        done = self.fleet.start("trace", *words, "-f", "json").wait()
        assert done.exit in (0, NOT_DELIVERED), str(done)
        found: dict[str, Any] = done.json
        assert found["delivered"] == (done.exit == 0)
        return found

    def guest(self, name: str, command: str) -> bool:
        """Whether a command in a guest ends well."""
        done = self.fleet.start("ssh", "-i", str(self.key), name, command).wait()
        assert done.exit != 255, str(done)
        return done.exit == 0

    def pings(self, name: str, address: str) -> bool:
        """Whether a guest gets an answer."""
        return self.guest(name, f"ping -c 2 -W 2 {address} >/dev/null")


@pytest.fixture(scope="module")
def guests(fleet: Fleet, guest_image: Path, tmp_path_factory: Any) -> Iterator[Traced]:
    context = admin_context(fleet.cloud)
    create_image(context, NewImage("traced", "qcow2"), io.BytesIO(guest_image.read_bytes())).check()
    key = tmp_path_factory.mktemp("trace") / "key"
    key.write_text(add_keypair(context, "tracer").value.private_key or "")
    key.chmod(0o600)
    fleet.run("flavor-create", "traced", "--ram", "128", "--disk", "1", "--vcpus", "1")
    image = ("--image", "traced", "--flavor", "traced", "--key", "tracer", "--wait", "ssh")
    fleet.run("net-create", "traced", "--subnet", "10.66.0.0/24")
    for name, host in (("a", "host1"), ("b", "host1"), ("c", "host2")):
        fleet.run("boot", name, *image, "--host", host, "--nic", "net=traced")
    yield Traced(fleet, key)
    fleet.delete_all()
    fleet.run("net-delete", "traced")
    fleet.run("image-delete", "traced")
    fleet.run("flavor-delete", "traced")
    fleet.run("keypair-delete", "tracer")


ADDRESSES = {"a": "10.66.0.2", "b": "10.66.0.4", "c": "10.66.0.5"}


@pytest.mark.parametrize(("target", "hosts"), [("b", ["host1"]), ("c", ["host1", "host2"])])
def test_what_arrives(guests: Traced, target: str, hosts: list[str]) -> None:
    found = guests.trace("a", target)
    assert found["delivered"], found
    assert [hop["host"] for hop in found["hops"]] == hosts
    assert f"arrives at server {target}" in found["end"]
    assert "let in by rule" in found["hops"][-1]["what"]
    assert found["mtu"] == 1450
    assert guests.pings("a", ADDRESSES[target])


def test_what_groups_refuse(guests: Traced) -> None:
    fleet = guests.fleet
    fleet.run("security-group-create", "shut")
    fleet.run("security-group-rule-create", "shut", "--protocol", "tcp", "--dst-port", "9999")
    port = fleet.run("port-list", "-f", "json", "-c", "ID", "-c", "Server").json
    port_id = next(row["ID"] for row in port if row["Server"] == "c")
    fleet.run("port-set", port_id, "--security-group", "shut")
    try:
        found = guests.trace("a", "c")
        assert found["end"] == "no rule of group shut lets it in to server c (host host2)"
        assert not guests.pings("a", ADDRESSES["c"])
        assert guests.trace("a", "c", "--proto", "tcp", "--port", "9999")["delivered"]
        assert not guests.trace("a", "c", "--proto", "tcp", "--port", "9998")["delivered"]
    finally:
        fleet.run("port-set", port_id, "--security-group", "default")
        fleet.run("security-group-delete", "shut")


def test_a_spoofed_sender(guests: Traced) -> None:
    found = guests.trace("a:10.66.0.77", "b")
    assert found["end"].startswith("anti-spoofing: 10.66.0.77 is not an address of this port")
    assert guests.guest("a", "ip addr add 10.66.0.77/24 dev eth0")
    assert not guests.guest("a", f"ping -c 2 -W 2 -I 10.66.0.77 {ADDRESSES['b']} >/dev/null")
    assert guests.guest("a", "ip addr del 10.66.0.77/24 dev eth0")


def test_a_flow_that_was_taken_away_is_called_drift(guests: Traced) -> None:
    fleet = guests.fleet
    inside = ("ovs-ofctl", "-O", "OpenFlow13", "del-flows", "br-int", "table=82")
    fleet.inside("host1", *inside)
    try:
        found = guests.trace("a", "b")
        assert not found["delivered"]
        assert not guests.pings("a", ADDRESSES["b"])
        drifted = fleet.run("drift", "host1", "-f", "json").json
        assert [row["Kind"] for row in drifted] == ["flows"]
    finally:
        fleet.run("converge", "host1")
    assert guests.trace("a", "b")["delivered"]
    assert guests.pings("a", ADDRESSES["b"])


def test_a_port_that_is_down(guests: Traced) -> None:
    fleet = guests.fleet
    port = fleet.run("port-list", "-f", "json", "-c", "ID", "-c", "Server").json
    port_id = next(row["ID"] for row in port if row["Server"] == "b")
    fleet.run("port-set", port_id, "--disable")
    try:
        assert guests.trace("a", "b")["end"] == "the port that it is for is down (host host1)"
        assert "is down" in guests.trace("b", "a")["end"]
        assert not guests.pings("a", ADDRESSES["b"])
    finally:
        fleet.run("port-set", port_id, "--enable")
    assert guests.trace("a", "b")["delivered"]


def test_nobody_there(guests: Traced) -> None:
    found = guests.trace("a", "10.66.0.99")
    assert found["end"] == "nobody in net traced has 10.66.0.99: server a gets no answer"
    assert not guests.pings("a", "10.66.0.99")
