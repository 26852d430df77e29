"""Groups, aggregates, zones, extra specs, hints and what-if as typed."""

import json

import pytest
from click.testing import CliRunner

from stackctl.cli import main


def invoke(*words):
    return CliRunner().invoke(main.cli, list(words))


def good(*words):
    result = invoke(*words)
    assert result.exit_code == 0, result.stderr
    return result


def shown(*words):
    return json.loads(good(*words, "-f", "json").stdout)


def refused(status, *words):
    result = invoke(*words)
    assert result.exit_code == status, result.stderr
    return result.stderr


BOOT = ("boot", "vm", "--image", "cirros", "--flavor", "m1.tiny", "--nic", "net=net")


@pytest.mark.parametrize(
    "words",
    [
        ["server-group-create", "g", "--policy", "anti-affinity"],
        ["server-group-create", "g", "anti-affinity"],
        ["server", "group", "create", "g", "--policy", "anti-affinity"],
    ],
)
def test_a_server_group_is_made(typed, words):
    made = shown(*words, "--rule", "max_server_per_host=3")
    assert (made["Policy"], made["Rules"]) == ("anti-affinity", {"max_server_per_host": 3})
    good(*BOOT, "--hint", "group=g")
    assert shown("server", "group", "show", "g")["Members"] == {"vm": "h1"}
    assert "vm on h1" in good("server-group-get", "g").stdout
    assert shown("server", "group", "list")[0]["Members"] == 1
    assert "Deleted server group g" in good("server", "group", "delete", "g").stderr


@pytest.mark.parametrize(
    "words",
    [
        ["server-group-create", "g"],
        ["server-group-create", "g", "affinity", "more"],
        ["server-group-create", "g", "near"],
        ["server-group-create", "g", "anti-affinity", "--rule", "most=3"],
        ["server-group-create", "g", "anti-affinity", "--rule", "max_server_per_host=x"],
        ["aggregate-create", "a", "zone", "more"],
        ["flavor-key", "m1.tiny", "set", "novalue"],
        ["flavor-set", "m1.tiny"],
        ["aggregate-set", "a"],
    ],
)
def test_what_is_typed_wrong(typed, words):
    refused(2, *words)


def test_server_group_is_a_spelling_of_the_hint(typed):
    good("server-group-create", "g", "anti-affinity")
    servers = shown(*BOOT, "--count", "2", "--server-group", "g")
    assert sorted(server["Host"] for server in servers) == ["h1", "h2"]


def test_aggregates(typed):
    made = shown("aggregate", "create", "--zone", "east", "--property", "ssd=true", "fast")
    assert (made["Availability Zone"], made["Properties"]) == ("east", {"ssd": "true"})
    assert shown("aggregate", "add", "host", "fast", "h2")["Hosts"] == ["h2"]
    assert shown("aggregate-set-metadata", "fast", "ssd", "net=10g")["Properties"] == {"net": "10g"}
    assert shown("aggregate", "unset", "--property", "net", "fast")["Properties"] == {}
    assert shown("aggregate", "set", "--property", "a=b", "fast")["Properties"] == {"a": "b"}
    assert shown("aggregate", "set", "--no-property", "fast")["Properties"] == {}
    assert shown("aggregate-update", "fast", "--name", "quick")["Name"] == "quick"
    zones = shown("availability", "zone", "list")
    assert [(zone["Zone Name"], zone["Hosts"]) for zone in zones] == [
        ("east", ["h2"]),
        ("nova", ["h1"]),
    ]
    assert shown("aggregate", "set", "--zone", "", "quick")["Availability Zone"] is None
    assert shown("aggregate", "remove", "host", "quick", "h2")["Hosts"] == []
    assert shown("aggregate-details", "quick")["Hosts"] == []
    assert shown("aggregate-create", "north", "northzone")["Availability Zone"] == "northzone"
    good("aggregate", "delete", "quick", "north")
    assert shown("aggregate", "list") == []


def test_extra_specs(typed):
    assert shown("flavor", "set", "m1.tiny", "--property", "zone=<or> a <or> nova")[
        "Properties"
    ] == {"zone": "<or> a <or> nova"}
    assert shown("flavor-key", "m1.tiny", "set", "x=1", "y=2=3")["Properties"]["y"] == "2=3"
    assert "x" not in shown("flavor-key", "m1.tiny", "unset", "x")["Properties"]
    assert "y" not in shown("flavor", "unset", "m1.tiny", "--property", "y")["Properties"]
    made = shown("flavor-create", "f", "--ram", "1G", "--property", "a=1")
    assert made["Properties"] == {"a": "1"}
    assert "Properties" not in shown("flavor-list")[0]


class TestExplain:
    def test_every_host_filter_and_weigher(self, typed):
        said = good(*BOOT, "--explain", "--zone", "nova", "--dry-run").stdout
        assert "vm goes to h1; it needs 1 vcpus, 512 MB RAM, 1 GB, tunnels, zone nova." in said
        for words in (
            "| h1 *",
            "| h2 ",
            "AvailabilityZoneFilter: zone nova",
            "NetworkFilter: has tunnels",
            "RamFilter: needs 512 MB, 65024 MB free",
            "RAMWeigher 0",
            "Dry run: nothing was changed.",
        ):
            assert words in said
        assert typed.servers() == {}

    def test_a_document_stays_one(self, typed):
        result = good(*BOOT, "--explain", "-f", "json")
        assert json.loads(result.stdout)[0]["Host"] == "h1"
        assert "vm goes to h1" in result.stderr

    def test_a_refusal_is_explained_too(self, typed):
        result = invoke(*BOOT, "--explain", "--hint", 'query=["=", "$host", "none"]')
        assert result.exit_code == 6
        assert "vm fits nowhere" in result.stdout
        assert "NO JsonFilter: does not satisfy the query" in result.stdout
        assert "No valid host was found for vm" in result.stderr

    def test_a_second_try_is_explained_as_well(self, typed):
        typed.trouble("h1", fail={"disk": "no space"})
        said = good(*BOOT, "--explain").stdout
        assert "vm goes to h1" in said
        assert "vm goes to h2" in said


class TestWhatIf:
    def test_drain(self, typed):
        typed.booted(count=2, host="h1")
        moves = shown("what-if", "drain", "h1")
        assert [(move["Server"], move["To"]) for move in moves] == [("vm-1", "h2"), ("vm-2", "h2")]
        assert [server.host for server in typed.booted("x", host="h1")] == ["h1"]

    def test_drain_of_what_fits_nowhere(self, typed):
        typed.booted(count=2, host="h1")
        good("host-set", "h2", "--disable")
        said = refused(6, "what-if", "drain", "h1")
        assert "2 of 2 servers of host h1 fit nowhere else: vm-1, vm-2. Nothing was changed" in said

    def test_fit(self, typed):
        result = good("what-if", "fit", "m1.xlarge")
        assert "6 servers of flavor m1.xlarge fit." in result.stderr
        assert "RAM: needs 16384 MB, 15872 MB free" in result.stdout
        assert "1 of 9" not in refused(6, "what-if", "fit", "m1.xlarge", "--count", "9")
        assert sum(row["Servers"] for row in shown("what-if-fit", "m1.xlarge", "--count", "2")) == 2
