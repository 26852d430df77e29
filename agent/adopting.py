"""A domain that somebody else made, looked at where it runs: can it be a server of ours, as it is?

Nothing is changed here. Disks are judged by their own headers and never opened by a qemu tool.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from agent import foreign, inspection
from agent.faults import StepFailed
from agent.foreign import Foreign, ForeignDisk, ForeignNic
from agent.resources.domain_xml import describe, disk_files
from agent.spec import HostSpec, Server, to_plain
from agent.store import Store
from agent.system import libvirt_conn, libvirt_foreign, links, ovs, taps
from agent.system.libvirt_foreign import Whole

TAKEN = ("RUNNING", "PAUSED", "SHUTDOWN", "CRASHED")
"""Power states in which a domain can be taken over."""

MOST_NAMES = 20

Args = dict[str, Any]


@dataclass(frozen=True)
class Disk:
    """A disk of the domain: its file, and the size that the guest sees."""

    path: str
    format: str
    target: str
    size_bytes: int


@dataclass(frozen=True)
class Nic:
    """A NIC of the domain: its tap and the bridge that this is in, or will be when the guest is
    started (with its VLAN tag there, if it is one of Open vSwitch), and the addresses that the
    guest is seen to have."""

    mac: str
    device: str
    bridge: str
    tag: Optional[int]
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A domain as a server could be. ``lost``: what its next start will not have; ``refused``: why
    it cannot be taken over, nothing when it can."""

    id: str
    name: str
    state: str
    autostart: bool
    vcpus: int
    ram_mb: int
    machine_type: str
    cpu_mode: str
    disk_bus: str
    nic_model: str
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    lost: tuple[str, ...]
    refused: tuple[str, ...]


def inspect_domain(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Look at a domain: {domain}, its name or id. Nothing is changed."""
    plain: Args = to_plain(look(store.data, str(args["domain"])))
    return plain


def look(data: Path, word: str) -> Candidate:
    """The domain of this name or id; StepFailed when there is none."""
    whole = libvirt_foreign.whole(word)
    if whole is None:
        names = _some_names()
        raise StepFailed(f"libvirt there has no domain {word[:80]!r}; it has {names or 'none'}")
    found = foreign.read(whole.live_xml, whole.view.xml)
    switch = ovs.observe()
    sizes, problems = _sizes(data, whole, found)
    refused = [*_refused(whole), *found.refused, *problems, *_nic_problems(whole, found, switch)]
    return Candidate(
        id=whole.view.id,
        name=whole.view.name,
        state=whole.view.state,
        autostart=whole.autostart,
        vcpus=found.vcpus,
        ram_mb=found.ram_mb,
        machine_type=found.machine_type,
        cpu_mode=found.cpu_mode,
        disk_bus=found.disk_bus,
        nic_model=found.nic_model,
        disks=tuple(
            Disk(disk.path, disk.format, disk.target, sizes.get(disk.path, 0))
            for disk in found.disks
        ),
        nics=tuple(_nic(whole, nic, switch) for nic in found.nics),
        lost=found.lost,
        refused=tuple(dict.fromkeys(refused)),
    )


def problem(candidate: Candidate, spec: HostSpec, server: Server) -> str:
    """Why a domain is not (any more) what was agreed to be taken over; empty when it is."""
    if candidate.refused:
        return f"domain {candidate.name} cannot be taken over: {'; '.join(candidate.refused)}"
    disks = {disk.id: disk.adopts for disk in spec.disks}
    macs = {port.id: port.mac for port in spec.ports}
    agreed = [disks.get(disk_id) for disk_id in server.disks]
    found = [disk.path for disk in candidate.disks]
    if found != agreed:
        return f"domain {candidate.name} has the disks {found} now, {agreed} were agreed"
    wanted, nics = [macs.get(port) for port in server.ports], [nic.mac for nic in candidate.nics]
    if nics != wanted:
        return f"domain {candidate.name} has the NICs {nics} now, {wanted} were agreed"
    return ""


def _some_names() -> str:
    names = libvirt_foreign.names()
    return ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")


def _refused(whole: Whole) -> Iterator[str]:
    mark = describe(whole.view.xml).mark
    if mark is not None:
        yield f"it is server {mark.server_id} of the cloud {mark.cloud_id} already"
    elif whole.view.name.startswith(libvirt_conn.NAME_PREFIX):
        yield f"its name begins with {libvirt_conn.NAME_PREFIX!r}, as those of servers do"
    if whole.view.state == libvirt_conn.SAVED:
        yield "its memory is saved on disk (virsh start it, or virsh managedsave-remove)"
    elif whole.view.state not in TAKEN:
        yield f"it is in the state {whole.view.state.lower()}"
    if whole.snapshots:
        yield f"it has {whole.snapshots} snapshots (virsh snapshot-delete)"
    if whole.checkpoints:
        yield f"it has {whole.checkpoints} checkpoints (virsh checkpoint-delete)"
    if whole.busy:
        yield "libvirt is at work on it"


# --- disks --------------------------------------------------------------------------------------


def _sizes(data: Path, whole: Whole, found: Foreign) -> tuple[dict[str, int], list[str]]:
    """The sizes of the disks that are sound, and what is wrong with the others."""
    sizes, problems = {}, []
    for disk in found.disks:
        if not disk.path or disk.format not in foreign.FORMATS:
            continue  # said already
        try:
            sizes[disk.path] = _size(data, whole, disk)
        except (inspection.UnsafeImage, OSError) as error:
            words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problems.append(f"disk {disk.target} ({disk.path}): {words}")
    return sizes, problems


def _size(data: Path, whole: Whole, disk: ForeignDisk) -> int:
    folder = os.path.realpath(data)
    if os.path.commonpath([folder, os.path.realpath(disk.path)]) == folder:
        raise inspection.UnsafeImage("it lies in stackctl's own folder")
    for other in whole.others:
        if disk.path in other.xml and disk.path in disk_files(other.xml):
            raise inspection.UnsafeImage(f"it is a disk of domain {other.name}, too")
    if not stat.S_ISREG(os.lstat(disk.path).st_mode):
        raise inspection.UnsafeImage("it is no regular file")
    if disk.format == "qcow2" and inspection.backing_file(disk.path) is not None:
        raise inspection.UnsafeImage(
            "it stands on another file; 'virsh blockpull "
            f"{whole.view.name} {disk.target} --wait' makes it whole while the guest runs"
        )
    return inspection.inspect_in_use(disk.path, disk.format).virtual_size_bytes


# --- NICs ---------------------------------------------------------------------------------------


def _nic(whole: Whole, nic: ForeignNic, switch: ovs.Switch) -> Nic:
    port = switch.ports.get(nic.device)
    link = links.look(nic.device) if nic.device else None
    bridge = port.bridge if port is not None else (link.master if link is not None else nic.source)
    return Nic(
        mac=nic.mac,
        device=nic.device,
        bridge=bridge,
        tag=nic.tag if port is None else port.tag,
        addresses=whole.addresses.get(nic.mac, ()),
    )


def _nic_problems(whole: Whole, found: Foreign, switch: ovs.Switch) -> Iterator[str]:
    if whole.pid is None:
        if whole.view.state in ("RUNNING", "PAUSED"):
            yield "the process of its guest cannot be found"
        return
    held = taps.held_by(whole.pid)
    for nic in found.nics:
        if nic.device not in held:
            yield f"the tap of NIC {nic.mac} cannot be found"
            continue
        why = taps.can_be_kept(whole.pid, held[nic.device])
        if why:
            yield f"its tap {nic.device} would go with the process of its guest: {why}"
        port = switch.ports.get(nic.device)
        if port is not None and (port.trunks or port.vlan_mode not in ("", "access")):
            yield f"NIC {nic.mac} carries several VLANs"
