"""Packets through a router's chains: the rules that the agent makes, walked as the kernel does."""

import pytest

from agent.resources import router_rules
from agent.resources.router_rules import Chain, Outside
from agent.spec import FloatingIp
from agent.trace.chain_walk import State, walk

FLOATING = (FloatingIp("f", 1, "203.0.113.9", "10.0.0.4"),)
TABLES = router_rules.ipv4(True, Outside("qg-1", "203.0.113.2", True), FLOATING)


def crossed(src, dst, iif, oif, tables=TABLES):
    state = State(src, dst, 6, 40000, 22, iif)
    for table in ("mangle", "nat"):
        assert walk(tables, table, "PREROUTING", state) == "ACCEPT"
    state.oif = oif
    verdict = walk(tables, "filter", "FORWARD", state)
    if verdict == "ACCEPT":
        walk(tables, "nat", "POSTROUTING", state)
    return verdict, state.src, state.dst


@pytest.mark.parametrize(
    ("packet", "left"),
    [
        (("10.0.0.5", "8.8.8.8", "qr-1", "qg-1"), ("203.0.113.2", "8.8.8.8")),
        (("10.0.0.4", "8.8.8.8", "qr-1", "qg-1"), ("203.0.113.9", "8.8.8.8")),
        (("198.51.100.7", "203.0.113.9", "qg-1", "qr-1"), ("198.51.100.7", "10.0.0.4")),
        (("10.0.0.5", "10.1.0.4", "qr-1", "qr-2"), ("10.0.0.5", "10.1.0.4")),
        # Guest to a neighbour's floating IP: both ends speak through the router.
        (("10.0.0.5", "203.0.113.9", "qr-1", "qr-1"), ("203.0.113.2", "10.0.0.4")),
    ],
)
def test_translation(packet, left):
    assert crossed(*packet) == ("ACCEPT", *left)


def test_a_router_that_is_down():
    down = router_rules.ipv4(False, Outside("qg-1", "203.0.113.2", True), ())
    assert crossed("10.0.0.5", "8.8.8.8", "qr-1", "qg-1", down)[0] == "DROP"


def test_a_rule_that_is_not_understood_is_named():
    rules = (("-m", "geoip", "--source-country", "XX", "-j", "DROP"),)
    tables = {"filter": {"FORWARD": Chain("ACCEPT", rules)}}
    state = State("10.0.0.5", "8.8.8.8", 6)
    assert walk(tables, "filter", "FORWARD", state) == "ACCEPT"
    assert state.unclear == ["filter FORWARD: -m geoip --source-country XX -j DROP"]


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ("-s 10.0.0.0/24", True),
        ("! -s 10.0.0.0/24", False),
        ("-p tcp -m tcp --dport 22", True),
        ("-p tcp -m tcp --dport 20:21", False),
        ("-p udp", False),
        ("-i qr-1", True),
        ("! -i qr-1", False),
        ("-m conntrack --ctstate NEW,ESTABLISHED", True),
        ("-m conntrack ! --ctstate DNAT", True),
        ("-m mark --mark 0x2/0xffff", False),
    ],
)
def test_matches(rule, fits):
    tables = {"filter": {"FORWARD": Chain("ACCEPT", ((*rule.split(), "-j", "DROP"),))}}
    state = State("10.0.0.5", "8.8.8.8", 6, 40000, 22, "qr-1", "qg-1")
    assert walk(tables, "filter", "FORWARD", state) == ("DROP" if fits else "ACCEPT")


def test_chains_that_jump_in_a_circle_end():
    tables = {
        "filter": {
            "FORWARD": Chain("ACCEPT", (("-j", "a"),)),
            "a": Chain("-", (("-j", "b"),)),
            "b": Chain("-", (("-j", "a"),)),
        }
    }
    assert walk(tables, "filter", "FORWARD", State("10.0.0.5", "8.8.8.8", 6)) == "ACCEPT"
