"""The transaction of boot: Nova's words, names, NICs, ports; all of it or nothing."""

import pytest

from stackctl.compute import service
from stackctl.compute.types import GIB, Nic
from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.network.networks import NewNetwork, create_network
from stackctl.network.ports import NewPort, create_port, show_port
from stackctl.network.subnets import NewSubnet
from stackctl.state import write


def nothing_booked(world):
    assert world.servers() == {}
    for table in ("disks", "bindings", "host_networks"):
        assert world.value(f"SELECT count(*) FROM {table}") == 0
    assert world.fleet.opened == {}


def refused(world, kind, words, **more):
    with pytest.raises(kind, match=words):
        world.boot(**more)
    nothing_booked(world)


@pytest.mark.parametrize(
    ("asked", "kept"), [("q35", "pc-q35-9.0"), ("pc", "pc"), ("pc-q35-7.2", "pc-q35-7.2")]
)
def test_a_machine_type_without_version_is_no_drift_for_ever(pair, asked, kept):
    with write(pair.cloud) as writer:
        writer.run("""UPDATE hosts SET facts_json = '{"machine_types": {"q35": "pc-q35-9.0"}}'""")
    pair.add_image("other", properties_json=f'{{"hw_machine_type": "{asked}"}}')
    pair.boot(image="other")
    assert pair.value("SELECT machine_type FROM servers") == kept


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "kind", "words"),
        [
            ({"image": "none"}, NotFound, "no image 'none'"),
            ({"flavor": "none"}, NotFound, "no flavor 'none'"),
            ({"key_name": "none"}, NotFound, "no keypair 'none'"),
            ({"net": ["none"]}, NotFound, "no network 'none'"),
            ({"host": "none"}, NotFound, "no host 'none'"),
            ({"nics": (Nic(port="none"),)}, NotFound, "no port 'none'"),
            ({"count": 0}, UsageError, "between 1 and 1000"),
            ({"count": 1001}, UsageError, "between 1 and 1000"),
            ({"name": " "}, UsageError, "not empty"),
            ({"name": "x" * 256}, UsageError, "at most 255"),
            ({"name": "a\nb"}, UsageError, "cannot be shown"),
            ({"name": "a\u2028b"}, UsageError, "cannot be shown"),
            ({"user_data": b"x" * 65536}, UsageError, "65535 fit"),
            (
                {"count": 2, "nics": (Nic("net", "192.168.1.9"),)},
                UsageError,
                "one server only",
            ),
            ({"nics": (Nic("net", "10.0.0.1"),)}, UsageError, "not a valid IP"),
            ({"nics": (Nic("net", "192.168.1.1"),)}, Conflict, "is in use"),
        ],
    )
    def test_bad_words(self, pair, more, kind, words):
        refused(pair, kind, words, **more)

    def test_an_image_that_is_not_active(self, pair):
        pair.add_image("queued", status="queued")
        refused(pair, Conflict, "Image queued is not active", image="queued")

    def test_memory_too_small(self, pair):
        pair.add_image("big", min_ram_mb=4096)
        refused(pair, Conflict, "Flavor's memory is too small for requested image", image="big")

    def test_disk_below_the_images_minimum(self, pair):
        pair.add_image("big", min_disk_gb=2)
        refused(pair, Conflict, "smaller than the minimum size specified", image="big")

    def test_disk_smaller_than_the_image(self, pair):
        pair.add_image("big", virtual_size_bytes=GIB + 1)
        words = rf"Flavor disk is {GIB} bytes, image is {GIB + 1} bytes"
        refused(pair, Conflict, words, image="big")

    def test_a_name_that_is_taken(self, pair):
        pair.booted("vm-2")
        with pytest.raises(Conflict, match=r"already a server called vm-2\. Nothing"):
            pair.boot(count=3)
        assert list(pair.servers()) == ["vm-2"]

    def test_addresses_run_out_for_all_or_none(self, pair):
        small = NewSubnet("10.5.0.0/29")
        create_network(pair.context, NewNetwork("small", subnet=small))
        refused(pair, Conflict, "No more IP addresses available", net=["small"], count=6)
        assert pair.value("SELECT count(*) FROM addresses WHERE kind = 'fixed'") == 0

    def test_a_port_twice(self, pair):
        create_port(pair.context, NewPort("net", name="p"))
        refused(pair, Conflict, "already has an attached device", nics=(Nic(port="p"),) * 2)


class TestDefaultNic:
    def test_the_only_network_there_is(self, pair):
        assert pair.booted(nics=())[0].networks() == {"net": ["192.168.1.2"]}

    def test_two_are_a_question(self, pair):
        pair.add_network("other", "10.8.0.0/24")
        refused(pair, Conflict, "Multiple possible networks found", nics=())

    def test_none_is_a_server_without(self, world):
        world.add_hosts("h1")
        world.add_image()
        assert world.booted(nics=())[0].addresses == ()

    def test_an_external_network_is_not_chosen(self, pair):
        pair.add_network("outside", "10.8.0.0/24", external=True)
        assert list(pair.booted(nics=())[0].networks()) == ["net"]


class TestNames:
    def test_todays_nova_counts(self, pair):
        assert [item.name for item in pair.booted(count=3)] == ["vm-1", "vm-2", "vm-3"]

    def test_the_slides_have_ids(self, pair):
        for server in pair.booted("worf_compute_node_", count=2, naming="uuid"):
            assert server.name == f"worf_compute_node_-{server.id}"
            assert server.hostname.startswith("worf-compute-node-")

    @pytest.mark.parametrize(
        ("name", "hostname"),
        [
            ("worf_head_node", "worf-head-node"),
            ("Ärger Straße", "arger-strasse"),
            ("เครื่อง", "xn--22c0b1bwb1h"),
            ("42", "server-42"),
            ("日本", "xn--wgv71a"),
        ],
    )
    def test_any_name_becomes_a_host_name(self, pair, name, hostname):
        server = pair.booted(name)[0]
        assert server.name == name
        if name == "เครื่อง":
            assert server.hostname.startswith("xn--")
        else:
            assert server.hostname == hostname

    def test_host_names_are_unique_in_their_networks(self, pair):
        names = [pair.booted(name)[0].hostname for name in ("a b", "a_b", "A.B")]
        assert names == ["a-b", "a-b-2", "a-b-3"]

    def test_a_deleted_name_is_free(self, pair):
        pair.booted("vm")
        service.delete_servers(pair.context, ["vm"]).check()
        assert pair.booted("vm")[0].hostname == "vm"


class TestNics:
    def test_order_is_what_the_guest_sees(self, pair):
        pair.add_network("other", "10.8.0.0/24")
        server = pair.booted(net=["other", "net"])[0]
        assert list(server.networks()) == ["other", "net"]

    def test_a_fixed_address(self, pair):
        server = pair.booted(nics=(Nic("net", "192.168.1.77"),))[0]
        assert server.networks() == {"net": ["192.168.1.77"]}

    def test_two_nics_in_one_network(self, pair):
        server = pair.booted(net=["net", "net"])[0]
        assert len(set(server.networks()["net"])) == 2

    def test_a_port_survives_its_server(self, pair):
        port = create_port(pair.context, NewPort("net", name="mine")).value
        pair.booted(nics=(Nic(port="mine"),))
        assert show_port(pair.context, "mine").hostname == "vm"
        service.delete_servers(pair.context, ["vm"]).check()
        left = show_port(pair.context, "mine")
        assert (left.device_id, left.device_owner, left.hostname) == ("", "", "")
        assert (left.mac, left.addresses) == (port.mac, port.addresses)
        pair.booted("again", nics=(Nic(port="mine"),))

    def test_a_port_made_for_it_goes_with_it(self, pair):
        pair.booted()
        service.delete_servers(pair.context, ["vm"]).check()
        owners = pair.column("SELECT device_owner FROM ports WHERE deleted_at IS NULL")
        assert owners == ["network:dhcp"]


class TestRows:
    def test_swap_and_ephemeral_are_disks(self, pair):
        with write(pair.cloud) as writer:
            writer.run("UPDATE flavors SET swap_mb = 512 WHERE name = 'medium'")
        pair.booted(flavor="medium")
        rows = pair.rows("SELECT kind, size_bytes FROM disks ORDER BY position")
        assert [(row["kind"], row["size_bytes"]) for row in rows] == [
            ("root", 40 * GIB),
            ("ephemeral", 40 * GIB),
            ("swap", 512 << 20),
        ]

    def test_no_disk_in_the_flavor_takes_the_images_size(self, pair):
        with write(pair.cloud) as writer:
            writer.run("UPDATE flavors SET disk_gb = 0 WHERE name = 'm1.tiny'")
        pair.add_image("big", virtual_size_bytes=3 * GIB - 1)
        pair.booted(image="big")
        assert pair.value("SELECT size_bytes FROM disks") == 3 * GIB

    def test_what_goes_elsewhere_is_made_for_that_host(self, world):
        facts = '{"machine_types": {"pc": "pc-q35-%s"}}'
        world.add_host("h1", zone="a", facts_json=facts % 1)
        world.add_host("h2", zone="b", facts_json=facts % 2)
        world.add_image()
        world.add_network()
        world.trouble("h1", unreachable=True)
        world.booted()
        row = world.rows("SELECT * FROM servers")[0]
        assert (row["zone"], row["machine_type"]) == ("b", "pc-q35-2")
        assert world.value("SELECT device_owner FROM ports WHERE device_id <> ''") == "compute:b"

    def test_an_asked_host_stays_asked(self, pair):
        pair.trouble("h1", unreachable=True)
        with pytest.raises(Exception, match="No other host") as caught:
            pair.boot(host="h1")
        assert caught.value.exit_status == 20
        assert pair.servers() == {}


def test_a_rehearsal_shows_all_and_leaves_nothing(pair):
    done = service.boot(pair.asked(dry_run=True), pair.request(count=2))
    assert {item.host for item in done.value} == {"h1", "h2"}
    assert [item.networks()["net"] for item in done.value] == [["192.168.1.2"], ["192.168.1.4"]]
    assert {(step.kind, step.result) for step in done.planned} >= {("domain", "made")}
    assert pair.servers() == {}
    assert pair.value("SELECT count(*) FROM operations WHERE kind = 'boot'") == 0
    for name in ("h1", "h2"):
        assert pair.fleet.state(name)["domains"] == {}


def test_delete_takes_all_or_none(pair):
    pair.booted(count=2)
    with pytest.raises(NotFound):
        service.delete_servers(pair.context, ["vm-1", "nobody"])
    assert len(pair.servers()) == 2
    assert service.delete_servers(pair.context, ["vm-1", "vm-1"]).value == ["vm-1", "vm-1"]
    assert list(pair.servers()) == ["vm-2"]
