"""Rows that need no host: the front door, the database, planning and specs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from bench.filling import Filled, fill
from bench.measuring import Row, Taken, repeat, row, say, take, timed
from bench.place import LAUNCHER, Place
from stackctl.compute import service
from stackctl.compute.flavors import set_specs
from stackctl.compute.server_groups import NewServerGroup, create_server_group
from stackctl.compute.types import BootRequest, Nic
from stackctl.hostspec import affected_hosts, build_spec, load_snapshot
from stackctl.operation import Operation
from stackctl.state import read, write


def help_(place: Place, runs: int) -> list[Row]:
    """The overview of commands."""
    taken = repeat(max(runs, 5), lambda: take([str(LAUNCHER), "--help"], place.env))
    return [row("help", "stackctl --help", 0.15, taken)]


def list_(place: Place, runs: int) -> list[Row]:
    """1,000 servers on 20 hosts."""
    with _clouds_of(place):
        fill("thousand", hosts=20, servers=1000)
    taken = repeat(max(runs, 5), lambda: place.stackctl("thousand", "list"))
    assert taken[0].output.count("ACTIVE") == 1000
    return [row("list", "list, 1,000 servers", 0.4, taken)]


def net_create(place: Place, runs: int) -> list[Row]:
    """A network that no host carries yet."""
    place.stackctl("empty", "init")
    numbers = iter(range(10**6))
    taken = repeat(max(runs, 5), lambda: place.stackctl("empty", "net-create", f"n{next(numbers)}"))
    return [row("net-create", "net-create, no host involved", 0.2, taken, "no SSH: no host")]


def planning(place: Place, runs: int) -> list[Row]:
    """The transaction of a boot in a cloud of 1,000 hosts and 10,000 servers, with something to
    judge for every filter that is enabled by default."""
    with _clouds_of(place):
        filled = _large("planning")
    taken = repeat(max(runs, 5), Plan(filled))
    return [row("planning", "planning one boot, 1,000 hosts, 10,000 servers", 0.5, taken)]


class Plan:
    """Books one server after another, each in a transaction of its own that is committed."""

    def __init__(self, filled: Filled) -> None:
        self._filled, self._number = filled, 0
        context = filled.context
        set_specs(context, "m1.tiny", {"capabilities:zone": "<or> nova <or> other"})
        for policy in ("affinity", "anti-affinity"):
            create_server_group(context, NewServerGroup(policy, policy))
        with write(context.cloud) as writer:
            writer.run("UPDATE images SET properties_json = ?", '{"img_hv_type": "qemu"}')

    def __call__(self) -> Taken:
        self._number += 1
        return timed(self._book)

    def _book(self) -> None:
        context = self._filled.context
        nics = (Nic(network="net-7"),)
        hints = {"group": ("affinity", "anti-affinity")[self._number % 2]}
        hints |= {"different_host": "server-3", "build_near_host_ip": "10.200.0.1", "cidr": "/16"}
        hints |= {"query": '["and", [">=", "$free_ram_mb", 1024], ["=", "$zone", "nova"]]'}
        request = BootRequest(
            f"new-{self._number}", "image", "m1.tiny", nics=nics, hints=tuple(hints.items())
        )
        operation = Operation(context, "boot", "boot", {})
        with write(context.cloud) as writer:
            service.boot_within(context, writer, operation, request)
            assert affected_hosts(writer, writer.change).carrying


def host_spec(place: Place, runs: int) -> list[Row]:
    """The spec of a host with 100 instances among 10,000."""
    with _clouds_of(place):
        filled = _large("specs", crowded=100)
    host_id, rows_read = filled.host_ids[0], 0

    def build() -> None:
        nonlocal rows_read
        with read(filled.cloud) as reader:
            made = build_spec(load_snapshot(reader, host_id), 1, "n")
            rows_read = reader.rows_read
        assert len(made.servers) == 100

    taken = repeat(max(runs, 5), lambda: timed(build))
    note = f"{rows_read} rows read"
    return [row("host-spec", "host_spec, 100 of 10,000 instances", 0.1, taken, note)]


def _large(name: str, crowded: int = 0) -> Filled:
    say("  filling a cloud with 1,000 hosts and 10,000 servers")
    return fill(name, hosts=1000, servers=10_000, crowded=crowded)


@contextmanager
def _clouds_of(place: Place) -> Iterator[None]:
    """Let this process find its clouds where the commands find theirs."""
    before = os.environ.get("STACKCTL_CLOUDS")
    os.environ["STACKCTL_CLOUDS"] = str(place.clouds)
    try:
        yield
    finally:
        if before is None:
            del os.environ["STACKCTL_CLOUDS"]
        else:
            os.environ["STACKCTL_CLOUDS"] = before


def load() -> str:
    """How busy the machine is, in a line."""
    free = shutil.disk_usage("/tmp").free >> 30
    one, five, _ = os.getloadavg()
    cores = os.cpu_count() or 1
    return f"{cores} cores, load {one:.1f} (1 min) {five:.1f} (5 min), {free} GiB of disk free"
