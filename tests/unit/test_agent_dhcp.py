"""dnsmasq's files, leases and packets; netfilter rules of the way out; the smaller helpers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.resources import dhcp_options, dnsmasq_files, legs, switch, texts, topology
from agent.resources.dnsmasq_files import Files
from agent.resources.topology import DhcpServer, Topology
from agent.spec import DhcpOption, FixedAddress, HostRoute, HostSpec
from agent.system import dnsmasq, iptables, ovs, public_files
from agent.system.dnsmasq import Lease
from agent.system.run import CommandFailed
from tests import agent_networks as net

GOLDEN = Path(__file__).parents[1] / "golden" / "dnsmasq"


def server_of(spec: HostSpec, number: int = 1) -> DhcpServer:
    return next(s for s in Topology(spec).servers if s.subnet.id == net.uid("subn", number))


def files_of(spec: HostSpec, number: int = 1, folder: str = "/data") -> Files:
    return dnsmasq_files.compile_files(server_of(spec, number), folder, "nobody", ("10.9.9.9",))


@pytest.mark.parametrize("number", [1, 2])
def test_golden(number: int) -> None:
    files = files_of(net.host_spec(1), number)
    assert files.refused == ()
    text = "".join(
        f"== {name}\n{content}" for name, content in {"conf": files.conf, **files.reloaded}.items()
    )
    file = GOLDEN / f"subnet-{number}.txt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        pytest.fail(f"{file.name} was not there; written: look at it and run again")
    assert text == file.read_text()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_golden_ipv6(number: int) -> None:
    files = files_v6(with_options(net.ipv6_spec()), number)
    assert files.refused == ()
    text = "".join(
        f"== {name}\n{content}" for name, content in {"conf": files.conf, **files.reloaded}.items()
    )
    file = GOLDEN / f"subnet-ipv6-{number}.txt"
    if not file.exists():
        file.write_text(text)
        pytest.fail(f"{file.name} was not there; written: look at it and run again")
    assert text == file.read_text()


def files_v6(spec: HostSpec, number: int, folder: str = "/data") -> Files:
    server = next(s for s in Topology(spec).servers if s.subnet.id == net.uid("six", number))
    return dnsmasq_files.compile_files(server, folder, "nobody", ("10.9.9.9",))


def with_options(spec: HostSpec) -> HostSpec:
    options = (
        DhcpOption(4, 66, "10.9.9.9"),
        DhcpOption(6, 59, "tftp://[fd00::1]/boot#1"),
        DhcpOption(6, 31, "fd00::7,fd00::8"),
    )
    return replace(spec, ports=tuple(replace(p, dhcp_options=options) for p in spec.ports))


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (DhcpOption(4, 66, "10.9.9.9"), '66,"10.9.9.9"'),
        (DhcpOption(4, 150, "10.9.9.9,10.9.9.8"), "150,10.9.9.9,10.9.9.8"),
        (DhcpOption(4, 26, "1400"), "26,1400"),
        (DhcpOption(4, 2, "-3600"), "2,-3600"),
        (DhcpOption(4, 119, "a.b,c.d"), "119,a.b,c.d"),
        (DhcpOption(4, 224, "10.9.9.9"), "224,10.9.9.9"),
        (DhcpOption(4, 224, "7"), "224,7"),
        (DhcpOption(4, 224, "some text"), '224,"some text"'),
        (DhcpOption(6, 31, "fd00::7"), "option6:31,[fd00::7]"),
        (DhcpOption(6, 59, "http://a/b"), 'option6:59,"http://a/b"'),
        (DhcpOption(6, 24, "a.b,c.d"), "option6:24,a.b,c.d"),
    ],
)
def test_options_are_written_by_their_type(option: DhcpOption, line: str) -> None:
    assert dhcp_options.line(option) == line


@pytest.mark.parametrize(
    "option",
    [
        DhcpOption(4, 54, "10.9.9.9"),
        DhcpOption(4, 255, "1"),
        DhcpOption(4, 42, "not an address"),
        DhcpOption(4, 42, "fd00::1"),
        DhcpOption(4, 26, "a"),
        DhcpOption(4, 26, "4294967296"),
        DhcpOption(4, 67, 'a"b'),
        DhcpOption(4, 67, "a,b"),
        DhcpOption(4, 67, "a\nb"),
        DhcpOption(4, 67, ""),
        DhcpOption(6, 3, "1"),
        DhcpOption(6, 31, "10.0.0.1"),
        DhcpOption(5, 67, "a"),
    ],
)
def test_options_that_cannot_be_given(option: DhcpOption) -> None:
    with pytest.raises(texts.BadText):
        dhcp_options.line(option)


def is_understood(files: Files, folder: Path) -> None:
    for name, text in {"conf": files.conf, **files.reloaded}.items():
        (folder / name).write_text(text)
    argv = ["dnsmasq", "--test", f"--conf-file={folder}/conf"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0 and "syntax check OK" in done.stderr


@pytest.mark.parametrize("number", [1, 2, 3])
def test_dnsmasq_understands_its_ipv6_files(number: int, tmp_path: Path) -> None:
    is_understood(files_v6(with_options(net.ipv6_spec()), number, str(tmp_path)), tmp_path)


def test_ipv6_name_servers_are_handed_to_the_guests() -> None:
    spec = net.ipv6_spec()
    outer = spec.networks[0]
    subnet = replace(outer.subnets[0], dns_nameservers=("fd00:9::53",))
    spec = replace(spec, networks=(replace(outer, subnets=(subnet,)), *spec.networks[1:]))
    files = files_v6(spec, 2)
    assert "option6:dns-server,[fd00:2::2],[fd00:9::53]\n" in files.reloaded["options"]
    assert files.reloaded["servers"] == "server=10.9.9.9@upstream\n"


def test_an_ipv6_range_too_large_for_dnsmasq_is_a_problem() -> None:
    spec = net.ipv6_spec()
    server = next(s for s in Topology(spec).servers if s.ipv6)
    assert Topology(spec).dhcp_problem(server) == ""
    large = replace(server, subnet=replace(server.subnet, cidr="fd00::/48"))
    assert "larger than a /64" in Topology(spec).dhcp_problem(large)


def test_the_servers_duid_stands_first_in_its_leases() -> None:
    lease = "1 2 fd00::1 a 00:01\n"
    duid = "duid 00:03:00:01:fa:16:3e:00:00:f1\n"
    assert dnsmasq.with_identity("", "fa:16:3e:00:00:f1") == duid
    assert dnsmasq.with_identity("duid 00:01:02\n" + lease, "fa:16:3e:00:00:f1") == duid + lease
    assert dnsmasq.with_identity(duid + lease, "fa:16:3e:00:00:f1") == duid + lease


def test_dnsmasq_understands_its_files(tmp_path: Path) -> None:
    is_understood(files_of(net.host_spec(1), folder=str(tmp_path)), tmp_path)


def test_only_ports_of_this_host_and_no_tags_in_hosts() -> None:
    hosts = files_of(net.host_spec(1)).reloaded["hosts"]
    assert hosts == "fa:16:3e:00:00:02,192.168.1.2,head\nfa:16:3e:00:00:04,192.168.1.4,node-1\n"


def test_a_second_nic_in_the_same_network_has_no_name_and_gets_its_lease() -> None:
    files = files_of(net.with_port(net.host_spec(1), net.uid("port", 4), hostname=""))
    assert "fa:16:3e:00:00:04,192.168.1.4\n" in files.reloaded["hosts"]
    assert files.refused == ()


def test_what_a_second_nic_does_not_get_is_in_conf_by_its_mac() -> None:
    assert "dhcp-mac=set:no-gateway,fa:16:3e:00:00:02\n" in files_of(net.host_spec(1)).conf
    assert "dhcp-mac=set:no-resolver,fa:16:3e:00:00:12\n" in files_of(net.host_spec(1), 2).conf


def test_static_routes_hold_the_default_route_only_with_a_gateway() -> None:
    spec = net.host_spec(1)
    private = spec.networks[1]
    subnet = replace(private.subnets[0], gateway=None)
    bare = replace(spec, networks=(spec.networks[0], replace(private, subnets=(subnet,))))
    options = files_of(bare).reloaded["options"]
    assert "0.0.0.0/0" not in options and "option:router,1" not in options
    assert "option:classless-static-route,10.9.0.0/16,192.168.1.254\n" in options


def test_name_servers_are_the_subnets_or_else_the_hosts() -> None:
    spec = net.host_spec(1)
    assert files_of(spec).reloaded["servers"] == "server=10.9.9.9@upstream\n"
    assert files_of(spec, 2).reloaded["servers"] == "server=10.77.0.1@upstream\n"


@pytest.mark.parametrize(
    ("spoil", "owner"),
    [
        (lambda n: replace(n, domain="a,b"), net.PRIVATE),
        (lambda n: replace(n, names=(replace(n.names[0], hostname="a b"),)), net.PRIVATE),
        (lambda n: replace(n, names=(replace(n.names[0], address="1.2.3.4\n5"),)), net.PRIVATE),
        (lambda n: replace(n, subnets=(replace(n.subnets[0], gateway="x"),)), net.uid("subn", 1)),
        (
            lambda n: replace(
                n, subnets=(replace(n.subnets[0], host_routes=(HostRoute("0/0,9", "1"),)),)
            ),
            net.uid("subn", 1),
        ),
        (
            lambda n: replace(n, subnets=(replace(n.subnets[0], dns_nameservers=("8.8.8.8#1",)),)),
            net.uid("subn", 1),
        ),
    ],
)
def test_bad_texts_are_left_out_and_named(
    spoil: Callable[[topology.Network], topology.Network], owner: str
) -> None:
    spec = net.host_spec(1)
    spec = replace(spec, networks=(spec.networks[0], spoil(spec.networks[1])))
    files = files_of(spec)
    assert [refused.id for refused in files.refused] == [owner]
    assert "#1" not in files.reloaded["servers"] and "a b" not in files.reloaded["names"]


def test_a_port_on_two_subnets_is_served_by_its_first() -> None:
    spec = net.host_spec(1)
    second = replace(spec.networks[1].subnets[0], id=net.uid("subn", 9), cidr="192.168.9.0/24")
    private = replace(spec.networks[1], subnets=(spec.networks[1].subnets[0], second))
    head = net.private_port(2, "head")
    both = (*head.addresses, FixedAddress(second.id, "192.168.9.2"))
    spec = replace(spec, networks=(private,), ports=(replace(head, addresses=both),))
    assert [server.subnet.id for server in Topology(spec).servers] == [net.uid("subn", 1)]


# --- leases -------------------------------------------------------------------------------------


def test_leases_are_read_and_what_is_none_is_not(tmp_path: Path) -> None:
    file = tmp_path / "leases"
    file.write_text("1700000000 fa:16:3e:00:00:04 192.168.1.4 node-1 01:fa:16\nduid 00:01\n\n")
    assert dnsmasq.leases(file) == [
        Lease(1700000000, "fa:16:3e:00:00:04", "192.168.1.4", "01:fa:16")
    ]
    assert dnsmasq.leases(tmp_path / "none") == []
    file.write_text("duid 00:01\n1700000000 1040187396 fd00::4 node-1 00:01:fa\n")
    assert dnsmasq.leases(file) == [Lease(1700000000, "", "fd00::4", "00:01:fa")]


def test_release_packet_says_who_and_what() -> None:
    lease = Lease(1, "fa:16:3e:00:00:04", "192.168.1.4", "01:ff")
    packet = dnsmasq.release_packet("192.168.1.3", lease)
    assert packet[0] == 1 and packet[12:16] == bytes([192, 168, 1, 4])
    assert packet[28:34].hex() == "fa163e000004"
    assert packet[236:240] == b"\x63\x82\x53\x63"
    assert packet[240:] == bytes([53, 1, 7, 54, 4, 192, 168, 1, 3, 61, 2, 1, 0xFF, 255])
    bare = dnsmasq.release_packet("192.168.1.3", replace(lease, client_id="*"))
    assert len(bare) == 240 + 10


def test_a_local_stub_is_not_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("# from DHCP\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver nonsense\n")
    monkeypatch.setattr(dnsmasq, "_RESOLVERS", (stub, real))
    assert dnsmasq.host_resolvers() == ("10.0.0.1",)
    monkeypatch.setattr(dnsmasq, "_RESOLVERS", (stub,))
    assert dnsmasq.host_resolvers() == ()


# --- the way out --------------------------------------------------------------------------------


def test_legs_are_numbered_by_their_subnets() -> None:
    subnet = net.host_spec(1).networks[1].subnets[0]
    assert legs.addresses(replace(subnet, number=0)) == ("169.254.0.0/31", "169.254.0.1/31")
    assert legs.addresses(replace(subnet, number=16383)) == (
        "169.254.127.254/31",
        "169.254.127.255/31",
    )
    assert legs.device(replace(subnet, number=16383)) == "dns-16383"


def test_netfilter_words_are_clean_or_refused() -> None:
    for word in ("", "two words", 'quo"te', "back\\slash", "new\nline"):
        with pytest.raises(CommandFailed):
            iptables.restore({"filter": [("-A", word)]})


# --- helpers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (texts.uuid, [net.uid("port", 1)], ["", "x" * 36, net.uid("port", 1) + "\n"]),
        (texts.mac, ["fa:16:3e:00:00:01"], ["fa:16:3e:00:00:01\n", "01:00:5e:00:00:01", ""]),
        (texts.ipv4, ["10.0.0.1"], ["10.0.0.1/24", " 10.0.0.1", "10.0.0.1\n", "::1", "010.0.0.1"]),
        (texts.ip, ["10.0.0.1", "fd00::1"], ["fe80::1%eth0", "fe80::1%a b", ":", ""]),
        (texts.hostname, ["a", "node-1", "A9"], ["-a", "a-", "a.b", "a_b", "a\n", "", "x" * 64]),
        (texts.domain, ["worf.local", "a"], ["", ".", "a.", "a..b", "a,b", "a\n", "a." * 127]),
        (texts.device, ["eth1", "bond0.7"], ["-x", "a/b", "x" * 16, "", "a b", "a\n"]),
        (texts.token, ["lab-1"], ["", "-x", "a b", "a\n", "x" * 65]),
    ],
)  # fmt: skip
def test_texts(check: Callable[[str], str], good: list[str], bad: list[str]) -> None:
    for text in good:
        assert check(text) == text
    for text in bad:
        with pytest.raises(texts.BadText):
            check(text)


def test_networks_a_host_cannot_carry() -> None:
    spec = net.host_spec(1)
    provider, private = spec.networks
    bare = replace(spec, settings=replace(spec.settings, tunnel_address=None, bridge_mappings=()))
    assert "no tunnel address" in topology.network_problem(bare, private)
    alone = replace(private, flood_to=(), remote_ports=())
    assert topology.network_problem(bare, alone) == ""
    assert "no bridge for physical network 'physnet1'" in topology.network_problem(bare, provider)
    for change, words in (
        ({"type": "geneve"}, "unknown type"),
        ({"local_vlan": 4095}, "local VLAN"),
        ({"segmentation_id": None}, "segment None"),
        ({"segmentation_id": 4095}, "segment 4095"),
        ({"mtu": 0}, "MTU"),
    ):
        assert words in topology.network_problem(spec, replace(provider, **change))
    assert topology.network_problem(spec, provider) == ""


def test_together_tries_each_alone_when_all_fail() -> None:
    calls: list[list[str]] = []

    def apply(items: object) -> None:
        listed = list(items)  # type: ignore[call-overload]
        calls.append(listed)
        if "bad" in listed:
            raise CommandFailed(("x",), "no")

    together = switch.Together(["a", "bad", "b"], apply)
    together.apply("a")
    with pytest.raises(CommandFailed):
        together.apply("bad")
    together.apply("b")
    assert calls == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]


def test_ovsdb_values_are_quoted() -> None:
    assert ovs.pair("external_ids", "k", 'a"b -- c') == 'external_ids:k="a\\"b -- c"'


def test_a_port_without_a_number_has_none() -> None:
    row = {
        "name": "t", "type": "", "options": {}, "external_ids": {}, "error": "no such device",
        "mtu_request": [], "ofport": -1,
    }  # fmt: skip
    assert ovs._interface(row).ofport is None
    assert ovs._interface({**row, "ofport": []}).ofport is None
    assert ovs._interface({**row, "ofport": 7, "error": []}).ofport == 7


def test_public_files_can_be_read_by_others(tmp_path: Path) -> None:
    top = tmp_path / "data"
    top.mkdir(mode=0o700)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:
            with pytest.raises(CommandFailed, match="closed"):
                public_files.make_public(top, top / "dhcp" / "x")
            break
    assert (top / "dhcp" / "x").is_dir() and top.stat().st_mode & 0o777 == 0o711
    public_files.write(top / "dhcp" / "x" / "f", "1\n")
    assert public_files.read(top / "dhcp" / "x" / "f") == "1\n"
    assert public_files.read(top / "none") is None
    public_files.remove_tree(top / "dhcp" / "x")
    public_files.remove_tree(top / "dhcp" / "x")
    assert list((top / "dhcp").iterdir()) == []
