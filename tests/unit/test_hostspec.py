"""From the rows around a host to the document that tells it what to be."""

import json
import os
import re

import pytest

from agent.spec import AddressPair, HostSpec, from_plain, to_plain
from stackctl.compute import service
from stackctl.compute.types import GuestFile, Nic
from stackctl.hostspec import affected_hosts, build_spec, load_snapshot
from stackctl.network.group_rules import create_rule
from stackctl.network.groups import NewGroup, create_group
from stackctl.network.networks import NetworkChange, NewNetwork, create_network, set_network
from stackctl.network.ports import NewPort, PortChange, create_port, set_port
from stackctl.network.rule_checks import NewRule
from stackctl.network.subnets import NewSubnet, SubnetChange, create_subnet, set_subnet
from stackctl.state import Change, read, write
from tests.builders import ROOT, furnished, join_networks

GOLDEN = ROOT / "tests" / "golden" / "hostspec"
MAPPING = '[{"physical_network": "physnet1", "bridge": "br-eth1", "nic": "eth1"}]'
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MAC = re.compile(r"fa:16:3e:..:..:..")


def spec_of(world, name):
    with read(world.cloud) as reader:
        return build_spec(load_snapshot(reader, world.host(name)["id"]), 7, "nonce")


def slides(world):
    """The slides' cluster computer: a head with two NICs, four nodes, on two hosts."""
    for name in ("compute1", "compute2"):
        world.add_host(name, bridge_mappings_json=MAPPING)
    world.add_image()
    enterprise = NewSubnet("10.1.0.0/24", name="enterprise", dns_nameservers=("10.1.0.1",))
    provider = {"type": "vlan", "physical_network": "physnet1", "segmentation_id": 101}
    wanted = NewNetwork("Enterprise", shared=True, subnet=enterprise, **provider)
    create_network(world.context, wanted)
    world.add_network("worf_local", "192.168.1.0/24")
    nets = ["Enterprise", "worf_local"]
    world.booted("worf_head_node", flavor="medium", net=nets, host="compute1")
    world.booted("worf_compute_node_", flavor="m1.small", net=["worf_local"], count=4)
    return world


def readable(world, spec):
    """A spec as a text that is the same in every run: ids and MACs by order of their making."""
    text = json.dumps(to_plain(spec))
    tables = ["hosts", "networks", "subnets", "ports", "images", "projects", "servers", "disks"]
    tables += ["security_groups", "security_group_rules"]
    for table in tables:
        for number, id_ in enumerate(world.column(f"SELECT id FROM {table} ORDER BY rowid"), 1):
            text = text.replace(id_, f"{table}-{number}")
    for number, mac in enumerate(world.column("SELECT mac FROM ports ORDER BY rowid"), 1):
        text = text.replace(mac, f"mac-{number}")
    for number, seed in enumerate(world.column("SELECT random_seed FROM servers ORDER BY rowid")):
        text = text.replace(seed, f"seed-{number}")
    text = UUID.sub("cloud", text)
    assert not MAC.search(text)
    return json.dumps(_sorted(json.loads(text)), indent=1, sort_keys=True) + "\n"


def _sorted(value):
    """Lists of things with ids are in order of random ids: here in order of their making."""
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [_sorted(item) for item in value]
        if items and isinstance(items[0], dict):
            return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
        return items
    return value


@pytest.mark.parametrize("name", ["compute1", "compute2"])
def test_the_slides_cluster(world, name):
    slides(world)
    text = readable(world, spec_of(world, name))
    path = GOLDEN / f"slides-{name}.json"
    if os.environ.get("STACKCTL_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_slides_addresses(world):
    """head .2, DHCP .3, nodes .4 to .7: the picture that everybody knows."""
    slides(world)
    spec = spec_of(world, "compute1")
    local = next(item for item in spec.networks if item.type == "vxlan")
    names = {item.hostname: item.address for item in local.names}
    assert names == {
        "worf-head-node": "192.168.1.2",
        **{f"worf-compute-node-{n}": f"192.168.1.{n + 3}" for n in range(1, 5)},
    }
    assert local.subnets[0].dhcp.address == "192.168.1.3"


def test_one_default_route_and_one_name_server_per_server(world):
    slides(world)
    spec = spec_of(world, "compute1")
    shared = next(item.id for item in spec.networks if item.type == "vlan")
    for server in spec.servers:
        ports = [port for port in spec.ports if port.server_id == server.id]
        assert [port.gives_default_route for port in ports].count(True) == 1
        assert [port.gives_name_server for port in ports].count(True) == 1
        if len(ports) == 2:
            router = next(port for port in ports if port.gives_default_route)
            resolver = next(port for port in ports if port.gives_name_server)
            assert (router.network_id == shared, resolver.network_id == shared) == (True, False)


def test_no_gateway_no_route(pair):
    create_network(
        pair.context, NewNetwork("dark", subnet=NewSubnet("10.7.0.0/24", gateway="none"))
    )
    pair.booted(net=["dark"], host="h1")
    assert [port.gives_default_route for port in spec_of(pair, "h1").ports] == [False]


def test_a_spec_comes_back_from_plain_text(world):
    slides(world)
    spec = spec_of(world, "compute1")
    assert from_plain(HostSpec, json.loads(json.dumps(to_plain(spec)))) == spec


def test_what_lives_elsewhere_is_remote_and_flooded_to(pair):
    pair.booted("one", host="h1")
    pair.booted("two", host="h2")
    network = spec_of(pair, "h1").networks[0]
    assert network.flood_to == (pair.host("h2")["tunnel_address"],)
    mine = pair.server("two").addresses[0]
    assert [(port.mac, port.addresses, port.tunnel_address) for port in network.remote_ports] == [
        (mine.mac, (mine.address,), pair.host("h2")["tunnel_address"])
    ]


def test_a_vlan_has_nobody_to_flood_to(world):
    slides(world)
    vlan = next(item for item in spec_of(world, "compute1").networks if item.type == "vlan")
    assert (vlan.flood_to, vlan.remote_ports) == ((), ())


def test_tombstones_stay_until_they_are_acknowledged(pair):
    pair.booted(host="h1")
    server, disk = pair.server("vm").id, pair.value("SELECT id FROM disks")
    pair.trouble("h1", unreachable=True)
    service.delete_servers(pair.context, ["vm"])
    spec = spec_of(pair, "h1")
    assert {(stone.kind, stone.id) for stone in spec.tombstones} == {
        ("domain", server),
        ("disk", disk),
    }
    assert (spec.servers, spec.disks, spec.ports, spec.networks) == ((), (), (), ())
    pair.trouble("h1")
    pair.converge().check()
    assert spec_of(pair, "h1").tombstones == ()


@pytest.mark.parametrize("flag", ["held", "moving"])
def test_servers_that_are_left_alone(pair, flag):
    pair.booted(host="h1")
    with write(pair.cloud) as writer:
        writer.run(f"UPDATE servers SET {flag} = 1")
    assert getattr(spec_of(pair, "h1").servers[0], flag) is True


def test_a_port_on_the_move_is_on_both_hosts(pair):
    pair.booted(host="h1")
    with write(pair.cloud) as writer:
        from stackctl.network.allocation import bind_port

        port_id = writer.value("SELECT port_id FROM bindings")
        bind_port(writer, port_id, pair.host("h2")["id"], role="incoming")
    # Where it still is, it may be elsewhere as well: what is for it goes to both.
    assert [port.role for port in spec_of(pair, "h1").ports] == ["outgoing"]
    assert [port.role for port in spec_of(pair, "h2").ports] == ["incoming"]
    assert (
        spec_of(pair, "h2").networks[0].remote_ports[0].tunnel_address
        == (pair.host("h1")["tunnel_address"])
    )
    there = spec_of(pair, "h1").networks[0].remote_ports[0]
    assert there.tunnel_address == pair.host("h2")["tunnel_address"]


def test_disks_are_built_once(pair):
    pair.booted(flavor="medium", host="h1")
    spec = spec_of(pair, "h1")
    assert [disk.build for disk in spec.disks] == [False, False]
    by_id = {disk.id: disk for disk in spec.disks}
    assert [by_id[id_].kind for id_ in spec.servers[0].disks] == ["root", "ephemeral"]


def test_images_of_disks_and_kernels_stay(pair):
    kernel, ramdisk = pair.add_image("k"), pair.add_image("r")
    more = {"kernel_id": kernel, "ramdisk_id": ramdisk, "disk_format": "raw"}
    properties = '{"os_command_line": "quiet"}'
    image = pair.add_image("whole", properties_json=properties, **more)
    pair.booted(image="whole", host="h1")
    with write(pair.cloud) as writer:
        writer.run("UPDATE images SET deleted_at = 'now'")
    spec = spec_of(pair, "h1")
    assert {item.id for item in spec.images} == {kernel, ramdisk, image}
    assert spec.servers[0].kernel.command_line == "quiet"


def test_what_the_guest_is_told(pair):
    files = (GuestFile("/etc/x", b"x"),)
    pair.booted(host="h1", user_data=b"#!", metadata={"b": "2", "a": "1"}, files=files)
    guest = spec_of(pair, "h1").servers[0].guest
    assert guest.metadata == (("a", "1"), ("b", "2"))
    assert guest.user_data_sha256 is not None
    assert [(file.path, file.mode) for file in guest.files] == [("/etc/x", "0600")]
    text = json.dumps(to_plain(guest))
    assert "#!" not in text


def test_only_rows_reachable_from_the_host_are_read(world):
    """A thousand servers elsewhere cost this host nothing."""
    furnished(world, "h1", "h2", "h3")
    world.booted("mine", count=2, host="h1")

    def rows_read():
        with read(world.cloud) as reader:
            before = reader.rows_read
            build_spec(load_snapshot(reader, world.host("h1")["id"]), 1, "")
            return reader.rows_read - before

    few = rows_read()
    # In the same default group, which admits its members.
    strangers(world, 1000)
    assert rows_read() == few


def strangers(world, count):
    """Servers with ports and disks on h2, on a network that h1 does not have."""
    world.add_network("far", "10.64.0.0/16")
    world.booted("first", net=["far"], host="h2", count=1)
    with write(world.cloud) as writer:
        for table, more in (
            ("servers", {"name": "'s' || n", "hostname": "'s' || n"}),
            ("ports", {"mac": "printf('02:%010x', n)", "hostname": "'s' || n"}),
            ("disks", {}),
        ):
            names = [row["name"] for row in writer.all(f"PRAGMA table_info({table})")]
            values = [more.get(name, f"old.{name}") for name in names]
            values[names.index("id")] = f"old.id || '-{table}-' || n"
            writer.run(
                f"WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count "
                f"WHERE n < {count}) INSERT INTO {table} ({', '.join(names)}) "
                f"SELECT {', '.join(values)} FROM count, {table} AS old WHERE old.rowid = "
                f"(SELECT max(rowid) FROM {table} WHERE {_FIRST[table]})"
            )
        writer.run(
            "INSERT INTO port_security_groups SELECT ports.id, security_groups.id"
            " FROM ports, security_groups WHERE ports.mac LIKE '02:%'"
        )


_FIRST = {"servers": "name = 'first'", "ports": "hostname = 'first'", "disks": "1"}


class TestGroups:
    """h1 has a server in app (admits web) on net; the others are on far, or net."""

    @pytest.fixture
    def three(self, world):
        furnished(world, "h1", "h2", "h3")
        world.add_network("far", "10.8.0.0/24")
        for name in ("app", "web"):
            create_group(world.context, NewGroup(name))
        rule = NewRule(protocol="tcp", ports=(80, 90), remote_group="web")
        create_rule(world.context, "app", rule)
        world.booted("app", host="h1", security_groups=("app",))
        return world

    def members(self, world, host="h1"):
        names = {row["id"]: row["name"] for row in world.rows("SELECT * FROM security_groups")}
        nets = {row["id"]: row["name"] for row in world.rows("SELECT * FROM networks")}
        return {
            (names[each.group_id], nets[each.network_id]): each.addresses
            for each in spec_of(world, host).members
        }

    def test_only_groups_of_ports_on_the_host_with_their_rules(self, three):
        three.booted("web", host="h2", security_groups=("web",))
        spec = spec_of(three, "h1")
        ids = {row["name"]: row["id"] for row in three.rows("SELECT * FROM security_groups")}
        assert [group.id for group in spec.security_groups] == [ids["app"]]
        assert spec.ports[0].security_groups == (ids["app"],)
        rules = spec.security_groups[0].rules
        assert sorted((rule.direction, rule.ethertype, rule.protocol) for rule in rules) == [
            ("egress", "IPv4", None),
            ("egress", "IPv6", None),
            ("ingress", "IPv4", 6),
        ]
        mine = next(rule for rule in rules if rule.protocol == 6)
        assert (mine.port_min, mine.port_max, mine.remote_group_id) == (80, 90, ids["web"])
        assert [group.id for group in spec_of(three, "h2").security_groups] == [ids["web"]]
        assert spec_of(three, "h2").members == ()

    def test_members_are_those_of_the_same_network(self, three):
        assert self.members(three) == {}
        three.booted("near", host="h2", security_groups=("web",))
        three.booted("far", host="h3", net=["far"], security_groups=("web",))
        assert self.members(three) == {("web", "net"): (three.server("near").addresses[0].address,)}

    def test_and_those_behind_routers(self, three):
        three.booted("far", host="h3", net=["far"], security_groups=("web",))
        assert self.members(three) == {}
        three.add_network("between", "10.7.0.0/24")
        join_networks(three, "net", "between")
        join_networks(three, "between", "far")
        assert self.members(three) == {("web", "net"): (three.server("far").addresses[0].address,)}

    def test_pairs_of_members_and_members_without_addresses(self, three):
        pairs = (AddressPair("10.66.0.0/16"),)
        made = NewPort("net", security_groups=("web",), allowed_pairs=pairs)
        address = create_port(three.context, made).value.addresses[0].address
        assert self.members(three) == {("web", "net"): (address, "10.66.0.0/16")}
        create_port(three.context, NewPort("net", name="bare", security_groups=("web",)))
        change = PortChange(fixed_ips=(), allowed_pairs=(AddressPair("10.67.0.1"),))
        set_port(three.context, "bare", change)
        addresses = self.members(three)["web", "net"]
        assert sorted(addresses) == sorted((address, "10.66.0.0/16", "10.67.0.1"))

    def test_a_port_without_security_has_no_groups(self, three):
        set_network(three.context, "far", NetworkChange(port_security=False))
        three.booted("open", host="h2", net=["far"])
        spec = spec_of(three, "h2")
        assert (spec.ports[0].port_security, spec.ports[0].security_groups) == (False, ())
        assert (spec.security_groups, spec.members) == ((), ())

    def test_pairs_options_and_limits_reach_the_host(self, three):
        with write(three.cloud) as writer:
            writer.run(
                "UPDATE ports SET egress_kbps = 5, ingress_burst_kb = 6, allowed_pairs_json = ?,"
                " dhcp_options_json = ? WHERE device_owner LIKE 'compute:%'",
                '[{"cidr": "10.66.0.1", "mac": null}]',
                '[{"ip_version": 4, "number": 42, "value": "192.0.2.1"}]',
            )
        port = spec_of(three, "h1").ports[0]
        assert (port.limit.egress_kbps, port.limit.ingress_burst_kb) == (5, 6)
        assert port.allowed_pairs == (AddressPair("10.66.0.1"),)
        assert [(each.number, each.value) for each in port.dhcp_options] == [(42, "192.0.2.1")]

    def test_a_member_behind_a_router_is_told_of(self, three):
        """A new member concerns hosts of networks that routers join to its own, and no others."""
        three.booted("far", host="h3", net=["far"], security_groups=("web",))
        three.fleet.opened.clear()
        three.booted("first", host="h3", net=["far"], security_groups=("web",))
        assert set(three.fleet.opened) == {"h3"}
        join_networks(three, "net", "far")
        three.fleet.opened.clear()
        three.booted("second", host="h3", net=["far"], security_groups=("web",))
        assert set(three.fleet.opened) == {"h1", "h3"}
        three.fleet.opened.clear()
        service.delete_servers(three.context, ["second"]).check()
        assert set(three.fleet.opened) == {"h1", "h3"}

    def test_a_group_that_nobody_admits_is_nobodys_business(self, three):
        join_networks(three, "net", "far")
        three.fleet.opened.clear()
        three.booted("far", host="h3", net=["far"], security_groups=("app",))
        assert set(three.fleet.opened) == {"h3"}


class TestAffected:
    def affected(self, world, **ids):
        with read(world.cloud) as reader:
            found = affected_hosts(reader, Change(**{k: set(v) for k, v in ids.items()}))
            names = {row["id"]: row["name"] for row in reader.all("SELECT * FROM hosts")}
        return (
            {names[id_] for id_ in found.carrying},
            {names[id_] for id_ in found.peripheral},
        )

    @pytest.fixture
    def three(self, world):
        furnished(world, "h1", "h2", "h3")
        world.add_network("other", "10.8.0.0/24")
        world.booted("one", host="h1")
        world.booted("two", host="h2")
        world.booted("three", host="h3", net=["other"])
        return world

    def test_nothing_changed(self, three):
        assert self.affected(three) == (set(), set())

    def test_a_server_is_carried_by_its_host(self, three):
        assert self.affected(three, servers=[three.server("one").id]) == ({"h1"}, set())

    def test_a_port_is_carried_by_one_and_known_to_others(self, three):
        port = three.server("one").addresses[0].port_id
        assert self.affected(three, ports=[port]) == ({"h1"}, {"h2"})

    def test_a_network_is_known_where_it_has_ports(self, three):
        network = three.value("SELECT id FROM networks WHERE name = 'net'")
        assert self.affected(three, networks=[network]) == (set(), {"h1", "h2"})

    def test_a_network_that_is_altered_is_carried_where_it_has_ports(self, three):
        network = three.value("SELECT id FROM networks WHERE name = 'net'")
        assert self.affected(three, altered=[network], networks=[network]) == ({"h1", "h2"}, set())

    def test_another_tunnel_address_is_seen_by_those_beside_it(self, three):
        ids = [three.host("h1")["id"]]
        assert self.affected(three, hosts=ids) == ({"h1"}, set())
        assert self.affected(three, hosts=ids, underlays=ids) == ({"h1"}, {"h2"})

    def test_a_deleted_host_hears_nothing(self, three):
        with write(three.cloud) as writer:
            writer.run("UPDATE hosts SET deleted_at = 'now' WHERE name = 'h1'")
        assert self.affected(three, servers=[three.server("one").id]) == (set(), set())

    def test_a_port_nobody_carries_concerns_the_hosts_of_its_network(self, three):
        made = create_port(three.context, NewPort("net", name="spare")).value
        assert self.affected(three, ports=[made.id]) == (set(), {"h1", "h2"})

    def test_services_tell_the_hosts(self, three):
        three.fleet.opened.clear()
        set_network(three.context, "net", NetworkChange(admin_up=False)).check()
        assert three.fleet.opened == {"h1": 1, "h2": 1}
        create_subnet(three.context, "other", NewSubnet("10.9.0.0/24", name="more")).check()
        set_subnet(three.context, "more", SubnetChange(dns_nameservers=("9.9.9.9",))).check()
        assert three.fleet.opened == {"h1": 1, "h2": 1, "h3": 2}


def test_a_port_given_at_boot_keeps_its_address(pair):
    port = create_port(pair.context, NewPort("net", name="mine")).value
    pair.booted(nics=(Nic(port="mine"),), host="h1")
    assert [item.id for item in spec_of(pair, "h1").ports] == [port.id]
    assert spec_of(pair, "h1").ports[0].addresses == port.addresses
