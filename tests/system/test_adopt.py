"""Domains made by hand with virsh become servers: same process, same disk, then a life of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines import Shell, eventually
from tests.fleet import Fleet
from tests.system.test_interfaces import RELEASING_GUEST

IMAGES = "/var/lib/libvirt/images"
BRIDGE = "virbr9"
KILLED = -9
MAX_POINTS = 80

XML = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}'/><source file='{path}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <mac address='{mac}'/><source bridge='{bridge}'/>{port}<model type='virtio'/>
    </interface>
    <video><model type='vga'/></video>
    {more}
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Foreign:
    """A domain that somebody made on host1."""

    fleet: Fleet
    name: str
    path: str

    def virsh(self, *argv: str, check: bool = True) -> str:
        """What virsh says of it."""
        return self.fleet.inside("host1", "virsh", "-q", argv[0], self.name, *argv[1:], check=check)

    def process(self) -> str:
        """The process of its guest, and when that was started."""
        pid = self.fleet.inside("host1", "cat", f"/run/libvirt/qemu/{self.name}.pid")
        born = self.fleet.inside("host1", "cat", f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
        return f"{pid} {born}"

    def has_open(self, inode: str) -> bool:
        """Whether its process has a file open, by its inode."""
        script = f"stat -L -c %i /proc/{self.process().split()[0]}/fd/*"
        return inode in self.fleet.inside("host1", "sh", "-c", script, check=False).split()

    def inode(self) -> str:
        """The inode of its disk."""
        return self.fleet.inside("host1", "stat", "-c", "%i", self.path).strip()

    def tap(self) -> str:
        """The tap that libvirt made for it."""
        return self.virsh("domiflist").split()[0]


@pytest.fixture(scope="module")
def world(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet, with a bridge on host1 that is none of ours."""
    fleet.inside("host1", "ip", "link", "add", BRIDGE, "type", "bridge")
    fleet.inside("host1", "ip", "link", "set", BRIDGE, "up")
    fleet.inside("host1", "mkdir", "-p", IMAGES)
    yield fleet
    fleet.delete_all()
    fleet.inside("host1", "ip", "link", "del", BRIDGE)
    fleet.check_at_rest()


def define(
    fleet: Fleet, name: str, mac: str, *, disk: bytes = RELEASING_GUEST, more: str = ""
) -> Foreign:
    """Make a domain with virsh, as people do, and start it."""
    path = f"{IMAGES}/{name}.qcow2"
    script = "import sys; open(sys.argv[1], 'wb').write(bytes.fromhex(sys.stdin.read()))"
    python = ("/usr/bin/python3", "-c", script)
    fleet.inside("host1", *python, f"{path}.raw", text=disk.ljust(1024 * 1024, b"\0").hex())
    fleet.inside("host1", "qemu-img", "convert", "-f", "raw", "-O", "qcow2", f"{path}.raw", path)
    fleet.inside("host1", "rm", f"{path}.raw")
    xml = XML.format(
        name=name, mac=mac, path=path, format="qcow2", bridge=BRIDGE, port="", more=more
    )
    fleet.inside("host1", "virsh", "-q", "define", "/dev/stdin", text=xml)
    fleet.inside("host1", "virsh", "-q", "start", name)
    return Foreign(fleet, name, path)


def undefine(foreign: Foreign) -> None:
    """The end of a domain that nobody adopted."""
    foreign.virsh("destroy", check=False)
    foreign.virsh("undefine")
    foreign.fleet.inside("host1", "rm", foreign.path)


def members(fleet: Fleet) -> list[str]:
    """The devices in the bridge that is none of ours."""
    return fleet.inside("host1", "ls", f"/sys/class/net/{BRIDGE}/brif").split()


def adopt(foreign: Foreign, *argv: str, **more: str | int | None) -> str:
    """Adopt a domain of host1 in the network that all tests share."""
    words = ("adopt", "host1", foreign.name, "--network", "faults", *argv)
    return foreign.fleet.run(*words, **more).out  # type: ignore[arg-type]


def test_a_domain_is_adopted_while_it_runs_and_then_lives_as_a_server(world: Fleet) -> None:
    wiki = define(world, "wiki", "52:54:00:00:00:01")
    other = define(world, "stays", "52:54:00:00:00:02")
    wiki.virsh("autostart")
    before = wiki.virsh("dumpxml"), wiki.process(), wiki.inode(), members(world)
    untouched = other.virsh("dumpxml"), other.process(), other.tap()
    pools = world.inside("host1", "virsh", "-q", "pool-list", "--all")
    files = set(world.inside("host1", "ls", IMAGES).split()) - {"wiki.qcow2", "stays.qcow2"}

    refused = world.run("adopt", "host1", "wiki", exit=4).err
    assert f"on bridge {BRIDGE}, which says nothing of a network" in refused
    said = adopt(wiki, "--fixed-ip", "10.77.0.50", "--dry-run")
    assert f"vda {wiki.path} (qcow2" in said
    assert "Dry run" in said
    assert before == (wiki.virsh("dumpxml"), wiki.process(), wiki.inode(), members(world))

    made = json.loads(adopt(wiki, "--fixed-ip", "10.77.0.50", "-f", "json"))
    assert made["ID"] == wiki.virsh("domuuid").strip()
    assert (wiki.process(), wiki.inode()) == before[1:3]
    assert wiki.has_open(before[2])
    assert members(world) == [other.tap()]
    assert "Autostart:      disable" in wiki.virsh("dominfo")
    assert world.servers()["wiki"]["IP Address"] == {"faults": ["10.77.0.50"]}
    assert world.statuses() == {"wiki": "ACTIVE"}
    assert "video vga" in world.run("show", "wiki", "-c", "Adopted").out
    world.run("converge", "--all")
    assert wiki.process() == before[1]

    world.run("interface-attach", "wiki", "--net", "faults")
    assert len(wiki.virsh("domiflist").splitlines()) == 2
    world.run("image-snapshot", "wiki", "wiki-as-it-was")
    world.run("suspend", "wiki", exit=4)
    assert wiki.process() == before[1]

    world.run("reboot", "wiki")
    assert wiki.process() != before[1]
    assert wiki.inode() == before[2]
    assert "wiki" not in world.run("show", "wiki", "-c", "Adopted").out
    world.run("stop", "wiki")
    world.run("start", "wiki")
    assert world.statuses() == {"wiki": "ACTIVE"}

    assert untouched == (other.virsh("dumpxml"), other.process(), other.tap())
    undefine(other)
    world.check_at_rest()
    world.run("delete", "--yes", "wiki")
    world.run("image-delete", "wiki-as-it-was")
    assert "wiki" not in world.inside("host1", "virsh", "-q", "list", "--all", "--name")
    assert set(world.inside("host1", "ls", IMAGES).split()) == files
    assert pools == world.inside("host1", "virsh", "-q", "pool-list", "--all")
    world.check_at_rest()


def test_what_cannot_be_adopted_is_refused_with_every_reason(world: Fleet) -> None:
    bad = define(world, "bad", "52:54:00:00:00:03")
    bad.virsh("snapshot-create-as", "--name", "before")
    before = bad.virsh("dumpxml"), bad.process(), members(world)
    said = world.run("adopt", "host1", "bad", "--dry-run", exit=4).err
    assert "it has 1 snapshots" in said
    assert "it holds internal snapshots" in said
    bad.virsh("snapshot-delete", "--snapshotname", "before")
    refused = world.run("adopt", "host1", "bad", "--network", "faults", exit=4).err
    assert "Which address of network faults the guest has" in refused
    world.run("adopt", "host1", "nosuch", exit=30)
    assert before == (bad.virsh("dumpxml"), bad.process(), members(world))
    undefine(bad)
    world.check_at_rest()


def test_a_domain_that_is_off_is_adopted_and_stays_off(world: Fleet) -> None:
    off = define(world, "off", "52:54:00:00:00:04")
    off.virsh("destroy")
    world.run("adopt", "host1", "off", "--network", "faults", "--fixed-ip", "10.77.0.51")
    assert world.statuses() == {"off": "SHUTOFF"}
    assert off.virsh("domstate").strip() == "shut off"
    world.check_at_rest()
    world.run("start", "off")
    assert world.statuses() == {"off": "ACTIVE"}
    world.run("delete", "--yes", "off")
    world.check_at_rest()


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_a_domain_is_adopted_or_untouched_though_the_controller_dies(
    world: Fleet, stride: int
) -> None:
    kept = define(world, "kept", "52:54:00:00:00:05")
    process, tap = kept.process(), kept.tap()
    for at in range(1, MAX_POINTS, stride):
        done = world.run(
            *("adopt", "host1", "kept", "--network", "faults", "--fixed-ip", "10.77.0.52"),
            exit=None,
            STACKCTL_KILL_AT=str(at),
        )
        assert done.exit in (KILLED, 0), str(done)
        world.run("recover")
        assert kept.process() == process
        if world.statuses():
            assert world.statuses() == {"kept": "ACTIVE"}
            assert members(world) == []
            world.run("delete", "--yes", "kept")
            world.check_at_rest()
            if done.exit == 0:
                assert at > 1
                return
            kept = define(world, "kept", "52:54:00:00:00:05")
            process, tap = kept.process(), kept.tap()
        else:
            assert members(world) == [tap]
    raise AssertionError("the points never end")


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_domain_is_adopted_though_agents_die_at_any_point(world: Fleet, stride: int) -> None:
    for at in range(1, MAX_POINTS, stride):
        kept = define(world, "kept", "52:54:00:00:00:06")
        process = kept.process()
        logins = world.logins("host1")
        adopt(kept, "--fixed-ip", "10.77.0.53", STACKCTL_AGENT_KILL_AT=str(at))
        dead = world.logins("host1") - logins
        assert kept.process() == process
        assert world.statuses() == {"kept": "ACTIVE"}
        assert members(world) == []
        world.check_at_rest()
        world.run("delete", "--yes", "kept")
        if dead == 2:
            assert at > 8
            return
    raise AssertionError("the points never end")


@pytest.mark.slow
def test_an_adopted_guest_answers_at_its_address(
    world: Fleet, guest_image: Path, shell: Callable[..., Shell]
) -> None:
    path = f"{IMAGES}/real.qcow2"
    shell("host1").put(guest_image, path)
    mac = "52:54:00:00:00:07"
    xml = XML.format(
        name="real", mac=mac, path=path, format="qcow2", bridge=BRIDGE, port="", more=""
    ).replace(">64<", ">128<")
    world.inside("host1", "virsh", "-q", "define", "/dev/stdin", text=xml)
    world.inside("host1", "virsh", "-q", "start", "real")
    real = Foreign(world, "real", path)
    process = real.process()
    adopt(real, "--fixed-ip", "10.77.0.54")
    eventually(lambda: world.answers("host1", "10.77.0.54"), "an answer", seconds=120)
    assert real.process() == process
    world.run("reboot", "real")
    eventually(lambda: world.answers("host1", "10.77.0.54"), "an answer again", seconds=120)
    world.run("delete", "--yes", "real")
    world.check_at_rest()


@pytest.mark.slow
def test_an_adopted_server_gets_other_disks_like_any_other(world: Fleet) -> None:
    world.run("flavor-create", "larger", "--ram", "128", "--disk", "2", "--vcpus", "1")
    size = define(world, "size", "52:54:00:00:00:08")
    adopt(size, "--fixed-ip", "10.77.0.55")
    world.run("resize", "size", "larger")
    assert world.statuses() == {"size": "VERIFY_RESIZE"}
    world.run("resize-revert", "size")
    assert size.has_open(size.inode())
    world.run("resize", "size", "larger")
    world.run("resize-confirm", "size")
    assert "size.qcow2" not in world.inside("host1", "ls", IMAGES)
    world.check_at_rest()
    world.run("rebuild", "size", exit=4)
    world.run("rebuild", "size", "tiny", "--yes")
    assert world.statuses() == {"size": "ACTIVE"}
    world.check_at_rest()
    world.run("delete", "--yes", "size")
    world.run("flavor-delete", "larger")
    world.check_at_rest()
