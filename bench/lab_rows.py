"""Rows on a lab: real sshd, libvirt and Open vSwitch in namespaces of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import floor
from bench.floor import Floor, FloorHost
from bench.measuring import Row, Taken, repeat, row, say, take
from bench.place import ROOT, Place

MIB = 1024**2
NAMES = ("node-1", "node-2", "node-3", "node-4")


class Labs:
    """The lab of two hosts that several rows share: made when first needed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._two: str | None = None
        self.first_up: Taken | None = None

    def two(self) -> str:
        """A lab of two hosts with an image, a flavor and a network, everything warm."""
        if self._two is None:
            name = self._two = self.place.new_lab()
            self.first_up = self.place.lab_up(name, 2)
            prepare(self.place, name)
            say("  one server on each host, so that images and agents are there")
            boot(self.place, name, "warm", count=2)
        return self._two

    def drop_two(self) -> None:
        """Remove that lab: others need the memory."""
        if self._two is not None:
            self.place.lab_down(self._two)
            self._two = None


def prepare(place: Place, lab: str) -> None:
    """A blank image (guests idle in the BIOS), a flavor of 128 MB, a network."""
    blank = place.folder / "blank.qcow2"
    if not blank.exists():
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(blank), str(8 * MIB)]
        subprocess.run(argv, check=True, timeout=30)
    place.stackctl(lab, "image-create", "blank", "--file", str(blank))
    words = ("--vcpus", "1", "--ram", "128", "--disk", "1")
    place.stackctl(lab, "flavor-create", "bench", *words)
    place.stackctl(lab, "net-create", "net", "--subnet", "10.77.0.0/16")


def boot(place: Place, lab: str, name: str, *more: str, count: int) -> Taken:
    """Boot servers from the blank image."""
    words = ("--image", "blank", "--flavor", "bench", "--nic", "net=net", "--count", str(count))
    return place.on_hosts(lab, "boot", name, *words, *more)


def lab_up(labs: Labs, runs: int) -> list[Row]:
    """Two hosts, from nothing to registered."""
    labs.two()
    taken = [labs.first_up] if labs.first_up else []
    while len(taken) < min(runs, 3):
        name = labs.place.new_lab()
        taken.append(labs.place.lab_up(name, 2))
        labs.place.lab_down(name)
    return [row("lab-up", "lab-up --hosts 2", None, taken)]


def boots(labs: Labs, runs: int) -> list[Row]:
    """Four servers on two hosts beside libvirt's own time for the same four, and their removal."""
    lab, place = labs.two(), labs.place
    hosts = floor_hosts(place, lab)
    booted, raw, deleted = [], [], []
    for run in range(runs):
        say(f"  boot, delete, floor: {run + 1} of {runs}")
        booted.append(boot(place, lab, "node", count=4))
        prepared = Floor(_domains(place, lab, hosts))
        try:
            deleted.append(place.on_hosts(lab, "delete", *NAMES))
            raw.append(prepared.measure())
        finally:
            prepared.end()
    beyond = [Taken(b.wall - f.wall) for b, f in zip(booted, raw, strict=True)]
    return [
        row("boot-beyond", "boot --count 4, two hosts, beyond the floor", 0.8, beyond),
        row("boot", "boot --count 4, whole", None, booted),
        row("floor", "the floor: raw libvirt define+create", None, raw, "4 threads, 2 hosts"),
        row("delete", "delete of the four", None, deleted),
    ]


def floor_hosts(place: Place, lab: str) -> dict[str, FloorHost]:
    """The hosts of a lab by name."""
    words = ("-c", "Host", "-c", "PID", "-f", "json")
    told = place.stackctl(lab, "lab-status", *words).output
    return {item["Host"]: FloorHost(item["Host"], item["PID"]) for item in json.loads(told)}


def _domains(
    place: Place, lab: str, hosts: dict[str, FloorHost]
) -> list[tuple[FloorHost, list[str]]]:
    found: dict[str, list[str]] = {}
    for item in place.rows(lab, "list", "-c", "ID", "-c", "Instance Name", "-c", "Host"):
        if item["Instance Name"] in NAMES:
            host = item["Host"]
            found.setdefault(host, []).append(floor.domain_xml(hosts[host], item["ID"]))
    return [(hosts[name], texts) for name, texts in sorted(found.items())]


def connections(labs: Labs, runs: int) -> list[Row]:
    """SSH connections and channels that one boot, one converge and one delete open per host."""
    lab = labs.two()
    most_connections, most_channels, what = 0, 0, []
    for words in (
        ("boot", "counted", "--image", "blank", "--flavor", "bench", "--count", "2"),
        ("converge", "--all"),
        ("delete", "counted-1", "counted-2"),
    ):
        counted = _count(labs.place, lab, words)
        most_connections = max(most_connections, *counted["connections"].values())
        most_channels = max(most_channels, *counted["channels"].values())
        what.append(words[0])
    note = f"most of {', '.join(what)}"
    values = ((float(most_connections),), (float(most_channels),))
    return [
        Row("connections", "SSH connections per host per command", 1, "", values[0], note=note),
        Row("channels", "SSH channels per host per command", 1, "", values[1], note=note),
    ]


def _count(place: Place, lab: str, words: Sequence[str]) -> dict[str, dict[str, int]]:
    file = place.folder / "counted.json"
    program = Path(__file__).with_name("counting.py")
    argv = [sys.executable, "-I", str(program), str(ROOT), str(file), "--cloud", lab, *words]
    take(argv, place.env)
    counted: dict[str, dict[str, int]] = json.loads(file.read_text())
    return counted


def idle(labs: Labs, runs: int) -> list[Row]:
    """What is left of us between commands: processes, and their memory."""
    labs.two()
    left = labs.place.leftovers()
    note = "; ".join(words[:60] for words, _ in left.values())
    resident = sum(size for _, size in left.values()) / MIB
    return [
        Row("processes", "controller processes between commands", 0, "", (len(left),), note=note),
        Row("memory", "controller memory between commands", 0, "MiB", (resident,)),
    ]


def crowded(labs: Labs, runs: int) -> list[Row]:
    """Nothing to do on a host with 100 instances."""
    labs.drop_two()
    place, lab = labs.place, labs.place.new_lab()
    place.lab_up(lab, 1)
    prepare(place, lab)
    place.stackctl(lab, "host-set", "host1", "--cpu-ratio", "32")
    say("  boot --count 100")
    started = boot(place, lab, "many", count=100)
    taken = repeat(max(runs, 5), lambda: place.on_hosts(lab, "converge", "host1"))
    note = f"the guests, idle in the BIOS, use {place.idle_rate(lab):.2f} CPUs by themselves"
    dull = place.on_hosts(lab, "boot", "one-more", "--image", "blank", "--flavor", "bench")
    say("  removing that lab")
    place.lab_down(lab)
    return [
        row("converge-100", "converge, nothing to do, 1 host, 100 instances", 1.0, taken, note),
        row("boot-100", "boot --count 100 on one host", None, [started]),
        row("boot-101", "boot of one more there", None, [dull]),
    ]


def ports(labs: Labs, runs: int) -> list[Row]:
    """One more port on a host that has 10, 100 and 1,000: the curve of what it costs.

    A server of one NIC is booted there; what libvirt takes to start it is in the time.
    """
    labs.drop_two()
    place, lab = labs.place, labs.place.new_lab()
    place.lab_up(lab, 1)
    prepare(place, lab)
    place.stackctl(lab, "host-set", "host1", "--cpu-ratio", "64")
    rows, have = [], 0
    for count in (10, 100, 1000):
        say(f"  {count} ports")
        have = _fill_ports(place, lab, have, count)
        more, idle = [], []
        for run in range(runs):
            name = f"one-more-{count}-{run}"
            more.append(boot(place, lab, name, count=1))
            idle.append(place.on_hosts(lab, "converge", "host1"))
            place.stackctl(lab, "delete", "--yes", name)
        budget = 2.0 if count == 1000 else None
        note = f"guests idle in the BIOS use {place.idle_rate(lab):.2f} CPUs by themselves"
        what = f"boot of one more port on a host with {count:,}"
        rows.append(row(f"ports-{count}", what, budget, more, note))
        what = f"converge, nothing to do, {count:,} ports on the host"
        rows.append(row(f"ports-{count}-idle", what, None, idle))
    say("  removing that lab")
    place.lab_down(lab)
    return rows


NICS = 25
"""As many as the PCI bus of one guest takes."""


def _fill_ports(place: Place, lab: str, have: int, count: int) -> int:
    """Boot servers of many NICs until the host has ``count`` ports; returns that."""
    while have < count:
        nics = min(NICS, count - have)
        servers = (count - have) // nics
        words = ("--nic", "net=net") * (nics - 1)
        boot(place, lab, f"wide-{have}", *words, count=servers)
        have += servers * nics
    return have


def fleet(labs: Labs, runs: int) -> list[Row]:
    """Nothing to do on 20 hosts."""
    labs.drop_two()
    place, lab = labs.place, labs.place.new_lab()
    up = place.lab_up(lab, 20)
    place.stackctl(lab, "converge", "--all")
    taken = repeat(max(runs, 5), lambda: place.on_hosts(lab, "converge", "--all"))
    say("  removing that lab")
    place.lab_down(lab)
    return [
        row("converge-20", "converge, nothing to do, 20 hosts", 3.0, taken, "no servers on them"),
        row("lab-up-20", "lab-up --hosts 20", None, [up]),
    ]
