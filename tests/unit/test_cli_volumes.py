"""Volumes and snapshots as typed."""

import json

import pytest
from click.testing import CliRunner

from stackctl.cli import main


@pytest.fixture
def up(pair, monkeypatch):
    """Two hosts, and a server vm on h1."""
    monkeypatch.setenv("STACKCTL_CLOUDS", str(pair.cloud.folder.parent))
    pair.booted(host="h1")
    return pair


def invoke(*words):
    return CliRunner().invoke(main.cli, ["--cloud", "cloud", *words])


def shown(*words):
    result = invoke(*words, "-f", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(status, *words):
    result = invoke(*words)
    assert result.exit_code == status, result.output
    assert result.stderr.startswith("Error: ")
    return result.stderr


def test_a_volume_from_its_making_to_its_end(up):
    made = shown("volume", "create", "data", "--size", "1", "--description", "all of it")
    assert (made["Status"], made["Host"], made["Bootable"]) == ("available", "", False)
    got = shown("server", "add", "volume", "vm", "data", "--device", "/dev/vdf")
    assert (got["Status"], got["Server"], got["Device"]) == ("in-use", "vm", "/dev/vdf")
    (row,) = shown("volume-list")
    assert (row["Attached to"], row["Size"], row["Host"]) == ("vm on /dev/vdf", 1, "h1")
    assert shown("show", "vm")["Volumes"] == ["data /dev/vdf"]
    assert shown("volume-extend", "data", "3G")["Size GB"] == 3
    assert shown("volume", "set", "data", "--name", "more")["Name"] == "more"
    assert "must be available or error or creating" in refused(4, "volume-delete", "more")
    assert "Detached volume more from vm." in invoke("volume-detach", "vm", "more").stderr
    assert "Deleted volume more." in invoke("volume-delete", "--yes", "more").stderr
    assert shown("volume-list") == []


def test_a_volume_type_from_its_making_to_its_end(up):
    made = shown("volume", "type", "create", "nas", "--nfs", "nas.example.com:/volumes")
    assert (made["Driver"], made["Shared"], made["Hosts"]) == ("nfs", True, ["h1", "h2"])
    assert [row["Name"] for row in shown("volume", "type", "list")] == ["local", "nas"]
    got = shown("volume", "create", "data", "--size", "1", "--type", "nas")
    assert (got["Type"], got["Shared"], got["Host"]) == ("nas", True, "")
    assert got["Cared for by"] in ("h1", "h2")
    (row,) = shown("volume-list")
    assert (row["Type"], row["Host"]) == ("nas", "")
    assert "are of the type nas" in refused(4, "volume-type-delete", "nas")
    assert "making it has not failed" in refused(4, "volume-retry", "data")
    invoke("volume-delete", "--yes", "data")
    assert "Deleted volume type nas." in invoke("volume-type-delete", "nas").stderr
    assert shown("volume-type-show", "local")["Hosts"] == ["h1", "h2"]


@pytest.mark.parametrize(
    "words", [(), ("--nfs", "a:/x", "--pool", "p"), ("--nfs", "a:/x", "--shared"), ("--pool", "/")]
)
def test_a_volume_type_is_of_one_place(up, words):
    refused(2, "volume-type-create", "odd", *words)


def test_a_device_may_stand_behind_as_in_novas_own_command(up):
    invoke("volume-create", "data", "--size", "1")
    words = ("volume-attach", "vm", "data", "/dev/vdd", "--delete-on-termination")
    got = shown(*words)
    assert (got["Device"], got["Delete on Termination"]) == ("/dev/vdd", True)


def test_a_snapshot_from_its_making_to_its_end(up):
    invoke("volume-create", "data", "--size", "1", "--host", "h1")
    made = shown("volume", "snapshot", "create", "monday", "--volume", "data")
    assert (made["Status"], made["Volume"], made["Consistency"]) == ("available", "data", "at-rest")
    assert shown("volume-create", "copy", "--snapshot", "monday")["Size GB"] == 1
    (row,) = shown("volume-snapshot-list", "--volume", "data")
    assert (row["Name"], row["Volume"]) == ("monday", "data")
    assert shown("volume-snapshot-show", "monday")["Host"] == "h1"
    assert "Deleted snapshot monday." in invoke("volume", "snapshot", "delete", "monday").stderr


def test_what_a_server_boots_from_is_given_once(up):
    assert (
        "--image IMAGE or --boot-volume VOLUME" in invoke("boot", "x", "--flavor", "m1.tiny").stderr
    )
    invoke("volume-create", "root", "--size", "1", "--image", "cirros")
    words = ("--flavor", "m1.tiny", "--nic", "net=net")
    both = ("boot", "x", "--image", "cirros", "--boot-volume", "root", *words)
    assert "give one of the two" in refused(2, *both)
    assert shown("boot", "x", "--volume", "root", *words)[0]["Status"] == "ACTIVE"
    assert "needs a size" in refused(2, "volume-create", "none")
