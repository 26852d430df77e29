"""Taking over domains over a libvirt made for the test: what is looked at, done, and undone."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from agent import adopting, layout
from agent.faults import StepFailed
from agent.resources import adoption, disk, domain, nic, port, stray, switch
from agent.resources.base import Host
from agent.resources.domain_inputs import Platform
from agent.resources.domain_xml import NicInput, describe
from agent.spec import Disk, Network, Port, Power, Tombstone
from agent.system import libvirt_conn, libvirt_foreign, links, ovs, taps
from agent.system.libvirt_conn import DomainView, LibvirtError
from agent.system.libvirt_foreign import Whole
from tests.unit.test_agent_domain import SERVER, SPEC
from tests.unit.test_agent_foreign import DISK, NIC
from tests.unit.test_agent_foreign import domain as xml_of

MAC = "52:54:00:aa:bb:01"
ADDRESSES = ("10.0.0.9",)
OURS = "tapport-1"
DATA_FILE = b"\x44\x41\x54\x41"


def qcow2(path: Path, *, backing: str = "", extension: bytes = b"") -> None:
    """The header of a disk of 1 GiB."""
    name = backing.encode()
    offset = 512 if name else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, offset, len(name), 16, 1 << 30, 0, 2, 1 << 16, 2 << 16, 1, 0, 0),
        *(0, 0, 0, 4, 104),
    )
    more = extension + struct.pack(">II", 0, 5) + b"\0" * 8 if extension else b""
    content = (head + more).ljust(512, b"\0") + name
    path.write_bytes(content.ljust(5 << 16, b"\0"))


class Libvirt:
    """One domain that somebody made, which can become ours."""

    def __init__(self, xml: str, process: int) -> None:
        self.live = self.config = xml
        self.process = process
        self.state = "RUNNING"
        self.autostart = True
        self.refuses = ""
        self.marking_fails = ""
        self.snapshots = 0
        self.others: tuple[DomainView, ...] = ()

    def view(self, xml: str) -> DomainView:
        return DomainView(SERVER.id, "wiki", self.state, xml)

    def whole(self, word):
        if word not in ("wiki", SERVER.id):
            return None
        pid = self.process if self.state == "RUNNING" else None
        addresses = {MAC: ADDRESSES}
        view = self.view(self.config)
        return Whole(
            view, self.live, pid, self.autostart, self.snapshots, 0, False, addresses, self.others
        )

    def observe_one(self, domain_id):
        return self.view(self.config)

    def observe(self, wanted):
        return {SERVER.id: self.view(self.config)} if SERVER.id in wanted else {}

    def running(self, wanted):
        return {SERVER.id: self.view(self.live)} if self.state == "RUNNING" else {}

    def define(self, xml):
        if self.refuses:
            raise LibvirtError(self.refuses)
        self.config = xml

    def set_live_metadata(self, domain_id, element, key, uri):
        if self.marking_fails:
            raise LibvirtError(self.marking_fails)
        mark = element.replace("<server", f'<s:server xmlns:s="{uri}"')
        self.live = self.live.replace("<memory ", f"<metadata>{mark}</metadata><memory ", 1)

    def no_autostart(self, domain_id):
        self.autostart = False

    def autostarts(self, domain_id):
        return self.autostart


@pytest.fixture
def image(tmp_path):
    """The disk of the domain, where somebody put it."""
    path = tmp_path / "images" / "wiki.qcow2"
    path.parent.mkdir()
    qcow2(path)
    return path


@pytest.fixture
def host(tmp_path):
    """A host with a data folder of its own."""
    return Host(tmp_path / "data", "boot", None, lambda _: b"")


@pytest.fixture
def libvirt(monkeypatch, image):
    """The domain on that disk; it runs with the tap vnet3."""
    file = DISK.replace("/images/wiki.qcow2", str(image))
    made = Libvirt(xml_of(file + NIC.replace("AA", "aa")), 4711)
    for name in ("observe_one", "observe", "running", "define"):
        monkeypatch.setattr(libvirt_conn, name, getattr(made, name))
    for name in ("whole", "set_live_metadata", "no_autostart", "autostarts"):
        monkeypatch.setattr(libvirt_foreign, name, getattr(made, name))
    monkeypatch.setattr(libvirt_foreign, "names", lambda: ["wiki"])
    monkeypatch.setattr(libvirt_foreign, "pid", lambda name: 4711)
    monkeypatch.setattr(ovs, "observe", ovs.Switch)
    monkeypatch.setattr(taps, "held_by", lambda pid: {"vnet3": 9} if pid == 4711 else {})
    monkeypatch.setattr(taps, "can_be_kept", lambda pid, descriptor: "")
    monkeypatch.setattr(
        links, "look", lambda name: links.Link(name, 1500, True, "", True, "br0", True)
    )
    monkeypatch.setattr(links, "mac", lambda name: f"fe{MAC[2:]}")
    monkeypatch.setattr(Platform, "virt_type", "qemu")
    monkeypatch.setattr(Platform, "offload", True)
    return made


def spec_of(image: Path):
    """What the controller wants of it."""
    found = Disk("disk-1", 1, SERVER.id, "root", "qcow2", 1 << 30, False, adopts=str(image))
    server = replace(
        SERVER,
        power=Power(1, "start"),
        disks=("disk-1",),
        ports=("port-1",),
        machine_type="pc-i440fx-7.2",
        adopts=True,
        kernel=None,
        volumes=(),
    )
    network = Network("net-1", 1, "flat", "office", None, 1, 1500, True, "cloud.")
    return replace(
        SPEC,
        servers=(server,),
        disks=(found,),
        networks=(network,),
        ports=(Port("port-1", 1, "net-1", SERVER.id, MAC, (), "wiki"),),
        images=(),
        tombstones=(),
    )


def steps(host, spec):
    return list(adoption.KIND.changes(host, spec))


# --- looking ------------------------------------------------------------------------------------


def test_a_domain_is_told_with_all_that_is_around_it(libvirt, host, image):
    found = adopting.look(host.data, "wiki")
    assert found.refused == ()
    assert found.disks == (adopting.Disk(str(image), "qcow2", "vda", 1 << 30),)
    assert found.nics == (adopting.Nic(MAC, "vnet3", "br0", None, ADDRESSES),)


def test_a_guest_that_is_off_is_in_the_vlan_that_its_definition_says(libvirt, host):
    tagged = "<virtualport type='openvswitch'/><vlan><tag id='101'/></vlan><model"
    libvirt.state, off = "SHUTDOWN", libvirt.live.replace("<target dev='vnet3'/>", "")
    libvirt.live = libvirt.config = off.replace("<model", tagged)
    assert adopting.look(host.data, "wiki").nics == (adopting.Nic(MAC, "", "br0", 101, ADDRESSES),)


def test_the_switch_knows_better_in_which_vlan_a_tap_is(libvirt, host, monkeypatch):
    port = ovs.Port("vnet3", "ovsbr0", 7, "", (), {}, ())
    monkeypatch.setattr(ovs, "observe", lambda: ovs.Switch({}, {"vnet3": port}))
    libvirt.live = libvirt.live.replace("<model", "<vlan><tag id='101'/></vlan><model")
    (nic,) = adopting.look(host.data, "wiki").nics
    assert (nic.bridge, nic.tag) == ("ovsbr0", 7)


def test_a_domain_that_is_not_there_is_named_with_those_that_are(libvirt, host):
    with pytest.raises(StepFailed, match="no domain 'nosuch'; it has wiki"):
        adopting.look(host.data, "nosuch")


def refused(host) -> str:
    return "; ".join(adopting.look(host.data, "wiki").refused)


def test_what_its_header_says_against_a_disk_is_told(libvirt, host, image):
    qcow2(image, backing="/base.qcow2")
    assert "virsh blockpull wiki vda --wait" in refused(host)
    qcow2(image, extension=DATA_FILE)
    assert "names an external data file" in refused(host)
    image.write_bytes(b"\0" * 512)
    assert "it is not qcow2" in refused(host)
    image.unlink()
    assert "No such file" in refused(host)


def test_a_disk_under_another_name_or_of_another_domain_is_refused(libvirt, host, image):
    libvirt.others = (DomainView("other", "copy", "RUNNING", libvirt.live),)
    assert "it is a disk of domain copy, too" in refused(host)
    libvirt.others = ()
    image.rename(image.with_name("real"))
    image.symlink_to("real")
    assert "it is no regular file" in refused(host)


def test_a_disk_in_our_own_folder_is_refused(libvirt, host, image):
    ours = layout.disks(host.data) / "x.qcow2"
    ours.parent.mkdir(parents=True)
    qcow2(ours)
    libvirt.live = libvirt.config = libvirt.live.replace(str(image), str(ours))
    assert "stackctl's own folder" in refused(host)


def test_what_libvirt_is_still_at_is_refused(libvirt, host, monkeypatch):
    libvirt.snapshots, libvirt.state = 2, libvirt_conn.SAVED
    words = refused(host)
    assert "it has 2 snapshots" in words
    assert "its memory is saved on disk" in words


def test_a_tap_that_cannot_outlive_its_guest_is_refused(libvirt, host, monkeypatch):
    monkeypatch.setattr(taps, "can_be_kept", lambda pid, descriptor: "Operation not permitted")
    assert "its tap vnet3 would go with the process of its guest" in refused(host)
    monkeypatch.setattr(taps, "held_by", lambda pid: {})
    assert f"the tap of NIC {MAC} cannot be found" in refused(host)
    libvirt.process = None
    assert "the process of its guest cannot be found" in refused(host)


# --- taking over --------------------------------------------------------------------------------


def test_a_domain_becomes_ours_by_its_definition_alone(libvirt, host, image):
    spec = spec_of(image)
    (step,) = steps(host, spec)
    assert (step.kind, step.id, step.result) == ("domain", SERVER.id, "changed")
    facts = step.apply()
    assert (facts["as_adopted"], facts["power_state"]) == (True, "RUNNING")
    described = describe(libvirt.config)
    assert described.mark.server_id == SERVER.id
    assert str(image) in described.essentials
    assert "<name>wiki</name>" in libvirt.config
    assert describe(libvirt.live).mark.digest == ""
    assert not libvirt.autostart
    link = layout.disk(host.data, "disk-1", "qcow2")
    assert link.readlink() == image
    assert steps(host, spec) == []
    (after,) = domain.KIND.changes(host, spec)
    assert (after.result, after.facts["as_adopted"]) == ("unchanged", True)


def test_an_adopted_guest_is_known_though_something_was_removed_beside_it(libvirt, host, image):
    spec = spec_of(image)
    steps(host, spec)[0].apply()
    host.seen.pop(nic.RUNNING)
    (after,) = domain.KIND.changes(host, spec)
    assert after.facts["as_adopted"] is True
    host.seen.pop(nic.RUNNING)
    assert steps(host, spec) == []
    assert stray.strays(host, spec) == {OURS: stray.Stray("vnet3", MAC, 4711, 9)}


def test_what_libvirt_refuses_leaves_no_trace(libvirt, host, image):
    before = libvirt.live, libvirt.config
    libvirt.refuses = "unsupported configuration"
    (step,) = steps(host, spec_of(image))
    with pytest.raises(LibvirtError):
        step.apply()
    assert (libvirt.live, libvirt.config, libvirt.autostart) == (*before, True)
    assert list(layout.disks(host.data).iterdir()) == []
    assert list(domain.KIND.changes(host, spec_of(image))) == []


def test_what_an_agent_that_died_did_not_come_to_is_done_later(libvirt, host, image):
    libvirt.marking_fails = "libvirtd went away"
    (step,) = steps(host, spec_of(image))
    with pytest.raises(LibvirtError):
        step.apply()
    libvirt.marking_fails = ""
    (step,) = steps(host, spec_of(image))
    assert "not wholly" in step.why
    step.apply()
    assert describe(libvirt.live).mark.digest == ""
    assert steps(host, spec_of(image)) == []


def test_another_domain_than_was_agreed_is_not_taken_over(libvirt, host, image):
    spec = spec_of(image)
    other = replace(spec, disks=(replace(spec.disks[0], adopts="/other"),))
    (step,) = steps(host, other)
    assert step.apply is None
    assert "has the disks" in step.fault.message
    (step,) = steps(host, replace(spec, ports=(replace(spec.ports[0], mac="52:54:00:00:00:99"),)))
    assert "has the NICs" in step.fault.message
    libvirt.snapshots = 1
    (step,) = steps(host, spec)
    assert "cannot be taken over: it has 1 snapshots" in step.fault.message


def test_without_the_word_of_the_spec_nothing_is_touched(libvirt, host, image):
    spec = spec_of(image)
    silent = replace(spec, servers=(replace(spec.servers[0], adopts=False),))
    assert steps(host, silent) == []
    (step,) = domain.KIND.changes(host, silent)
    assert "not ours" in step.fault.message


# --- disks --------------------------------------------------------------------------------------


def test_a_link_without_a_row_goes_and_what_it_names_stays(libvirt, host, image):
    steps(host, spec_of(image))[0].apply()
    none = replace(spec_of(image), servers=(), disks=(), ports=())
    (step,) = disk.KIND.changes(host, none)
    assert step.result == "removed"
    step.apply()
    assert image.exists()
    assert list(layout.disks(host.data).iterdir()) == []


def test_a_tombstone_takes_the_disk_where_it_lies(libvirt, host, image):
    steps(host, spec_of(image))[0].apply()
    grave = replace(
        spec_of(image), servers=(), disks=(), tombstones=(Tombstone("disk", "disk-1", 0),)
    )
    (step,) = disk.KIND.removals(host, grave)
    step.apply()
    assert not image.exists()
    assert list(layout.disks(host.data).iterdir()) == []


def test_a_disk_that_a_guest_has_is_not_removed(libvirt, host, image):
    spec = spec_of(image)
    steps(host, spec)[0].apply()
    graves = [Tombstone("disk", "disk-1", 0)]
    assert disk.still_used(host, spec, graves) == {"disk-1"}


def test_an_adopted_disk_that_is_gone_is_missing(libvirt, host, image):
    steps(host, spec_of(image))[0].apply()
    image.unlink()
    spec = spec_of(image)
    adopted = replace(spec, disks=(replace(spec.disks[0], adopts=None),))
    (step,) = disk.KIND.changes(host, adopted)
    assert "is missing" in step.fault.message


# --- taps ---------------------------------------------------------------------------------------


def test_a_guest_on_another_tap_is_told_from_one_on_ours(libvirt, host, image, monkeypatch):
    spec = spec_of(image)
    assert stray.strays(host, spec) == {}
    steps(host, spec)[0].apply()
    assert stray.strays(host, spec) == {OURS: stray.Stray("vnet3", MAC, 4711, 9)}
    monkeypatch.setattr(taps, "held_by", lambda pid: {OURS: 9})
    assert stray.strays(host, spec) == {}
    monkeypatch.setattr(switch, "devices", lambda host: {})
    monkeypatch.setattr(switch, "look", lambda host: ovs.Switch())
    (guest,) = nic._guests(host, spec)
    assert guest.found == (NicInput(MAC, OURS, 0),)
    assert [step.result for step in nic.KIND.changes(host, spec)] == ["unchanged"]
    assert list(nic.KIND.removals(host, spec)) == []


def test_a_tap_that_was_taken_over_is_not_made_anew_by_the_next_try(monkeypatch):
    done, there = [], {"vnet3"}
    monkeypatch.setattr(taps, "keep", lambda pid, descriptor: done.append("keep"))
    monkeypatch.setattr(links, "exists", there.__contains__)
    monkeypatch.setattr(links, "delete", lambda name: done.append(f"delete {name}"))
    monkeypatch.setattr(links, "take_over", lambda *words: done.append(" ".join(words)))
    port._take_over(OURS, stray.Stray("vnet3", MAC, 4711, 9))
    assert done == ["keep", f"delete {OURS}", f"vnet3 {OURS} fe{MAC[2:]}"]
    there.clear()
    port._take_over(OURS, stray.Stray("vnet3", MAC, 4711, 9))
    assert len(done) == 3


def test_a_process_says_which_taps_it_holds(tmp_path):
    assert taps.held_by(os.getpid()) == {}
    assert taps.held_by(2**22 + 1) == {}
    with (tmp_path / "file").open("w") as file:
        assert taps.can_be_kept(os.getpid(), file.fileno()) == ""
    assert taps.can_be_kept(os.getpid(), 999999) != ""
