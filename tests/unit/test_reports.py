"""What hosts report, and what becomes of it in the rows."""

import json

import pytest

from agent.wire import Fault, Report
from stackctl.compute import service
from stackctl.errors import PartlyDone, ResourceFailed
from stackctl.hostspec import build_spec, load_snapshot
from stackctl.operation.exchange import Exchange
from stackctl.operation.reports import Reporter
from stackctl.operation.settle import settle_servers
from stackctl.state import write


def fault(world, name="vm"):
    return world.server(name).fault


def disk_of(world, name="vm"):
    sql = "SELECT disks.id FROM disks JOIN servers ON servers.id = server_id WHERE name = ?"
    return world.value(sql, name)


def tell(world, host, *reports):
    row = world.host(host)
    reporter = Reporter(row["id"], row["name"], "op", "me")
    with write(world.cloud) as writer:
        reporter.write(writer, reports)
    return reporter.failures


def conclude(world, host, *reports):
    """A whole exchange in which a host tells only this."""
    row = world.host(host)
    reporter = Reporter(row["id"], row["name"], "op", "me")
    with write(world.cloud) as writer:
        reporter.write(writer, reports)
        spec = build_spec(load_snapshot(writer, row["id"]), 1, "")
        reporter.conclude(writer, spec)


def failed_port(port_id):
    return Report("port", port_id, "failed", fault=Fault("no"))


def domain(world, name="vm", *, result="unchanged", power="SHUTDOWN", version=None, words=None):
    row = world.rows("SELECT * FROM servers WHERE name = ?", name)[0]
    version = row["version"] if version is None else version
    told = Fault(words) if words else None
    return Report("domain", row["id"], result, version, {"power_state": power}, told)


class TestFailures:
    def test_a_disk_that_fails_is_the_servers_fault_in_the_engines_words(self, pair):
        pair.trouble("h1", fail={"disk": "No space left on device"})
        done = pair.boot(host="h1")
        with pytest.raises(ResourceFailed, match="No space left on device"):
            done.check()
        shown = pair.server("vm")
        assert (shown.status, shown.fault.host) == ("ERROR", "h1")
        assert (shown.fault.message, shown.fault.detail) == ("No space left on device", "detail")
        assert pair.value("SELECT held FROM servers") == 1

    @pytest.mark.parametrize("kind", ["image", "port", "domain"])
    def test_every_part_that_fails_says_why(self, pair, kind):
        pair.trouble("h1", fail={kind: f"the {kind} will not"})
        with pytest.raises(ResourceFailed, match=f"server vm on host h1: the {kind} will not"):
            pair.boot(host="h1").check()
        assert fault(pair).message == f"the {kind} will not"

    def test_what_is_held_is_not_tried_again_by_strangers(self, pair):
        pair.trouble("h1", fail={"disk": "no"})
        pair.boot("bad", host="h1")
        pair.trouble("h1")
        pair.booted("good", host="h1")
        pair.converge(everything=True).check()
        assert pair.servers() == {"bad": "ERROR", "good": "ACTIVE"}

    def test_by_name_it_is_tried_again(self, pair):
        pair.trouble("h1", fail={"disk": "no"})
        pair.boot(host="h1")
        pair.trouble("h1")
        service.change_power(pair.context, "reboot-hard", ["vm"]).check()
        assert pair.servers() == {"vm": "ACTIVE"}
        assert fault(pair) is None

    @pytest.mark.parametrize("words", ["again", "no"])
    def test_failing_again_in_error_ends_the_task_and_tells_the_new_reason(self, pair, words):
        pair.booted(host="h1")
        tell(pair, "h1", domain(pair, result="failed", words="no"))
        pair.trouble("h1", fail={"domain": words})
        with pytest.raises(ResourceFailed, match=words):
            service.change_power(pair.context, "reboot-hard", ["vm"]).check()
        assert pair.server("vm").task_state is None
        assert fault(pair).message == words
        pair.trouble("h1")
        service.change_power(pair.context, "reboot-hard", ["vm"]).check()
        assert pair.servers() == {"vm": "ACTIVE"}

    def test_a_command_that_could_not_be_obeyed_leaves_the_server_as_it_was(self, pair):
        pair.booted(host="h1")
        row = pair.rows("SELECT * FROM servers")[0]
        facts = {"power_state": "RUNNING", "declined": True}
        no = Report("domain", row["id"], "failed", row["version"], facts, Fault("no room"))
        (failure,) = tell(pair, "h1", no)
        assert (failure.kind, failure.name, failure.message) == ("server", "vm", "no room")
        assert pair.servers() == {"vm": "ACTIVE"}
        assert fault(pair) is None
        with write(pair.cloud) as writer:
            said = {row["host_id"]: Exchange(row["host_id"], "h1", failures=[failure])}
            failures, well = settle_servers(writer, [row["id"]], said, row["operation_id"])
        assert (failures, well) == ([failure], 0)

    def test_the_exchange_lost_in_error_ends_the_task_too(self, pair):
        pair.booted(host="h1")
        tell(pair, "h1", domain(pair, result="failed", words="no"))
        pair.trouble("h1", lose="after")
        service.change_power(pair.context, "reboot-hard", ["vm"])
        assert pair.server("vm").task_state is None

    def test_a_stranger_is_not_told_of_others_faults(self, pair):
        pair.booted("old", host="h1")
        state = pair.fleet.state("h1")
        state["disks"].clear()
        state["domains"].clear()
        pair.fleet.save("h1", state)
        pair.booted("new", host="h1")
        assert pair.servers() == {"old": "ERROR", "new": "ACTIVE"}
        with pytest.raises(Exception, match="is missing"):
            pair.converge("h1").check()

    def test_a_removal_that_fails_says_why(self, pair):
        pair.booted(host="h1")
        pair.trouble("h1", fail={disk_of(pair): "Device or resource busy"})
        with pytest.raises(PartlyDone, match="Device or resource busy"):
            service.delete_servers(pair.context, ["vm"]).check()
        assert pair.servers() == {}
        pair.trouble("h1")
        pair.converge("h1").check()
        assert pair.value("SELECT count(*) FROM tombstones WHERE acknowledged_at IS NULL") == 0


class TestWhatIsWritten:
    @pytest.fixture
    def up(self, pair):
        pair.booted(host="h1")
        return pair

    def test_a_guest_that_shut_itself_down(self, up):
        tell(up, "h1", domain(up))
        assert (up.servers(), up.server("vm").power_state) == ({"vm": "SHUTOFF"}, "SHUTDOWN")

    @pytest.mark.parametrize(
        ("power", "status"),
        [("RUNNING", "ACTIVE"), ("PAUSED", "PAUSED"), ("CRASHED", "SHUTOFF"), ("WHAT", "ACTIVE")],
    )
    def test_power_states(self, up, power, status):
        tell(up, "h1", domain(up, power=power))
        assert up.servers() == {"vm": status}

    def test_an_older_version_is_not_written(self, up):
        tell(up, "h1", domain(up, version=0))
        assert up.servers() == {"vm": "ACTIVE"}

    def test_another_host_has_nothing_to_say(self, up):
        tell(up, "h2", domain(up, result="failed", words="no"))
        assert up.servers() == {"vm": "ACTIVE"}

    def test_the_unchanged_leaves_no_event(self, up):
        before = up.value("SELECT count(*) FROM events")
        row = up.rows("SELECT * FROM servers")[0]
        tell(up, "h1", domain(up, power="RUNNING"))
        assert up.value("SELECT count(*) FROM events") == before
        after = up.rows("SELECT * FROM servers")[0]
        assert after.pop("observed_at") >= row.pop("observed_at")
        assert after == row

    @pytest.mark.parametrize("result", ["held", "busy", "orphan"])
    def test_what_was_left_alone_changes_nothing(self, up, result):
        tell(up, "h1", domain(up, result=result))
        assert up.servers() == {"vm": "ACTIVE"}

    def test_a_launched_servers_fault_heals_with_the_next_good_report(self, up):
        tell(up, "h1", domain(up, result="failed", words="no"))
        assert up.servers() == {"vm": "ERROR"}
        assert up.value("SELECT held FROM servers") == 0
        up.converge("h1").check()
        assert up.servers() == {"vm": "ACTIVE"}
        assert fault(up) is None

    def test_a_guest_that_runs_on_without_its_disk_is_no_less_at_fault(self, up):
        disk = Report("disk", disk_of(up), "failed", 1, fault=Fault("disk is missing"))
        failures = tell(up, "h1", disk, domain(up, power="RUNNING"))
        assert up.servers() == {"vm": "ERROR"}
        assert [failure.message for failure in failures] == ["disk is missing"]

    def test_the_same_fault_is_one_event(self, up):
        for _ in range(3):
            tell(up, "h1", domain(up, result="failed", words="no"))
        assert up.value("SELECT count(*) FROM events WHERE level = 'error'") == 1

    def test_a_build_given_up_too_early_is_well_when_it_runs(self, up):
        with write(up.cloud) as writer:
            writer.run("UPDATE servers SET vm_state = 'error', held = 1, fault_json = '{}'")
        tell(up, "h1", domain(up, result="held", power="RUNNING"))
        assert up.server("vm").status == "ACTIVE"
        assert up.value("SELECT held FROM servers") == 0

    def test_a_port_is_told_of_by_the_host_it_is_active_on(self, up):
        port = up.value("SELECT port_id FROM bindings")
        tell(up, "h2", Report("port", port, "removed"))
        assert up.value("SELECT status FROM ports WHERE id = ?", port) == "ACTIVE"
        tell(up, "h1", Report("port", port, "failed", fault=Fault("no")))
        assert up.value("SELECT status FROM ports WHERE id = ?", port) == "DOWN"

    def test_a_port_whose_report_was_lost_is_well_after_the_next_exchange(self, up):
        port = up.value("SELECT port_id FROM bindings")
        for told, status in (((), "ACTIVE"), ((failed_port(port),), "DOWN")):
            with write(up.cloud) as writer:
                writer.update("ports", port, status="DOWN")
            conclude(up, "h1", *told)
            assert up.value("SELECT status FROM ports WHERE id = ?", port) == status
        conclude(up, "h1", Report("port", up.host("h1")["id"], "failed", fault=Fault("no")))
        assert up.value("SELECT status FROM ports WHERE id = ?", port) == "DOWN"

    def test_a_failure_without_a_reason(self, up):
        tell(up, "h1", domain(up, result="failed"))
        assert fault(up).message == "the host gave no reason"

    def test_a_part_of_the_host_fails(self, pair):
        pair.trouble("h1", fail={})
        pair.booted(host="h1")
        failures = tell(pair, "h1", Report("flows", "br-int", "failed", fault=Fault("no")))
        assert [(item.kind, item.id, item.message) for item in failures] == [
            ("flows", "br-int", "no")
        ]
        event = pair.rows("SELECT * FROM events ORDER BY id DESC LIMIT 1")[0]
        assert (event["level"], event["host"], event["message"]) == ("error", "h1", "no")


def test_a_host_that_says_nothing_is_no_success(pair):
    pair.trouble("h1", silent=True)
    with pytest.raises(ResourceFailed, match="did not say"):
        pair.boot(host="h1").check()
    assert json.loads(pair.value("SELECT fault_json FROM servers"))["message"]
