"""Domains made by hand with virsh become servers: same process, same disk, then a life of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.engines import Shell, eventually
from tests.fleet import Fleet
from tests.system.test_interfaces import RELEASING_GUEST

IMAGES = "/var/lib/libvirt/images"
BRIDGE = "virbr9"
SWITCH = "ovsbr9"
HELD_TAP = Path(__file__).with_name("held_tap.py").read_text()
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

SECOND = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{path}'/>
      <target dev='sdb' bus='{bus}'/>
    </disk>
    <controller type='scsi' model='virtio-scsi'/>
    <interface type='bridge'>
      <mac address='{mac}'/><source bridge='br-eth1'/>
      <virtualport type='openvswitch'/><vlan><tag id='{vlan}'/></vlan><model type='virtio'/>
    </interface>
"""
"""A disk and a NIC more."""


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

    def inode(self, path: str = "") -> str:
        """The inode of its disk."""
        return self.fleet.inside("host1", "stat", "-c", "%i", path or self.path).strip()

    def disks(self) -> list[tuple[str, str]]:
        """The files and buses of its disks as it runs."""
        disks = ElementTree.fromstring(self.virsh("dumpxml")).findall("devices/disk")
        found = [(disk.find("source"), disk.find("target"), disk) for disk in disks]
        return [
            (source.get("file", ""), target.get("bus", ""))
            for source, target, disk in found
            if source is not None and target is not None and disk.get("device") == "disk"
        ]

    def tap(self) -> str:
        """The tap that libvirt made for it."""
        return self.virsh("domiflist").split()[0]

    def answered(self, mac: str, of: str, *addresses: str) -> list[str]:
        """With which addresses its NIC is answered when it asks who has another one."""
        port = self.fleet.rows("SELECT id FROM ports WHERE mac = ? AND deleted_at IS NULL", mac)
        words = (self.process().split()[0], f"tap{port[0]['id'][:11]}", mac, of, *addresses)
        python = ("/usr/bin/python3", "-I", "-c", HELD_TAP)
        return self.fleet.inside("host1", *python, *words).split()


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
    path = make_disk(fleet, name, disk)
    xml = XML.format(
        name=name, mac=mac, path=path, format="qcow2", bridge=BRIDGE, port="", more=more
    )
    made = defined(fleet, name, path, xml)
    made.virsh("start")
    return made


def make_disk(fleet: Fleet, name: str, disk: bytes) -> str:
    """Where a new disk with this content is."""
    path = f"{IMAGES}/{name}.qcow2"
    script = "import sys; open(sys.argv[1], 'wb').write(bytes.fromhex(sys.stdin.read()))"
    python = ("/usr/bin/python3", "-c", script)
    fleet.inside("host1", *python, f"{path}.raw", text=disk.ljust(1024 * 1024, b"\0").hex())
    fleet.inside("host1", "qemu-img", "convert", "-f", "raw", "-O", "qcow2", f"{path}.raw", path)
    fleet.inside("host1", "rm", f"{path}.raw")
    return path


def defined(fleet: Fleet, name: str, path: str, xml: str) -> Foreign:
    """A domain of this definition."""
    fleet.inside("host1", "virsh", "-q", "define", "/dev/stdin", text=xml)
    return Foreign(fleet, name, path)


def undefine(foreign: Foreign) -> None:
    """The end of a domain that nobody adopted."""
    foreign.virsh("destroy", check=False)
    foreign.virsh("undefine")
    foreign.fleet.inside("host1", "rm", foreign.path)


def members(fleet: Fleet) -> list[str]:
    """The devices in the bridge that is none of ours."""
    return fleet.inside("host1", "ls", f"/sys/class/net/{BRIDGE}/brif").split()


def ports(fleet: Fleet, bridge: str) -> list[str]:
    """The ports of a bridge of Open vSwitch."""
    return sorted(fleet.inside("host1", "ovs-vsctl", "list-ports", bridge).split())


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

    world.run("interface-attach", "wiki", "--net", "faults", "--fixed-ip", "10.77.0.49")
    assert len(wiki.virsh("domiflist").splitlines()) == 2
    world.run("interface-detach", "wiki", "10.77.0.49")
    assert "video vga" in world.run("show", "wiki", "-c", "Adopted").out
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


def check_network(foreign: Foreign, mac: str, own: str, other: str) -> None:
    """A NIC reaches somebody, with its own address only."""
    asked = (f"{own.rpartition('.')[0]}.99", own)
    eventually(lambda: foreign.answered(mac, other, *asked) == [own], f"an answer of {other}")


@pytest.fixture
def office(world: Fleet) -> Iterator[str]:
    """The VLAN that leads to the lab's internet is a network, and host1 has a switch that is none
    of ours."""
    vlan = str(world.lab_internet().provider_vlan)
    kind = world.inside("host1", "ovs-vsctl", "get", "Bridge", "br-int", "datapath_type").strip()
    like = ("--", "set", "Bridge", SWITCH, f"datapath_type={kind}")
    world.inside("host1", "ovs-vsctl", "add-br", SWITCH, *like)
    words = ("--physical-network", "provider", "--segmentation-id", vlan)
    world.run("net-create", "office", "--type", "vlan", *words, "--subnet", "10.1.0.0/24")
    yield vlan
    world.delete_all()
    world.run("net-delete", "office")
    world.inside("host1", "ovs-vsctl", "del-br", SWITCH)
    world.check_at_rest()


@pytest.mark.parametrize("bus", ["scsi", pytest.param("sata", marks=pytest.mark.slow)])
def test_nics_of_two_switches_and_disks_of_any_bus_are_taken_over(
    world: Fleet, office: str, bus: str
) -> None:
    data = f"{IMAGES}/twofold-data.raw"
    world.inside("host1", "truncate", "-s", "1M", data)
    macs = ("52:54:00:00:00:09", "52:54:00:00:00:0a")
    path = make_disk(world, "twofold", RELEASING_GUEST)
    xml = XML.replace("dev='vda' bus='virtio'", f"dev='sda' bus='{bus}'").format(
        name="twofold",
        mac=macs[0],
        path=path,
        format="qcow2",
        bridge=SWITCH,
        port="<virtualport type='openvswitch'/>",
        more=SECOND.format(path=data, bus=bus, mac=macs[1], vlan=office),
    )
    wire = ports(world, "br-eth1")
    words = ("--fixed-ip", "10.77.0.56", "--fixed-ip", "10.1.0.56")
    twofold = defined(world, "twofold", path, xml)
    said = adopt(twofold, *words, "--dry-run")
    assert "(br-eth1) to network office with 10.1.0.56" in said
    twofold.virsh("start")
    before = twofold.process(), twofold.inode(), twofold.inode(data)
    untouched = twofold.virsh("dumpxml"), ports(world, SWITCH), ports(world, "br-eth1")

    said = adopt(twofold, *words, "--dry-run")
    assert f"on {SWITCH}) to network faults with 10.77.0.56" in said
    assert "on br-eth1) to network office with 10.1.0.56" in said
    assert f"sdb {data} (raw, 1048576 bytes)" in said
    now = twofold.virsh("dumpxml"), ports(world, SWITCH), ports(world, "br-eth1")
    assert untouched == now

    adopt(twofold, *words)
    assert before == (twofold.process(), twofold.inode(), twofold.inode(data))
    assert (ports(world, SWITCH), ports(world, "br-eth1")) == ([], wire)
    (dhcp,) = world.rows(
        "SELECT address FROM addresses JOIN networks ON networks.id = network_id "
        "WHERE kind = 'dhcp' AND networks.name = 'faults' AND released_serial IS NULL"
    )
    asked = ((macs[0], "10.77.0.56", dhcp["address"]), (macs[1], "10.1.0.56", "10.1.0.1"))
    for nic in asked:
        check_network(twofold, *nic)
    world.check_at_rest()

    world.run("stop", "twofold")
    world.run("start", "twofold")
    assert twofold.process() != before[0]
    assert twofold.disks() == [(path, bus), (data, bus)]
    assert twofold.has_open(before[1])
    assert twofold.has_open(before[2])
    for nic in asked:
        check_network(twofold, *nic)
    world.run("delete", "--yes", "twofold")
    assert "twofold" not in world.inside("host1", "ls", IMAGES)
    assert (ports(world, SWITCH), ports(world, "br-eth1")) == ([], wire)
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
