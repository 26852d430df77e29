"""Images from host to host: real TLS on loopback, and the way back to the controller."""

import hashlib
import socket
import threading

import pytest

from agent import images
from agent.copies import peers
from agent.copies.peers import Peer
from agent.faults import StepFailed
from agent.images import Offer
from agent.spec import Image
from agent.store import Store
from stackctl.operation.spreading import make_certificate

CONTENT = b"\5" * 700_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
IMAGE = Image("image-1", SHA256, len(CONTENT), "raw")
CERTIFICATE, KEY = make_certificate()


def pieces(*parts):
    yield from parts


def fetcher(folder, *offers):
    """A host that is offered these, one after the other; ``asked`` holds why it asked."""
    left = list(offers)
    asked = []

    def ask(image, why):
        asked.append(why)
        return left.pop(0)

    made = images.Fetcher(folder, lambda message: None, ask, lambda: None)
    return made, asked


@pytest.fixture
def giver(tmp_path, monkeypatch):
    """A host that has the image, and the end of its process."""
    monkeypatch.setattr(peers._Server, "_started", None)
    fetcher(tmp_path / "giver", Offer(pieces(CONTENT)))[0].fetch(IMAGE)
    yield Store(tmp_path / "giver")
    server = peers._Server._started
    if server is not None:
        server.shutdown()
        server.server_close()


def share(store, token="t", sha256=SHA256):
    given = {"address": "127.0.0.1", "certificate": CERTIFICATE, "key": KEY}
    told = peers.share_image(store, {**given, "sha256": sha256, "token": token}, lambda: None)
    return Peer("127.0.0.1", told["port"], token, CERTIFICATE)


def test_one_host_gives_and_another_takes(giver, tmp_path):
    offer = Offer(peers.fetch(share(giver), SHA256), from_peer=True)
    taker, asked = fetcher(tmp_path / "taker", offer)
    taker.fetch(IMAGE)
    assert images.cached(tmp_path / "taker", SHA256).size_bytes == len(CONTENT)
    assert asked == [""]


def test_a_token_is_good_for_one_copy(giver):
    one, two = share(giver, "one"), share(giver, "two")
    assert one.port == two.port
    assert b"".join(peers.fetch(one, SHA256)) == CONTENT
    with pytest.raises(StepFailed, match="403"):
        list(peers.fetch(one, SHA256))
    assert b"".join(peers.fetch(two, SHA256)) == CONTENT


@pytest.mark.parametrize("name", ["0" * 64, "", "../claim.json", f"{SHA256}.json"])
def test_a_token_is_good_for_one_image(giver, name):
    with pytest.raises(StepFailed, match=r"40[03]"):
        list(peers.fetch(share(giver), name))


def test_nobody_else_is_taken_for_the_giver(giver):
    peer = share(giver)
    other, _ = make_certificate()
    with pytest.raises(StepFailed, match="certificate verify failed"):
        list(peers.fetch(Peer(peer.address, peer.port, peer.token, other), SHA256))
    with pytest.raises(StepFailed, match="403"):
        list(peers.fetch(Peer(peer.address, peer.port, "guessed", CERTIFICATE), SHA256))
    assert b"".join(peers.fetch(peer, SHA256)) == CONTENT


def test_who_says_nothing_holds_nobody_up(giver):
    peer = share(giver)
    with socket.create_connection(("127.0.0.1", peer.port)):
        assert b"".join(peers.fetch(peer, SHA256)) == CONTENT


def test_what_is_not_in_the_cache_is_not_given(giver):
    with pytest.raises(StepFailed, match="is not in the cache"):
        share(giver, sha256="0" * 64)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (CONTENT[:-1], "ended after"),
        (CONTENT + b"x", "is longer than"),
        (b"X" + CONTENT[1:], "has the SHA-256"),
        (b"", "ended after 0"),
    ],
)
def test_a_bad_copy_is_asked_of_the_controller(tmp_path, given, why):
    taker, asked = fetcher(tmp_path, Offer(pieces(given), from_peer=True), Offer(pieces(CONTENT)))
    taker.fetch(IMAGE)
    assert images.cached(tmp_path, SHA256) is not None
    assert asked[0] == ""
    assert why in asked[1]


def test_a_bad_copy_of_the_controller_is_the_end(tmp_path):
    taker, asked = fetcher(tmp_path, Offer(pieces(CONTENT[:-1])))
    with pytest.raises(StepFailed, match="ended after"):
        taker.fetch(IMAGE)
    assert len(asked) == 1
    assert taker.failures().keys() == {SHA256}


def test_a_giver_that_is_gone(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    gone = Peer("127.0.0.1", port, "t", CERTIFICATE)
    taker, asked = fetcher(
        tmp_path, Offer(peers.fetch(gone, SHA256), from_peer=True), Offer(pieces(CONTENT))
    )
    taker.fetch(IMAGE)
    assert "127.0.0.1" in asked[1]
    assert threading.active_count() < 50
