"""Worlds of the unit tests: real SQLite, hosts that are files."""

import shutil
import tempfile
from pathlib import Path

import pytest

from stackctl.fleet import delivery
from tests.builders import forget_template, furnished, new_world

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def fast_path():
    """A folder where fsync costs nothing, if this machine has one."""
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="stackctl-test-", dir=where))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def world(fast_path, monkeypatch):
    """A cloud without hosts."""
    made = new_world(fast_path)
    monkeypatch.setattr("stackctl.fleet.session.open_session", made.fleet.open_session)
    return made


@pytest.fixture
def pair(world):
    """Two hosts h1 and h2, the image cirros, the network net."""
    return furnished(world, "h1", "h2")


@pytest.fixture
def typed(world, monkeypatch):
    """The world's cloud as the one that commands find: hosts h1, h2, a network net."""
    furnished(world, "h1", "h2")
    monkeypatch.setenv("STACKCTL_CLOUDS", str(world.cloud.folder.parent))
    monkeypatch.setenv("STACKCTL_CLOUD", world.cloud.folder.name)
    return world


@pytest.fixture(scope="session", autouse=True)
def no_template_stays():
    yield
    forget_template()


@pytest.fixture(autouse=True)
def archive_found_anew():
    """No test after one that delivers a stand-in for the agent delivers it, too."""
    yield
    delivery._find_archive.cache_clear()
