"""The agent dies by kill -9 at every point between two effects: the command or the next one mends.

The points are counted, not named: the loop ends when a command passes without meeting one.
"""

from __future__ import annotations

import io

import pytest

from stackctl.identity.context import admin_context
from stackctl.image.service import create_image, delete_image
from stackctl.image.types import NewImage
from tests.engines import TINY_GUEST
from tests.fleet import Fleet

MAX_POINTS = 120


def killed(fleet: Fleet, at: int, *argv: str) -> int:
    """Run a command whose agents die at a point; how many of them did."""
    return fleet.killing_agents(at, *argv, hosts=fleet.hosts())


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_boot_and_delete_finish_though_agents_die_at_any_point(fleet: Fleet, stride: int) -> None:
    reached = 0
    for at in range(1, MAX_POINTS, stride):
        dead = killed(fleet, at, "boot", "a", *fleet.tiny, "--count", "2")
        assert fleet.statuses() == {"a-1": "ACTIVE", "a-2": "ACTIVE"}, (
            f"boot, agents killed at {at}"
        )
        fleet.check_at_rest()

        dead += killed(fleet, at, "delete", "--yes", "a-1", "a-2")
        assert fleet.statuses() == {}
        fleet.check_at_rest()
        reached += dead
        if dead == 0:
            break
    assert reached > 8, "agents were not killed"
    assert at < MAX_POINTS - 1, "the points never end"


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_power_commands_finish_though_agents_die_at_any_point(fleet: Fleet, stride: int) -> None:
    fleet.boot("a", "--count", "2")
    for at in range(1, MAX_POINTS, stride):
        dead = killed(fleet, at, "stop", "a-1", "a-2")
        assert set(fleet.statuses().values()) == {"SHUTOFF"}, f"stop, agents killed at {at}"
        dead += killed(fleet, at, "start", "a-1", "a-2")
        assert set(fleet.statuses().values()) == {"ACTIVE"}, f"start, agents killed at {at}"
        dead += killed(fleet, at, "reboot", "--hard", "a-1", "a-2")
        assert set(fleet.statuses().values()) == {"ACTIVE"}, f"reboot, agents killed at {at}"
        fleet.check_at_rest()
        if dead == 0:
            return
    raise AssertionError("the points never end")


def test_an_image_is_whole_though_agents_die_while_they_fetch_it(fleet: Fleet) -> None:
    context = admin_context(fleet.cloud)
    for at in (1, 2, 3):
        content = TINY_GUEST.ljust(1024 * 1024 + at * 512, b"\0")
        create_image(context, NewImage(f"new{at}", "raw"), io.BytesIO(content)).check()
        dead = killed(fleet, at, "boot", "a", *fleet.tiny, "--image", f"new{at}", "--count", "2")
        assert dead == len(fleet.hosts())
        assert set(fleet.statuses().values()) == {"ACTIVE"}
        fleet.check_at_rest()
        fleet.delete_all()
        delete_image(context, f"new{at}").check()
        for host in fleet.hosts():
            assert [name for name in fleet.images(host) if name.endswith(".part")] == []
