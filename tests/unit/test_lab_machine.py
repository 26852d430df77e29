"""Pids of lab machines: nothing is signalled or believed that the lab did not start."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackctl.errors import NotFound, StackctlError
from stackctl.lab import init, machine
from stackctl.lab.service import down, status, up


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def record(folder: Path, pid: int, start: int) -> None:
    (folder / "init.json").write_text(json.dumps({"pid": pid, "start_time": start}))


def test_our_own_init_is_known_and_killed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(tmp_path, sleeper.pid, start_time(sleeper.pid))
    assert machine.init_pid(tmp_path) == sleeper.pid
    machine.kill(tmp_path)
    # Still a zombie here, its parent: it counts as gone.
    assert machine.init_pid(tmp_path) is None
    assert sleeper.wait(5) == -9
    machine.kill(tmp_path)


def test_a_pid_that_others_got_since_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    record(tmp_path, sleeper.pid, start_time(sleeper.pid) - 1)
    assert machine.init_pid(tmp_path) is None
    machine.kill(tmp_path)
    assert sleeper.poll() is None


def test_a_machine_is_ready_only_after_a_complete_boot(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    record(tmp_path, sleeper.pid, start_time(sleeper.pid))
    (tmp_path / "boot_id").write_text("second")
    assert not machine.is_ready(tmp_path)
    (tmp_path / "ready").write_text("first")
    assert not machine.is_ready(tmp_path)
    (tmp_path / "ready").write_text("second")
    assert machine.is_ready(tmp_path)


def test_no_machine(tmp_path: Path) -> None:
    assert machine.init_pid(tmp_path) is None
    assert machine.boot_id(tmp_path) is None
    machine.kill(tmp_path)


def test_init_writes_the_record_that_is_read(tmp_path: Path) -> None:
    init.record_self(tmp_path)
    assert machine.init_pid(tmp_path) == int(Path("/proc/self").readlink().name)


def test_a_step_is_repeated_until_it_succeeds(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"test -e {mark} || {{ touch {mark}; exit 1; }}"
    init.attempt(["sh", "-c", script], deadline=time.monotonic() + 30)


def test_a_step_that_never_succeeds_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        init.attempt(["sh", "-c", "echo no such luck >&2; exit 1"], deadline=0)


@pytest.mark.parametrize(
    ("prefix", "hosts", "words"),
    [
        ("", 1, "prefix"),
        ("UPPER", 1, "prefix"),
        ("a-b", 1, "prefix"),
        ("toolongaprefix", 1, "prefix"),
        ("x; rm", 1, "prefix"),
        ("fine", 0, "1 to 50 hosts"),
        ("fine", 51, "1 to 50 hosts"),
    ],
)
def test_bad_words_are_refused_before_anything_is_made(
    tmp_path: Path, prefix: str, hosts: int, words: str
) -> None:
    folder = tmp_path / "lab"
    with pytest.raises(StackctlError, match=words):
        up(folder, prefix, hosts, authorized_key="", progress=lambda _: None)
    assert not folder.exists()


def test_a_folder_that_mount_cannot_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackctlError, match="mount options"):
        up(tmp_path / "a,b", "fine", 1, authorized_key="", progress=lambda _: None)


def test_a_folder_without_a_lab(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no lab"):
        status(tmp_path)
    down(tmp_path / "absent")
    assert tmp_path.exists()
