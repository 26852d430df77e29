"""Whole exchanges in one process: a controller made for the test, a data folder of its own."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from agent import channel, exchange, facts, images, inspection, wire
from agent.channel import Channel
from agent.resources import disk, image
from agent.resources.base import Host, Step
from agent.spec import (
    SPEC_FORMAT,
    Disk,
    Guest,
    HostSettings,
    HostSpec,
    Image,
    Power,
    Server,
    Tombstone,
    digest,
    to_plain,
)
from agent.store import Store

RAW = b"\1" * 300_000
IMAGE = Image("image-1", hashlib.sha256(RAW).hexdigest(), len(RAW), "raw")
USER_DATA = b"#!/bin/sh\n"
USER_DATA_SHA = hashlib.sha256(USER_DATA).hexdigest()


class NullKind:
    """A kind with nothing to do."""

    name = "port"

    def removals(self, host, spec):
        return []

    def changes(self, host, spec):
        return [Step("port", "p", "made", apply=lambda: {"tap": "tap0"})]


class Controller:
    """The other side: sends what a test says, answers what an agent wants."""

    def __init__(self, data: Path, contents: dict[str, bytes] | None = None) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(20)
        self.contents = {digest_of(content): content for content in (RAW, USER_DATA)}
        self.contents.update(contents or {})
        self.wanted: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.channel = Channel(theirs.fileno(), theirs.fileno())
        self.channel.start()
        self._theirs = theirs
        self.thread = threading.Thread(target=self._serve, args=(data,))
        self.thread.start()

    def _serve(self, data: Path) -> None:
        exchange.serve(self.channel, data)
        self._theirs.shutdown(socket.SHUT_RDWR)

    def send(self, kind: str, **fields: Any) -> None:
        self.ours.sendall(wire.encode_message({"type": kind, **fields}))

    def open(self, mode: str = "converge", **fields: Any) -> None:
        message = {
            "protocol": wire.PROTOCOL,
            "cloud_id": "cloud",
            "host_id": "host",
            "mode": mode,
            "claim": True,
            "lock_timeout_s": 1,
            **fields,
        }
        self.send("open", **message)

    def until(self, *kinds: str) -> dict[str, Any]:
        """Answer wants until a message of one of these types arrives."""
        while True:
            frame = wire.read_frame(self.ours.recv)
            message = frame.message
            self.messages.append(message)
            if message["type"] in kinds:
                return message
            if message["type"] == "want":
                for sha256 in message["hashes"]:
                    self._answer(sha256)

    def _answer(self, sha256: str) -> None:
        self.wanted.append(sha256)
        content = self.contents.get(sha256)
        if content is None:
            self.send("blob", sha256=sha256, error="not here")
            return
        self.send("blob", sha256=sha256, size_bytes=len(content))
        for start in range(0, len(content), 100_000):
            self.ours.sendall(wire.encode_bytes(content[start : start + 100_000]))

    def converge(self, spec: HostSpec, mode: str = "converge", **fields: Any) -> dict[str, Any]:
        self.open(mode, **fields)
        if self.until("hello", "error")["type"] == "error":
            return self.messages[-1]
        self.send("spec", spec=to_plain(spec))
        return self.until("done", "error")

    def bye(self) -> None:
        self.send("bye")
        self.thread.join(20)
        assert not self.thread.is_alive()

    def close(self) -> None:
        self.channel.close("test is over")
        self.ours.close()
        self.thread.join(20)
        self._theirs.close()

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [report for message in self.messages for report in message.get("reports", ())]


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spec(serial: int = 1, nonce: str = "n", **parts: Any) -> HostSpec:
    return HostSpec(SPEC_FORMAT, "cloud", "host", serial, nonce, HostSettings(), **parts)


def disk_of(image_id: str | None = "image-1", **changes: Any) -> Disk:
    values = {"size_bytes": 1 << 30, "build": True, **changes}
    return Disk("disk-1", 1, "server-1", "root", "qcow2", image_id=image_id, **values)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "KINDS", (NullKind(), image.KIND, disk.KIND))
    monkeypatch.setattr(facts, "gather", lambda folder: {"vcpus": 2})
    monkeypatch.setattr(exchange.restore, "install", lambda: None)
    monkeypatch.setattr(channel, "POLL_S", 0.02)
    return tmp_path / "data"


@pytest.fixture
def controllers(data):
    made = []

    def make(**contents: bytes) -> Controller:
        made.append(Controller(data, **contents))
        return made[-1]

    yield make
    for controller in made:
        controller.close()
    for thread in threading.enumerate():
        if thread.name in ("_read_frames", "_keep_alive"):
            thread.join(5)


def test_a_whole_exchange(controllers, data):
    guest = Guest("vm", "vm", "p", 0, "nova", user_data_sha256=USER_DATA_SHA)
    server = Server("server-1", 1, 1, 64, Power(1, "start"), guest, disks=("disk-1",))
    wanted = spec(5, "n", images=(IMAGE,), disks=(disk_of(),), servers=(server,))
    controller = controllers()
    done = controller.converge(wanted, images=[to_plain(IMAGE)])
    assert done["counts"] == {
        "port": {"made": 1},
        "image": {"unchanged": 1},
        "disk": {"made": 1},
    }
    assert controller.wanted == [IMAGE.sha256, USER_DATA_SHA]
    assert done["points"] > 3
    controller.bye()
    store = Store(data)
    assert store.spec() == wanted
    assert store.blob(USER_DATA_SHA) == USER_DATA
    assert store.boot_id_before() is not None
    made = data / "disks" / "disk-1.qcow2"
    assert inspection.backing_file(made) == str(data / "images" / IMAGE.sha256)
    assert inspection.virtual_size_bytes(made, "qcow2") == 1 << 30
    cached = data / "images" / IMAGE.sha256
    assert cached.stat().st_mode & 0o777 == 0o444
    assert cached.read_bytes() == RAW

    again = controllers()
    done = again.converge(wanted, images=[to_plain(IMAGE)])
    assert again.wanted == []
    assert done["counts"]["disk"] == {"unchanged": 1}
    hello = next(message for message in again.messages if message["type"] == "hello")
    assert hello["accepted"] == {"serial": 5, "nonce": "n"}
    assert hello["spec_formats"] == [SPEC_FORMAT]
    again.bye()


def test_observing_leaves_no_trace(controllers, data):
    controller = controllers()
    done = controller.converge(
        spec(images=(IMAGE,), disks=(disk_of(),)), "observe", images=[to_plain(IMAGE)]
    )
    assert done["type"] == "done"
    planned = {report["kind"]: report["facts"]["planned"] for report in controller.reports}
    assert planned == {"port": True, "image": True, "disk": True}
    assert controller.wanted == []
    controller.bye()
    assert [path.name for path in data.iterdir()] == ["host.lock"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"protocol": 99}, "protocol"),
        ({"mode": "destroy"}, "protocol"),
        ({"surprise": 1}, "protocol"),
        ({"claim": False}, "claim"),
        ({"images": [{"id": "x"}]}, "protocol"),
    ],
)
def test_a_wrong_opening_is_refused(controllers, data, fields, code):
    controller = controllers()
    controller.open(**fields)
    assert controller.until("error")["code"] == code
    assert not (data / "claim.json").exists()


def test_another_cloud_is_refused(controllers):
    controllers().converge(spec())
    controller = controllers()
    controller.open(cloud_id="other")
    assert controller.until("error")["code"] == "claim"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (to_plain(spec(4)), "stale"),
        (to_plain(spec(5, "other")), "stale"),
        ({**to_plain(spec(9)), "format": SPEC_FORMAT + 1}, "format"),
        ({**to_plain(spec(9)), "host_id": "other"}, "protocol"),
        ({**to_plain(spec(9)), "more": 1}, "protocol"),
        ({"format": SPEC_FORMAT}, "protocol"),
        ([], "format"),
    ],
)
def test_a_spec_that_must_not_be_applied(controllers, data, document, code):
    controllers().converge(spec(5))
    controller = controllers()
    controller.open()
    controller.until("hello")
    controller.send("spec", spec=document)
    assert controller.until("error")["code"] == code
    assert Store(data).spec() == spec(5)


def test_a_second_exchange_waits_and_then_says_who_holds_the_host(controllers, data):
    first = controllers()
    first.open()
    first.until("hello")
    second = controllers()
    second.open(lock_timeout_s=0.2)
    error = second.until("error")
    assert error["code"] == "busy"
    assert '"pid"' in error["message"]
    first.send("spec", spec=to_plain(spec()))
    assert first.until("done")["counts"]["port"] == {"made": 1}


def test_a_failed_image_fails_its_disk_and_nothing_else(controllers):
    backed = b"QFI\xfb" + bytes(4) + b"\0" * 300
    bad = Image("image-1", digest_of(backed), len(backed), "qcow2")
    controller = controllers(contents={bad.sha256: backed})
    done = controller.converge(
        spec(images=(bad,), disks=(disk_of(), disk_of(None))), images=[to_plain(bad)]
    )
    faults = {report["kind"]: report["fault"] for report in controller.reports if report["fault"]}
    assert "unsafe" in faults["image"]["message"]
    assert "image image-1 failed" in faults["disk"]["message"]
    assert done["counts"]["port"] == {"made": 1}
    assert controller.wanted == [bad.sha256]  # not asked for twice
    facts_of_image = next(r["facts"] for r in controller.reports if r["kind"] == "image")
    assert facts_of_image == {"reason": "unsafe"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RAW[:-1], "ended after"),
        (RAW + b"x", "longer than"),
        (b"\2" * len(RAW), "has the SHA-256"),
    ],
)
def test_a_wrong_transfer_leaves_nothing(controllers, data, content, words):
    controller = controllers(contents={IMAGE.sha256: content})
    controller.converge(spec(images=(IMAGE,)), images=[to_plain(IMAGE)])
    (report,) = [report for report in controller.reports if report["kind"] == "image"]
    assert words in report["fault"]["message"]
    assert list((data / "images").iterdir()) == []
    controller.bye()


def test_an_image_that_the_controller_cannot_send(controllers):
    controller = controllers()
    other = Image("image-2", "0" * 64, 5, "raw")
    done = controller.converge(spec(images=(other,)), images=[to_plain(other)])
    assert done["counts"]["image"] == {"failed": 1}
    assert "cannot send" in controller.reports[-1]["fault"]["message"]


def test_an_image_that_was_not_announced_is_fetched_all_the_same(controllers):
    controller = controllers()
    done = controller.converge(spec(images=(IMAGE,), disks=(disk_of(),)))
    assert done["counts"]["image"] == {"made": 1}
    assert done["counts"]["disk"] == {"made": 1}


def test_a_changed_cached_image_is_put_aside_and_fetched_again(controllers, data):
    controllers().converge(spec(images=(IMAGE,)), images=[to_plain(IMAGE)])
    cached = data / "images" / IMAGE.sha256
    cached.chmod(0o644)
    with cached.open("r+b") as file:
        file.write(b"rot")
    assert images.cached(data, IMAGE.sha256) is None
    controller = controllers()
    controller.converge(spec(images=(IMAGE,)), images=[to_plain(IMAGE)])
    assert controller.wanted == [IMAGE.sha256]
    assert cached.read_bytes() == RAW
    assert len([path for path in cached.parent.iterdir() if ".changed-" in path.name]) == 1


def test_a_full_disk_is_one_clear_fault(controllers, data, monkeypatch):
    monkeypatch.setattr(images.files, "free_bytes", lambda path: (1000, 2000))
    controller = controllers()
    controller.converge(spec(images=(IMAGE,)), images=[to_plain(IMAGE)])
    assert "300000 bytes of disk; 1000 are free" in controller.reports[-1]["fault"]["message"]
    assert controller.wanted == []


def test_a_missing_disk_is_a_fault_and_never_made_again(controllers, data):
    controller = controllers()
    controller.converge(spec(disks=(disk_of(None, build=False),)))
    report = controller.reports[-1]
    assert report["fault"]["message"] == "disk disk-1 of server server-1 is missing"
    assert not (data / "disks" / "disk-1.qcow2").exists()


def test_disks_stay_while_a_guest_could_not_be_removed(controllers, data):
    controllers().converge(spec(1, disks=(disk_of(None),)))
    graves = spec(2, tombstones=(Tombstone("disk", "disk-1", 2),))
    host = Host(data, "b", "b", lambda sha256: b"", failed={("domain", "server-1")})
    (step,) = disk.KIND.removals(host, graves)
    assert (step.result, step.apply) == ("failed", None)
    assert "domain server-1 failed" in step.fault.message
    for expected in ("deleted", "already absent"):
        (step,) = disk.KIND.removals(Host(data, "b", "b", lambda sha256: b""), graves)
        assert (step.result, step.why) == ("removed", expected)
        controllers().converge(graves)
    assert not (data / "disks" / "disk-1.qcow2").exists()


def test_a_controller_that_vanishes_leaves_a_host_that_others_can_use(controllers, data):
    first = controllers()
    first.open()
    first.until("hello")
    first.ours.shutdown(socket.SHUT_RDWR)
    first.thread.join(20)
    assert controllers().converge(spec())["type"] == "done"


def test_bytes_where_a_message_belongs_end_the_exchange(controllers):
    controller = controllers()
    controller.ours.sendall(wire.encode_bytes(b"x"))
    assert controller.until("error")["code"] == "protocol"


def test_actions_are_answered_by_their_ids(controllers, data):
    controllers().converge(spec())
    log = data / "servers" / "server-1" / "console.log"
    log.parent.mkdir(parents=True)
    log.write_text("login: ")
    log.with_name("console.log.0").write_text("booting\n")
    controller = controllers()
    controller.open("act")
    controller.until("hello")
    console = {"server_id": "server-1", "max_bytes": 1000}
    controller.send("act", id="1", name="console-log", args=console)
    assert controller.until("result") == {
        "type": "result",
        "id": "1",
        "ok": True,
        "value": {"text": "booting\nlogin: "},
    }
    controller.send("act", id="2", name="console-log", args={**console, "max_bytes": 3})
    assert controller.until("result")["value"] == {"text": "n: "}
    for name, args, words in (
        ("console-log", {"max_bytes": 1}, "needs the argument 'server_id'"),
        ("console-log", {"server_id": "../x", "max_bytes": 1}, "not an id"),
        ("explode", {}, "unknown action"),
        ("console-log", None, "in args"),
        ("purge", {"host_id": "another"}, "must name the host"),
        ("relay", {"subnet_id": "s", "address": "127.0.0.1", "port": 1}, "127.0.0.1 port 1"),
    ):
        controller.send("act", id="x", name=name, args=args)
        result = controller.until("result")
        assert (result["ok"], result["id"]) == (False, "x")
        assert words in result["fault"]["message"]
    controller.bye()


def test_waiting_for_a_lease(controllers, data):
    controllers().converge(spec())
    leases = data / "dhcp" / "subnet-1" / "leases"
    leases.parent.mkdir(parents=True)
    controller = controllers()
    controller.open("act")
    controller.until("hello")
    port = {"mac": "FA:16:3E:00:00:01", "address": "10.0.0.5", "subnet_id": "subnet-1"}
    wait = {"server_id": "s", "what": "dhcp", "ports": [port], "timeout_s": 0.3}
    controller.send("act", id="1", name="wait-guest", args=wait)
    assert "no dhcp within 0.3 s" in controller.until("result")["fault"]["message"]
    controller.send("act", id="2", name="wait-guest", args={**wait, "timeout_s": 20})
    leases.write_text("1700000000 fa:16:3e:00:00:01 10.0.0.5 vm 01:fa\n")
    assert controller.until("result")["ok"] is True
    controller.bye()


def test_waiting_for_an_ipv6_address(controllers, data):
    """A DHCPv6 lease names no MAC: it is found by its address."""
    controllers().converge(spec())
    leases = data / "dhcp" / "subnet-1" / "leases"
    leases.parent.mkdir(parents=True)
    controller = controllers()
    controller.open("act")
    controller.until("hello")
    port = {"mac": "fa:16:3e:00:00:01", "address": "fd00::5", "subnet_id": "subnet-1"}
    wait = {"server_id": "s", "what": "dhcp", "ports": [port], "timeout_s": 0.3}
    leases.write_text("duid 00:03\n1700000000 1040187396 fd00::6 vm 00:01\n")
    controller.send("act", id="1", name="wait-guest", args=wait)
    assert "no dhcp within 0.3 s" in controller.until("result")["fault"]["message"]
    leases.write_text("duid 00:03\n1700000000 1040187396 fd00::5 vm 00:01\n")
    controller.send("act", id="2", name="wait-guest", args=wait)
    assert controller.until("result")["ok"] is True
    controller.bye()


def test_images_that_nothing_needs_are_pruned(controllers, data):
    other = b"\3" * 1000
    unused = Image("image-2", digest_of(other), len(other), "raw")
    controllers(contents={unused.sha256: other}).converge(
        spec(1, images=(IMAGE, unused), disks=(disk_of(),))
    )
    controller = controllers()
    controller.converge(spec(2, disks=(disk_of(build=False),)))
    controller.send("act", id="1", name="prune-images", args={})
    value = controller.until("result")["value"]
    assert value == {"removed": [unused.sha256], "freed_bytes": 1000}
    assert sorted(path.name for path in (data / "images").iterdir()) == [
        IMAGE.sha256,
        f"{IMAGE.sha256}.json",
    ]
    controller.bye()


def test_the_accepted_spec_is_what_was_sent(controllers, data):
    controllers().converge(spec(7, images=(IMAGE,)))
    stored = json.loads((data / "spec.json").read_bytes())
    assert digest(stored) == digest(to_plain(spec(7, images=(IMAGE,))))
    assert (data / "spec.json").stat().st_mode & 0o777 == 0o600
