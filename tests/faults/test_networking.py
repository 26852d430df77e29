"""Routers, floating IPs and security groups, whoever dies in the middle of a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.test_controller_killed import NEXT, kill
from tests.fleet import Fleet, paragraph

MAX_POINTS = 80
RULE = ("--protocol", "tcp", "--dst-port", "80")
FLOATING = "203.0.113.50"


@dataclass(frozen=True)
class Change:
    """A change, how it is taken back, and what finds it in the database."""

    do: tuple[str, ...]
    undo: tuple[str, ...]
    look: str

    def is_made(self, fleet: Fleet) -> bool:
        """Whether the database has it."""
        return bool(fleet.rows(self.look))


LIVE_PORT = "SELECT id FROM ports WHERE deleted_at IS NULL AND device_owner = 'network:router_"
CHANGES = {
    "interface": Change(
        ("router-interface-add", "edge", "inner"),
        ("router-interface-delete", "edge", "inner"),
        LIVE_PORT + "interface' AND network_id IN (SELECT id FROM networks WHERE name = 'inner')",
    ),
    "gateway": Change(
        ("router-gateway-set", "side", "outside"),
        ("router-gateway-clear", "side"),
        LIVE_PORT + "gateway' AND device_id IN (SELECT id FROM routers WHERE name = 'side')",
    ),
    "floating IP": Change(
        ("floatingip-associate", FLOATING, "a-2"),
        ("floatingip-disassociate", FLOATING),
        "SELECT id FROM floating_ips WHERE deleted_at IS NULL AND port_id IS NOT NULL",
    ),
    "rule": Change(
        ("security-group-rule-create", "default", *RULE),
        ("security-group-rule-delete", "RULE"),
        "SELECT id FROM security_group_rules WHERE deleted_at IS NULL AND port_min = 80",
    ),
}


@pytest.fixture(scope="module")
def networks(fleet: Fleet) -> Iterator[None]:
    """Two networks, one outside, and two routers: edge leads from one of them outside."""
    external = ("--external", "--type", "flat", "--physical-network", "external")
    fleet.run("net-create", "outside", *external)
    fleet.run("subnet-create", "outside", "203.0.113.0/24", "--no-dhcp")
    for name, cidr in (("near", "10.79.0.0/24"), ("inner", "10.80.0.0/24")):
        fleet.run("net-create", name)
        fleet.run("subnet-create", name, cidr, "--name", name)
    fleet.run("router-create", "edge", "--external-gateway", "outside")
    fleet.run("router-interface-add", "edge", "near")
    fleet.run("router-create", "side")
    fleet.run("floatingip-create", "outside", "--floating-ip-address", FLOATING)
    yield
    fleet.run("floatingip-delete", FLOATING)
    fleet.run("router-interface-delete", "edge", "near")
    fleet.run("router-delete", "edge", "side")
    fleet.run("net-delete", "near", "inner", "outside")
    fleet.check_at_rest()


@pytest.fixture
def routed(fleet: Fleet, networks: None) -> Iterator[Fleet]:
    """The fleet with a server on each host, a-1 and a-2, in the network that edge routes."""
    image = ("--image", "tiny", "--flavor", "tiny", "--nic", "net=near")
    fleet.run("boot", "a", *image, "--count", "2")
    hosts = {row["Host"] for row in fleet.servers().values()}
    assert hosts == set(fleet.hosts())
    fleet.check_at_rest()
    yield fleet


def words(fleet: Fleet, argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command with the id of the rule that it means."""
    if "RULE" not in argv:
        return argv
    (rule,) = fleet.rows(CHANGES["rule"].look)
    return (*argv[:-1], str(rule["id"]))


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_survive_a_controller_killed_at_any_point(
    routed: Fleet, name: str, stride: int
) -> None:
    change = CHANGES[name]
    for at in range(1, MAX_POINTS, stride):
        done = [die_and_go_on(routed, change.do, at), False]
        if not change.is_made(routed):
            routed.run(*change.do)
        undo = words(routed, change.undo)
        done[1] = die_and_go_on(routed, undo, at)
        if change.is_made(routed):
            routed.run(*undo)
            routed.check_at_rest()
        if all(done):
            assert at > 4
            return
    raise AssertionError("the points never end")


def die_and_go_on(fleet: Fleet, argv: tuple[str, ...], at: int) -> bool:
    """Run a command that dies at a point, and what people type next; whether it came to its end."""
    argv = (*argv, "--request-id", f"{argv[0]}-{argv[-1]}-{at}-{len(fleet.rows(REQUESTS))}")
    ended = kill(fleet, at, *argv)
    NEXT[at % len(NEXT)](fleet, argv)
    fleet.check_at_rest()
    return ended


REQUESTS = "SELECT id FROM operations"


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_finish_though_agents_die_at_any_point(
    routed: Fleet, name: str, stride: int
) -> None:
    change = CHANGES[name]
    usual = [logins_of(routed, change.do), logins_of(routed, words(routed, change.undo))]
    for at in range(1, MAX_POINTS, stride):
        dead = logins_of(routed, change.do, at) - usual[0]
        assert change.is_made(routed)
        routed.check_at_rest()
        dead += logins_of(routed, words(routed, change.undo), at) - usual[1]
        assert not change.is_made(routed)
        routed.check_at_rest()
        if dead == 0:
            assert at > 3
            return
    raise AssertionError("the points never end")


def logins_of(fleet: Fleet, argv: tuple[str, ...], at: int = 0) -> int:
    """Run a command whose agents die at a point; how many agents were started."""
    before = sum(map(fleet.logins, fleet.hosts()))
    fleet.run(*argv, STACKCTL_AGENT_KILL_AT=str(at))
    return sum(map(fleet.logins, fleet.hosts())) - before


# --- moving -------------------------------------------------------------------------------------


def router_host(fleet: Fleet) -> str:
    """Where edge is."""
    return str(fleet.run("router-show", "edge", "-f", "json", "-c", "Host").json["Host"])


def other_host(fleet: Fleet, host: str) -> str:
    """The other one."""
    return next(name for name in fleet.hosts() if name != host)


def test_a_router_is_not_moved_from_a_host_that_is_down(routed: Fleet) -> None:
    here = router_host(routed)
    with routed.down(here):
        refused = routed.run("router-move", "edge", exit=20)
        text, hint = paragraph(refused)
        assert here in text and "edge stays" in text
        assert hint.endswith(f"host-fence {here}")
        assert router_host(routed) == here
        routed.check([other_host(routed, here)])
    routed.check_at_rest()
    assert router_host(routed) == here


def test_a_router_is_not_moved_to_a_host_that_is_down(routed: Fleet) -> None:
    here = router_host(routed)
    with routed.down(other_host(routed, here)):
        refused = routed.run("router-move", "edge", other_host(routed, here), exit=20)
        assert other_host(routed, here) in paragraph(refused)[0]
        assert router_host(routed) == here
        routed.check([here])
    routed.check_at_rest()
    assert router_host(routed) == here


def test_a_router_whose_host_is_fenced_is_moved_and_never_twice(routed: Fleet) -> None:
    here = router_host(routed)
    there = other_host(routed, here)
    routed.kill_host(here)
    try:
        routed.run("host-fence", "--yes", here)
        routed.run("router-move", "edge", there)
        assert router_host(routed) == there
        routed.check([there])
    finally:
        routed.start_host(here)
        routed.run("host-return", here, exit=None)
        routed.run("converge", "--all", exit=None)
    routed.check_at_rest()
    assert router_host(routed) == there


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_router_is_on_one_host_though_the_controller_dies_while_it_moves(
    routed: Fleet, stride: int
) -> None:
    for at in range(1, MAX_POINTS, stride):
        here = router_host(routed)
        ended = die_and_go_on(routed, ("router-move", "edge"), at)
        assert router_host(routed) in routed.hosts()
        if ended:
            assert router_host(routed) == other_host(routed, here) and at > 4
            return
    raise AssertionError("the points never end")


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_router_moves_though_agents_die_at_any_point(routed: Fleet, stride: int) -> None:
    move = ("router-move", "edge")
    usual = logins_of(routed, move)
    for at in range(1, MAX_POINTS, stride):
        there = other_host(routed, router_host(routed))
        dead = logins_of(routed, move, at) - usual
        assert router_host(routed) == there
        routed.check_at_rest()
        if dead == 0:
            assert at > 4
            return
    raise AssertionError("the points never end")
