"""Volumes in places that hosts share: a folder, an NFS server, a storage pool; on real engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stackctl.identity.context import admin_context
from stackctl.image.service import create_image, list_images
from stackctl.image.types import NewImage
from tests.engines import eventually
from tests.fleet import Fleet
from tests.system.shares import EXPORT, NfsServer, bind
from tests.system.test_interfaces import releasing_image
from tests.system.test_volumes import (
    MAX_POINTS,
    Guest,
    delete_everything,
    guest,
    volume,
    world,
)

__all__ = ["guest", "world"]

HOSTS = ("host1", "host2")


@dataclass(frozen=True)
class Place:
    """A place for volumes: how its type is made, what lies in it, how qemu calls a volume there."""

    name: str
    words: tuple[str, ...]
    files: Callable[[], list[str]]
    called: Callable[[str], str]
    claim: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def nfs(world: Fleet) -> Iterator[NfsServer]:
    """An NFS server that the hosts reach."""
    server = NfsServer(world)
    yield server
    server.close()


@pytest.fixture(scope="module")
def folders(world: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of this machine that both hosts have, the second one as a storage pool."""
    made = tmp_path_factory.mktemp("shared")
    for name in ("folder", "pool"):
        (made / name).mkdir()
        for host in HOSTS:
            bind(made / name, f"/mnt/{name}", world, host)
    for host in HOSTS:
        define = ("pool-define-as", "together", "dir", "--target", "/mnt/pool")
        world.inside(host, "virsh", "-q", *define)
        world.inside(host, "virsh", "-q", "pool-start", "together")
    return made


@pytest.fixture(params=["folder", "nfs", "pool"])
def place(
    request: pytest.FixtureRequest, world: Fleet, nfs: NfsServer, folders: Path
) -> Iterator[Place]:
    """Each kind of place, as a volume type of its name."""
    made = {"folder": a_folder, "nfs": an_export, "pool": a_pool}[request.param](
        world, nfs, folders
    )
    context = admin_context(world.cloud)
    if not any(image.name == "releasing" for image in list_images(context)):
        create_image(context, NewImage("releasing", "raw"), releasing_image()).check()
    world.run("volume-type-create", made.name, *made.words)
    yield made
    delete_everything(world)
    world.run("volume-type-delete", made.name)
    assert made.files() == list(made.claim)
    world.check_at_rest()


def cloud_id(fleet: Fleet) -> str:
    return str(fleet.rows("SELECT id FROM cloud")[0]["id"])


def a_folder(fleet: Fleet, server: NfsServer, folders: Path) -> Place:
    root = folders / "folder"
    inner = f"/mnt/folder/stackctl-{cloud_id(fleet)}"
    words = ("--folder", "/mnt/folder")
    return Place("dir", words, lambda: below(root), lambda id_: f"{inner}/{id_}.qcow2")


def an_export(fleet: Fleet, server: NfsServer, folders: Path) -> Place:
    url = f"nfs://{server.address}{EXPORT}/stackctl-{cloud_id(fleet)}"
    words = ("--nfs", f"{server.address}:{EXPORT}")
    return Place("nas", words, server.files, lambda id_: f"{url}/{id_}.qcow2?uid=0&gid=0")


def a_pool(fleet: Fleet, server: NfsServer, folders: Path) -> Place:
    root = folders / "pool"
    words = ("--pool", "together", "--shared", "--disk-format", "qcow2")
    claim = f"stackctl-{cloud_id(fleet)}"
    return Place("pooled", words, lambda: below(root), lambda id_: f"/mnt/pool/sc-{id_}", (claim,))


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def qemu_io(fleet: Fleet, host: str, place: Place, id_: str, command: str) -> None:
    said = fleet.inside(host, "qemu-io", "-f", "qcow2", "-c", command, place.called(id_))
    assert "failed" not in said, said


def test_a_volume_lives_in_a_place_that_hosts_share(world: Fleet, place: Place) -> None:
    shown = world.run("volume-type-show", place.name, "-f", "json").json
    assert (sorted(shown["Hosts"]), shown["Shared"]) == (list(HOSTS), True), shown
    image = ("--image", "releasing", "--flavor", "tiny", "--nic", "net=faults")
    for name, host in zip(("one", "two"), HOSTS, strict=True):
        world.run("boot", name, *image, "--host", host)
    world.run("volume-create", "data", "--size", "1", "--type", place.name)
    data = volume(world)
    assert (data["Status"], data["Shared"], data["Host"]) == ("available", True, "")
    assert len(place.files()) == 1 + len(place.claim)
    qemu_io(world, "host2", place, data["ID"], "write -P 7 0 65536")

    world.run("volume-attach", "one", "data")
    world.run("volume-extend", "data", "2")
    world.run("volume-snapshot-create", "monday", "--volume", "data")
    world.check_at_rest()
    world.run("volume-detach", "one", "data")
    assert volume(world)["Status"] == "available"

    # On to the other host, which then makes the copy.
    world.run("volume-attach", "two", "data")
    assert volume(world)["Cared for by"] == "host2"
    world.run("volume-detach", "two", "data")
    world.run("volume-create", "twin", "--source", "data", "--size", "3")
    snapshot = world.run("volume-snapshot-show", "monday", "-f", "json").json["ID"]
    sizes = {data["ID"]: 2, volume(world, "twin")["ID"]: 3, snapshot: 2}
    for id_, size in sizes.items():
        qemu_io(world, "host1", place, id_, "read -P 7 0 65536")
        info = world.inside("host1", "qemu-img", "info", "-f", "qcow2", place.called(id_))
        assert f"virtual size: {size} GiB" in info
        assert "backing file" not in info
    assert len(place.files()) == 3 + len(place.claim)


def boot_from_nfs(fleet: Fleet, nfs: NfsServer) -> None:
    """A server first on host1, booted from the volume root of the type nas."""
    fleet.run("volume-type-create", "nas", "--nfs", f"{nfs.address}:{EXPORT}")
    image = ("--image", "volume-guest", "--size", "1")
    fleet.run("volume-create", "root", *image, "--type", "nas")
    fleet.run("boot", "first", "--boot-volume", "root", *BOOTED, "--host", "host1")


BOOTED = ("--flavor", "small", "--nic", "net=faults", "--key", "volumes", "--wait", "ssh")


@pytest.mark.slow
def test_a_server_on_nfs_is_switched_off_and_goes_on_elsewhere_and_another_has_its_data(
    world: Fleet, guest: Guest, nfs: NfsServer
) -> None:
    boot_from_nfs(world, nfs)
    guest("first", "echo kept > /root/kept; sync")
    world.run("migrate", "first", "--host", "host2")
    world.run("resize-confirm", "first")
    assert world.servers()["first"]["Host"] == volume(world, "root")["Cared for by"] == "host2"
    eventually(lambda: answers(guest, "first"), "the guest, booted again", seconds=90)
    assert guest("first", "cat /root/kept").strip() == "kept"
    world.check_at_rest()
    world.run("delete", "--yes", "first")
    world.run("boot", "second", "--boot-volume", "root", *BOOTED, "--host", "host1")
    assert guest("second", "cat /root/kept").strip() == "kept"
    delete_everything(world)
    world.run("volume-type-delete", "nas")
    world.check_at_rest()


def answers(guest: Guest, name: str) -> bool:
    """Whether somebody can log in."""
    try:
        return guest(name, "echo yes").strip() == "yes"
    except AssertionError:
        return False


def test_a_place_that_a_host_does_not_have_gets_no_servers_there(
    world: Fleet, folders: Path
) -> None:
    (folders / "folder" / "half").mkdir()
    bind(folders / "folder" / "half", "/mnt/half", world, "host2")
    world.run("volume-type-create", "half", "--folder", "/mnt/half", "--host", "host2")
    shown = world.run("volume-type-show", "half", "-f", "json").json
    assert shown["Hosts"] == ["host2"], shown
    assert "/mnt/half is not there" in shown["Not on"][0]
    world.run("volume-create", "root", "--type", "half", "--image", "tiny", "--size", "1")
    assert volume(world, "root")["Cared for by"] == "host2"
    words = ("--boot-volume", "root", "--flavor", "tiny", "--nic", "net=faults")
    done = world.run("boot", "vm", *words, "--host", "host1", exit=6)
    assert "does not have volume type half" in done.err
    world.run("boot", "vm", *words)
    assert world.servers()["vm"]["Host"] == "host2"
    delete_everything(world)
    world.run("volume-type-delete", "half")
    world.check_at_rest()


@pytest.mark.slow
def test_volumes_are_made_once_and_whole_though_agents_die_at_any_point(
    world: Fleet, place: Place
) -> None:
    for at in range(1, MAX_POINTS):
        words = ("--size", "1", "--image", "releasing", "--type", place.name, "--host", "host1")
        dead = world.killing_agents(at, "volume-create", "data", *words)
        id_ = volume(world)["ID"]
        assert [name for name in place.files() if id_ not in name] == list(place.claim)
        assert len(place.files()) == 1 + len(place.claim)
        qemu_io(world, "host2", place, id_, "read 0 1M")
        world.check_at_rest()
        dead += world.killing_agents(at, "volume-delete", "--yes", "data")
        assert place.files() == list(place.claim)
        if dead == 0:
            assert at > 3
            return
    raise AssertionError("the points never end")


@pytest.mark.slow
def test_a_server_of_files_that_is_down_is_told_and_waited_for_by_nobody(
    world: Fleet, nfs: NfsServer
) -> None:
    world.run("volume-type-create", "nas", "--nfs", f"{nfs.address}:{EXPORT}")
    world.run("volume-create", "kept", "--size", "1", "--type", "nas", "--host", "host1")
    nfs.close()
    try:
        done = world.run("volume-create", "data", "--size", "1", "--type", "nas", exit=30)
        assert "not tried: " in done.err
        assert volume(world)["Status"] == "error"
        # Nobody else is kept from anything.
        world.boot("vm", "--host", "host2")
        world.run("volume-attach", "vm", "kept", exit=4)
    finally:
        nfs.start()
    world.run("converge", "--all")
    assert [volume(world, name)["Status"] for name in ("kept", "data")] == ["available", "error"]
    world.run("volume-retry", "data")
    world.run("volume-attach", "vm", "data")
    assert volume(world)["Status"] == "in-use"
    delete_everything(world)
    world.run("volume-type-delete", "nas")
    world.check_at_rest()


def test_a_server_on_nfs_goes_on_elsewhere_while_it_runs_and_when_its_host_dies(
    world: Fleet, guest: Guest, nfs: NfsServer
) -> None:
    """The last one: what else is set up on the host that dies is gone."""
    boot_from_nfs(world, nfs)
    guest("first", "echo kept > /root/kept; sync; echo alive > /run/memory")
    world.run("live-migrate", "first", "host2")
    assert world.servers()["first"]["Host"] == volume(world, "root")["Cared for by"] == "host2"
    assert guest("first", "cat /run/memory").strip() == "alive"
    guest("first", "cat /root/kept > /root/again; sync")
    world.check_at_rest()

    world.kill_host("host2")
    world.run("host-evacuate", "--yes", "--fence", "host2")
    assert world.servers()["first"]["Host"] == volume(world, "root")["Cared for by"] == "host1"
    eventually(lambda: answers(guest, "first"), "the guest, booted on another host", seconds=90)
    assert guest("first", "cat /root/again").strip() == "kept"
    world.start_host("host2")
    world.run("host-return", "host2")
    world.check_at_rest()
    delete_everything(world)
    world.run("volume-type-delete", "nas")
    world.check_at_rest()
