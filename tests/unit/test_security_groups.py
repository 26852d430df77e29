"""Security groups, their rules, and ports in them, as the services promise them."""

import dataclasses
import sqlite3

import pytest

from agent.spec import AddressPair, BandwidthLimit, DhcpOption
from stackctl.compute import secgroups, service
from stackctl.compute.types import Nic
from stackctl.errors import Conflict, NotFound, QuotaExceeded, UsageError
from stackctl.network import service as network
from stackctl.network.allocation import make_port
from stackctl.network.service import (
    GroupChange,
    NetworkChange,
    NewDhcpOption,
    NewGroup,
    NewPort,
    NewRule,
    PortChange,
)
from stackctl.state import Cloud, db, new_id, now, read, schema, write

OPEN_EGRESS = ["allow any IPv4 to anywhere", "allow any IPv6 to anywhere"]
FROM_DEFAULT = ["allow any IPv4 from group default", "allow any IPv6 from group default"]


def group(world, name="web", **more):
    return network.create_group(world.context, NewGroup(name, **more)).value


def rule(world, word="web", **said):
    return network.create_rule(world.context, word, NewRule(**said)).value


def port(world, word="net", **more):
    return network.create_port(world.context, NewPort(word, **more)).value


def change(world, word, **said):
    return network.set_port(world.context, word, PortChange(**said)).value


def words(world, name):
    return [each.words for each in network.show_group(world.context, name).rules]


def stranger(world):
    with write(world.cloud) as writer:
        project = {"id": new_id(), "name": "other", "created_at": now()}
        writer.insert("projects", project)
    return dataclasses.replace(world.context, project_id=project["id"], project_name="other")


def limit(world, resource, maximum):
    with write(world.cloud) as writer:
        writer.run("UPDATE quotas SET maximum = ? WHERE resource = ?", maximum, resource)


class TestGroups:
    def test_the_default_group_is_made_on_demand(self, world):
        assert world.value("SELECT count(*) FROM security_groups") == 0
        assert [each.name for each in network.list_groups(world.context)] == ["default"]
        assert words(world, "default") == OPEN_EGRESS + FROM_DEFAULT
        network.list_groups(world.context)
        assert world.value("SELECT count(*) FROM security_groups") == 1

    def test_a_new_one_lets_everything_out(self, world):
        made = group(world, description="Web servers")
        assert (made.name, made.description) == ("web", "Web servers")
        assert words(world, "web") == OPEN_EGRESS
        assert [each.name for each in network.list_groups(world.context)] == ["default", "web"]

    @pytest.mark.parametrize("name", ["default", "Default"])
    def test_default_is_reserved(self, world, name):
        with pytest.raises(Conflict, match="Default security group already exists"):
            group(world, name)
        group(world)
        with pytest.raises(Conflict, match="Default security group already exists"):
            network.set_group(world.context, "web", GroupChange(name=name))

    def test_default_stays(self, world):
        with pytest.raises(Conflict, match="Updating default security group not allowed"):
            network.set_group(world.context, "default", GroupChange(name="other"))
        done = network.set_group(world.context, "default", GroupChange(description="ours"))
        assert done.value.description == "ours"
        with pytest.raises(Conflict, match="Insufficient rights for removing default"):
            network.delete_group(world.context, "default")

    def test_names_are_used_once_in_a_project(self, world):
        group(world)
        group(world, "db")
        with pytest.raises(
            Conflict, match=r"already a security group called web. Nothing was made"
        ):
            group(world)
        with pytest.raises(Conflict, match=r"called web. Nothing was changed"):
            network.set_group(world.context, "db", GroupChange(name="web"))
        network.set_group(world.context, "db", GroupChange(name="db"))
        other = stranger(world)
        assert network.create_group(other, NewGroup("web")).value.project_id == other.project_id
        with pytest.raises(NotFound):
            network.show_group(other, "db")

    def test_words_that_cannot_be(self, world):
        with pytest.raises(UsageError, match="cannot be shown"):
            group(world, description="a\nb")
        with pytest.raises(UsageError, match="at most 255"):
            group(world, description="a" * 256)
        with pytest.raises(UsageError, match="Nothing to change"):
            network.set_group(world.context, "default", GroupChange())

    def test_not_while_ports_are_in_it(self, pair):
        group(pair)
        port(pair, name="p", security_groups=("web",))
        with pytest.raises(Conflict, match=r"Security Group web in use. These ports are in it: p."):
            network.delete_group(pair.context, "web")
        network.delete_port(pair.context, "p")
        network.delete_group(pair.context, "web")
        with pytest.raises(NotFound):
            network.show_group(pair.context, "web")
        group(pair)

    def test_rules_that_name_it_go_along(self, pair):
        group(pair)
        group(pair, "db")
        rule(pair, "db", protocol="tcp", ports=(5432, 5432), remote_group="web")
        pair.booted(host="h1", security_groups=("db",))
        pair.fleet.opened.clear()
        network.delete_group(pair.context, "web").check()
        assert words(pair, "db") == OPEN_EGRESS
        assert pair.fleet.opened == {"h1": 1}

    def test_quotas(self, world):
        limit(world, "security_groups", 2)
        group(world)
        with pytest.raises(QuotaExceeded, match="security_groups"):
            group(world, "more")
        limit(world, "security_group_rules", 7)
        rule(world)
        with pytest.raises(QuotaExceeded, match="security_group_rules"):
            rule(world, direction="egress", protocol="tcp")

    def test_the_same_request_again_makes_nothing_twice(self, world):
        asker = world.asked(request_id="one")
        first = network.create_group(asker, NewGroup("web")).value
        assert network.create_group(asker, NewGroup("web")).value == first
        asker = world.asked(request_id="two")
        made = network.create_rule(asker, "web", NewRule(protocol="tcp")).value
        assert network.create_rule(asker, "web", NewRule(protocol="tcp")).value == made

    def test_a_rehearsal_leaves_nothing(self, world):
        network.create_group(world.asked(dry_run=True), NewGroup("web"))
        assert world.value("SELECT count(*) FROM security_groups") == 0


class TestRules:
    def test_create_list_show_delete(self, world):
        group(world)
        made = rule(world, protocol="tcp", ports=(22, 22), remote_cidr="10.0.0.0/8")
        assert made.words == "allow tcp 22 from 10.0.0.0/8"
        assert network.show_rule(world.context, made.id) == made
        assert network.show_rule(world.context, made.id[:8]) == made
        assert [each.words for each in network.list_rules(world.context, group="web")] == [
            *OPEN_EGRESS,
            made.words,
        ]
        assert len(network.list_rules(world.context)) == 7
        network.delete_rule(world.context, made.id)
        assert words(world, "web") == OPEN_EGRESS
        for word in (made.id, "ssh", "%"):
            with pytest.raises(NotFound, match="no security group rule"):
                network.show_rule(world.context, word)

    def test_only_own_ones_are_seen(self, world):
        group(world)
        made = rule(world)
        other = stranger(world)
        with pytest.raises(NotFound):
            network.delete_rule(other, made.id)
        with pytest.raises(NotFound):
            network.create_rule(other, "web", NewRule())

    @pytest.mark.parametrize(
        "said",
        [
            {"protocol": "tcp"},
            {"protocol": "icmp", "icmp_type": 8},
            {"remote_cidr": "10.0.0.0/8", "direction": "egress"},
            {"remote_group": "web", "protocol": "udp", "ports": (53, 53)},
        ],
    )
    def test_one_rule_is_there_once(self, world, said):
        group(world)
        made = rule(world, **said)
        again = f"Security group rule already exists. Rule id is {made.id}."
        with pytest.raises(Conflict, match=again):
            rule(world, **said, description="another one")
        network.delete_rule(world.context, made.id)
        rule(world, **said)

    def test_icmp_of_ipv6_is_one_protocol_by_any_name(self, world):
        group(world)
        rule(world, protocol="icmp", ethertype="IPv6")
        with pytest.raises(Conflict, match="already exists"):
            rule(world, protocol="icmpv6")

    def test_what_makes_no_sense_is_refused_before_anything(self, world):
        with pytest.raises(UsageError):
            rule(world, "nothing", protocol="smtp")
        with pytest.raises(NotFound, match="no security group 'nothing'"):
            rule(world, "default", remote_group="nothing")

    def test_hosts_that_carry_its_ports_hear_of_a_rule(self, pair):
        group(pair)
        pair.booted("one", host="h1", security_groups=("web",))
        pair.booted("two", host="h2")
        pair.fleet.opened.clear()
        made = rule(pair, protocol="tcp")
        assert pair.fleet.opened == {"h1": 1}
        network.delete_rule(pair.context, made.id).check()
        assert pair.fleet.opened == {"h1": 2}


class TestPorts:
    def test_the_default_group_unless_said_otherwise(self, pair):
        group(pair)
        assert port(pair).group_names == ("default",)
        assert port(pair, security_groups=()).group_names == ()
        assert port(pair, security_groups=("web", "default", "web")).group_names == (
            "default",
            "web",
        )
        assert port(pair, port_security=False).group_names == ()
        assert [each.group_names for each in network.list_ports(pair.context, group="web")] == [
            ("default", "web")
        ]

    def test_ports_of_our_own_are_in_none_and_not_held_to_anything(self, pair):
        port(pair)
        with write(pair.cloud) as writer:
            net = writer.all("SELECT * FROM networks")[0]
            owner = {"device_owner": "network:router_interface", "device_id": "r"}
            made = make_port(writer, project_id=net["project_id"], network=net, **owner)
        assert (made.port_security, made.group_names) == (False, ())
        dhcp = pair.rows("SELECT * FROM ports WHERE device_owner = 'network:dhcp'")[0]
        assert dhcp["port_security"] == 0
        assert pair.rows("SELECT * FROM port_security_groups WHERE port_id = ?", dhcp["id"]) == []

    def test_what_its_network_says(self, pair):
        done = network.set_network(pair.context, "net", NetworkChange(port_security=False))
        assert done.value.port_security is False
        assert (port(pair).port_security, port(pair).group_names) == (False, ())
        secured = port(pair, port_security=True)
        assert (secured.port_security, secured.group_names) == (True, ("default",))

    def test_groups_need_port_security(self, pair):
        with pytest.raises(Conflict, match="Port security must be enabled and port must have"):
            port(pair, port_security=False, security_groups=("default",))
        made = port(pair, name="p")
        with pytest.raises(Conflict, match=r"Port has security group associated. Cannot disable"):
            change(pair, "p", port_security=False)
        with pytest.raises(Conflict, match="Port security must be enabled and"):
            change(pair, "p", port_security=False, security_groups=("default",))
        opened = change(pair, "p", port_security=False, security_groups=())
        assert (opened.port_security, opened.group_names) == (False, ())
        with pytest.raises(Conflict, match="Port security must be enabled and"):
            change(pair, "p", security_groups=("default",))
        assert change(pair, "p", port_security=True).group_names == ()
        assert change(pair, "p", security_groups=("default",)).group_names == made.group_names

    def test_pairs_need_port_security(self, pair):
        pairs = (AddressPair("10.0.0.0/8"),)
        refusal = "Port Security must be enabled in order to have allowed address pairs"
        with pytest.raises(Conflict, match=refusal):
            port(pair, port_security=False, allowed_pairs=pairs)
        port(pair, name="p", security_groups=(), allowed_pairs=pairs)
        with pytest.raises(Conflict, match=refusal):
            change(pair, "p", port_security=False)
        change(pair, "p", port_security=False, allowed_pairs=())
        with pytest.raises(Conflict, match=refusal):
            change(pair, "p", allowed_pairs=pairs)

    def test_pairs_options_and_limits(self, pair):
        made = port(
            pair,
            name="p",
            allowed_pairs=(AddressPair("10.0.0.1/32", "FA:16:3E:00:00:01"),),
            dhcp_options=(NewDhcpOption("ntp-server", "192.0.2.1"),),
            limit=BandwidthLimit(egress_kbps=1000, egress_burst_kb=800),
        )
        assert made.allowed_pairs == (AddressPair("10.0.0.1", "fa:16:3e:00:00:01"),)
        assert made.dhcp_options == (DhcpOption(4, 42, "192.0.2.1"),)
        assert network.show_port(pair.context, "p") == made
        renamed = change(pair, "p", name="q")
        assert dataclasses.replace(renamed, name="p") == made
        assert change(pair, "q", limit=BandwidthLimit(ingress_kbps=5)).limit == BandwidthLimit(
            1000, 800, 5
        )
        emptied = change(pair, "q", allowed_pairs=(), dhcp_options=(), no_limit=True)
        assert emptied.limit == BandwidthLimit()
        assert (emptied.allowed_pairs, emptied.dhcp_options) == ((), ())
        fresh = change(pair, "q", no_limit=True, limit=BandwidthLimit(ingress_kbps=7))
        assert fresh.limit == BandwidthLimit(ingress_kbps=7)
        with pytest.raises(UsageError, match="egress burst needs a rate"):
            change(pair, "q", limit=BandwidthLimit(egress_burst_kb=7))

    def test_old_and_new_groups_have_other_members(self, pair):
        """Hosts whose rules admit a group hear of who joins and who leaves it."""
        pair.add_host("h3")
        for name in ("web", "db", "log"):
            group(pair, name)
        rule(pair, "db", remote_group="web")
        rule(pair, "log", remote_group="db")
        pair.booted("one", host="h1", security_groups=("db",))
        pair.booted("two", host="h2", security_groups=("log",))
        made = port(pair, name="p", security_groups=("web",))
        with read(pair.cloud) as reader:
            assert reader.get("ports", made.id)["version"] == 1
        pair.fleet.opened.clear()
        change(pair, "p", security_groups=("db",))
        assert pair.fleet.opened == {"h1": 1, "h2": 1}


class TestServers:
    def test_groups_at_boot_are_for_nics_made_there(self, pair):
        group(pair)
        pair.add_network("other", "10.9.0.0/24")
        given = port(pair, "other", name="mine")
        nics = (Nic(network="net"), Nic(port="mine"))
        pair.booted(nics=nics, security_groups=("web",))
        assert pair.server("vm").security_groups == ("default", "web")
        assert network.show_port(pair.context, given.id).group_names == ("default",)
        pair.booted("plain")
        assert pair.server("plain").security_groups == ("default",)

    def test_an_unknown_group_boots_nothing(self, pair):
        with pytest.raises(NotFound, match="no security group 'none'"):
            pair.boot(security_groups=("none",))
        assert pair.servers() == {}

    def test_add_list_remove(self, pair):
        group(pair)
        pair.add_network("other", "10.9.0.0/24")
        pair.booted(net=["net", "other"], host="h1")
        pair.fleet.opened.clear()
        done = secgroups.add_group(pair.context, "vm", "web")
        done.check()
        assert done.value.security_groups == ("default", "web")
        assert pair.fleet.opened == {"h1": 1}
        assert [each.group_names for each in network.list_ports(pair.context, group="web")] == [
            ("default", "web"),
            ("default", "web"),
        ]
        listed = secgroups.list_groups_of(pair.context, "vm")
        assert [each.name for each in listed] == ["default", "web"]
        secgroups.add_group(pair.context, "vm", "web").check()
        assert secgroups.remove_group(pair.context, "vm", "default").value.security_groups == (
            "web",
        )
        with pytest.raises(NotFound, match="default not associated with the instance vm"):
            secgroups.remove_group(pair.context, "vm", "default")

    def test_a_server_without_port_security_is_in_no_group(self, pair):
        network.set_network(pair.context, "net", NetworkChange(port_security=False))
        pair.booted()
        with pytest.raises(Conflict, match="cannot be applied to server vm"):
            secgroups.add_group(pair.context, "vm", "default")
        with pytest.raises(Conflict, match="Port security must be enabled and port must have"):
            pair.boot("more", security_groups=("default",))

    def test_a_deleted_server_leaves_its_groups(self, pair):
        group(pair)
        pair.booted(security_groups=("web",))
        service.delete_servers(pair.context, ["vm"]).check()
        assert pair.rows("SELECT * FROM port_security_groups") == []
        network.delete_group(pair.context, "web")


def older_cloud(world):
    """The world's database as the first version wrote it: its rows in tables of the first shape.

    Returns a cloud that whoever opens next brings up to date.
    """
    cloud = Cloud("test", world.cloud.folder.parent / "old")
    cloud.folder.mkdir()
    with sqlite3.connect(cloud.database, isolation_level=None) as old:
        old.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        for statement in db.split_statements(schema.MIGRATIONS[0]):
            old.execute(statement)
        old.execute("PRAGMA user_version = 1")
        old.execute("ATTACH ? AS new", (str(world.cloud.database),))
        for (table,) in old.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'"):
            names = [row[1] for row in old.execute(f"PRAGMA main.table_info({table})")]
            columns = ", ".join(names)
            old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        old.execute(
            "DELETE FROM quotas WHERE resource IN"
            " ('routers', 'floating_ips', 'security_groups', 'security_group_rules')"
        )
        old.execute("DETACH new")
    old.close()
    return cloud


def test_a_cloud_of_the_first_version_becomes_right(pair):
    """Its ports are in their project's default group, and its hosts are told so next time."""
    stranger(pair)
    pair.booted("one", host="h1")
    pair.booted("two", host="h2")
    port(pair, name="spare")
    service.delete_servers(pair.context, ["two"]).check()
    old = dataclasses.replace(pair.context, cloud=older_cloud(pair))
    serial = pair.value("SELECT serial FROM cloud")
    with read(old.cloud) as reader:
        assert reader.value("SELECT serial FROM cloud") == serial + 1
        hosts = reader.all("SELECT issued_serial, applied_serial FROM hosts")
        assert all(host["issued_serial"] == serial + 1 for host in hosts)
        assert all(host["applied_serial"] < host["issued_serial"] for host in hosts)
        groups = reader.all("SELECT * FROM security_groups")
        assert len(groups) == 2
        assert len({each["id"] for each in groups} | {each["project_id"] for each in groups}) == 4
    mine, theirs = network.list_groups(old), network.list_groups(stranger_of(old))
    for groups in (mine, theirs):
        assert [each.name for each in groups] == ["default"]
        assert sorted(each.words for each in groups[0].rules) == sorted(OPEN_EGRESS + FROM_DEFAULT)
    members = {each.name or each.server_name: each.group_names for each in network.list_ports(old)}
    assert members == {"one": ("default",), "spare": ("default",), "": ()}
    with read(old.cloud) as reader:
        assert reader.value("SELECT count(*) FROM port_security_groups") == 2
        unlimited = "SELECT maximum FROM quotas WHERE resource = 'security_groups'"
        assert reader.column(unlimited) == [-1]
        ours = "SELECT DISTINCT port_security FROM ports WHERE device_owner LIKE 'network:%'"
        assert reader.column(ours) == [0]
    network.create_group(old, NewGroup("web"))


def stranger_of(context):
    with read(context.cloud) as reader:
        other = reader.value("SELECT id FROM projects WHERE name = 'other'")
    return dataclasses.replace(context, project_id=other, project_name="other")
