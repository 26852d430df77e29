"""Making, watching and removing a lab."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from stackctl.errors import NotFound, UsageError
from stackctl.lab import host, internet, machine, network, store
from stackctl.lab.errors import LabError
from stackctl.lab.host import HostPlan
from stackctl.lab.models import PHYSICAL_NETWORKS, Lab, LabHost, LabState
from stackctl.lab.requirements import missing_commands

Progress = Callable[[str], None]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PREFIX = re.compile(r"[a-z][a-z0-9]{0,8}")


def up(
    folder: Path, prefix: str, host_count: int, *, authorized_key: str, progress: Progress
) -> Lab:
    """Make the lab in this folder, or start whatever part of it does not run.

    A lab never shrinks here: hosts beyond ``host_count`` stay. ``prefix`` names everything that
    the lab makes on this machine and must be unique on it.
    """
    folder = folder.absolute()
    _check(folder, prefix, host_count)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with store.locked(folder):
        state = _prepare(folder, prefix, host_count, progress)
        _start_all(folder, state, authorized_key, progress)
        return _view(folder, state)


def _check(folder: Path, prefix: str, host_count: int) -> None:
    if set(str(folder)) & set(",:\\"):
        raise LabError(f"A lab cannot be in {folder}: mount options have no such characters.")
    if not PREFIX.fullmatch(prefix):
        raise LabError(f"Lab prefix {prefix!r} must be 1 to 9 lower-case letters and digits.")
    if not 1 <= host_count <= host.MAX_HOSTS:
        raise UsageError(f"A lab has 1 to {host.MAX_HOSTS} hosts, not {host_count}.")
    if os.geteuid() != 0:
        raise LabError("A lab needs root: it makes network namespaces.")
    missing = missing_commands()
    if missing:
        raise LabError(f"This machine lacks what a lab needs: {', '.join(missing)}.")


def _prepare(folder: Path, prefix: str, host_count: int, progress: Progress) -> LabState:
    """Settle the lab's state and its fabric; a rebooted machine gets the fabric anew."""
    found = store.load(folder)
    if found is not None and found.prefix != prefix:
        raise LabError(f"{folder} holds a lab with the prefix {found.prefix}, not {prefix}.")
    if found is not None and _fabric_stands(found):
        state = replace(found, host_count=max(host_count, found.host_count))
        store.save(folder, state)
        return state
    if found is None and network.namespace_exists(network.fabric_namespace(prefix)):
        raise LabError(f"Another lab of this machine has the prefix {prefix}.")
    if found is not None:
        _unplug_all(folder, found)
    progress("wiring the networks")
    with store.machine_locked():
        wanted = found.management_cidr if found else None
        cidr = network.free_management_cidr(wanted)
        count = max(host_count, found.host_count if found else 0)
        state = LabState(prefix, cidr, count, BOOT_ID.read_text().strip())
        store.save(folder, state)
        network.make_fabric(prefix, cidr)
    return state


def _fabric_stands(state: LabState) -> bool:
    return state.machine_boot_id == BOOT_ID.read_text().strip() and network.fabric_complete(
        state.prefix, state.management_cidr
    )


def _plans(state: LabState) -> list[HostPlan]:
    return [
        HostPlan(state.prefix, state.management_cidr, number)
        for number in range(1, state.host_count + 1)
    ]


def _start_all(folder: Path, state: LabState, authorized_key: str, progress: Progress) -> None:
    """Start every machine that does not run, all at once; report the first failure at the end."""
    plans = _plans(state)
    with ThreadPoolExecutor(max_workers=len(plans) + 1) as pool:
        jobs: list[Future[None]] = [pool.submit(_start_internet, folder, state, progress)]
        jobs += [pool.submit(_start, folder, plan, authorized_key, progress) for plan in plans]
    for job in jobs:
        job.result()


def _start_internet(folder: Path, state: LabState, progress: Progress) -> None:
    place = _internet_folder(folder)
    if not machine.is_ready(place):
        internet.start(place, state.prefix, state.management_cidr)
        progress("the internet is up")


def _start(folder: Path, plan: HostPlan, authorized_key: str, progress: Progress) -> None:
    place = _host_folder(folder, plan)
    if not machine.is_ready(place):
        progress(f"starting {plan.name}")
        host.start(place, plan, authorized_key)
        progress(f"{plan.name} is up at {plan.address}")


def _host_folder(folder: Path, plan: HostPlan) -> Path:
    return folder / "hosts" / plan.name


def _internet_folder(folder: Path) -> Path:
    return folder / "internet"


def status(folder: Path) -> Lab:
    """The lab as it is now."""
    return _view(folder.absolute(), _load(folder))


def _load(folder: Path) -> LabState:
    state = store.load(folder)
    if state is None:
        raise NotFound(f"There is no lab in {folder}.", hint="stackctl lab-up")
    return state


def _view(folder: Path, state: LabState) -> Lab:
    running = machine.is_ready(_internet_folder(folder))
    plans = [plan for plan in _plans(state) if _host_folder(folder, plan).exists()]
    return Lab(
        name=folder.name,
        prefix=state.prefix,
        folder=folder,
        management_cidr=state.management_cidr,
        hosts=tuple(_view_host(_host_folder(folder, plan), plan) for plan in plans),
        internet=internet.describe(state.prefix, state.management_cidr, running=running),
        physical_networks=tuple(PHYSICAL_NETWORKS),
    )


def _view_host(folder: Path, plan: HostPlan) -> LabHost:
    pid = machine.init_pid(folder)
    return LabHost(
        name=plan.name,
        address=plan.address,
        ssh_port=22,
        user="root",
        host_key=host.host_key(folder),
        tunnel_address=plan.tunnel_address,
        tunnel_mtu=network.TUNNEL_MTU,
        bridge_nics=dict(PHYSICAL_NETWORKS),
        running=machine.is_ready(folder),
        namespace=plan.wiring.namespace,
        init_pid=pid,
        boot_id=machine.boot_id(folder) if pid is not None else None,
        vcpus=host.VCPUS,
        ram_mb=host.RAM_MB,
        disk_gb=host.DISK_GB,
    )


def kill_host(folder: Path, name: str) -> None:
    """Pull a host's plug: all that runs on it dies at once, its disk stays."""
    folder = folder.absolute()
    with store.locked(folder):
        plan = _plan(_load(folder), name)
        machine.kill(_host_folder(folder, plan))
        network.unplug(plan.prefix, plan.wiring)


def start_host(folder: Path, name: str, authorized_key: str) -> None:
    """Boot a host that was killed; one that runs is left alone."""
    folder = folder.absolute()
    with store.locked(folder):
        plan = _plan(_load(folder), name)
        _start(folder, plan, authorized_key, lambda _: None)


def _plan(state: LabState, name: str) -> HostPlan:
    for plan in _plans(state):
        if plan.name == name:
            return plan
    known = ", ".join(f"host{number}" for number in range(1, state.host_count + 1))
    raise NotFound(f"The lab has no host '{name}'; it has {known}.", hint="stackctl lab-status")


def down(folder: Path) -> None:
    """Remove the lab, whole or half-made, and its folder; nothing is there to remove is fine."""
    folder = folder.absolute()
    if not folder.is_dir():
        return
    with store.locked(folder):
        state = store.load(folder)
        if state is not None:
            _unplug_all(folder, state)
            for plan in _plans(state):
                machine.remove(_host_folder(folder, plan))
        machine.remove(_internet_folder(folder))
        shutil.rmtree(folder)


def _unplug_all(folder: Path, state: LabState) -> None:
    """Kill every machine of the lab and take its wires down; the disks stay."""
    machine.kill(_internet_folder(folder))
    network.unplug(state.prefix, internet.wiring(state.prefix, state.management_cidr))
    for plan in _plans(state):
        machine.kill(_host_folder(folder, plan))
        network.unplug(state.prefix, plan.wiring)
    network.remove_fabric(state.prefix)
