"""Ports, addresses, tags and host names as compute uses them inside its transaction."""

import itertools

import pytest

from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.identity.bootstrap import create_cloud
from stackctl.network.addresses import WantedAddress
from stackctl.network.allocation import (
    bind_port,
    free_hostname,
    join_server,
    leave_server,
    local_vlan,
    make_port,
    release_port,
    unbind_port,
)
from stackctl.network.types import DHCP_OWNER
from stackctl.state import Cloud, new_id, now, read, write


@pytest.fixture
def cloud(tmp_path):
    made = Cloud("test", tmp_path / "cloud")
    create_cloud(made)
    return made


def add_network(writer, name="net", **columns):
    row = {
        "id": new_id(),
        "project_id": writer.value("SELECT id FROM projects"),
        "name": name,
        "type": "vxlan",
        "segmentation_id": writer.value("SELECT count(*) + 1 FROM networks"),
        "mtu": 1450,
        "domain": "cloud.internal",
        "created_at": now(),
    }
    return writer.get("networks", writer.insert("networks", {**row, **columns})["id"])


def add_subnet(writer, network, cidr="192.168.1.0/24", first=".2", last=".254", dhcp=1):
    prefix = cidr.rsplit(".", 1)[0]
    row = {
        "id": new_id(),
        "project_id": network["project_id"],
        "network_id": network["id"],
        "name": "",
        "number": writer.value("SELECT count(*) + 1 FROM subnets"),
        "cidr": cidr,
        "gateway": prefix + ".1",
        "dhcp": dhcp,
        "pools_json": f'[{{"start": "{prefix}{first}", "end": "{prefix}{last}"}}]',
        "created_at": now(),
    }
    return writer.insert("subnets", row)


def add_host(writer, name="h1", applied_serial=0):
    row = {"id": new_id(), "name": name, "transport": "ssh", "address": name, "ssh_port": 22}
    keys = {"ssh_user": "root", "host_key": "k", "vcpus": 4, "ram_mb": 4096, "disk_gb": 50}
    times = {"created_at": now(), "applied_serial": applied_serial}
    return writer.insert("hosts", {**row, **keys, **times})["id"]


def new_port(writer, network, *addresses, **more):
    wanted = [WantedAddress(address=address) for address in addresses]
    more = {"project_id": network["project_id"], "network": network, "wanted": wanted, **more}
    return make_port(writer, **more)


def only(port):
    return port.addresses[0].address


def test_addresses_of_the_slides(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        subnet = add_subnet(writer, network)
        given = [only(new_port(writer, network)) for _ in range(5)]
        dhcp = writer.one("SELECT * FROM addresses WHERE kind = 'dhcp'")
        owner = writer.get("ports", dhcp["port_id"])
    assert given == ["192.168.1.2", *(f"192.168.1.{n}" for n in (4, 5, 6, 7))]
    assert dhcp["address"] == "192.168.1.3"
    assert (owner["device_owner"], owner["device_id"]) == (DHCP_OWNER, subnet["id"])


def test_a_subnet_without_dhcp_keeps_its_address(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        add_subnet(writer, network, dhcp=0)
        given = [only(new_port(writer, network)) for _ in range(2)]
    assert given == ["192.168.1.2", "192.168.1.3"]


def test_mac_is_openstacks_and_tried_again_until_nobody_has_it(cloud):
    octets = itertools.chain([b"\1\2\3", b"\7\7\7"], [b"\1\2\3", b"\7\7\7", b"\1\2\4"])
    with write(cloud) as writer:
        network = add_network(writer)
        add_subnet(writer, network)
        first = new_port(writer, network, entropy=lambda count: next(octets))
        second = new_port(writer, network, entropy=lambda count: next(octets))
        with pytest.raises(Conflict, match="Unable to generate unique mac"):
            new_port(writer, network, entropy=lambda count: b"\1\2\3")
    assert (first.mac, second.mac) == ("fa:16:3e:01:02:03", "fa:16:3e:01:02:04")


def test_a_given_mac(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        assert new_port(writer, network, mac="52-54-00-AA-00-01").mac == "52:54:00:aa:00:01"
        with pytest.raises(Conflict, match="The mac address 52:54:00:aa:00:01 is in use"):
            new_port(writer, network, mac="52:54:00:aa:00:01")
        for bad in ("01:00:5e:00:00:01", "52:54:00:aa:00", "00:00:00:00:00:00", "x"):
            with pytest.raises(UsageError):
                new_port(writer, network, mac=bad)


def test_a_wanted_address(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        subnet = add_subnet(writer, network, first=".10", last=".20")
        # Outside the pool is allowed by name, as in Neutron.
        assert only(new_port(writer, network, "192.168.1.9")) == "192.168.1.9"
        with pytest.raises(Conflict, match=r"The IP address 192\.168\.1\.9 is in use"):
            new_port(writer, network, "192.168.1.9")
        with pytest.raises(UsageError, match="not a valid IP for any of the subnets"):
            new_port(writer, network, "10.0.0.1")
        for end in ("192.168.1.0", "192.168.1.255"):
            with pytest.raises(UsageError, match="not a valid IP for the specified subnet"):
                new_port(writer, network, end)
        with pytest.raises(UsageError, match="not a valid IP address"):
            new_port(writer, network, "192.168.1.300")
        both = [WantedAddress(subnet["id"], "10.0.0.9")]
        with pytest.raises(UsageError, match="not a valid IP for the specified subnet"):
            new_port(writer, network, wanted=both)
        with pytest.raises(NotFound):
            new_port(writer, network, wanted=[WantedAddress("nope")])
        in_subnet = new_port(writer, network, wanted=[WantedAddress(subnet["id"])])
    assert in_subnet.addresses[0].subnet_id == subnet["id"]
    assert only(in_subnet) == "192.168.1.11"  # .10 went to DHCP, after the first port


def test_a_network_without_subnets_gives_a_port_without_addresses(cloud):
    with write(cloud) as writer:
        assert new_port(writer, add_network(writer)).addresses == ()


def test_the_next_subnet_when_the_first_is_full(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        add_subnet(writer, network, first=".2", last=".3")
        add_subnet(writer, network, cidr="192.168.2.0/24", first=".5", last=".6")
        given = [only(new_port(writer, network)) for _ in range(2)]
        with pytest.raises(Conflict, match="No more IP addresses available on network net"):
            new_port(writer, network)
    assert given == ["192.168.1.2", "192.168.2.5"]


def test_no_room_for_the_dhcp_server(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        add_subnet(writer, network, first=".2", last=".2")
        with pytest.raises(Conflict, match="its DHCP server needs one"):
            new_port(writer, network)


def test_a_released_address_rests_while_a_host_may_know_it(cloud):
    with write(cloud) as writer:
        network, host = add_network(writer), add_host(writer)
        add_subnet(writer, network, first=".2", last=".4")
        port, other = new_port(writer, network), new_port(writer, network)
        for each in (port, other):
            bind_port(writer, each.id, host)
    with write(cloud) as writer:
        release_port(writer, port.id)
        released = writer.serial
        with pytest.raises(Conflict, match=r"No more .* released ones may .* on host h1"):
            new_port(writer, network)
        with pytest.raises(Conflict, match=r"192.168.1.2 was released, but .* host h1"):
            new_port(writer, network, "192.168.1.2")
    with write(cloud) as writer:
        writer.update("hosts", host, applied_serial=released - 1)
        with pytest.raises(Conflict):
            new_port(writer, network)
        writer.update("hosts", host, applied_serial=released)
        assert only(new_port(writer, network)) == "192.168.1.2"


@pytest.mark.parametrize("gone", [{"fenced": 1}, {"deleted_at": "2026-01-01"}])
def test_a_fenced_or_deleted_host_is_not_waited_for(cloud, gone):
    with write(cloud) as writer:
        network, host = add_network(writer), add_host(writer)
        add_subnet(writer, network, first=".2", last=".3")
        port = new_port(writer, network)
        bind_port(writer, port.id, host)
    with write(cloud) as writer:
        release_port(writer, port.id)
        writer.update("hosts", host, **gone)
        assert only(new_port(writer, network)) == "192.168.1.2"


def test_never_used_addresses_go_first_then_the_longest_released(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        add_subnet(writer, network, first=".2", last=".5", dhcp=0)
        ports = [new_port(writer, network) for _ in range(3)]
    for index in (2, 0, 1):
        with write(cloud) as writer:
            release_port(writer, ports[index].id)
    with write(cloud) as writer:
        given = [only(new_port(writer, network)) for _ in range(4)]
    assert given == [f"192.168.1.{n}" for n in (5, 4, 2, 3)]


def test_a_deleted_port_leaves_nothing_live(cloud):
    with write(cloud) as writer:
        network, host = add_network(writer), add_host(writer)
        add_subnet(writer, network)
        port = new_port(writer, network, hostname="one", device_id="s1")
        bind_port(writer, port.id, host)
        writer.change.networks.clear()
        writer.change.hosts.clear()
        release_port(writer, port.id)
        assert writer.change.networks == {network["id"]}
        assert (writer.change.hosts, writer.change.ports >= {port.id}) == ({host}, True)
        assert writer.all("SELECT * FROM bindings") == []
        assert writer.get("ports", port.id)["deleted_at"] is not None
        live = "SELECT count(*) FROM addresses WHERE port_id = ? AND released_serial IS NULL"
        assert writer.value(live, port.id) == 0


def test_a_port_joins_and_leaves_a_server(cloud):
    with write(cloud) as writer:
        network, host = add_network(writer), add_host(writer)
        add_subnet(writer, network)
        port = new_port(writer, network, name="kept")
        words = {"device_owner": "compute:nova", "nic_index": 1, "hostname": "web"}
        joined = join_server(writer, port.id, server_id="s1", **words)
        assert (joined.device_id, joined.hostname, joined.nic_index) == ("s1", "web", 1)
        with pytest.raises(Conflict, match=r"port kept\. Port already has an attached device s1"):
            join_server(writer, port.id, server_id="s2", **words)
        bind_port(writer, port.id, host)
        leave_server(writer, port.id)
        left = writer.get("ports", port.id)
        assert (left["device_id"], left["hostname"], left["deleted_at"]) == ("", "", None)
        assert writer.all("SELECT * FROM bindings") == []
        made = new_port(writer, network, device_id="s1", made_for_server=True)
        leave_server(writer, made.id)
        assert writer.get("ports", made.id)["deleted_at"] is not None


def test_tags_are_the_lowest_free_of_each_host(cloud):
    with write(cloud) as writer:
        first, second = add_host(writer, "h1"), add_host(writer, "h2")
        nets = [add_network(writer, f"n{n}") for n in range(3)]
        assert [local_vlan(writer, first, net["id"]) for net in nets] == [1, 2, 3]
        assert local_vlan(writer, second, nets[2]["id"]) == 1
        assert local_vlan(writer, first, nets[1]["id"]) == 2


def test_a_tag_is_free_again_when_its_host_has_applied_the_release(cloud):
    with write(cloud) as writer:
        host = add_host(writer)
        nets = [add_network(writer, f"n{n}") for n in range(3)]
        ports = [new_port(writer, net) for net in nets[:2]]
        for port in ports:
            bind_port(writer, port.id, host)
    with write(cloud) as writer:
        unbind_port(writer, ports[0].id, host)
        assert local_vlan(writer, host, nets[2]["id"]) == 3
        released = writer.serial
    with write(cloud) as writer:
        writer.update("hosts", host, applied_serial=released)
        assert local_vlan(writer, host, add_network(writer, "n4")["id"]) == 1


def test_a_network_that_comes_back_keeps_its_tag(cloud):
    with write(cloud) as writer:
        network, host = add_network(writer), add_host(writer)
        one, two = new_port(writer, network), new_port(writer, network)
        for port in (one, two):
            bind_port(writer, port.id, host)
        row = "SELECT released_serial FROM host_networks"
        unbind_port(writer, one.id, host)
        assert writer.value(row) is None
        unbind_port(writer, two.id, host)
        assert writer.value(row) == writer.serial
        bind_port(writer, one.id, host, role="incoming")
        assert writer.value(row) is None
        assert writer.value("SELECT role FROM bindings") == "incoming"


def test_a_full_host_says_so(cloud):
    with write(cloud) as writer:
        host = add_host(writer)
        for tag in range(1, 4095):
            row = {"host_id": host, "network_id": add_network(writer)["id"], "local_vlan": tag}
            writer.insert("host_networks", row)
        with pytest.raises(Conflict, match="Host h1 carries 4094 networks"):
            local_vlan(writer, host, add_network(writer)["id"])


def test_host_names_are_unique_per_network(cloud):
    with write(cloud) as writer:
        one, two = add_network(writer, "n1"), add_network(writer, "n2")
        new_port(writer, one, hostname="web", device_id="s1")
        new_port(writer, two, hostname="web-2", device_id="s2")
        ids = [one["id"], two["id"]]
        assert free_hostname(writer, ids, "Web") == "web-3"
        assert free_hostname(writer, [two["id"]], "Web") == "web"
        second_nic = new_port(writer, one, hostname="web", device_id="s1", nic_index=1)
    assert second_nic.hostname == ""


def test_a_long_name_has_room_for_its_number(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        new_port(writer, network, hostname="x" * 63, device_id="s1")
        with_number = free_hostname(writer, [network["id"]], "x" * 80)
        new_port(writer, network, hostname=with_number, device_id="s2")
        third = free_hostname(writer, [network["id"]], "x" * 80)
    assert (with_number, third) == ("x" * 61 + "-2", "x" * 61 + "-3")


def test_rolled_back_is_as_if_never_asked(cloud):
    with write(cloud) as writer:
        network = add_network(writer)
        add_subnet(writer, network)
    with write(cloud, dry_run=True) as writer:
        assert only(new_port(writer, network)) == "192.168.1.2"
    with read(cloud) as reader:
        assert reader.value("SELECT count(*) FROM ports") == 0
