"""Another flavor for a server: its disks are copies until that is confirmed or reverted."""

import pytest

from stackctl.compute import service
from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.moves.resizing import confirm, resize, revert
from stackctl.errors import Conflict, HostUnreachable, NoCapacity, NotFound, ResourceFailed

FLAVORS = (
    NewFlavor("small", vcpus=1, ram_mb=512, disk_gb=2, ephemeral_gb=1, swap_mb=64),
    NewFlavor("large", vcpus=4, ram_mb=2048, disk_gb=5, ephemeral_gb=2, swap_mb=128),
    NewFlavor("plain", vcpus=2, ram_mb=1024, disk_gb=3),
    NewFlavor("tight", vcpus=1, ram_mb=512, disk_gb=1, ephemeral_gb=1),
    NewFlavor("giant", vcpus=1000, ram_mb=1 << 20, disk_gb=100_000, ephemeral_gb=1),
)
SIZES = ("flavor_name", "vcpus", "ram_mb", "disk_gb", "ephemeral_gb", "swap_mb")


@pytest.fixture
def up(pair):
    """A server vm of flavor small on h1."""
    for flavor in FLAVORS:
        create_flavor(pair.context, flavor).check()
    pair.booted(host="h1", flavor="small")
    return pair


def last(world):
    specs = [spec for spec in world.fleet.specs if spec.host_id == world.host("h1")["id"]]
    return specs[-1]


def disks(world) -> dict[str, str]:
    rows = world.rows("SELECT * FROM disks WHERE deleted_at IS NULL AND aside = 0")
    return {row["kind"]: row["id"] for row in rows}


def on_host(world) -> set[str]:
    return set(world.fleet.state("h1")["disks"])


def sizes(world) -> tuple:
    row = world.rows("SELECT * FROM servers")[0]
    return tuple(row[name] for name in SIZES)


def test_it_starts_with_larger_copies_and_waits_for_a_word(up):
    old = disks(up)
    resize(up.context, "vm", "large").check()
    new = disks(up)
    assert up.servers() == {"vm": "VERIFY_RESIZE"}
    assert sizes(up) == ("large", 4, 2048, 5, 2, 128)
    spec = [spec for spec in up.fleet.specs if spec.servers][-1]
    server, by_id = spec.servers[0], {disk.id: disk for disk in spec.disks}
    assert server.disks == (new["root"], new["ephemeral"], new["swap"])
    assert (server.vcpus, server.ram_mb, server.power.action) == (4, 2048, "reboot")
    assert by_id[new["root"]].source_id == old["root"]
    assert by_id[new["ephemeral"]].source_id == old["ephemeral"]
    assert by_id[new["swap"]].source_id is None
    assert [by_id[new[kind]].size_bytes >> 20 for kind in ("root", "ephemeral", "swap")] == [
        5 * 1024,
        2 * 1024,
        128,
    ]
    assert on_host(up) == {*old.values(), *new.values()}
    up.converge(everything=True).check()
    assert up.servers() == {"vm": "VERIFY_RESIZE"}


def test_confirmed_it_loses_its_old_disks(up):
    resize(up.context, "vm", "large").check()
    new = disks(up)
    confirm(up.context, "vm").check()
    assert up.servers() == {"vm": "ACTIVE"}
    assert (disks(up), on_host(up)) == (new, set(new.values()))
    assert sizes(up)[0] == "large"
    assert up.value("SELECT power_serial FROM servers") == 2
    with pytest.raises(Conflict, match="vm_state active"):
        revert(up.context, "vm")


def test_reverted_it_is_what_it_was(up):
    old, before = disks(up), sizes(up)
    resize(up.context, "vm", "large").check()
    revert(up.context, "vm").check()
    assert up.servers() == {"vm": "ACTIVE"}
    assert (disks(up), sizes(up), on_host(up)) == (old, before, set(old.values()))
    assert up.value("SELECT power_serial FROM servers") == 3
    resize(up.context, "vm", "large").check()


def test_one_that_is_off_stays_off(up):
    service.change_power(up.context, "stop", ["vm"]).check()
    resize(up.context, "vm", "large").check()
    assert up.server("vm").power_state == "SHUTDOWN"
    revert(up.context, "vm").check()
    assert up.servers() == {"vm": "SHUTOFF"}
    resize(up.context, "vm", "large").check()
    confirm(up.context, "vm").check()
    assert up.servers() == {"vm": "SHUTOFF"}


def test_a_disk_that_it_lacked_comes_and_goes(up):
    up.booted("other", host="h1", flavor="plain")
    resize(up.context, "other", "large").check()
    new = up.column("SELECT kind FROM disks WHERE aside = 0 AND position > 0 AND source_id IS NULL")
    assert {"ephemeral", "swap"} <= set(new)
    revert(up.context, "other").check()
    assert len(last(up).disks) == 4


@pytest.mark.parametrize(
    ("flavor", "error", "words"),
    [
        ("small", Conflict, "must change flavor"),
        ("tight", Conflict, "would shrink a disk"),
        ("plain", Conflict, "would shrink a disk"),
        ("giant", NoCapacity, "more VCPUs"),
        ("none", NotFound, "no flavor"),
    ],
)
def test_what_does_not_fit_changes_nothing(up, flavor, error, words):
    old = disks(up)
    up.fleet.opened.clear()
    with pytest.raises(error, match=words):
        resize(up.context, "vm", flavor)
    assert (disks(up), up.servers(), up.fleet.opened) == (old, {"vm": "ACTIVE"}, {})


def test_what_its_host_did_not_hear_of_is_taken_back(up):
    old, before = disks(up), sizes(up)
    up.trouble("h1", unreachable=True)
    with pytest.raises(HostUnreachable):
        resize(up.context, "vm", "large").check()
    assert (disks(up), sizes(up), up.servers()) == (old, before, {"vm": "ACTIVE"})
    up.trouble("h1")
    resize(up.context, "vm", "large").check()
    new = disks(up)
    for act in (confirm, revert):
        up.trouble("h1", unreachable=True)
        with pytest.raises(HostUnreachable):
            act(up.context, "vm").check()
        assert (disks(up), up.servers()) == (new, {"vm": "VERIFY_RESIZE"})
    up.trouble("h1")
    revert(up.context, "vm").check()
    assert (disks(up), on_host(up)) == (old, set(old.values()))


def test_a_resize_that_fails_can_be_reverted(up):
    old = disks(up)
    with pytest.raises(Conflict, match="vm_state active"):
        revert(up.context, "vm")
    up.trouble("h1", fail={"disk": "no space left"})
    with pytest.raises(ResourceFailed, match="no space left"):
        resize(up.context, "vm", "large").check()
    assert up.servers() == {"vm": "ERROR"}
    up.trouble("h1")
    revert(up.context, "vm").check()
    assert (disks(up), up.servers()) == (old, {"vm": "ACTIVE"})
    assert on_host(up) == set(old.values())


def test_all_of_it_goes_with_the_server(up):
    resize(up.context, "vm", "large").check()
    service.delete_servers(up.context, ["vm"]).check()
    assert on_host(up) == set()
