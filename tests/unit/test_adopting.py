"""Adopting domains over hosts that are files: plans, refusals, undoing, interrupted commands."""

from __future__ import annotations

import json

import pytest

from stackctl import errors
from stackctl.compute import service
from stackctl.compute.adoption.adopting import adopt
from stackctl.compute.adoption.plan import AdoptRequest
from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.compute.moves import live_migration
from stackctl.operation import recover
from stackctl.state import write

GIB = 1 << 30
ID = "11111111-1111-4111-8111-111111111111"
MAC = "52:54:00:aa:bb:01"
DISK = {"path": "/images/wiki.qcow2", "format": "qcow2", "target": "vda", "size_bytes": 10 * GIB}
NIC = {"mac": MAC, "device": "vnet3", "bridge": "virbr0", "tag": None, "addresses": []}
DOMAIN = {
    "id": ID,
    "name": "wiki",
    "state": "RUNNING",
    "autostart": True,
    "vcpus": 2,
    "ram_mb": 1024,
    "machine_type": "pc-q35-7.2",
    "cpu_mode": "host-passthrough",
    "disk_bus": "virtio",
    "nic_model": "e1000",
    "disks": [DISK],
    "nics": [NIC],
    "lost": ["video vga"],
    "refused": [],
}


@pytest.fixture
def up(world):
    """A converged host h1 with a network and somebody's domain."""
    world.add_host("h1", bridge_mappings_json=json.dumps([MAPPING]))
    world.add_network("net")
    world.converge(everything=True).check()
    have(world)
    return world


MAPPING = {"physical_network": "office", "bridge": "br-office", "nic": "eth1"}


def have(world, **changes) -> None:
    """Give h1 a domain that somebody made."""
    state = world.fleet.state("h1")
    state["foreign"] = {ID: DOMAIN | changes}
    world.fleet.save("h1", state)


def agree(_) -> None:
    """Who asked says yes."""


def run(world, *, context=None, **asked):
    """Adopt the domain of h1."""
    asked = {"networks": ("net",), "fixed_ips": ("192.168.1.50",)} | asked
    return adopt(context or world.context, AdoptRequest("h1", "wiki", **asked), agree)


def refusal(world, kind=errors.Conflict, **asked) -> str:
    """Why it is not adopted; and nothing has changed."""
    before = world.fleet.state("h1")["foreign"], world.value("SELECT serial FROM cloud")
    with pytest.raises(kind) as caught:
        run(world, **asked)
    assert (world.fleet.state("h1")["foreign"], world.value("SELECT serial FROM cloud")) == before
    return str(caught.value)


def test_a_domain_becomes_a_server_with_what_it_has(up):
    done = run(up)
    done.check()
    assert done.value.id == ID
    server = up.server("wiki")
    assert (server.id, server.status, server.power_state) == (ID, "ACTIVE", "RUNNING")
    assert (server.vcpus, server.ram_mb, server.disk_gb) == (2, 1024, 10)
    assert server.flavor == "adopted-2-1024-10"
    assert [(each.mac, each.address) for each in server.addresses] == [(MAC, "192.168.1.50")]
    assert "from domain wiki" in server.adopted
    assert "video vga" in server.adopted
    (row,) = up.rows("SELECT * FROM servers")
    assert (row["machine_type"], row["cpu_mode"]) == ("pc-q35-7.2", "host-passthrough")
    assert (row["nic_model"], row["adopting"]) == ("e1000", 0)
    (disk,) = up.rows("SELECT * FROM disks")
    assert (disk["path"], disk["state"]) == (DISK["path"], "built")
    assert up.fleet.specs[-1].servers[0].adopts
    assert up.fleet.specs[-1].disks[0].adopts == DISK["path"]
    up.converge(everything=True).check()
    assert up.fleet.specs[-1].servers[0].adopts is False
    assert up.fleet.specs[-1].disks[0].adopts is None


def test_the_plan_is_shown_before_anything_is_done(up):
    shown = []

    def refuse(plan) -> None:
        shown.append(plan)
        raise errors.UsageError("No.")

    request = AdoptRequest("h1", "wiki", networks=("net",), fixed_ips=("192.168.1.50",))
    with pytest.raises(errors.UsageError):
        adopt(up.context, request, refuse)
    assert up.rows("SELECT * FROM servers") == []
    assert shown[0].lost == ("video vga",)
    assert "vda /images/wiki.qcow2" in shown[0].disks[0]
    assert "to network net with 192.168.1.50" in shown[0].nics[0]


def test_a_rehearsal_changes_nothing(up):
    done = run(up, context=up.asked(dry_run=True))
    done.check()
    assert done.value.name == "wiki"
    assert ID in up.fleet.state("h1")["foreign"]
    assert up.rows("SELECT * FROM servers") == []
    assert up.rows("SELECT * FROM flavors WHERE name LIKE 'adopted%'") == []


def test_the_same_request_adopts_once(up):
    context = up.asked(request_id="r1")
    first = run(up, context=context)
    assert run(up, context=context).value == first.value


def test_all_reasons_are_told_at_once(up):
    have(up, refused=["it has a TPM", "disk vda is shareable"])
    words = refusal(up)
    assert "it has a TPM; disk vda is shareable" in words
    assert "Nothing was changed" in words


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        ({"networks": ()}, errors.Conflict, "virbr0, which says nothing of a network"),
        ({"fixed_ips": ()}, errors.Conflict, "Which address of network net"),
        ({"fixed_ips": ("10.0.0.1",)}, errors.UsageError, "not a valid IP for any"),
        ({"fixed_ips": ("nonsense",)}, errors.UsageError, "not a valid IP address"),
        ({"networks": ("net", "net")}, errors.UsageError, "was given 2 times"),
        ({"flavor": "m1.large"}, errors.Conflict, "Flavor m1.large has 4 VCPUs"),
        ({"flavor": "nosuch"}, errors.NotFound, "nosuch"),
        ({"networks": ("nosuch",)}, errors.NotFound, "nosuch"),
        ({"name": " "}, errors.UsageError, "needs a name"),
    ],
)
def test_what_is_missing_or_wrong_is_said(up, asked, kind, words):
    assert words in refusal(up, kind, **asked)


def test_names_and_ids_that_are_taken_are_refused(up):
    run(up).check()
    have(up)
    assert "has the id" in refusal(up)
    have(up, id=ID.replace("1", "2"), nics=[NIC | {"mac": "52:54:00:aa:bb:02"}])
    assert "already a server called wiki" in refusal(up, fixed_ips=("192.168.1.51",))
    taken = refusal(up, name="other", fixed_ips=("192.168.1.50",))
    assert "192.168.1.50 is in use" in taken


def test_an_address_that_was_seen_need_not_be_given(up):
    have(up, nics=[NIC | {"addresses": ["10.0.0.9", "192.168.1.77"]}])
    run(up, fixed_ips=()).check()
    assert [each.address for each in up.server("wiki").addresses] == ["192.168.1.77"]


@pytest.mark.parametrize(("tag", "network"), [(None, "flat"), (7, "vlan7")])
def test_the_bridge_of_a_physical_network_says_which_it_is(up, tag, network):
    up.add_network("flat", "192.168.2.0/24", type="flat", physical_network="office")
    up.add_network(
        "vlan7", "192.168.2.0/24", type="vlan", physical_network="office", segmentation_id=7
    )
    have(up, nics=[NIC | {"bridge": "br-office", "tag": tag, "addresses": ["192.168.2.9"]}])
    run(up, networks=(), fixed_ips=()).check()
    assert [each.network for each in up.server("wiki").addresses] == [network]


def test_words_are_dealt_to_the_nics_that_need_them(up):
    up.add_network("flat", "192.168.2.0/24", type="flat", physical_network="office")
    known = NIC | {"mac": "52:54:00:aa:bb:02", "bridge": "br-office", "addresses": ["192.168.2.9"]}
    have(up, nics=[known, NIC])
    run(up).check()
    told = [(each.network, each.address) for each in up.server("wiki").addresses]
    assert told == [("flat", "192.168.2.9"), ("net", "192.168.1.50")]


def test_a_flavor_of_the_same_sizes_is_used(up):
    create_flavor(up.context, NewFlavor("same", vcpus=2, ram_mb=1024, disk_gb=10)).check()
    run(up).check()
    assert up.server("wiki").flavor == "same"
    assert up.rows("SELECT * FROM flavors WHERE name LIKE 'adopted%'") == []


def test_more_disks_count_as_ephemeral_ones(up):
    data = DISK | {"path": "/images/data.raw", "format": "raw", "target": "vdb"}
    have(up, disks=[DISK, data | {"size_bytes": GIB + 1}])
    run(up).check()
    server = up.server("wiki")
    assert (server.disk_gb, server.ephemeral_gb) == (10, 2)
    kinds = up.column("SELECT kind || format FROM disks ORDER BY position")
    assert kinds == ["rootqcow2", "ephemeralraw"]


def test_a_domain_that_is_off_stays_off(up):
    have(up, state="SHUTDOWN")
    run(up).check()
    server = up.server("wiki")
    assert (server.status, server.adopted) == ("SHUTOFF", None)
    assert up.fleet.specs[-1].servers[0].power.action == "stop"


def test_quotas_count(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE quotas SET maximum = 0 WHERE resource = 'instances'")
    with pytest.raises(errors.QuotaExceeded):
        run(up)
    assert up.rows("SELECT * FROM servers") == []


def test_what_its_host_cannot_take_over_is_taken_back(up):
    up.trouble("h1", fail={"adoption": "libvirt did not like it"})
    with pytest.raises(errors.ResourceFailed) as caught:
        run(up)
    assert "libvirt did not like it. Nothing was adopted: domain wiki" in str(caught.value)
    state = up.fleet.state("h1")
    assert (state["domains"], state["ports"], state["disks"]) == ({}, [], {})
    assert ID in state["foreign"]
    assert up.servers() == {}
    assert up.rows("SELECT * FROM tombstones") == []
    assert up.rows("SELECT * FROM ports WHERE deleted_at IS NULL AND mac = ?", MAC) == []
    up.trouble("h1")
    run(up).check()
    assert up.servers() == {"wiki": "ACTIVE"}


def test_a_host_that_is_silent_adopts_nothing(up):
    up.trouble("h1", unreachable=True)
    with pytest.raises(errors.HostUnreachable):
        run(up)
    assert up.rows("SELECT * FROM servers") == []


def silent_later(world, **trouble) -> None:
    """Have h1 answer the first question, and not be there for what follows."""
    opened = []

    def die(name) -> None:
        opened.append(name)
        if len(opened) == 2:
            world.trouble("h1", **trouble)

    world.fleet.before_open = die


def test_a_host_that_falls_silent_before_it_heard_of_it_adopts_nothing(up):
    silent_later(up, unreachable=True)
    with pytest.raises(errors.HostUnreachable) as caught:
        run(up)
    assert "Nothing was adopted" in str(caught.value)
    assert up.servers() == {}
    up.fleet.before_open = None
    up.trouble("h1")
    up.converge().check()
    assert ID in up.fleet.state("h1")["foreign"]


def test_a_host_that_falls_silent_later_goes_on_when_it_is_converged(up):
    silent_later(up, lose="after")
    done = run(up)
    with pytest.raises(errors.PartlyDone):
        done.check()
    assert up.server("wiki").id == ID
    up.fleet.before_open = None
    up.trouble("h1")
    up.converge().check()
    assert up.servers() == {"wiki": "ACTIVE"}
    assert up.value("SELECT adopting FROM servers") == 0


def test_deleting_what_was_not_taken_over_destroys_nothing(up):
    silent_later(up, lose="after")
    run(up)
    up.fleet.before_open = None
    assert up.value("SELECT adopting FROM servers") == 1
    up.trouble("h1", fail={"adoption": "no"})
    with pytest.raises(errors.StackctlError):
        up.converge().check()
    recover(up.context)
    service.delete_servers(up.context, ["wiki"]).check()
    assert ID in up.fleet.state("h1")["foreign"]
    assert up.rows("SELECT * FROM tombstones") == []
    up.trouble("h1")
    run(up).check()


def test_what_was_adopted_is_deleted_with_its_disks(up):
    run(up).check()
    service.delete_servers(up.context, ["wiki"]).check()
    state = up.fleet.state("h1")
    assert (state["domains"], state["disks"], state["foreign"]) == ({}, {}, {})
    have(up)
    run(up).check()
    assert up.servers() == {"wiki": "ACTIVE"}


def test_a_guest_runs_by_its_old_definition_until_it_is_restarted(up):
    run(up).check()
    with pytest.raises(errors.Conflict, match="still runs by the definition"):
        service.change_power(up.context, "suspend", ["wiki"])
    with pytest.raises(errors.Conflict, match="still runs by the definition"):
        live_migration.live_migrate(up.context, "wiki")
    service.change_power(up.context, "pause", ["wiki"]).check()
    service.change_power(up.context, "reboot-hard", ["wiki"]).check()
    assert up.server("wiki").adopted is None
    service.change_power(up.context, "suspend", ["wiki"]).check()


@pytest.mark.parametrize(
    "said", [{}, {"disks": [{}]}, {"nics": [{"mac": MAC}]}, {"vcpus": "x"}, {"refused": 3}]
)
def test_a_host_that_talks_nonsense_is_refused(up, said):
    have(up, **said)
    if not said:
        state = up.fleet.state("h1")
        state["foreign"] = {ID: {"id": ID, "name": "wiki"}}
        up.fleet.save("h1", state)
    assert "makes no sense" in refusal(up, errors.AgentFailed)
