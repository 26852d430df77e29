"""What a host says about itself in its hello: capacity, engines, NICs, bridges.

Everything here is read, nothing of the host is changed, and nothing missing is an error: a host
without an engine says so. Engines are asked side by side, because hello is part of every command.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional
from xml.etree import ElementTree

from agent.spec import HostSettings
from agent.store import now
from agent.system import files, firmware, libvirt_conn, ovs
from agent.system.libvirt_conn import LibvirtError
from agent.system.run import CommandFailed, run

QUERY_TIMEOUT_S = 5.0
CPUINFO = Path("/proc/cpuinfo")
KVM_DEVICE = Path("/dev/kvm")
PROGRAMS = {"ovs": "ovs-vswitchd", "dnsmasq": "dnsmasq"}
KNOWN_VERSIONS = Path("/run/stackctl/versions.json")

Facts = dict[str, Any]


def gather(data: Path) -> Facts:
    """All facts of this host."""
    facts: Facts = {
        "hostname": platform.node(),
        "time": now(),
        "vcpus": os.cpu_count() or 1,
        "ram_mb": ram_mb(),
        "disk_gb": disk_gb(data),
        "virt_type": virt_type(HostSettings()),
        "ovs_datapath": datapath(HostSettings()),
    }
    versions: Facts = {"kernel": platform.release(), "python": platform.python_version()}
    _side_by_side(
        lambda: facts.update(_libvirt(versions)),
        lambda: facts.update(nics=_nics()),
        lambda: facts.update(bridges=_bridges()),
        lambda: versions.update(_program_versions()),
    )
    facts["versions"] = versions
    return facts


def agent_folder() -> Path:
    """The folder that this agent runs from."""
    return Path(__file__).resolve().parent.parent


def agent_version() -> str:
    """The name of that folder: the hash of the agent's archive."""
    return agent_folder().name


def virt_type(settings: HostSettings) -> str:
    """``kvm`` when the processor offers it and the device opens, else ``qemu``.

    A processor without vmx or svm can still show /dev/kvm, which then hangs guests.
    """
    if settings.virt_type != "auto":
        return settings.virt_type
    flags = CPUINFO.read_text()
    if " vmx" not in flags and " svm" not in flags:
        return "qemu"
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return "qemu"
    return "kvm"


def datapath(settings: HostSettings) -> str:
    """Open vSwitch's datapath here: ``system`` (the kernel's) or ``netdev`` (user space)."""
    if settings.datapath != "auto":
        return settings.datapath
    return "system" if ovs.kernel_datapath() else "netdev"


def ram_mb() -> int:
    """Memory of the host in MiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def disk_gb(data: Path) -> dict[str, int]:
    """Whole GiB of the file system that holds the data folder: free and total."""
    free, total = files.free_bytes(data)
    return {"free": free >> 30, "total": total >> 30}


def machine_types(capabilities: str) -> dict[str, Any]:
    """The versioned machine types that ``pc`` and ``q35`` stand for, and all there are."""
    root = ElementTree.fromstring(capabilities)
    found: dict[str, Any] = {"all": []}
    for machine in root.iterfind("guest/arch[@name='x86_64']/machine"):
        name, canonical = machine.text or "", machine.get("canonical")
        if name in ("pc", "q35") and canonical is not None:
            found[name] = canonical
        elif canonical is None and name not in found["all"]:
            found["all"].append(name)
    return found


def _libvirt(versions: Facts) -> Facts:
    try:
        engine = libvirt_conn.versions()
        versions.update(libvirt=engine.libvirt, qemu=engine.qemu)
        types = machine_types(libvirt_conn.capabilities())
        return {"machine_types": types, "firmware": _firmware(types)}
    except LibvirtError as error:
        versions.update(libvirt=None, qemu=None)
        return {"machine_types": {}, "libvirt_error": str(error)}


def _firmware(types: Facts) -> list[str]:
    """What can start a guest on every usual machine."""
    usual = [types[name] for name in ("pc", "q35") if name in types]
    return ["bios", "uefi"] if all(map(firmware.find_uefi, usual)) else ["bios"]


def _nics() -> list[Facts]:
    text = _output(["ip", "-json", "address"])
    return [_nic(link) for link in json.loads(text)] if text else []


def _nic(link: Facts) -> Facts:
    addresses = link.get("addr_info", [])
    return {
        "name": link.get("ifname", ""),
        "mac": link.get("address", ""),
        "mtu": link.get("mtu", 0),
        "up": "UP" in link.get("flags", ()),
        "addresses": [f"{entry['local']}/{entry['prefixlen']}" for entry in addresses],
    }


def _bridges() -> Optional[list[str]]:
    text = _output(["ovs-vsctl", "--timeout=5", "list-br"])
    return None if text is None else text.split()


def _program_versions() -> dict[str, Optional[str]]:
    """Versions of engines that only their programs tell.

    They are asked once in a boot, and again when a program's file is another one.
    """
    files_now = {key: _identity(program) for key, program in PROGRAMS.items()}
    try:
        known = json.loads(KNOWN_VERSIONS.read_text())
        if known["files"] == files_now:
            return dict(known["versions"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    versions = {key: _version(program) for key, program in PROGRAMS.items()}
    if any(versions[key] is None and file is not None for key, file in files_now.items()):
        return versions  # it is there and did not say: that is not to be remembered
    note = json.dumps({"files": files_now, "versions": versions}).encode()
    with contextlib.suppress(OSError):
        files.make_folder(KNOWN_VERSIONS.parent)
        files.write_atomic(KNOWN_VERSIONS, note)
    return versions


def _identity(program: str) -> Optional[list[int]]:
    path = shutil.which(program)
    if path is None:
        return None
    status = Path(path).stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _version(program: str) -> Optional[str]:
    words = (_output([program, "--version"]) or "").partition("\n")[0].split()
    return next((word for word in words if word[0].isdigit()), None)


def _output(argv: list[str]) -> Optional[str]:
    try:
        return run(argv, timeout_s=QUERY_TIMEOUT_S)
    except CommandFailed:
        return None


def _side_by_side(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(libvirt_conn.QUERY_TIMEOUT_S * 2)
