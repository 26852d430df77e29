"""Networks, subnets and ports as their services promise them."""

import dataclasses

import pytest

from agent.spec import HostRoute
from stackctl.errors import Conflict, NotFound, QuotaExceeded, UsageError
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import Context, Watch, admin_context
from stackctl.network import service
from stackctl.network.allocation import bind_port, make_port
from stackctl.network.service import (
    FixedIp,
    NetworkChange,
    NewNetwork,
    NewPort,
    NewSubnet,
    Pool,
    PortChange,
    SubnetChange,
)
from stackctl.state import Cloud, new_id, now, read, write


@pytest.fixture
def context(tmp_path):
    cloud = Cloud("test", tmp_path / "cloud")
    create_cloud(cloud)
    return admin_context(cloud)


def configured(context, **settings):
    lines = "\n".join(f"{key}: {value}" for key, value in settings.items())
    (context.cloud.folder / "config.yaml").write_text(lines + "\n")
    return dataclasses.replace(context, cloud=Cloud("test", context.cloud.folder))


def stranger(context) -> Context:
    with write(context.cloud) as writer:
        project = {"id": new_id(), "name": "other", "created_at": now()}
        writer.insert("projects", project)
    return dataclasses.replace(context, project_id=project["id"], project_name="other")


def network(context, name="net", **more):
    return service.create_network(context, NewNetwork(name, **more)).value


def subnet(context, cidr="192.168.1.0/24", word="net", **more):
    return service.create_subnet(context, word, NewSubnet(cidr, **more)).value


def port(context, word="net", *addresses, **more):
    fixed = tuple(FixedIp(address=address) for address in addresses)
    return service.create_port(context, NewPort(word, fixed_ips=fixed, **more)).value


def add_host(context, name="h1", **columns):
    row = {"id": new_id(), "name": name, "transport": "ssh", "address": name, "ssh_port": 22}
    keys = {"ssh_user": "root", "host_key": "k", "vcpus": 4, "ram_mb": 4096, "disk_gb": 50}
    with write(context.cloud) as writer:
        return writer.insert("hosts", {**row, **keys, "created_at": now(), **columns})["id"]


def count(context, table):
    with read(context.cloud) as reader:
        return reader.value(f"SELECT count(*) FROM {table}")


class TestCreateNetwork:
    def test_projects_get_tunnels_numbered_from_below(self, context):
        first, second = network(context, "one"), network(context, "two")
        assert (first.type, first.segmentation_id, first.mtu) == ("vxlan", 1, 1450)
        assert (second.segmentation_id, second.physical_network) == (2, None)
        assert (first.domain, first.shared, first.admin_up) == ("cloud.internal", False, True)

    def test_with_its_subnet_in_one_step(self, context):
        made = network(context, subnet=NewSubnet("10.1.0.0/24", name="sub"))
        assert service.show_subnet(context, "sub").id == made.subnets[0]

    def test_a_bad_subnet_leaves_no_network(self, context):
        with pytest.raises(UsageError):
            network(context, subnet=NewSubnet("10.1.0.5/24"))
        assert (count(context, "networks"), count(context, "operations")) == (0, 0)

    def test_provider_types(self, context):
        warnings = []
        context = dataclasses.replace(context, watch=Watch(warn=warnings.append))
        add_host(context, bridge_mappings_json='[{"physical_network": "physnet1"}]')
        vlan = network(context, "v", type="vlan", physical_network="physnet1", segmentation_id=101)
        flat = network(context, "f", type="flat", physical_network="physnet1")
        gre = network(context, "g", type="gre")
        assert (vlan.segmentation_id, vlan.mtu, flat.segmentation_id) == (101, 1500, None)
        assert (gre.mtu, gre.segmentation_id) == (1458, 1)
        assert warnings == []
        network(context, "u", type="flat", physical_network="nowhere")
        assert "No host has the physical network nowhere" in warnings[0]

    def test_a_physical_network_says_the_type(self, context):
        assert network(context, "a", physical_network="p").type == "flat"
        assert network(context, "b", physical_network="p", segmentation_id=7).type == "vlan"

    @pytest.mark.parametrize(
        "words",
        [
            {"type": "geneve"},
            {"type": "vlan"},
            {"type": "flat"},
            {"type": "vxlan", "physical_network": "p"},
            {"type": "flat", "physical_network": "p", "segmentation_id": 3},
            {"type": "vxlan", "segmentation_id": 1 << 24},
            {"type": "vlan", "physical_network": "p", "segmentation_id": 4095},
            {"type": "vxlan", "mtu": 1500},
            {"mtu": 67},
            {"domain": "no spaces.example"},
            {"domain": "x\ny"},
            {"name": ""},
            {"name": "a\x1b[31m"},
            {"name": "x" * 256},
        ],
    )
    def test_words_that_make_no_sense(self, context, words):
        with pytest.raises(UsageError):
            network(context, **words)
        assert count(context, "networks") == 0

    def test_a_segment_is_used_once(self, context):
        network(context, "a", type="vlan", physical_network="p", segmentation_id=101)
        network(context, "b", type="vlan", physical_network="q", segmentation_id=101)
        with pytest.raises(Conflict, match="The VLAN 101 on physical network p is in use"):
            network(context, "c", type="vlan", physical_network="p", segmentation_id=101)
        network(context, "d", type="flat", physical_network="p")
        with pytest.raises(Conflict, match=r"flat network. Physical network p is in use"):
            network(context, "e", type="flat", physical_network="p")
        network(context, "f", segmentation_id=9)
        with pytest.raises(Conflict, match="The tunnel ID 9 is in use"):
            network(context, "g", segmentation_id=9)

    @pytest.mark.parametrize(
        "settings",
        [
            {"vlan_ranges": "{p: 100-199}"},
            {"vlan_ranges": "{p: [5, 4]}"},
            {"vlan_ranges": "[1]", "default_vlan_range": "[0, 4095]"},
        ],
    )
    def test_a_range_that_is_none_is_told_and_not_a_bug(self, context, settings):
        with pytest.raises(UsageError, match=r"two ids from 1 to 4094, such as \[100, 199\]"):
            network(configured(context, **settings), "n", type="vlan", physical_network="p")

    def test_ranges_of_the_configuration(self, context):
        ranges = {"vlan_ranges": "{p: [100, 101]}", "vxlan_range": "[5, 5]"}
        context = configured(context, **ranges)
        ids = [network(context, n, type="vlan", physical_network="p").segmentation_id for n in "ab"]
        assert ids == [100, 101]
        with pytest.raises(Conflict, match="all vlan ids from 100 to 101 are in use"):
            network(context, "c", type="vlan", physical_network="p")
        with pytest.raises(UsageError, match="use 100 to 101"):
            network(context, "d", type="vlan", physical_network="p", segmentation_id=99)
        assert network(context, "e").segmentation_id == 5

    def test_an_id_rests_while_a_host_may_still_carry_its_network(self, context):
        gone = network(context, "gone", subnet=NewSubnet("10.0.0.0/24"))
        host = add_host(context)
        with write(context.cloud) as writer:
            row = writer.get("networks", gone.id)
            made = make_port(writer, project_id=context.project_id, network=row)
            bind_port(writer, made.id, host)
            writer.run("DELETE FROM bindings")
            writer.run("UPDATE host_networks SET released_serial = ?", writer.serial)
            writer.run("UPDATE ports SET deleted_at = ? WHERE id = ?", now(), made.id)
            writer.run("UPDATE networks SET deleted_at = ? WHERE id = ?", now(), gone.id)
        assert network(context, "next").segmentation_id == 2
        with pytest.raises(Conflict, match="tunnel ID 1 is in use on hosts that have not applied"):
            network(context, "same", segmentation_id=1)
        with write(context.cloud) as writer:
            writer.update("hosts", host, fenced=1)
        assert network(context, "after").segmentation_id == 1

    def test_quota(self, context):
        other = stranger(context)
        with write(context.cloud) as writer:
            for resource in ("networks", "subnets", "ports"):
                row = {"project_id": other.project_id, "resource": resource, "maximum": 1}
                writer.insert("quotas", row)
        network(other)
        subnet(other)
        port(other)
        with pytest.raises(QuotaExceeded, match="Requested 1, but already used 1 of 1 networks"):
            network(other, "two")
        with pytest.raises(QuotaExceeded, match="subnets"):
            subnet(other, "10.9.0.0/24")
        with pytest.raises(QuotaExceeded, match="ports"):
            port(other)

    def test_the_same_request_again_makes_nothing_twice(self, context):
        context = dataclasses.replace(context, request_id="r1")
        assert network(context).id == network(context).id
        assert count(context, "networks") == 1
        with pytest.raises(Conflict, match="used before for something else"):
            network(context, "other")

    def test_a_rehearsal_leaves_nothing(self, context):
        rehearsal = dataclasses.replace(context, dry_run=True)
        assert network(rehearsal, subnet=NewSubnet("10.0.0.0/24")).segmentation_id == 1
        assert service.list_networks(context) == []

    def test_events_tell_who_did_it(self, context):
        made = network(context)
        with read(context.cloud) as reader:
            event = reader.one("SELECT * FROM events WHERE resource_id = ?", made.id)
            operation = reader.one("SELECT * FROM operations")
        assert (event["action"], event["kind"], event["name"]) == ("create", "network", "net")
        assert event["user_name"] == context.operator
        assert event["operation_id"] == operation["id"]
        assert (operation["kind"], operation["outcome"]) == ("network-create", "done")


class TestNetworksOfOthers:
    def test_only_own_and_shared_ones_are_seen(self, context):
        other = stranger(context)
        network(context, "mine")
        network(context, "for-all", shared=True)
        network(context, "outside", external=True)
        assert [each.name for each in service.list_networks(other)] == ["for-all", "outside"]
        with pytest.raises(NotFound, match="There is no network 'mine'"):
            service.show_network(other, "mine")
        assert service.show_network(other, "for-all").shared

    def test_a_shared_one_can_be_used_but_not_changed(self, context):
        other = stranger(context)
        network(context, "for-all", shared=True)
        subnet(context, word="for-all")
        assert port(other, "for-all").project_id == other.project_id
        for attempt in (
            lambda: service.delete_network(other, "for-all"),
            lambda: service.set_network(other, "for-all", NetworkChange(name="x")),
            lambda: subnet(other, "10.0.0.0/24", "for-all"),
        ):
            with pytest.raises(NotFound):
                attempt()
        with pytest.raises(Conflict, match="Multiple tenants are using it"):
            service.set_network(context, "for-all", NetworkChange(shared=False))


class TestChangeNetwork:
    def test_what_is_given_changes(self, context):
        made = network(context)
        change = NetworkChange(name="new", shared=True, external=True, admin_up=False)
        changed = service.set_network(context, "net", change).value
        assert changed == dataclasses.replace(
            made, name="new", shared=True, external=True, admin_up=False
        )
        with read(context.cloud) as reader:
            assert reader.get("networks", made.id)["version"] == 2

    def test_nothing_given(self, context):
        network(context)
        with pytest.raises(UsageError):
            service.set_network(context, "net", NetworkChange())


class TestDeleteNetwork:
    def test_subnets_and_dhcp_go_along(self, context):
        network(context)
        subnet(context)
        service.delete_port(context, port(context, name="p").name)
        service.delete_network(context, "net")
        assert service.list_networks(context) == service.list_subnets(context) == []
        assert service.list_ports(context) == []
        with read(context.cloud) as reader:
            live = "SELECT count(*) FROM addresses WHERE released_serial IS NULL"
            assert reader.value(live) == 0

    def test_not_while_ports_use_it(self, context):
        network(context)
        port(context, name="busy")
        with pytest.raises(Conflict, match=r"ports still in use on the network: busy\."):
            service.delete_network(context, "net")

    def test_name_and_segment_are_free_again(self, context):
        for _ in range(2):
            assert network(context).segmentation_id == 1
            service.delete_network(context, "net")

    def test_an_unknown_one(self, context):
        with pytest.raises(NotFound):
            service.delete_network(context, "net")


class TestSubnets:
    @pytest.fixture(autouse=True)
    def net(self, context):
        return network(context)

    def test_defaults(self, context):
        made = subnet(context)
        assert (made.gateway, made.dhcp) == ("192.168.1.1", True)
        assert made.pools == (Pool("192.168.1.2", "192.168.1.254"),)

    def test_a_gateway_in_the_middle_parts_the_pool(self, context):
        made = subnet(context, gateway="192.168.1.100")
        halves = (Pool("192.168.1.1", "192.168.1.99"), Pool("192.168.1.101", "192.168.1.254"))
        assert made.pools == halves

    def test_without_gateway(self, context):
        made = subnet(context, gateway="none")
        assert (made.gateway, made.pools[0].start) == (None, "192.168.1.1")

    def test_everything_given(self, context):
        routes = (HostRoute("10.0.0.0/8", "192.168.1.9"),)
        more = {
            "pools": (Pool("192.168.1.30", "192.168.1.40"), Pool("192.168.1.10", "192.168.1.20"))
        }
        made = subnet(
            context, name="s", dhcp=False, dns_nameservers=("8.8.8.8",), host_routes=routes, **more
        )
        assert [pool.start for pool in made.pools] == ["192.168.1.10", "192.168.1.30"]
        assert (made.dhcp, made.dns_nameservers, made.host_routes) == (False, ("8.8.8.8",), routes)
        assert service.show_subnet(context, "s") == made

    @pytest.mark.parametrize(
        ("cidr", "words"),
        [
            ("192.168.1.5/24", "'192.168.1.0/24' is recommended"),
            ("192.168.1.0", "'192.168.1.0/32' is recommended"),
            ("nonsense", "not a valid IP subnet"),
            ("10.0.0.0/31", "cannot hold instances"),
            ("0.0.0.0/0", "cannot hold instances"),
            ("127.1.0.0/16", "overlaps 127"),
            ("224.0.0.0/8", "overlaps 224"),
            ("169.254.0.0/24", "overlaps 169"),
        ],
    )
    def test_ranges_that_cannot_be(self, context, cidr, words):
        with pytest.raises(UsageError, match=words):
            subnet(context, cidr)
        assert count(context, "subnets") == 0

    @pytest.mark.parametrize(
        "words",
        [
            {"gateway": "10.0.0.1"},
            {"gateway": "192.168.1.0"},
            {"gateway": "x"},
            {"pools": (Pool("192.168.1.9", "192.168.1.8"),)},
            {"pools": (Pool("192.168.1.9", "192.168.2.8"),)},
            {"pools": (Pool("192.168.1.0", "192.168.1.8"),)},
            {"dns_nameservers": ("8.8.8.8\nlog-queries",)},
            {"dns_nameservers": ("8.8.8.8", "8.8.8.8")},
            {"dns_nameservers": tuple(f"10.0.0.{n}" for n in range(6))},
            {"host_routes": (HostRoute("10.0.0.1/8", "192.168.1.9"),)},
            {"host_routes": (HostRoute("10.0.0.0/8", "x"),)},
            {"host_routes": tuple(HostRoute(f"10.{n}.0.0/16", "192.168.1.9") for n in range(21))},
            {"name": "a\nb"},
        ],
    )
    def test_options_that_cannot_be(self, context, words):
        with pytest.raises(UsageError):
            subnet(context, **words)
        assert count(context, "subnets") == 0

    def test_conflicts(self, context):
        pool = (Pool("192.168.1.1", "192.168.1.8"),)
        with pytest.raises(Conflict, match=r"Gateway ip 192\.168\.1\.1 conflicts with allocation"):
            subnet(context, pools=pool)
        twice = (Pool("192.168.1.5", "192.168.1.8"), Pool("192.168.1.8", "192.168.1.9"))
        with pytest.raises(Conflict, match="overlapping allocation pools"):
            subnet(context, pools=twice)
        subnet(context)
        with pytest.raises(Conflict, match=r"192\.168\.0\.0/16 for network: net overlaps"):
            subnet(context, "192.168.0.0/16")
        network(context, "two")
        assert subnet(context, word="two").cidr == "192.168.1.0/24"

    def test_numbers_are_small_and_taken_again(self, context):
        ids = [subnet(context, f"10.{n}.0.0/16").id for n in range(3)]
        service.delete_subnet(context, ids[1])
        subnet(context, "10.9.0.0/16")
        with read(context.cloud) as reader:
            live = "SELECT number FROM subnets WHERE deleted_at IS NULL ORDER BY number"
            assert reader.column(live) == [1, 2, 3]

    def test_delete_only_without_ports(self, context):
        made = subnet(context)
        port(context, name="p")
        with pytest.raises(Conflict, match="One or more ports have an IP allocation"):
            service.delete_subnet(context, made.id)
        service.delete_port(context, "p")
        service.delete_subnet(context, made.id)
        assert service.list_subnets(context) == []
        assert service.list_ports(context) == []
        assert subnet(context).cidr == made.cidr

    def test_set(self, context):
        made = subnet(context, name="s")
        routes = (HostRoute("10.0.0.0/8", "192.168.1.9"),)
        change = SubnetChange(name="t", dns_nameservers=("9.9.9.9",), host_routes=routes)
        changed = service.set_subnet(context, "s", change).value
        expected = {"name": "t", "dns_nameservers": ("9.9.9.9",), "host_routes": routes}
        assert changed == dataclasses.replace(made, **expected)

    def test_set_gateway_frees_the_old_one(self, context):
        pools = (Pool("192.168.1.10", "192.168.1.20"),)
        made = subnet(context, pools=pools)
        with pytest.raises(Conflict, match="conflicts with allocation pool"):
            service.set_subnet(context, made.id, SubnetChange(gateway="192.168.1.10"))
        service.set_subnet(context, made.id, SubnetChange(gateway="192.168.1.254"))
        assert port(context, "net", "192.168.1.1").addresses[0].address == "192.168.1.1"
        with pytest.raises(Conflict, match="in use"):
            port(context, "net", "192.168.1.254")
        with pytest.raises(Conflict, match=r"192\.168\.1\.1 is in use"):
            service.set_subnet(context, made.id, SubnetChange(gateway="192.168.1.1"))
        gone = service.set_subnet(context, made.id, SubnetChange(gateway="none")).value
        assert gone.gateway is None

    def test_dhcp_switched_off_and_on(self, context):
        made = subnet(context)
        port(context)
        owners = [each.device_owner for each in service.list_ports(context)]
        assert owners == ["", "network:dhcp"]
        service.set_subnet(context, made.id, SubnetChange(dhcp=False))
        assert len(service.list_ports(context)) == 1
        service.set_subnet(context, made.id, SubnetChange(dhcp=True))
        assert len(service.list_ports(context)) == 2

    def test_nothing_given(self, context):
        made = subnet(context)
        with pytest.raises(UsageError):
            service.set_subnet(context, made.id, SubnetChange())


class TestPorts:
    @pytest.fixture(autouse=True)
    def net(self, context):
        network(context)
        return subnet(context, name="sub")

    def test_create_list_show(self, context, net):
        one = port(context, name="one")
        two = service.create_port(
            context, NewPort("net", fixed_ips=(FixedIp("sub", "192.168.1.77"),), admin_up=False)
        ).value
        assert one.addresses[0].address == "192.168.1.2"
        assert (two.addresses[0].subnet_id, two.admin_up) == (net.id, False)
        assert service.show_port(context, "one") == one
        assert service.show_port(context, two.id[:13]) == two
        owned = [each for each in service.list_ports(context, network="net") if not each.device_id]
        assert owned == [one, two]

    def test_words_that_mean_no_subnet(self, context):
        with pytest.raises(NotFound, match="There is no subnet 'nope'"):
            service.create_port(context, NewPort("net", fixed_ips=(FixedIp("nope"),)))
        with pytest.raises(UsageError):
            service.create_port(context, NewPort("net", fixed_ips=(FixedIp(),)))
        with pytest.raises(NotFound, match="There is no network"):
            port(context, "nope")

    def test_set_addresses_keeps_what_is_still_wanted(self, context):
        made = port(context, "net", "192.168.1.50", "192.168.1.51")
        fixed = (FixedIp(address="192.168.1.51"), FixedIp("sub", "192.168.1.52"))
        changed = service.set_port(context, made.id, PortChange(fixed_ips=fixed)).value
        assert {each.address for each in changed.addresses} == {"192.168.1.51", "192.168.1.52"}
        assert port(context, "net", "192.168.1.50").addresses[0].address == "192.168.1.50"
        none = service.set_port(context, made.id, PortChange(fixed_ips=())).value
        assert none.addresses == ()

    def test_set_name_mac_and_state(self, context):
        made = port(context, name="p")
        change = PortChange(name="q", mac="52:54:00:00:00:01", admin_up=False)
        changed = service.set_port(context, "p", change).value
        expected = {"name": "q", "mac": "52:54:00:00:00:01", "admin_up": False}
        assert changed == dataclasses.replace(made, **expected)
        other = port(context)
        with pytest.raises(Conflict, match="mac address 52:54:00:00:00:01 is in use"):
            service.set_port(context, other.id, PortChange(mac="52:54:00:00:00:01"))
        with pytest.raises(UsageError):
            service.set_port(context, other.id, PortChange())

    def test_a_servers_port_stays_with_it(self, context):
        made = port(context, name="p")
        with write(context.cloud) as writer:
            writer.update("ports", made.id, device_id="s1", device_owner="compute:nova")
        with pytest.raises(Conflict, match="still attached to compute:nova s1"):
            service.delete_port(context, "p")
        with pytest.raises(Conflict, match="MAC address cannot change"):
            service.set_port(context, "p", PortChange(mac="52:54:00:00:00:01"))
        assert service.list_ports(context, server_id="s1")[0].id == made.id

    def test_a_dhcp_port_belongs_to_its_subnet(self, context):
        port(context)
        dhcp = service.list_ports(context)[1]
        with pytest.raises(Conflict, match="cannot be deleted directly"):
            service.delete_port(context, dhcp.id)
        with pytest.raises(Conflict, match="cannot be changed directly"):
            service.set_port(context, dhcp.id, PortChange(name="x"))

    def test_what_fails_leaves_nothing(self, context):
        before = count(context, "ports"), count(context, "addresses"), count(context, "operations")
        with pytest.raises(Conflict):
            port(context, "net", "192.168.1.9", "192.168.1.9")
        after = count(context, "ports"), count(context, "addresses"), count(context, "operations")
        assert before == after


def test_a_subnet_without_a_name_is_known_by_its_range_or_its_network(world):
    world.add_network("red", "10.10.0.0/24")
    world.add_network("blue", "10.20.0.0/24")
    words = ("red", "10.20.0.0/24")
    found = {word: service.show_subnet(world.context, word).cidr for word in words}
    assert found == {"red": "10.10.0.0/24", "10.20.0.0/24": "10.20.0.0/24"}
    service.create_subnet(world.context, "red", service.NewSubnet("10.11.0.0/24"))
    with pytest.raises(NotFound, match="'red' may mean any of these subnets: "):
        service.show_subnet(world.context, "red")
    with pytest.raises(NotFound, match="no subnet 'green'"):
        service.show_subnet(world.context, "green")
