"""The first process of a lab machine: builds its root, starts its services, reaps its children.

Run as a script by the distribution's python3, as PID 1 of fresh mount, pid, uts and ipc
namespaces inside the machine's network namespace: ``init.py FOLDER``. It uses the standard
library alone, since the machine sees nothing of stackctl once the root is changed.

Talk with the starter: init writes FOLDER/init.json, prints ``made``, waits for a line on stdin
(end of file means that the starter died: leave), boots, and prints ``ready`` or ``failed ...``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, Optional

Config = dict[str, Any]

BOOT_SECONDS = 120.0
STOP_SECONDS = 5.0
RETRY_SECONDS = 0.05
RESPAWN_SECONDS = 1.0
SIGNALS = {signal.SIGCHLD, signal.SIGTERM}
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
}
KVM = (10, 232)


def mount(*words: str) -> None:
    """Run mount(8)."""
    subprocess.run(["mount", *words], check=True, timeout=BOOT_SECONDS)


def record_self(folder: Path) -> None:
    """Leave the pid that the machine outside knows us by: /proc is still the outer one here."""
    pid = int(Path("/proc/self").readlink().name)
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    text = json.dumps({"pid": pid, "start_time": int(start)})
    temporary = folder / "init.json.new"
    temporary.write_text(text)
    temporary.rename(folder / "init.json")


def make_devices(root: Path, *, kvm: bool) -> None:
    """A /dev with what guests and shells need; without kvm where it would only hang."""
    dev = root / "dev"
    mount("-t", "tmpfs", "-o", "mode=755,size=1m", "dev", str(dev))
    for name, (major, minor) in {**DEVICES, **({"kvm": KVM} if kvm else {})}.items():
        (dev / name).parent.mkdir(exist_ok=True)
        os.mknod(dev / name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        (dev / name).chmod(0o666)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        (dev / name).symlink_to(target)
    (dev / "pts").mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620,gid=5", "pts", str(dev / "pts"))
    (dev / "shm").mkdir()
    mount("-t", "tmpfs", "shm", str(dev / "shm"))


def mount_root(config: Config, folder: Path) -> Path:
    """Mount the machine's file systems: its disk as root, layers over the outer system's folders.

    Upper layers lie on the disk of this machine, so what a host writes survives its reboot.
    """
    root = folder / "disk"
    mount("--bind", str(root), str(root))
    for layer in config["layers"]:
        upper, work = (folder / "layers" / layer["name"] / part for part in ("upper", "work"))
        options = f"lowerdir={layer['lower']},upperdir={upper},workdir={work}"
        mount("-t", "overlay", "-o", options, layer["name"], str(root / layer["target"]))
    mount("-t", "proc", "proc", str(root / "proc"))
    # A fresh sysfs shows this namespace's NICs, and no cgroup tree: with one, libvirt tries
    # controllers that it cannot have and every domain start fails.
    mount("-t", "sysfs", "sysfs", str(root / "sys"))
    mount("-t", "tmpfs", "-o", "mode=755", "run", str(root / "run"))
    for name in config["run_folders"]:
        (root / "run" / name).mkdir(parents=True)
    make_devices(root, kvm=config["kvm"])
    return root


def fake_boot_id(boot_id: str) -> None:
    """Give this boot its own boot id: namespaces share the kernel's."""
    file = Path("/run/boot_id")
    file.write_text(boot_id + "\n")
    file.chmod(0o444)
    mount("--bind", str(file), "/proc/sys/kernel/random/boot_id")


def enter_root(root: Path) -> None:
    """Make the root ours, and let go of every mount of the outer machine."""
    os.chdir(root)
    (root / ".outer").mkdir(exist_ok=True)
    subprocess.run(["pivot_root", ".", ".outer"], check=True, timeout=BOOT_SECONDS)
    os.chdir("/")
    subprocess.run(["umount", "-l", "/.outer"], check=True, timeout=BOOT_SECONDS)
    Path("/.outer").rmdir()


def spawn(argv: list[str], log: Optional[str]) -> int:
    """Start a child in a session of its own, its words in a log file; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if log is not None:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
            os.dup2(1, 2)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error}\n".encode())
    os._exit(127)


def attempt(argv: list[str], deadline: float) -> None:
    """Run one step of the boot until it succeeds: the service it talks to may still be starting."""
    while True:
        left = max(1.0, deadline - time.monotonic())
        done = subprocess.run(argv, capture_output=True, text=True, timeout=left, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
        time.sleep(RETRY_SECONDS)


def await_port(port: int, deadline: float) -> None:
    """Wait until something on this machine accepts connections."""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(RETRY_SECONDS)
    raise RuntimeError(f"nothing accepts connections on port {port}")


def boot_steps(config: Config) -> str:
    """Do what the services need once they run, and say how it went."""
    deadline = time.monotonic() + BOOT_SECONDS
    try:
        for argv in config["steps"]:
            attempt(argv, deadline)
        for port in config["ports"]:
            await_port(port, deadline)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return "failed " + " ".join(str(error).split())
    return "ready"


def start_steps(config: Config, report: int) -> int:
    """Run the boot steps in a child, beside the services, and report their end."""
    pid = os.fork()
    if pid:
        os.close(report)
        return pid
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with contextlib.suppress(BrokenPipeError):
        os.write(report, (boot_steps(config) + "\n").encode())
    os._exit(0)


class Supervisor:
    """Keeps services running, as a service manager would: what dies is started again."""

    def __init__(self, services: list[Config]) -> None:
        self.waiting = {service["name"]: service for service in services}
        self.running: dict[int, Config] = {}
        self.not_before: dict[str, float] = {}

    def start_waiting(self) -> None:
        """Start each service whose time has come and whose forerunner has made its file."""
        now = time.monotonic()
        for name, service in list(self.waiting.items()):
            if now < self.not_before.get(name, 0) or not os.path.exists(service["after"]):  # noqa: PTH110
                continue
            pid = spawn(service["argv"], f"/var/log/{name}.log")
            self.running[pid] = self.waiting.pop(name)
            self.not_before[name] = now + RESPAWN_SECONDS

    def reap(self) -> None:
        """Collect every dead child, orphans of others too; a dead service waits for its turn."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                service = self.running.pop(pid, None)
                if service is not None:
                    self.waiting[service["name"]] = service

    def run(self) -> None:
        """Work until SIGTERM."""
        while True:
            self.start_waiting()
            timeout = RETRY_SECONDS if self.waiting else 3600
            arrived = signal.sigtimedwait(SIGNALS, timeout)
            if arrived is not None and arrived.si_signo == signal.SIGTERM:
                return
            self.reap()


def stop() -> NoReturn:
    """End everything in this pid namespace; what ignores SIGTERM dies with us."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(RETRY_SECONDS)
    os._exit(0)


def main(folder: Path) -> None:
    """Boot the machine of this folder and keep it running."""
    record_self(folder)
    report = os.dup(1)
    os.write(report, b"made\n")
    if not sys.stdin.readline():
        return
    config = json.loads((folder / "machine.json").read_text())
    console = os.open(folder / "console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor, target in ((os.open("/dev/null", os.O_RDONLY), 0), (console, 1), (console, 2)):
        os.dup2(descriptor, target)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    root = mount_root(config, folder)
    socket.sethostname(config["hostname"])
    enter_root(root)
    fake_boot_id(config["boot_id"])
    shutil.rmtree("/tmp", ignore_errors=True)
    Path("/tmp").mkdir(exist_ok=True)
    Path("/tmp").chmod(0o1777)
    supervisor = Supervisor(config["services"])
    supervisor.start_waiting()
    start_steps(config, report)
    supervisor.run()
    stop()


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]))
