"""A host that cannot build a server: another one does, and nothing is left or doubled."""

import datetime
import json

import pytest

from stackctl.compute import service
from stackctl.compute.capacity import FAILURES_EXPIRE_S
from stackctl.compute.explain import explain
from stackctl.compute.server_groups import NewServerGroup, create_server_group
from stackctl.errors import Conflict, PartlyDone, ResourceFailed
from stackctl.state import write
from tests.builders import furnished


@pytest.fixture
def three(world):
    return furnished(world, "h1", "h2", "h3")


def configure(world, text):
    (world.cloud.folder / "config.yaml").write_text(text)
    vars(world.cloud).pop("config", None)


def left_on(world, name):
    state = world.fleet.state(name)
    return state["domains"], state["disks"], state["ports"]


NOTHING = ({}, {}, [])


@pytest.mark.parametrize("kind", ["disk", "domain", "image", "port", "libvirt"])
def test_another_host_builds_it(pair, kind):
    pair.trouble("h1", fail={kind: f"the {kind} will not"})
    (server,) = pair.booted()
    assert (server.host, server.status, server.fault) == ("h2", "ACTIVE", None)
    assert left_on(pair, "h1") == NOTHING
    assert list(pair.fleet.domains()) == [server.id]
    assert pair.value("SELECT count(*) FROM tombstones WHERE acknowledged_at IS NULL") == 0
    assert pair.value("SELECT build_attempts FROM servers") == 2


def test_what_it_was_is_told(pair):
    pair.trouble("h1", fail={"disk": "No space left on device"})
    pair.booted()
    assert pair.warnings == [
        "Host h1 could not build vm: No space left on device. Trying other hosts."
    ]
    told = explain(pair.context, "vm")
    assert told.chosen == "h2"
    messages = [event["message"] for event in told.events]
    assert "No space left on device" in messages
    assert "taken from h1, which could not build it: No space left on device" in messages
    assert messages[-1] == "built and running"


def test_only_those_that_failed_move(pair):
    pair.trouble("h1", fail={"disk": "no space"})
    servers = pair.booted(count=4)
    assert {server.host for server in servers} == {"h2"}
    assert [server.name for server in servers] == ["vm-1", "vm-2", "vm-3", "vm-4"]
    assert pair.fleet.opened["h1"] == 2


def test_its_disks_are_other_incarnations(pair):
    pair.trouble("h1", fail={"domain": "no"})
    pair.booted()
    old, new = pair.rows("SELECT * FROM disks ORDER BY rowid")
    assert (old["state"], new["state"]) == ("deleted", "built")
    assert old["id"] != new["id"]
    assert (old["size_bytes"], old["image_id"]) == (new["size_bytes"], new["image_id"])


def test_addresses_and_ports_stay_its_own(pair):
    pair.trouble("h1", fail={"domain": "no"})
    (server,) = pair.booted()
    assert server.networks() == {"net": ["192.168.1.2"]}
    assert pair.column("SELECT host_id FROM bindings") == [pair.host("h2")["id"]]


def test_three_hosts_and_no_more(world):
    furnished(world, "h1", "h2", "h3", "h4")
    for name in ("h1", "h2", "h3", "h4"):
        world.trouble(name, fail={"domain": "unsupported machine type"})
    done = world.boot()
    words = r"unsupported machine type\. Exceeded maximum number of retries: 3 hosts could not"
    with pytest.raises(ResourceFailed, match=words):
        done.check()
    assert (done.value[0].host, done.value[0].status) == ("h3", "ERROR")
    assert "h4" not in world.fleet.opened
    assert [left_on(world, name) for name in ("h1", "h2")] == [NOTHING, NOTHING]


def test_as_often_as_configured(three):
    configure(three, "scheduler: {max_attempts: 1}\n")
    three.trouble("h1", fail={"domain": "no"})
    with pytest.raises(ResourceFailed, match="Exceeded maximum number of retries: 1 hosts"):
        three.boot().check()
    assert three.server("vm").host == "h1"


def test_no_other_host_passes(pair):
    pair.trouble("h1", fail={"domain": "no"})
    with pytest.raises(ResourceFailed, match=r"no\. No valid host was found for another try"):
        pair.boot(zone="nova", hints=(("query", '["=", "$host", "h1"]'),)).check()
    assert (pair.server("vm").host, pair.servers()) == ("h1", {"vm": "ERROR"})
    pair.trouble("h1")
    service.change_power(pair.context, "reboot-hard", ["vm"]).check()
    assert pair.servers() == {"vm": "ACTIVE"}


def test_the_host_that_was_asked_for_is_the_only_one(pair):
    pair.trouble("h1", fail={"domain": "no"})
    with pytest.raises(ResourceFailed, match="server vm on host h1: no"):
        pair.boot(host="h1").check()
    assert pair.server("vm").host == "h1"


def test_silent_and_failing_hosts_in_one_boot(three):
    three.trouble("h1", unreachable=True)
    three.trouble("h2", fail={"disk": "no"})
    servers = three.booted(count=3)
    assert {server.host for server in servers} == {"h3"}
    assert left_on(three, "h2") == NOTHING


def test_what_may_run_there_is_built_nowhere_else(pair):
    """Its host began to start it and does not confirm that it is gone: two may never run."""
    pair.trouble("h1", fail={"domain": "no", "removal": "libvirt is gone"})
    done = pair.boot()
    with pytest.raises(ResourceFailed, match="did not confirm that nothing of it is left there"):
        done.check()
    assert done.value[0].status == "ERROR"
    assert pair.fleet.domains() == {}
    with pytest.raises(Conflict, match="it is on no host"):
        service.change_power(pair.context, "reboot-hard", ["vm"])
    service.delete_servers(pair.context, ["vm"])
    pair.trouble("h1")
    pair.converge(everything=True).check()
    assert left_on(pair, "h1") == NOTHING


def test_what_was_never_begun_goes_though_its_host_is_without_libvirt(pair):
    pair.trouble("h1", fail={"libvirt": "no connection", "removal": "no connection"})
    done = pair.boot()
    done.check()
    assert (done.value[0].host, done.value[0].status) == ("h2", "ACTIVE")
    assert "What host h1 made of vm goes when it is converged: no connection." in pair.warnings
    pair.trouble("h1")
    pair.converge(everything=True).check()
    assert left_on(pair, "h1") == NOTHING
    assert list(pair.fleet.domains()) == [done.value[0].id]


def test_what_a_stranger_may_have_begun_there_does_not(pair):
    """Another command told the host of the server first: that nothing was begun is not known."""

    def stranger(name):
        pair.fleet.before_open = None
        pair.trouble("h1", lose="after")
        pair.converge("h1")
        pair.trouble("h1", fail={"libvirt": "no", "removal": "no"})

    pair.converge("h1").check()
    pair.fleet.before_open = stranger
    (server,) = pair.boot().value
    assert (server.status, pair.fleet.domains()) == ("ERROR", {})


def test_lost_after_it_was_told_stays_where_it_may_run(pair):
    pair.trouble("h1", lose="after")
    with pytest.raises(ResourceFailed, match="while the server was being built"):
        pair.boot().check()
    assert pair.server("vm").host == "h1"


def test_killed_between_two_hosts_it_is_an_error_that_can_be_deleted(pair, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    pair.trouble("h1", fail={"domain": "no"})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("stackctl.compute.elsewhere._Retries._place_elsewhere", stop)
        pair.boot()
    pair.trouble("h1")
    pair.converge(everything=True)
    assert pair.servers() == {"vm": "ERROR"}
    assert "interrupted" in pair.server("vm").fault.message
    service.delete_servers(pair.context, ["vm"]).check()
    assert pair.servers() == {}
    assert pair.fleet.domains() == {}


def test_a_group_holds_on_the_next_host_too(three):
    create_server_group(three.context, NewServerGroup("apart", "anti-affinity"))
    three.booted("db", host="h2", hints=(("group", "apart"),))
    three.trouble("h1", fail={"disk": "no"})
    (server,) = three.booted(hints=(("group", "apart"),))
    assert server.host == "h3"


def test_an_affine_group_moves_together(three):
    create_server_group(three.context, NewServerGroup("together", "affinity"))
    three.trouble("h1", fail={"disk": "no"})
    servers = three.booted(count=3, hints=(("group", "together"),))
    assert len({server.host for server in servers}) == 1
    assert servers[0].host != "h1"


class TestBuildFailures:
    def failures(self, world, name):
        return world.host(name)["build_failures"]

    def test_they_are_counted_and_weigh(self, pair):
        pair.trouble("h1", fail={"disk": "no"})
        pair.booted("one")
        assert (self.failures(pair, "h1"), self.failures(pair, "h2")) == (1, 0)
        pair.trouble("h1")
        assert pair.booted("two")[0].host == "h2"
        weights = json.loads(
            pair.value("SELECT decision_json FROM decisions ORDER BY id DESC LIMIT 1")
        )["verdicts"]
        assert dict(weights[1]["weights"])["BuildFailureWeigher"] == 0
        assert dict(weights[0]["weights"])["BuildFailureWeigher"] == 1000000

    def test_they_are_forgotten_after_a_while(self, pair):
        """A host beside one with more room would never get the build that forgives."""
        pair.trouble("h1", fail={"disk": "no"})
        pair.booted("one")
        pair.trouble("h1")
        ago = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(
            seconds=FAILURES_EXPIRE_S + 10
        )
        with write(pair.cloud) as writer:
            at = ago.isoformat().replace("+00:00", "Z")
            writer.run("UPDATE hosts SET build_failed_at = ? WHERE name = 'h1'", at)
        assert pair.booted("two")[0].host == "h1"

    def test_a_build_that_works_forgives(self, pair):
        pair.trouble("h1", fail={"disk": "no"})
        pair.boot("one", host="h1")
        pair.trouble("h1")
        pair.booted("two", host="h1")
        assert self.failures(pair, "h1") == 0

    def test_part_of_a_boot_that_fails_is_partly_done(self, world):
        furnished(world, "h1")
        world.add_host("h2", vcpus=1, cpu_ratio=1.0)
        world.trouble("h1", fail={"disk": "no"})
        with pytest.raises(PartlyDone, match="No valid host was found for another try"):
            world.boot(count=3).check()
        assert sorted(world.servers().values()) == ["ACTIVE", "ERROR", "ERROR"]
