"""Hosts of a real lab in a cloud: added, prepared, changed, lost, fenced and deleted."""

import json
from pathlib import Path

import pytest

from stackctl import hosts
from stackctl.cli.main import cli, run
from stackctl.errors import Conflict, HostUnreachable
from stackctl.fleet import HostRefused, counters
from stackctl.fleet.keys import FirstLogin
from stackctl.hosts import Declared, HostChanges, NewHost
from stackctl.hosts.prepare import prepare_hosts
from stackctl.identity.bootstrap import create_cloud, public_key
from stackctl.identity.context import admin_context
from stackctl.lab import service
from stackctl.lab.models import Lab
from stackctl.operation.keep import converge_hosts, drift
from stackctl.state import find_cloud

KEYS = "~/.ssh/authorized_keys"
MAPPINGS = ("provider=eth1", "external=br-ex:eth2")


@pytest.fixture
def context(clouds):
    cloud = find_cloud("test")
    create_cloud(cloud)
    return admin_context(cloud)


@pytest.fixture
def new_host(lab: Lab, lab_key: Path):
    def make(name: str = "host1", **values) -> NewHost:
        host = lab.host(name)
        fields = {
            "host_key": host.host_key,
            "first_login": FirstLogin(private_key=lab_key.read_text()),
            "tunnel_address": host.tunnel_address,
            "bridge_mappings": tuple(map(hosts.parse_mapping, MAPPINGS)),
        }
        return NewHost(name, host.address, **{**fields, **values})

    return make


@pytest.fixture
def clean(lab, context):
    """Whatever a test leaves on hosts, the next one finds none of it."""
    yield
    for host in hosts.list_hosts(context):
        if not service.status(lab.folder).host(host.name).running:
            hosts.delete_host(context, host.name, off_for_good=True)
        else:
            hosts.delete_host(context, host.name)


pytestmark = pytest.mark.usefixtures("clean")


def test_a_host_joins_becomes_what_it_must_be_and_leaves(context, new_host, shell):
    host = hosts.add_host(context, new_host(declared=Declared(ram_mb=8192))).value
    assert (host.state, host.enabled, host.behind) == ("up", True, False)
    assert host.ram_mb.physical == 8192
    assert host.versions["libvirt"]
    root = shell("host1")
    assert f"restrict {public_key(context.cloud)}" in root.run(f"cat {KEYS}")
    assert {"br-int", "br-ex", "br-eth1"} <= set(root.run("ovs-vsctl list-br").split())
    assert drift(context, ["host1"]) == ([], [])
    hosts.delete_host(context, "host1")
    assert root.run("ovs-vsctl list-br").split() == ["br-phy"]
    assert public_key(context.cloud) not in root.run(f"cat {KEYS}")
    assert "claim.json" not in root.run("ls /var/lib/stackctl/host")
    hosts.add_host(context, new_host())


def test_adding_costs_one_connection_for_each_of_its_exchanges(context, new_host):
    hosts.add_host(context, new_host())
    counters.reset()
    converge_hosts(context, ["host1"])
    assert (counters.connections, counters.channels) == ({"host1": 1}, {"host1": 1})


def test_a_host_of_another_cloud_is_not_taken(context, new_host, clouds, shell):
    hosts.add_host(context, new_host())
    other = find_cloud("other")
    create_cloud(other)
    with pytest.raises(Conflict, match="does not take our word"):
        hosts.add_host(admin_context(other), new_host())
    assert public_key(other) not in shell("host1").run(f"cat {KEYS}")
    assert hosts.list_hosts(admin_context(other)) == []


def test_without_a_login_the_line_to_install_is_told(context, new_host):
    with pytest.raises(HostRefused) as caught:
        hosts.add_host(context, new_host(first_login=None))
    assert public_key(context.cloud) in caught.value.hint
    assert hosts.list_hosts(context) == []


def test_a_user_with_sudo_does_all_of_it(context, new_host, shell):
    hosts.add_host(context, new_host("host2", user="operator"))
    findings, errors = prepare_hosts(context, ["host2"], check_only=True)
    assert errors == {}
    results = {finding.what: finding.result for finding in findings if finding.step == "packages"}
    assert set(results.values()) == {"ok"}
    hosts.delete_host(context, "host2")
    assert "stackctl-test" not in shell("host2", user="operator").run(f"cat {KEYS}")


def test_mappings_are_made_and_taken_away(context, new_host, shell):
    hosts.add_host(context, new_host(bridge_mappings=()))
    more = (hosts.parse_mapping("provider=eth1"),)
    hosts.set_host(context, "host1", HostChanges(bridge_mappings=more)).check()
    root = shell("host1")
    assert root.run("ovs-vsctl list-ports br-eth1").split() == ["eth1", "phy-br-eth1"]
    done = hosts.set_host(context, "host1", HostChanges(removed_mappings=("provider",)))
    done.check()
    assert "br-eth1" not in root.run("ovs-vsctl list-br").split()


def test_preparing_tells_installs_and_is_then_done(context, new_host, shell):
    hosts.add_host(context, new_host())
    root = shell("host1")
    root.run("rm -f /etc/sysctl.d/60-stackctl.conf /etc/default/libvirt-guests")
    looked, _ = prepare_hosts(context, ["host1"], check_only=True)
    assert ("/etc/default/libvirt-guests", "missing") in {(f.what, f.result) for f in looked}
    assert root.run("ls /etc/sysctl.d/60-stackctl.conf", check=False) == ""
    before = Path("/proc/sys/fs/inotify/max_user_instances").read_text()
    try:
        did, errors = prepare_hosts(context, ["host1"])
        again, _ = prepare_hosts(context, ["host1"])
    finally:
        Path("/proc/sys/fs/inotify/max_user_instances").write_text(before)
    assert errors == {}
    assert ("/etc/default/libvirt-guests", "done") in {(f.what, f.result) for f in did}
    assert {f.result for f in again} <= {"ok", "absent", "skipped"}
    assert "ON_BOOT=ignore" in root.run("cat /etc/default/libvirt-guests")


def test_a_dead_host_is_fenced_or_given_up(context, new_host, lab, lab_key):
    (context.cloud.folder / "config.yaml").write_text("connect_timeout_s: 2\n")
    context = admin_context(find_cloud("test"))
    hosts.add_host(context, new_host("host2"))
    hosts.set_host(context, "host2", HostChanges(zone="rack2"))
    service.kill_host(lab.folder, "host2")
    try:
        with pytest.raises(HostUnreachable):
            hosts.refresh_host(context, "host2")
        assert hosts.show_host(context, "host2").state == "unreachable"
        assert hosts.fence_host(context, "host2").state == "fenced"
        with pytest.raises(HostUnreachable, match="stays in the cloud"):
            hosts.delete_host(context, "host2")
    finally:
        key = lab_key.with_suffix(".pub").read_text() + public_key(context.cloud) + "\n"
        service.start_host(lab.folder, "host2", key)
    hosts.return_host(context, "host2").check()
    assert hosts.show_host(context, "host2").state == "up"
    assert drift(context, ["host2"]) == ([], [])


def type_(*words: str) -> int:
    return run(cli, ["--cloud", "test", *words])


def test_the_commands_say_what_they_did(context, lab, lab_key, capsys):
    host = lab.host("host1")
    words = ["--host-key", host.host_key, "--identity", str(lab_key), "--zone", "east"]
    assert type_("host-add", "host1", "--address", host.address, *words, "-f", "json") == 0
    added = json.loads(capsys.readouterr().out)
    assert (added["State"], added["Zone"], added["Address"]) == ("up", "east", host.address)
    assert type_("host-list", "-f", "json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["VCPUs"]["used"] == 0
    assert type_("host-set", "host1", "--disable", "--reason", "broken fan") == 0
    assert "broken fan" in capsys.readouterr().out
    assert type_("host-set", "host1", "--bridge-mapping", "p=eth9") == 4
    assert "has no NIC eth9" in capsys.readouterr().err
    assert type_("host-show", "nobody") == 3
    assert type_("host-add", "host3", "--address", host.address) == 2
    assert "ssh-keyscan" in capsys.readouterr().err
    other = lab.host("host2").host_key
    assert type_("host-set", "host1", "--host-key", other) == 21
    assert type_("host-set", "host1", "--host-key", host.host_key) == 0
    capsys.readouterr()
    assert type_("host-delete", "host1", "--force") == 2
    assert type_("host-delete", "host1", "--dry-run") == 0
    assert type_("host-delete", "host1") == 0
    assert hosts.list_hosts(context) == []


def test_a_lab_is_a_cloud_of_its_own(clouds, capsys):
    name = "practice"
    here = ["--name", name]
    try:
        assert run(cli, ["lab-up", "--hosts", "1", *here, "-f", "json"]) == 0
        out, err = capsys.readouterr()
        assert [host["Running"] for host in json.loads(out)] == [True]
        assert f"export STACKCTL_CLOUD={name}" in err
        (host,) = hosts.list_hosts(admin_context(find_cloud(name)))
        assert (host.state, host.ram_mb.total >= 8192, host.disk_gb.total >= 120) == (
            "up",
            True,
            True,
        )
        assert [item.physical_network for item in host.bridge_mappings] == ["external", "provider"]
        assert run(cli, ["lab-up", "--hosts", "2", *here]) == 0
        assert len(hosts.list_hosts(admin_context(find_cloud(name)))) == 2
        assert run(cli, ["lab-kill", "host2", *here]) == 0
        assert run(cli, ["lab-status", *here, "-f", "csv", "-c", "Running"]) == 0
        assert capsys.readouterr().out.split()[-2:] == ["True", "False"]
        assert run(cli, ["lab-start", "host2", *here]) == 0
        assert run(cli, ["lab-kill", "host1", *here]) == 0
        assert run(cli, ["lab-up", *here]) == 0
        assert drift(admin_context(find_cloud(name)), []) == ([], [])
        create_cloud(find_cloud("real"))
        assert run(cli, ["lab-up", "--name", "real"]) == 4
    finally:
        capsys.readouterr()
        assert run(cli, ["lab-down", *here]) == 0
    assert not find_cloud(name).folder.exists()
    assert run(cli, ["lab-down", *here]) == 3
    assert run(cli, ["lab-down", "--name", "real"]) == 3
    assert find_cloud("real").database.exists()
