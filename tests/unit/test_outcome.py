"""What a command that failed says, and with which status it ends."""

from __future__ import annotations

import pytest

from stackctl.errors import HostUnreachable, PartlyDone, ResourceFailed
from stackctl.operation import Done, Failure


def test_one_cause_is_told_once_with_all_that_it_struck():
    cause = "this host has no tunnel address"
    failures = [
        Failure("port", "0d9b", "", "h1", cause),
        Failure("server", "1", "a-1", "h1", cause),
        Failure("server", "2", "a-2", "h2", "No space left."),
    ]
    with pytest.raises(ResourceFailed) as raised:
        Done(None, "op", failures).check()
    assert raised.value.message == (
        f"port 0d9b, server a-1 on host h1: {cause}. server a-2 on host h2: No space left."
    )


@pytest.mark.parametrize(("succeeded", "error"), [(0, HostUnreachable), (3, PartlyDone)])
def test_what_went_well_decides_between_its_own_status_and_partly_done(succeeded, error):
    failure = Failure("host", "1", "h1", "h1", "Host h1 does not answer.", HostUnreachable)
    with pytest.raises(error, match=r"^Host h1 does not answer\.$"):
        Done(None, "op", [failure], succeeded).check()


def test_no_failure_no_error():
    Done(None, "op").check()
