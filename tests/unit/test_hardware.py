"""The machine that a server gets: Nova's rules of image and flavor, and what is refused."""

from __future__ import annotations

import json

import pytest

from agent.spec import USUAL_HARDWARE, Hardware, Topology
from agent.system import firmware
from stackctl.compute import rebuilding, service, settings
from stackctl.compute.flavors import NewFlavor, create_flavor, set_specs
from stackctl.compute.hardware import (
    Wish,
    display_wanted,
    hardware_of,
    resized,
    topology_of,
    with_display,
)
from stackctl.compute.moves import resizing
from stackctl.compute.types import ServerChange
from stackctl.errors import Conflict, NoCapacity, UsageError
from stackctl.hostspec import build_spec, load_snapshot
from stackctl.image import service as images
from stackctl.image.types import ImageChange
from stackctl.state import read, write
from tests.builders import furnished


def topology(vcpus, specs=(), properties=()):
    image = {f"hw_cpu_{key}": str(value) for key, value in dict(properties).items()}
    flavor = {f"hw:cpu_{key}": str(value) for key, value in dict(specs).items()}
    return topology_of(Wish(image, flavor, vcpus))


@pytest.mark.parametrize(
    ("vcpus", "specs", "properties", "expected"),
    [
        (8, {}, {}, None),
        (8, {"max_sockets": 2}, {}, (2, 4, 1)),
        (8, {}, {"max_sockets": 2, "max_cores": 2}, (2, 2, 2)),
        (8, {"cores": 4}, {}, (2, 4, 1)),
        (8, {"sockets": 1, "cores": 8}, {}, (1, 8, 1)),
        (8, {"threads": 2}, {}, (4, 1, 2)),
        (8, {"sockets": 4}, {"cores": 8}, (1, 8, 1)),
        (8, {"sockets": 4}, {"max_sockets": 2}, (2, 4, 1)),
        (6, {"sockets": 4}, {}, (6, 1, 1)),
        (7, {"max_cores": 7, "max_sockets": 1}, {}, (1, 7, 1)),
    ],
)
def test_the_topology_is_the_one_that_nova_chooses(vcpus, specs, properties, expected):
    assert topology(vcpus, specs, properties) == expected


@pytest.mark.parametrize(
    ("specs", "properties", "words"),
    [
        ({"max_sockets": 2}, {"max_sockets": 4}, "limits 4:-:- .* exceed permitted 2:-:-"),
        ({"max_cores": 2}, {"cores": 4}, "topology -:4:- .* exceeds permitted 65536:2:65536"),
        ({"max_sockets": 1, "max_cores": 1, "max_threads": 2}, {}, "1:1:2 .* vcpus count 8"),
    ],
)
def test_what_no_topology_can_be_is_refused(specs, properties, words):
    with pytest.raises(Conflict, match=words):
        topology(8, specs, properties)


def test_nothing_asked_is_nothing_unusual():
    assert hardware_of(Wish({"os_distro": "debian"}, {}, 2)) == {}


def test_a_new_machine_has_what_image_and_flavor_say():
    properties = {
        "hw_firmware_type": "uefi",
        "hw_qemu_guest_agent": "no",
        "hw_video_model": "virtio",
        "hw_watchdog_action": "reset",
        "os_require_quiesce": "yes",
    }
    specs = {"hw_rng:allowed": "False", "hw:watchdog_action": "pause"}
    found = hardware_of(Wish(properties, specs, 2))
    assert found == {
        "nvram": True,
        "guest_agent": False,
        "video": "virtio",
        "watchdog": "reset",
        "quiesce": True,
        "rng": False,
    }


@pytest.mark.parametrize(
    ("asked", "properties", "everybody", "video"),
    [
        (None, {}, False, None),
        (None, {}, True, "vga"),
        (None, {"hw_video_model": "none"}, True, None),
        (None, {"hw_video_model": "cirrus"}, False, "cirrus"),
        (0, {"hw_video_model": "cirrus"}, True, None),
        (1, {"hw_video_model": "cirrus"}, False, "cirrus"),
        (1, {"hw_video_model": "none"}, False, "vga"),
    ],
)
def test_who_decides_of_the_display(asked, properties, everybody, video):
    image = {"properties_json": json.dumps(properties)}
    vnc = display_wanted(asked, image, everybody)
    assert hardware_of(Wish(properties, {}, 1, vnc)).get("video") == video


def test_another_flavor_changes_what_flavors_have_a_say_in():
    before = {"nvram": True, "video": "vga", "topology": [2, 1, 1], "watchdog": "pause"}
    wish = Wish({}, {"hw:cpu_cores": "4"}, 4)
    assert resized(before, wish) == {"nvram": True, "video": "vga", "topology": [1, 4, 1]}
    assert with_display(before, Wish({}, {}, 2, False)) == {
        "nvram": True,
        "topology": [2, 1, 1],
        "watchdog": "pause",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hw_firmware_type", "efi"),
        ("hw_machine_type", "virt"),
        ("hw_disk_bus", "fdc"),
        ("hw_cdrom_bus", "virtio"),
        ("hw_scsi_model", "lsilogic"),
        ("hw_vif_model", "ne2k"),
        ("hw_cpu_sockets", "0"),
        ("hw_cpu_max_threads", "two"),
        ("hw_qemu_guest_agent", "maybe"),
        ("hw_video_model", "xen"),
        ("hw_rng_model", "tpm"),
        ("hw_watchdog_action", "explode"),
        ("os_require_quiesce", ""),
        ("os_secure_boot", "required"),
        ("os_admin_user", "a b"),
    ],
)
def test_a_property_that_no_machine_can_have_is_refused_when_it_is_set(world, key, value):
    world.add_image()
    words = f"Image property {key} is '{value}', which no machine here can have: use "
    if value:
        with pytest.raises(UsageError, match=words):
            images.set_image(world.context, "cirros", ImageChange(properties={key: value}))
    with pytest.raises(UsageError, match=words):
        hardware_of(Wish({key: value}, {}, 1))


def test_q35_has_no_ide(world):
    world.add_image()
    properties = {"hw_disk_bus": "ide", "hw_machine_type": "q35"}
    with pytest.raises(UsageError, match="a q35 machine has no IDE"):
        images.set_image(world.context, "cirros", ImageChange(properties=properties))


@pytest.mark.parametrize(
    "specs", [{"hw:cpu_cores": "-1"}, {"hw:watchdog_action": "bark"}, {"hw_rng:allowed": "perhaps"}]
)
def test_an_extra_spec_that_no_machine_can_have_is_refused(world, specs):
    with pytest.raises(UsageError, match=next(iter(specs))):
        set_specs(world.context, "m1.tiny", specs)


@pytest.fixture
def one(world):
    """A cloud with one host, an image and a network."""
    world.add_hosts("h1")
    furnished(world)
    return world


def say_of_image(world, **properties):
    images.set_image(world.context, "cirros", ImageChange(properties=properties))


def spec_of(world, name="vm"):
    host, server = world.host("h1"), world.server(name)
    with read(world.cloud) as reader:
        spec = build_spec(load_snapshot(reader, host["id"]), 1, "n")
    return next(each for each in spec.servers if each.id == server.id)


def test_an_ordinary_server_has_the_usual_hardware(one):
    one.booted()
    assert spec_of(one).hardware == USUAL_HARDWARE


def test_a_rebuilt_server_has_new_uefi_variables_and_a_resized_one_a_copy(one):
    say_of_image(one, hw_firmware_type="uefi", hw_cpu_max_sockets="1")
    create_flavor(one.context, NewFlavor("four", vcpus=4, ram_mb=512, disk_gb=1))
    one.booted(vnc=True)
    first = spec_of(one).hardware
    assert first == Hardware(nvram=first.nvram, topology=Topology(1, 1, 1), video="vga")
    service.change_power(one.context, "stop", ["vm"]).check()
    resizing.resize(one.context, "vm", "four").check()
    copied = spec_of(one).hardware
    assert copied == Hardware(copied.nvram, Topology(1, 4, 1), "vga")
    assert copied.nvram not in (None, first.nvram)
    made_of = "SELECT source_id FROM disks WHERE id = ? AND kind = 'nvram' AND size_bytes = 0"
    assert one.value(made_of, copied.nvram) == first.nvram
    assert len(spec_of(one).disks) == 1
    resizing.revert(one.context, "vm").check()
    assert spec_of(one).hardware == first
    rebuilding.rebuild(one.context, "vm", rebuilding.Rebuild()).check()
    again = spec_of(one).hardware
    assert again.nvram not in (None, first.nvram)
    assert again.video == "vga"


def test_a_server_shows_what_is_unusual_about_its_machine(one):
    one.booted("plain")
    say_of_image(one, hw_firmware_type="uefi", hw_cpu_max_sockets="1", hw_qemu_guest_agent="no")
    one.booted("odd", vnc=True)
    assert one.server("plain").hardware == {}
    assert one.server("odd").hardware == {
        "firmware": "uefi",
        "topology": "1:1:1",
        "guest_agent": "no",
        "video": "vga",
    }


def test_a_server_from_before_keeps_its_machine_and_its_drive(one):
    """As the migration leaves its row."""
    one.booted()
    with write(one.cloud) as writer:
        writer.run("UPDATE servers SET random_seed = NULL, vnc_asked = NULL")
    assert spec_of(one).hardware == USUAL_HARDWARE
    assert spec_of(one).guest.seed is None


def test_a_display_is_given_later_and_taken_again(one):
    one.booted()
    settings.set_server(one.context, "vm", ServerChange(vnc=True)).check()
    assert spec_of(one).hardware == Hardware(video="vga")
    settings.set_server(one.context, "vm", ServerChange(vnc=False)).check()
    assert spec_of(one).hardware == USUAL_HARDWARE


def test_a_host_without_uefi_gets_no_server_that_needs_it(world):
    facts = {"machine_types": {"pc": "pc-i440fx-9.0", "all": ["pc-i440fx-9.0"]}}
    world.add_host("h1", facts_json=json.dumps({**facts, "firmware": ["bios"]}))
    furnished(world)
    say_of_image(world, hw_firmware_type="uefi")
    with pytest.raises(NoCapacity, match="hw_firmware_type is uefi, the host has bios"):
        world.boot()
    say_of_image(world, hw_firmware_type="bios", hw_machine_type="pc-q35-9.0")
    with pytest.raises(NoCapacity, match=r"hw_machine_type is pc-q35-9\.0, the host's newest are"):
        world.boot()
    say_of_image(world, hw_machine_type="pc-i440fx-9.0")
    world.booted()


def test_the_vendor_data_of_the_cloud_reach_new_servers(one, monkeypatch):
    (one.cloud.folder / "vendor.yaml").write_text("cloud-init: '#cloud-config'\n")
    monkeypatch.setitem(one.cloud.config, "vendor_data", "vendor.yaml")
    one.booted()
    sha256 = spec_of(one).guest.vendor_data_sha256
    content = one.value("SELECT content FROM blobs WHERE sha256 = ?", sha256)
    assert json.loads(content) == {"cloud-init": "#cloud-config"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1, 2", "neither JSON nor YAML"), ("- 1", "must be a mapping"), (None, "No such file")],
)
def test_vendor_data_that_cannot_be_told_keep_servers_from_booting(one, monkeypatch, text, words):
    if text is not None:
        (one.cloud.folder / "vendor.yaml").write_text(text)
    monkeypatch.setitem(one.cloud.config, "vendor_data", "vendor.yaml")
    with pytest.raises(UsageError, match=words):
        one.boot()


DESCRIBED = {
    "interface-types": ["uefi"],
    "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
    "features": [],
}


def describe(folder, name, *, features=(), file_format="raw"):
    files = {}
    for part in ("executable", "nvram-template"):
        path = folder / f"{name}-{part}.fd"
        path.write_bytes(b"")
        files[part] = {"filename": str(path), "format": file_format}
    mapping = {"device": "flash", **files}
    whole = {**DESCRIBED, "mapping": mapping, "features": list(features)}
    (folder / f"{name}.json").write_text(json.dumps(whole))


def test_the_first_fitting_firmware_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(firmware, "FOLDERS", (tmp_path,))
    (tmp_path / "10-broken.json").write_text("{")
    (tmp_path / "11-other.json").write_text('{"mapping": []}')
    describe(tmp_path, "40-secure", features=["requires-smm", "secure-boot"])
    describe(tmp_path, "50-qcow2", file_format="qcow2")
    assert firmware.find_uefi("pc-q35-7.2") is None
    describe(tmp_path, "60-plain")
    found = firmware.find_uefi("pc-q35-7.2")
    assert found is not None
    assert found.code == str(tmp_path / "60-plain-executable.fd")
    assert firmware.find_uefi("pc-i440fx-7.2") is None
