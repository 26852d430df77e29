"""What plugs a router in, the plan that it compiles to, and the packets that announce it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.resources import registry, router_apply, router_plan, router_rules, texts, topology
from agent.resources.router_adverts import compile_conf
from agent.resources.router_plan import Plan, compile_plan
from agent.resources.router_rules import Chain, Tables
from agent.resources.topology import Plug, RouterEnd, Topology
from agent.spec import FixedAddress, HostRoute, HostSpec
from agent.system import announce, conntrack, iptables, routing
from agent.system.conntrack import Translated
from agent.system.run import CommandFailed
from tests import agent_networks as net
from tests import agent_routers as routers

GOLDEN = Path(__file__).parents[1] / "golden" / "router"


def ends_of(spec: HostSpec) -> list[RouterEnd]:
    return list(Topology(spec).router_ends)


def plug_of(spec: HostSpec, end: RouterEnd) -> Plug:
    return topology.router_plug(end, Topology(spec).networks.get(end.port.network_id))


def test_ends_of_a_router_plug_into_their_networks_vlans() -> None:
    spec = routers.host_spec(1)
    plugs = [plug_of(spec, end) for end in ends_of(spec)]
    assert [(plug.device, plug.tag, plug.mtu) for plug in plugs] == [
        ("qr-" + routers.INTERFACE[:11], 2, 1450),
        ("qr-" + routers.SECOND_INTERFACE[:11], 4, 1450),
        ("qg-" + routers.GATEWAY[:11], 5, 1500),
    ]
    assert {plug.netns for plug in plugs} == {f"qrouter-{routers.ROUTER}"}
    assert all(plug.internal and not plug.dead for plug in plugs)


def test_an_end_is_dead_while_its_router_port_or_network_is_down() -> None:
    spec = routers.host_spec(1)
    down = routers.with_router(spec, admin_up=False)
    assert all(plug_of(down, end).dead for end in ends_of(down))
    down = routers.with_router(spec, interfaces=(routers.interface(admin_up=False),))
    assert [plug_of(down, end).dead for end in ends_of(down)] == [True, False]
    networks = tuple(replace(n, admin_up=n.id != routers.EXTERNAL) for n in spec.networks)
    down = replace(spec, networks=networks)
    assert [plug_of(down, end).dead for end in ends_of(down)] == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_id": "elsewhere"}, "does not hold network 'elsewhere'"),
        ({"id": "x; rm"}, "is not a UUID"),
        ({"mac": "fa:16:3e:00:00:01,normal"}, "is not an Ethernet address"),
        ({"addresses": (FixedAddress(routers.INSIDE, "1.2.3.4 -j"),)}, "is not an IPv4 address"),
        ({"addresses": (FixedAddress("nowhere", "192.168.1.1"),)}, "has no subnet 'nowhere'"),
    ],
)
def test_an_end_that_cannot_be_plugged_in_says_why(changes: dict[str, object], words: str) -> None:
    spec = routers.host_spec(1)
    spec = routers.with_router(spec, interfaces=(routers.interface(**changes),))
    known = Topology(spec)
    assert words in known.end_problem(known.router_ends[0])
    assert known.end_problem(known.router_ends[1]) == ""


def test_a_router_without_a_uuid_is_refused() -> None:
    spec = routers.with_router(routers.host_spec(1), id="../../etc")
    known = Topology(spec)
    assert all("is not a UUID" in known.end_problem(end) for end in known.router_ends)


def test_networks_of_the_sample_can_be_carried() -> None:
    for host in (1, 2):
        assert set(Topology(routers.host_spec(host)).problems.values()) == {""}
    assert net.PRIVATE in Topology(routers.host_spec(1)).networks


# --- rules --------------------------------------------------------------------------------------


def plan_of(spec: HostSpec, *unusable: str) -> Plan:
    return compile_plan(Topology(spec), spec.routers[0], unusable)


def as_saved(tables: Tables) -> str:
    """Rules as iptables-save prints them, without counters and comments."""
    lines = []
    for table, chains in tables.items():
        lines.append(f"*{table}")
        lines += [f":{name} {chain.policy}" for name, chain in chains.items()]
        lines += [f"-A {n} {' '.join(rule)}" for n, chain in chains.items() for rule in chain.rules]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def golden(name: str, text: str) -> None:
    file = GOLDEN / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        pytest.fail(f"{file.name} was not there; written: look at it and run again")
    assert text == file.read_text()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("full", {}),
        ("without-snat", {"snat": False}),
        ("without-gateway", {"gateway": None, "floating_ips": ()}),
        ("down", {"admin_up": False}),
    ],
)
def test_golden_rules(name: str, changes: dict[str, object]) -> None:
    plan = plan_of(routers.with_router(routers.host_spec(1), **changes))
    assert plan.refused == ()
    golden(f"rules-{name}.txt", as_saved(plan.rules[4]) + "# IPv6\n" + as_saved(plan.rules[6]))


def test_golden_devices_and_routes() -> None:
    plan = plan_of(routers.host_spec(1))
    lines = [str(each) for each in (*plan.devices, *plan.routes, *plan.prefixes)]
    lines += [f"{name}={value}" for name, value in {**plan.sysctls, **plan.device_sysctls}.items()]
    golden("plan.txt", "".join(f"{line}\n" for line in lines))


def test_a_difference_of_rules_is_told_in_words() -> None:
    rule, other = ("-j", "DROP"), ("-i", "eth0", "-j", "DROP")

    def told(found: dict[str, Chain]) -> str:
        wanted = {"nat": {"mine": Chain("-", (rule, other))}}
        return router_rules.difference(wanted, {"nat": found})

    assert told({"mine": Chain("-", (rule, other))}) == ""
    assert told({"mine": Chain("-", (other, rule))}).endswith("has its rules in another order")
    assert told({"mine": Chain("-", (rule,))}) == "chain mine of table nat lacks '-i eth0 -j DROP'"
    assert "has '-j ACCEPT' too many" in told({"mine": Chain("-", (rule, other, ("-j", "ACCEPT")))})
    assert "has '-j DROP' too many" in told({"mine": Chain("-", (rule, other, rule))})
    assert told({}) == "chain mine of table nat is missing"
    more = {"mine": Chain("-", (rule, other)), "theirs": Chain("-")}
    assert told(more) == "chain theirs of table nat does not belong there"
    closed = {"mine": Chain("-", (rule, other)), "INPUT": Chain("DROP")}
    assert "INPUT of table nat does not belong there" in told(closed)


def test_only_tables_that_differ_are_replaced_and_closed_chains_opened() -> None:
    wanted = plan_of(routers.host_spec(1)).rules[4]
    assert router_rules.commands(wanted, wanted) == {}
    found = {**wanted, "filter": {**wanted["filter"], "OUTPUT": Chain("DROP")}}
    changed = router_rules.commands(
        wanted, {**found, "raw": {"OUTPUT": Chain("ACCEPT", (("-j", "X"),))}}
    )
    assert sorted(changed) == ["filter", "raw"]
    assert (":OUTPUT", "ACCEPT", "[0:0]") in changed["filter"]
    assert changed["raw"] == [(":OUTPUT", "ACCEPT", "[0:0]")]


EVIL = ["192.168.1.4/0", "192.168.1.4 -j ACCEPT", "192.168.1.4\n-A INPUT -j DROP", "", "fd01::4"]


@pytest.mark.parametrize("text", EVIL)
def test_an_address_that_is_none_never_becomes_a_rule(text: str) -> None:
    for bad in (
        routers.floating(26, text),
        replace(routers.floating(26, "192.168.1.9"), address=text),
    ):
        spec = routers.with_router(routers.host_spec(1), floating_ips=(bad,))
        plan = plan_of(spec)
        assert len(plan.refused) == 1 and "is not an IPv4 address" in plan.refused[0]
        assert plan.rules[4] == plan_of(routers.with_router(spec, floating_ips=())).rules[4]
        with pytest.raises(texts.BadText):
            router_rules.ipv4(True, router_rules.Outside("qg-1", "203.0.113.10", True), [bad])


def test_the_system_takes_no_word_that_is_two() -> None:
    for evil in ("a b", "a\nb", 'a"', ""):
        with pytest.raises(CommandFailed):
            iptables.replace(4, {"nat": [("-A", evil)]})
        with pytest.raises(CommandFailed):
            routing.change([("route", "add", evil)])


# --- the rest of the plan -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (HostRoute("10.99.0.0/16", "10.1.1.1"), "10.1.1.1 is in none of the router's subnets"),
        (HostRoute("10.99.0.1/16", "192.168.1.9"), "is not an IPv4 network"),
        (HostRoute("fd09::/64", "192.168.1.9"), "of another IP version"),
        (HostRoute("192.168.2.0/24", "192.168.1.9"), "another one leads there already"),
        (HostRoute("10.99.0.0/16", "192.168.1.9 dev lo"), "is not an IPv4 address"),
    ],
)
def test_a_route_that_leads_nowhere_is_refused_alone(route: HostRoute, words: str) -> None:
    good = HostRoute("10.98.0.0/16", "192.168.2.9")
    plan = plan_of(routers.with_router(routers.host_spec(1), routes=(good, route)))
    assert len(plan.refused) == 1 and words in plan.refused[0]
    assert ("10.98.0.0/16", "192.168.2.9", "qr-" + routers.SECOND_INTERFACE[:11]) in {
        each.key for each in plan.routes
    }


def test_a_static_default_route_takes_the_gateways_place() -> None:
    static = (HostRoute("0.0.0.0/0", "192.168.2.9"),)
    plan = plan_of(routers.with_router(routers.host_spec(1), routes=static))
    ways = {route.destination: route.nexthop for route in plan.routes if route.nexthop}
    assert ways == {"0.0.0.0/0": "192.168.2.9", "::/0": "2001:db8::1"}


def test_an_unusable_end_is_left_out_and_named() -> None:
    plan = plan_of(routers.host_spec(1), routers.SECOND_INTERFACE)
    assert [device.name[:3] for device in plan.devices] == ["qr-", "qg-"]
    assert plan.refused[0].endswith("is not usable")


def test_floating_ips_need_a_gateway() -> None:
    plan = plan_of(routers.with_router(routers.host_spec(1), gateway=None))
    assert len(plan.refused) == 2 and "no IPv4 gateway" in plan.refused[0]
    assert plan.floating == frozenset()


def test_the_link_local_address_comes_from_the_mac() -> None:
    assert router_plan.link_local("fa:16:3e:00:00:81") == "fe80::f816:3eff:fe00:81"


def test_connections_that_the_rules_would_not_make_are_forgotten() -> None:
    plan = plan_of(routers.host_spec(1))
    fine = [
        Translated("198.51.100.1", "203.0.113.24", "192.168.1.4", "198.51.100.1"),
        Translated("192.168.1.4", "198.51.100.1", "198.51.100.1", "203.0.113.24"),
        Translated("192.168.1.9", "198.51.100.1", "198.51.100.1", "203.0.113.10"),
        # It began before its guest had a floating IP.
        Translated("192.168.1.4", "198.51.100.1", "198.51.100.1", "203.0.113.10"),
        Translated("192.168.1.9", "203.0.113.25", "192.168.2.5", "203.0.113.10"),
    ]
    gone = [
        Translated("198.51.100.1", "203.0.113.24", "192.168.1.6", "198.51.100.1"),
        Translated("198.51.100.1", "203.0.113.99", "192.168.1.4", "198.51.100.1"),
        Translated("192.168.1.6", "198.51.100.1", "198.51.100.1", "203.0.113.24"),
        Translated("192.168.1.9", "198.51.100.1", "198.51.100.1", "203.0.113.77"),
        Translated("192.168.1.6", "203.0.113.25", "192.168.2.5", "203.0.113.24"),
    ]
    assert router_apply.stale(plan, [*fine, *gone]) == gone


def test_conntracks_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "tcp      6 431999 ESTABLISHED src=198.51.100.1 dst=203.0.113.24 sport=4 dport=22 "
        "src=192.168.1.4 dst=198.51.100.1 sport=22 dport=4 [ASSURED] mark=0 use=1\n"
        "icmp     1 29 src=192.168.1.4 dst=198.51.100.1 type=8 code=0 id=1 [UNREPLIED] "
        "src=198.51.100.1 dst=203.0.113.24 type=0 code=0 id=1 mark=0 use=1\n"
    )
    monkeypatch.setattr(conntrack, "run", lambda argv, timeout_s: text)
    assert conntrack.translated() == {
        Translated("198.51.100.1", "203.0.113.24", "192.168.1.4", "198.51.100.1"),
        Translated("192.168.1.4", "198.51.100.1", "198.51.100.1", "203.0.113.24"),
    }


# --- advertisements and announcements -----------------------------------------------------------


@pytest.mark.parametrize("mode", router_plan.IPV6_MODES)
def test_dnsmasq_understands_its_advertisements(tmp_path: Path, mode: str) -> None:
    prefixes = [router_plan.Prefix("qr-1", "fd01::/64", mode, 1450)]
    prefixes.append(router_plan.Prefix("qr-2", "fd02::/64", mode, 1400))
    golden(f"adverts-{mode}.txt", compile_conf(prefixes, "/data", "nobody"))
    (tmp_path / "conf").write_text(compile_conf(prefixes, str(tmp_path), "nobody"))
    argv = ["dnsmasq", "--test", f"--conf-file={tmp_path}/conf"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0 and "syntax check OK" in done.stderr


def test_nothing_to_advertise_is_no_configuration() -> None:
    spec = routers.with_router(routers.host_spec(1), interfaces=(routers.second_interface(),))
    assert plan_of(spec).prefixes == ()
    assert compile_conf((), "/data", "nobody") == ""


def test_an_unknown_ipv6_mode_is_refused() -> None:
    spec = routers.host_spec(1)
    private = spec.networks[0]
    odd = replace(private.subnets[1], ipv6_mode="static\ndhcp-script=/bin/sh")
    networks = (replace(private, subnets=(private.subnets[0], odd)), *spec.networks[1:])
    plan = plan_of(replace(spec, networks=networks))
    assert plan.prefixes == () and "unknown IPv6 mode" in plan.refused[0]


def test_gratuitous_arp_speaks_of_its_own_address_only() -> None:
    request, reply = announce.frames_for("fa:16:3e:00:00:81", "192.168.1.1")
    own, ip = bytes.fromhex("fa163e000081"), bytes([192, 168, 1, 1])
    assert request == b"\xff" * 6 + own + bytes.fromhex("08060001080006040001") + (
        own + ip + bytes(6) + ip
    )
    assert reply[20:22] == b"\0\2" and reply[28:32] == reply[38:42] == ip


def test_an_unsolicited_advertisement_has_a_true_checksum() -> None:
    (frame,) = announce.frames_for("fa:16:3e:00:00:81", "fd01::1")
    assert frame[:6].hex() == "333300000001" and frame[12:14].hex() == "86dd"
    header, body = frame[14:54], frame[54:]
    assert (header[6], header[7], body[0]) == (58, 255, 136)
    pseudo = header[8:40] + len(body).to_bytes(4, "big") + (58).to_bytes(4, "big")
    words = pseudo + body
    total = sum(int.from_bytes(words[n : n + 2], "big") for n in range(0, len(words), 2))
    assert total % 0xFFFF == 0
    assert body[4] & 0xA0 == 0xA0 and body[8:24].hex() == "fd01" + "0" * 27 + "1"


def test_a_rebooted_host_gets_its_routers_back_and_a_purged_one_loses_them() -> None:
    names = [kind.name for kind in registry.NETWORK_KINDS]
    assert names.index("router") > max(names.index("flows"), names.index("dhcp"))
    # Before them only what is to become ours at all.
    assert registry.KINDS[1 : len(names) + 1] == registry.NETWORK_KINDS
