"""What runs first on a host: installing the agent once, whole, and nobody else's."""

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import wire
from stackctl.fleet import bootstrap, delivery

PYTHON = "/usr/bin/python3"
STAND_IN = """
import os, sys
from agent import wire
assert sys.argv[1:] == ["serve"], sys.argv
os.write(1, wire.encode_message({"type": "hello", "text": TEXT, "file": __file__}))
os.read(0, 1)
"""


def archive(tmp_path: Path, text: str = "one") -> bytes:
    """A stand-in for the agent's archive."""
    folder = tmp_path / f"source-{text}"
    folder.mkdir(exist_ok=True)
    (folder / "init").write_text("")
    (folder / "main").write_text(f"TEXT = {text!r}\n{STAND_IN}")
    files = {
        "agent/__init__.py": folder / "init",
        "agent/__main__.py": folder / "main",
        "agent/wire.py": Path(wire.__file__),
    }
    return delivery.pack(files)


class Started:
    """The bootstrap as a process, fed as the controller feeds it."""

    def __init__(self, base: Path, content: bytes, sha256: str | None = None) -> None:
        self.sha256 = sha256 or hashlib.sha256(content).hexdigest()
        self._content = content
        source = delivery.bootstrap_source()
        start = f"import sys;exec(sys.stdin.buffer.read({len(source)}))"
        words = [PYTHON, "-I", "-c", start, self.sha256, str(len(content)), str(base)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._process.stdin.write(source)
        mark = self._process.stdout.read(len(bootstrap.MARK))
        assert mark == bootstrap.MARK
        self.first = self.hear()

    def hear(self) -> dict:
        return wire.read_frame(self._process.stdout.read).message

    def push(self, content: bytes | None = None) -> None:
        self._process.stdin.write(wire.encode_message({"type": "blob"}))
        content = self._content if content is None else content
        for at in range(0, len(content), 1000):
            self._process.stdin.write(wire.encode_bytes(content[at : at + 1000]))

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        for stream in (self._process.stdout, self._process.stderr):
            stream.close()


def run(base: Path, content: bytes) -> tuple[bool, dict]:
    """Start the agent, sending it if it is wanted: (was it there, what it said)."""
    with Started(base, content) as started:
        assert started.first["type"] == "agent"
        if not started.first["present"]:
            started.push()
        return started.first["present"], started.hear()


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "host"
    folder.mkdir(mode=0o755)
    return folder


def test_it_is_sent_once_and_then_runs_from_its_folder(base, tmp_path):
    content = archive(tmp_path)
    present, hello = run(base, content)
    assert (present, hello["text"]) == (False, "one")
    sha256 = hashlib.sha256(content).hexdigest()
    assert hello["file"] == str(base / "agent" / sha256 / "agent" / "__main__.py")
    assert run(base, content) == (True, hello)
    assert list((base / "agent" / sha256 / "agent").glob("__pycache__/*.pyc"))
    assert [path.name for path in (base / "agent").glob(".new-*")] == []


def test_login_shells_may_print_before(base, tmp_path):
    """The controller looks for the mark; what comes before is not ours."""
    assert bootstrap.MARK.startswith(b"\n")


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "added", "unmarked"])
def test_a_damaged_one_is_sent_again(base, tmp_path, damage):
    content = archive(tmp_path)
    run(base, content)
    folder = base / "agent" / hashlib.sha256(content).hexdigest()
    victim = folder / "agent" / "wire.py"
    if damage == "changed":
        time.sleep(0.01)
        victim.write_text(victim.read_text().replace("J", "K"))
    elif damage == "cut":
        os.truncate(victim, 10)
    elif damage == "gone":
        victim.unlink()
    elif damage == "added":
        (folder / "agent" / "json.py").write_text("evil = True")
    else:
        (folder / bootstrap.COMPLETE).unlink()
    assert run(base, content)[0] is False
    assert run(base, content) == (True, run(base, content)[1])
    assert not (folder / "agent" / "json.py").exists()


def test_an_interrupted_installation_leaves_nothing_that_runs(base, tmp_path):
    content = archive(tmp_path)
    with Started(base, content) as started:
        started._process.stdin.write(wire.encode_message({"type": "blob"}))
        started._process.stdin.write(wire.encode_bytes(content[:100]))
        started._process.stdin.close()
        assert started.hear()["message"] == "the controller is gone"
    half = base / "agent" / f".new-{hashlib.sha256(content).hexdigest()}"
    half.mkdir(parents=True)
    (half / "left").write_text("")
    assert run(base, content)[0] is False
    assert not half.exists()


def test_what_does_not_have_the_promised_hash_is_not_unpacked(base, tmp_path):
    content = archive(tmp_path)
    with Started(base, content) as started:
        started.push(content[:-1] + b"x")
        error = started.hear()
    assert error["code"] == "environment"
    assert "damaged" in error["message"]
    assert not (base / "agent").exists()


@pytest.mark.parametrize("place", ["", "agent"])
def test_folders_that_others_may_write_are_refused(base, tmp_path, place):
    content = archive(tmp_path)
    (base / "agent").mkdir()
    (base / place).chmod(0o777)
    with Started(base, content) as started:
        assert started.first["present"] is False
        started.push()
        assert "open to others" in started.hear()["message"]


def test_a_symlink_in_its_place_does_not_run(base, tmp_path):
    content = archive(tmp_path)
    run(base, content)
    folder = base / "agent" / hashlib.sha256(content).hexdigest()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert run(base, content)[0] is False
    assert not folder.is_symlink()


def test_an_archive_that_leads_outside_is_refused(base, tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as evil:
        evil.writestr("../../escaped.py", "x = 1")
    with Started(base, path.read_bytes()) as started:
        started.push()
        assert "outside" in started.hear()["message"]
    assert not list(tmp_path.glob("**/escaped.py"))


def test_two_versions_are_kept_and_one_that_runs(base, tmp_path):
    first = archive(tmp_path, "first")
    with Started(base, first) as running:
        running.push()
        assert running.hear()["text"] == "first"
        for text in ("second", "third", "fourth"):
            run(base, archive(tmp_path, text))
        kept = {path.name for path in (base / "agent").iterdir() if not path.name.startswith(".")}
        assert len(kept) == 3
        assert running.sha256 in kept
    run(base, archive(tmp_path, "fifth"))
    assert len([path for path in (base / "agent").iterdir() if path.name[0] != "."]) == 2


def test_many_may_send_the_same_at_once(base, tmp_path):
    content = archive(tmp_path)
    with ThreadPoolExecutor(6) as pool:
        hellos = list(pool.map(lambda _: run(base, content)[1], range(6)))
    assert {hello["text"] for hello in hellos} == {"one"}
    assert len([path for path in (base / "agent").iterdir() if path.name[0] != "."]) == 1


def test_an_old_python_can_still_say_so():
    """The file holds nothing that Python 3.6 cannot parse."""
    import ast

    ast.parse(delivery.bootstrap_source(), feature_version=(3, 6))
    assert sys.version_info >= (3, 9)
