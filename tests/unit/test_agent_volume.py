"""Volumes on a host: built once, grown, removed by tombstone; plugged into guests and released."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from agent import inspection, layout, purge, store
from agent.faults import StepFailed
from agent.resources import attachment, domain, domain_inputs, volume, volume_copy
from agent.resources.base import Host
from agent.resources.domain_xml import (
    UnsafeText,
    VolumeInput,
    compile_domain,
    describe,
    input_digest,
    volume_xml,
)
from agent.spec import Attachment, Tombstone, Volume
from agent.system import files, libvirt_conn
from agent.system.libvirt_conn import LibvirtError
from tests.running_domains import RunningDomains
from tests.unit.test_agent_domain import INPUT, MARK, SERVER, SPEC, existing

ID, OTHER = (f"{digit * 8}-2222-4222-8222-222222222222" for digit in "23")
MIB = 1 << 20
DATA = Volume(ID, 3, "qcow2", 4 * MIB, True)
FREE = replace(SPEC, volumes=(DATA,), servers=())
HAVING = replace(
    SPEC, volumes=(DATA,), servers=(replace(SERVER, volumes=(Attachment(ID, "vdb"),)),)
)
LACKING = replace(SPEC, volumes=(DATA,))


class Libvirt(RunningDomains):
    """One whose guests may have an agent, and whose disks grow."""

    def __init__(self) -> None:
        super().__init__("disk")
        self.agent = False
        self.resized: list[tuple[str, str, int]] = []

    def resize_disk(self, domain_id, path, size_bytes):
        self.resized.append((domain_id, path, size_bytes))

    def live_xml(self, domain_id):
        xml, word = self.domains[domain_id].xml, "connected" if self.agent else "disconnected"
        name = 'name="org.qemu.guest_agent.0"'
        assert name in xml
        return xml.replace(name, f'{name} state="{word}"')

    def volumes(self) -> list[str]:
        return [each.serial for each in describe(self.domains[SERVER.id].xml).volumes]


@pytest.fixture
def libvirt(monkeypatch):
    made = Libvirt()
    made.replaces(monkeypatch, "resize_disk", "live_xml")
    return made


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path, "boot", "boot", lambda sha256: b"")


def built(host, spec=FREE):
    """The host with the volume of a spec."""
    (step,) = volume.KIND.changes(host, spec)
    step.apply()
    return layout.volume(host.data, ID, "qcow2")


def steps(look, host, spec):
    return [step for step in look(host, spec) if step.apply is not None]


# --- files --------------------------------------------------------------------------------------


def test_a_volume_is_built_once(host, libvirt):
    (step,) = volume.KIND.changes(host, FREE)
    assert (step.id, step.result, step.version) == (ID, "made", 3)
    assert step.apply() == {"used_by": []}
    path = layout.volume(host.data, ID, "qcow2")
    assert inspection.virtual_size_bytes(path, "qcow2") == 4 * MIB
    assert path.stat().st_mode & 0o777 == 0o600
    (step,) = volume.KIND.changes(host, FREE)
    assert (step.result, step.apply, step.facts) == ("unchanged", None, {"used_by": []})
    path.unlink()
    (step,) = volume.KIND.changes(host, replace(FREE, volumes=(replace(DATA, build=False),)))
    assert (step.result, step.fault.message) == ("failed", f"volume {ID} is missing")


def test_a_volume_grows_and_never_shrinks(host, libvirt):
    path = built(host)
    (step,) = volume.KIND.changes(host, with_size(8 * MIB))
    assert (step.result, step.why) == ("changed", f"has {4 * MIB} bytes, should have {8 * MIB}")
    step.apply()
    assert inspection.virtual_size_bytes(path, "qcow2") == 8 * MIB
    assert steps(volume.KIND.changes, host, with_size(MIB)) == []


def with_size(size_bytes, spec=FREE):
    return replace(spec, volumes=(replace(DATA, size_bytes=size_bytes),))


def test_a_guest_that_has_it_makes_it_grow(host, libvirt):
    built(host)
    libvirt.run(existing(host, HAVING))
    (step,) = volume.KIND.changes(host, with_size(8 * MIB, HAVING))
    assert step.apply() == {"used_by": [SERVER.id]}
    assert libvirt.resized == [(SERVER.id, "vdb", 8 * MIB)]


@pytest.mark.parametrize("image", ["failed", "absent"])
def test_an_image_that_is_not_there_keeps_it_from_being_built(host, libvirt, image):
    spec = replace(FREE, volumes=(replace(DATA, image_id="image-1"),))
    if image == "failed":
        host.failed.add(("image", "image-1"))
        (step,) = volume.KIND.changes(host, spec)
        assert (step.fault.message, step.apply) == ("not tried: image image-1 failed", None)
        return
    (step,) = volume.KIND.changes(host, spec)
    with pytest.raises(StepFailed, match="not in the cache"):
        step.apply()
    assert not layout.volumes(host.data).exists()


def test_an_unknown_file_is_left_alone_and_told(host, libvirt):
    path = built(host)
    (step,) = volume.KIND.changes(host, replace(FREE, volumes=()))
    assert (step.id, step.result, step.apply) == (ID, "orphan", None)
    assert path.exists()


def test_a_tombstone_removes_it_but_not_while_a_guest_has_it(host, libvirt):
    path = built(host)
    grave = Tombstone("volume", ID, 0)
    assert list(volume.KIND.removals(host, replace(FREE, tombstones=(grave,)))) == []
    gone = replace(FREE, volumes=(), tombstones=(grave, Tombstone("domain", SERVER.id, 0)))
    libvirt.run(existing(host, HAVING))
    (step,) = volume.KIND.removals(host, gone)
    assert (step.result, step.apply) == ("failed", None)
    assert step.fault.message == f"not tried: {SERVER.id} has it"
    libvirt.domains.clear()
    host.seen.clear()
    (step,) = volume.KIND.removals(host, gone)
    step.apply()
    assert not path.exists()
    (step,) = volume.KIND.removals(host, gone)
    assert (step.result, step.why, step.apply) == ("removed", "already absent", None)


def test_a_host_that_leaves_gives_its_volumes_up(host, libvirt, monkeypatch):
    built(host)
    monkeypatch.setattr(libvirt_conn, "observe", lambda wanted: {})
    found = list(purge._tombstones(store.Store(host.data), "cloud"))
    assert found == [Tombstone("volume", ID, 0)]


# --- copies -------------------------------------------------------------------------------------

COPY = Volume(OTHER, 1, "qcow2", 6 * MIB, True, source_id=ID)
COPYING = replace(FREE, volumes=(replace(DATA, build=False), COPY))


def copying(host, spec=COPYING):
    return next(step for step in volume.KIND.changes(host, spec) if step.id == OTHER)


def test_a_copy_at_rest_has_the_content_and_its_own_size(host, libvirt):
    path = built(host)
    qemu_io(path, "write -P 7 0 65536")
    facts = copying(host).apply()
    assert (facts["used_by"], facts["consistency"]) == ([], "at-rest")
    copy = layout.volume(host.data, OTHER, "qcow2")
    qemu_io(copy, "read -P 7 0 65536")
    assert inspection.virtual_size_bytes(copy, "qcow2") == 6 * MIB
    assert inspection.backing_file(copy) is None


def qemu_io(path, command):
    argv = ["qemu-io", "-f", "qcow2", "-c", command, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "failed" not in done.stdout, done.stdout


@pytest.mark.parametrize("agent", [True, False])
def test_a_copy_of_what_a_guest_has_is_made_by_its_qemu(host, libvirt, monkeypatch, agent):
    source = built(host)
    spec = replace(HAVING, volumes=COPYING.volumes)
    libvirt.run(existing(host, HAVING))
    said = []

    def begin(domain_id, xml):
        root = ElementTree.fromstring(xml)
        disk = root.find("disks/disk")
        said.append(("begin", disk.get("name")))
        target = disk.find("target").get("file")
        subprocess.run(["cp", str(source), target], check=True)

    monkeypatch.setattr(libvirt_conn, "backup_begin", begin)
    libvirt.agent = agent
    monkeypatch.setattr(libvirt_conn, "freeze", lambda id_: said.append("freeze") or True)
    monkeypatch.setattr(libvirt_conn, "thaw", lambda id_: said.append("thaw"))
    monkeypatch.setattr(libvirt_conn, "backup_ended", lambda id_: "")
    facts = copying(host, spec).apply()
    assert facts["consistency"] == ("quiesced" if agent else "crash-consistent")
    begun = ("begin", "vdb")
    assert said == (["freeze", begun, "thaw"] if agent else [begun])
    assert layout.volume(host.data, OTHER, "qcow2").exists()


def test_a_guest_whose_copy_cannot_begin_is_thawed_and_nothing_stays(host, libvirt, monkeypatch):
    built(host)
    libvirt.run(existing(host, HAVING))
    thawed, libvirt.agent = [], True

    def begin(domain_id, xml):
        raise LibvirtError("no space")

    monkeypatch.setattr(libvirt_conn, "backup_begin", begin)
    monkeypatch.setattr(libvirt_conn, "freeze", lambda id_: True)
    monkeypatch.setattr(libvirt_conn, "thaw", thawed.append)
    step = copying(host, replace(HAVING, volumes=COPYING.volumes))
    with pytest.raises(LibvirtError, match="no space"):
        step.apply()
    assert thawed == [SERVER.id]
    assert len(list(layout.volumes(host.data).iterdir())) == 1


def test_a_copy_of_a_volume_that_fails_is_broken_off_and_nothing_stays(host, libvirt, monkeypatch):
    built(host)
    libvirt.run(existing(host, HAVING))
    aborted = []
    monkeypatch.setattr(libvirt_conn, "backup_begin", lambda id_, xml: None)
    monkeypatch.setattr(libvirt_conn, "backup_ended", lambda id_: "No space left")
    monkeypatch.setattr(libvirt_conn, "backup_abort", aborted.append)
    step = copying(host, replace(HAVING, volumes=COPYING.volumes))
    with pytest.raises(StepFailed, match="did not finish the copy: No space left"):
        step.apply()
    assert aborted == [SERVER.id]
    assert len(list(layout.volumes(host.data).iterdir())) == 1


def test_a_copy_of_a_volume_waits_for_no_image_that_is_made_of_the_same_guest(
    host, libvirt, monkeypatch
):
    """To begin one would break the other off."""
    built(host)
    libvirt.run(existing(host, HAVING))
    monkeypatch.setattr(volume_copy, "LOCK_TIMEOUT_S", 0.1)
    step = copying(host, replace(HAVING, volumes=COPYING.volumes))
    lock = files.make_folder(host.data / "locks") / f"snapshot-{SERVER.id}"
    with (
        files.locked(lock, 1, "77"),
        pytest.raises(StepFailed, match="process 77 makes another copy"),
    ):
        step.apply()


def test_nothing_is_copied_from_a_volume_that_is_missing(host, libvirt):
    host.failed.add(("volume", ID))
    step = copying(host)
    assert (step.result, step.apply) == ("failed", None)
    assert step.fault.message == f"not tried: volume {ID} failed"


# --- definitions --------------------------------------------------------------------------------

VOLUME = VolumeInput("/d/volumes/x.qcow2", "qcow2", ID, "vdb")


def test_volumes_are_read_back_in_the_order_of_their_devices():
    second = replace(VOLUME, path="/d/volumes/y.qcow2", serial=OTHER, target="vdc")
    xml = compile_domain(replace(INPUT, volumes=(second, VOLUME)), MARK)
    assert describe(xml).volumes == (VOLUME, second)


def test_a_volume_to_boot_from_is_the_first_disk():
    root = replace(VOLUME, target="vda")
    second = replace(VOLUME, path="/d/volumes/y.qcow2", serial=OTHER, target="vdc")
    xml = compile_domain(replace(INPUT, volumes=(root, second)), MARK)
    disks = ElementTree.fromstring(xml).findall("devices/disk[@device='disk']")
    assert [disk.find("target").get("dev") for disk in disks] == ["vda", "vdb", "vdc"]
    files = [disk.find("source").get("file") for disk in disks]
    assert files == [root.path, INPUT.disks[0].path, second.path]


def test_a_definition_without_volumes_keeps_its_digest():
    assert input_digest(INPUT) == DIGEST_BEFORE_VOLUMES
    assert input_digest(replace(INPUT, volumes=(VOLUME,))) != DIGEST_BEFORE_VOLUMES


DIGEST_BEFORE_VOLUMES = "d5120c2368795252039fbcbe0de3995db9ea8c99709e3773ad14da8e6bde36bd"


@pytest.mark.parametrize("target", ["sdb", "vdz", "vdB", "vd", "vdb'/>", ""])
def test_a_device_that_is_none_of_the_bus_is_refused(target):
    with pytest.raises(UnsafeText):
        volume_xml(replace(VOLUME, target=target), "virtio")


def test_another_volume_is_no_reason_to_wait_for_a_restart(host):
    view = existing(host)
    known = domain.Existing(view, describe(view.xml))
    platform = domain_inputs.Platform(host, HAVING.settings)
    change = domain.plan(host, HAVING, HAVING.servers[0], known, platform)
    assert (change.define, change.waits, change.needs_parts) == (True, False, False)
    assert change.why == f"its volumes should be vdb {ID}"
    larger = replace(HAVING.servers[0], ram_mb=999)
    assert domain.plan(host, HAVING, larger, known, platform).waits


def test_a_server_is_not_started_without_a_volume_of_it(host):
    host.failed.add(("volume", ID))
    found = domain_inputs.missing_needs(host, HAVING, HAVING.servers[0])
    assert found == f"volume {ID} failed"


# --- guests -------------------------------------------------------------------------------------


def test_what_a_running_guest_lacks_is_plugged(host, libvirt):
    built(host)
    libvirt.run(existing(host))
    (step,) = attachment.KIND.changes(host, HAVING)
    assert (step.id, step.result, step.why) == (ID, "made", f"vm runs without volume {ID}")
    assert step.apply() == {"device": "vdb"}
    assert libvirt.volumes() == [ID]
    (step,) = attachment.KIND.changes(host, HAVING)
    assert (step.result, step.apply) == ("unchanged", None)


def test_what_does_not_run_has_it_by_its_definition(host, libvirt):
    built(host)
    (step,) = attachment.KIND.changes(host, HAVING)
    assert (step.result, step.apply) == ("unchanged", None)


def test_what_a_running_guest_shall_not_have_is_released(host, libvirt):
    built(host)
    libvirt.run(existing(host, HAVING))
    (step,) = attachment.KIND.removals(host, LACKING)
    assert (step.id, step.result) == (ID, "removed")
    step.apply()
    assert libvirt.volumes() == []
    assert steps(attachment.KIND.removals, host, LACKING) == []
    (step,) = volume.KIND.changes(host, LACKING)
    assert (step.apply, step.facts) == (None, {"used_by": []})


def test_a_guest_that_releases_nothing_is_waited_for_once(host, libvirt):
    built(host)
    libvirt.run(existing(host, HAVING))
    libvirt.stubborn = True
    for patience in (r"0\.3 s", r"0\.1 s"):
        (step,) = attachment.KIND.removals(host, LACKING)
        with pytest.raises(StepFailed, match=rf"within {patience}\. It keeps it"):
            step.apply()
    (step,) = volume.KIND.changes(host, LACKING)
    assert step.facts == {"used_by": [SERVER.id]}
    # It was restarted, and nobody asks for it any more.
    libvirt.domains.clear()
    host.seen.clear()
    (step,) = volume.KIND.changes(host, LACKING)
    assert (step.result, step.why) == ("changed", "no guest has it any more")
    assert step.apply() == {"used_by": []}
    assert steps(volume.KIND.changes, host, LACKING) == []


def test_no_free_slot_is_told_in_libvirts_words(host, libvirt):
    built(host)
    libvirt.run(existing(host))
    libvirt.refuses = "No more available PCI slots"
    (step,) = attachment.KIND.changes(host, HAVING)
    with pytest.raises(StepFailed, match="at its next start: No more available PCI slots"):
        step.apply()


@pytest.mark.parametrize("failed", [("volume", ID), ("domain", SERVER.id)])
def test_nothing_is_plugged_on_top_of_a_failed_part(host, libvirt, failed):
    built(host)
    libvirt.run(existing(host))
    host.failed.add(failed)
    (step,) = attachment.KIND.changes(host, HAVING)
    assert (step.result, step.apply) == ("failed", None)
    assert step.fault.message == f"not tried: {failed[0]} {failed[1]} failed"


@pytest.mark.parametrize("flag", ["moving", "held"])
def test_moving_and_held_servers_are_left_alone(host, libvirt, flag):
    built(host)
    libvirt.run(existing(host, HAVING))
    lacking = replace(LACKING, servers=(replace(SERVER, **{flag: True}),))
    assert list(attachment.KIND.removals(host, lacking)) == []
    having = replace(HAVING, servers=(replace(HAVING.servers[0], **{flag: True}),))
    (step,) = attachment.KIND.changes(host, having)
    assert (step.result, step.apply) == ({"moving": "busy", "held": "held"}[flag], None)


def test_a_foreign_domain_keeps_its_volumes(host, libvirt):
    built(host)
    libvirt.run(existing(host, HAVING, cloud_id="other"))
    assert list(attachment.KIND.removals(host, LACKING)) == []


def test_nothing_is_said_of_who_has_a_volume_when_libvirt_does_not_answer(
    host, libvirt, monkeypatch
):
    built(host)

    def down(wanted):
        raise LibvirtError("Failed to connect socket")

    monkeypatch.setattr(libvirt_conn, "running", down)
    (step,) = volume.KIND.changes(host, LACKING)
    assert (step.result, step.facts) == ("failed", {})
    (step,) = attachment.KIND.changes(host, HAVING)
    assert (step.result, step.apply) == ("failed", None)
