"""The lab's state file and its locks."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stackctl.errors import NotFound
from stackctl.lab import store
from stackctl.lab.errors import LabError
from stackctl.lab.models import LabState

ROOT = Path(__file__).parents[2]
STATE = LabState("abc", "172.30.4.0/24", 2, "11111111-2222-3333-4444-555555555555")
HOLDER = """
import sys
from pathlib import Path
from stackctl.lab import commands, store
folder = Path(sys.argv[1])
with store.locked(folder):
    commands.run(["sh", "-c", ': > "$1/begun"; sleep 0.5; : > "$1/ended"', "sh", str(folder)])
"""


def test_state_survives(tmp_path: Path) -> None:
    store.save(tmp_path, STATE)
    assert store.load(tmp_path) == STATE
    assert (tmp_path / "lab.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["lab.json"]


def test_no_state_is_no_lab(tmp_path: Path) -> None:
    assert store.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"prefix": "x"}', '{"colour": "red"}'])
def test_foreign_state_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.json").write_text(text)
    with pytest.raises(LabError, match="not the state of a lab"):
        store.load(tmp_path)


def test_lock_is_exclusive_and_leaves_no_file(tmp_path: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with store.locked(tmp_path):
            entered.set()

    thread = threading.Thread(target=second)
    with store.locked(tmp_path):
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    thread.join(5)
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_removed_and_remade_folder_is_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    seen: list[int] = []

    def second() -> None:
        with store.locked(folder):
            seen.append(folder.stat().st_ino)

    thread = threading.Thread(target=second)
    with store.locked(folder):
        thread.start()
        threading.Event().wait(0.1)
        shutil.rmtree(folder)
        (tmp_path / "takes-the-old-inode").mkdir()
        folder.mkdir()
    thread.join(5)
    assert seen == [folder.stat().st_ino]


def test_lock_of_a_removed_folder_fails_plainly(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no lab"), store.locked(tmp_path / "absent"):
        pass


def test_a_tool_that_outlived_its_command_made_things_in_a_removed_lab(
    tmp_path: Path,
) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT) as command:
        while not (tmp_path / "begun").exists():
            assert command.poll() is None
        command.kill()
    with store.locked(tmp_path):
        assert (tmp_path / "ended").exists()
