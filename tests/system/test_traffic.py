"""Security groups, zones and limits under real traffic: what lives goes on, what is cut is cut."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.spec import (
    BandwidthLimit,
    FixedAddress,
    HostSpec,
    Port,
    SecurityGroup,
    SecurityRule,
    to_plain,
)
from tests import agent_networks as net
from tests import frames
from tests.system import raw_frames, streams
from tests.system.nethost import Guest, NetHost, hosts

SERVICE, FREE = net.uid("grou", 5), net.uid("grou", 6)
CLIENT = net.private_port(4, "client", security_groups=(FREE,))
SERVER = net.private_port(6, "server", security_groups=(SERVICE,))
OTHER = net.private_port(7, "other", security_groups=(SERVICE,))
TO, AT = "192.168.1.6", "8001"
OUT = (net.rule(41, "egress"), net.rule(42, "egress", "IPv6"))
IN = net.rule(43, "ingress", protocol=6, port_min=8000, port_max=8010)
DATAGRAMS = net.rule(44, "ingress", protocol=17, port_min=9000, port_max=9001)


def spec(
    free: tuple[SecurityRule, ...] = OUT,
    service: tuple[SecurityRule, ...] = (*OUT, IN, DATAGRAMS),
    ports: tuple[Port, ...] = (CLIENT, SERVER, OTHER),
) -> HostSpec:
    """One host with a private network, and two groups with these rules."""
    base = net.host_spec(1)
    return replace(
        base,
        settings=replace(base.settings, bridge_mappings=()),
        networks=(net.private(1),),
        ports=ports,
        security_groups=(SecurityGroup(FREE, 1, free), SecurityGroup(SERVICE, 1, service)),
        members=(),
    )


@dataclass
class Place:
    """A host and its guests, which have their addresses."""

    host: NetHost
    guests: dict[str, Guest]

    def start(self, name: str, *words: str) -> None:
        """Run a stream in a guest, and do not wait for it."""
        argv = ["ip", "netns", "exec", name, sys.executable, streams.__file__, *words]
        self.host.ok("sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *argv)

    def file(self, name: str) -> str:
        path = self.host.folder / name
        path.unlink(missing_ok=True)
        return str(path)

    def zone(self) -> str:
        return self.host.ok("ovs-appctl", "dpctl/dump-conntrack", "zone=2")


def count(file: str) -> int:
    """What a stream has told last."""
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        return int(Path(file).read_text().split()[0])
    return 0


def soon(check: Callable[[], object], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def grows(file: str) -> None:
    before = count(file)
    soon(lambda: count(file) > before + 3000, f"{file} stands still at {before}", 20)


def plug(host: NetHost, name: str, port: Port) -> Guest:
    guest = host.guest(name, port)
    guest.ok("ip", "link", "set", "eth0", "mtu", "1450")
    for fixed in port.addresses:
        guest.ok("ip", "addr", "add", f"{fixed.address}/24", "dev", "eth0")
    return guest


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with hosts(1) as (host,):
        host.converge(spec())
        named = {"client": CLIENT, "server": SERVER, "other": OTHER}
        yield Place(host, {name: plug(host, name, port) for name, port in named.items()})


# --- what the switch remembers ------------------------------------------------------------------


def decisions(place: Place) -> set[str]:
    """What the switch derived from its tables for packets that it saw, by the ids of it."""
    return set(re.findall(r"ufid:(\S+?),", place.host.ok("ovs-appctl", "dpctl/dump-flows", "-m")))


def test_a_packet_is_not_dropped_by_what_the_switch_remembers_of_flows_before(place: Place) -> None:
    place.host.converge(spec(free=()))
    ping = ("ping", "-c", "3", "-i", "0.1", "-W", "1", TO)
    assert place.guests["client"].sh(*ping)["status"] != 0
    before = decisions(place)
    assert before
    place.host.converge(spec())
    assert not before & decisions(place)
    assert place.host.steps(spec()) == []


def test_a_switch_that_was_left_with_its_memory_is_made_to_forget_it(place: Place) -> None:
    place.host.converge(spec())
    mark = place.host.folder / "data" / "pending" / "flows-br-int"
    assert not mark.exists()
    mark.touch()
    (step,) = place.host.steps(spec())
    assert (step["kind"], step["id"], step["result"]) == ("flows", "br-int", "changed")
    assert not mark.exists()
    assert place.host.steps(spec()) == []


# --- rules that come and go ---------------------------------------------------------------------

REVOKED = {
    "ingress at the receiver": {"service": OUT},
    "egress at the sender": {"free": ()},
}


@pytest.mark.parametrize("name", sorted(REVOKED))
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_revoked_rule_cuts_and_a_rule_again_brings_back(
    place: Place, name: str, way: str
) -> None:
    place.host.converge(spec())
    file = place.file("count")
    if way == "up":
        place.start("server", "tcp_sink", AT, file)
        time.sleep(0.3)
        place.start("client", "tcp_source", TO, AT, "30", "0.01")
    else:
        place.start("server", "tcp_offer", AT, "30", "0.01")
        time.sleep(0.3)
        place.start("client", "tcp_fetch", TO, AT, file)
    grows(file)
    place.host.converge(spec(**REVOKED[name]))
    time.sleep(1)
    still = count(file)
    time.sleep(1)
    assert count(file) == still
    place.host.converge(spec())
    grows(file)
    assert place.host.steps(spec()) == []
    stop(place, "client", "server")


def test_a_stream_through_200_changes_of_rules_loses_nothing(place: Place) -> None:
    place.host.converge(spec())
    file = place.file("datagrams")
    place.start("server", "udp_sink", "9000", file, "120")
    soon(lambda: Path(file).exists(), "no sink")
    place.start("client", "udp_source", TO, "9000", "100000", "100", "0.004")
    soon(lambda: count(file) > 0, "nothing arrives")
    for number in range(200):
        last = 2000 + 7 * number
        more = net.rule(50, "ingress", protocol=6, port_min=1000 + number, port_max=last)
        rules = (*OUT, IN, DATAGRAMS, *((more,) if number % 3 else ()))
        assert place.host.steps(spec(service=rules)) != [] or number == 0
    stop(place, "client")
    time.sleep(0.5)
    arrived, sent = datagrams(file)
    assert arrived == sent > 1000
    stop(place, "server")


def stop(place: Place, *names: str) -> None:
    for name in names:
        place.host.sh("sh", "-c", f"ip netns pids {name} | xargs -r kill")


def datagrams(file: str) -> tuple[int, int]:
    """How many have arrived, and how many were sent by their numbers."""
    arrived, sent = Path(file).read_text().split()
    return int(arrived), int(sent)


# --- fragments ----------------------------------------------------------------------------------


def test_fragments_are_judged_by_the_ports_of_the_whole(place: Place) -> None:
    place.host.converge(spec())
    for port, wanted in (("9001", 20), ("9002", 0)):
        file = place.file(f"fragments-{port}")
        place.start("server", "udp_sink", port, file, "5")
        soon(lambda: Path(file).exists(), "no sink")  # noqa: B023
        place.start("client", "udp_source", TO, port, "20", "5000", "0.02")
        if wanted:
            soon(lambda: datagrams(file)[0] == wanted, "not all arrive", 4)  # noqa: B023
        else:
            time.sleep(2)
            assert datagrams(file)[0] == 0
        stop(place, "client", "server")


def test_a_dhcp_reply_in_pieces_goes_nowhere(place: Place) -> None:
    """Each piece looks harmless: only put together they show their ports."""
    wide = (*OUT, net.rule(45, "ingress"))
    place.host.converge(spec(service=wide))
    reply = frames.pieces((CLIENT.mac, SERVER.mac), ("192.168.1.4", TO), (67, 68), 3000)
    other = frames.pieces((CLIENT.mac, SERVER.mac), ("192.168.1.4", TO), (66, 68), 3000)
    assert heard(place, "server", "client", reply) == set()
    assert heard(place, "server", "client", other) == {0, 1, 2}


def heard(place: Place, listener: str, sender: str, sent: list[bytes]) -> set[int]:
    """Which of the frames arrive."""
    file, source = place.file("heard"), place.host.folder / "frames"
    inside = ["ip", "netns", "exec"]
    script = [sys.executable, raw_frames.__file__]
    argv = [*inside, listener, *script, "listen", "eth0", file, "3"]
    place.host.ok("sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *argv)
    soon(lambda: Path(file).exists() and Path(file).read_text(), "nobody listens")
    marked = [raw_frames.marked(frame, number) for number, frame in enumerate(sent)]
    source.write_text("\n".join(frame.hex() for frame in marked))
    place.host.ok(*inside, sender, *script, "send", "eth0", str(source))
    time.sleep(1)
    return {int(line) for line in Path(file).read_text().splitlines()[1:]}


# --- zones --------------------------------------------------------------------------------------


def connect(place: Place) -> str:
    """A connection from client to server that stays open; where its source port is."""
    file = place.file("open")
    place.start("server", "tcp_sink", AT, file)
    time.sleep(0.3)
    place.start("client", "tcp_source", TO, AT, "60", "0.05")
    soon(lambda: count(file) > 0, "no connection")
    found = re.search(rf"src=192.168.1.4,dst={TO},sport=(\d+),dport={AT}", place.zone())
    assert found, place.zone()
    return found[1]


def test_an_address_that_leaves_its_port_takes_its_connections_along(place: Place) -> None:
    place.host.converge(spec())
    connect(place)
    place.start("other", "udp_source", TO, "9000", "3", "10", "0.1")
    soon(lambda: "src=192.168.1.7" in place.zone(), "no second connection")
    heir = replace(OTHER, id=net.uid("heir", 7), mac=net.mac(0x47), security_groups=())
    place.host.converge(spec(ports=(CLIENT, SERVER, heir)))
    assert "192.168.1.7" not in place.zone() and "192.168.1.4" in place.zone()
    place.host.converge(spec())
    stop(place, "client", "server")


def test_the_switch_survives_forgetting_addresses_of_icmpv6(place: Place) -> None:
    """Open vSwitch 3.1 dies of a connection of ICMPv6 that is flushed by its addresses."""
    subnet = net.ipv6_subnet(1, "slaac")
    network = replace(net.private(1), subnets=(*net.private(1).subnets, subnet))
    both = [
        replace(
            port, addresses=(*port.addresses, FixedAddress(subnet.id, net.ipv6_of(1, port.mac)))
        )
        for port in (CLIENT, SERVER)
    ]
    wide = (*OUT, net.rule(46, "ingress", "IPv6"))
    dual = replace(spec(service=wide, ports=(*both, OTHER)), networks=(network,))
    place.host.converge(dual)
    own, to = (port.addresses[1].address for port in both)
    for name, address in (("client", own), ("server", to)):
        place.guests[name].ok("ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    assert place.guests["client"].pings(to)
    place.start("client", "udp_source", to, "9000", "3", "10", "0.1")
    soon(lambda: f"udp,orig=(src={own}" in place.zone(), "no connection")
    pid = place.host.ok("pidof", "ovs-vswitchd")
    place.host.converge(replace(dual, ports=(CLIENT, both[1], OTHER)))
    assert place.host.ok("pidof", "ovs-vswitchd") == pid
    assert f"udp,orig=(src={own}" not in place.zone()
    place.host.converge(spec())


# --- limits -------------------------------------------------------------------------------------


def rate(place: Place, way: tuple[str, str], seconds: int = 4) -> float:
    """Megabits a second that TCP reaches."""
    source, sink = way
    address = {"client": "192.168.1.4", "server": TO, "other": "192.168.1.7"}[sink]
    file = place.file("rate")
    place.start(sink, "tcp_sink", AT, file)
    time.sleep(0.3)
    place.start(source, "tcp_source", address, AT, str(seconds), "0")
    soon(lambda: count(file) > 0, "no connection")
    begun, before = time.monotonic(), count(file)
    time.sleep(seconds - 1)
    bits = (count(file) - before) * 8
    stop(place, source, sink)
    return bits / (time.monotonic() - begun) / 1e6


def limited(**limit: int) -> HostSpec:
    port = replace(SERVER, limit=BandwidthLimit(**limit))
    return spec(ports=(CLIENT, port, OTHER))


def test_a_port_receives_no_more_than_its_limit_and_heals(place: Place) -> None:
    place.host.converge(spec())
    assert rate(place, ("client", "server")) > 30
    place.host.converge(limited(ingress_kbps=8000))
    assert place.host.steps(limited(ingress_kbps=8000)) == []
    assert 3 < rate(place, ("client", "server")) < 10
    place.host.ok("ovs-ofctl", "-O", "OpenFlow13", "del-meters", "br-int")
    told = place.host.steps(limited(ingress_kbps=8000))
    assert any("limits missing" in step["why"] for step in told)
    assert 3 < rate(place, ("client", "server")) < 10
    told = place.host.steps(spec())
    assert any("limits too many" in step["why"] for step in told)
    assert place.host.ok("ovs-ofctl", "-O", "OpenFlow13", "dump-meters", "br-int").count("\n") == 1


def test_a_port_sends_no_more_than_its_limit(place: Place) -> None:
    wide = (*OUT, net.rule(47, "ingress", protocol=6))
    before = replace(
        limited(egress_kbps=8000), security_groups=spec(service=wide, free=wide).security_groups
    )
    place.host.converge(before)
    assert 3 < rate(place, ("server", "client")) < 10
    assert rate(place, ("client", "server")) > 30
    place.host.converge(spec())


# --- a network's local VLAN goes to another -----------------------------------------------------


def next_network() -> HostSpec:
    """Another network in the same local VLAN, with the same addresses and no rules."""
    ports = [
        replace(
            port,
            id=net.uid("next", number),
            network_id=net.uid("net", 9),
            security_groups=(),
        )
        for number, port in enumerate((CLIENT, SERVER))
    ]
    network = replace(net.private(1), id=net.uid("net", 9), segmentation_id=0x77)
    return replace(spec(ports=tuple(ports)), networks=(network,))


def test_a_zone_is_empty_before_its_next_network(place: Place) -> None:
    place.host.converge(spec())
    source = int(connect(place))
    stop(place, "client", "server")
    place.host.converge(next_network())
    assert place.zone() == ""
    for name, port in zip(("next-client", "next-server"), next_network().ports):
        place.guests[name] = plug(place.host, name, port)
    # An answer in the old connection, from an address that may not begin one.
    reply = frames.tcp(
        (SERVER.mac, CLIENT.mac), (TO, "192.168.1.4"), (int(AT), source), flags=frames.ACK
    )
    assert heard(place, "next-client", "next-server", [reply]) == set()


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_death_while_a_zone_changes_hands_leaves_nothing_in_it(place: Place, stride: int) -> None:
    for at in range(1, 80, stride):
        place.host.converge(spec())
        name = f"mortal-{stride}-{at}"
        place.guests[name] = plug(place.host, name, CLIENT)
        place.guests[name].ok("ip", "neigh", "add", TO, "lladdr", SERVER.mac, "dev", "eth0")
        place.start(name, "udp_source", TO, "9000", "1", "10", "0")
        soon(lambda: place.zone(), "no connection")
        answer = place.host.ask("converge", spec=to_plain(next_network()), kill_at=at)
        place.host.converge(next_network())
        assert place.zone() == "", answer
        assert place.host.steps(next_network()) == []
        if "killed" not in answer:
            assert at > 10
            return
