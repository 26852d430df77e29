"""One machine of the lab: a folder with its disk, and a process tree under an init.

The folder holds ``machine.json`` (what to be), ``init.json`` (the init's pid and start time),
``boot_id``, ``ready`` (the boot id of the last complete boot), ``console.log``, ``disk`` and
``layers``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from stackctl.lab.errors import LabError
from stackctl.lab.requirements import ADMIN_PATH

INIT = Path(__file__).with_name("init.py")
PYTHON = "/usr/bin/python3"
BOOT_SECONDS = 150.0
DEATH_SECONDS = 20.0
ROOT_FOLDERS = (
    "boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys",
    "tmp", "usr", "var/cache", "var/lib", "var/log", "var/spool", "var/tmp",
)  # fmt: skip
PACKAGE_FOLDERS = ("var/lib/libvirt/images", "var/lib/openvswitch", "var/lib/misc")
"""What the packages bring along below /var, where the disk starts empty."""
LAYERS = ("etc", "usr", "var/lib/dpkg", "var/lib/apt")
RUN_FOLDERS = ("lock", "openvswitch", "sshd", "sudo", "netns", "libvirt")


@dataclass(frozen=True)
class InitRecord:
    """How an init is known to this machine: its pid means nothing without its start time."""

    pid: int
    start_time: int


@dataclass(frozen=True)
class Service:
    """A process that init keeps running; ``after`` is the file that must exist first."""

    name: str
    argv: Sequence[str]
    after: str = "/"


@dataclass(frozen=True)
class Boot:
    """What a machine runs: services, then steps (each repeated until it succeeds), then ports."""

    hostname: str
    services: Sequence[Service]
    steps: Sequence[Sequence[str]]
    ports: Sequence[int] = ()


def make_disk(folder: Path) -> Path:
    """Lay out an empty root disk and the layers over the outer system's folders.

    Returns the upper layer of /etc, for the machine's own files. The layers never cover a
    folder that may hold the lab itself: an overlay refuses an upper layer below its lower one.
    """
    disk = folder / "disk"
    for name in ROOT_FOLDERS:
        (disk / name).mkdir(parents=True, exist_ok=True)
    for entry in Path("/").iterdir():
        if entry.is_symlink() and entry.name.startswith(("bin", "sbin", "lib")):
            (disk / entry.name).symlink_to(entry.readlink())
    (disk / "var" / "run").symlink_to("/run")
    (disk / "var" / "lock").symlink_to("/run/lock")
    for name in PACKAGE_FOLDERS:
        (disk / name).mkdir(parents=True)
    (disk / "root").chmod(0o700)
    (disk / "var" / "tmp").chmod(0o1777)
    for target in LAYERS:
        (disk / target).mkdir(parents=True, exist_ok=True)
        for part in ("upper", "work"):
            (folder / "layers" / _layer_name(target) / part).mkdir(parents=True)
            (folder / "layers" / _layer_name(target) / part).chmod(0o755)
    return folder / "layers" / "etc" / "upper"


def hide(upper: Path, name: str) -> Path:
    """Make a folder in an upper layer that shows nothing of the folder below it."""
    folder = upper / name
    folder.mkdir(parents=True, exist_ok=True)
    os.setxattr(folder, "trusted.overlay.opaque", b"y")
    return folder


def _layer_name(target: str) -> str:
    return target.rpartition("/")[2]


def _write_config(folder: Path, boot: Boot, boot_id: str) -> None:
    config: dict[str, Any] = {
        "hostname": boot.hostname,
        "boot_id": boot_id,
        "layers": [
            {"name": _layer_name(target), "target": target, "lower": f"/{target}"}
            for target in LAYERS
            if Path("/", target).is_dir()
        ],
        "run_folders": RUN_FOLDERS,
        "kvm": has_virtualization(),
        "services": [vars(service) for service in boot.services],
        "steps": boot.steps,
        "ports": boot.ports,
    }
    (folder / "machine.json").write_text(json.dumps(config, indent=1))
    (folder / "boot_id").write_text(boot_id)


def has_virtualization() -> bool:
    """Whether the processor offers KVM; /dev/kvm alone can exist and yet hang every guest."""
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    return ("vmx" in flags or "svm" in flags) and Path("/dev/kvm").exists()


def start(folder: Path, namespace: str, boot: Boot) -> None:
    """Boot the machine in its network namespace and return when it is ready."""
    _write_config(folder, boot, str(uuid.uuid4()))
    deadline = time.monotonic() + BOOT_SECONDS
    with _launch(folder, namespace) as process:
        stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        _expect("made", stdout, folder, deadline)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(b"go\n")
        _expect("ready", stdout, folder, deadline)
    (folder / "ready").write_text(boot_id(folder) or "")


def start_or_kill(folder: Path, namespace: str, boot: Boot) -> None:
    """Boot the machine; one that does not come up is not left half-alive."""
    try:
        start(folder, namespace, boot)
    except BaseException:
        kill(folder)
        raise


def _launch(folder: Path, namespace: str) -> subprocess.Popen[bytes]:
    """Start the init; setsid forks, so the machine belongs to nobody's session or terminal."""
    argv = [
        "setsid", "--fork", "nsenter", f"--net=/run/netns/{namespace}",
        "unshare", "--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child",
        PYTHON, "-I", "-S", str(INIT), str(folder),
    ]  # fmt: skip
    environment = {"PATH": ADMIN_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    with (folder / "console.log").open("wb") as console:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=console,
            bufsize=0,
            cwd="/",
            env=environment,
        )


def _expect(word: str, stream: IO[bytes], folder: Path, deadline: float) -> None:
    """Read one line of init's words; anything but ``word`` is a failed boot."""
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            raise LabError(f"Lab machine {folder.name} was not ready in time. {_console(folder)}")
        chunk = os.read(stream.fileno(), 4096)
        if not chunk:
            raise LabError(f"Lab machine {folder.name} died while booting. {_console(folder)}")
        line += chunk
    if line.decode(errors="replace").strip() != word:
        reason = line.decode(errors="replace").strip().removeprefix("failed ")
        raise LabError(f"Lab machine {folder.name} did not boot: {reason}")


def _console(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return " ".join((folder / "console.log").read_text(errors="replace").split()[-60:])
    return ""


def init_pid(folder: Path) -> int | None:
    """The pid of the machine's init while it runs, checked against its start time."""
    record = _record(folder)
    if record is not None and _start_time(record.pid) == record.start_time:
        return record.pid
    return None


def is_ready(folder: Path) -> bool:
    """Whether the machine runs and its boot came to the end."""
    if init_pid(folder) is None:
        return False
    with contextlib.suppress(FileNotFoundError):
        return (folder / "ready").read_text() == boot_id(folder)
    return False


def boot_id(folder: Path) -> str | None:
    """The boot id of the machine's current or last boot."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "boot_id").read_text()
    return None


def kill(folder: Path) -> None:
    """Pull the plug: SIGKILL the init, with which the kernel ends its whole pid namespace."""
    record = _record(folder)
    if record is None:
        return
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor holds the process; only now its start time proves that it is ours.
        if _start_time(record.pid) == record.start_time:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not select.select([descriptor], [], [], DEATH_SECONDS)[0]:
                raise LabError(f"Lab machine {folder.name} (pid {record.pid}) does not die.")
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Kill the machine and remove its folder."""
    kill(folder)
    if folder.exists():
        shutil.rmtree(folder)


def _record(folder: Path) -> InitRecord | None:
    try:
        return InitRecord(**json.loads((folder / "init.json").read_text()))
    except FileNotFoundError:
        return None


def _start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
