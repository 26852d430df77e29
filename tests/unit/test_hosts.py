"""Hosts: what may be said of them, what their playbooks hold, what a change touches."""

import pytest

from stackctl import hosts
from stackctl.errors import Conflict, HostUnreachable, NotFound, UsageError
from stackctl.fleet import ChannelLost, Hello
from stackctl.hosts import Declared, HostChanges, NewHost, checks, joining
from stackctl.hosts.playbook import Release, parse_release, playbook_for
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import Watch, admin_context
from stackctl.state import find_cloud, new_id, now, read, write

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAHsnjtsE6zINuEtzai3pSy6e7N5VzlwtDob/PP5dcKQ"
FACTS = {
    "vcpus": 8,
    "ram_mb": 16000,
    "disk_gb": {"free": 50, "total": 100},
    "versions": {"libvirt": "9.0.0", "ovs": "3.1.0", "dnsmasq": "2.90"},
    "bridges": ["br-phy"],
    "nics": [
        {"name": "lo", "addresses": ["127.0.0.1/8"]},
        {"name": "eth0", "addresses": ["10.0.0.11/24", "10.0.0.12/24"]},
        {"name": "eth1", "addresses": []},
        {"name": "eth2", "addresses": []},
    ],
}


class FakeFleet:
    """Hosts that say ``facts``, remember what was asked of them, and can be down."""

    def __init__(self):
        self.facts = dict(FACTS)
        self.down = None
        self.asked = []
        self.openings = []
        self.keys = set()
        self.specs = []

    def open_session(self, target, opening, **_):
        if self.down is not None:
            raise self.down
        self.openings.append((target.name, opening))
        return FakeSession(self)


class FakeSession:
    def __init__(self, fleet):
        self.fleet = fleet
        self.hello = Hello(None, "boot-1", fleet.facts)

    def converge(self, spec, blob, on_reports):
        self.fleet.specs.append(spec)
        return {}

    def act(self, name, arguments, timeout_s=60):
        self.fleet.asked.append((name, arguments))
        return {}

    def close(self):
        pass

    def abort(self):
        pass


@pytest.fixture
def fleet(monkeypatch):
    fake = FakeFleet()
    monkeypatch.setattr(joining, "open_session", fake.open_session)
    monkeypatch.setattr("stackctl.fleet.session.open_session", fake.open_session)
    monkeypatch.setattr(
        joining.keys, "install", lambda target, *_: fake.keys.add(target.name) or True
    )
    monkeypatch.setattr(joining.keys, "remove", lambda target, *_: fake.keys.discard(target.name))
    return fake


@pytest.fixture
def context(clouds):
    cloud = find_cloud("test")
    create_cloud(cloud)
    return admin_context(cloud)


def new_host(name="node1", **values):
    address = f"10.0.0.{10 + int(name[-1])}"
    fields = {"address": address, "host_key": KEY, "tunnel_address": None}
    return NewHost(name, **{**fields, **values})


def add(context, name="node1", **values):
    return hosts.add_host(context, new_host(name, **values)).value


@pytest.mark.parametrize(
    ("text", "bridge", "nic"),
    [("physnet1=eth1", "br-eth1", "eth1"), ("external=br-ex:enp2s0f1", "br-ex", "enp2s0f1")],
)
def test_a_mapping_names_its_bridge_or_gets_one(text, bridge, nic):
    mapping = checks.parse_mapping(text)
    assert (mapping.bridge, mapping.nic) == (bridge, nic)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eth1",
        "=eth1",
        "physnet1=",
        "physnet1=br-ex:",
        "physnet1=br-int:eth1",
        "physnet1=a b",
        "physnet1=enp129s0f0np0",
        "phys net=eth1",
        "physnet1=br-ex:eth1;reboot",
    ],
)
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(UsageError):
        checks.parse_mapping(text)


def test_a_nic_has_one_physical_network():
    with pytest.raises(UsageError, match="eth1 twice"):
        checks.mappings(map(checks.parse_mapping, ("a=br-a:eth1", "b=br-b:eth1")))


def test_a_host_is_added_with_what_it_has(context, fleet):
    mappings = (checks.parse_mapping("physnet1=eth1"),)
    host = add(context, tunnel_address="10.0.0.12", bridge_mappings=mappings)
    assert (host.vcpus.physical, host.vcpus.total) == (8, 32)
    assert (host.ram_mb.physical, host.ram_mb.total) == (16000, 16000 - 512)
    assert host.disk_gb.total == 100
    assert host.state == "up"
    assert host.fingerprint.startswith("SHA256:")
    assert not host.behind
    assert [opening.mode for _, opening in fleet.openings] == ["act", "converge"]
    assert all(opening.claim for _, opening in fleet.openings)
    (spec,) = fleet.specs
    assert spec["settings"]["tunnel_address"] == "10.0.0.12"
    assert spec["settings"]["bridge_mappings"][0]["bridge"] == "br-eth1"
    assert fleet.keys == {"node1"}
    assert hosts.list_hosts(context) == [host]


def test_declared_capacity_beats_what_the_host_says(context, fleet):
    host = add(context, declared=Declared(ram_mb=4096))
    assert (host.ram_mb.physical, host.vcpus.physical) == (4096, 8)
    assert host.declared == Declared(ram_mb=4096)
    done = hosts.set_host(context, "node1", HostChanges(declared=Declared(ram_mb=0, vcpus=2)))
    assert (done.value.ram_mb.physical, done.value.vcpus.physical) == (16000, 2)


def test_a_host_without_engines_is_added_disabled_and_not_converged(context, fleet):
    fleet.facts = {**FACTS, "versions": {"libvirt": None, "ovs": None, "dnsmasq": "2.90"}}
    warnings = []
    told = admin_context(context.cloud, watch=Watch(warn=warnings.append))
    host = add(told)
    assert (host.enabled, host.state) == (False, "new")
    assert host.disabled_reason == "not prepared: stackctl host-prepare node1"
    assert fleet.specs == []
    assert "libvirt does not answer; Open vSwitch is not installed" in warnings[0]
    with pytest.raises(Conflict, match="stays disabled"):
        hosts.set_host(context, "node1", HostChanges(enabled=True))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"tunnel_address": "10.9.9.9"}, Conflict),
        ({"tunnel_address": "nonsense"}, UsageError),
        ({"bridge_mappings": (checks.parse_mapping("a=eth9"),)}, Conflict),
        ({"host_key": "nonsense"}, UsageError),
        ({"transport": "pigeon"}, UsageError),
    ],
)
def test_what_cannot_be_leaves_nothing(context, fleet, values, error):
    with pytest.raises(error):
        add(context, **values)
    assert hosts.list_hosts(context) == []
    assert fleet.keys == set()


def test_a_host_that_does_not_answer_leaves_nothing(context, fleet):
    fleet.down = HostUnreachable("no route")
    with pytest.raises(HostUnreachable):
        add(context)
    assert hosts.list_hosts(context) == []
    assert fleet.keys == set()


def test_names_and_addresses_are_taken_once(context, fleet):
    add(context, tunnel_address="10.0.0.11")
    with pytest.raises(Conflict, match="already a host 'node1'"):
        add(context, "node1", address="10.0.0.99")
    with pytest.raises(Conflict, match="is host 'node1' already"):
        add(context, "node2", address="10.0.0.11")
    with pytest.raises(Conflict, match="belongs to host node1"):
        add(context, "node2", tunnel_address="10.0.0.11")
    add(context, "local1", transport="local")
    with pytest.raises(Conflict, match="is host 'local1' already"):
        add(context, "local2", transport="local")


def test_a_rehearsed_host_is_not_there(context, fleet):
    rehearsal = admin_context(context.cloud, dry_run=True)
    assert add(rehearsal).name == "node1"
    assert hosts.list_hosts(context) == []
    assert fleet.specs == []


def test_settings_that_the_host_must_hear_of_are_carried_out(context, fleet):
    add(context)
    fleet.specs.clear()
    hosts.set_host(context, "node1", HostChanges(cpu_ratio=8.0, zone="rack2", enabled=False))
    assert fleet.specs == []
    done = hosts.set_host(
        context, "node1", HostChanges(virt_type="qemu", tunnel_address="10.0.0.12")
    )
    assert fleet.specs[0]["settings"]["virt_type"] == "qemu"
    host = done.value
    assert (host.ratios.cpu, host.zone, host.enabled) == (8.0, "rack2", False)
    hosts.set_host(context, "node1", HostChanges(virt_type="qemu"))
    assert len(fleet.specs) == 1


def test_mappings_are_added_replaced_and_taken_away(context, fleet):
    add(context, bridge_mappings=(checks.parse_mapping("a=eth1"),))
    more = (checks.parse_mapping("b=br-b:eth2"),)
    host = hosts.set_host(context, "node1", HostChanges(bridge_mappings=more)).value
    assert [mapping.physical_network for mapping in host.bridge_mappings] == ["a", "b"]
    host = hosts.set_host(context, "node1", HostChanges(removed_mappings=("a",))).value
    assert [mapping.nic for mapping in host.bridge_mappings] == ["eth2"]
    with pytest.raises(NotFound):
        hosts.set_host(context, "node1", HostChanges(removed_mappings=("a",)))


def network_on(context, host, **values):
    with write(context.cloud) as writer:
        network = {
            "id": new_id(),
            "project_id": context.project_id,
            "name": "lan",
            "type": "vlan",
            "physical_network": "a",
            "segmentation_id": 101,
            "mtu": 1500,
            "domain": "x",
            "created_at": now(),
            **values,
        }
        writer.insert("networks", network)
        row = {"host_id": host.id, "network_id": network["id"], "local_vlan": 1}
        writer.insert("host_networks", row)


def test_what_networks_need_is_not_taken_away(context, fleet):
    host = add(
        context, bridge_mappings=(checks.parse_mapping("a=eth1"),), tunnel_address="10.0.0.12"
    )
    network_on(context, host)
    with pytest.raises(Conflict, match=r"its mapping of a .*lan"):
        hosts.set_host(context, "node1", HostChanges(removed_mappings=("a",)))
    hosts.set_host(context, "node1", HostChanges(tunnel_address=""))


@pytest.mark.parametrize(
    "changes",
    [
        HostChanges(virt_type="bochs"),
        HostChanges(cpu_ratio=0),
        HostChanges(reserved_ram_mb=-1),
        HostChanges(name="a b"),
        HostChanges(host_key="nonsense"),
        HostChanges(declared=Declared(vcpus=-1)),
    ],
)
def test_nonsense_changes_nothing(context, fleet, changes):
    before = add(context)
    with pytest.raises(UsageError):
        hosts.set_host(context, "node1", changes)
    assert hosts.show_host(context, "node1") == before


def test_a_host_installed_anew_is_claimed_again(context, fleet):
    add(context)
    fleet.openings.clear()
    hosts.set_host(context, "node1", HostChanges(zone="z"))
    other = KEY[:-4] + "AAAA"
    hosts.set_host(context, "node1", HostChanges(host_key=other))
    assert [opening.claim for _, opening in fleet.openings] == [True]
    assert hosts.show_host(context, "node1").host_key == other


def server_on(context, host, **values):
    with write(context.cloud) as writer:
        flavor = writer.one("SELECT * FROM flavors WHERE name = 'm1.small'")
        row = {
            "id": new_id(),
            "project_id": context.project_id,
            "user_id": context.user_id,
            "name": "vm",
            "hostname": "vm",
            "host_id": host.id,
            "flavor_id": flavor["id"],
            "flavor_name": "m1.small",
            "vcpus": 1,
            "ram_mb": 2048,
            "disk_gb": 20,
            "vm_state": "active",
            "created_at": now(),
            **values,
        }
        writer.insert("servers", row)
        return row


def test_what_servers_take_is_shown(context, fleet):
    host = add(context)
    server_on(context, host)
    server_on(context, host, deleted_at=now())
    shown = hosts.show_host(context, "node1")
    assert (shown.servers, shown.vcpus.used, shown.ram_mb.used, shown.disk_gb.used) == (
        1,
        1,
        2048,
        20,
    )


def test_a_host_with_servers_stays(context, fleet):
    server_on(context, add(context))
    for off in (False, True):
        with pytest.raises(Conflict, match="1 servers are on host node1: vm"):
            hosts.delete_host(context, "node1", off_for_good=off)
    assert hosts.show_host(context, "node1").enabled


def test_a_deleted_host_is_purged_and_loses_the_clouds_key(context, fleet):
    host = add(context)
    hosts.delete_host(context, "node1")
    assert fleet.asked == [("purge", {"host_id": host.id})]
    assert fleet.keys == set()
    assert hosts.list_hosts(context) == []
    add(context)


def test_a_silent_host_stays_unless_it_is_off_for_good(context, fleet):
    host = add(context)
    fleet.down = HostUnreachable("no route")
    with pytest.raises(HostUnreachable) as caught:
        hosts.delete_host(context, "node1")
    assert "--force" in caught.value.hint
    assert hosts.show_host(context, "node1").enabled
    with write(context.cloud) as writer:
        stone = {"kind": "disk", "id": "d", "host_id": host.id, "server_id": "s"}
        writer.insert("tombstones", {**stone, "created_serial": 1, "created_at": now()})
    with pytest.raises(Conflict, match="still wait"):
        hosts.delete_host(context, "node1")
    hosts.delete_host(context, "node1", off_for_good=True)
    assert hosts.list_hosts(context) == []


def test_a_rehearsed_delete_touches_nothing(context, fleet):
    add(context)
    hosts.delete_host(admin_context(context.cloud, dry_run=True), "node1")
    assert fleet.asked == []
    assert hosts.show_host(context, "node1").enabled


def test_only_a_silent_host_can_be_fenced(context, fleet):
    add(context)
    with pytest.raises(Conflict, match="answers"):
        hosts.fence_host(context, "node1")
    fleet.down = ChannelLost("gone")
    assert hosts.fence_host(context, "node1").state == "fenced"
    with pytest.raises(HostUnreachable):
        hosts.return_host(context, "node1")
    fleet.down = None
    hosts.return_host(context, "node1")
    assert hosts.show_host(context, "node1").state == "up"


def test_refreshing_writes_what_the_host_says_now(context, fleet):
    add(context)
    fleet.facts = {**FACTS, "vcpus": 16, "bridges": ["br-int"]}
    host = hosts.refresh_host(context, "node1")
    assert (host.vcpus.physical, host.bridges) == (16, ("br-int",))
    fleet.down = HostUnreachable("no route")
    assert list(hosts.refresh_hosts(context)) == ["node1"]
    assert hosts.show_host(context, "node1").state == "unreachable"


def test_everything_leaves_an_event(context, fleet):
    add(context)
    hosts.set_host(context, "node1", HostChanges(zone="z"))
    hosts.delete_host(context, "node1")
    with read(context.cloud) as reader:
        actions = reader.column("SELECT action FROM events WHERE kind = 'host' ORDER BY id")
    assert actions == ["host-add", "host-set", "host-delete"]


@pytest.mark.parametrize(
    ("release", "distribution"),
    [
        (Release("debian", (), "12", "Debian 12"), "debian"),
        (Release("ubuntu", ("debian",), "24.04", "Ubuntu"), "ubuntu"),
        (Release("linuxmint", ("ubuntu", "debian"), "22", "Mint"), "ubuntu"),
        (Release("fedora", (), "42", "Fedora"), "fedora"),
        (Release("rocky", ("rhel", "centos", "fedora"), "9", "Rocky"), "fedora"),
    ],
)
def test_every_release_has_the_playbook_of_its_family(release, distribution):
    playbook = playbook_for(release)
    assert playbook.distribution == distribution
    assert playbook.packages
    assert playbook.services
    assert set(playbook.tried) <= set(playbook.versions)


def test_a_system_without_playbook_is_told():
    with pytest.raises(Conflict, match="no playbook for Plan 9"):
        playbook_for(Release("plan9", (), "4", "Plan 9"))


def test_os_release_is_read_as_shells_would():
    text = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n# x\n'
    assert parse_release(text) == Release("debian", (), "12", "Debian GNU/Linux 12 (bookworm)")
