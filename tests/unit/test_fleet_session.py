"""Exchanges with agents that do their work, that refuse, that vanish, and that are hostile."""

import hashlib
import os
import struct
import threading
from dataclasses import asdict

import pytest

from agent import wire
from agent.spec import Disk, Image, to_plain
from stackctl.errors import (
    AgentFailed,
    Conflict,
    HostAhead,
    HostUnreachable,
    ResourceFailed,
    StackctlError,
    StateLocked,
)
from stackctl.fleet import ChannelLost
from stackctl.fleet.types import Accepted, Peer

from .fake_agent import HELLO, Exchange

REPORT = {"kind": "domain", "id": "d1", "result": "made", "version": 3}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_hello_tells_what_the_host_has_accepted():
    def play(agent):
        opened = agent.hear().message
        assert opened["cloud_id"] == "c1"
        assert opened["host_id"] == "h1"
        assert opened["mode"] == "converge"
        assert opened["protocol"] == wire.PROTOCOL
        agent.say({"type": "ping"}, HELLO)
        assert agent.hear().message == {"type": "bye"}

    with Exchange(play) as session:
        assert session.hello.accepted == Accepted(7, "n7")
        assert session.hello.boot_id == "boot"
        assert session.hello.facts == {"vcpus": 4, "agent": "f" * 64}


def test_images_that_the_host_lacks_are_sent_in_pieces(tmp_path):
    content = os.urandom(wire.BLOB_CHUNK_BYTES * 2 + 17)
    (tmp_path / "image").write_bytes(content)
    image = Image("i1", sha256(content), len(content), "qcow2")
    missing = Image("i2", "0" * 64, 5, "raw")
    got, progress = [], []

    def play(agent):
        agent.hear()
        agent.say({"type": "want", "hashes": [image.sha256]})
        got.append(agent.blob())
        agent.say({"type": "want", "hashes": [missing.sha256]})
        got.append(agent.blob())
        agent.say(HELLO)
        agent.hear()

    files = {image.sha256: tmp_path / "image", missing.sha256: tmp_path / "gone"}
    how = {"progress": lambda *step: progress.append(step)}

    def open_image(name):
        return files[name].open("rb")

    with Exchange(play, images=(image, missing), open_image=open_image, session=how):
        pass
    assert got[0] == ({"type": "blob", "sha256": image.sha256, "size_bytes": len(content)}, content)
    # An image that cannot be read concerns those who need it; the exchange goes on.
    assert "No such file" in got[1][0]["error"]
    assert [done for _, done, _ in progress][-1] == len(content)


def test_an_image_from_another_host_or_from_here_after_all(tmp_path):
    content = b"an image"
    (tmp_path / "image").write_bytes(content)
    image = Image("i1", sha256(content), len(content), "raw")
    asked, got = [], []

    def peer(name, failed):
        asked.append((name, failed))
        return None if failed else Peer("192.0.2.7", 4711, "token", "certificate")

    def play(agent):
        agent.hear()
        agent.say({"type": "want", "hashes": [image.sha256]})
        got.append(agent.hear().message)
        agent.say({"type": "want", "hashes": [image.sha256], "why": "it does not answer"})
        got.append(agent.blob())
        agent.say(HELLO | {"lacking": {image.sha256: "no\nspace"}})
        agent.hear()

    def open_image(name):
        return (tmp_path / "image").open("rb")

    with Exchange(play, images=(image,), open_image=open_image, session={"peer": peer}) as session:
        assert session.hello.lacking == {image.sha256: "no space"}
    offered = {"address": "192.0.2.7", "port": 4711, "token": "token", "certificate": "certificate"}
    assert got[0] == {"type": "blob", "sha256": image.sha256, "peer": offered}
    assert got[1][1] == content
    assert asked == [(image.sha256, False), (image.sha256, True)]


def test_an_image_that_the_exchange_did_not_announce_is_sent_with_the_spec(tmp_path):
    content = b"an image that was pruned in between"
    (tmp_path / "image").write_bytes(content)
    name = sha256(content)
    got = []

    def play(agent):
        agent.hear()
        agent.say(HELLO)
        agent.hear()
        agent.say({"type": "want", "hashes": [name]})
        got.append(agent.blob())
        agent.say({"type": "done"})
        agent.hear()

    def open_image(asked):
        return (tmp_path / "image").open("rb")

    with Exchange(play, open_image=open_image) as session:
        session.converge({"images": [{"sha256": name}]}, None, None)
    assert got == [({"type": "blob", "sha256": name, "size_bytes": len(content)}, content)]


def copy_of(source_id):
    return Disk("new", 1, "server", "root", "qcow2", 1, True, None, source_id, "host-a")


def test_a_disk_of_another_host_is_opened_or_said_to_be_out_of_reach():
    asked, got = [], []
    offered = Peer("192.0.2.7", 4711, "token", "certificate")

    def disk_peer(disk_id, host_id, failed):
        asked.append((disk_id, host_id, failed))
        if failed:
            raise HostUnreachable("Host a does not answer.")
        return offered

    def play(agent):
        agent.hear()
        agent.say({"type": "want", "disk": "old"})
        got.append(agent.hear().message)
        agent.say(HELLO)
        agent.hear()
        agent.say({"type": "want", "disk": "old", "why": "it broke off"})
        got.append(agent.hear().message)
        agent.say({"type": "done"})
        agent.hear()

    how = {"copies": (copy_of("old"),), "session": {"disk_peer": disk_peer}}
    with Exchange(play, **how) as session:
        session.converge({"disks": [to_plain(copy_of("old"))]}, None, None)
    assert got[0] == {"type": "peer", "disk": "old", "peer": asdict(offered)}
    assert got[1] == {"type": "peer", "disk": "old", "error": "Host a does not answer"}
    assert asked == [("old", "host-a", False), ("old", "host-a", True)]


@pytest.mark.parametrize("wanted", ["another", None, ["old"], ""])
def test_no_host_gets_a_disk_that_is_not_for_it(wanted):
    def play(agent):
        agent.hear()
        agent.say({"type": "want", "disk": wanted})

    with (
        pytest.raises(AgentFailed, match="asks for a disk that is not for it"),
        Exchange(play, copies=(copy_of("old"),)),
    ):
        pass


def test_converge_answers_what_the_agent_wants_and_hands_reports_on():
    secret = b"#cloud-config"
    spec = {"servers": [{"guest": {"user_data_sha256": sha256(secret)}}]}
    steps, reports = [], []

    def play(agent):
        agent.hear()
        agent.say(HELLO)
        assert agent.hear().message == {"type": "spec", "spec": spec}
        agent.say({"type": "want", "hashes": [sha256(secret)]})
        assert agent.blob()[1] == secret
        agent.say({"type": "step", "kind": "domain", "id": "d1", "result": "made", "why": "new"})
        agent.say({"type": "reports", "reports": [REPORT]}, {"type": "ping"})
        agent.say({"type": "reports", "reports": []}, {"type": "done", "points": 4})
        agent.hear()

    with Exchange(play, session={"on_step": steps.append}) as session:
        done = session.converge(spec, {sha256(secret): secret}.__getitem__, reports.extend)
    assert done["points"] == 4
    assert [report.id for report in reports] == ["d1"]
    assert steps[0]["why"] == "new"


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        ("busy", StateLocked, 10),
        ("claim", Conflict, 4),
        ("stale", HostAhead, 11),
        ("protocol", AgentFailed, 30),
        ("format", AgentFailed, 30),
        ("environment", AgentFailed, 30),
        ("bug", AgentFailed, 30),
        (None, AgentFailed, 30),
        (["busy"], AgentFailed, 30),
    ],
)
def test_what_an_agent_refuses_is_told_by_its_own_error(code, kind, status):
    def play(agent):
        agent.hear()
        agent.say({"type": "error", "code": code, "message": "pid 7 \x1b[31mholds it"})

    with pytest.raises(kind) as caught, Exchange(play):
        pass
    assert caught.value.exit_status == status
    assert "node1" in caught.value.message
    assert "pid 7 [31mholds it" in caught.value.message


HOSTILE = {
    "a huge length": struct.pack(">cI", b"J", 0xFFFFFFFF),
    "too long for a reply": struct.pack(">cI", b"J", wire.MAX_REPLY_BYTES + 1),
    "bytes that are too long": struct.pack(">cI", b"B", wire.BLOB_CHUNK_BYTES + 1),
    "another kind": struct.pack(">cI", b"X", 3) + b"abc",
    "a banner": b"Welcome to node1!\nLast login: never\n",
    "not JSON": struct.pack(">cI", b"J", 4) + b"{{{{",
    "no object": struct.pack(">cI", b"J", 2) + b"[]",
    "no type": struct.pack(">cI", b"J", 2) + b"{}",
    "deep JSON": struct.pack(">cI", b"J", 100_000) + b"[" * 100_000,
    "a huge number": struct.pack(">cI", b"J", 10_000) + b"1" * 10_000,
    "bytes where a message belongs": wire.encode_bytes(b"abc"),
    "a message that is none": wire.encode_message({"type": "\x1b[2Jshutdown"}),
    "a report before the spec": wire.encode_message({"type": "reports", "reports": []}),
    "a content that is not its own": wire.encode_message({"type": "want", "hashes": ["a" * 64]}),
    "a hello without sense": wire.encode_message({**HELLO, "accepted": {"serial": "many"}}),
    "another protocol": wire.encode_message({**HELLO, "protocol": 99}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_makes_no_sense_ends_the_exchange(what):
    def play(agent):
        agent.hear()
        agent.raw(HOSTILE[what])

    with pytest.raises(AgentFailed) as caught, Exchange(play):
        pass
    assert "\x1b" not in caught.value.message


def test_silence_is_a_loss():
    def play(agent):
        agent.hear()
        agent.hear()

    with pytest.raises(ChannelLost, match="not a word") as caught, Exchange(play, timeout_s=0.3):
        pass
    assert not caught.value.spec_sent
    assert caught.value.exit_status == 20


def test_an_agent_that_dies_is_told_with_its_last_words():
    def play(agent):
        agent.hear()

    words = "Traceback ...\nModuleNotFoundError: No module named 'libvirt'"
    with (
        pytest.raises(ChannelLost, match="No module named 'libvirt'"),
        Exchange(play, last_words=words),
    ):
        pass


def conversation() -> list[bytes]:
    return [
        wire.encode_message(HELLO),
        wire.encode_message({"type": "reports", "reports": [REPORT]}),
        wire.encode_message({"type": "done"}),
    ]


@pytest.mark.parametrize("cut", range(0, sum(map(len, conversation())), 7))
def test_a_channel_that_breaks_at_any_byte_is_a_loss(cut):
    """Before the spec was sent nothing was done; afterwards nobody knows."""
    hello, *rest = conversation()
    reports = []

    def play(agent):
        agent.hear()
        agent.raw(hello[:cut])
        if cut >= len(hello):
            agent.hear()
            agent.raw(b"".join(rest)[: cut - len(hello)])

    with pytest.raises(HostUnreachable) as caught, Exchange(play) as session:
        session.converge({}, lambda _: b"", reports.extend)
    assert isinstance(caught.value, ChannelLost)
    assert caught.value.spec_sent == (cut >= len(hello))
    assert len(reports) == (cut >= len(hello) + len(rest[0]))


def test_a_host_that_reads_nothing_is_a_loss(monkeypatch):
    release = threading.Event()

    def play(agent):
        agent.hear()
        agent.say(HELLO)
        release.wait(10)

    with Exchange(play, timeout_s=0.3) as session:
        with pytest.raises(ChannelLost) as caught:
            session.converge({"x": "y" * 8_000_000}, lambda _: b"", lambda _: None)
        release.set()
    assert caught.value.spec_sent


def test_actions_give_values_or_the_hosts_words():
    def play(agent):
        agent.hear()
        agent.say(HELLO)
        first = agent.hear().message
        assert (first["name"], first["args"]) == ("console-log", {"server_id": "s"})
        agent.say({"type": "result", "id": "another", "ok": True, "value": "late"})
        agent.say({"type": "result", "id": first["id"], "ok": True, "value": {"text": "a\x1b[0mb"}})
        second = agent.hear().message
        assert second["id"] == "op-1"
        fault = {"message": "no such domain"}
        agent.say({"type": "result", "id": second["id"], "ok": False, "fault": fault})
        agent.hear()

    with Exchange(play, mode="act") as session:
        assert session.act("console-log", {"server_id": "s"}) == {"text": "a[0mb"}
        with pytest.raises(ResourceFailed, match="no such domain"):
            session.act("console-log", {"server_id": "t", "action_id": "op-1"})


def test_several_actions_of_one_session_wait_side_by_side():
    count = 8

    def play(agent):
        agent.hear()
        agent.say(HELLO)
        asked = [agent.hear().message for _ in range(count)]
        for message in reversed(asked):
            agent.say({"type": "ping"})
            value = message["args"]["n"]
            agent.say({"type": "result", "id": message["id"], "ok": True, "value": value})
        agent.hear()

    results = {}
    with Exchange(play, mode="act") as session:

        def ask(n):
            results[n] = session.act("wait-guest", {"n": n})

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert results == {n: n for n in range(count)}


def test_an_action_that_does_not_end_is_given_up():
    def play(agent):
        agent.hear()
        agent.say(HELLO)
        agent.hear()
        for _ in range(20):
            agent.say({"type": "ping"})
            if threading.Event().wait(0.05):
                break
        agent.hear()

    with Exchange(play, mode="act") as session, pytest.raises(AgentFailed, match=r"0\.2 s"):
        session.act("wait-guest", {}, timeout_s=0.2)


def test_a_relay_carries_bytes_both_ways_until_the_far_side_ends():
    def play(agent):
        agent.hear()
        agent.say(HELLO)
        asked = agent.hear().message
        assert asked["args"] == {"subnet_id": "n1", "address": "10.0.0.4", "port": 22}
        agent.say({"type": "result", "id": asked["id"], "ok": True, "value": {}})
        assert agent.hear().data == b"hello guest"
        agent.say_bytes(b"SSH-2.0-dropbear")
        agent.say_bytes(b"")
        agent.hear()

    ours, theirs = os.pipe(), os.pipe()
    try:
        os.write(ours[1], b"hello guest")
        with Exchange(play, mode="act") as session:
            session.relay("n1", "10.0.0.4", 22, ours[0], theirs[1])
        assert os.read(theirs[0], 100) == b"SSH-2.0-dropbear"
    finally:
        for descriptor in (*ours, *theirs):
            os.close(descriptor)


def test_pings_are_said_while_there_is_nothing_else_to_say(monkeypatch):
    monkeypatch.setattr(wire, "PING_INTERVAL_S", 0.1)
    heard = []

    def play(agent):
        agent.hear()
        heard.append(agent.hear_any().message)
        agent.say(HELLO)
        agent.hear()

    with Exchange(play):
        pass
    assert heard == [{"type": "ping"}]


def test_nothing_of_a_session_hangs_when_it_is_aborted_elsewhere():
    begun = threading.Event()

    def play(agent):
        agent.hear()
        agent.say(HELLO)
        agent.hear()
        begun.set()
        agent.hear()

    with Exchange(play) as session:
        threading.Thread(target=lambda: begun.wait(5) and session.abort(), daemon=True).start()
        with pytest.raises(StackctlError):
            session.converge({}, lambda _: b"", lambda _: None)


# --- files that hosts send ----------------------------------------------------------------------


def sent(*after):
    """An agent that answers ``snapshot`` with these messages and bytes."""

    def play(agent):
        agent.hear()
        agent.say(HELLO)
        asked = agent.hear().message
        for item in after:
            if isinstance(item, bytes):
                agent.say_bytes(item)
            else:
                agent.say({"id": asked["id"], **item})

    return play


ENDED = {"type": "result", "ok": True, "value": {"sha256": "abc"}}
REFUSED = {"type": "result", "ok": False, "fault": {"message": "no space left"}}


def test_a_file_comes_in_pieces_and_then_its_result():
    begun = {"type": "stream", "size_bytes": 7}
    steps = {"type": "step", "kind": "snapshot"}
    with Exchange(sent(steps, begun, b"four", b"for", steps, ENDED), mode="act") as session:
        incoming = session.stream("snapshot", {})
        assert incoming.size_bytes == 7
        assert list(incoming.pieces()) == [b"four", b"for"]
        assert incoming.value == {"sha256": "abc"}


def test_an_empty_file_is_one():
    with Exchange(sent({"type": "stream", "size_bytes": 0}, ENDED), mode="act") as session:
        incoming = session.stream("snapshot", {})
        assert list(incoming.pieces()) == []
        assert incoming.value == {"sha256": "abc"}


def test_a_file_that_cannot_be_made_is_refused_with_the_hosts_words():
    with (
        Exchange(sent(REFUSED), mode="act") as session,
        pytest.raises(ResourceFailed, match="no space left"),
    ):
        session.stream("snapshot", {})


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ([b"abc", REFUSED], "no space left"),
        ([b"abc", ENDED], "3 of 5 bytes"),
        ([b"abcdef", ENDED], "did not send what it announced"),
        ([b"abc", {"type": "done"}], "broke the file off"),
        ([b"abc"], "broke off"),
    ],
)
def test_a_file_that_ends_otherwise_than_announced_is_an_error(after, words):
    begun = {"type": "stream", "size_bytes": 5}
    with Exchange(sent(begun, *after), mode="act") as session:
        incoming = session.stream("snapshot", {})
        with pytest.raises(StackctlError, match=words):
            list(incoming.pieces())


@pytest.mark.parametrize("size", [-1, "5", None, 2**64])
def test_a_size_that_is_none_is_refused(size):
    with (
        Exchange(sent({"type": "stream", "size_bytes": size}), mode="act") as session,
        pytest.raises(AgentFailed),
    ):
        session.stream("snapshot", {})
