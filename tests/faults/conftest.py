"""Every fault test begins on a fleet whose hosts run and whose servers are gone, and leaves one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet


@pytest.fixture(autouse=True)
def quiet_fleet(fleet: Fleet) -> Iterator[None]:
    """The hosts run, and the test leaves neither servers nor anything unsettled."""
    yield
    fleet.delete_all()
    fleet.check()
