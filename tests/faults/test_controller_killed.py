"""The controller dies by kill -9 at every point that another could notice; any next command mends.

The points are counted, not named: a new one is covered by being there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.fleet import Fleet

KILLED = -9
MAX_POINTS = 80


def points(fleet: Fleet, tmp_path: Path, *argv: str) -> int:
    """Run a command to its end and return how many points it passed."""
    file = tmp_path / f"points-{argv[0]}"
    fleet.run(*argv, STACKCTL_KILL_COUNT_FILE=str(file))
    count = len(file.read_text().splitlines())
    assert 4 < count < MAX_POINTS
    return count


def kill(fleet: Fleet, at: int, *argv: str) -> bool:
    """Run a command that dies at a point, if it gets that far; whether it came to its end."""
    result = fleet.run(*argv, exit=None, STACKCTL_KILL_AT=str(at))
    assert result.exit in (KILLED, 0), str(result)
    return result.exit == 0


def converge(fleet: Fleet, _: Sequence[str]) -> None:
    fleet.run("converge", "--all")


def recover(fleet: Fleet, _: Sequence[str]) -> None:
    fleet.run("recover")


def boot_another(fleet: Fleet, _: Sequence[str]) -> None:
    fleet.boot("next", "--count", "2")
    fleet.run("delete", "--yes", "next-1", "next-2")


def repeat(fleet: Fleet, argv: Sequence[str]) -> None:
    fleet.run(*argv)


NEXT: Sequence[Callable[[Fleet, Sequence[str]], None]] = (converge, repeat, recover, boot_another)
"""What people type next when a terminal was closed on them, knowing of it or not."""


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_boot_stop_and_delete_survive_a_kill_at_any_point(
    fleet: Fleet, tmp_path: Path, stride: int
) -> None:
    boot, names = ("boot", "a", *fleet.tiny, "--count", "2"), ("a-1", "a-2")
    stop, delete = ("stop", *names), ("delete", "--yes", *names)
    counts = [points(fleet, tmp_path, *argv) for argv in (boot, stop, delete)]
    for at in range(1, max(counts) + 1, stride):
        go_on = NEXT[at % len(NEXT)]

        argv = (*boot, "--request-id", f"boot-{at}-{stride}")
        kill(fleet, at, *argv)
        go_on(fleet, argv)
        fleet.check_at_rest()
        # Never one of two: a request is carried out, or was never made.
        assert fleet.statuses() in ({}, dict.fromkeys(names, "ACTIVE")), f"boot killed at {at}"
        if not fleet.statuses():
            fleet.run(*boot)

        if at <= counts[1]:
            argv = (*stop, "--request-id", f"stop-{at}-{stride}")
            kill(fleet, at, *argv)
            go_on(fleet, argv)
            fleet.check()
            ended = [dict.fromkeys(names, state) for state in ("ACTIVE", "SHUTOFF")]
            assert fleet.statuses() in ended, f"stop killed at {at}"

        argv = (*delete, "--request-id", f"delete-{at}-{stride}")
        kill(fleet, at, *argv)
        go_on(fleet, argv)
        fleet.check()
        assert set(fleet.statuses()) in (set(), set(names)), f"delete killed at {at}"
        fleet.delete_all()
    fleet.check_at_rest()


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_clusters_survive_a_kill_at_any_point(fleet: Fleet, tmp_path: Path, stride: int) -> None:
    create = ("cluster-create", "c", "--image", "tiny", "--flavor", "tiny", "--count", "1")
    delete = ("cluster-delete", "--yes", "c")
    counts = [points(fleet, tmp_path, *argv) for argv in (create, delete)]
    for at in range(1, max(counts) + 1, stride):
        go_on = NEXT[at % len(NEXT)]

        argv = (*create, "--request-id", f"create-{at}-{stride}")
        kill(fleet, at, *argv)
        go_on(fleet, argv)
        fleet.check_at_rest()
        made = bool(fleet.rows("SELECT id FROM clusters WHERE deleted_at IS NULL"))
        nodes = dict.fromkeys(("c-head", "c-node-1"), "ACTIVE")
        assert fleet.statuses() == (nodes if made else {}), f"create killed at {at}"
        if not made:
            fleet.run(*create)

        argv = (*delete, "--request-id", f"delete-{at}-{stride}")
        kill(fleet, at, *argv)
        go_on(fleet, argv)
        fleet.check()
        if fleet.rows("SELECT id FROM clusters WHERE deleted_at IS NULL"):
            assert fleet.statuses() == nodes, f"delete killed at {at}"
            fleet.run(*delete)
        assert fleet.statuses() == {}
        fleet.check()
    fleet.check_at_rest()
