"""What a guest is told on its config drive."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.resources.configdrive import LABEL, block_devices, compile_tree
from agent.spec import (
    Attachment,
    Dhcp,
    Disk,
    FixedAddress,
    Guest,
    HostRoute,
    HostSettings,
    HostSpec,
    Network,
    Port,
    Power,
    Server,
    Subnet,
)
from agent.system import iso
from tests.guest_samples import ID as SERVER_ID
from tests.guest_samples import network, port, server, spec, subnet

CONTENTS = {"u" * 64: b"#cloud-config\n", "f" * 64: b"10.0.0.2 head\n"}

PORTS = (
    port(
        "aaaaaaaa",
        "0a",
        "net-dhcp",
        ("sub-dhcp", "192.168.1.4"),
        ("sub-dhcp", "192.168.1.5"),
        gives_default_route=False,
    ),
    port("bbbbbbbb", "0b", "net-static", ("sub-static", "10.1.0.5"), gives_name_server=True),
)
STATIC = subnet(
    "sub-static",
    "10.1.0.0/24",
    "10.1.0.1",
    None,
    dns_nameservers=("10.1.0.53",),
    host_routes=(HostRoute("172.16.0.0/12", "10.1.0.9"),),
)
SPEC = spec(
    (
        network(
            "net-dhcp", 1450, subnet("sub-dhcp", "192.168.1.0/24", "192.168.1.1", "192.168.1.3")
        ),
        network("net-static", 1500, STATIC),
    ),
    PORTS,
)
SERVER = server("u" * 64, "f" * 64, ports=(PORTS[1].id, PORTS[0].id))


@pytest.fixture
def tree():
    return compile_tree(SPEC, SERVER, CONTENTS.__getitem__)


def read(tree, path):
    return json.loads(tree[path])


def test_both_trees_are_there(tree):
    assert [path for path in sorted(tree) if "/20" not in path] == [
        "ec2/latest/meta-data.json",
        "ec2/latest/user-data",
        "openstack/content/0000",
        "openstack/latest/meta_data.json",
        "openstack/latest/network_data.json",
        "openstack/latest/user_data",
        "openstack/latest/vendor_data.json",
        "openstack/latest/vendor_data2.json",
    ]
    assert tree["openstack/latest/user_data"] == tree["ec2/latest/user-data"] == b"#cloud-config\n"


def test_meta_data_has_the_names_that_cloud_init_reads(tree):
    meta = read(tree, "openstack/latest/meta_data.json")
    assert meta["uuid"] == SERVER_ID
    assert meta["name"] == "Kopf \N{SNOWMAN}"
    assert meta["hostname"] == "head"
    assert meta["launch_index"] == 2
    assert meta["public_keys"] == {"mine": "ssh-ed25519 AAAA me"}
    assert meta["keys"] == [{"type": "ssh", "name": "mine", "data": "ssh-ed25519 AAAA me"}]
    assert meta["meta"] == {"role": "head"}
    assert meta["files"] == [
        {"path": "/etc/hosts.extra", "content_path": "/content/0000", "mode": "0644"}
    ]
    assert tree["openstack/content/0000"] == b"10.0.0.2 head\n"


def test_nics_are_told_in_the_order_of_the_server(tree):
    data = read(tree, "openstack/latest/network_data.json")
    assert data["links"] == [
        {
            "id": "tapbbbbbbbb-11",
            "vif_id": "bbbbbbbb-1111-4111-8111-111111111111",
            "type": "ovs",
            "mtu": 1500,
            "ethernet_mac_address": "fa:16:3e:00:00:0b",
        },
        {
            "id": "tapaaaaaaaa-11",
            "vif_id": "aaaaaaaa-1111-4111-8111-111111111111",
            "type": "ovs",
            "mtu": 1450,
            "ethernet_mac_address": "fa:16:3e:00:00:0a",
        },
    ]
    assert data["networks"] == [
        {
            "id": "network0",
            "type": "ipv4",
            "link": "tapbbbbbbbb-11",
            "network_id": "net-static",
            "ip_address": "10.1.0.5",
            "netmask": "255.255.255.0",
            "routes": [
                {"network": "172.16.0.0", "netmask": "255.240.0.0", "gateway": "10.1.0.9"},
                {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
            ],
            "services": [{"type": "dns", "address": "10.1.0.53"}],
        },
        {
            "id": "network1",
            "type": "ipv4_dhcp",
            "link": "tapaaaaaaaa-11",
            "network_id": "net-dhcp",
        },
    ]
    assert data["services"] == [{"type": "dns", "address": "10.1.0.53"}]


def test_an_old_version_has_what_it_had_then(tree):
    first = {path for path in tree if path.startswith("openstack/2012-08-10/")}
    assert first == {"openstack/2012-08-10/meta_data.json", "openstack/2012-08-10/user_data"}
    old = read(tree, "openstack/2012-08-10/meta_data.json")
    new = read(tree, "openstack/latest/meta_data.json")
    assert new.keys() - old.keys() == {"project_id", "devices", "dedicated_cpus"}
    assert not any("network_data" in path for path in tree if "/2013-" in path)


def test_a_server_from_before_there_were_seeds_has_none(tree):
    assert "random_seed" not in read(tree, "openstack/latest/meta_data.json")
    seeded = replace(SERVER, guest=replace(SERVER.guest, seed="c2VlZA=="))
    again = compile_tree(SPEC, seeded, CONTENTS.__getitem__)
    assert read(again, "openstack/latest/meta_data.json")["random_seed"] == "c2VlZA=="
    assert "random_seed" not in read(again, "openstack/2012-08-10/meta_data.json")


def test_vendor_data_are_told_in_both_forms(tree):
    assert read(tree, "openstack/latest/vendor_data.json") == {}
    assert read(tree, "openstack/latest/vendor_data2.json") == {}
    told = replace(SERVER, guest=replace(SERVER.guest, vendor_data_sha256="v" * 64))
    contents = {**CONTENTS, "v" * 64: b'{"cloud-init": "#cloud-config"}'}
    again = compile_tree(SPEC, told, contents.__getitem__)
    assert read(again, "openstack/latest/vendor_data.json") == {"cloud-init": "#cloud-config"}
    assert read(again, "openstack/latest/vendor_data2.json") == {
        "static": {"cloud-init": "#cloud-config"}
    }


def test_disks_and_volumes_are_mapped_to_the_devices_that_the_guest_has():
    kinds = ("root", "ephemeral", "swap")
    disks = tuple(Disk(kind, 1, SERVER_ID, kind, "qcow2", 1, False) for kind in kinds)
    volumes = (Attachment("volume-2", "vdd"), Attachment("volume-1", "vdb"))
    server = replace(SERVER, disks=kinds, volumes=volumes)
    assert block_devices(replace(SPEC, disks=disks), server) == {
        "ami": "vda",
        "root": "/dev/vda",
        "ephemeral0": "/dev/vdc",
        "swap": "/dev/vde",
        "ebs0": "/dev/vdb",
        "ebs1": "/dev/vdd",
    }
    rescued = replace(server, disks=("rescue", *kinds), volumes=(), disk_bus="scsi")
    assert block_devices(replace(SPEC, disks=disks), rescued)["ephemeral0"] == "/dev/sdc"
    booted = replace(SERVER, disks=("swap",), volumes=(Attachment("volume-1", "vda"),))
    assert block_devices(replace(SPEC, disks=disks), booted)["swap"] == "/dev/vdb"


def test_the_ec2_tree(tree):
    meta = read(tree, "ec2/latest/meta-data.json")
    assert meta["local-ipv4"] == "10.1.0.5"
    assert meta["public-keys"] == {"0": {"_name": "0=mine", "openssh-key": "ssh-ed25519 AAAA me"}}


def test_equal_trees_make_equal_images(tmp_path, tree):
    first, second = tmp_path / "1.iso", tmp_path / "2.iso"
    iso.build(first, LABEL, tree)
    iso.build(second, LABEL, dict(reversed(tree.items())))
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert content[0x8028:0x8048].decode().strip() == "config-2"
    assert first.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.iso", "2.iso"]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("slaac", "ipv6_slaac"),
        ("dhcpv6-stateful", "ipv6_dhcpv6-stateful"),
        ("dhcpv6-stateless", "ipv6_dhcpv6-stateless"),
    ],
)
def test_ipv6_is_told_by_its_mode(mode: str, kind: str) -> None:
    subnet = Subnet("six", 1, 9, "fd00::/64", "fd00::1", Dhcp("p", "fd00::2", "m"), ipv6_mode=mode)
    entry = _only_network(subnet)
    assert entry["type"] == kind and "ip_address" not in entry


def test_ipv6_without_dhcp_is_told_whole() -> None:
    subnet = Subnet("six", 1, 9, "fd00::/64", "fd00::1", None, ("fd00::53",))
    entry = _only_network(subnet)
    assert (entry["type"], entry["ip_address"]) == ("ipv6", "fd00::5")
    assert entry["netmask"] == "ffff:ffff:ffff:ffff::"
    assert entry["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd00::1"}]
    assert entry["services"] == [{"type": "dns", "address": "fd00::53"}]


def _only_network(subnet: Subnet) -> dict[str, object]:
    """What network_data.json says of a server with one address, fd00::5, in a subnet."""
    network = Network("n", 1, "vxlan", None, 7, 1, 1450, True, "d", subnets=(subnet,))
    port = Port("p" * 36, 1, "n", SERVER_ID, "m", (FixedAddress("six", "fd00::5"),), "h")
    guest = Guest("h", "h", "p", 0, "nova")
    server = Server(SERVER_ID, 1, 1, 64, Power(1, "start"), guest, ports=(port.id,))
    spec = HostSpec(1, "c", "h", 1, "n", HostSettings(), networks=(network,), ports=(port,))
    tree = compile_tree(spec, server, lambda _: b"")
    assert json.loads(tree["ec2/latest/meta-data.json"])["local-ipv4"] == ""
    (entry,) = json.loads(tree["openstack/latest/network_data.json"])["networks"]
    return dict(entry)
