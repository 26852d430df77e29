"""A request that comes a second time."""

import json
import os
import sys

import pytest

from stackctl.compute import service
from stackctl.errors import Conflict, HostUnreachable, ResourceFailed
from stackctl.network.networks import NewNetwork, create_network
from stackctl.operation import run
from stackctl.state import write


def boot(world, **more):
    return service.boot(world.asked(request_id="r1"), world.request(count=2, **more))


def test_it_returns_the_first_result(pair):
    first = boot(pair)
    again = boot(pair)
    again.check()
    assert [server.id for server in again.value] == [server.id for server in first.value]
    assert again.operation_id == first.operation_id
    assert len(pair.servers()) == 2
    assert pair.fleet.opened == {"h1": 1, "h2": 1}


def test_other_arguments_are_a_conflict(pair):
    boot(pair)
    with pytest.raises(Conflict, match="used before for something else"):
        boot(pair, flavor="m1.small")
    assert len(pair.servers()) == 2


@pytest.mark.parametrize("change", [{"user_data": b"b"}, {"metadata": {"a": "b"}}])
def test_contents_are_arguments_too(pair, change):
    boot(pair, user_data=b"a")
    with pytest.raises(Conflict):
        boot(pair, **change)


def test_what_failed_the_first_time_fails_again(pair):
    for name in ("h1", "h2"):
        pair.trouble(name, fail={"disk": "no space"})
    for _ in range(2):
        with pytest.raises(ResourceFailed, match="no space"):
            boot(pair).check()


def test_when_nothing_was_left_the_request_is_free(pair):
    for name in ("h1", "h2"):
        pair.trouble(name, unreachable=True)
    with pytest.raises(HostUnreachable):
        boot(pair)
    for name in ("h1", "h2"):
        pair.trouble(name)
    done = boot(pair)
    done.check()
    assert {server.status for server in done.value} == {"ACTIVE"}


def test_a_refusal_uses_up_nothing(pair):
    with pytest.raises(Exception, match="No valid host"):
        boot(pair, flavor="m1.xlarge", zone="nowhere")
    boot(pair).check()


def test_a_rehearsal_of_it_calls_nobody(pair):
    boot(pair)
    pair.fleet.opened.clear()
    with write(pair.cloud) as writer:
        writer.run("UPDATE operations SET outcome = 'running'")
    service.boot(pair.asked(request_id="r1", dry_run=True), pair.request(count=2))
    assert pair.fleet.opened == {}


def test_a_dead_one_is_carried_on(pair):
    boot(pair)
    with write(pair.cloud) as writer:
        writer.run("UPDATE operations SET outcome = 'running'")
        writer.run("UPDATE servers SET vm_state = 'building', task_state = 'spawning'")
    for name in ("h1", "h2"):
        state = pair.fleet.state(name)
        pair.fleet.save(name, state | {"domains": {}})
    boot(pair).check()
    assert set(pair.servers().values()) == {"ACTIVE"}
    assert pair.column("SELECT outcome FROM operations WHERE request_id = 'r1'") == ["done"]


def test_one_that_is_still_at_work_is_a_conflict(pair):
    seen = []

    def meanwhile(_):
        pair.fleet.before_open = None
        with pytest.raises(Conflict, match="still being carried out"):
            boot(pair)
        seen.append(True)

    pair.fleet.before_open = meanwhile
    boot(pair).check()
    assert seen == [True]
    assert len(pair.servers()) == 2


def test_two_at_once_are_one(pair, monkeypatch):
    """Both look, neither finds the other; the transaction decides."""
    monkeypatch.setattr(sys.modules["stackctl.operation.run"], "earlier_request", lambda *_: None)
    context = pair.asked(request_id="r1")
    create_network(context, NewNetwork("a"))
    with pytest.raises(Conflict, match="still being carried out"):
        create_network(context, NewNetwork("a"))
    assert pair.value("SELECT count(*) FROM networks WHERE name = 'a'") == 1


def test_networks_too(pair):
    context = pair.asked(request_id="r1")
    create_network(context, NewNetwork("a"))
    assert create_network(context, NewNetwork("a")).value.name == "a"
    assert pair.value("SELECT count(*) FROM networks WHERE name = 'a'") == 1


def test_what_cannot_be_told_again_is_not_done_again(pair):
    calls = []
    context = pair.asked(request_id="r1")
    run(context, "x", "x", {}, calls.append)
    with pytest.raises(Conflict, match="was carried out before"):
        run(context, "x", "x", {}, calls.append)
    assert len(calls) == 1


def test_the_row_says_who_and_what(pair):
    boot(pair)
    row = pair.rows("SELECT * FROM operations WHERE request_id = 'r1'")[0]
    assert (row["kind"], row["summary"], row["outcome"]) == ("boot", "boot 2 x vm", "done")
    assert row["owner_pid"] == os.getpid()
    assert json.loads(row["hosts_json"]) == sorted(pair.column("SELECT id FROM hosts"))
