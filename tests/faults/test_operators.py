"""Several operators at once, requests that are repeated, and how many connections a boot makes."""

from __future__ import annotations

from stackctl.compute.service import boot
from stackctl.compute.types import BootRequest, Nic
from stackctl.fleet import counters
from stackctl.identity.context import admin_context
from tests.fleet import Fleet

OPERATORS = 8


def test_eight_operators_boot_at_once(fleet: Fleet) -> None:
    running = [
        fleet.start("boot", f"op{number}", *fleet.tiny, "--count", "2", "-f", "json")
        for number in range(OPERATORS)
    ]
    ended = [command.wait() for command in running]
    assert [result.exit for result in ended] == [0] * OPERATORS, "\n".join(map(str, ended))
    servers = fleet.servers()
    assert len(servers) == 2 * OPERATORS
    assert {row["Status"] for row in servers.values()} == {"ACTIVE"}
    addresses = [row["IP Address"]["faults"][0] for row in servers.values()]
    assert len(set(addresses)) == len(addresses)
    fleet.check_at_rest()


def test_operators_who_boot_look_and_delete_at_once_do_not_disturb_each_other(
    fleet: Fleet,
) -> None:
    fleet.boot("old", "--count", "4")
    words = [
        ("boot", "new", *fleet.tiny, "--count", "2"),
        ("delete", "--yes", "old-1", "old-2"),
        ("stop", "old-3"),
        ("reboot", "--hard", "old-4"),
        ("converge", "--all"),
        ("drift",),
        ("boot", "dry", *fleet.tiny, "--dry-run"),
    ]
    ended = [command.wait() for command in [fleet.start(*argv) for argv in words]]
    assert [result.exit for result in ended] == [0] * len(words), "\n".join(map(str, ended))
    assert fleet.statuses() == {
        "new-1": "ACTIVE",
        "new-2": "ACTIVE",
        "old-3": "SHUTOFF",
        "old-4": "ACTIVE",
    }
    fleet.check_at_rest()


def test_four_servers_cost_one_connection_and_one_channel_per_host(fleet: Fleet) -> None:
    before = {host: fleet.logins(host) for host in fleet.hosts()}
    counters.reset()
    nic = Nic(network="faults")
    request = BootRequest(name="a", image="tiny", flavor="tiny", nics=(nic,), count=4)
    done = boot(admin_context(fleet.cloud), request)
    done.check()
    assert sorted(server.host for server in done.value) == ["host1", "host1", "host2", "host2"]
    assert counters.connections == counters.channels == {"host1": 1, "host2": 1}
    after = {host: fleet.logins(host) for host in fleet.hosts()}
    assert {host: after[host] - before[host] for host in after} == {"host1": 1, "host2": 1}
