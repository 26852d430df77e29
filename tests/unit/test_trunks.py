"""Trunks: which ports may be in one, and that subports are wherever their parent is."""

import json
from dataclasses import replace

import pytest

from agent.resources import flow_tables, topology
from agent.resources.configdrive import network_data
from agent.resources.topology import Topology
from agent.spec import HostSpec, Subport, Trunk, from_plain, to_plain
from stackctl.compute import service
from stackctl.compute.interfaces import attach_interface, detach_interface
from stackctl.compute.seeing.reachability import load_world
from stackctl.compute.seeing.topology import topology as drawn
from stackctl.compute.seeing.trace_map import Cloudmap
from stackctl.compute.types import Nic
from stackctl.errors import Conflict, NoCapacity, NotFound, UsageError
from stackctl.hostspec import build_spec, load_snapshot
from stackctl.network.networks import NewNetwork, create_network
from stackctl.network.ports import NewPort, create_port, delete_port, show_port
from stackctl.network.routers import NewRouter, add_interface, create_router
from stackctl.network.subnets import NewSubnet
from stackctl.network.trunks import (
    NewSubport,
    NewTrunk,
    TrunkChange,
    create_trunk,
    delete_trunk,
    list_trunks,
    set_trunk,
    show_trunk,
)
from stackctl.operation.bindings import set_role
from stackctl.state import read, write
from tests import agent_networks as net

LARGE = {"type": "vlan", "physical_network": "physnet1", "segmentation_id": 101}


@pytest.fixture
def town(pair):
    """Two hosts, three networks of their own, and ports of these names in them."""
    for number, name in enumerate(("parent", "red", "blue"), 1):
        pair.add_network(f"{name}-net", f"10.{number}.0.0/24")
        create_port(pair.context, NewPort(f"{name}-net", name=name))
    return pair


def trunk(world, *subports, parent="parent", name="up", **more):
    wanted = tuple(NewSubport(port, number) for port, number in subports)
    return create_trunk(world.context, NewTrunk(name, parent, subports=wanted, **more)).value


def change(world, trunk_="up", **more):
    return set_trunk(world.context, trunk_, TrunkChange(**more)).value


def boot(world, host="h1", port="parent"):
    return world.booted("vm", nics=(Nic(port=port),), host=host)


def bound(world, port):
    sql = "SELECT hosts.name FROM bindings JOIN ports ON ports.id = port_id JOIN hosts"
    sql += " ON hosts.id = host_id WHERE ports.name = ? ORDER BY hosts.name"
    return world.column(sql, port)


def spec_of(world, name):
    with read(world.cloud) as reader:
        return build_spec(load_snapshot(reader, world.host(name)["id"]), 7, "nonce")


# --- what may be in one -------------------------------------------------------------------------


def test_a_trunk_is_made_shown_changed_and_deleted(town):
    made = trunk(town, ("red", 101), description="for the firewall")
    assert (made.status, made.port_name, made.server_name) == ("DOWN", "parent", "")
    assert [(each.name, each.segmentation_id) for each in made.subports] == [("red", 101)]
    assert show_port(town.context, "red").device_owner == "trunk:subport"
    renamed = change(town, name="wire", add=(NewSubport("blue", 5),))
    assert [each.segmentation_id for each in renamed.subports] == [5, 101]
    assert list_trunks(town.context) == [show_trunk(town.context, "wire")] == [renamed]
    change(town, "wire", drop=("red",))
    assert show_port(town.context, "red").device_owner == ""
    delete_trunk(town.context, "wire").check()
    assert list_trunks(town.context) == []
    for name in ("parent", "red", "blue"):
        delete_port(town.context, name).check()


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("parent", "not eligible for use as a parent port"),
        ("red", "is in use by another trunk: it is VLAN 101 of trunk up"),
        ("other-parent", "not eligible for use as a parent port: it is the parent of trunk other"),
        ("taken", "already has an attached device"),
    ],
)
def test_a_port_in_use_is_no_subport(town, port, words):
    for name in ("other-parent", "taken"):
        create_port(town.context, NewPort("red-net", name=name))
    trunk(town, parent="other-parent", name="other")
    trunk(town, ("red", 101))
    boot(town, port="taken")
    with pytest.raises(Conflict, match=words):
        change(town, add=(NewSubport(port, 7),))


def test_a_port_in_use_is_no_parent(town):
    trunk(town, ("red", 101))
    boot(town, port="blue")
    for port, words in (("parent", "not eligible"), ("red", "another"), ("blue", "not eligible")):
        with pytest.raises(Conflict, match=words):
            trunk(town, parent=port, name="second")


def test_a_tag_leads_to_one_port(town):
    with pytest.raises(Conflict, match="segmentation_id 101 already in use on trunk up"):
        trunk(town, ("red", 101), ("blue", 101))
    assert list_trunks(town.context) == []
    assert show_port(town.context, "red").device_owner == ""


@pytest.mark.parametrize("number", [0, 4095, 5000, -1])
def test_tags_are_1_to_4094(town, number):
    with pytest.raises(UsageError, match="not in range"):
        trunk(town, ("red", number))


def test_other_segments_than_vlans_are_refused(town):
    wanted = NewTrunk("up", "parent", subports=(NewSubport("red", 1, "inherit"),))
    with pytest.raises(UsageError, match="Unknown segmentation_type 'inherit'"):
        create_trunk(town.context, wanted)


def test_a_subport_sends_no_larger_packets_than_its_parent(town):
    create_network(town.context, NewNetwork("large", subnet=NewSubnet("10.9.0.0/24"), **LARGE))
    create_port(town.context, NewPort("large", name="big"))
    with pytest.raises(Conflict, match=r"MTU 1500 of subport big .* than MTU 14.. of trunk up"):
        trunk(town, ("big", 9))
    trunk(town, ("red", 9), parent="big")


def test_names_are_used_once(town):
    trunk(town)
    create_port(town.context, NewPort("red-net", name="second"))
    with pytest.raises(Conflict, match="a trunk called 'up' already"):
        trunk(town, parent="second")
    trunk(town, parent="second", name="down")
    with pytest.raises(Conflict, match="a trunk called 'up' already"):
        change(town, "down", name="up")


def test_a_disabled_trunk_stays_as_it_is(town):
    trunk(town, ("red", 101), admin_up=False)
    for refused in (
        lambda: change(town, add=(NewSubport("blue", 1),)),
        lambda: change(town, drop=("red",)),
        lambda: delete_trunk(town.context, "up"),
    ):
        with pytest.raises(Conflict, match="Trunk up is currently disabled"):
            refused()
    change(town, admin_up=True, drop=("red",))
    with pytest.raises(NotFound, match="could not be found: port red is none of its subports"):
        change(town, drop=("red",))
    with pytest.raises(UsageError, match="Nothing to change"):
        change(town)


def test_ports_of_a_trunk_are_used_by_it_alone(town):
    trunk(town, ("red", 101))
    with pytest.raises(Conflict, match="currently a parent port for trunk up"):
        delete_port(town.context, "parent")
    with pytest.raises(Conflict, match="currently a subport for trunk up"):
        delete_port(town.context, "red")
    with pytest.raises(Conflict, match="currently a subport for trunk up"):
        boot(town, port="red")
    town.booted("plain", net=["red-net"], host="h1")
    with pytest.raises(Conflict, match="currently a subport for trunk up"):
        attach_interface(town.context, "plain", Nic(port="red"))
    create_router(town.context, NewRouter("edge"))
    for port in ("red", "parent"):
        with pytest.raises(Conflict, match="for trunk up"):
            add_interface(town.context, "edge", port=port)


# --- where they are -----------------------------------------------------------------------------


def test_subports_come_and_go_with_the_server(town):
    trunk(town, ("red", 101))
    boot(town)
    assert bound(town, "parent") == bound(town, "red") == ["h1"]
    assert town.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    shown = show_trunk(town.context, "up")
    assert (shown.status, shown.server_name) == ("ACTIVE", "vm")
    with pytest.raises(Conflict, match="Trunk up is currently in use: server vm"):
        delete_trunk(town.context, "up")
    detach_interface(town.context, "vm", "parent").check()
    assert bound(town, "red") == []
    assert (show_trunk(town.context, "up").status, show_port(town.context, "red").status) == (
        "DOWN",
        "DOWN",
    )
    attach_interface(town.context, "vm", Nic(port="parent")).check()
    assert bound(town, "red") == ["h1"]
    service.delete_servers(town.context, ["vm"]).check()
    assert bound(town, "red") == []
    delete_trunk(town.context, "up").check()


def test_a_subport_is_added_and_taken_while_the_server_runs(town):
    trunk(town)
    boot(town)
    change(town, add=(NewSubport("red", 101),))
    assert bound(town, "red") == ["h1"]
    spec = town.fleet.specs[-1]
    assert [each.vlan for each in spec.trunks[0].subports] == [101]
    change(town, drop=("red",))
    assert bound(town, "red") == []
    assert town.fleet.specs[-1].trunks[0].subports == ()


def test_subports_have_the_role_that_their_parent_has(town):
    trunk(town, ("red", 101))
    boot(town)
    port = show_port(town.context, "parent").id
    with write(town.cloud) as writer:
        set_role(writer, port, town.host("h1")["id"], "outgoing")
    assert set(town.column("SELECT role FROM bindings")) == {"outgoing"}
    change(town, add=(NewSubport("blue", 2),))
    assert set(town.column("SELECT role FROM bindings")) == {"outgoing"}


def test_a_server_goes_where_networks_of_its_subports_are(town):
    create_network(town.context, NewNetwork("large", subnet=NewSubnet("10.9.0.0/24"), **LARGE))
    create_port(town.context, NewPort("large", name="root"))
    create_port(town.context, NewPort("large", name="leaf"))
    trunk(town)
    boot(town)
    with pytest.raises(Conflict, match=r"MTU|no bridge for physical network physnet1"):
        change(town, add=(NewSubport("leaf", 1),))
    trunk(town, ("leaf", 7), parent="root", name="wide")
    with pytest.raises(NoCapacity, match="no bridge for physical network physnet1"):
        town.boot("far", nics=(Nic(port="root"),))


# --- what hosts are told ------------------------------------------------------------------------


def test_a_spec_has_the_trunk_and_its_subports_but_the_server_one_nic(town):
    trunk(town, ("blue", 300), ("red", 101))
    boot(town)
    spec = spec_of(town, "h1")
    (told,), (server,) = spec.trunks, spec.servers
    ids = {name: show_port(town.context, name).id for name in ("parent", "red", "blue")}
    assert told.port_id == ids["parent"]
    assert told.subports == (Subport(ids["red"], 101), Subport(ids["blue"], 300))
    assert server.ports == (ids["parent"],)
    ports = {port.id: port for port in spec.ports}
    assert {ports[id_].server_id for id_ in ids.values()} == {server.id}
    gives = {id_ for id_, port in ports.items() if port.gives_default_route}
    assert gives == {ids["parent"]}
    assert from_plain(HostSpec, json.loads(json.dumps(to_plain(spec)))) == spec
    assert spec_of(town, "h2").trunks == ()


def test_a_guest_is_told_of_its_vlans(town):
    trunk(town, ("red", 101))
    boot(town)
    spec = spec_of(town, "h1")
    data = network_data(spec, spec.servers[0])
    nic, vlan = data["links"]
    red = show_port(town.context, "red")
    assert vlan == {
        "id": f"tap{red.id[:11]}",
        "vif_id": red.id,
        "type": "vlan",
        "vlan_link": nic["id"],
        "vlan_id": 101,
        "vlan_mac_address": red.mac,
    }
    assert [each["link"] for each in data["networks"]] == [nic["id"], vlan["id"]]


def test_pictures_and_traces_know_whose_they_are(town):
    trunk(town, ("red", 101))
    boot(town)
    (server,) = [each for each in drawn(town.context).devices if each.kind == "server"]
    assert [link.vlan for link in server.links] == [None, 101]
    with read(town.cloud) as reader:
        map_ = Cloudmap(town.context, reader)
        (end,) = load_world(town.context, reader).ends
    assert len(end.ports) == 2
    parent, red = (show_port(town.context, name).id for name in ("parent", "red"))
    spot = map_.by_device(f"tap{parent[:11]}", 101)
    assert (spot.id, spot.words, spot.vlan) == (red, "server vm", 101)
    assert map_.by_device(f"tap{parent[:11]}").id == parent


# --- what the agent makes of it -----------------------------------------------------------------

PARENT, SUBPORT = net.provider_port(2, "head"), net.private_port(4, "node-1")
TRUNK = Trunk(net.uid("trunk", 1), 1, PARENT.id, (Subport(SUBPORT.id, 200),))
FIRST, SECOND = topology.legs(TRUNK)


def compiled(trunk=TRUNK):
    spec = replace(net.host_spec(1), trunks=(trunk,))
    ofports = {topology.tap_name(PARENT.id): 1, FIRST.outer: 2, SECOND.outer: 3}
    ofports |= {FIRST.inner: 21, SECOND.inner: 22}
    return flow_tables.compile_flows(flow_tables.Plan(Topology(spec), ofports, frozenset()))


def test_a_trunks_bridge_knows_its_tags_and_no_others():
    tables = compiled()
    assert [f"{f.priority} {f.match} {f.actions}" for f in tables[FIRST.bridge]] == [
        "0  drop",
        "10 in_port=1,vlan_tci=0x0000/0x1fff output:2",
        "10 in_port=2 output:1",
        "10 in_port=1,dl_vlan=200 strip_vlan,output:3",
        "10 in_port=3 push_vlan:0x8100,mod_vlan_vid:200,output:1",
    ]


def test_a_subport_is_a_port_of_br_int_like_any_other():
    flows = compiled()["br-int"]
    senders = {flow.match for flow in flows if flow.table == 25}
    assert any("in_port=22" in match and SUBPORT.mac in match for match in senders)
    assert any("in_port=21" in match and PARENT.mac in match for match in senders)
    assert not any("in_port=1," in match for match in senders)
    tagged = [flow for flow in flows if flow.match == "in_port=22,vlan_tci=0x1000/0x1000"]
    assert [flow.actions for flow in tagged] == ["drop"]


@pytest.mark.parametrize(
    "bad",
    [
        replace(TRUNK, id="x; del-br br-int"),
        replace(TRUNK, subports=(Subport(SUBPORT.id, 4095),)),
        replace(TRUNK, subports=(Subport("../x", 5),)),
        replace(TRUNK, subports=(Subport(SUBPORT.id, 5), Subport(net.uid("port", 9), 5))),
    ],
)
def test_a_bad_trunk_is_named_and_makes_no_flows(bad):
    assert topology.trunk_problem(bad)
    assert set(compiled(bad)) == {"br-eth1", "br-tun", "br-int"}
    known = Topology(replace(net.host_spec(1), trunks=(bad,)))
    assert known.port_problem(PARENT) == topology.trunk_problem(bad)
