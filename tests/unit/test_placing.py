"""What a boot asks of its place, from words to hosts: groups, hints, zones, extra specs."""

import dataclasses
import json
import sqlite3
from contextlib import closing

import pytest

from stackctl.compute import service, what_if
from stackctl.compute.explain import explain
from stackctl.compute.flavors import NewFlavor, create_flavor, set_specs, show_flavor
from stackctl.compute.placing import needs
from stackctl.compute.server_groups import (
    NewServerGroup,
    create_server_group,
    delete_server_group,
    list_server_groups,
    show_server_group,
)
from stackctl.errors import Conflict, NoCapacity, NotFound, QuotaExceeded, UsageError
from stackctl.hosts.aggregates import NewAggregate, add_host, create_aggregate
from stackctl.identity import quota
from stackctl.state import Cloud, new_id, now, read, schema, write
from stackctl.state.db import split_statements
from stackctl.state.schema_placing import PLACING
from tests.builders import furnished


@pytest.fixture
def three(world):
    return furnished(world, "h1", "h2", "h3")


def configure(world, **settings):
    (world.cloud.folder / "config.yaml").write_text(json.dumps({"scheduler": settings}))
    vars(world.cloud).pop("config", None)


def group(world, name, policy, most=None):
    return create_server_group(world.context, NewServerGroup(name, policy, most)).value


def hosts_of(servers):
    return [server.host for server in servers]


def tenant(world, name="lab"):
    with write(world.cloud) as writer:
        project = {"id": new_id(), "name": name, "created_at": now()}
        writer.insert("projects", project)
        writer.run("UPDATE networks SET shared = 1")
    return dataclasses.replace(world.context, project_id=project["id"], project_name=name)


class TestServerGroups:
    def test_one_is_made_shown_and_deleted(self, three):
        made = group(three, "web", "anti-affinity", 2)
        assert (made.policy, made.rules, made.members) == (
            "anti-affinity",
            {"max_server_per_host": 2},
            (),
        )
        assert show_server_group(three.context, made.id[:8]) == made
        assert list_server_groups(three.context) == [made]
        delete_server_group(three.context, "web")
        assert list_server_groups(three.context) == []
        group(three, "web", "affinity")

    @pytest.mark.parametrize(
        ("name", "policy", "most", "kind", "words"),
        [
            ("web", "near", None, UsageError, "'near' is no policy"),
            (" ", "affinity", None, UsageError, "not empty"),
            ("web", "affinity", 2, UsageError, "Only the anti-affinity policy supports rules"),
            ("web", "anti-affinity", 0, UsageError, "between 1 and"),
            ("there", "affinity", None, Conflict, "already a server group 'there'"),
        ],
    )
    def test_refused(self, three, name, policy, most, kind, words):
        group(three, "there", "affinity")
        with pytest.raises(kind, match=words):
            group(three, name, policy, most)

    def test_affinity(self, three):
        group(three, "g", "affinity")
        assert len(set(hosts_of(three.booted(count=4, hints=(("group", "g"),))))) == 1

    def test_anti_affinity_and_not_one_more(self, three):
        group(three, "g", "anti-affinity")
        servers = three.booted(count=3, hints=(("group", "g"),))
        assert sorted(hosts_of(servers)) == ["h1", "h2", "h3"]
        words = "h1: carries 1 of server group g, at most 1 may be"
        with pytest.raises(NoCapacity, match=words):
            three.boot("more", hints=(("group", "g"),))

    def test_two_on_each_host(self, three):
        group(three, "g", "anti-affinity", 2)
        servers = three.booted(count=6, hints=(("group", "g"),))
        assert sorted(hosts_of(servers)) == ["h1", "h1", "h2", "h2", "h3", "h3"]

    def test_soft_ones_bend(self, three):
        group(three, "near", "soft-affinity")
        group(three, "far", "soft-anti-affinity")
        configure(
            three, soft_affinity_weight_multiplier=100, soft_anti_affinity_weight_multiplier=100
        )
        assert len(set(hosts_of(three.booted("n", count=3, hints=(("group", "near"),))))) == 1
        servers = three.booted("f", count=4, hints=(("group", "far"),))
        assert len(set(hosts_of(servers))) == 3

    def test_members_live_and_die_with_their_servers(self, three):
        group(three, "g", "anti-affinity")
        three.booted(count=3, hints=(("group", "g"),))
        members = show_server_group(three.context, "g").members
        assert [(item.name, item.host) for item in members] == [
            ("vm-1", "h1"),
            ("vm-2", "h2"),
            ("vm-3", "h3"),
        ]
        service.delete_servers(three.context, ["vm-2"]).check()
        assert three.booted("again", hints=(("group", "g"),))[0].host == "h2"

    def test_a_deleted_group_binds_nobody(self, pair):
        group(pair, "g", "affinity")
        pair.booted("one", host="h1", hints=(("group", "g"),))
        delete_server_group(pair.context, "g")
        assert what_if.drain(pair.context, "h1")[0].to == "h2"
        with pytest.raises(NotFound, match="no server group 'g'"):
            pair.boot(hints=(("group", "g"),))

    def test_another_project_does_not_see_it(self, three):
        group(three, "g", "affinity")
        with pytest.raises(NotFound):
            show_server_group(tenant(three), "g")

    def test_quotas(self, three):
        other = tenant(three)
        for number in range(10):
            create_server_group(other, NewServerGroup(f"g{number}", "soft-affinity"))
        with pytest.raises(QuotaExceeded, match="server_groups: Requested 1, but already used 10"):
            create_server_group(other, NewServerGroup("more", "soft-affinity"))
        with write(three.cloud) as writer:
            row = {"project_id": other.project_id, "resource": "server_group_members"}
            writer.insert("quotas", row | {"maximum": 3})
        three.context = other
        three.booted(count=2, hints=(("group", "g1"),))
        words = "server_group_members: Requested 2, but already used 2 of 3"
        with pytest.raises(QuotaExceeded, match=words):
            three.boot("more", count=2, hints=(("group", "g1"),))
        three.booted("last", hints=(("group", "g1"),))
        three.booted("elsewhere", count=2, hints=(("group", "g2"),))

    def test_a_policy_without_its_filter_is_not_ignored(self, pair):
        group(pair, "g", "affinity")
        configure(pair, enabled_filters=["JsonFilter"])
        words = "policy affinity is judged by ServerGroupAffinityFilter, which is not among"
        with pytest.raises(UsageError, match=words):
            pair.boot(hints=(("group", "g"),))


class TestHints:
    def test_a_different_host(self, three):
        three.booted("a", host="h1")
        three.booted("b", host="h2")
        for given in (
            (("different_host", "a"), ("different_host", "b")),
            (("different_host", '["a", "b"]'),),
        ):
            (server,) = three.booted(hints=given)
            assert server.host == "h3"
            service.delete_servers(three.context, ["vm"]).check()

    def test_the_same_host(self, three):
        three.booted("a", host="h3")
        assert three.booted(hints=(("same_host", "a"),))[0].host == "h3"

    def test_a_query(self, three):
        query = '["and", ["not", ["=", "$host", "h1"]], [">=", "$vcpus_total", 64]]'
        assert three.booted(hints=(("query", query),))[0].host == "h2"

    def test_near_an_address(self, world):
        furnished(world)
        world.add_host("h1", address="10.1.0.5")
        world.add_host("h2", address="10.2.0.5")
        hints = (("build_near_host_ip", "10.2.9.9"), ("cidr", "/16"))
        assert world.booted(hints=hints)[0].host == "h2"
        with pytest.raises(NoCapacity, match=r"h2: has address 10\.2\.0\.5, which is not in"):
            world.boot("other", hints=hints[:1])

    @pytest.mark.parametrize(
        ("hints", "kind", "words"),
        [
            ((("near", "x"),), UsageError, "no hint 'near'; there are group, different_host"),
            ((("query", "[]"),), UsageError, "does not begin with one of"),
            ((("query", "[1]"), ("query", "[1]")), UsageError, "query can be given once"),
            ((("same_host", "none"),), NotFound, "no server 'none'"),
            ((("different_host", "[none"),), UsageError, "not a list of servers in JSON"),
            ((("group", "none"),), NotFound, "no server group 'none'"),
            ((("cidr", "/8"),), UsageError, "goes with build_near_host_ip"),
            ((("build_near_host_ip", "x"),), UsageError, "not an address and a length"),
            ((("build_near_host_ip", "10.0.0.1"), ("cidr", "/99")), UsageError, "not an address"),
        ],
    )
    def test_refused(self, pair, hints, kind, words):
        with pytest.raises(kind, match=words):
            pair.boot(hints=hints)
        assert pair.servers() == {}

    def test_one_without_its_filter_is_not_ignored(self, pair):
        configure(pair, enabled_filters=[])
        with pytest.raises(UsageError, match="hint query is judged by JsonFilter, which is not"):
            pair.boot(hints=(("query", '["=", 1, 1]'),))
        pair.booted()

    def test_they_are_explained(self, pair):
        pair.booted("db", host="h1")
        pair.booted(hints=(("different_host", "db"),), zone="nova")
        told = explain(pair.context, "vm")
        assert told.needs == "1 vcpus, 512 MB RAM, 1 GB, tunnels, zone nova, another host than db"
        assert told.hosts[1].verdict == "DifferentHostFilter: carries db (hint different_host)"

    def test_a_decision_kept_by_an_older_version_is_still_told(self):
        plain = {"vcpus": 1, "ram_mb": 2, "disk_gb": 3}
        told = needs({**plain, "physical_networks": ["p"], "needs_tunnels": False})
        assert told == "1 vcpus, 2 MB RAM, 3 GB, physical networks p"

    def test_what_was_asked_holds_when_the_host_is_silent(self, three):
        three.booted("db", host="h2")
        three.trouble("h1", unreachable=True)
        assert three.booted(hints=(("different_host", "db"),))[0].host == "h3"


class TestExtraSpecs:
    def test_they_choose_hosts(self, world):
        furnished(world, "h1")
        world.add_host("h2", facts_json='{"virt_type": "kvm"}')
        set_specs(world.context, "m1.tiny", {"capabilities:virt_type": "kvm"})
        assert world.booted()[0].host == "h2"
        with pytest.raises(NoCapacity, match="h1: extra spec capabilities:virt_type=kvm: the host"):
            world.boot("other", hints=(("query", '["=", "$host", "h1"]'),))

    def test_a_server_keeps_those_it_was_booted_with(self, pair):
        set_specs(pair.context, "m1.tiny", {"zone": "nova"})
        pair.booted(host="h1")
        set_specs(pair.context, "m1.tiny", {"zone": "moon"})
        assert what_if.drain(pair.context, "h1")[0].to == "h2"

    def test_aggregates_by_configuration(self, three):
        configure(three, enabled_filters=["AggregateInstanceExtraSpecsFilter"])
        create_aggregate(three.context, NewAggregate("fast", metadata={"ssd": "true"}))
        add_host(three.context, "fast", "h3")
        set_specs(three.context, "m1.tiny", {"aggregate_instance_extra_specs:ssd": "true"})
        assert three.warnings == []
        assert three.booted()[0].host == "h3"

    def test_specs_that_nobody_reads_are_warned_of(self, pair):
        set_specs(pair.context, "m1.tiny", {"aggregate_instance_extra_specs:ssd": "true"})
        assert "AggregateInstanceExtraSpecsFilter is not among" in pair.warnings[0]

    def test_they_are_set_and_taken_away(self, world):
        made = create_flavor(
            world.context, NewFlavor("f", 1, 1, 1, extra_specs={"a": "1", "b": "2"})
        ).value
        assert made.extra_specs == {"a": "1", "b": "2"}
        set_specs(world.context, "f", {"c": "3"}, ["a"])
        assert show_flavor(world.context, "f").extra_specs == {"b": "2", "c": "3"}
        with pytest.raises(NotFound, match="has no extra spec 'a'"):
            set_specs(world.context, "f", {}, ["a"])

    @pytest.mark.parametrize(
        "specs", [{"a/b": "1"}, {"": "1"}, {"a": "x" * 256}, {"a": "b\nc"}, {}]
    )
    def test_what_cannot_be_one(self, world, specs):
        with pytest.raises(UsageError):
            set_specs(world.context, "m1.tiny", specs)


class TestConfiguration:
    def test_a_wrong_one_says_what_is_wrong(self, pair):
        configure(pair, enabled_filters=["NoFilter"])
        with pytest.raises(UsageError, match="there is no filter NoFilter; there are"):
            pair.boot()

    def test_isolated_hosts(self, pair):
        image_id = pair.value("SELECT id FROM images")
        configure(
            pair,
            enabled_filters=["IsolatedHostsFilter"],
            isolated_hosts=["h2"],
            isolated_images=[image_id],
        )
        assert hosts_of(pair.booted(count=2)) == ["h2", "h2"]

    def test_hosts_that_are_kept_for_a_project(self, pair):
        configure(pair, enabled_filters=["AggregateMultiTenancyIsolation"])
        create_aggregate(pair.context, NewAggregate("kept", metadata={"filter_tenant_id": "other"}))
        add_host(pair.context, "kept", "h1")
        assert hosts_of(pair.booted(count=2)) == ["h2", "h2"]

    def test_hosts_are_filled_one_by_one(self, pair):
        configure(
            pair,
            ram_weight_multiplier=-1,
            cpu_weight_multiplier=-1,
            disk_weight_multiplier=-1,
            io_ops_weight_multiplier=0,
        )
        assert hosts_of(pair.booted(count=5)) == ["h1"] * 5


class TestWhatIf:
    def test_drain(self, three):
        three.booted("small", host="h1")
        three.booted("big", host="h1", flavor="m1.medium")
        before = three.value("SELECT serial FROM cloud")
        three.fleet.opened.clear()
        moves = what_if.drain(three.context, "h1")
        assert [(move.name, move.to, move.why) for move in moves] == [
            ("big", "h2", ""),
            ("small", "h3", ""),
        ]
        assert three.value("SELECT serial FROM cloud") == before
        assert three.fleet.opened == {}

    def test_what_fits_nowhere_says_why_and_the_others_go_on(self, world):
        furnished(world, "h1")
        world.add_host("h2", ram_mb=5000)
        world.booted("big", host="h1", flavor="m1.large")
        world.booted("small", host="h1")
        big, small = what_if.drain(world.context, "h1")
        assert (big.to, big.why) == ("", "h2: RAM: needs 8192 MB, 4488 MB free")
        assert small.to == "h2"

    def test_each_sees_what_the_ones_before_it_took(self, world):
        furnished(world, "h1")
        world.add_host("h2", ram_mb=1536)
        world.booted(count=3, host="h1")
        assert [move.to for move in what_if.drain(world.context, "h1")] == ["h2", "h2", ""]

    def test_a_group_is_kept_on_the_way(self, three):
        group(three, "near", "affinity")
        three.booted("n", count=3, hints=(("group", "near"), ("query", '["=", "$host", "h1"]')))
        with write(three.cloud) as writer:
            writer.run("UPDATE servers SET hints_json = '{}'")
        assert len({move.to for move in what_if.drain(three.context, "h1")}) == 1
        group(three, "far", "anti-affinity")
        for name in ("h1", "h2"):
            three.booted(f"f-{name}", host=name, hints=(("group", "far"),))
        moves = {move.name: move.to for move in what_if.drain(three.context, "h1")}
        assert moves["f-h1"] == "h3"

    def test_alone_in_the_cloud(self, world):
        furnished(world, "h1")
        world.booted()
        (move,) = what_if.drain(world.context, "h1")
        assert (move.to, move.why) == ("", "this cloud has no other host")

    def test_as_many_as_fit(self, world):
        furnished(world, "h1")
        world.add_host("h2", ram_mb=8704)
        world.add_host("h3", enabled=0)
        fits = what_if.fit(world.context, what_if.Wanted("m1.medium"))
        assert [(item.host, item.count) for item in fits] == [("h1", 12), ("h2", 2), ("h3", 0)]
        assert fits[0].why == "disk: needs 40 GB, 20 GB free"
        assert fits[1].why == "RAM: needs 4096 MB, 0 MB free"
        assert fits[2].why == "is disabled"

    def test_where_so_many_would_go(self, three):
        fits = what_if.fit(three.context, what_if.Wanted("m1.tiny", 4))
        assert [(item.host, item.count) for item in fits] == [("h1", 2), ("h2", 1), ("h3", 1)]
        servers = three.booted(count=4)
        assert sorted(hosts_of(servers)) == ["h1", "h1", "h2", "h3"]

    def test_the_image_counts(self, pair):
        pair.add_image("odd", properties_json='{"hw_architecture": "riscv64"}')
        fits = what_if.fit(pair.context, what_if.Wanted("m1.tiny", image="odd"))
        assert [item.count for item in fits] == [0, 0]
        with pytest.raises(UsageError, match="between 1 and 1000"):
            what_if.fit(pair.context, what_if.Wanted("m1.tiny", 0))

    def test_what_fits_boots_and_one_more_does_not(self, world):
        furnished(world, "h1")
        world.add_host("h2", ram_mb=3000)
        total = sum(item.count for item in what_if.fit(world.context, what_if.Wanted("m1.large")))
        world.booted(count=total, flavor="m1.large")
        with pytest.raises(NoCapacity):
            world.boot("more", flavor="m1.large")


def test_a_cloud_of_before_has_what_it_needs(pair):
    """A database from before groups and hints: its servers are placed again as they were asked."""
    pair.booted("old", host="h1")
    cloud = Cloud("test", pair.cloud.folder.parent / "old")
    cloud.folder.mkdir()
    before = schema.MIGRATIONS[: schema.MIGRATIONS.index(PLACING)]
    with closing(sqlite3.connect(cloud.database, isolation_level=None)) as old:
        old.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        for script in before:
            for statement in split_statements(script):
                old.execute(statement)
        old.execute("ATTACH ? AS new", (str(pair.cloud.database),))
        for (table,) in old.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'"):
            names = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
            old.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
        old.execute("DELETE FROM quotas WHERE resource LIKE 'server_group%'")
        old.execute(f"PRAGMA user_version = {len(before)}")
    asker = dataclasses.replace(pair.context, cloud=cloud)
    assert [move.to for move in what_if.drain(asker, "h1")] == ["h2"]
    with read(cloud) as reader:
        for resource in ("server_groups", "server_group_members"):
            assert quota.maximum(reader, asker.project_id, resource) == quota.UNLIMITED
        assert reader.value("SELECT zone FROM hosts WHERE name = 'h1'") == "nova"
