"""Networks, subnets, ports, images, flavors and key pairs as typed."""

import json

import pytest
import yaml
from click.testing import CliRunner

from stackctl.cli import main
from stackctl.identity.bootstrap import create_cloud, make_keypair
from stackctl.state import find_cloud, new_id, now, read, write
from tests.fakes import FakeFleet


@pytest.fixture
def cloud(clouds):
    made = find_cloud("default")
    create_cloud(made)
    return made


def invoke(*words, typed=None):
    return CliRunner().invoke(main.cli, list(words), input=typed)


def good(*words, typed=None):
    result = invoke(*words, typed=typed)
    assert result.exit_code == 0, result.stderr
    return result


def shown(*words, typed=None):
    return json.loads(good(*words, "-f", "json", typed=typed).stdout)


def refused(status, *words, typed=None):
    result = invoke(*words, typed=typed)
    assert result.exit_code == status, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    return result.stderr


def names(listing):
    return good(listing, "-f", "value", "-c", "Name").stdout.split()


def test_the_slides_networks(cloud):
    local = shown("net-create", "worf_local", "--subnet", "192.168.1.0/24")
    assert (local["Type"], local["MTU"], local["Subnets"]) == ("vxlan", 1450, ["192.168.1.0/24"])
    vlan = ["--provider:network_type", "vlan", "--provider:physical_network", "physnet1"]
    made = invoke(
        "net-create", "Enterprise", *vlan, "--provider:segmentation_id", "101", "--shared"
    )
    assert made.exit_code == 0
    assert "No host has the physical network physnet1 yet" in made.stderr
    assert names("net-list") == ["worf_local", "Enterprise"]
    enterprise = shown("net-show", "Enterprise")
    assert (enterprise["Segmentation ID"], enterprise["Shared"]) == (101, True)


@pytest.mark.parametrize(
    "words",
    [
        ["net-create", "n", "--type", "gre"],
        ["net-create", "n", "--provider-network-type", "gre"],
        ["network", "create", "n", "--provider-network-type", "gre"],
    ],
)
def test_spellings_of_a_type(cloud, words):
    assert shown(*words)["Type"] == "gre"


def test_older_spellings_are_not_in_the_help():
    text = good("net-create", "--help").stdout
    assert "--provider-network-type" in text
    assert "--provider:network_type" not in text
    assert "--pub_key" not in good("keypair-add", "--help").stdout


def test_all_formats(cloud):
    good("net-create", "n", "--subnet", "10.0.0.0/24")
    assert yaml.safe_load(good("net-list", "-f", "yaml").stdout)[0]["Subnets"] == ["10.0.0.0/24"]
    assert good("net-list", "-f", "csv", "-c", "Name").stdout == "Name\nn\n"
    assert "| n " in good("net-list").stdout


def test_subnets_in_both_orders_of_words(cloud):
    good("net-create", "n")
    one = shown("subnet-create", "n", "10.1.0.0/24", "--name", "one", "--disable-dhcp")
    two = shown("subnet", "create", "--network", "n", "--subnet-range", "10.2.0.0/24", "two")
    assert (one["Name"], one["DHCP"], two["Name"], two["DHCP"]) == ("one", False, "two", True)
    pool = ["--allocation-pool", "start=10.3.0.5,end=10.3.0.9", "--no-gateway"]
    route = ["--host-route", "destination=10.0.0.0/8,nexthop=10.3.0.1"]
    three = shown("subnet-create", "n", "10.3.0.0/24", *pool, *route, "--dns-nameserver", "9.9.9.9")
    assert three["Allocation Pools"] == ["10.3.0.5-10.3.0.9"]
    assert three["Host Routes"] == ["10.0.0.0/8 via 10.3.0.1"]
    assert (three["Gateway"], three["DNS Nameservers"]) == (None, ["9.9.9.9"])
    good("net-create", "m", "--subnet", "10.1.0.0/24")
    assert len(shown("subnet-list")) == 4
    assert names("subnet-list") == ["one", "two"]
    assert len(shown("subnet-list", "--network", "m")) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["subnet-create", "n"],
        ["subnet-create", "n", "10.0.0.0/24", "more"],
        ["subnet-create", "n", "10.0.0.0/24", "--allocation-pool", "start=10.0.0.1"],
        ["subnet-create", "n", "10.0.0.0/24", "--host-route", "destination=10.0.0.0/8"],
        ["port-create"],
        ["port-create", "n", "m"],
        ["port-create", "n", "--fixed-ip", "address=10.0.0.1"],
        ["net-create", "n", "--gateway", "10.0.0.1"],
        ["net-create", "n", "--type", "vlan"],
        ["net-create", "n", "--subnet", "10.0.0.1/24"],
        ["net-set", "n"],
        ["subnet-set", "s"],
        ["port-set", "p"],
        ["image-set", "i"],
        ["flavor-create", "f"],
        ["flavor-create", "f", "--ram", "x"],
        ["flavor-create", "f", "auto", "512", "1", "two"],
        ["image-create", "--file", "-"],
        ["image-create", "i", "--from", "debian-12", "--file", "-"],
        ["image-upload", "i"],
        ["image-set", "i", "--project", "p"],
        ["image-set", "i", "--deactivate", "--name", "j"],
        ["image-create", "i", "--name", "j", "--file", "-"],
        ["image-create", "i", "--file", "-", "--url", "http://127.0.0.1/"],
        ["image-create", "i", "--file", "-", "--host-fetch"],
        ["image-create", "i", "--file", "/nowhere"],
        ["keypair-add", "k", "--public-key", "/nowhere"],
        ["keypair-add", "k", "--public-key", "-", "--private-key", "x"],
        ["keypair-add", "k", "--private-key", "/nowhere/x"],
    ],
)
def test_words_that_make_no_sense(cloud, words):
    good("net-create", "n")
    refused(2, *words)


@pytest.mark.parametrize("noun", ["net", "subnet", "port", "image", "flavor", "keypair"])
def test_unknown_names(cloud, noun):
    assert f"Try: stackctl {noun}-list" in refused(3, f"{noun}-show", "nope")
    refused(3, f"{noun}-delete", "nope")


def test_change(cloud):
    good("net-create", "n", "--subnet", "10.0.0.0/24")
    changed = shown("net-set", "n", "--name", "m", "--share", "--disable")
    assert (changed["Name"], changed["Shared"], changed["Admin State"]) == ("m", True, "DOWN")
    subnet = changed["Subnet IDs"][0]
    words = ["--dns-nameserver", "9.9.9.9", "--gateway", "10.0.0.254", "--name", "s"]
    pool = ["--allocation-pool", "start=10.0.0.9,end=10.0.0.99"]
    changed = shown("subnet-set", subnet, *words, *pool)
    assert (changed["Gateway"], changed["Allocation Pools"]) == (
        "10.0.0.254",
        ["10.0.0.9-10.0.0.99"],
    )
    assert shown("subnet-set", "s", "--no-dns-nameservers")["DNS Nameservers"] == []
    port = shown("port-create", "m", "--name", "p", "--fixed-ip", "subnet=s")
    assert port["Fixed IP Addresses"] == ["10.0.0.9"]
    moved = shown("port-update", "p", "--fixed-ip", "ip_address=10.0.0.50", "--name", "q")
    assert (moved["Fixed IP Addresses"], moved["Name"]) == (["10.0.0.50"], "q")
    assert shown("port-set", "q", "--no-fixed-ip")["Fixed IP Addresses"] == []
    assert names("port-list") == ["q"]


def test_several_at_once(cloud):
    for name in "abc":
        good("net-create", name)
    good("port-create", "b", "--name", "busy")
    result = invoke("net-delete", "a", "b", "nope", "c")
    assert result.exit_code == 40
    assert "Deleted network a." in result.stderr and "Deleted network c." in result.stderr
    assert "still in use on the network: busy" in result.stderr
    assert "There is no network 'nope'." in result.stderr
    assert names("net-list") == ["b"]
    refused(4, "net-delete", "b", "nope")
    refused(3, "net-delete", "nope", "b")


def test_several_with_one_request_id(cloud):
    for name in "ab":
        good("net-create", name)
    for _ in range(2):
        good("net-delete", "a", "b", "--request-id", "r")
    assert names("net-list") == []


def test_a_rehearsal(cloud):
    result = good("net-create", "n", "--subnet", "10.0.0.0/24", "--dry-run")
    assert "Dry run: no host would do anything." in result.stdout
    assert names("net-list") == []
    good("net-create", "n")
    result = good("net-delete", "n", "--dry-run")
    assert "Deleted" not in result.output
    assert names("net-list") == ["n"]


def test_flavors(cloud):
    made = shown("flavor-create", "f", "--ram", "2G", "--disk", "20", "--vcpus", "2")
    assert (made["RAM MB"], made["Disk GB"], made["VCPUs"]) == (2048, 20, 2)
    nova = shown("flavor-create", "g", "auto", "512", "1", "2")
    assert (nova["RAM MB"], nova["Disk GB"], nova["VCPUs"]) == (512, 1, 2)
    refused(4, "flavor-create", "f", "--ram", "1")
    good("flavor", "delete", "f", "g")
    assert names("flavor-list")[0] == "m1.tiny"


def test_a_new_key_pair_is_printed_once(cloud):
    result = good("keypair-add", "k")
    assert result.stdout.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert result.stdout.endswith("-----END OPENSSH PRIVATE KEY-----\n")
    assert "SHA256:" in result.stderr
    columns = ["-c", "Name", "-c", "Private Key"]
    assert "PRIVATE" in shown("keypair", "create", "j", *columns)["Private Key"]
    assert "Private Key" not in shown("keypair-show", "j")
    assert names("keypair-list") == ["j", "k"]


def test_a_new_key_pair_in_a_file(cloud, tmp_path):
    path = tmp_path / "k.pem"
    result = good("keypair-add", "k", "--private-key", str(path))
    assert "PRIVATE" not in result.output
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "never overwritten" in refused(4, "keypair-add", "j", "--private-key", str(path))
    other = tmp_path / "other.pem"
    refused(4, "keypair-add", "k", "--private-key", str(other))
    assert not other.exists()
    good("keypair-add", "j", "--private-key", str(other), "--dry-run")
    assert not other.exists()


def test_an_imported_key(cloud, tmp_path):
    private, public = make_keypair("me")
    (tmp_path / "k.pub").write_text(public)
    assert shown("keypair-add", "k", "--pub-key", str(tmp_path / "k.pub"))["Public Key"] == public
    assert shown("keypair-add", "j", "--public-key", "-", typed=public)["Name"] == "j"
    error = refused(2, "keypair-add", "x", "--public-key", "-", typed=private)
    assert "That is a private key" in error
    refused(4, "keypair-add", "k", "--public-key", "-", typed=public)


def test_images(cloud, tmp_path):
    (tmp_path / "disk.raw").write_bytes(b"content" * 100)
    kernel = shown("image-create", "k", "--disk-format", "aki", "--file", "-", typed="kernel")
    words = ["--file", str(tmp_path / "disk.raw"), "--property", "os=x", "--min-disk", "2G"]
    old = ["--name", "d", "--container-format", "bare", "--is-public", "true"]
    made = shown("image-create", *old, *words, "--kernel-id", "k", "--protected")
    assert (made["Name"], made["Visibility"], made["Min Disk GB"]) == ("d", "public", 2)
    assert made["Kernel"] == kernel["ID"]
    assert (made["Properties"], made["Protected"]) == ({"os": "x"}, True)
    assert names("image-list") == ["k", "d"]
    refused(4, "image-delete", "d")
    changed = shown("image-set", "d", "--unprotected", "--property", "os=", "--private")
    assert (changed["Properties"], changed["Visibility"]) == ({}, "private")
    good("image-delete", "d", "k")
    with read(cloud) as reader:
        assert reader.value("SELECT count(*) FROM images WHERE deleted_at IS NULL") == 0
    assert list(cloud.images.iterdir()) == []


def test_bad_images(cloud):
    refused(4, "image-create", "i", "--file", "-", "--sha256", "0" * 64, typed="x")
    refused(31, "image-create", "i", "--file", "-", "--disk-format", "qcow2", typed="x")
    refused(31, "image-create", "i", "--file", "-", typed="")
    refused(3, "image-create", "i", "--file", "-", "--kernel", "nope", typed="x")
    refused(30, "image-create", "i", "--url", "http://127.0.0.1:9/x")
    assert names("image-list") == []


def test_security_groups(cloud):
    made = shown("security", "group", "create", "web", "--description", "Web servers")
    assert (made["Name"], made["Description"]) == ("web", "Web servers")
    ssh = shown(
        "security", "group", "rule", "create", "web", "--protocol", "tcp", "--dst-port", "22"
    )
    assert (ssh["Direction"], ssh["Port Range"], ssh["IP Protocol"]) == ("ingress", "22", "tcp")
    shown("secgroup-add-rule", "web", "tcp", "80", "90", "0.0.0.0/0")
    shown("secgroup-add-rule", "web", "icmp", "-1", "-1", "0.0.0.0/0")
    shown(
        "security-group-rule-create", "web", "--egress", "--ethertype", "IPv6", "--protocol", "41"
    )
    shown("security-group-rule-create", "web", "--src-group", "default", "--icmp-type", "8", *ICMP)
    assert shown("security-group-show", "web")["Rules"] == [
        "allow any IPv4 to anywhere",
        "allow any IPv6 to anywhere",
        "allow tcp 22 over IPv4 from anywhere",
        "allow tcp 80-90 from 0.0.0.0/0",
        "allow icmp from 0.0.0.0/0",
        "allow ipv6-encap over IPv6 to anywhere",
        "allow icmp type 8 from group default",
    ]
    assert good("security-group-show", "web").stdout.count("allow") == 7
    assert len(shown("security-group-rule-list", "web")) == 7
    good("security-group-rule-delete", *[rule["ID"] for rule in shown("secgroup-list-rules")[-2:]])
    refused(3, "security-group-rule-show", ssh["ID"] + "x")
    assert shown("security-group-rule-show", ssh["ID"])["Rule"].startswith("allow tcp 22")
    assert shown("security-group-set", "web", "--name", "www")["Name"] == "www"
    assert names("security-group-list") == ["default", "www"]
    good("security", "group", "delete", "www")
    refused(4, "security-group-delete", "default")


ICMP = ("--protocol", "icmp")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tcp", "22"], "Give GROUP with options, or GROUP PROTOCOL FROM TO CIDR alone"),
        (["tcp", "22", "22", "0.0.0.0/0", "--protocol", "udp"], "GROUP PROTOCOL FROM TO CIDR"),
        (["tcp", "ssh", "22", "0.0.0.0/0"], "are not two ports"),
        (["--colour", "tcp"], "No such option '--colour'"),
        (["--ingress", "--egress"], "Either --ingress or --egress"),
        (["--dst-port", "80-90"], "not a port"),
        ([*ICMP, "--dst-port", "8"], "not allowed with ICMP"),
    ],
)
def test_words_of_rules_that_make_no_sense(cloud, words, said):
    assert said in refused(2, "security-group-rule-create", "default", *words)


def test_what_ports_are_told(cloud):
    good("net-create", "net", "--subnet", "10.0.0.0/24")
    good("security-group-create", "web")
    made = shown(
        *("port-create", "net", "--name", "p", "--security-group", "web"),
        *("--allowed-address", "ip-address=10.1.0.0/16,mac-address=fa:16:3e:00:00:01"),
        *("--allowed-address-pair", "ip_address=10.2.0.1"),
        *("--extra-dhcp-option", "name=ntp-server,value=192.0.2.1,192.0.2.2"),
        *("--extra-dhcp-opt", "name=59,value=http://a/?b=c,ip-version=6"),
        *("--egress-kbps", "1000", "--egress-burst", "800"),
    )
    assert (made["Security Groups"], made["Port Security"]) == (["web"], True)
    assert made["Allowed Addresses"] == [
        {"ip-address": "10.1.0.0/16", "mac-address": "fa:16:3e:00:00:01"},
        {"ip-address": "10.2.0.1"},
    ]
    assert made["DHCP Options"] == [
        {"name": "ntp-server", "value": "192.0.2.1,192.0.2.2", "ip-version": 4},
        {"name": "bootfile-url", "value": "http://a/?b=c", "ip-version": 6},
    ]
    assert (made["Egress kbps"], made["Egress Burst kbit"], made["Ingress kbps"]) == (
        1000,
        800,
        None,
    )
    assert "name=ntp-server,value=192.0.2.1,192.0.2.2,ip-version=4" in good("port-show", "p").stdout
    assert names_of_ports("--security-group", "web") == ["p"]
    assert names_of_ports("--security-group", "default") == []
    changed = shown("port-set", "p", "--no-limit", "--ingress-kbps", "5", "--no-extra-dhcp-option")
    assert (changed["Egress kbps"], changed["Ingress kbps"], changed["DHCP Options"]) == (
        None,
        5,
        [],
    )
    refused(4, "port-set", "p", "--disable-port-security")
    words = ["--no-security-group", "--no-allowed-address", "--disable-port-security"]
    opened = shown("port-set", "p", *words)
    assert (opened["Port Security"], opened["Security Groups"]) == (False, [])


def names_of_ports(*words):
    return good("port-list", *words, "-f", "value", "-c", "Name").stdout.split()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--allowed-address", "mac-address=fa:16:3e:00:00:01"], "needs ip-address=CIDR"),
        (["--extra-dhcp-option", "name=mtu"], "needs name=NAME,value=VALUE"),
        (["--extra-dhcp-option", "name=mtu,value=1,ip-version=5"], "ip-version=4|6"),
        (["--extra-dhcp-option", "name=mtu,value=1"], "follows from the network"),
        (["--extra-dhcp-option", "name=67,value=x\ndhcp-script=/x"], "The value of DHCP option 67"),
        (["--security-group", "default", "--no-security-group"], "Either --security-group or"),
        (["--egress-burst", "5"], "give --egress-kbps, too"),
    ],
)
def test_what_ports_cannot_be_told(cloud, words, said):
    good("net-create", "net")
    assert said in refused(2, "port-create", "net", *words)


def test_port_security_of_a_network(cloud):
    assert shown("net-create", "open", "--disable-port-security")["Port Security"] is False
    assert shown("port-create", "open")["Port Security"] is False
    assert shown("port-create", "open", "--enable-port-security")["Security Groups"] == ["default"]
    assert shown("net-set", "open", "--enable-port-security")["Port Security"] is True
    assert shown("port-create", "open", "--disable-port-security")["Security Groups"] == []


@pytest.fixture
def routed(cloud):
    """An external network and a private one, each with a subnet; no host has them."""
    good("net-create", "public", "--external", "--subnet", "203.0.113.0/24")
    good("net-create", "net")
    good("subnet-create", "net", "10.0.0.0/24", "--name", "sub")


def test_a_router_has_no_place_in_a_cloud_without_hosts(routed):
    made = shown("router-create", "edge", "--disable-snat", "--disable")
    assert (made["Name"], made["Status"], made["Admin State"]) == ("edge", "DOWN", "DOWN")
    assert (made["SNAT"], made["Host"], made["Interfaces"]) == (False, "", [])
    assert "no host" in refused(6, "router-interface-add", "edge", "sub")
    assert shown("router-set", "edge", "--enable", "--enable-snat")["SNAT"] is True
    assert names("router-list") == ["edge"]
    good("router-delete", "edge")


@pytest.fixture
def housed(routed, tmp_path, monkeypatch):
    """The same with a host that is a file, and a router."""
    fleet = FakeFleet(tmp_path / "fleet")
    monkeypatch.setattr("stackctl.fleet.session.open_session", fleet.open_session)
    row = {"id": new_id(), "name": "h1", "transport": "ssh", "address": "h1", "ssh_port": 22}
    row |= {"ssh_user": "root", "host_key": "k", "vcpus": 4, "ram_mb": 4096, "disk_gb": 50}
    with write(find_cloud("default")) as writer:
        writer.insert("hosts", {**row, "created_at": now()})
    good("router-create", "r")


@pytest.mark.parametrize(
    ("add", "remove"),
    [
        (["router-interface-add", "r", "sub"], ["router-interface-delete", "r", "sub"]),
        (
            ["router-interface-add", "r", "subnet=sub"],
            ["router-interface-delete", "r", "subnet=sub"],
        ),
        (["router", "add", "subnet", "r", "sub"], ["router", "remove", "subnet", "r", "sub"]),
        (["router", "add", "port", "r", "leg"], ["router", "remove", "port", "r", "leg"]),
        (["router-interface-add", "r", "port=leg"], ["router-interface-delete", "r", "port=leg"]),
    ],
)
def test_spellings_of_an_interface(housed, add, remove):
    good("port-create", "net", "--name", "leg", "--fixed-ip", "ip-address=10.0.0.254")
    held = "10.0.0.254" if "leg" in add[-1] else "10.0.0.1"
    router = shown(*add)
    assert (router["Interfaces"], router["Host"]) == ([f"{held} in net"], "h1")
    assert shown(*remove)["Interfaces"] == []


@pytest.mark.parametrize(
    ("add", "clear"),
    [
        (["router-gateway-set", "r", "public"], ["router-gateway-clear", "r"]),
        (
            ["router", "set", "--external-gateway", "public", "r"],
            ["router", "unset", "--external-gateway", "r"],
        ),
        (["router-update", "r", "--external-gateway", "public"], ["router-gateway-clear", "r"]),
    ],
)
def test_spellings_of_a_gateway(housed, add, clear):
    fixed = ["--fixed-ip", "ip-address=203.0.113.7", "--disable-snat"]
    router = shown(*add, *fixed)
    assert (router["External Network"], router["External IP"]) == ("public", ["203.0.113.7"])
    assert router["SNAT"] is False
    listed = shown("router-list")[0]
    assert (listed["External Network"], listed["Status"]) == ("public", "ACTIVE")
    assert shown(*clear)["External Network"] is None


def test_routes_as_typed(housed):
    good("router-interface-add", "r", "sub")
    routes = ["--route", "destination=10.9.0.0/16,gateway=10.0.0.9"]
    more = ["--route", "destination=10.8.0.0/16,nexthop=10.0.0.9"]
    assert shown("router-set", "r", *routes)["Routes"] == ["10.9.0.0/16 via 10.0.0.9"]
    assert len(shown("router", "set", "r", *more)["Routes"]) == 2
    assert shown("router", "unset", *routes, "r")["Routes"] == ["10.8.0.0/16 via 10.0.0.9"]
    assert shown("router-set", "r", "--no-route")["Routes"] == []
    refused(2, "router-set", "r", "--route", "destination=10.9.0.0/16")
    refused(2, "router-set", "r")
    refused(2, "router-unset", "r")
    assert "not connected" in refused(
        2, "router-set", "r", "--route", "destination=0.0.0.0/0,gateway=9.9.9.9"
    )
    assert "still has ports" in refused(4, "router-delete", "r")
    assert "is on host h1" in refused(4, "router-move", "r", "h1")
    assert "No valid host" in refused(6, "router-move", "r")


@pytest.mark.parametrize(
    ("tie", "untie"),
    [
        (["floatingip-associate", "203.0.113.9", "p"], ["floatingip-disassociate", "203.0.113.9"]),
        (
            ["floating", "ip", "set", "--port", "p", "203.0.113.9"],
            ["floating", "ip", "unset", "--port", "203.0.113.9"],
        ),
    ],
)
def test_a_floating_ip_as_typed(housed, tie, untie):
    good("router-interface-add", "r", "sub")
    good("router-gateway-set", "r", "public")
    good("port-create", "net", "--name", "p")
    made = shown("floating", "ip", "create", "--floating-ip-address", "203.0.113.9", "public")
    assert (made["Floating IP Address"], made["Status"]) == ("203.0.113.9", "DOWN")
    assert shown(*tie)["Fixed IP Address"] == "10.0.0.2"
    listed = shown("floating", "ip", "list", "--router", "r", "--port", "p", "--network", "public")
    assert [each["Status"] for each in listed] == ["ACTIVE"]
    assert shown("floatingip-show", "203.0.113.9")["Router"] == "r"
    assert "required by one or more" in refused(4, "router-interface-delete", "r", "sub")
    assert shown(*untie)["Port"] is None
    good("floatingip-delete", "203.0.113.9")
    assert "There is no floating IP" in refused(3, "floating", "ip", "show", "203.0.113.9")


@pytest.mark.parametrize(
    "words",
    [
        ["floatingip-create", "public", "--port", "p", "--server", "s"],
        ["floatingip-create", "public", "--fixed-ip-address", "10.0.0.2"],
        ["floatingip-associate", "203.0.113.9"],
        ["floatingip-associate", "203.0.113.9", "a", "--server", "b"],
        ["router-create", "r2", "--fixed-ip", "ip-address=203.0.113.9"],
    ],
)
def test_words_of_routers_that_do_not_go_together(routed, words):
    assert invoke(*words).exit_code == 2


@pytest.mark.parametrize(
    ("add", "remove"),
    [
        (["add-floating-ip", "vm"], ["remove-floating-ip", "vm"]),
        (["server", "add", "floating", "ip", "vm"], ["server", "remove", "floating", "ip", "vm"]),
    ],
)
def test_novas_spelling_of_floating_ips(housed, add, remove):
    good("floatingip-create", "public", "--floating-ip-address", "203.0.113.9")
    assert "There is no server 'vm'" in refused(3, *add, "203.0.113.9")
    assert "is not associated" in refused(4, *remove, "203.0.113.9")
