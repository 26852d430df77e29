"""Worlds of the unit tests: real SQLite, hosts that are files."""

import pytest

from tests.builders import forget_template, furnished, new_world


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A cloud without hosts."""
    made = new_world(tmp_path)
    monkeypatch.setattr("stackctl.fleet.session.open_session", made.fleet.open_session)
    return made


@pytest.fixture
def pair(world):
    """Two hosts h1 and h2, the image cirros, the network net."""
    return furnished(world, "h1", "h2")


@pytest.fixture(scope="session", autouse=True)
def no_template_stays():
    yield
    forget_template()
