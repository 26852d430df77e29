"""IPv6 subnets and the addresses of their ports, as their services promise them."""

import ipaddress

import pytest

from agent.spec import HostRoute
from stackctl.compute.access import _waited_for
from stackctl.compute.types import ServerAddress
from stackctl.errors import Conflict, UsageError
from stackctl.network import choice, service, subnet_rules
from stackctl.network.allocation import WantedAddress, make_port
from stackctl.network.service import (
    FixedIp,
    NetworkChange,
    NewNetwork,
    NewSubnet,
    Pool,
    PortChange,
    SubnetChange,
)
from stackctl.state import read, write
from tests.unit.test_networks import context, network, port, subnet

__all__ = ["context"]

MAC = "fa:16:3e:01:02:03"
OWN = "f816:3eff:fe01:203"


def given(made):
    return [fixed.address for fixed in made.addresses]


def dhcp_address(context, subnet_id):
    with read(context.cloud) as reader:
        return reader.value(
            "SELECT address FROM addresses WHERE subnet_id = ? AND kind = 'dhcp'", subnet_id
        )


class TestSubnets:
    def test_a_64_is_slaac_and_anything_else_stateful(self, context):
        network(context)
        assert subnet(context, "fd00:1::/64").ipv6_mode == "slaac"
        assert subnet(context, "fd00:2::/112").ipv6_mode == "dhcpv6-stateful"
        pools = (Pool("fd00:3::10", "fd00:3::20"),)
        assert subnet(context, "fd00:3::/64", pools=pools).ipv6_mode == "dhcpv6-stateful"
        assert subnet(context, "fd00:4::/64", dhcp=False).ipv6_mode is None
        assert subnet(context).ipv6_mode is None

    def test_gateway_and_pools(self, context):
        network(context)
        made = subnet(context, "fd00:1::/64", ip_version=6)
        assert (made.gateway, made.ip_version) == ("fd00:1::1", 6)
        assert made.pools == (Pool("fd00:1::2", "fd00:1::ffff:ffff:ffff:ffff"),)
        far = subnet(context, "fd00:2::/64", gateway="fe80::1")
        assert far.gateway == "fe80::1"
        assert far.pools == (Pool("fd00:2::1", "fd00:2::ffff:ffff:ffff:ffff"),)
        with pytest.raises(Conflict, match="fd00:2::1 conflicts with allocation pool"):
            service.set_subnet(context, far.id, SubnetChange(gateway="auto"))
        moved = service.set_subnet(context, far.id, SubnetChange(gateway="fe80::2")).value
        assert moved.gateway == "fe80::2"
        with pytest.raises(UsageError, match="not a host of fd00:3::/64"):
            subnet(context, "fd00:3::/64", gateway="fd00:3::")

    @pytest.mark.parametrize(
        ("cidr", "words"),
        [
            ("FD00::/64", "'fd00::/64' is recommended"),
            ("fd00::1/64", "'fd00::/64' is recommended"),
            ("fd00::/127", "cannot hold instances"),
            ("::/3", "cannot hold instances"),
            ("fe80::/64", "overlaps fe80"),
            ("ff02::/64", "overlaps ff00"),
            ("::/64", "overlaps ::"),
            ("::ffff:0:0/96", "overlaps ::ffff"),
            ("fd00::%eth0/64", "not a valid IP subnet"),
        ],
    )
    def test_ranges_that_cannot_be(self, context, cidr, words):
        network(context)
        with pytest.raises(UsageError, match=words):
            subnet(context, cidr)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"ip_version": 4}, "ip_version '4' does not match the ip_version '6'"),
            ({"ipv6_ra_mode": "dhcp"}, "is no IPv6 mode"),
            ({"ipv6_ra_mode": "slaac", "dhcp": False}, "enable_dhcp is set to False"),
            (
                {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"},
                "ipv6_ra_mode set to 'slaac' with ipv6_address_mode set to 'dhcpv6-stateful'",
            ),
            ({"dns_nameservers": ("9.9.9.9",)}, "not an IPv6 address"),
            ({"host_routes": (HostRoute("fd01::/64", "fd00::5"),)}, "DHCPv6 has no such option"),
            ({"host_routes": (HostRoute("10.0.0.0/8", "fd00::5"),), "dhcp": False}, "destination"),
            ({"pools": (Pool("10.0.0.1", "10.0.0.2"),)}, "not an IPv6 address"),
            ({"pools": (Pool("fd00::", "fd00::9"),)}, "spans beyond the subnet cidr"),
        ],
    )
    def test_what_does_not_go_together(self, context, more, words):
        network(context)
        with pytest.raises(UsageError, match=words):
            subnet(context, "fd00::/64", **more)

    def test_prefixes_and_modes(self, context):
        network(context)
        with pytest.raises(UsageError, match="requires the prefix to be /64"):
            subnet(context, "fd00::/80", ipv6_address_mode="dhcpv6-stateless")
        with pytest.raises(UsageError, match="a /64 or smaller"):
            subnet(context, "fd00::/48")
        assert subnet(context, "fd00::/48", dhcp=False).ipv6_mode is None
        with pytest.raises(UsageError, match="not valid when ip_version is 4"):
            subnet(context, "10.0.0.0/24", ipv6_ra_mode="slaac")

    def test_routes_that_dhcp_cannot_give_keep_it_off(self, context):
        network(context)
        routes = (HostRoute("fd01::/64", "fd00::5"),)
        made = subnet(context, "fd00::/64", dhcp=False, host_routes=routes)
        assert made.host_routes == routes
        with pytest.raises(UsageError, match="DHCPv6 has no such option"):
            service.set_subnet(context, made.id, SubnetChange(dhcp=True))
        change = SubnetChange(dhcp=True, host_routes=())
        assert service.set_subnet(context, made.id, change).value.ipv6_mode == "dhcpv6-stateful"

    def test_overlap_is_among_one_version(self, context):
        network(context)
        subnet(context, "10.0.0.0/24")
        subnet(context, "fd00::/64")
        with pytest.raises(Conflict, match="overlaps with another subnet, fd00::/64"):
            subnet(context, "fd00::/56", dhcp=False)

    def test_small_packets_carry_no_ipv6(self, context):
        service.create_network(context, NewNetwork("small", mtu=1000))
        with pytest.raises(Conflict, match="IPv6 needs 1280"):
            subnet(context, "fd00::/64", "small")
        service.create_network(context, NewNetwork("net", subnet=NewSubnet("fd00::/64")))
        with pytest.raises(Conflict, match="IPv6 needs 1280"):
            service.set_network(context, "net", NetworkChange(mtu=1000))

    def test_domain_and_mtu_change(self, context):
        network(context)
        change = NetworkChange(domain="New.Example.", mtu=1300)
        changed = service.set_network(context, "net", change).value
        assert (changed.domain, changed.mtu) == ("new.example", 1300)
        with pytest.raises(UsageError, match="not a DNS domain"):
            service.set_network(context, "net", NetworkChange(domain="a b"))


class TestAddresses:
    def test_the_slides_addresses_stay_with_ipv6_beside_them(self, context):
        network(context)
        v4, v6 = subnet(context), subnet(context, "fd00::/64")
        ports = [port(context, mac=f"fa:16:3e:00:00:0{n}") for n in range(1, 4)]
        assert [given(each)[0] for each in ports] == [
            "192.168.1.2",
            "192.168.1.4",
            "192.168.1.5",
        ]
        assert given(ports[0])[1:] == ["fd00::f816:3eff:fe00:1"]
        assert dhcp_address(context, v4.id) == "192.168.1.3"
        assert dhcp_address(context, v6.id) == "fd00::2"

    def test_one_of_each_version_and_all_that_a_guest_makes(self, context):
        network(context)
        subnet(context)
        subnet(context, "10.0.0.0/24")
        stateful = subnet(context, "fd00:1::/64", ipv6_ra_mode="dhcpv6-stateful")
        subnet(context, "fd00:2::/64")
        subnet(context, "fd00:3::/64", ipv6_ra_mode="dhcpv6-stateless")
        made = port(context, mac=MAC)
        assert given(made) == ["192.168.1.2", "fd00:1::2", f"fd00:2::{OWN}", f"fd00:3::{OWN}"]
        assert dhcp_address(context, stateful.id) == "fd00:1::3"
        assert given(port(context))[1] == "fd00:1::4"

    def test_a_wanted_address_must_be_the_one_that_the_guest_makes(self, context):
        network(context)
        made = subnet(context, "fd00::/64")
        with pytest.raises(UsageError, match="configured for automatic addresses"):
            port(context, "net", "fd00::77", mac=MAC)
        assert given(port(context, "net", f"fd00::{OWN}", mac=MAC)) == [f"fd00::{OWN}"]
        by_subnet = service.NewPort("net", fixed_ips=(FixedIp(subnet=made.id),))
        own = service.create_port(context, by_subnet).value
        assert given(own) == [choice.eui64("fd00::/64", own.mac)]

    def test_routers_have_any_address(self, context):
        network(context)
        made = subnet(context, "fd00::/64", gateway="none")
        with write(context.cloud) as writer:
            row = writer.get("networks", made.network_id)
            more = {"project_id": row["project_id"], "network": row}
            wanted = [WantedAddress(address="fd00::1")]
            owner = "network:router_interface"
            router = make_port(writer, wanted=wanted, device_owner=owner, device_id="r", **more)
            assert given(router) == ["fd00::1"]
            other = make_port(writer, device_owner=owner, device_id="s", **more)
            assert given(other) == ["fd00::3"]

    def test_another_mac_makes_another_address(self, context):
        network(context)
        subnet(context)
        subnet(context, "fd00::/64")
        made = port(context, name="p", mac=MAC)
        change = PortChange(mac="fa:16:3e:01:02:04")
        changed = service.set_port(context, "p", change).value
        assert given(changed) == [given(made)[0], "fd00::f816:3eff:fe01:204"]

    def test_none_left(self, context):
        network(context)
        subnet(context, "fd00::/126")
        assert given(port(context)) == ["fd00::2"]
        with pytest.raises(Conflict, match="No more IP addresses available"):
            port(context)

    def test_ends_of_a_range(self, context):
        network(context)
        subnet(context, "fd00::/120", gateway="none", dhcp=False)
        with pytest.raises(UsageError, match="not a valid IP for the specified subnet"):
            port(context, "net", "fd00::")
        assert given(port(context, "net", "fd00::ff")) == ["fd00::ff"]


def test_eui64_is_what_rfc_4291_says():
    assert choice.eui64("2001:db8::/64", "34:56:78:9a:bc:de") == "2001:db8::3656:78ff:fe9a:bcde"


def test_hosts_of_a_range():
    first, last = subnet_rules.hosts_of(ipaddress.ip_network("fd00::/126"))
    assert (str(first), str(last)) == ("fd00::1", "fd00::3")


def test_a_guest_is_waited_for_by_its_ipv4_lease_where_it_has_both():
    six = ServerAddress("net", "fd00::1", "m1", "s6", "p")
    four = ServerAddress("net", "10.0.0.1", "m1", "s4", "p")
    alone = ServerAddress("other", "fd00:1::1", "m2", "s7", "q")
    assert _waited_for([six, four, alone], "dhcp") == [four, alone]
    assert _waited_for([six, four], "ssh") == [four, six]
