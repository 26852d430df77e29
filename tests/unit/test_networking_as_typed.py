"""What somebody who knows Neutron types: nothing that is said is silently dropped."""

import pytest
from click.testing import CliRunner

from stackctl.cli import main
from stackctl.errors import Conflict, UsageError
from stackctl.network import service as network
from stackctl.network.service import NewFloatingIp, NewNetwork, NewPort, NewSubnet


@pytest.fixture
def typed(pair, monkeypatch):
    monkeypatch.setattr("stackctl.cli.frame.new_context", lambda: pair.context)
    return lambda *words: CliRunner().invoke(main.cli, list(words))


def test_none_and_one_is_one(pair, typed):
    """--no-fixed-ip with --fixed-ip left a port with no address, name servers alike."""
    network.create_port(pair.context, NewPort("net", name="leg"))
    address = ("--fixed-ip", "ip-address=192.168.1.60")
    assert typed("port-set", "leg", "--no-fixed-ip", *address).exit_code == 0
    port = network.show_port(pair.context, "leg")
    assert [each.address for each in port.addresses] == ["192.168.1.60"]
    sub = network.list_subnets(pair.context)[0].id
    said = ("--no-dns-nameservers", "--dns-nameserver", "192.0.2.53")
    assert typed("subnet-set", sub, *said).exit_code == 0
    route = ("--no-host-route", "--host-route", "destination=10.9.0.0/16,gateway=192.168.1.9")
    assert typed("subnet-set", sub, *route).exit_code == 0
    found = network.show_subnet(pair.context, sub)
    assert found.dns_nameservers == ("192.0.2.53",)
    assert [route.destination for route in found.host_routes] == ["10.9.0.0/16"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("net-set", "net", "--provider:segmentation_id", "9"), "Make another network"),
        (("subnet-set", "any", "--ipv6-ra-mode", "slaac"), "Make another subnet"),
        (("router-set", "any", "--host", "h2"), "router-move"),
    ],
)
def test_what_cannot_be_changed_is_refused_with_the_reason(typed, words, why):
    shown = typed(*words)
    assert shown.exit_code != 0
    assert why in shown.output


def test_neutrons_own_words_for_a_rule(pair, typed):
    network.create_group(pair.context, network.NewGroup("web"))
    ports = ("--port-range-min", "22", "--port-range-max", "23")
    said = ("--direction", "ingress", "--proto", "tcp", "--remote-ip-prefix", "10.0.0.0/8")
    shown = typed("security-group-rule-create", *said, *ports, "web", "-f", "value", "-c", "Rule")
    assert shown.stdout == "allow tcp 22-23 from 10.0.0.0/8\n"
    half = typed("security-group-rule-create", *said, *ports[:2], "web")
    assert "both of --port-range-min and --port-range-max" in half.output
    both = typed("security-group-rule-create", *said, "--egress", "web")
    assert "Either --ingress or --egress" in both.output


def test_lists_are_narrowed(pair, typed):
    network.create_network(pair.context, NewNetwork("out", external=True))
    assert typed("net-list", "--external", "-f", "value", "-c", "Name").stdout == "out\n"
    network.create_subnet(pair.context, "net", NewSubnet("fd00:5::/64"))
    of_six = typed("subnet-list", "--ip-version", "6", "-f", "value", "-c", "CIDR")
    assert of_six.stdout == "fd00:5::/64\n"
    made = network.create_port(pair.context, NewPort("net", name="leg")).value
    found = typed("port-list", "--mac-address", made.mac.upper(), "-f", "value", "-c", "Name")
    assert found.stdout == "leg\n"
    assert typed("port-list", "--device-owner", "nobody", "-f", "value").stdout == ""


def test_long_is_all_columns(typed):
    shown = typed("net-list", "--long", "-f", "csv")
    assert shown.stdout.startswith("ID,Name,Subnets,Shared,Status,Admin State,External,Type,")


def test_floating_ips_are_of_ipv4(pair, typed):
    outside = NewNetwork("out", external=True, subnet=NewSubnet("203.0.113.0/24"))
    network.create_network(pair.context, outside)
    network.create_subnet(pair.context, "out", NewSubnet("2001:db8::/64", name="six", dhcp=False))
    with pytest.raises(UsageError) as told:
        network.create_floating_ip(pair.context, NewFloatingIp("out", subnet="six"))
    assert "Subnet six is one of IPv6" in str(told.value)


def test_a_picture_that_is_not_drawn_is_refused(typed, tmp_path):
    """cloud.png held text."""
    shown = typed("topology", "--output", str(tmp_path / "cloud.png"))
    assert "PNG picture" in shown.output
    assert not (tmp_path / "cloud.png").exists()


def test_a_network_in_use_names_each_user_once(pair):
    pair.booted("vm", host="h1")
    network.create_subnet(pair.context, "net", NewSubnet("10.77.0.0/24", name="more"))
    network.create_router(pair.context, network.NewRouter("edge"))
    for subnet in network.list_subnets(pair.context):
        network.add_interface(pair.context, "edge", subnet=subnet.id)
    with pytest.raises(Conflict, match="still in use") as told:
        network.delete_network(pair.context, "net")
    assert str(told.value).count("router edge") == 1
