"""Ports attached to servers that are there, and detached again."""

import dataclasses

import pytest

from stackctl.compute import service
from stackctl.compute.interfaces import attach_interface, detach_interface, list_interfaces
from stackctl.compute.types import Nic
from stackctl.errors import (
    Conflict,
    HostUnreachable,
    NotFound,
    PartlyDone,
    QuotaExceeded,
    UsageError,
)
from stackctl.network.ports import NewPort, create_port, show_port
from stackctl.state import write


@pytest.fixture
def up(pair):
    """Two hosts, a server vm on h1, and another network."""
    pair.add_network("stor", "10.9.0.0/24")
    pair.booted(host="h1")
    return pair


def attach(world, server="vm", **nic):
    return attach_interface(world.context, server, Nic(**nic))


def addresses(world, server="vm") -> list[str]:
    ports = list_interfaces(world.context, server)
    return [each.address for port in ports for each in port.addresses]


def last_spec(world, host_id):
    return [spec for spec in world.fleet.specs if spec.host_id == host_id][-1]


def test_a_port_is_made_in_a_network(up):
    done = attach(up, network="stor", address="10.9.0.20")
    done.check()
    assert addresses(up) == ["192.168.1.2", "10.9.0.20"]
    assert (done.value.nic_index, done.value.hostname) == (1, "vm")
    server = last_spec(up, up.host("h1")["id"]).servers[0]
    assert server.ports[1] == done.value.id
    assert show_port(up.context, done.value.id).status == "ACTIVE"
    detach_interface(up.context, "vm", "10.9.0.20").check()
    assert addresses(up) == ["192.168.1.2"]
    with pytest.raises(NotFound):
        show_port(up.context, done.value.id)


def test_a_given_port_is_free_again_afterwards(up):
    port = create_port(up.context, NewPort("stor", name="held")).value
    attach(up, port="held").check()
    assert show_port(up.context, "held").server_name == "vm"
    with pytest.raises(Conflict, match="already has an attached device"):
        attach(up, port="held")
    detach_interface(up.context, "vm", "held").check()
    after = show_port(up.context, "held")
    assert (after.id, after.addresses, after.server_name) == (port.id, port.addresses, "")
    assert up.column("SELECT host_id FROM bindings WHERE port_id = ?", port.id) == []
    attach(up, port="held").check()
    service.delete_servers(up.context, ["vm"]).check()
    assert show_port(up.context, "held").device_id == ""


@pytest.mark.parametrize("word", ["id", "start", "MAC", "address", "name"])
def test_a_port_is_found_by_what_people_call_it(up, word):
    create_port(up.context, NewPort("stor", name="held"))
    port = attach(up, port="held").value
    called = {
        "id": port.id,
        "start": port.id[:8],
        "MAC": port.mac.upper(),
        "address": port.addresses[0].address,
        "name": "held",
    }
    assert detach_interface(up.context, "vm", called[word]).value.id == port.id


def test_a_port_that_the_server_has_not_is_not_found(up):
    create_port(up.context, NewPort("stor", name="held"))
    with pytest.raises(NotFound, match="Server vm has no port 'held' among its 1") as no:
        detach_interface(up.context, "vm", "held")
    assert no.value.hint == "stackctl interface-list vm"


@pytest.mark.parametrize("state", ["error", "suspended", "building"])
def test_a_state_that_does_not_allow_it_is_named(up, state):
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET vm_state = ?", state)
    for action in (
        lambda: attach(up, network="stor"),
        lambda: detach_interface(up.context, "vm", "192.168.1.2"),
    ):
        with pytest.raises(Conflict, match=f"vm_state {state}"):
            action()
    assert addresses(up) == ["192.168.1.2"]


def test_a_task_in_progress_is_a_conflict(up):
    with write(up.cloud) as writer:
        writer.run("UPDATE servers SET task_state = 'rebooting'")
    with pytest.raises(Conflict, match="task_state rebooting"):
        attach(up, network="stor")


def test_a_stopped_server_gets_its_nic_too(up):
    service.change_power(up.context, "stop", ["vm"]).check()
    attach(up, network="stor").check()
    assert up.servers() == {"vm": "SHUTOFF"}
    assert len(addresses(up)) == 2


def test_a_network_that_the_host_cannot_carry_is_refused(up):
    up.add_network("ext", "203.0.113.0/24", type="flat", physical_network="phys")
    with pytest.raises(Conflict, match="host h1 has no bridge for physical network phys"):
        attach(up, network="ext")
    with write(up.cloud) as writer:
        writer.run("UPDATE hosts SET tunnel_address = NULL WHERE name = 'h1'")
    with pytest.raises(Conflict, match="host h1 has no tunnel address"):
        attach(up, network="stor")
    assert addresses(up) == ["192.168.1.2"]


def test_neither_and_both_make_no_sense(up):
    for nic in ({}, {"network": "stor", "port": "held"}, {"port": "held", "address": "10.9.0.2"}):
        with pytest.raises(UsageError):
            attach(up, **nic)


def test_the_quota_of_ports_holds(up):
    with write(up.cloud) as writer:
        row = {"project_id": up.context.project_id, "resource": "ports", "maximum": 1}
        writer.upsert("quotas", row, pk=("project_id", "resource"))
    with pytest.raises(QuotaExceeded):
        attach(up, network="stor")


def test_another_server_of_that_name_in_the_network_keeps_its_name(up):
    up.booted("web", net=["stor"], host="h2")
    with write(up.cloud) as writer:
        writer.run("UPDATE ports SET hostname = 'vm' WHERE hostname = 'web'")
    assert attach(up, network="stor").value.hostname == "vm-2"
    assert attach(up, network="stor").value.hostname == ""


def test_what_its_host_never_heard_of_is_taken_back(up):
    create_port(up.context, NewPort("stor", name="held"))
    up.trouble("h1", unreachable=True)
    for nic in ({"network": "stor"}, {"port": "held"}):
        done = attach(up, **nic)
        with pytest.raises(HostUnreachable, match="is not attached") as no:
            done.check()
        assert no.value.exit_status == 20
    up.trouble("h1")
    up.converge(everything=True).check()
    assert addresses(up) == ["192.168.1.2"]
    assert show_port(up.context, "held").server_name == ""
    assert up.servers() == {"vm": "ACTIVE"}


def test_what_was_lost_on_the_way_is_attached_later(up):
    up.trouble("h1", lose="after")
    with pytest.raises(PartlyDone):
        attach(up, network="stor").check()
    up.trouble("h1")
    up.converge().check()
    assert len(addresses(up)) == 2
    assert len(up.fleet.state("h1")["ports"]) == 2


def test_a_detachment_stands_though_its_host_is_down(up):
    attach(up, network="stor", address="10.9.0.20").check()
    up.trouble("h1", unreachable=True)
    with pytest.raises(PartlyDone, match="the guest loses it when its host is converged"):
        detach_interface(up.context, "vm", "10.9.0.20").check()
    assert addresses(up) == ["192.168.1.2"]
    # The guest may still use it: nobody else gets the address.
    with pytest.raises(Conflict, match="may still be in use on host h1"):
        attach(up, network="stor", address="10.9.0.20")
    up.trouble("h1")
    up.converge().check()
    assert len(up.fleet.state("h1")["ports"]) == 1


def test_a_nic_that_was_not_released_is_told_and_the_server_lives_on(up):
    port = attach(up, network="stor").value
    up.trouble("h1", fail={port.id: "the guest did not release the NIC"})
    with pytest.raises(PartlyDone, match="on host h1: the guest did not release the NIC"):
        detach_interface(up.context, "vm", port.id).check()
    assert up.servers() == {"vm": "ACTIVE"}


def test_a_repeated_request_attaches_once(up):
    context = up.asked(request_id="once")
    first = attach_interface(context, "vm", Nic(network="stor"))
    again = attach_interface(context, "vm", Nic(network="stor"))
    assert dataclasses.replace(again.value, status=first.value.status) == first.value
    assert len(addresses(up)) == 2


def test_a_rehearsal_changes_nothing(up):
    done = attach_interface(up.asked(dry_run=True), "vm", Nic(network="stor"))
    assert [step.kind for step in done.planned if step.kind == "port"]
    done.check()
    assert addresses(up) == ["192.168.1.2"]
