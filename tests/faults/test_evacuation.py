"""Servers of a host that is off, or only cut off: made anew elsewhere, and never twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fleet import Fleet, paragraph

NO_PACKETS = ("INPUT", "-i", "eth0", "-j", "DROP")


@contextmanager
def cut_off(fleet: Fleet, host: str) -> Iterator[None]:
    """Nobody reaches a host, which runs on all the same."""
    fleet.inside(host, "iptables", "-w", "-I", *NO_PACKETS)
    try:
        yield
    finally:
        fleet.inside(host, "iptables", "-w", "-D", *NO_PACKETS)


@pytest.fixture(autouse=True)
def returned(fleet: Fleet) -> Iterator[None]:
    """No host stays fenced."""
    yield
    for row in fleet.rows("SELECT name FROM hosts WHERE fenced = 1"):
        fleet.run("host-return", row["name"])


def guests(fleet: Fleet, host: str) -> list[str]:
    """The domains that run on a host."""
    return sorted(fleet.inside(host, "virsh", "-q", "list", "--name").split())


def test_only_a_fenced_host_loses_its_servers(fleet: Fleet) -> None:
    fleet.boot("vm", "--host", "host2")
    refused = fleet.run("evacuate", "--yes", "vm", exit=4)
    assert paragraph(refused)[1] == "if it is off: stackctl host-fence host2"
    refused = fleet.run("evacuate", "--yes", "--fence", "vm", exit=4)
    assert "Host host2 answers: it is not off" in refused.err
    refused = fleet.run("host-evacuate", "--fence", "host2", exit=2)
    assert "Somebody must say that host2 is off" in refused.err
    fleet.check_at_rest()


def test_a_host_that_was_killed_returns_without_what_was_made_anew(fleet: Fleet) -> None:
    fleet.boot("vm", "--count", "2", "--host", "host2")
    fleet.run("net-create", "evacuated-out", "--external", "--subnet", "203.0.113.0/24")
    fleet.run("router-create", "evacuated", "--host", "host2")
    (subnet,) = fleet.rows("SELECT id FROM subnets WHERE cidr = '10.77.0.0/24'")
    fleet.run("router-interface-add", "evacuated", subnet["id"])
    fleet.run("stop", "vm-2")
    known = fleet.servers()
    fleet.kill_host("host2")
    done = fleet.run("host-evacuate", "--yes", "--fence", "host2", "-f", "json")
    assert "Moved evacuated." in done.err
    assert fleet.servers() == {name: {**row, "Host": "host1"} for name, row in known.items()}
    fleet.check(["host1"])
    # Nobody waits for the lost host meanwhile.
    assert fleet.run("reboot", "--hard", "vm-1").err == ""
    fleet.start_host("host2")
    fleet.run("host-return", "host2")
    fleet.check_at_rest()
    fleet.run("router-interface-delete", "evacuated", subnet["id"])
    fleet.run("router-delete", "evacuated")
    fleet.run("net-delete", "evacuated-out")


def test_a_host_that_ran_on_destroys_its_copies_when_it_returns(fleet: Fleet) -> None:
    fleet.boot("vm", "--count", "2", "--host", "host2")
    fleet.run("volume-create", "evacuated-data", "--size", "1")
    fleet.run("volume-attach", "vm-1", "evacuated-data")
    domains = {name: f"sc-{row['ID']}" for name, row in fleet.servers().items()}
    with cut_off(fleet, "host2"):
        done = fleet.run("host-evacuate", "--yes", "--fence", "host2", exit=40)
        assert "server vm-1: Its volume evacuated-data is a file on host host2" in done.err
        hosts = {name: row["Host"] for name, row in fleet.servers().items()}
        assert hosts == {"vm-1": "host2", "vm-2": "host1"}
        # The operator was wrong: it runs on.
        assert guests(fleet, "host2") == sorted(domains.values())
    fleet.run("host-return", "host2")
    assert guests(fleet, "host2") == [domains["vm-1"]]
    assert guests(fleet, "host1") == [domains["vm-2"]]
    fleet.check_at_rest()
    fleet.delete_all()
    fleet.run("volume-delete", "--yes", "evacuated-data")


def test_what_a_guest_did_is_seen_by_list_refresh(fleet: Fleet) -> None:
    fleet.boot("vm", "--count", "2")
    rows = fleet.servers()
    mine = next(name for name, row in rows.items() if row["Host"] == "host1")
    other = next(name for name, row in rows.items() if row["Host"] == "host2")
    fleet.inside("host1", "virsh", "-q", "destroy", f"sc-{rows[mine]['ID']}")
    assert fleet.servers()[mine]["Status"] == "ACTIVE"
    with cut_off(fleet, "host2"):
        shown = fleet.run("list", "--refresh", "-f", "json")
    states = {row["Instance Name"]: row["Status"] for row in shown.json}
    assert states == {mine: "SHUTOFF", other: "ACTIVE"}
    assert "host2" in shown.err and f"{other} (20" in shown.err
    fleet.check_at_rest()


@pytest.mark.parametrize("stride", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_evacuation_ends_though_its_command_dies_at_any_point(fleet: Fleet, stride: int) -> None:
    for at in range(1, 80, stride):
        fleet.boot("vm", "--host", "host2")
        with cut_off(fleet, "host2"):
            fleet.run("host-fence", "--yes", "host2")
            done = fleet.run("evacuate", "--yes", "vm", exit=None, STACKCTL_KILL_AT=str(at))
            assert done.exit in (0, -9), str(done)
            fleet.run("recover")
            if fleet.servers()["vm"]["Host"] == "host2":
                assert done.exit == -9
                fleet.run("evacuate", "--yes", "vm")
            shown = fleet.servers()["vm"]
            assert (shown["Status"], shown["Task"], shown["Host"]) == ("ACTIVE", None, "host1")
        fleet.run("host-return", "host2")
        assert guests(fleet, "host2") == []
        fleet.check_at_rest()
        fleet.delete_all()
        if done.exit == 0:
            assert at > 6
            return
    raise AssertionError("the points never end")
