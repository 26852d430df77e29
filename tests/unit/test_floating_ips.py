"""Floating IPs as their services promise them."""

import json

import pytest

from stackctl.compute import service as compute
from stackctl.errors import (
    Conflict,
    NotFound,
    PartlyDone,
    QuotaExceeded,
    ResourceFailed,
    UsageError,
)
from stackctl.hostspec import build_spec, load_snapshot
from stackctl.network import service
from stackctl.network.service import (
    FixedIp,
    NetworkChange,
    NewFloatingIp,
    NewNetwork,
    NewPort,
    NewRouter,
    NewSubnet,
    PortChange,
    RouterChange,
    Target,
)
from stackctl.state import read, write

MAPPING = json.dumps([{"physical_network": "out", "bridge": "br-ex", "nic": "eth2"}])


@pytest.fixture
def town(world):
    """A router r between net and public on h1; servers a and b in net, c in lonely."""
    world.add_host("h1", bridge_mappings_json=MAPPING)
    world.add_host("h2")
    world.add_image()
    for name, cidr, more in (
        ("net", "192.168.1.0/24", {}),
        ("lonely", "192.168.2.0/24", {}),
        ("public", "203.0.113.0/28", {"external": True, "physical_network": "out"}),
    ):
        wanted = NewNetwork(name, subnet=NewSubnet(cidr, name=f"sub-{name}"), **more)
        service.create_network(world.context, wanted)
    service.create_router(world.context, NewRouter("r", gateway="public")).check()
    service.add_interface(world.context, "r", subnet="sub-net").check()
    for name, net in (("a", "net"), ("b", "net"), ("c", "lonely")):
        world.booted(name, net=[net], host="h2")
    return world


def take(world, network="public", **more):
    done = service.create_floating_ip(world.context, NewFloatingIp(network, **more))
    done.check()
    return done.value


def tie(world, word, target, **more):
    done = service.associate(world.context, word, Target(word=target, **more))
    done.check()
    return done.value


def addresses(world):
    listed = service.list_floating_ips(world.context)
    return {each.address: (each.server_name, each.fixed_address, each.status) for each in listed}


def on_host(world, host="h1"):
    with read(world.cloud) as reader:
        spec = build_spec(load_snapshot(reader, world.host(host)["id"]), 1, "")
    return {each.address: each.fixed_address for each in spec.routers[0].floating_ips}


class TestTaking:
    def test_the_next_address(self, town):
        first = take(town)
        assert (first.address, first.status, first.router_id) == ("203.0.113.3", "DOWN", None)
        assert take(town, address="203.0.113.9").address == "203.0.113.9"
        assert take(town, subnet="sub-public", description="web").description == "web"
        assert on_host(town) == {}

    def test_tied_at_once(self, town):
        made = take(town, target=Target(server="a"))
        assert (made.fixed_address, made.router_name) == ("192.168.1.2", "r")
        assert made.status == "ACTIVE"
        assert on_host(town) == {"203.0.113.3": "192.168.1.2"}
        assert addresses(town)["203.0.113.3"] == ("a", "192.168.1.2", "ACTIVE")

    def test_refused(self, town):
        with pytest.raises(Conflict, match="Network net is not a valid external network"):
            take(town, "net")
        with pytest.raises(Conflict, match=r"The IP address 203.0.113.2 is in use"):
            take(town, address="203.0.113.2")
        with pytest.raises(UsageError, match="not a valid IP for any of the subnets"):
            take(town, address="198.51.100.1")
        with pytest.raises(UsageError, match="not a valid IP for the specified subnet"):
            take(town, address="203.0.113.15")
        with pytest.raises(UsageError, match="at most 255"):
            take(town, description="x" * 256)
        service.create_network(town.context, NewNetwork("void", external=True))
        with pytest.raises(Conflict, match="Network void does not contain any IPv4 subnet"):
            take(town, "void")
        assert addresses(town) == {}

    def test_a_refused_target_leaves_none(self, town):
        with pytest.raises(Conflict):
            take(town, target=Target(server="c"))
        assert addresses(town) == {}
        assert take(town).address == "203.0.113.3"

    def test_none_left(self, town):
        for _ in range(12):
            take(town)
        with pytest.raises(Conflict, match="No more IP addresses available on network public"):
            take(town)

    def test_the_project_has_its_share(self, town):
        with write(town.cloud) as writer:
            row = {"project_id": town.context.project_id, "resource": "floating_ips"}
            writer.upsert("quotas", {**row, "maximum": 1}, pk=("project_id", "resource"))
        take(town)
        with pytest.raises(QuotaExceeded, match="floating_ips: Requested 1, but already used 1"):
            take(town)

    def test_found_by_address_and_id(self, town):
        made = take(town)
        for word in (made.address, made.id, made.id[:8]):
            assert service.show_floating_ip(town.context, word).id == made.id
        with pytest.raises(NotFound, match="There is no floating IP 'x'") as refused:
            service.show_floating_ip(town.context, "x")
        assert refused.value.hint == "stackctl floatingip-list"

    def test_a_repeated_request_takes_one(self, town):
        context = town.asked(request_id="once")
        first = service.create_floating_ip(context, NewFloatingIp("public")).value
        assert service.create_floating_ip(context, NewFloatingIp("public")).value == first
        assert len(addresses(town)) == 1

    def test_given_back(self, town):
        take(town, target=Target(server="a"))
        service.delete_floating_ip(town.context, "203.0.113.3").check()
        assert (on_host(town), addresses(town)) == ({}, {})
        # It rests: others come first.
        assert take(town).address == "203.0.113.4"


class TestTying:
    def test_moved_without_dropping_others(self, town):
        take(town, target=Target(server="a"))
        other = take(town)
        tie(town, other.address, "b")
        tie(town, "203.0.113.3", "a")
        assert on_host(town) == {"203.0.113.3": "192.168.1.2", "203.0.113.4": "192.168.1.4"}
        service.disassociate(town.context, "203.0.113.4").check()
        before = len(town.fleet.specs)
        tie(town, "203.0.113.3", "b")
        told = [
            {each.address: each.fixed_address for each in item.routers[0].floating_ips}
            for item in town.fleet.specs[before:]
            if item.routers
        ]
        assert told == [{"203.0.113.3": "192.168.1.4"}]
        assert addresses(town)["203.0.113.3"] == ("b", "192.168.1.4", "ACTIVE")

    def test_by_port_name_and_by_server_name(self, town):
        service.create_port(town.context, NewPort("net", name="p"))
        take(town)
        assert tie(town, "203.0.113.3", "p").server_name == ""
        with pytest.raises(NotFound, match="There is no port and no server 'x'"):
            tie(town, "203.0.113.3", "x")
        done = service.associate(town.context, "203.0.113.3", Target(port="p"))
        assert done.value.port_id == service.show_port(town.context, "p").id
        with pytest.raises(UsageError, match="A port or a server is needed"):
            service.associate(town.context, "203.0.113.3", Target())

    def test_no_way_from_outside(self, town):
        take(town)
        with pytest.raises(
            Conflict,
            match=r"External network public is not reachable from subnet sub-lonely. Therefore, "
            r"cannot associate Port c with a Floating IP",
        ) as refused:
            tie(town, "203.0.113.3", "c")
        assert "router-interface-add ROUTER sub-lonely" in refused.value.hint

    def test_a_router_without_that_gateway_is_no_way(self, town):
        service.create_router(town.context, NewRouter("q")).check()
        service.add_interface(town.context, "q", subnet="sub-lonely").check()
        take(town)
        with pytest.raises(Conflict, match="not reachable from subnet sub-lonely"):
            tie(town, "203.0.113.3", "c")
        service.set_gateway(town.context, "q", "public").check()
        assert tie(town, "203.0.113.3", "c").router_name == "q"

    def test_a_server_with_two_nics_is_reached_by_the_one_that_can_be(self, town):
        town.booted("two", net=["lonely", "net"], host="h2")
        take(town)
        assert tie(town, "203.0.113.3", "two").fixed_address == "192.168.1.5"

    def test_the_subnets_own_gateway_before_other_routers(self, town):
        service.create_router(town.context, NewRouter("q", gateway="public")).check()
        wanted = (FixedIp(address="192.168.1.254"),)
        service.create_port(town.context, NewPort("net", name="leg", fixed_ips=wanted))
        service.add_interface(town.context, "q", port="leg").check()
        assert take(town, target=Target(server="a")).router_name == "r"

    def test_an_address_has_one(self, town):
        take(town, target=Target(server="a"))
        take(town)
        with pytest.raises(
            Conflict, match=r"already has a floating IP on external network public: "
        ):
            tie(town, "203.0.113.4", "a")
        service.disassociate(town.context, "203.0.113.3").check()
        tie(town, "203.0.113.4", "a")

    def test_which_of_several_addresses(self, town):
        wanted = tuple(FixedIp(address=f"192.168.1.{last}") for last in (50, 51))
        service.create_port(town.context, NewPort("net", name="p", fixed_ips=wanted))
        take(town)
        with pytest.raises(UsageError, match=r"multiple fixed IPv4 addresses: 192.168.1.50, 192"):
            tie(town, "203.0.113.3", "p")
        with pytest.raises(Conflict, match=r"Port p does not have fixed ip 192.168.1.52"):
            tie(town, "203.0.113.3", "p", fixed_address="192.168.1.52")
        tied = tie(town, "203.0.113.3", "p", fixed_address="192.168.1.51")
        assert tied.fixed_address == "192.168.1.51"
        # Two addresses of one port may have one each.
        take(town)
        tie(town, "203.0.113.4", "p", fixed_address="192.168.1.50")
        # One that the port loses is reached no more.
        change = PortChange(fixed_ips=(FixedIp(address="192.168.1.50"),))
        service.set_port(town.context, "p", change)
        assert on_host(town) == {"203.0.113.4": "192.168.1.50"}

    def test_a_port_without_addresses(self, town):
        service.create_network(town.context, NewNetwork("bare"))
        service.create_port(town.context, NewPort("bare", name="p"))
        take(town)
        with pytest.raises(Conflict, match="port p that has no fixed IPv4 addresses"):
            tie(town, "203.0.113.3", "p")

    def test_not_for_a_routers_port(self, town):
        port = service.show_router(town.context, "r").interfaces[0].port_id
        take(town)
        with pytest.raises(Conflict, match="no floating IP can stand for it"):
            tie(town, "203.0.113.3", port)

    def test_untied(self, town):
        take(town, target=Target(server="a"))
        with pytest.raises(Conflict, match="is not associated with server b"):
            service.disassociate(town.context, "203.0.113.3", server="b")
        service.disassociate(town.context, "203.0.113.3", server="a").check()
        assert addresses(town)["203.0.113.3"] == ("", None, "DOWN")
        with pytest.raises(Conflict, match="is not associated with any port"):
            service.disassociate(town.context, "203.0.113.3")

    def test_a_deleted_server_leaves_it(self, town):
        take(town, target=Target(server="a"))
        compute.delete_servers(town.context, ["a"]).check()
        assert addresses(town)["203.0.113.3"] == ("", None, "DOWN")
        assert on_host(town) == {}

    def test_a_deleted_port_leaves_it(self, town):
        service.create_port(town.context, NewPort("net", name="p"))
        take(town, target=Target(port="p"))
        service.delete_port(town.context, "p").check()
        assert on_host(town) == {}

    def test_a_server_gives_back_its_port_and_the_floating_ip(self, town):
        from stackctl.compute.types import Nic

        service.create_port(town.context, NewPort("net", name="p"))
        town.booted("d", nics=(Nic(port="p"),), host="h2")
        take(town, target=Target(server="d"))
        compute.delete_servers(town.context, ["d"]).check()
        assert on_host(town) == {}


class TestWhatItNeeds:
    def test_the_interface_and_the_gateway_stay(self, town):
        take(town, target=Target(server="a"))
        with pytest.raises(Conflict, match="required by one or more floating IPs: 203"):
            service.remove_interface(town.context, "r", subnet="sub-net")
        with pytest.raises(Conflict, match="Gateway cannot be updated for router r"):
            service.clear_gateway(town.context, "r")
        service.disassociate(town.context, "203.0.113.3").check()
        service.remove_interface(town.context, "r", subnet="sub-net").check()
        service.clear_gateway(town.context, "r").check()

    def test_another_address_of_the_gateway_is_no_harm(self, town):
        take(town, target=Target(server="a"))
        wanted = (FixedIp(address="203.0.113.9"),)
        service.set_gateway(town.context, "r", "public", fixed_ips=wanted).check()
        assert on_host(town) == {"203.0.113.3": "192.168.1.2"}

    def test_its_network_stays(self, town):
        take(town)
        service.clear_gateway(town.context, "r").check()
        with pytest.raises(Conflict, match=r"in use on the network: floating IP 203.0.113.3"):
            service.delete_network(town.context, "public")
        with pytest.raises(Conflict, match=r"from this subnet: floating IP 203.0.113.3"):
            service.delete_subnet(town.context, "sub-public")
        with pytest.raises(Conflict, match=r"non-external.*floating IP 203.0.113.3"):
            service.set_network(town.context, "public", NetworkChange(external=False))

    def test_it_goes_along_with_its_router(self, town):
        with write(town.cloud) as writer:
            writer.run("UPDATE hosts SET bridge_mappings_json = ?", MAPPING)
        take(town, target=Target(server="a"))
        service.move_router(town.context, "r", "h2").check()
        assert on_host(town, "h2") == {"203.0.113.3": "192.168.1.2"}
        assert addresses(town)["203.0.113.3"][2] == "ACTIVE"

    def test_it_is_as_well_as_its_router(self, town):
        take(town)
        town.trouble("h1", fail={"router": "no"})
        with pytest.raises(ResourceFailed, match="router r on host h1: no"):
            tie(town, "203.0.113.3", "a")
        assert addresses(town)["203.0.113.3"][2] == "DOWN"
        town.trouble("h1")
        town.converge("h1")
        assert addresses(town)["203.0.113.3"][2] == "ACTIVE"
        service.set_router(town.context, "r", RouterChange(admin_up=False)).check()
        assert addresses(town)["203.0.113.3"][2] == "DOWN"

    def test_a_silent_host_gets_it_later(self, town):
        take(town)
        town.trouble("h1", unreachable=True)
        with pytest.raises(PartlyDone):
            tie(town, "203.0.113.3", "a")
        town.trouble("h1")
        town.converge()
        assert addresses(town)["203.0.113.3"] == ("a", "192.168.1.2", "ACTIVE")


def test_servers_show_theirs_beside_what_they_stand_for(town):
    take(town, target=Target(server="a"))
    assert town.server("a").networks() == {"net": ["192.168.1.2", "203.0.113.3"]}
    assert town.server("a").addresses[0].floating == ("203.0.113.3",)
    assert town.server("b").networks() == {"net": ["192.168.1.4"]}


def test_two_external_networks_may_stand_for_one_address(town):
    more = json.dumps([*json.loads(MAPPING), {"physical_network": "o2", "bridge": "b", "nic": "e"}])
    with write(town.cloud) as writer:
        writer.run("UPDATE hosts SET bridge_mappings_json = ? WHERE name = 'h1'", more)
    far = NewNetwork(
        "far", subnet=NewSubnet("198.51.100.0/24"), external=True, physical_network="o2"
    )
    service.create_network(town.context, far)
    service.create_router(town.context, NewRouter("q", gateway="far")).check()
    service.create_port(
        town.context, NewPort("net", name="leg", fixed_ips=(FixedIp(address="192.168.1.254"),))
    )
    service.add_interface(town.context, "q", port="leg").check()
    take(town, target=Target(server="a"))
    take(town, "far", target=Target(server="a"))
    assert town.server("a").networks() == {"net": ["192.168.1.2", "203.0.113.3", "198.51.100.3"]}
