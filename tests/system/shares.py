"""Storage that lab hosts share: an NFS server in the lab's internet, one folder in all hosts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stackctl.lab import machine
from tests.engines import eventually
from tests.fleet import Fleet

EXPORT = "/volumes"

GANESHA = """\
NFS_CORE_PARAM { Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false;
                 mount_path_pseudo = true; }
EXPORT { Export_Id = 1; Path = /srv/nfs; Pseudo = /volumes; Access_Type = RW;
         Squash = No_Root_Squash; SecType = sys; Protocols = 3; FSAL { Name = VFS; } }
LOG { Default_Log_Level = WARN; }
"""

BIND = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
source, target, pid = sys.argv[1:]
AT_FDCWD, OPEN_TREE, MOVE_MOUNT, CLONE, EMPTY_PATH = -100, 428, 429, 1, 4
tree = call(OPEN_TREE, AT_FDCWD, source.encode(), CLONE)
namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
assert libc.setns(namespace, 0) == 0, os.strerror(ctypes.get_errno())
os.makedirs(target, exist_ok=True)
call(MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), EMPTY_PATH)
"""
"""A bind mount from this machine's files into a mount namespace that does not see them."""


def bind(source: Path, target: str, fleet: Fleet, host: str) -> None:
    """Let a host have a folder of this machine."""
    pid = machine.init_pid(fleet.cloud.lab / "hosts" / host)
    argv = [sys.executable, "-c", BIND, str(source), target, str(pid)]
    subprocess.run(argv, check=True, timeout=60)


class NfsServer:
    """Ganesha, a server in user space, on the lab's internet."""

    def __init__(self, fleet: Fleet) -> None:
        self._pid = machine.init_pid(fleet.cloud.lab / "internet")
        self.address = fleet.lab_internet().management_address
        self._inside(
            "mkdir", "-p", "/srv/nfs", "/run/ganesha", "/var/lib/nfs/ganesha", "/run/rpcbind"
        )
        self._inside("tee", "/etc/lab-ganesha.conf", text=GANESHA)
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        try:
            self._serve()
        except BaseException:
            self.close()
            raise

    def _serve(self) -> None:
        self._start("rpcbind", "-w", "-f")
        eventually(lambda: "portmapper" in self._services(), "a port mapper")
        config = ("-f", "/etc/lab-ganesha.conf", "-L", "/var/log/ganesha.log")
        self._start("ganesha.nfsd", "-F", *config, "-p", "/run/ganesha.pid")
        eventually(lambda: "mountd" in self._services(), "an NFS server", seconds=60)

    def files(self) -> list[str]:
        """What lies in the export, whole paths."""
        found = self._inside("find", "/srv/nfs", "-type", "f", "-printf", "%P\\n").stdout
        return sorted(found.split())

    def start(self) -> None:
        """Serve again after an end."""
        self._serve()

    def close(self) -> None:
        """End what was started."""
        for name, process in reversed(self._started):
            self._inside("sh", "-c", f"kill $(cat /run/lab-{name}.pid)", check=False)
            process.wait(30)
        self._started.clear()

    def _services(self) -> str:
        return self._inside("rpcinfo", "-p", "127.0.0.1", check=False).stdout

    def _enter(self, *argv: str) -> list[str]:
        return ["nsenter", "-t", str(self._pid), "-m", "-u", "-n", "-i", "-p", "--", *argv]

    def _inside(
        self, *argv: str, text: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._enter(*argv), input=text, capture_output=True, text=True, check=check, timeout=60
        )

    def _start(self, *argv: str) -> None:
        noted = ("sh", "-c", 'echo $$ > "/run/lab-$1.pid"; exec "$@"', "sh", *argv)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        process = subprocess.Popen(self._enter(*noted), stderr=subprocess.DEVNULL, **quiet)
        self._started.append((argv[0], process))
