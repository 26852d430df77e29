"""A cluster computer as one thing."""

import dataclasses

import pytest

from stackctl.compute import service, views
from stackctl.compute.cluster import (
    NewCluster,
    create_cluster,
    delete_cluster,
    hostfile,
    list_clusters,
    scale_cluster,
    show_cluster,
)
from stackctl.errors import Conflict, HostUnreachable, NoCapacity, NotFound, UsageError

WANTED = NewCluster("c", 2, "cirros", "m1.tiny")


def names(world):
    return sorted(world.servers())


@pytest.fixture
def made(pair):
    create_cluster(pair.context, WANTED).check()
    return pair


def test_network_head_and_nodes_at_once(pair):
    done = create_cluster(pair.context, dataclasses.replace(WANTED, head_networks=("net",)))
    done.check()
    assert [item.name for item in done.value] == ["c-head", "c-node-1", "c-node-2"]
    assert list(done.value[0].networks()) == ["net", "c"]
    assert pair.fleet.opened == {"h1": 1, "h2": 1}
    keys = pair.column("SELECT DISTINCT files_json FROM servers")
    assert len(keys) == 1
    assert "/root/.ssh/id_ed25519" in keys[0]


def test_all_or_nothing(pair):
    with pytest.raises(NoCapacity):
        create_cluster(pair.context, dataclasses.replace(WANTED, flavor="m1.xlarge", count=9))
    assert (list_clusters(pair.context), pair.servers()) == ([], {})
    assert pair.column("SELECT name FROM networks WHERE deleted_at IS NULL") == ["net"]


def test_nobody_reached_leaves_no_network_either(pair):
    for name in ("h1", "h2"):
        pair.trouble(name, unreachable=True)
    with pytest.raises(HostUnreachable):
        create_cluster(pair.context, WANTED)
    assert (list_clusters(pair.context), pair.servers()) == ([], {})
    assert pair.column("SELECT name FROM networks WHERE deleted_at IS NULL") == ["net"]
    for name in ("h1", "h2"):
        pair.trouble(name)
    create_cluster(pair.context, WANTED).check()


def test_a_name_that_is_taken(made):
    with pytest.raises(Conflict, match="already a cluster called c"):
        create_cluster(made.context, WANTED)


@pytest.mark.parametrize(("name", "count"), [("c", 0), ("", 1), ("a\nb", 1)])
def test_bad_words(pair, name, count):
    with pytest.raises(UsageError):
        create_cluster(pair.context, dataclasses.replace(WANTED, name=name, count=count))


def test_a_repeated_request_is_the_same_cluster(pair):
    context = pair.asked(request_id="r")
    first = create_cluster(context, WANTED)
    assert [item.id for item in create_cluster(context, WANTED).value] == [
        item.id for item in first.value
    ]
    with pytest.raises(Conflict):
        create_cluster(context, dataclasses.replace(WANTED, user_data=b"other"))


class TestScale:
    def test_new_ones_get_new_numbers(self, made):
        scale_cluster(made.context, "c", 1).check()
        assert names(made) == ["c-head", "c-node-1"]
        done = scale_cluster(made.context, "c", 3)
        done.check()
        assert [item.name for item in done.value] == ["c-node-1", "c-node-3", "c-node-4"]

    def test_the_same_number_changes_nothing(self, made):
        before = made.servers()
        scale_cluster(made.context, "c", 2).check()
        assert made.servers() == before

    def test_older_nodes_are_never_moved(self, made):
        """Their disks are where they are, whether the host answers or not."""
        before = {item.name: item.host for item in views.list_servers(made.context)}
        for name in ("h1", "h2"):
            made.trouble(name, unreachable=True)
        with pytest.raises(HostUnreachable):
            scale_cluster(made.context, "c", 4)
        assert {item.name: item.host for item in views.list_servers(made.context)} == before
        made.trouble("h2")
        scale_cluster(made.context, "c", 4).check()
        after = {item.name: item.host for item in views.list_servers(made.context)}
        assert {name: after[name] for name in before} == before

    @pytest.mark.parametrize("count", [0, -1])
    def test_down_to_nothing_is_another_command(self, made, count):
        with pytest.raises(UsageError, match="cluster-delete"):
            scale_cluster(made.context, "c", count)


class TestDelete:
    def test_everything_goes(self, made):
        delete_cluster(made.context, "c").check()
        assert (list_clusters(made.context), made.servers()) == ([], {})
        assert made.column("SELECT name FROM networks WHERE deleted_at IS NULL") == ["net"]
        assert made.fleet.domains() == {}

    def test_a_network_of_others_stays(self, pair):
        create_cluster(pair.context, dataclasses.replace(WANTED, network="net")).check()
        delete_cluster(pair.context, "c").check()
        assert pair.column("SELECT name FROM networks WHERE deleted_at IS NULL") == ["net"]

    def test_with_a_stranger_in_its_network_nothing_goes(self, made):
        made.booted("stranger", net=["c"])
        with pytest.raises(Conflict, match="stranger"):
            delete_cluster(made.context, "c")
        assert "c-head" in made.servers()

    def test_one_that_is_not_there(self, pair):
        with pytest.raises(NotFound):
            delete_cluster(pair.context, "c")


def test_without_its_head(made):
    service.delete_servers(made.context, ["c-head"]).check()
    shown = show_cluster(made.context, "c")
    assert shown.head is None
    assert [item.name for item in shown.servers] == ["c-node-1", "c-node-2"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("mpi", "c-node-1 slots=1\nc-node-2 slots=1\n"),
        ("hosts", "192.168.1.2\tc-head\n192.168.1.4\tc-node-1\n192.168.1.5\tc-node-2\n"),
        (
            "slurm",
            "NodeName=c-node-1 NodeAddr=192.168.1.4 CPUs=1 RealMemory=512 State=UNKNOWN\n"
            "NodeName=c-node-2 NodeAddr=192.168.1.5 CPUs=1 RealMemory=512 State=UNKNOWN\n"
            "PartitionName=c Nodes=c-node-1,c-node-2 Default=YES State=UP\n",
        ),
    ],
)
def test_host_files(made, form, text):
    assert hostfile(show_cluster(made.context, "c"), form) == text
