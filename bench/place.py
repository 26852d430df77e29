"""Where the measurements happen: a folder of clouds and labs that is gone afterwards."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.measuring import CommandFailed, Taken, say, take

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = ROOT / "bin" / "stackctl"
MARK = "STACKCTL_BENCH_RUN"
"""In the environment of every command that is measured: what it leaves running is found by it."""


class Place:
    """A folder of clouds of our own, the environment that leads there, and the labs made in it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stackctl-bench-"))
        self.clouds = self.folder / "clouds"
        self.mark = secrets.token_hex(8)
        hidden = ("STACKCTL_", "PYTHON", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self.env = {**kept, "STACKCTL_CLOUDS": str(self.clouds), MARK: self.mark, "NO_COLOR": "1"}
        self._labs: list[str] = []

    def stackctl(self, cloud: str, *words: str, timeout_s: float = 600) -> Taken:
        """Run the real command in a cloud of this place."""
        return take([str(LAUNCHER), "--cloud", cloud, *words], self.env, timeout_s)

    def on_hosts(self, cloud: str, *words: str) -> Taken:
        """Run a command, and count the CPU that the hosts of its lab used meanwhile, too."""
        before = self._hosts_cpu(cloud)
        taken = self.stackctl(cloud, *words)
        return replace(taken, hosts_cpu=self._hosts_cpu(cloud) - before)

    def idle_rate(self, lab: str, seconds: float = 3.0) -> float:
        """How many CPUs the hosts of a lab use while nobody asks anything of them."""
        before = self._hosts_cpu(lab)
        time.sleep(seconds)
        return (self._hosts_cpu(lab) - before) / seconds

    def _hosts_cpu(self, lab: str) -> float:
        """Seconds of CPU of all processes of a lab's hosts, the dead ones included."""
        inits = (json.loads(p.read_text()) for p in self._hosts(lab).glob("*/init.json"))
        spaces = {Path(f"/proc/{init['pid']}/ns/pid").readlink() for init in inits}
        ticks = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns" / "pid").readlink() in spaces:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    # utime, stime, and those of children that were waited for
                    ticks += sum(map(int, fields[11:15]))
            except OSError:
                continue
        return ticks / os.sysconf("SC_CLK_TCK")

    def _hosts(self, lab: str) -> Path:
        return self.clouds / lab / "lab" / "hosts"

    def rows(self, cloud: str, *words: str) -> Any:
        """What a command says with -f json."""
        return json.loads(self.stackctl(cloud, *words, "-f", "json").output)

    def new_lab(self) -> str:
        """A name for a lab that is removed at the end."""
        name = f"bench-{secrets.token_hex(3)}"
        self._labs.append(name)
        return name

    def lab_up(self, name: str, hosts: int) -> Taken:
        """Start a lab of so many hosts."""
        say(f"  lab-up --hosts {hosts}")
        return take(
            [str(LAUNCHER), "lab-up", "--name", name, "--hosts", str(hosts)], self.env, 1200
        )

    def lab_down(self, name: str) -> None:
        """Remove a lab with its cloud."""
        take([str(LAUNCHER), "lab-down", "--name", name, "--yes"], self.env)
        self._labs.remove(name)

    def leftovers(self) -> dict[int, tuple[str, int]]:
        """Processes that our commands left: pid -> (command line, resident bytes)."""
        needle, page = f"{MARK}={self.mark}".encode(), os.sysconf("SC_PAGESIZE")
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if needle in (folder / "environ").read_bytes():
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    resident = int((folder / "statm").read_text().split()[1]) * page
                    found[int(folder.name)] = (words.strip(), resident)
            except OSError:
                continue
        return found

    def close(self) -> None:
        """Remove the labs and the folder."""
        for name in list(self._labs):
            if (self.clouds / name).exists():
                try:
                    self.lab_down(name)
                except CommandFailed as error:
                    say(f"  {error}")
        if not any((self.clouds / name).exists() for name in self._labs):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            say(f"  a lab could not be removed; it lies in {self.clouds}")


@contextmanager
def opened() -> Iterator[Place]:
    """A place, removed however the block ends."""
    place = Place()
    try:
        yield place
    finally:
        place.close()
