"""Allocation against a model: nothing twice, everything back, lowest first, rested before reuse."""

import contextlib
import ipaddress
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stackctl.errors import Conflict
from stackctl.identity.bootstrap import create_cloud
from stackctl.network import choice, subnet_rules
from stackctl.network.addresses import WantedAddress
from stackctl.network.allocation import bind_port, make_port, release_port
from stackctl.network.types import Pool
from stackctl.state import Cloud, new_id, now, write

POOLS = ((10, 13), (20, 21))  # host numbers of 10.0.0.0/24


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_lowest_gap_is_what_counting_up_finds(used, first, last):
    def counted(a, b):
        return len([number for number in used if a <= number <= b])

    free = [number for number in range(first, last + 1) if number not in used]
    assert choice.lowest_gap(first, last, counted) == (free[0] if free else None)


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_lowest_free_is_what_counting_up_finds(used, first, last):
    free = [number for number in range(first, last + 1) if number not in used]
    assert choice.lowest_free(first, last, used) == (free[0] if free else None)


@given(st.text(max_size=200))
def test_any_name_becomes_one_dns_label(name):
    label = choice.dns_label(name)
    assert 1 <= len(label) <= 63
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not label.startswith("-")
    assert not label.endswith("-")
    assert not label.isdigit()
    assert label == choice.dns_label(name)


@given(st.text(max_size=80), st.integers(1, 30))
def test_labels_stay_unique_and_short(name, count):
    taken = set()
    for _ in range(count):
        label = choice.unused_label(choice.dns_label(name), taken)
        assert label not in taken
        assert len(label) <= 63
        taken.add(label)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("worf_compute_node_-49e4", "worf-compute-node-49e4"),
        ("Wörf Head", "worf-head"),
        ("straße", "strasse"),
        ("ﬁle①", "file1"),
        ("_", "server-" + "d2e2adf7"),
        ("42", "server-42"),
        ("1h", "server-1h"),
        ("ignore", "server-ignore"),
        ("localhost", "server-localhost"),
        ("пример", "xn--e1afmkfd"),
        ("例え", "xn--r8jz45g"),
        ("x" * 100, "x" * 63),
    ],
)
def test_names_as_people_would_expect(name, label):
    assert choice.dns_label(name) == label


@given(st.ip_addresses(), st.ip_addresses())
def test_sortable_form_sorts_as_addresses_do(one, two):
    if one.version == two.version:
        assert (choice.sortable(str(one)) < choice.sortable(str(two))) == (one < two)


@given(st.integers(4, 30), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_default_pools_are_all_hosts_but_the_gateway(prefix, base, pick):
    cidr = ipaddress.ip_network((base, prefix), strict=False)
    gateway = cidr.network_address + 1 + pick % (cidr.num_addresses - 2)
    pools = subnet_rules.default_pools(cidr, str(gateway))
    ranges = [(ipaddress.ip_address(p.start), ipaddress.ip_address(p.end)) for p in pools]
    assert sum(int(end) - int(start) + 1 for start, end in ranges) == cidr.num_addresses - 3
    subnet_rules.refuse_gateway_in(str(gateway), ranges)
    assert subnet_rules.checked_pools(cidr, str(gateway), pools) == pools


@given(st.data(), st.lists(st.binary(min_size=3, max_size=3), max_size=12, unique=True))
def test_what_guests_make_of_their_macs_is_theirs_alone(data, chances):
    """Another MAC, another address, in the prefix."""
    prefix = ipaddress.IPv6Network((data.draw(st.integers(0, 2**64 - 1)) << 64, 64))
    made = [choice.eui64(str(prefix), choice.mac_from(chance)) for chance in chances]
    assert len(set(made)) == len(made)
    assert all(ipaddress.ip_address(address) in prefix for address in made)


@given(st.integers(64, 126), st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
@example(126, 2**128 - 1, 2)
def test_ipv6_pools_are_all_hosts_but_the_gateway(prefix, base, pick):
    cidr = ipaddress.ip_network((base, prefix), strict=False)
    gateway = cidr.network_address + 1 + pick % (cidr.num_addresses - 1)
    pools = subnet_rules.default_pools(cidr, str(gateway))
    numbers = [
        (int(ipaddress.ip_address(p.start)), int(ipaddress.ip_address(p.end))) for p in pools
    ]
    assert sum(end - start + 1 for start, end in numbers) == cidr.num_addresses - 2
    if not gateway.is_link_local:
        assert subnet_rules.checked_pools(cidr, str(gateway), pools) == pools


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["make", "drop"]), max_size=40))
def test_ipv6_addresses_are_never_given_twice(steps):
    """A dual-stack network whose guests count in one IPv6 subnet and make theirs in another."""
    with tempfile.TemporaryDirectory() as folder:
        cloud = Cloud("test", Path(folder) / "cloud")
        create_cloud(cloud)
        with write(cloud) as writer:
            network = _insert_network(writer)
            for number, (cidr, mode) in enumerate(
                [("fd00:1::/123", "dhcpv6-stateful"), ("fd00:2::/64", "slaac")], 2
            ):
                pools = subnet_rules.default_pools(ipaddress.ip_network(cidr), None)
                row = {"id": new_id(), "project_id": network["project_id"], "name": "", "dhcp": 1}
                more = {"network_id": network["id"], "number": number, "cidr": cidr}
                plain = json.dumps([{"start": p.start, "end": p.end} for p in pools])
                rest = {"pools_json": plain, "ipv6_mode": mode, "created_at": now()}
                writer.insert("subnets", {**row, **more, **rest})
        ports = []
        for step in steps:
            with write(cloud) as writer:
                if step == "drop" and ports:
                    release_port(writer, ports.pop(0).id)
                elif step == "make":
                    with contextlib.suppress(Conflict):
                        ports.append(
                            make_port(writer, project_id=network["project_id"], network=network)
                        )
        with write(cloud, dry_run=True) as writer:
            live = writer.column("SELECT address FROM addresses WHERE released_serial IS NULL")
        assert len(set(live)) == len(live)
        for port in ports:
            held = [fixed.address for fixed in port.addresses]
            assert len(held) == 3 and held[2] == choice.eui64("fd00:2::/64", port.mac)
            assert ipaddress.ip_address(held[1]) in ipaddress.ip_network("fd00:1::/123")


TEXT = st.text(max_size=20) | st.sampled_from(["10.0.0.1", "10.0.0.1\n", "010.0.0.1", "::1", "1"])


@given(TEXT, TEXT)
def test_any_text_is_refused_or_a_plain_address(one, two):
    """What is stored goes into the DHCP server's files: one token, or nothing."""
    for check in (
        lambda: subnet_rules.checked_nameservers([one])[0],
        lambda: subnet_rules.checked_gateway(ipaddress.ip_network("10.0.0.0/24"), one),
        lambda: (
            subnet_rules.checked_pools(ipaddress.ip_network("10.0.0.0/24"), None, [Pool(one, two)])[
                0
            ].start
        ),
    ):
        try:
            kept = check()
        except Exception as error:
            assert getattr(error, "exit_status", None) == 2
            continue
        assert kept is None or str(ipaddress.IPv4Address(kept)) == kept


class Allocation(RuleBasedStateMachine):
    """Ports come and go on two hosts that apply what they hear, late or never."""

    def __init__(self):
        super().__init__()

        self.folder = tempfile.TemporaryDirectory()

        self.cloud = Cloud("test", Path(self.folder.name) / "cloud")
        create_cloud(self.cloud)
        with write(self.cloud) as writer:
            self.network = _insert_network(writer)
            self.hosts = [_insert_host(writer, f"h{n}") for n in (1, 2)]
        self.ports = {}  # port id -> host number of its address
        self.released = {}  # host number -> serial, oldest first
        self.ever = set()

    def teardown(self):
        self.folder.cleanup()

    def _resting(self, writer):
        knows = writer.column("SELECT host_id FROM host_networks")
        settled = [
            writer.get("hosts", id_)["applied_serial"]
            for id_ in knows
            if not writer.get("hosts", id_)["fenced"]
        ]
        return {n for n, serial in self.released.items() if settled and serial > min(settled)}

    @rule(host=st.integers(0, 1))
    def make(self, host):
        with write(self.cloud) as writer:
            resting = self._resting(writer)
            every = [n for first, last in POOLS for n in range(first, last + 1)]
            unused = [n for n in every if n not in self.ever]
            rested = [n for n in self.released if n not in resting]
            try:
                port = make_port(
                    writer, project_id=self.network["project_id"], network=self.network
                )
            except Conflict:
                assert not unused
                assert not rested
                return
            number = int(port.addresses[0].address.rsplit(".", 1)[1])
            oldest = [n for n in rested if self.released[n] == min(map(self.released.get, rested))]
            assert number == (unused[0] if unused else min(oldest))
            bind_port(writer, port.id, self.hosts[host])
        self.ever.add(number)
        self.released.pop(number, None)
        self.ports[port.id] = number

    @precondition(lambda self: self.ports)
    @rule(data=st.data())
    def release(self, data):
        port_id = data.draw(st.sampled_from(sorted(self.ports, key=self.ports.get)))
        with write(self.cloud) as writer:
            release_port(writer, port_id)
            self.released[self.ports.pop(port_id)] = writer.serial

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def ask_for_a_released_one(self, data):
        number = data.draw(st.sampled_from(sorted(self.released)))
        with write(self.cloud, dry_run=True) as writer:
            wanted = [WantedAddress(address=f"10.0.0.{number}")]
            more = {"project_id": self.network["project_id"], "network": self.network}
            if number in self._resting(writer):
                with pytest.raises(Conflict):
                    make_port(writer, wanted=wanted, **more)
            else:
                make_port(writer, wanted=wanted, **more)

    @rule(host=st.integers(0, 1))
    def apply(self, host):
        with write(self.cloud) as writer:
            writer.update("hosts", self.hosts[host], applied_serial=writer.serial)

    @rule(host=st.integers(0, 1), fenced=st.integers(0, 1))
    def fence(self, host, fenced):
        with write(self.cloud) as writer:
            writer.update("hosts", self.hosts[host], fenced=fenced)

    @invariant()
    def nothing_twice_and_all_in_the_pools(self):
        with write(self.cloud, dry_run=True) as writer:
            live = writer.column("SELECT address FROM addresses WHERE released_serial IS NULL")
            everything = writer.column("SELECT address FROM addresses")
        numbers = [int(address.rsplit(".", 1)[1]) for address in live]
        assert sorted(numbers) == sorted(self.ports.values())
        assert len(set(everything)) == len(everything)
        assert all(any(a <= n <= b for a, b in POOLS) for n in numbers)


def _insert_network(writer):
    project = writer.value("SELECT id FROM projects")
    row = {"id": new_id(), "project_id": project, "name": "net", "type": "vxlan"}
    more = {"segmentation_id": 1, "mtu": 1450, "domain": "d", "created_at": now()}
    writer.insert("networks", {**row, **more})
    pools = [{"start": f"10.0.0.{a}", "end": f"10.0.0.{b}"} for a, b in POOLS]
    subnet = {"id": new_id(), "project_id": project, "network_id": row["id"], "name": ""}
    rest = {"number": 1, "cidr": "10.0.0.0/24", "dhcp": 0, "pools_json": json.dumps(pools)}
    writer.insert("subnets", {**subnet, **rest, "created_at": now()})
    return writer.get("networks", row["id"])


def _insert_host(writer, name):
    row = {"id": new_id(), "name": name, "transport": "ssh", "address": name, "ssh_port": 22}
    keys = {"ssh_user": "root", "host_key": "k", "vcpus": 4, "ram_mb": 4096, "disk_gb": 50}
    return writer.insert("hosts", {**row, **keys, "created_at": now()})["id"]


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
