"""shelve, unshelve, evacuate and list --refresh as typed."""

import json

import pytest
from click.testing import CliRunner

from stackctl.cli import main
from tests.unit.test_images import qcow2


@pytest.fixture
def up(pair, monkeypatch):
    """Two hosts, and servers vm-1 and vm-2 on h1."""
    monkeypatch.setenv("STACKCTL_CLOUDS", str(pair.cloud.folder.parent))
    pair.booted(host="h1", count=2)
    pair.fleet.content = qcow2()
    return pair


def invoke(*words, typed=None):
    return CliRunner().invoke(main.cli, ["--cloud", "cloud", *words], input=typed)


def listed(*words):
    result = invoke("list", *words, "-f", "json", "-c", "Instance Name", "-c", "Status")
    assert result.exit_code == 0, result.stderr
    return {row["Instance Name"]: row["Status"] for row in json.loads(result.stdout)}


def refused(status, *words, typed=None):
    result = invoke(*words, typed=typed)
    assert result.exit_code == status, result.output
    return result.stderr


def lose(world, host="h1"):
    world.trouble(host, unreachable=True)


@pytest.fixture
def person(monkeypatch):
    """Somebody sits at the terminal."""
    monkeypatch.setattr("stackctl.cli.frame.is_terminal", lambda: True)


def test_several_servers_are_shelved_and_come_back(up):
    done = invoke("server", "shelve", "--offload", "vm-1", "vm-2")
    assert (done.exit_code, done.stderr) == (0, "Shelved vm-1.\nShelved vm-2.\n")
    assert set(listed().values()) == {"SHELVED_OFFLOADED"}
    done = invoke("server", "unshelve", "vm-1", "vm-2", "--host", "h2")
    assert (done.exit_code, done.stderr) == (0, "Unshelved vm-1.\nUnshelved vm-2.\n")
    assert {up.server(name).host for name in ("vm-1", "vm-2")} == {"h2"}


def test_kept_and_offloaded_in_two_steps(up):
    invoke("shelve", "--keep", "vm-1")
    assert listed()["vm-1"] == "SHELVED"
    assert invoke("shelve-offload", "vm-1").stderr == "Offloaded vm-1.\n"
    assert listed()["vm-1"] == "SHELVED_OFFLOADED"


def test_one_that_fails_does_not_stop_the_other(up):
    invoke("shelve", "vm-1")
    told = refused(40, "shelve", "vm-1", "vm-2")
    assert "Cannot 'shelve' instance vm-1 while it is in vm_state shelved_offloaded" in told
    assert "Shelved vm-2." in told


def test_a_zone_may_be_asked_for(up):
    invoke("shelve", "vm-1")
    assert "zone" in refused(6, "unshelve", "vm-1", "--availability-zone", "east")


def test_a_rehearsal_of_shelving(up):
    assert "Dry run: nothing was changed." in invoke("shelve", "--dry-run", "vm-1").output
    assert listed()["vm-1"] == "ACTIVE"


def test_evacuation_needs_a_fence(up):
    lose(up)
    told = refused(4, "evacuate", "--yes", "vm-1")
    assert "Host h1 is not fenced" in told
    assert "Try: if it is off: stackctl host-fence h1" in told
    assert up.server("vm-1").host == "h1"


def test_without_a_terminal_only_yes_says_that_a_host_is_off(up):
    lose(up)
    assert "Somebody must say that h1 is off" in refused(2, "evacuate", "--fence", "vm-1")
    assert up.host("h1")["fenced"] == 0
    shown = invoke("evacuate", "--fence", "--yes", "vm-1", "-f", "json")
    assert [row["Host"] for row in json.loads(shown.stdout)] == ["h2"]
    assert up.host("h1")["fenced"] == 1


def test_a_host_that_answers_is_not_fenced(up):
    assert "Host h1 answers: it is not off" in refused(4, "evacuate", "--fence", "--yes", "vm-1")


def test_a_person_types_the_hosts_name_and_agrees_to_the_loss(up, person):
    lose(up)
    told = refused(4, "evacuate", "--fence", "vm-1", typed="h2\n")
    assert "The name does not match" in told
    result = invoke("evacuate", "--fence", "vm-1", typed="h1\nn\n")
    assert result.exit_code != 0
    assert "What was on their disks is lost." in result.stderr
    assert up.server("vm-1").host == "h1"
    assert invoke("evacuate", "vm-1", typed="y\n").exit_code == 0
    assert up.server("vm-1").host == "h2"


def test_all_servers_of_a_host(up):
    lose(up)
    assert "is not fenced" in refused(4, "host-evacuate", "--yes", "h1")
    done = invoke("host-evacuate", "--fence", "--yes", "h1", "--target-host", "h2")
    assert done.exit_code == 0, done.output
    assert {up.server(name).host for name in ("vm-1", "vm-2")} == {"h2"}


def test_list_asks_when_it_is_told_to(up):
    id_ = up.server("vm-1").id
    state = up.fleet.state("h1")
    state["domains"][id_]["power"] = "SHUTDOWN"
    up.fleet.save("h1", state)
    assert listed()["vm-1"] == "ACTIVE"
    assert listed("--refresh")["vm-1"] == "SHUTOFF"
    lose(up)
    told = invoke("list", "--refresh")
    assert told.exit_code == 0
    assert (
        "Warning: Host h1 does not answer. Its servers are shown as they were last" in told.stderr
    )


def test_what_is_said_of_a_shelved_server(up):
    invoke("shelve", "vm-1")
    (shown,) = json.loads(f"[{invoke('show', 'vm-1', '-f', 'json').stdout}]")
    assert (shown["Status"], shown["VM State"], shown["Host"]) == (
        "SHELVED_OFFLOADED",
        "shelved_offloaded",
        "",
    )
    assert "vm-1" in invoke("explain", "vm-1").output
    for words in (["console-log", "vm-1"], ["ssh", "vm-1", "true"]):
        assert "vm-1" in refused(4, *words)
    assert "vm_state shelved_offloaded" in refused(4, "interface-attach", "vm-1", "--net", "net")
    assert invoke("topology").exit_code == 0
    assert invoke("reachability").exit_code == 0
