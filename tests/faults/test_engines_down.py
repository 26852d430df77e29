"""Engines on a host that are down, or die and come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.engines import eventually
from tests.fleet import Fleet, paragraph


def pids(fleet: Fleet, host: str, name: str) -> list[str]:
    """The processes of a program on a host, by the host's own numbers."""
    return fleet.inside(host, "pidof", name, check=False).split()


def kill(fleet: Fleet, host: str, name: str) -> None:
    """Kill a program on a host."""
    fleet.inside(host, "kill", "-9", *pids(fleet, host, name))


@contextmanager
def held_down(fleet: Fleet, host: str, name: str) -> Iterator[None]:
    """A program that the host's init starts again and again, and that cannot start."""
    path = fleet.inside(host, "sh", "-c", f"command -v {name}").strip()
    fleet.inside(host, "mount", "--bind", "/dev/null", path)
    kill(fleet, host, name)
    try:
        yield
    finally:
        fleet.inside(host, "umount", path)
        eventually(lambda: pids(fleet, host, name) != [], f"{name} runs again on {host}")


def libvirt_answers(fleet: Fleet, host: str) -> bool:
    """Whether libvirt on a host is ready."""
    return fleet.inside(host, "virsh", "-q", "list", "--all", check=False) is not None and (
        "error" not in fleet.inside(host, "sh", "-c", "virsh -q list --all 2>&1", check=False)
    )


def test_servers_for_a_host_without_libvirt_are_errors_until_rebooted(fleet: Fleet) -> None:
    fleet.boot("old", "--count", "2")
    with held_down(fleet, "host2", "libvirtd"):
        booted = fleet.boot("a", "--host", "host2", exit=30)
        assert "host2" in paragraph(booted)[0] and "libvirt" in paragraph(booted)[0]
        assert fleet.statuses()["a"] == "ERROR"
    eventually(lambda: libvirt_answers(fleet, "host2"), "libvirt answers")
    fleet.run("converge", "--all")
    broken = [name for name, status in fleet.statuses().items() if status == "ERROR"]
    assert broken == ["a"], "what ran before is what it was"
    fleet.run("reboot", "--hard", "a")
    assert set(fleet.statuses().values()) == {"ACTIVE"}
    fleet.check_at_rest()


def test_servers_of_a_host_without_libvirt_are_built_on_another(fleet: Fleet) -> None:
    fleet.boot("old", "--count", "2")
    with held_down(fleet, "host2", "libvirtd"):
        fleet.boot("a", "--count", "2")
        placed = fleet.servers()
        assert {placed[name]["Host"] for name in ("a-1", "a-2")} == {"host1"}
        assert {placed[name]["Status"] for name in ("a-1", "a-2")} == {"ACTIVE"}
    eventually(lambda: libvirt_answers(fleet, "host2"), "libvirt answers")
    fleet.run("converge", "--all")
    fleet.boot("b", "--host", "host2")  # what builds again is no last resort
    assert set(fleet.statuses().values()) == {"ACTIVE"}
    fleet.check_at_rest()


def test_deleting_without_libvirt_ends_when_it_is_back(fleet: Fleet) -> None:
    fleet.boot("a", "--count", "2")
    with held_down(fleet, "host2", "libvirtd"):
        deleted = fleet.run("delete", "--yes", "a-1", "a-2", exit=40)
        assert "host2" in paragraph(deleted)[0]
        assert fleet.statuses() == {}
    eventually(lambda: libvirt_answers(fleet, "host2"), "libvirt answers")
    fleet.run("converge", "--all")
    fleet.check_at_rest()


def test_a_switch_that_died_has_its_flows_again_after_a_convergence(fleet: Fleet) -> None:
    fleet.boot("a", "--count", "2")
    before = pids(fleet, "host2", "ovs-vswitchd")
    kill(fleet, "host2", "ovs-vswitchd")
    eventually(
        lambda: pids(fleet, "host2", "ovs-vswitchd") not in ([], before), "the switch runs again"
    )
    drifted = fleet.run("drift", "host2", "-f", "json").json
    assert "flows" in {step["Kind"] for step in drifted}
    fleet.run("converge", "host2")
    fleet.check_at_rest()


def test_a_dead_dnsmasq_is_drift_and_the_next_convergence_starts_it(fleet: Fleet) -> None:
    fleet.boot("a", "--count", "2")
    kill(fleet, "host2", "dnsmasq")
    assert fleet.world("host2")["dnsmasq"] == []
    drifted = fleet.run("drift", "-f", "json").json
    assert {(step["Host"], step["Kind"]) for step in drifted} == {("host2", "dhcp")}
    fleet.run("converge", "host2")
    fleet.check_at_rest()
