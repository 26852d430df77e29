"""Domains without libvirt: what is compared, what a power command means, what is never touched."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.faults import StepFailed
from agent.resources import disk, domain, domain_inputs, domain_power
from agent.resources.base import Host
from agent.resources.domain_power import Command, command
from agent.resources.domain_xml import (
    COMPILER,
    Mark,
    UnsafeText,
    VolumeInput,
    compile_domain,
    describe,
    essentials,
    input_digest,
    mark_xml,
)
from agent.spec import (
    Disk,
    Guest,
    HostSettings,
    HostSpec,
    Image,
    Network,
    Port,
    Power,
    Server,
    Tombstone,
    digest,
    to_plain,
)
from agent.system import libvirt_conn
from agent.system.libvirt_conn import DomainView, LibvirtError
from tests.guest_samples import domain_input

INPUT = domain_input("11111111-1111-4111-8111-111111111111", vcpus=2)
MARK = Mark("cloud", INPUT.id, "project", 3, input_digest(INPUT))


def test_what_was_compiled_is_read_back():
    described = describe(compile_domain(INPUT, MARK))
    assert described.mark == MARK
    assert sorted(described.essentials) == sorted(essentials(INPUT))
    assert (described.machine_type, described.virt_type) == ("pc-i440fx-7.2", "qemu")
    assert described.cpu == "maximum"


def test_the_mark_alone_says_the_same():
    element = ElementTree.fromstring(mark_xml(MARK))
    whole = ElementTree.fromstring(compile_domain(INPUT, MARK)).find("metadata")[0]
    assert element.attrib == whole.attrib


@pytest.mark.parametrize(
    "changes",
    [
        {"vcpus": 3},
        {"ram_mb": 513},
        {"virt_type": "kvm"},
        {"offload": True},
        {"disks": ()},
        {"nics": ()},
        {"cpu_mode": "Nehalem"},
        {"disk_bus": "scsi"},
    ],
)
def test_every_input_changes_the_digest(changes):
    assert input_digest(replace(INPUT, **changes)) != input_digest(INPUT)


@pytest.mark.parametrize(
    "changes",
    [
        {"machine_type": "pc'/><x"},
        {"machine_type": ""},
        {"cpu_mode": "a b"},
        {"disk_bus": "floppy"},
        {"nic_model": "ne2k"},
        {"drive": "/d/\x01"},
        {"disks": INPUT.disks * 27},
    ],
)
def test_what_libvirt_must_not_see_is_refused(changes):
    with pytest.raises(UnsafeText):
        compile_domain(replace(INPUT, **changes), MARK)


@given(st.text(), st.text())
def test_any_text_is_one_attribute_or_refused(project, console):
    mark = replace(MARK, project_id=project)
    try:
        xml = compile_domain(replace(INPUT, console_log=console), mark)
    except UnsafeText:
        return
    plain = ElementTree.fromstring(compile_domain(INPUT, MARK))
    root = ElementTree.fromstring(xml)
    assert [element.tag for element in root.iter()] == [element.tag for element in plain.iter()]
    assert describe(xml).mark.project_id == project
    assert root.find("devices/serial/log").get("file") == console


@pytest.mark.parametrize(
    ("action", "served", "runs", "expected"),
    [
        ("start", 1, False, (False, True)),
        ("start", 1, True, (False, False)),
        ("start", None, False, (False, True)),
        ("stop", 1, True, (True, False)),
        ("stop", 1, False, (False, False)),
        ("stop", None, False, (False, False)),
        ("reboot", 1, True, (True, True)),
        ("reboot", 1, False, (False, True)),
        ("reboot-hard", 1, True, (True, True)),
    ],
)
def test_a_newer_power_command_is_obeyed(action, served, runs, expected):
    found = command(Power(2, action, 60), served=served, runs=runs, host_rebooted=False)
    assert (found.stops, found.starts) == expected
    assert found.obeyed_serial == 2
    assert found.grace_s == (60 if found.stops and action != "reboot-hard" else found.grace_s)


@pytest.mark.parametrize(
    ("action", "runs", "expected"),
    [
        ("pause", True, "pause"),
        ("pause", False, ""),
        ("unpause", True, "unpause"),
        ("suspend", True, "save"),
        ("suspend", False, ""),
        ("resume", False, "restore"),
        ("start", False, ""),
    ],
)
def test_pausing_and_saving_stop_and_start_nothing(action, runs, expected):
    found = command(Power(2, action), served=1, runs=runs, host_rebooted=False)
    assert found.act == expected
    assert not found.stops
    assert found.starts == (action == "start")


def test_only_a_hard_reboot_throws_saved_memory_away():
    forgets = {
        action: command(Power(2, action), served=1, runs=False, host_rebooted=False).forgets
        for action in domain_power.ACTIONS
    }
    assert [action for action, forgotten in forgets.items() if forgotten] == ["reboot-hard"]


def test_a_hard_reboot_does_not_ask_the_guest():
    found = command(Power(2, "reboot-hard", 60), served=1, runs=True, host_rebooted=False)
    assert found.grace_s == 0


@pytest.mark.parametrize("action", domain_power.ACTIONS)
@pytest.mark.parametrize("runs", [True, False])
def test_an_obeyed_command_is_not_obeyed_again(action, runs):
    found = command(Power(2, action), served=2, runs=runs, host_rebooted=False)
    assert found == Command()


def test_a_rebooted_host_starts_what_was_to_run():
    def after(action: str, runs: bool = False) -> bool:
        return command(Power(2, action), served=2, runs=runs, host_rebooted=True).starts

    assert after("start")
    assert after("reboot")
    assert not after("stop")
    assert not after("suspend")
    assert not after("start", runs=True)


def test_an_unknown_command_is_refused():
    with pytest.raises(StepFailed):
        command(Power(2, "explode"), served=1, runs=True, host_rebooted=False)


# --- the kind, over a libvirt made for the test ---

SERVER = Server(
    id=INPUT.id,
    version=4,
    vcpus=1,
    ram_mb=256,
    power=Power(1, "start"),
    guest=Guest("vm", "vm", "project", 0, "nova"),
    disks=("disk-1",),
    ports=("port-1",),
    machine_type="pc-i440fx-7.2",
)
SPEC = HostSpec(
    1,
    "cloud",
    "host",
    1,
    "n",
    HostSettings(virt_type="qemu", datapath="netdev"),
    networks=(Network("net-1", 1, "vxlan", None, 1, 1, 1450, True, "local"),),
    ports=(Port("port-1", 1, "net-1", INPUT.id, "fa:16:3e:00:00:01", (), "vm"),),
    images=(Image("image-1", "a" * 64, 1, "qcow2"),),
    disks=(Disk("disk-1", 1, INPUT.id, "root", "qcow2", 1 << 30, False, "image-1"),),
    servers=(SERVER,),
)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path, "boot", "boot", lambda sha256: b"")


@pytest.fixture
def libvirt(monkeypatch):
    """What libvirt has, by id."""
    domains: dict[str, DomainView] = {}
    monkeypatch.setattr(libvirt_conn, "observe", lambda wanted: dict(domains))
    monkeypatch.setattr(libvirt_conn, "observe_one", domains.get)
    monkeypatch.setattr(libvirt_conn, "running", lambda wanted: {})
    return domains


def existing(host: Host, spec: HostSpec = SPEC, *, state: str = "RUNNING", **mark) -> DomainView:
    """The domain that libvirt has after ``spec`` was applied."""
    server = spec.servers[0]
    inputs = domain_inputs.domain_input(
        host, spec, server, domain_inputs.Platform(host, spec.settings), described=None
    )
    values = {"power_serial": server.power.serial, "digest": input_digest(inputs), **mark}
    found = replace(Mark(spec.cloud_id, server.id, "project", 0, ""), **values)
    return DomainView(server.id, inputs.name, state, compile_domain(inputs, found))


def only(steps):
    (step,) = list(steps)
    return step


def changed(**values) -> HostSpec:
    return replace(SPEC, servers=(replace(SERVER, **values),))


def test_a_domain_as_it_should_be_is_left_alone(host, libvirt):
    libvirt[SERVER.id] = existing(host)
    step = only(domain.KIND.changes(host, SPEC))
    assert (step.result, step.apply, step.version) == ("unchanged", None, 4)
    assert step.facts["power_state"] == "RUNNING"
    assert step.facts["machine_type"] == "pc-i440fx-7.2"


def test_a_guest_that_went_off_by_itself_stays_off(host, libvirt):
    libvirt[SERVER.id] = existing(host, state="SHUTDOWN")
    step = only(domain.KIND.changes(host, SPEC))
    assert step.apply is None
    assert step.facts["power_state"] == "SHUTDOWN"


def test_unless_the_host_was_rebooted_and_is_told_to(host, libvirt):
    libvirt[SERVER.id] = existing(host, state="SHUTDOWN")
    host.boot_id_before = "another"
    assert only(domain.KIND.changes(host, SPEC)).apply is None
    told = replace(SPEC, settings=replace(SPEC.settings, on_boot="all"))
    step = only(domain.KIND.changes(host, told))
    assert step.why == "the host was rebooted"


def test_an_absent_domain_is_made(host, libvirt):
    step = only(domain.KIND.changes(host, SPEC))
    assert (step.result, step.parallel) == ("made", True)
    assert step.facts["exists"] is False


def test_another_definition_is_a_change_that_says_why(host, libvirt):
    libvirt[SERVER.id] = existing(host)
    step = only(domain.KIND.changes(host, changed(ram_mb=999)))
    assert (step.result, step.why) == ("changed", "its definition is an older one")


def test_an_edit_by_hand_is_noticed(host, libvirt):
    view = existing(host)
    edited = view.xml.replace('<memory unit="KiB">262144', '<memory unit="KiB">131072')
    libvirt[SERVER.id] = replace(view, xml=edited)
    assert "131072 KiB" in only(domain.KIND.changes(host, SPEC)).why


def test_a_renamed_domain_is_still_the_one(host, libvirt):
    libvirt[SERVER.id] = replace(existing(host), name="sc-renamed")
    assert "older" in only(domain.KIND.changes(host, SPEC)).why


@pytest.mark.parametrize(("flag", "result"), [("held", "held"), ("moving", "busy")])
def test_held_and_moving_servers_are_left_alone(host, libvirt, flag, result):
    step = only(domain.KIND.changes(host, changed(**{flag: True})))
    assert (step.result, step.apply) == (result, None)


@pytest.mark.parametrize("part", [("disk", "disk-1"), ("port", "port-1")])
def test_nothing_is_tried_on_top_of_a_failed_part(host, libvirt, part):
    host.failed.add(part)
    step = only(domain.KIND.changes(host, SPEC))
    assert step.result == "failed"
    assert step.fault.message == f"not tried: {part[0]} {part[1]} failed"


def test_nothing_is_tried_when_its_ports_could_not_be_checked(host, libvirt):
    host.failed.add(("port", SPEC.host_id))
    step = only(domain.KIND.changes(host, SPEC))
    assert step.fault.message == "not tried: no port could be checked"


def test_a_libvirt_that_hangs_is_waited_for_once(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(libvirt_conn, "_libvirt", lambda: release.wait(10))
    monkeypatch.setattr(libvirt_conn, "QUERY_TIMEOUT_S", 0.2)
    begun = time.monotonic()
    for words in ("within 0.2 s", "still does not answer", "still does not answer"):
        with pytest.raises(LibvirtError, match=words):
            libvirt_conn.state("any")
    assert time.monotonic() - begun < 5
    release.set()


def test_a_running_guest_does_not_fall_with_a_failed_part(host, libvirt):
    libvirt[SERVER.id] = existing(host)
    host.failed.add(("disk", "disk-1"))
    assert only(domain.KIND.changes(host, SPEC)).result == "unchanged"


def test_a_domain_with_our_id_that_is_not_ours_is_a_fault(host, libvirt):
    libvirt[SERVER.id] = existing(host, cloud_id="other")
    step = only(domain.KIND.changes(host, SPEC))
    assert (step.result, step.apply) == ("failed", None)


def test_orphans_are_told_and_left_alone(host, libvirt):
    libvirt[SERVER.id] = existing(host)
    assert only(domain.KIND.changes(host, replace(SPEC, servers=()))).result == "orphan"
    libvirt[SERVER.id] = existing(host, cloud_id="other")
    assert list(domain.KIND.changes(host, replace(SPEC, servers=()))) == []


def test_a_wanted_server_beats_its_tombstone(host, libvirt):
    libvirt[SERVER.id] = existing(host)
    grave = Tombstone("domain", SERVER.id, 9)
    assert list(domain.KIND.removals(host, replace(SPEC, tombstones=(grave,)))) == []
    step = only(domain.KIND.removals(host, replace(SPEC, servers=(), tombstones=(grave,))))
    assert (step.result, step.version) == ("removed", 9)
    assert step.apply is not None


def test_removing_what_is_not_there_is_done(host, libvirt):
    graves = replace(SPEC, servers=(), tombstones=(Tombstone("domain", SERVER.id, 9),))
    step = only(domain.KIND.removals(host, graves))
    assert (step.result, step.apply) == ("removed", None)


def test_a_foreign_domain_is_not_removed(host, libvirt):
    libvirt[SERVER.id] = existing(host, cloud_id="other")
    graves = replace(SPEC, servers=(), tombstones=(Tombstone("domain", SERVER.id, 9),))
    step = only(domain.KIND.removals(host, graves))
    assert (step.result, step.apply) == ("failed", None)


def test_without_libvirt_every_server_says_so(host, monkeypatch):
    def down(wanted):
        raise LibvirtError("Failed to connect socket")

    monkeypatch.setattr(libvirt_conn, "observe", down)
    step = only(domain.KIND.changes(host, SPEC))
    assert (step.id, step.result) == (SERVER.id, "failed")
    assert "Failed to connect" in step.fault.message


def test_the_machine_type_of_an_existing_domain_stays(host, libvirt):
    libvirt[SERVER.id] = existing(host)
    step = only(domain.KIND.changes(host, changed(machine_type=None)))
    assert step.result == "unchanged"


# --- disks that domains had ---------------------------------------------------------------------


@pytest.fixture
def replaced(host, libvirt, monkeypatch):
    """A domain with the disk disk-1, deleted and there; returns its spec and file."""
    path = host.data / "disks" / "disk-1.qcow2"
    path.parent.mkdir()
    path.write_bytes(b"")
    new = Disk("disk-2", 1, INPUT.id, "root", "qcow2", 1 << 30, True, "image-1")
    graves = (Tombstone("disk", "disk-1", 0),)
    spec = changed(disks=("disk-2",))
    monkeypatch.setattr(libvirt_conn, "running", lambda ids: {})
    libvirt[INPUT.id] = existing(host)
    return replace(spec, disks=(new,), tombstones=graves), path


def test_a_disk_that_a_domain_still_has_waits_until_it_has_another(replaced, host, libvirt):
    spec, path = replaced
    assert list(disk.KIND.removals(host, spec)) == []
    assert [step.result for step in disk.REPLACED.changes(host, spec)] == ["busy"]
    libvirt[INPUT.id] = existing(host, spec)
    step = only(disk.REPLACED.changes(host, spec))
    assert step.result == "removed"
    step.apply()
    assert not path.exists()
    assert list(disk.REPLACED.changes(host, spec)) == []
    assert only(disk.KIND.removals(host, spec)).why == "already absent"


def test_a_disk_that_a_guest_still_runs_on_waits_though_its_definition_has_another(
    replaced, host, libvirt, monkeypatch
):
    spec, path = replaced
    running = existing(host)
    libvirt[INPUT.id] = existing(host, spec)
    monkeypatch.setattr(libvirt_conn, "running", lambda ids: {INPUT.id: running})
    assert [step.result for step in disk.REPLACED.changes(host, spec)] == ["busy"]
    assert path.exists()


def test_nothing_is_removed_behind_a_domain_that_failed(replaced, host, libvirt):
    spec, _ = replaced
    libvirt[INPUT.id] = existing(host, spec)
    host.failed.add(("domain", INPUT.id))
    assert only(disk.REPLACED.changes(host, spec)).apply is None


def test_without_libvirt_no_deleted_disk_goes_while_servers_are_wanted(replaced, host, monkeypatch):
    def down(_):
        raise LibvirtError("no libvirt")

    monkeypatch.setattr(libvirt_conn, "observe", down)
    with pytest.raises(LibvirtError):
        list(disk.KIND.removals(host, replaced[0]))


def test_a_definition_is_not_another_one_because_there_is_more_to_ask_for():
    """What a release before said of the same inputs: an upgrade redefines no domain."""
    assert input_digest(INPUT) == "d5120c2368795252039fbcbe0de3995db9ea8c99709e3773ad14da8e6bde36bd"
    inputs = to_plain(INPUT)
    for name in ("volumes", "hardware", "firmware"):
        del inputs[name]
    assert input_digest(INPUT) == digest([COMPILER, inputs])


def test_a_volume_keeps_its_device_when_another_disk_comes_before_it():
    """As the rescue disk does: none of the three may be missing."""
    rescue = replace(INPUT.disks[0], path="/d/rescue.qcow2", serial="rescue")
    volume = VolumeInput("/v/data.qcow2", "qcow2", "7" * 8 + "-7777" * 3 + "-" + "7" * 12, "vdb")
    disks = (rescue, INPUT.disks[0])
    root = ElementTree.fromstring(
        compile_domain(replace(INPUT, disks=disks, volumes=(volume,)), MARK)
    )
    found = {
        each.find("target").get("dev"): each.find("source").get("file")
        for each in root.iterfind("devices/disk[@device='disk']")
    }
    assert found == {"vda": rescue.path, "vdb": volume.path, "vdc": INPUT.disks[0].path}
