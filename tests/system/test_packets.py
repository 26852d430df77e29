"""The table of packets once more: real frames between guests, servers, a router and the wire."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.resources import topology
from tests import agent_networks as net
from tests import packets
from tests.system import raw_frames
from tests.system.nethost import NetHost, hosts

SCRIPT = raw_frames.__file__
LISTEN_S = 25


@dataclass
class Stage:
    """A host, and where each name of the table is: namespace ("" for the host's) and device."""

    host: NetHost
    places: dict[str, tuple[str, str]] = field(default_factory=dict)

    def inside(self, name: str, *words: str) -> list[str]:
        namespace, device = self.places[name]
        enter = ["ip", "netns", "exec", namespace] if namespace else []
        return [*enter, sys.executable, str(SCRIPT), words[0], device, *words[1:]]

    def send(self, name: str, frames: list[bytes]) -> None:
        file = self.host.folder / "frames"
        file.write_text("\n".join(frame.hex() for frame in frames))
        self.host.ok(*self.inside(name, "send", str(file)))

    def heard(self, name: str) -> Path:
        return self.host.folder / f"heard-{name}"

    def listen(self) -> None:
        for name in self.places:
            argv = self.inside(name, "listen", str(self.heard(name)), str(LISTEN_S))
            self.host.ok("sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *argv)
        for name in self.places:
            deadline = time.monotonic() + 10
            while not self.heard(name).exists() or not self.heard(name).read_text():
                assert time.monotonic() < deadline, f"{name} does not listen"
                time.sleep(0.05)


def put_up(host: NetHost) -> Stage:
    """Converge a host on the table's spec and plug everything in."""
    host.ok("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far1")
    host.ok("ip", "link", "set", "far1", "up")
    host.converge(packets.spec())
    assert host.steps(packets.spec()) == []
    stage = Stage(host)
    for name, port in {**packets.GUESTS, "outer": packets.OUTER}.items():
        guest = host.guest(name, port)
        # What the guests' kernels say by themselves is not in the table.
        guest.ok("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        stage.places[name] = (name, "eth0")
    for name, subnet, port_id in (
        ("dhcp4", net.uid("subn", 1), net.uid("dhcp", 1)),
        ("dhcp6", net.uid("six", 1), net.uid("dhcp", 101)),
        ("dhcp2", net.uid("subn", 2), net.uid("dhcp", 2)),
    ):
        stage.places[name] = (topology.dhcp_netns(subnet), topology.tap_name(port_id))
    router = topology.router_netns(net.uid("rout", 1))
    stage.places["router"] = (router, topology.interface_name(packets.ROUTER.id))
    stage.places["wire"] = ("", "far1")
    return stage


@pytest.fixture(scope="module")
def heard() -> Iterator[dict[int, set[str]]]:
    """Who heard which row of the table."""
    with hosts(1) as (host,):
        stage = put_up(host)
        stage.listen()
        numbered = list(enumerate(packets.TABLE))
        for sender, rows in itertools.groupby(numbered, key=lambda entry: entry[1].sender):
            stage.send(sender, [raw_frames.marked(row.frame, number) for number, row in rows])
        time.sleep(1)
        found: dict[int, set[str]] = {}
        for name in stage.places:
            for line in stage.heard(name).read_text().splitlines()[1:]:
                found.setdefault(int(line), set()).add(name)
        yield found


@pytest.mark.parametrize(
    "number", range(len(packets.TABLE)), ids=[row.name for row in packets.TABLE]
)
def test_packet(heard: dict[int, set[str]], number: int) -> None:
    assert heard.get(number, set()) == packets.TABLE[number].reached
