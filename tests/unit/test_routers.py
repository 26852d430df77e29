"""Routers as their services promise them: rows, refusals, place, specs of their hosts."""

import dataclasses
import ipaddress
import json

import pytest

from agent.spec import HostRoute
from agent.wire import Fault, Report
from stackctl.compute.types import Nic
from stackctl.errors import (
    Conflict,
    HostUnreachable,
    NoCapacity,
    NotFound,
    PartlyDone,
    QuotaExceeded,
    ResourceFailed,
    UsageError,
)
from stackctl.hosts import leaving
from stackctl.hostspec import build_spec, load_snapshot
from stackctl.network import router_moving, router_placing, router_rules, service
from stackctl.network.router_placing import Needs, RouterHost
from stackctl.network.service import (
    FixedIp,
    NetworkChange,
    NewNetwork,
    NewPort,
    NewRouter,
    NewSubnet,
    PortChange,
    RouterChange,
    SubnetChange,
)
from stackctl.operation import Operation, recover
from stackctl.operation.keep import converge_hosts, list_events
from stackctl.operation.reports import Reporter
from stackctl.state import new_id, now, read, write
from tests.builders import killed_at

MAPPING = json.dumps([{"physical_network": "out", "bridge": "br-ex", "nic": "eth2"}])


@pytest.fixture
def town(world):
    """Two hosts with the physical network out, h3 without; networks net, other, public."""
    for name in ("h1", "h2"):
        world.add_host(name, bridge_mappings_json=MAPPING)
    world.add_host("h3")
    world.add_image()
    subnet(world, "net", "192.168.1.0/24", "s1")
    subnet(world, "other", "192.168.2.0/24", "s2")
    subnet(world, "public", "203.0.113.0/24", "outside", external=True, physical_network="out")
    return world


def subnet(world, name, cidr, label, *, gateway="auto", **more):
    wanted = NewNetwork(name, subnet=NewSubnet(cidr, name=label, gateway=gateway), **more)
    return service.create_network(world.context, wanted).value


def create(world, name="r", **more):
    done = service.create_router(world.context, NewRouter(name, **more))
    done.check()
    return done.value


def join(world, word="s1", name="r", **more):
    done = service.add_interface(world.context, name, **(more or {"subnet": word}))
    done.check()
    return done.value


def leave(world, word="s1", name="r", **more):
    return service.remove_interface(world.context, name, **(more or {"subnet": word})).value


def change(world, router="r", /, **more):
    done = service.set_router(world.context, router, RouterChange(**more))
    done.check()
    return done.value


def routed(world, name="r", word="s1"):
    """A router with a gateway in public and an interface."""
    create(world, name, gateway="public")
    return join(world, word, name)


def shown(world, name="r"):
    return service.show_router(world.context, name)


def spec(world, host):
    with read(world.cloud) as reader:
        return build_spec(load_snapshot(reader, world.host(host)["id"]), 1, "")


def gateway_row(world, address="192.168.1.1"):
    sql = "SELECT kind, port_id FROM addresses WHERE address = ? AND released_serial IS NULL"
    return world.rows(sql, address)[0]


def concluded(world, host, *reports):
    """A whole exchange in which a host tells only this."""
    row = world.host(host)
    reporter = Reporter(row["id"], row["name"], "op", "me")
    with write(world.cloud) as writer:
        reporter.write(writer, reports)
        reporter.conclude(writer, build_spec(load_snapshot(writer, row["id"]), 1, ""))


class TestLostReports:
    def test_a_router_whose_report_was_lost_is_active_after_the_next_exchange(self, town):
        routed(town)
        with write(town.cloud) as writer:
            writer.run("UPDATE routers SET status = 'DOWN'")
            writer.run("UPDATE ports SET status = 'DOWN'")
        concluded(town, "h1")
        assert shown(town).status == "ACTIVE"
        assert set(town.column("SELECT status FROM ports WHERE device_id <> ''")) == {"ACTIVE"}

    def test_one_that_failed_is_not(self, town):
        routed(town)
        router = shown(town).id
        version = town.value("SELECT version FROM routers")
        why = Fault("no such thing")
        concluded(town, "h1", Report("router", router, "failed", version, fault=why))
        assert (shown(town).status, shown(town).fault) == ("ERROR", "no such thing")
        concluded(town, "h1")
        assert (shown(town).status, shown(town).fault) == ("ACTIVE", "")


class TestCreate:
    def test_without_ports_it_is_nowhere(self, town):
        made = create(town)
        assert (made.host, made.status, made.admin_up, made.snat) == ("", "DOWN", True, True)
        assert town.fleet.opened == {}

    def test_with_a_gateway_it_is_on_a_host(self, town):
        router = create(town, gateway="public", snat=False, admin_up=False)
        assert shown(town) == router
        assert create(town, "up", gateway="public").status == "ACTIVE"
        assert (router.host, router.snat, router.admin_up) == ("h1", False, False)
        assert [each.address for each in router.gateway.addresses] == ["203.0.113.2"]
        assert router.gateway.cidrs == ("203.0.113.0/24",)
        assert spec(town, "h1").routers[0].gateway.addresses[0].address == "203.0.113.2"

    def test_names_are_taken_once(self, town):
        create(town)
        with pytest.raises(Conflict, match="a router called 'r' already"):
            create(town)
        create(town, "q")
        with pytest.raises(Conflict, match="a router called 'r' already"):
            change(town, "q", name="r")
        assert change(town, "q", name="z").name == "z"

    def test_a_refused_gateway_leaves_no_router(self, town):
        with pytest.raises(Conflict, match="Network net is not a valid external network"):
            create(town, gateway="net")
        assert service.list_routers(town.context) == []

    def test_an_address_needs_its_network(self, town):
        with pytest.raises(UsageError, match="--external-gateway"):
            create(town, fixed_ips=(FixedIp(address="203.0.113.9"),))

    def test_the_project_has_its_share(self, town):
        with write(town.cloud) as writer:
            project = {"id": new_id(), "name": "other", "created_at": now()}
            writer.insert("projects", project)
        stranger = dataclasses.replace(town.context, project_id=project["id"])
        for number in range(10):
            service.create_router(stranger, NewRouter(f"r{number}"))
        with pytest.raises(QuotaExceeded, match="routers: Requested 1, but already used 10 of 10"):
            service.create_router(stranger, NewRouter("more"))
        with pytest.raises(NotFound):
            service.show_router(town.context, "r1")

    def test_a_repeated_request_makes_one(self, town):
        context = town.asked(request_id="once")
        first = service.create_router(context, NewRouter("r")).value
        assert service.create_router(context, NewRouter("r")).value.id == first.id

    def test_a_rehearsal_makes_none(self, town):
        asked = town.asked(dry_run=True)
        done = service.create_router(asked, NewRouter("r", gateway="public"))
        assert [(step.host, step.kind) for step in done.planned] == [("h1", "router")]
        assert service.list_routers(town.context) == []


class TestInterfaces:
    def test_it_takes_the_gateways_address(self, town):
        create(town)
        router = join(town)
        assert [port.addresses[0].address for port in router.interfaces] == ["192.168.1.1"]
        row = gateway_row(town)
        assert (row["kind"], row["port_id"]) == ("fixed", router.interfaces[0].port_id)
        assert shown(town).status == "ACTIVE"
        port = service.show_port(town.context, router.interfaces[0].port_id)
        assert (port.device_owner, port.status) == ("network:router_interface", "ACTIVE")
        assert (port.port_security, port.device_id) == (False, router.id)

    def test_given_back_it_is_reserved_again(self, town):
        create(town)
        join(town)
        left = leave(town)
        assert (left.interfaces, left.host, left.status) == ((), "", "DOWN")
        assert gateway_row(town) == {"kind": "gateway", "port_id": None}
        assert town.fleet.routers() == {}
        join(town)
        assert gateway_row(town)["kind"] == "fixed"

    def test_the_dhcp_server_still_comes_after_the_first_guest(self, town):
        create(town)
        join(town)
        server = town.booted("head", net=["net"])[0]
        assert server.addresses[0].address == "192.168.1.2"
        assert town.value("SELECT address FROM addresses WHERE kind = 'dhcp'") == "192.168.1.3"

    def test_the_other_hosts_learn_where_it_is(self, town):
        town.booted("vm", net=["net"], host="h3")
        create(town)
        router = join(town)
        remote = {port.mac for net in spec(town, "h3").networks for port in net.remote_ports}
        assert router.interfaces[0].mac in remote

    def test_a_subnet_without_a_gateway(self, town):
        subnet(town, "closed", "192.168.9.0/24", "s9", gateway="none")
        create(town)
        with pytest.raises(Conflict, match="must have a gateway IP"):
            join(town, "s9")

    def test_a_second_router_needs_an_address_of_its_own(self, town):
        create(town)
        join(town)
        create(town, "q")
        with pytest.raises(Conflict, match=r"The IP address 192.168.1.1 is in use"):
            join(town, "s1", "q")
        wanted = NewPort("net", name="p", fixed_ips=(FixedIp(address="192.168.1.254"),))
        service.create_port(town.context, wanted)
        router = join(town, name="q", port="p")
        assert router.interfaces[0].addresses[0].address == "192.168.1.254"
        with pytest.raises(Conflict, match="already has an attached device"):
            join(town, name="r", port="p")
        left = leave(town, name="q", port="p")
        assert left.interfaces == ()
        with pytest.raises(NotFound):
            service.show_port(town.context, "p")

    def test_a_port_without_addresses_is_no_interface(self, town):
        service.create_network(town.context, NewNetwork("bare"))
        service.create_port(town.context, NewPort("bare", name="p"))
        create(town)
        with pytest.raises(Conflict, match="must have at least one fixed IP"):
            join(town, port="p")

    def test_the_same_subnet_twice(self, town):
        create(town)
        join(town)
        with pytest.raises(Conflict, match="Router r already has a port on subnet s1"):
            join(town)

    def test_overlapping_subnets(self, town):
        subnet(town, "wide", "192.168.0.0/16", "s0")
        create(town)
        join(town)
        with pytest.raises(
            Conflict, match=r"Cidr 192.168.0.0/16 of subnet s0 overlaps with cidr 192.168.1.0/24"
        ):
            join(town, "s0")

    def test_a_subnet_that_overlaps_the_outside(self, town):
        subnet(town, "twin", "203.0.113.128/25", "s8")
        create(town, gateway="public")
        with pytest.raises(Conflict, match=r"overlaps with cidr 203.0.113.0/24 of subnet outside"):
            join(town, "s8")
        create(town, "q")
        join(town, "s8", "q")
        with pytest.raises(Conflict, match="overlaps"):
            change(town, "q", gateway="public")

    def test_what_is_not_there_is_not_found(self, town):
        create(town)
        with pytest.raises(NotFound, match="does not have an interface on subnet s1"):
            leave(town)
        service.create_port(town.context, NewPort("net", name="p"))
        with pytest.raises(NotFound, match="does not have an interface with port p"):
            leave(town, port="p")
        with pytest.raises(NotFound, match="no router 'q'"):
            join(town, "s1", "q")
        with pytest.raises(UsageError):
            service.add_interface(town.context, "r")

    def test_a_port_in_a_group_leaves_it(self, town):
        port = service.create_port(town.context, NewPort("net", name="p")).value
        group = town.value("SELECT id FROM security_groups LIMIT 1")
        with write(town.cloud) as writer:
            if group is None:
                group = new_id()
                row = {"id": group, "project_id": town.context.project_id, "name": "g"}
                writer.insert("security_groups", {**row, "created_at": now()})
            pair = {"port_id": port.id, "group_id": group}
            writer.insert_if_free("port_security_groups", pair, "(port_id, group_id)")
        create(town)
        join(town, port="p")
        assert town.rows("SELECT * FROM port_security_groups WHERE port_id = ?", port.id) == []


class TestGateway:
    def test_set_changed_and_cleared(self, town):
        create(town)
        service.set_gateway(town.context, "r", "public", snat=False).check()
        first = shown(town)
        assert (first.gateway.network_name, first.snat) == ("public", False)
        # The same again changes nothing, another address makes another port.
        same = service.set_gateway(town.context, "r", "public").value
        assert same.gateway == first.gateway
        wanted = (FixedIp(address="203.0.113.77"),)
        moved = service.set_gateway(town.context, "r", "public", fixed_ips=wanted).value
        assert [each.address for each in moved.gateway.addresses] == ["203.0.113.77"]
        cleared = service.clear_gateway(town.context, "r").value
        assert (cleared.gateway, cleared.host) == (None, "")
        with pytest.raises(Conflict, match="Router r has no gateway"):
            service.clear_gateway(town.context, "r")

    def test_one_address_of_each_kind(self, town):
        with write(town.cloud) as writer:
            old = writer.one("SELECT * FROM subnets WHERE name = 'outside'")
            pools = json.dumps([{"start": "2001:db8::10", "end": "2001:db8::ff"}])
            six = {**old, "id": new_id(), "name": "six", "number": 99, "cidr": "2001:db8::/64"}
            writer.insert("subnets", {**six, "gateway": "2001:db8::1", "pools_json": pools})
        create(town, gateway="public")
        held = [each.address for each in shown(town).gateway.addresses]
        assert held == ["203.0.113.2", "2001:db8::10"]
        assert {ipaddress.ip_address(each).version for each in held} == {4, 6}

    def test_a_network_without_subnets(self, town):
        wanted = NewNetwork("void", external=True, type="gre")
        service.create_network(town.context, wanted)
        with pytest.raises(Conflict, match="Network void has no subnet"):
            create(town, gateway="void")

    def test_an_address_that_is_taken(self, town):
        with pytest.raises(Conflict, match=r"203.0.113.1 is in use"):
            create(town, gateway="public", fixed_ips=(FixedIp(address="203.0.113.1"),))

    def test_another_external_network_takes_its_place(self, town):
        more = json.dumps(
            [*json.loads(MAPPING), {"physical_network": "out2", "bridge": "b", "nic": "e"}]
        )
        with write(town.cloud) as writer:
            writer.run("UPDATE hosts SET bridge_mappings_json = ? WHERE name = 'h2'", more)
        subnet(town, "far", "198.51.100.0/24", "s7", external=True, physical_network="out2")
        create(town, gateway="public")
        assert shown(town).host == "h1"
        router = change(town, gateway="far")
        assert (router.gateway.network_name, router.host) == ("far", "h2")
        assert list(town.fleet.routers().values()) == ["h2"]

    def test_the_network_stays_external(self, town):
        create(town, gateway="public")
        with pytest.raises(Conflict, match="cannot be updated to be made non-external"):
            service.set_network(town.context, "public", NetworkChange(external=False))
        service.clear_gateway(town.context, "r")
        service.set_network(town.context, "public", NetworkChange(external=False))


class TestRoutes:
    def test_added_and_dropped(self, town):
        routed(town)
        one = HostRoute("10.0.0.0/8", "192.168.1.99")
        two = HostRoute("172.16.0.0/12", "203.0.113.99")
        assert change(town, add_routes=(one,)).routes == (one,)
        assert change(town, add_routes=(two, one)).routes == (one, two)
        assert spec(town, "h1").routers[0].routes == (one, two)
        assert change(town, drop_routes=(one,)).routes == (two,)
        with pytest.raises(NotFound, match=r"no route to 10.0.0.0/8 via 192.168.1.99"):
            change(town, drop_routes=(one,))
        assert change(town, no_routes=True, add_routes=(one,)).routes == (one,)

    @pytest.mark.parametrize(
        ("destination", "nexthop", "said"),
        [
            ("10.0.0.0/8", "192.168.5.1", "the nexthop is not connected with router"),
            ("10.0.0.0/8", "192.168.1.1", "the nexthop is used by router"),
            ("10.0.0.1/8", "192.168.1.9", "has host bits set"),
            ("somewhere", "192.168.1.9", "Invalid format for routes"),
            ("10.0.0.0/8", "", "Invalid format for routes"),
            ("2001:db8::/64", "192.168.1.9", "mixes IPv4 and IPv6"),
        ],
    )
    def test_routes_that_lead_nowhere(self, town, destination, nexthop, said):
        routed(town)
        with pytest.raises(UsageError, match=said):
            change(town, add_routes=(HostRoute(destination, nexthop),))
        assert shown(town).routes == ()

    def test_no_more_than_thirty(self):
        many = [HostRoute(f"10.{number}.0.0/16", "192.168.1.9") for number in range(31)]
        assert len(router_rules.checked_routes(many[:30], ["192.168.1.0/24"], [])) == 30
        with pytest.raises(UsageError, match="exceeds the maximum 30: 31"):
            router_rules.checked_routes(many, ["192.168.1.0/24"], [])
        with pytest.raises(UsageError, match="given twice"):
            router_rules.checked_routes(many[:1] * 2, ["192.168.1.0/24"], [])

    def test_what_routes_need_stays(self, town):
        routed(town)
        inside = HostRoute("10.0.0.0/8", "192.168.1.99")
        change(town, add_routes=(inside,))
        with pytest.raises(Conflict, match=r"as it is required by one or more routes: 10.0.0.0/8"):
            leave(town)
        outside = HostRoute("10.0.0.0/8", "203.0.113.99")
        change(town, no_routes=True, add_routes=(outside,))
        with pytest.raises(Conflict, match="required by one or more routes"):
            service.clear_gateway(town.context, "r")
        assert change(town, no_gateway=True, no_routes=True).gateway is None
        leave(town)


class TestSet:
    def test_down_is_down(self, town):
        routed(town)
        assert shown(town).status == "ACTIVE"
        change(town, admin_up=False)
        assert shown(town).status == "DOWN"
        assert spec(town, "h1").routers[0].admin_up is False
        change(town, admin_up=True, snat=False)
        assert (shown(town).status, spec(town, "h1").routers[0].snat) == ("ACTIVE", False)

    def test_nothing_to_change(self, town):
        create(town)
        with pytest.raises(UsageError, match="Nothing to change"):
            change(town)
        with pytest.raises(UsageError, match="Either another gateway or none"):
            change(town, gateway="public", no_gateway=True)

    def test_what_its_host_says_of_it_is_shown(self, town):
        create(town)
        town.trouble("h1", fail={"router": "iptables-restore: line 3 failed"})
        with pytest.raises(ResourceFailed, match="router r on host h1: iptables-restore"):
            join(town)
        router = shown(town)
        assert (router.status, router.fault) == ("ERROR", "iptables-restore: line 3 failed")
        events = list_events(town.context, resource=router.id, errors_only=True)
        assert [(event["host"], event["name"]) for event in events] == [("h1", "r")]
        town.trouble("h1")
        town.converge("h1")
        assert (shown(town).status, shown(town).fault) == ("ACTIVE", "")


class TestDelete:
    def test_not_with_interfaces(self, town):
        routed(town)
        with pytest.raises(Conflict, match="Router r still has ports"):
            service.delete_router(town.context, "r")
        leave(town)
        service.delete_router(town.context, "r").check()
        assert service.list_routers(town.context) == []
        assert town.fleet.routers() == {}
        assert town.rows("SELECT * FROM bindings") == []
        service.delete_network(town.context, "public")

    def test_what_it_uses_stays(self, town):
        router = routed(town)
        for word in ("net", "public"):
            with pytest.raises(Conflict, match="ports still in use on the network: router r"):
                service.delete_network(town.context, word)
        for word in ("s1", "outside"):
            with pytest.raises(Conflict, match="IP allocation from this subnet: router r"):
                service.delete_subnet(town.context, word)
        with pytest.raises(Conflict, match=r"Current gateway ip 192.168.1.1 already in use"):
            service.set_subnet(town.context, "s1", SubnetChange(gateway="none"))
        for port_id in (router.interfaces[0].port_id, router.gateway.port_id):
            with pytest.raises(Conflict, match="directly via the port API: has device owner netw"):
                service.delete_port(town.context, port_id)
            with pytest.raises(Conflict, match="cannot be changed directly"):
                service.set_port(town.context, port_id, PortChange(name="mine"))
            with pytest.raises(Conflict):
                town.boot("vm", nics=(Nic(port=port_id),))


def host(name, **more):
    values = {"closed": "", "physical_networks": frozenset({"out"}), "tunnels": True, "routers": 0}
    return RouterHost(id=name, name=name, **{**values, **more})


class TestPlacing:
    def test_the_fewest_routers_then_the_first_name(self):
        needs = Needs(frozenset({"out"}), True)
        hosts = [host("c"), host("a", routers=1), host("b")]
        assert router_placing.choose(hosts, needs) == "b"
        assert router_placing.choose([host("a", closed="is off")], needs) is None
        assert router_placing.choose([host("a", tunnels=False)], needs) is None
        assert router_placing.choose([host("a", tunnels=False)], Needs(frozenset(), False)) == "a"

    def test_they_are_spread(self, town):
        for number in range(4):
            create(town, f"r{number}", gateway="public")
        assert [router.host for router in service.list_routers(town.context)] == [
            "h1",
            "h2",
            "h1",
            "h2",
        ]

    def test_a_gateway_that_its_host_has_not_moves_it(self, town):
        create(town, "first", gateway="public")
        with write(town.cloud) as writer:
            writer.run("UPDATE hosts SET enabled = 0 WHERE name <> 'h3'")
        create(town)
        assert join(town).host == "h3"
        with write(town.cloud) as writer:
            writer.run("UPDATE hosts SET enabled = 1")
        router = change(town, gateway="public")
        assert router.host == "h2"
        assert spec(town, "h3").routers == ()
        assert spec(town, "h3").networks == ()
        assert len(spec(town, "h2").routers[0].interfaces) == 1
        assert town.fleet.routers()[router.id] == "h2"
        assert shown(town).status == "ACTIVE"

    def test_nowhere_with_each_hosts_reason(self, town):
        with write(town.cloud) as writer:
            writer.run("UPDATE hosts SET enabled = 0, disabled_reason = 'old' WHERE name = 'h1'")
            writer.run("UPDATE hosts SET fenced = 1 WHERE name = 'h2'")
        with pytest.raises(NoCapacity) as refused:
            create(town, gateway="public")
        for said in (
            "h1: is disabled: old",
            "h2: is fenced",
            "h3: has no bridge for physical network out",
        ):
            assert said in refused.value.message
        assert service.list_routers(town.context) == []

    def test_not_on_a_host_that_does_not_answer(self, town):
        with write(town.cloud) as writer:
            writer.run("UPDATE hosts SET unreachable_since = ? WHERE name = 'h1'", now())
        create(town, gateway="public")
        assert shown(town).host == "h2"

    def test_not_on_a_host_without_tunnels(self, town):
        with write(town.cloud) as writer:
            writer.run("UPDATE hosts SET tunnel_address = NULL WHERE name <> 'h3'")
        create(town)
        assert join(town).host == "h3"
        with pytest.raises(NoCapacity, match="h1: has no tunnel address"):
            change(town, gateway="public")
        assert shown(town).gateway is None

    def test_pinned(self, town):
        create(town, host="h2", gateway="public")
        assert (shown(town).host, shown(town).pinned) == ("h2", True)
        with pytest.raises(NoCapacity, match=r"h3: has no bridge .* be on no other host"):
            create(town, "q", host="h3", gateway="public")
        with pytest.raises(NotFound, match="no host 'h9'"):
            create(town, "q", host="h9")

    def test_a_host_leaves_without_routers(self, town, monkeypatch):
        monkeypatch.setattr(leaving.keys, "remove", lambda *_: None)
        create(town, host="h1", gateway="public")
        with pytest.raises(Conflict, match="1 routers are on host h1: r") as refused:
            leaving.delete_host(town.context, "h1")
        assert "router-move r" in refused.value.hint
        service.move_router(town.context, "r", "h2").check()
        leaving.delete_host(town.context, "h1").check()
        assert shown(town).pinned is True


class TestMove:
    def test_off_the_old_host_then_up_on_the_new_one(self, town):
        router = routed(town)
        done = service.move_router(town.context, "r", "h2")
        done.check()
        assert done.value.host == "h2"
        # The first spec of the new host has the networks, but not yet the router.
        new = [item for item in town.fleet.specs if item.host_id == town.host("h2")["id"]]
        assert [[each.id for each in item.routers] for item in new] == [[], [router.id]]
        assert len(new[0].networks) == 2
        assert town.fleet.routers() == {router.id: "h2"}
        assert shown(town).status == "ACTIVE"
        assert set(town.column("SELECT role FROM bindings")) == {"active"}
        events = [each["message"] for each in list_events(town.context, resource="r")]
        assert "moved to host h2" in events

    def test_without_a_name_to_the_best_other_one(self, town):
        routed(town)
        assert service.move_router(town.context, "r").value.host == "h2"

    def test_refused(self, town):
        create(town)
        with pytest.raises(Conflict, match="on no host"):
            service.move_router(town.context, "r", "h2")
        change(town, gateway="public")
        with pytest.raises(Conflict, match="is on host h1 already"):
            service.move_router(town.context, "r", "h1")
        with pytest.raises(NoCapacity, match="h3: has no bridge"):
            service.move_router(town.context, "r", "h3")
        assert shown(town).host == "h1"

    def test_a_silent_host_keeps_it(self, town):
        router = routed(town)
        before = town.rows("SELECT * FROM bindings ORDER BY port_id")
        town.trouble("h1", unreachable=True)
        asked = town.fleet.opened["h1"]
        with pytest.raises(HostUnreachable, match="stays on it") as refused:
            service.move_router(town.context, "r", "h2")
        assert town.fleet.opened["h1"] == asked + 1
        assert "host-fence h1" in refused.value.hint
        assert refused.value.exit_status == 20
        assert shown(town).host == "h1"
        assert town.rows("SELECT * FROM bindings ORDER BY port_id") == before
        assert town.fleet.routers() == {router.id: "h1"}
        assert spec(town, "h2").networks == ()

    def test_a_silent_host_gets_none(self, town):
        router = routed(town)
        town.trouble("h2", unreachable=True)
        with pytest.raises(HostUnreachable, match="Router r stays where it was"):
            service.move_router(town.context, "r", "h2")
        assert (shown(town).host, town.fleet.routers()) == ("h1", {router.id: "h1"})
        assert shown(town).status == "ACTIVE"

    def test_a_host_that_cannot_let_go_keeps_it(self, town):
        router = routed(town)
        town.trouble("h1", fail={router.id: "device busy"}, times=0)
        with pytest.raises(HostUnreachable, match="device busy"):
            service.move_router(town.context, "r", "h2")
        assert shown(town).host == "h1"

    def test_off_a_fenced_host(self, town):
        router = routed(town)
        town.trouble("h1", unreachable=True)
        leaving.fence_host(town.context, "h1")
        opened = town.fleet.opened["h1"]
        service.move_router(town.context, "r").check()
        assert (shown(town).host, shown(town).status) == ("h2", "ACTIVE")
        assert town.fleet.opened["h1"] == opened
        town.trouble("h1")
        leaving.return_host(town.context, "h1").check()
        assert town.fleet.routers() == {router.id: "h2"}

    def test_a_pin_goes_along(self, town):
        create(town, host="h1", gateway="public")
        assert service.move_router(town.context, "r", "h2").value.pinned is True
        assert service.move_router(town.context, "r").value.pinned is False

    def test_a_rehearsal_moves_nothing(self, town):
        router = routed(town)
        asked = town.asked(dry_run=True)
        done = service.move_router(asked, "r", "h2")
        steps = {(step.host, step.kind, step.result) for step in done.planned}
        assert ("h1", "router", "removed") in steps
        assert town.fleet.routers() == {router.id: "h1"}
        assert shown(town).host == "h1"

    def test_a_repeated_request_moves_once(self, town):
        routed(town)
        asked = town.asked(request_id="once")
        service.move_router(asked, "r", "h2").check()
        assert service.move_router(asked, "r", "h2").value.host == "h2"

    def test_a_dead_command_between_the_phases_is_finished(self, town, monkeypatch):
        router = routed(town)

        with killed_at(monkeypatch, router_moving, "bring_up"):
            service.move_router(town.context, "r", "h2")
        assert town.fleet.routers() == {}
        outcomes = [item.outcome for item in recover(town.context)]
        assert outcomes == ["done"]
        assert town.fleet.routers() == {router.id: "h2"}
        assert shown(town).status == "ACTIVE"

    def test_a_dead_command_in_its_first_phase_is_finished_by_the_next_convergence(
        self, town, monkeypatch
    ):
        router = routed(town)

        with killed_at(monkeypatch, Operation, "converge"):
            service.move_router(town.context, "r", "h2")
        assert town.fleet.routers() == {router.id: "h1"}
        converge_hosts(town.context, (), everything=True).check()
        assert town.fleet.routers() == {router.id: "h2"}
        assert shown(town).status == "ACTIVE"
        assert town.column("SELECT name FROM hosts WHERE applied_serial < issued_serial") == []

    def test_a_dead_commands_old_host_is_waited_for(self, town, monkeypatch):
        router = routed(town)

        with killed_at(monkeypatch, Operation, "converge"):
            service.move_router(town.context, "r", "h2")
        town.trouble("h1", unreachable=True)
        assert [item.outcome for item in recover(town.context)] == ["interrupted"]
        assert town.fleet.routers() == {router.id: "h1"}
        leaving.fence_host(town.context, "h1")
        assert [item.outcome for item in recover(town.context)] == ["done"]
        assert spec(town, "h2").routers != ()


def test_a_host_that_is_down_gets_it_later(town):
    create(town, host="h1")
    town.trouble("h1", unreachable=True)
    with pytest.raises(PartlyDone):
        join(town)
    town.trouble("h1")
    town.converge()
    assert shown(town).status == "ACTIVE"
