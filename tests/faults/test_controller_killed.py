"""The controller dies by kill -9 at every point that another could notice; any next command mends.

The points are counted, not named: a new one is covered by being there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

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
    """Run a command that dies at a point; whether it got that far."""
    result = fleet.run(*argv, exit=None, STACKCTL_KILL_AT=str(at))
    assert result.exit in (KILLED, 0), str(result)
    return result.exit == KILLED


# What people type next when a terminal was closed on them, knowing of it or not.
NEXT: Sequence[Callable[[Fleet], object]] = (
    lambda fleet: fleet.run("converge", "--all"),
    lambda fleet: fleet.run("recover"),
    lambda fleet: (fleet.boot("next", "--count", "2"), fleet.run("delete", "next-1", "next-2")),
)


def test_boot_stop_and_delete_survive_a_kill_at_any_point(fleet: Fleet, tmp_path: Path) -> None:
    boot = ("boot", "a", *fleet.tiny, "--count", "2")
    stop, delete = ("stop", "a-1", "a-2"), ("delete", "--yes", "a-1", "a-2")
    counts = [points(fleet, tmp_path, *argv) for argv in (boot, stop, delete)]
    for at in range(1, max(counts) + 1):
        go_on = NEXT[at % len(NEXT)]

        kill(fleet, at, *boot)
        go_on(fleet)
        fleet.check_at_rest()
        assert set(fleet.statuses().values()) <= {"ACTIVE"}, f"boot killed at {at}"
        if not fleet.statuses():
            fleet.run(*boot)

        kill(fleet, at, *stop)
        go_on(fleet)
        fleet.check_at_rest()
        assert set(fleet.statuses().values()) in ({"ACTIVE"}, {"SHUTOFF"}), f"stop killed at {at}"

        kill(fleet, at, *delete)
        go_on(fleet)
        fleet.check_at_rest()
        if fleet.statuses():
            fleet.run(*delete)


def test_clusters_survive_a_kill_at_any_point(fleet: Fleet, tmp_path: Path) -> None:
    create = ("cluster-create", "c", "--image", "tiny", "--flavor", "tiny", "--count", "1")
    delete = ("cluster-delete", "--yes", "c")
    counts = [points(fleet, tmp_path, *argv) for argv in (create, delete)]
    for at in range(1, max(counts) + 1):
        go_on = NEXT[at % len(NEXT)]

        kill(fleet, at, *create)
        go_on(fleet)
        fleet.check_at_rest()
        made = fleet.run("cluster-list", "-f", "json").json
        assert set(fleet.statuses().values()) == ({"ACTIVE"} if made else set())
        if not made:
            fleet.run(*create)

        kill(fleet, at, *delete)
        go_on(fleet)
        fleet.check_at_rest()
        if fleet.run("cluster-list", "-f", "json").json:
            fleet.run(*delete)
        assert fleet.statuses() == {}
