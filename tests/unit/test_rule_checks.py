"""What rules of security groups, allowed pairs, DHCP options and limits may say."""

import pytest

from agent.spec import AddressPair, BandwidthLimit, DhcpOption, SecurityRule
from stackctl.errors import UsageError
from stackctl.network.dhcp_options import NewDhcpOption, checked_option, checked_options
from stackctl.network.port_rules import checked_limit, checked_pairs
from stackctl.network.rule_checks import NewRule, checked_rule
from stackctl.network.rule_words import PROTOCOLS, in_words, protocol_name


def rule(**said):
    return checked_rule(NewRule(**said))


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ({}, ("ingress", "IPv4", None, None, None, None)),
        ({"direction": "egress", "ethertype": "ipv6"}, ("egress", "IPv6", None, None, None, None)),
        ({"protocol": "TCP", "ports": (22, 22)}, ("ingress", "IPv4", 6, 22, 22, None)),
        ({"protocol": "132", "ports": (1, 65535)}, ("ingress", "IPv4", 132, 1, 65535, None)),
        ({"protocol": "any", "remote_cidr": "::/0"}, ("ingress", "IPv6", None, None, None, "::/0")),
        ({"remote_cidr": "10.0.0.1"}, ("ingress", "IPv4", None, None, None, "10.0.0.1/32")),
        ({"remote_cidr": "FD00::1"}, ("ingress", "IPv6", None, None, None, "fd00::1/128")),
        ({"protocol": "icmp", "icmp_type": 8, "icmp_code": 0}, ("ingress", "IPv4", 1, 8, 0, None)),
        ({"protocol": "icmp", "icmp_type": 3}, ("ingress", "IPv4", 1, 3, None, None)),
        ({"protocol": "icmp", "ethertype": "IPv6"}, ("ingress", "IPv6", 58, None, None, None)),
        ({"protocol": "1", "remote_cidr": "::/0"}, ("ingress", "IPv6", 58, None, None, "::/0")),
        ({"protocol": "icmpv6"}, ("ingress", "IPv6", 58, None, None, None)),
        ({"protocol": "ipv6-icmp"}, ("ingress", "IPv6", 58, None, None, None)),
        ({"protocol": "255"}, ("ingress", "IPv4", 255, None, None, None)),
    ],
)
def test_rules(said, stored):
    assert rule(**said) == SecurityRule("", *stored)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"direction": "both"}, "not for 'both'"),
        ({"ethertype": "ARP"}, "ethertype 'ARP' not supported. Allowed values are IPv4, IPv6"),
        ({"protocol": "smtp"}, "protocol smtp not supported. Only protocol values any, tcp"),
        ({"protocol": "256"}, "integer representations \\[0 to 255\\]"),
        ({"protocol": "-1"}, "not supported"),
        ({"protocol": "\u0661"}, "not supported"),
        ({"ports": (22, 22)}, "Must also specify protocol if port range is given"),
        ({"protocol": "gre", "ports": (1, 2)}, "Invalid protocol gre for port range, only"),
        ({"protocol": "tcp", "ports": (90, 80)}, "port_range_min must be <= port_range_max"),
        ({"protocol": "tcp", "ports": (0, 80)}, "Invalid value for port 0"),
        ({"protocol": "udp", "ports": (80, 65536)}, "Invalid value for port 65536"),
        ({"protocol": "icmp", "ports": (8, 8)}, "not allowed with ICMP"),
        ({"protocol": "icmp", "icmp_type": 256}, "ICMP type 256. It must be 0 to 255"),
        ({"protocol": "icmp", "icmp_type": 8, "icmp_code": -1}, "ICMP code -1. It must be"),
        ({"protocol": "icmp", "icmp_code": 0}, "ICMP code 0 is provided but ICMP type is missing"),
        ({"protocol": "tcp", "icmp_type": 8}, "only allowed with protocol icmp"),
        ({"protocol": "icmpv6", "ethertype": "IPv4"}, "Invalid ethertype IPv4 for protocol icmpv6"),
        ({"protocol": "58", "remote_cidr": "10.0.0.0/8"}, "Invalid ethertype IPv4"),
        (
            {"ethertype": "IPv6", "remote_cidr": "10.0.0.0/8"},
            "Conflicting value ethertype IPv6 for CIDR 10.0.0.0/8",
        ),
        ({"remote_cidr": "10.0.0.1/8"}, "'10.0.0.0/8' is recommended"),
        ({"remote_cidr": "web"}, "not a valid IP subnet"),
        ({"remote_cidr": "10.0.0.0/8", "remote_group": "g"}, "Only one of remote IP prefix and"),
    ],
)
def test_rules_that_cannot_be(said, words):
    with pytest.raises(UsageError, match=words):
        rule(**said)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"protocol": "tcp", "ports": (22, 22), "remote_cidr": "0.0.0.0/0"},
            "allow tcp 22 from 0.0.0.0/0",
        ),
        ({"protocol": "udp", "ports": (80, 90)}, "allow udp 80-90 over IPv4 from anywhere"),
        ({"direction": "egress", "ethertype": "IPv6"}, "allow any IPv6 to anywhere"),
        ({"protocol": "icmp", "icmp_type": 8, "icmp_code": 0}, "allow icmp type 8 code 0 from any"),
        ({"protocol": "icmpv6"}, "allow icmpv6 from anywhere"),
        ({"protocol": "253"}, "allow 253 over IPv4 from anywhere"),
    ],
)
def test_rules_in_words(said, words):
    assert in_words(rule(**said)).startswith(words)


def test_a_remote_group_in_words():
    made = SecurityRule("", "ingress", "IPv4", remote_group_id="id")
    assert in_words(made, "web") == "allow any IPv4 from group web"
    assert in_words(made) == "allow any IPv4 from group id"


def test_every_protocol_has_one_name_that_means_it():
    assert {PROTOCOLS[protocol_name(number)] for number in PROTOCOLS.values()} == set(
        PROTOCOLS.values()
    )
    assert protocol_name(58) == "icmpv6"


def test_pairs_are_stored_in_one_way():
    pairs = [AddressPair("10.0.0.9/32", "FA-16-3E-00-00-01"), AddressPair("10.1.0.0/16")]
    assert checked_pairs(pairs) == (
        AddressPair("10.0.0.9", "fa:16:3e:00:00:01"),
        AddressPair("10.1.0.0/16"),
    )


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("10.0.0.1/8", None)], "recommended"),
        ([("anything", None)], "not a valid IP subnet"),
        ([("10.0.0.1", "01:00:5e:00:00:01")], "multicast"),
        ([("10.0.0.1", None), ("10.0.0.1/32", None)], "duplicate address pair"),
        ([(f"10.0.0.{n}", None) for n in range(11)], "exceeds the maximum 10"),
    ],
)
def test_pairs_that_cannot_be(pairs, words):
    with pytest.raises(UsageError, match=words):
        checked_pairs([AddressPair(*pair) for pair in pairs])


@pytest.mark.parametrize(
    ("name", "value", "version", "stored"),
    [
        ("ntp-server", "192.0.2.1, 192.0.2.2", 4, (42, "192.0.2.1,192.0.2.2")),
        ("42", "192.0.2.1", 4, (42, "192.0.2.1")),
        ("TFTP-Server", "boot.example.org", 4, (66, "boot.example.org")),
        ("bootfile-name", "/pxe/linux.0", 4, (67, "/pxe/linux.0")),
        ("domain-search", "A.example.,b.example", 4, (119, "a.example,b.example")),
        ("time-offset", "-3600", 4, (2, "-3600")),
        ("default-ttl", "064", 4, (23, "64")),
        ("sntp-server", "2001:DB8::1", 6, (31, "2001:db8::1")),
        ("bootfile-url", "http://[2001:db8::1]/a?b=c", 6, (59, "http://[2001:db8::1]/a?b=c")),
    ],
)
def test_dhcp_options(name, value, version, stored):
    assert checked_option(NewDhcpOption(name, value, version)) == DhcpOption(version, *stored)


@pytest.mark.parametrize(
    ("name", "value", "version", "words"),
    [
        ("ntp-server", "ntp.example.org", 4, "list of 1 to 8 IP addresses"),
        ("ntp-server", "2001:db8::1", 4, "of that version"),
        ("sntp-server", "fe80::1%eth0", 6, "of that version"),
        ("ntp-server", ",".join(["192.0.2.1"] * 9), 4, "1 to 8"),
        ("ntp-server", "", 4, "list of"),
        ("domain-name", "-bad-", 4, "DNS domain"),
        ("default-ttl", "256", 4, "0 to 255"),
        ("default-ttl", "\u0661", 4, "0 to 255"),
        ("bootfile-name", "x" * 256, 4, "1 to 255"),
        ("bootfile-name", "", 4, "1 to 255"),
        ("router", "192.0.2.1", 4, "follows from the network"),
        ("3", "192.0.2.1", 4, "follows from the network"),
        ("mtu", "9000", 4, "follows from the network"),
        ("54", "192.0.2.1", 4, "follows from the network"),
        ("121", "0.0.0.0/0,192.0.2.1", 4, "follows from the network"),
        ("dns-server", "2001:db8::1", 6, "follows from the network"),
        ("200", "x", 4, "not a DHCP option for IPv4. Known: time-offset"),
        ("ntp-server", "2001:db8::1", 6, "not a DHCP option for IPv6"),
        ("", "x", 4, "not a DHCP option"),
        ("42\ndhcp-script=/x", "192.0.2.1", 4, "not a DHCP option"),
        ("42", "192.0.2.1", 5, "version 4 or 6"),
    ],
)
def test_dhcp_options_that_cannot_be(name, value, version, words):
    with pytest.raises(UsageError, match=words):
        checked_option(NewDhcpOption(name, value, version))


@pytest.mark.parametrize("name", ["bootfile-name", "domain-name", "domain-search", "42", "wpad"])
@pytest.mark.parametrize(
    "sign", ["\n", "\r", "\0", "\u2028", ",", "#", '"', "'", "\\", " ", "\t", "\x7f"]
)
def test_no_value_of_an_option_says_more_than_one_thing(name, sign):
    with pytest.raises(UsageError):
        checked_option(NewDhcpOption(name, f"a{sign}dhcp-script=/x"))
    if sign != " ":
        with pytest.raises(UsageError):
            checked_option(NewDhcpOption(name, f"a{sign}"))


def test_an_option_is_given_once():
    twice = [NewDhcpOption("42", "192.0.2.1"), NewDhcpOption("ntp-server", "192.0.2.2")]
    with pytest.raises(UsageError, match="ntp-server is given twice"):
        checked_options(twice)
    both = [NewDhcpOption("119", "a"), NewDhcpOption("24", "b", 6), NewDhcpOption("2", "0")]
    assert [option.number for option in checked_options(both)] == [2, 119, 24]
    with pytest.raises(UsageError, match="at most 20"):
        checked_options([NewDhcpOption("2", "0")] * 21)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (BandwidthLimit(egress_kbps=0), "egress rate is 0"),
        (BandwidthLimit(ingress_kbps=2**31), "ingress rate"),
        (BandwidthLimit(egress_burst_kb=10), "egress burst needs a rate: give --egress-kbps"),
        (BandwidthLimit(egress_kbps=1, ingress_burst_kb=10), "ingress burst needs"),
    ],
)
def test_limits_that_cannot_be(limit, words):
    with pytest.raises(UsageError, match=words):
        checked_limit(limit)
