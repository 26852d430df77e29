"""Copies of disks on a host: made, sent, and gone, whatever fails."""

import hashlib
import os
from pathlib import Path

import pytest

from agent import layout
from agent.channel import ChannelLost
from agent.copies import snapshots
from agent.faults import StepFailed
from agent.resources import snapshot as kind
from agent.resources.base import Host
from agent.spec import SPEC_FORMAT, Disk, HostSettings, HostSpec, to_plain
from agent.store import Store
from agent.system import files, libvirt_conn, qemu_img
from agent.system.libvirt_conn import LibvirtError

SERVER, DISK = "server-1", "disk-1"
ASKED = {"server_id": SERVER, "disk_id": DISK}
CONTENT = os.urandom(600 * 1024)
XML = """<domain><devices>
<disk type="file"><source file="{path}"/><target dev="vda"/></disk>
<channel><target type="virtio" name="org.qemu.guest_agent.0" state="{state}"/></channel>
</devices></domain>"""


class Sent:
    """A channel that keeps what is sent; it breaks after ``limit`` bytes."""

    def __init__(self, limit=1 << 40) -> None:
        self.messages, self.data, self.limit = [], b"", limit

    def send(self, message):
        self.messages.append(message)

    def send_bytes(self, data):
        self.data += data
        self.check()

    def check(self):
        if len(self.data) > self.limit:
            raise ChannelLost("gone")


class Libvirt:
    """A guest that runs and is copied; ``done`` lists what was asked."""

    def __init__(self, path) -> None:
        self.path, self.state_word, self.agent = path, "RUNNING", "disconnected"
        self.done, self.why, self.freezes = [], "", True

    def state(self, _):
        return self.state_word

    def live_xml(self, _):
        return XML.format(path=self.path, state=self.agent)

    def backup_begin(self, _, job):
        self.done.append("begin")
        target = job.partition('target file="')[2].partition('"')[0]
        Path(target).write_bytes(CONTENT)

    def backup_ended(self, _):
        return self.why

    def freeze(self, _):
        self.done.append("freeze")
        return self.freezes

    def thaw(self, _):
        self.done.append("thaw")

    def backup_abort(self, _):
        self.done.append("abort")


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    disk = Disk(DISK, 1, SERVER, "root", "qcow2", 1 << 30, False)
    spec = HostSpec(SPEC_FORMAT, "c", "h", 1, "n", HostSettings(), disks=(disk,))
    made.accept(to_plain(spec))
    path = layout.disk(tmp_path, DISK, "qcow2")
    path.parent.mkdir()
    path.write_bytes(b"disk")
    return made


@pytest.fixture
def libvirt(store, monkeypatch):
    made = Libvirt(layout.disk(store.data, DISK, "qcow2"))
    for name in (
        "state", "live_xml", "backup_begin", "backup_ended", "freeze", "thaw", "backup_abort",
    ):  # fmt: skip
        monkeypatch.setattr(libvirt_conn, name, getattr(made, name))
    return made


def left(store) -> list[str]:
    folders = (layout.snapshots(store.data), store.data / "pending")
    return [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]


def test_the_disk_of_a_running_guest_is_copied_by_qemu_and_sent(store, libvirt):
    channel = Sent()
    said = snapshots.serve(channel, store, "a1", ASKED)
    assert channel.messages == [{"type": "stream", "id": "a1", "size_bytes": len(CONTENT)}]
    assert channel.data == CONTENT
    assert said == {"sha256": hashlib.sha256(CONTENT).hexdigest(), "quiesced": False}
    assert libvirt.done == ["begin", "abort"]
    assert left(store) == []


def test_a_guest_with_an_agent_is_quiet_only_while_the_copy_begins(store, libvirt):
    libvirt.agent = "connected"
    assert snapshots.serve(Sent(), store, "a1", ASKED)["quiesced"]
    assert libvirt.done == ["freeze", "begin", "thaw", "abort"]
    assert left(store) == []


def test_a_guest_that_cannot_be_quiet_is_copied_all_the_same(store, libvirt):
    libvirt.agent, libvirt.freezes = "connected", False
    assert not snapshots.serve(Sent(), store, "a1", ASKED)["quiesced"]
    assert libvirt.done == ["freeze", "thaw", "begin", "abort"]
    assert left(store) == []


def test_a_guest_whose_copy_does_not_begin_is_not_left_frozen(store, libvirt, monkeypatch):
    def refuse(*_):
        raise LibvirtError("no such feature")

    libvirt.agent = "connected"
    monkeypatch.setattr(libvirt_conn, "backup_begin", refuse)
    with pytest.raises(LibvirtError):
        snapshots.serve(Sent(), store, "a1", ASKED)
    assert libvirt.done == ["freeze", "thaw"]
    assert left(store) == []


def test_the_disk_of_a_guest_that_is_off_is_copied_by_qemu_img(store, libvirt, monkeypatch):
    libvirt.state_word = "SHUTDOWN"
    asked = []

    def copy(source, target, *, dies_with_us):
        asked.append((source.format, target.format, dies_with_us))
        target.path.write_bytes(CONTENT)

    monkeypatch.setattr(qemu_img, "copy", copy)
    channel = Sent()
    snapshots.serve(channel, store, "a1", ASKED)
    assert (channel.data, asked) == (CONTENT, [("qcow2", "qcow2", True)])
    assert "begin" not in libvirt.done


@pytest.mark.parametrize(("why", "words"), [("No space left", "No space left"), ("x", "finish")])
def test_a_copy_that_fails_is_an_error_and_gone(store, libvirt, why, words):
    libvirt.why = why
    with pytest.raises(StepFailed, match=words):
        snapshots.serve(Sent(), store, "a1", ASKED)
    assert left(store) == []


def test_a_copy_that_nobody_takes_is_gone(store, libvirt):
    with pytest.raises(ChannelLost):
        snapshots.serve(Sent(limit=1000), store, "a1", ASKED)
    assert left(store) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"server_id": SERVER, "disk_id": "disk-2"},
        {"server_id": "server-2", "disk_id": DISK},
        {"server_id": SERVER, "disk_id": "../../etc/shadow"},
    ],
)
def test_only_disks_of_the_spec_are_copied(store, libvirt, asked):
    with pytest.raises(StepFailed, match="this host has no disk"):
        snapshots.serve(Sent(), store, "a1", asked)


def test_two_copies_of_one_server_are_not_made_at_once(store, libvirt, monkeypatch):
    monkeypatch.setattr(snapshots, "LOCK_TIMEOUT_S", 0.1)
    with (
        files.locked(files.make_folder(store.data / "locks") / f"snapshot-{SERVER}", 1, "77"),
        pytest.raises(StepFailed, match="process 77 makes another copy"),
    ):
        snapshots.serve(Sent(), store, "a1", ASKED)


def test_what_a_dead_maker_left_goes_with_the_next_convergence(store, libvirt):
    host = Host(store.data, "boot", "boot", lambda sha256: b"")
    assert list(kind.KIND.removals(host, store.spec())) == []
    files.make_folder(layout.snapshots(store.data))
    (layout.snapshots(store.data) / f"{SERVER}.qcow2").write_bytes(b"half")
    files.make_folder(store.data / "pending")
    (store.data / "pending" / f"frozen-{SERVER}").write_bytes(b"")
    (step,) = kind.KIND.removals(host, store.spec())
    with files.locked(store.data / "locks" / f"snapshot-{SERVER}", 1):
        assert list(kind.KIND.removals(host, store.spec())) == []
        step.apply()
        assert len(left(store)) == 2
    step.apply()
    assert left(store) == []
    assert libvirt.done == ["thaw", "abort"]
