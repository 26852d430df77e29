"""Disks from host to host: real TLS on loopback, files with holes, and what can go wrong."""

from __future__ import annotations

import fcntl
import hashlib
import io
import threading
from dataclasses import replace

import pytest

from agent import layout
from agent.copies import disk_copies, peers, sparse
from agent.copies.disk_copies import Copier
from agent.copies.peers import Peer
from agent.faults import StepFailed
from agent.resources import disk as disks
from agent.resources.base import Host
from agent.spec import Disk, Tombstone, to_plain
from agent.store import Store
from agent.system import libvirt_conn, qemu_img
from stackctl.operation.spreading import make_certificate
from tests.unit.test_agent_domain import SPEC

MIB = 1 << 20
OLD, NEW = (f"{digit * 8}-1111-4111-8111-111111111111" for digit in "ab")
SOURCE = Disk(OLD, 1, "server-1", "root", "qcow2", 4 * MIB, False)
COPY = Disk(NEW, 1, "server-1", "root", "qcow2", 4 * MIB, True, None, OLD, "host-a")
CERTIFICATE, KEY = make_certificate()


def stream(*pieces, size=10_000):
    """What a file with these pieces becomes."""
    file = io.BytesIO()
    plain = sparse._PAIR.pack(size, size)
    for offset, piece in pieces:
        plain += sparse._PAIR.pack(offset, len(piece)) + piece
    plain += sparse._PAIR.pack(size, 0)
    file.write(plain + hashlib.sha256(plain).digest())
    file.seek(0)
    return file


@pytest.fixture
def giver(tmp_path, monkeypatch):
    """A host with a disk that is off, and the end of its process."""
    monkeypatch.setattr(peers._Server, "_started", None)
    monkeypatch.setattr(libvirt_conn, "state", lambda domain_id: "SHUTDOWN")
    (tmp_path / "giver").mkdir()
    store = Store(tmp_path / "giver")
    spec = replace(SPEC, disks=(SOURCE,), servers=())
    store.accept(to_plain(spec))
    path = layout.disk(store.data, OLD, "qcow2")
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(b"\1" * 100_000)
        file.seek(3 * MIB)
        file.write(b"\2" * 700_000)
        file.truncate(8 * MIB)
    yield store
    server = peers._Server._started
    if server is not None:
        server.shutdown()
        server.server_close()


def share(store, disk_id=OLD, token="t"):
    given = {"address": "127.0.0.1", "certificate": CERTIFICATE, "key": KEY}
    told = peers.share_disk(store, {**given, "disk_id": disk_id, "token": token}, lambda: None)
    return Peer("127.0.0.1", told["port"], token, CERTIFICATE)


def copier(folder, ask):
    return Copier(folder, lambda message: None, ask, lambda: None)


def test_a_file_and_its_holes_arrive(giver, tmp_path):
    copier(tmp_path / "taker", lambda disk, why: share(giver, token=why or "t")).fetch(COPY)
    source = layout.disk(giver.data, OLD, "qcow2")
    taken = disk_copies.received(layout.disk(tmp_path / "taker", NEW, "qcow2"))
    assert taken.read_bytes() == source.read_bytes()
    assert taken.stat().st_blocks * 512 < 2 * MIB
    assert [path.name for path in taken.parent.iterdir()] == [taken.name]


def test_holes_do_not_travel(giver):
    sent = []
    with layout.disk(giver.data, OLD, "qcow2").open("rb") as file:
        sparse.write(file, sent.append)
    assert sum(map(len, sent)) < 900_000


def test_what_is_there_is_not_fetched_again(giver, tmp_path):
    asked = []

    def ask(disk, why):
        asked.append(disk.id)
        return share(giver)

    taker = copier(tmp_path / "taker", ask)
    taker.prepare((COPY,))
    taker.fetch(COPY)
    copier(tmp_path / "taker", ask).fetch(COPY)
    assert asked == [NEW]


@pytest.mark.parametrize("state", ["RUNNING", "PAUSED", "SUSPENDED"])
def test_a_disk_under_a_guest_is_not_given(giver, monkeypatch, state):
    monkeypatch.setattr(libvirt_conn, "state", lambda domain_id: state)
    with pytest.raises(StepFailed, match="a guest runs on disk"):
        share(giver)


def test_only_disks_of_the_spec_are_given(giver):
    layout.disk(giver.data, NEW, "qcow2").write_bytes(b"orphan")
    with pytest.raises(StepFailed, match="this host has no disk"):
        share(giver, NEW)
    with pytest.raises(StepFailed, match="this host has no disk"):
        share(giver, "../claim")
    layout.disk(giver.data, OLD, "qcow2").unlink()
    with pytest.raises(StepFailed, match="is missing"):
        share(giver)


def test_a_token_opens_one_disk_once(giver):
    peer = share(giver)
    with pytest.raises(StepFailed, match="403"), peers.opened(peer, f"{NEW}.qcow2"):
        pass
    with peers.opened(peer, f"{OLD}.qcow2") as response:
        assert len(list(sparse.Reader(response.read).pieces())) > 3
    with pytest.raises(StepFailed, match="403"), peers.opened(peer, f"{OLD}.qcow2"):
        pass


def test_a_failure_is_told_and_not_tried_again(tmp_path):
    asked = []

    def ask(disk, why):
        asked.append(disk.id)
        raise StepFailed("host a does not answer")

    taker = copier(tmp_path, ask)
    taker.prepare((COPY,))
    for _ in range(2):
        with pytest.raises(StepFailed, match="host a does not answer"):
            taker.fetch(COPY)
    assert asked == [NEW]
    assert list(layout.disks(tmp_path).iterdir()) == []


def test_a_copy_that_breaks_off_is_asked_for_once_more(giver, tmp_path):
    asked = []

    def ask(disk, why):
        asked.append(why)
        return replace(share(giver), token="stale") if len(asked) == 1 else share(giver)

    copier(tmp_path, ask).fetch(COPY)
    assert asked[0] == "" and "403" in asked[1]
    always = copier(tmp_path / "other", lambda disk, why: replace(share(giver), token="stale"))
    with pytest.raises(StepFailed, match="403"):
        always.fetch(COPY)
    assert list(layout.disks(tmp_path / "other").iterdir()) == []


def test_a_copy_without_room_is_not_begun(giver, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_copies.files, "free_bytes", lambda path: (1000, 2000))
    with pytest.raises(StepFailed, match=r"needs \d+ bytes; 1000 are free"):
        copier(tmp_path, lambda disk, why: share(giver, token=why or "t")).fetch(COPY)
    assert list(layout.disks(tmp_path).iterdir()) == []


def test_a_disk_that_fills_up_keeps_nothing(giver, tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_copies.files, "sync", full)
    with pytest.raises(StepFailed, match="its disk is full"):
        copier(tmp_path, lambda disk, why: share(giver, token=why or "t")).fetch(COPY)
    assert list(layout.disks(tmp_path).iterdir()) == []


# --- the stream ---------------------------------------------------------------------------------


def test_pieces_come_as_they_were_sent():
    reader = sparse.Reader(stream((0, b"abc"), (9_000, b"x" * 1000)).read)
    assert reader.sizes.size_bytes == 10_000
    assert list(reader.pieces()) == [(0, b"abc"), (9_000, b"x" * 1000)]


@pytest.mark.parametrize(
    ("altered", "words"),
    [
        (lambda sent: sent[:-1], "broken off"),
        (lambda sent: sent[:20], "broken off"),
        (lambda sent: b"", "broken off"),
        (lambda sent: sent.replace(b"abc", b"abd"), "SHA-256"),
        (lambda sent: sent[:-1] + bytes([sent[-1] ^ 1]), "SHA-256"),
    ],
)
def test_what_was_altered_or_cut_is_no_copy(altered, words):
    sent = io.BytesIO(altered(stream((0, b"abc")).read()))
    with pytest.raises(StepFailed, match=words):
        list(sparse.Reader(sent.read).pieces())


@pytest.mark.parametrize("piece", [(9_999, b"xx"), (20_000, b"x"), (0, b"x" * 300_000)])
def test_nothing_lies_beyond_the_end(piece):
    with pytest.raises(StepFailed, match="beyond its end"):
        list(sparse.Reader(stream(piece, size=10_000).read).pieces())


def test_a_file_of_nothing_but_a_hole(tmp_path):
    path, sent = tmp_path / "hole", []
    with path.open("wb") as file:
        file.truncate(5 * MIB)
    with path.open("rb") as file:
        sparse.write(file, sent.append)
    reader = sparse.Reader(io.BytesIO(b"".join(sent)).read)
    assert list(reader.pieces()) == []
    assert reader.sizes.size_bytes == 5 * MIB


# --- the disk -----------------------------------------------------------------------------------


def host(folder, fetch):
    return Host(folder, "boot", None, lambda sha256: b"", fetch_disk=fetch)


def arrived(folder, size_bytes=MIB, backing=None):
    """Put down a copy as if it had come."""
    layout.disks(folder).mkdir(parents=True, exist_ok=True)
    path = disk_copies.received(layout.disk(folder, NEW, "qcow2"))
    base = None if backing is None else qemu_img.ImageFile(backing, "raw")
    qemu_img.create(qemu_img.ImageFile(path, "qcow2"), size_bytes, base)
    return path


def test_a_disk_becomes_the_copy_grown(tmp_path):
    where = host(tmp_path, lambda disk: arrived(tmp_path))
    disks.take_over(where, replace(SPEC, disks=(COPY,)), COPY)
    path = layout.disk(tmp_path, NEW, "qcow2")
    assert disk_copies.inspection.virtual_size_bytes(path, "qcow2") == 4 * MIB
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_copy_that_names_another_file_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * MIB)
    where = host(tmp_path, lambda disk: arrived(tmp_path, backing=secret))
    with pytest.raises(StepFailed, match="unsafe: it names the backing file"):
        disks.take_over(where, replace(SPEC, disks=(COPY,)), COPY)
    assert list(layout.disks(tmp_path).iterdir()) == []


def test_with_its_tombstone_all_of_it_goes(tmp_path):
    copy = arrived(tmp_path)
    part = disk_copies.unfinished(layout.disk(tmp_path, NEW, "qcow2"))
    part.write_bytes(b"half")
    spec = replace(SPEC, disks=(), servers=(), tombstones=(Tombstone("disk", NEW, 0),))
    (step,) = disks.KIND.removals(host(tmp_path, None), spec)
    step.apply()
    assert not copy.exists()
    assert not part.exists()


def test_what_somebody_receives_now_is_left_to_him(tmp_path):
    layout.disks(tmp_path).mkdir(parents=True)
    part = disk_copies.unfinished(layout.disk(tmp_path, NEW, "qcow2"))
    part.write_bytes(b"half")
    with part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StepFailed, match="another agent receives"):
            disk_copies.discard(layout.disk(tmp_path, NEW, "qcow2"))
    assert part.exists()
    disk_copies.discard(layout.disk(tmp_path, NEW, "qcow2"))
    assert not part.exists()


def test_two_agents_receive_one_after_the_other(giver, tmp_path):
    """A dying agent may still be at it when the next one begins."""
    begun, go = threading.Event(), threading.Event()

    def slowly(disk, why):
        begun.set()
        assert go.wait(20)
        return share(giver, token="slow")

    first = threading.Thread(target=lambda: copier(tmp_path, slowly).fetch(COPY))
    first.start()
    assert begun.wait(20)
    second = threading.Thread(
        target=lambda: copier(tmp_path, lambda disk, why: pytest.fail("it is there")).fetch(COPY)
    )
    second.start()
    go.set()
    first.join(20)
    second.join(20)
    assert not first.is_alive()
    assert not second.is_alive()
    names = [path.name for path in layout.disks(tmp_path).iterdir()]
    assert names == [f".{NEW}.qcow2.copy"]
