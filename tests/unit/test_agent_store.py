"""What a host remembers."""

from __future__ import annotations

import hashlib
import threading

import pytest

from agent import layout, store
from agent.spec import HostSettings, HostSpec, to_plain
from agent.store import Refused, Store
from agent.system import files


def spec(serial: int, nonce: str) -> HostSpec:
    return HostSpec(1, "cloud", "host", serial, nonce, HostSettings())


@pytest.fixture
def home(tmp_path):
    return Store(tmp_path / "data")


def test_a_host_belongs_to_one_cloud(home):
    assert home.check_claim("cloud", "host") is False
    home.claim("cloud", "host")
    assert home.check_claim("cloud", "host") is True
    for other in (("cloud", "other"), ("other", "host")):
        with pytest.raises(Refused) as caught:
            home.check_claim(*other)
        assert caught.value.code == "claim"


def test_data_without_a_claim_is_not_touched(home):
    (home.data / "disks").mkdir(parents=True)
    with pytest.raises(Refused, match="no claim file"):
        home.check_claim("cloud", "host")


def test_the_delivered_agent_is_no_data(home):
    (home.data / "agent").mkdir(parents=True)
    assert home.check_claim("cloud", "host") is False


@pytest.mark.parametrize(
    ("serial", "nonce", "stale"),
    [(6, "b", False), (5, "a", False), (5, "b", True), (4, "a", True)],
)
def test_only_later_specs_are_accepted(home, serial, nonce, stale):
    home.claim("cloud", "host")
    home.accept(to_plain(spec(5, "a")))
    if stale:
        with pytest.raises(Refused) as caught:
            home.check_newer(spec(serial, nonce))
        assert caught.value.code == "stale"
    else:
        home.check_newer(spec(serial, nonce))
    assert home.spec() == spec(5, "a")


def test_a_spec_of_a_later_agent_is_not_overruled(home):
    home.claim("cloud", "host")
    home.accept({**to_plain(spec(5, "a")), "format": 99})
    with pytest.raises(Refused) as caught:
        home.check_newer(spec(6, "b"))
    assert caught.value.code == "format"


def test_the_lock_names_its_holder(home):
    with home.lock(1):
        outcome = []

        def attempt():
            try:
                with Store(home.data).lock(0.1):
                    outcome.append("got it")
            except Refused as refused:
                outcome.append(refused)

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert outcome[0].code == "busy"
    assert '"pid"' in str(outcome[0])
    assert '"since"' in str(outcome[0])
    with home.lock(0):
        pass


def test_blobs_are_kept_by_hash(home):
    home.claim("cloud", "host")
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert home.lacking([sha256, sha256]) == [sha256]
    home.put_blob(sha256, b"content")
    assert home.lacking([sha256]) == []
    assert home.blob(sha256) == b"content"
    assert (home.data / "blobs").stat().st_mode & 0o777 == 0o700
    with pytest.raises(ValueError, match="SHA-256"):
        home.put_blob("0" * 64, b"content")
    home.drop_blobs([])
    assert home.lacking([sha256]) == [sha256]


def test_pending_marks_survive_until_cleared(tmp_path):
    store.mark_pending(tmp_path, "reload-dhcp")
    assert store.is_pending(tmp_path, "reload-dhcp")
    store.clear_pending(tmp_path, "reload-dhcp")
    assert not store.is_pending(tmp_path, "reload-dhcp")


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "a/b", ".", "..", ".x", "", "a\0b", "x" * 129, "a∕b", "a\nb", "-x"]
)
@pytest.mark.parametrize(
    "place",
    [layout.drive, layout.server, layout.console_log, layout.leases, layout.image],
)
def test_no_name_leads_outside_the_folder(tmp_path, place, name):
    with pytest.raises(layout.UnsafeName):
        place(tmp_path, name)
    with pytest.raises(layout.UnsafeName):
        layout.disk(tmp_path, name, "raw")
    with pytest.raises(layout.UnsafeName):
        layout.disk(tmp_path, "id", name)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    files.write_atomic(path, b"one", 0o600)
    with pytest.raises(TypeError):
        files.write_atomic(path, "not bytes")
    files.write_atomic(path, b"two", 0o644)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_planted_link_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".file.part").symlink_to(victim)
    files.write_atomic(tmp_path / "file", b"new")
    assert victim.read_text() == "precious"
    with pytest.raises(FileExistsError):
        files.create(victim)
