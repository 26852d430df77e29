"""Servers on shared volumes change their host, and the volumes are with them."""

import pytest

from stackctl.compute import service
from stackctl.compute.attachments import attach_volume, detach_volume
from stackctl.compute.moves.evacuating import evacuate
from stackctl.compute.moves.live_migration import live_migrate
from stackctl.compute.moves.migrating import migrate
from stackctl.compute.moves.rehousing import Wish
from stackctl.compute.moves.resizing import confirm, revert
from stackctl.compute.moves.shelving import shelve, unshelve
from stackctl.errors import (
    Conflict,
    HostUnreachable,
    NoCapacity,
    PartlyDone,
    ResourceFailed,
    StackctlError,
)
from stackctl.hosts.leaving import fence_host, return_host
from stackctl.operation import recover
from stackctl.state import write
from stackctl.volume.service import extend_volume, show_volume
from tests.unit.test_volume_types import create, new_type, together


@pytest.fixture
def nas(pair):
    """Two hosts with the type nas; a server disk on h1 that boots from root and has data."""
    pair.converge(everything=True)
    new_type(pair).check()
    create(pair, "root", image="cirros").check()
    create(pair, "data").check()
    pair.booted("disk", image="", volume="root", host="h1")
    attach_volume(pair.context, "disk", "data").check()
    return pair


def places(world):
    """Where the server is, and who cares for its volumes."""
    volumes = [show_volume(world.context, name) for name in ("root", "data")]
    assert [(each.status, each.server_name) for each in volumes] == [("in-use", "disk")] * 2
    return (world.server("disk").host, *(each.keeper for each in volumes))


def plugged(world):
    return {name: len(world.fleet.state(name)["plugged"]) for name in ("h1", "h2")}


def test_a_server_on_shared_volumes_goes_to_another_host_and_back(nas):
    migrate(nas.context, "disk", "h2").check()
    assert places(nas) == ("h2", "h2", "h2")
    assert nas.servers() == {"disk": "VERIFY_RESIZE"}
    assert len(together(nas)) == 2
    revert(nas.context, "disk").check()
    assert places(nas) == ("h1", "h1", "h1")
    migrate(nas.context, "disk", "h2").check()
    confirm(nas.context, "disk").check()
    assert nas.servers() == {"disk": "ACTIVE"}
    assert places(nas) == ("h2", "h2", "h2")
    nas.converge(everything=True).check()
    assert list(nas.fleet.domains().values()) == ["h2"]
    detach_volume(nas.context, "disk", "data").check()
    assert show_volume(nas.context, "data").status == "available"
    assert len(together(nas)) == 2


def test_one_that_could_not_move_has_its_volumes_where_it_is(nas):
    nas.trouble("h2", unreachable=True)
    with pytest.raises(HostUnreachable):
        migrate(nas.context, "disk", "h2").check()
    nas.trouble("h2")
    nas.converge(everything=True).check()
    assert places(nas) == ("h1", "h1", "h1")
    assert list(nas.fleet.domains().values()) == ["h1"]
    extend_volume(nas.context, "data", 9).check()


@pytest.mark.parametrize("die_at", range(1, 8))
def test_a_host_that_dies_meanwhile_leaves_them_together(nas, die_at):
    nas.trouble("h2", die_at=die_at)
    try:
        migrate(nas.context, "disk", "h2").check()
    except StackctlError:
        nas.trouble("h2")
        recover(nas.context)
        nas.converge(everything=True).check()
    nas.trouble("h2")
    nas.converge(everything=True).check()
    (host,) = nas.fleet.domains().values()
    assert places(nas) == (host, host, host)
    assert len(together(nas)) == 2


def test_what_is_not_where_its_row_says_does_not_move(nas):
    nas.trouble("h1", lose="after")
    with pytest.raises(PartlyDone):
        extend_volume(nas.context, "data", 4).check()
    with pytest.raises(Conflict, match="h1 is at work on data"):
        migrate(nas.context, "disk", "h2")
    nas.trouble("h1")
    nas.converge().check()
    create(nas, "own", type="local").check()
    attach_volume(nas.context, "disk", "own").check()
    with pytest.raises(Conflict, match="its volume own, and that is a file on host h1"):
        migrate(nas.context, "disk", "h2")


def test_it_goes_only_where_its_volumes_can_be(nas):
    nas.trouble("h2", fail={"backend nas.example.com:/volumes": "unmounted"})
    h2 = nas.host("h2")["id"]
    with write(nas.cloud) as writer:
        writer.run("UPDATE volume_type_hosts SET usable = 0 WHERE host_id = ?", h2)
    with pytest.raises(NoCapacity, match="does not have volume type nas"):
        migrate(nas.context, "disk", "h2")
    assert places(nas) == ("h1", "h1", "h1")


def test_a_server_on_shared_volumes_goes_on_elsewhere_while_it_runs(nas):
    live_migrate(nas.context, "disk", "h2").check()
    assert places(nas) == ("h2", "h2", "h2")
    assert nas.servers() == {"disk": "ACTIVE"}
    nas.converge(everything=True).check()
    assert list(nas.fleet.domains().values()) == ["h2"]
    assert len(together(nas)) == 2
    live_migrate(nas.context, "disk", "h1").check()
    assert places(nas) == ("h1", "h1", "h1")


def test_both_hosts_have_its_volumes_meanwhile_and_neither_makes_any(nas):
    live_migrate(nas.context, "disk", "h2").check()
    before = [spec for spec in nas.fleet.specs if spec.servers and spec.servers[0].moving]
    assert {spec.host_id for spec in before} == {nas.host(name)["id"] for name in ("h1", "h2")}
    for spec in before:
        assert len(spec.volumes) == len(spec.servers[0].volumes) == 2
        assert not any(volume.build for volume in spec.volumes)


def test_one_that_does_not_get_there_runs_on_with_its_volumes(nas):
    volume = show_volume(nas.context, "data").id
    nas.trouble("h2", fail={volume: "Input/output error"})
    with pytest.raises(ResourceFailed, match=r"Input/output error. Server disk stays on host h1"):
        live_migrate(nas.context, "disk", "h2").check()
    nas.trouble("h2")
    nas.converge(everything=True).check()
    assert places(nas) == ("h1", "h1", "h1")
    assert nas.servers() == {"disk": "ACTIVE"}
    detach_volume(nas.context, "disk", "data").check()


def test_a_volume_does_not_grow_while_its_server_is_on_its_way(nas):
    with write(nas.cloud) as writer:
        writer.run("UPDATE servers SET task_state = 'migrating'")
    with pytest.raises(Conflict, match="in task_state migrating: it cannot grow until that is"):
        extend_volume(nas.context, "data", 9)


def test_a_volume_is_not_free_while_a_guest_of_its_deleted_server_may_run_elsewhere(nas):
    """Deleted on its way, it is to be destroyed on both hosts."""
    nas.trouble("h2", fail={"removal": "the domain does not die"})
    server = nas.server("disk")
    with write(nas.cloud) as writer:
        stone = {"kind": "domain", "id": server.id, "host_id": nas.host("h2")["id"]}
        writer.insert(
            "tombstones", stone | {"server_id": server.id, "created_serial": 1, "created_at": "x"}
        )
    with pytest.raises(StackctlError):
        service.delete_servers(nas.context, ["disk"]).check()
    assert show_volume(nas.context, "data").status == "detaching"
    nas.trouble("h2")
    nas.converge(everything=True).check()
    nas.converge(everything=True).check()
    assert show_volume(nas.context, "data").status == "available"


def lose(world, name="h1"):
    world.trouble(name, unreachable=True)
    fence_host(world.context, name)


def test_servers_of_a_lost_host_have_their_shared_volumes_elsewhere(nas):
    lose(nas)
    evacuate(nas.context, ["disk"]).check()
    assert places(nas) == ("h2", "h2", "h2")
    assert nas.servers() == {"disk": "ACTIVE"}
    assert len(together(nas)) == 2
    assert plugged(nas)["h2"] > 0
    # Should it come back: what it has of the server goes, and nothing of the volumes.
    nas.trouble("h1")
    return_host(nas.context, "h1").check()
    assert list(nas.fleet.domains().values()) == ["h2"]
    assert places(nas) == ("h2", "h2", "h2")
    assert len(together(nas)) == 2
    detach_volume(nas.context, "disk", "data").check()
    assert show_volume(nas.context, "data").status == "available"


def test_a_volume_of_the_lost_host_alone_keeps_its_server_there(nas):
    create(nas, "own", type="local").check()
    attach_volume(nas.context, "disk", "own").check()
    lose(nas)
    with pytest.raises(Conflict, match="Its volume own is a file on host h1"):
        evacuate(nas.context, ["disk"]).check()
    assert places(nas) == ("h1", "h1", "h1")


def test_a_volume_that_was_not_complete_stays_with_the_lost_host(nas):
    with write(nas.cloud) as writer:
        writer.run("UPDATE volumes SET built = 0 WHERE name = 'data'")
    lose(nas)
    with pytest.raises(Conflict, match="Its volume data was not made yet"):
        evacuate(nas.context, ["disk"]).check()


def test_an_evacuation_that_no_host_hears_of_is_taken_back_with_the_volumes(nas):
    lose(nas)
    nas.trouble("h2", unreachable=True)
    with pytest.raises(HostUnreachable):
        evacuate(nas.context, ["disk"]).check()
    assert places(nas) == ("h1", "h1", "h1")
    nas.trouble("h2")
    evacuate(nas.context, ["disk"]).check()
    assert places(nas) == ("h2", "h2", "h2")


def test_a_shelved_server_on_shared_volumes_comes_back_on_any_host(nas):
    shelve(nas.context, "disk").check()
    unshelve(nas.context, "disk", Wish("h2")).check()
    assert places(nas) == ("h2", "h2", "h2")
    assert list(nas.fleet.domains().values()) == ["h2"]
