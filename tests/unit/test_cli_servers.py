"""Servers as an operator of OpenStack types them, and what is told of them at night."""

import json

import pytest
from click.testing import CliRunner

from stackctl.cli import commands, main
from stackctl.compute import deleting
from stackctl.state import write


def invoke(*words):
    return CliRunner().invoke(main.cli, list(words))


def good(*words):
    result = invoke(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def shown(*words):
    return json.loads(good(*words, "-f", "json"))


def refused(status, *words):
    result = invoke(*words)
    assert result.exit_code == status, result.stderr
    return result.stderr


CREATE = ("server", "create", "--image", "cirros", "--flavor", "m1.tiny")


def names(*words):
    return good("server", "list", *words, "-f", "value", "-c", "Instance Name").split()


def test_server_create_refused_the_options_of_openstacks_client(typed):
    good(*CREATE, "--network", "net", "--property", "role=db", "--tag", "t", "vm")
    server = shown("show", "vm")
    assert (server["Metadata"], server["Tags"]) == ({"role": "db"}, ["t"])
    good("port-create", "net", "--name", "p")
    good(*CREATE, "--port", "p", "--config-drive", "True", "with-port")
    good(*CREATE, "--network", "net", "--max", "2", "pair")
    assert {"pair-1", "pair-2", "with-port"} < {*names()}


def test_nics_of_several_options_have_no_order(typed):
    told = refused(2, *CREATE, "--network", "net", "--nic", "net=net", "vm")
    assert "in which order" in told
    assert names() == []


def test_a_zone_with_a_host_behind_it_found_no_valid_host(typed):
    good(*CREATE, "--network", "net", "--availability-zone", "nova:h2", "vm")
    assert shown("show", "vm")["Host"] == "h2"
    good(*CREATE, "--network", "net", "--availability-zone", ":h1:h1", "other")
    assert shown("show", "other")["Host"] == "h1"
    told = refused(2, *CREATE, "--zone", "nova:h2", "--host", "h1", "third")
    assert "names another host" in told


@pytest.mark.parametrize(
    "words", [("--meta", f"{'k' * 256}=v"), ("--tag", "a,b"), ("--meta", f"k={'v' * 256}")]
)
def test_a_boot_took_what_a_server_cannot_be_given_later(typed, words):
    refused(2, *CREATE, "--network", "net", *words, "vm")
    assert names() == []


def test_a_property_set_to_nothing_by_rebuild_is_gone(typed):
    good(*CREATE, "--network", "net", "--property", "a=b", "--property", "c=d", "vm")
    good("rebuild", "--yes", "vm", "--property", "a=")
    assert shown("show", "vm")["Metadata"] == {"c": "d"}


def test_servers_could_not_be_listed_by_host_or_state(typed):
    for name, host in (("web-1", "h1"), ("web-2", "h2"), ("db", "h2")):
        good(*CREATE, "--network", "net", "--host", host, "--tag", name[:2], name)
    good("stop", "web-2")
    assert names("--host", "h2") == ["db", "web-2"]
    assert names("--status", "shutoff") == ["web-2"]
    assert names("--name", "web", "--status", "ACTIVE") == ["web-1"]
    assert names("--tag", "db") == ["db"]
    assert names("--image", "cirros", "--flavor", "m1.tiny", "--name", "web") == ["web-2", "web-1"]
    assert names("--image", "other") == []
    assert good("hypervisor-servers", "h1", "-f", "value", "-c", "ID").count("\n") == 1
    assert "no host 'h9'" in refused(3, "list", "--host", "h9")


def test_long_prints_the_columns_that_are_left_out_otherwise(typed):
    good(*CREATE, "--network", "net", "vm")
    (row,) = shown("server", "list", "--long")
    assert (row["Host"], row["Image"]) == ("h1", "cirros")
    assert "Host" not in shown("server", "list")[0]
    assert "--long" not in good("show", "--help")


def test_volumes_could_not_be_listed_by_server(typed):
    good(*CREATE, "--network", "net", "vm")
    for name in ("one", "two"):
        good("volume-create", name, "--size", "1")
    good("server", "add", "volume", "vm", "two")
    for words in (("server", "volume", "list", "vm"), ("volume-attachments", "vm")):
        assert [row["Name"] for row in shown(*words)] == ["two"]
    assert [row["Name"] for row in shown("volume-list", "--status", "available")] == ["one"]
    assert "no server 'x'" in refused(3, "volume-list", "--server", "x")


def test_show_did_not_say_where_a_server_is_being_brought(typed):
    good(*CREATE, "--network", "net", "--host", "h1", "vm")
    rehearsed = shown("live-migrate", "vm", "h2", "--dry-run")
    assert (rehearsed["Host"], rehearsed["Moving to"]) == ("h1", "h2")
    good("live-migrate", "vm", "h2")
    server = shown("show", "vm")
    assert (server["Host"], server["Moving to"]) == ("h2", "")


def test_show_did_not_say_by_what_a_server_was_placed(typed):
    good("server-group-create", "g", "affinity")
    good(*CREATE, "--network", "net", "--hint", "group=g", "vm")
    good(*CREATE, "--network", "net", "--hint", "different_host=vm", "far")
    assert shown("show", "vm")["Server Group"] == "g"
    assert list(shown("show", "far")["Hints"]) == ["different_host"]


def test_show_did_not_say_until_when_a_deletion_can_be_taken_back(typed):
    (typed.cloud.folder / "config.yaml").write_text("reclaim_instance_interval: 3600\n")
    good(*CREATE, "--network", "net", "vm")
    good("delete", "vm")
    (row,) = shown("list")
    with write(typed.cloud) as writer:
        server = writer.one("SELECT id FROM servers WHERE name = ?", row["Instance Name"])
        writer.update("servers", server["id"], soft_deleted_at="2026-03-01T12:00:00.000Z")
    assert shown("show", "vm")["Restorable until"] == "2026-03-01T13:00:00.000Z"
    assert "stackctl restore vm" in refused(4, "start", "vm")
    assert "stackctl delete --force vm" in refused(4, "delete", "vm")
    assert deleting.reclaim(typed.context) == ["vm"]


@pytest.mark.parametrize(
    ("before", "action", "way"),
    [
        ("paused", "suspend", "unpause vm   (first)"),
        ("suspended", "stop", "resume vm   (first)"),
        ("suspended", "start", "resume vm\n"),
        ("stopped", "pause", "start vm   (first)"),
        ("stopped", "unpause", None),
    ],
)
def test_a_wrong_state_told_no_way_out_of_it(typed, before, action, way):
    good(*CREATE, "--network", "net", "vm")
    with write(typed.cloud) as writer:
        server = writer.one("SELECT id FROM servers WHERE name = 'vm'")
        writer.update("servers", server["id"], vm_state=before)
    if way is not None:
        assert f"Try: stackctl {way}" in refused(4, action, "vm")
    else:
        assert "Try:" not in refused(4, action, "vm")


@pytest.mark.parametrize("lines", ["0", "-3"])
def test_a_console_log_of_no_lines_was_all_of_it(typed, lines):
    good(*CREATE, "--network", "net", "vm")
    assert "range" in refused(2, "console-log", "vm", "--lines", lines)


def test_resize_is_confirmed_and_reverted_by_options_too(typed):
    good(*CREATE, "--network", "net", "vm")
    good("flavor-create", "big", "--ram", "1024", "--disk", "2")
    good("server", "resize", "--flavor", "big", "vm")
    assert "stands alone" in refused(2, "server", "resize", "--confirm", "--flavor", "big", "vm")
    assert shown("server", "resize", "--revert", "vm")["Flavor"] == "m1.tiny"
    good("server", "resize", "--flavor", "big", "vm")
    done = shown("server", "resize", "--confirm", "vm")
    assert (done["Flavor"], done["Status"]) == ("big", "ACTIVE")


def test_a_serial_console_is_sat_down_at_not_looked_at(typed):
    good(*CREATE, "--network", "net", "vm")
    told = refused(2, "console", "url", "show", "--serial", "vm")
    assert "Try: stackctl console vm" in told


@pytest.mark.parametrize("words", commands.INSTEAD)
def test_what_openstack_has_and_this_cloud_has_not_is_told(typed, words):
    told = refused(2, *words, "vm", "more")
    assert f"There is no command '{' '.join(words)}' here. {commands.INSTEAD[words]}" in told


@pytest.mark.parametrize("meaning", sorted({*commands.SPELLINGS.values()}))
def test_every_spelling_means_a_command(meaning):
    name = meaning.split()[0]
    command = commands.load(name)
    assert command is not None
    options = {text for param in command.params for text in (*param.opts, *param.secondary_opts)}
    for option in meaning.split()[1:]:
        assert option.partition("=")[0] in options


def test_a_project_that_is_not_there_named_a_command_that_is_not_there(typed):
    good("image", "set", "--shared", "cirros")
    told = refused(3, "image", "add", "project", "cirros", "nobody")
    assert "There is no project 'nobody'." in told
    assert "Try:" not in told


def test_a_deactivated_image_told_no_way_to_activate_it(typed):
    good("image-deactivate", "cirros")
    told = refused(4, *CREATE, "--network", "net", "vm")
    assert "Image cirros is not active." in told
    assert "Try: stackctl image-activate " in told


@pytest.mark.parametrize("key", ["min_disk", "min_ram", "visibility", "status"])
def test_a_minimum_given_as_property_was_kept_and_not_heeded(typed, key):
    assert f"'{key}' is no property: use " in refused(
        2, "image", "set", "--property", f"{key}=5", "cirros"
    )
