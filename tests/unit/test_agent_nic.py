"""NICs of running guests over a libvirt made for the test: what is plugged, released, left."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from agent.resources import domain, domain_inputs, nic, switch
from agent.resources.base import Host
from agent.resources.domain_xml import NicInput, nic_xml
from agent.spec import Port
from agent.system import libvirt_conn, ovs
from agent.system.libvirt_conn import LibvirtError
from tests.running_domains import RunningDomains
from tests.unit.test_agent_domain import SERVER, SPEC, existing

SECOND = Port("port-2", 1, "net-1", SERVER.id, "fa:16:3e:00:00:02", (), "")
TWO = replace(
    SPEC, ports=(*SPEC.ports, SECOND), servers=(replace(SERVER, ports=("port-1", "port-2")),)
)
NONE = replace(SPEC, ports=(), servers=(replace(SERVER, ports=()),))


class Libvirt(RunningDomains):
    def macs(self) -> list[str]:
        return re.findall(r'mac address="([^"]+)"', self.domains[SERVER.id].xml)


@pytest.fixture
def libvirt(monkeypatch):
    made = Libvirt("interface")
    made.replaces(monkeypatch)
    monkeypatch.setattr(switch, "devices", lambda host: {})
    return made


@pytest.fixture
def host(tmp_path):
    """A host whose switch has the taps of both ports."""

    def port(id_: str) -> ovs.Port:
        interface = ovs.Interface(f"tap{id_}", "", {}, {"iface-id": id_}, 1, "", None)
        return ovs.Port(f"tap{id_}", "br-int", 1, "", (), {}, (interface,))

    made = Host(tmp_path, "boot", "boot", lambda sha256: b"")
    ports = {f"tap{id_}": port(id_) for id_ in ("port-1", "port-2")}
    made.seen["ovs"] = ovs.Switch({}, ports)
    return made


def steps(look, host, spec):
    return [step for step in look(host, spec) if step.apply is not None]


def test_a_guest_with_its_nics_is_left_alone(host, libvirt):
    libvirt.run(existing(host))
    assert steps(nic.KIND.removals, host, SPEC) == []
    (step,) = nic.KIND.changes(host, SPEC)
    assert (step.id, step.result, step.apply) == ("port-1", "unchanged", None)


def test_what_a_running_guest_lacks_is_plugged(host, libvirt):
    libvirt.run(existing(host))
    (step,) = steps(nic.KIND.changes, host, TWO)
    assert (step.id, step.result, step.why) == ("port-2", "made", "vm runs without " + SECOND.mac)
    step.apply()
    assert libvirt.macs() == ["fa:16:3e:00:00:01", "fa:16:3e:00:00:02"]
    assert steps(nic.KIND.changes, host, TWO) == []


def test_what_a_running_guest_shall_not_have_is_released(host, libvirt):
    libvirt.run(existing(host, TWO))
    (step,) = steps(nic.KIND.removals, host, SPEC)
    assert (step.id, step.result) == ("port-2", "removed")
    step.apply()
    assert libvirt.macs() == ["fa:16:3e:00:00:01"]
    assert steps(nic.KIND.removals, host, SPEC) == []
    (step,) = steps(nic.KIND.removals, host, NONE)
    step.apply()
    assert libvirt.macs() == []


def test_a_guest_that_releases_nothing_is_waited_for_once(host, libvirt):
    libvirt.run(existing(host, TWO))
    libvirt.stubborn = True
    (step,) = steps(nic.KIND.removals, host, SPEC)
    with pytest.raises(Exception, match=r"did not release the NIC fa:16:3e:00:00:02 within 0\.3 s"):
        step.apply()
    # Its tap left the switch meanwhile: the next convergence asks, and does not wait.
    del host.seen["ovs"].ports["tapport-2"]
    (step,) = steps(nic.KIND.removals, host, SPEC)
    with pytest.raises(Exception, match=r"within 0\.1 s"):
        step.apply()
    assert libvirt.asked == 2


def test_a_paused_guest_is_said_to_be_paused(host, libvirt):
    libvirt.run(replace(existing(host, TWO), state="PAUSED"))
    libvirt.stubborn = True
    (step,) = steps(nic.KIND.removals, host, SPEC)
    with pytest.raises(Exception, match="it is paused"):
        step.apply()


def test_no_free_slot_is_told_in_libvirts_words(host, libvirt):
    libvirt.run(existing(host))
    libvirt.refuses = "No more available PCI slots"
    (step,) = steps(nic.KIND.changes, host, TWO)
    with pytest.raises(Exception, match="at its next start: No more available PCI slots"):
        step.apply()


@pytest.mark.parametrize("failed", [("port", "port-2"), ("domain", SERVER.id)])
def test_nothing_is_plugged_on_top_of_a_failed_part(host, libvirt, failed):
    libvirt.run(existing(host))
    host.failed.add(failed)
    step = next(step for step in nic.KIND.changes(host, TWO) if step.id == "port-2")
    assert (step.result, step.apply) == ("failed", None)
    assert step.fault.message == f"not tried: {failed[0]} {failed[1]} failed"


@pytest.mark.parametrize("flag", ["moving", "held"])
def test_moving_and_held_servers_are_left_alone(host, libvirt, flag):
    libvirt.run(existing(host, TWO))
    spec = replace(SPEC, servers=(replace(SERVER, **{flag: True}),))
    assert list(nic.KIND.removals(host, spec)) == list(nic.KIND.changes(host, spec)) == []


def test_a_foreign_domain_keeps_its_nics(host, libvirt):
    libvirt.run(existing(host, TWO, cloud_id="other"))
    assert list(nic.KIND.removals(host, SPEC)) == list(nic.KIND.changes(host, SPEC)) == []


def test_a_nic_that_somebody_plugged_by_hand_stays(host, libvirt):
    libvirt.run(existing(host))
    libvirt.plug(SERVER.id, nic_xml(NicInput("52:54:00:00:00:01", "vnet0", 1500), "virtio", True))
    assert steps(nic.KIND.removals, host, SPEC) == []


def test_taps_stay_when_libvirt_cannot_say_who_has_them(host, libvirt, monkeypatch):
    def down(wanted):
        raise LibvirtError("Failed to connect socket")

    monkeypatch.setattr(libvirt_conn, "running", down)
    assert list(nic.KIND.removals(host, SPEC)) == []
    assert ("nic", SPEC.host_id) in host.failed


def test_another_nic_is_no_reason_to_wait_for_a_restart(host):
    view = existing(host)
    known = domain.Existing(view, domain.describe(view.xml))
    platform = domain_inputs.Platform(host, TWO.settings)
    change = domain.plan(host, TWO, TWO.servers[0], known, platform)
    assert (change.define, change.waits, change.needs_parts) == (True, False, False)
    assert change.why == "its NICs should be fa:16:3e:00:00:01, fa:16:3e:00:00:02"
    larger = replace(TWO, servers=(replace(TWO.servers[0], ram_mb=999),))
    assert domain.plan(host, larger, larger.servers[0], known, platform).waits
    mtu = replace(SPEC, networks=(replace(SPEC.networks[0], mtu=1400),))
    assert domain.plan(host, mtu, SERVER, known, platform).waits
