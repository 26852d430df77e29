"""One dnsmasq and the record of how it was started: is it the one that should run?

``running`` in its folder names the process, its configuration and the devices it was started with.
A process that does not fit is restarted; one that does is at most reloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from agent.system import dnsmasq, netns, public_files
from agent.system.run import CommandFailed


@dataclass
class Running:
    """What is known about the dnsmasq that was started last."""

    pid: int = 0
    started_at: str = ""
    conf: str = ""
    devices: str = ""


class Process:
    """The dnsmasq of a folder, in a namespace, with the text that its ``conf`` should have."""

    def __init__(self, folder: Path, namespace: str, text: str) -> None:
        self.conf = folder / "conf"
        self._record = folder / "running"
        self._pid = folder / "pid"
        self._namespace = namespace
        self._text = text

    def difference(self, indexes: Iterable[int]) -> str:
        """Why it must be started anew, in words; ``indexes`` are the numbers of its devices."""
        running = self.running()
        if running is None:
            return "dnsmasq is not running"
        if running.conf != _digest(self._text):
            return "dnsmasq runs with an older configuration"
        if running.devices != _words(indexes):
            return "dnsmasq listens on a device that is gone"
        if netns.of_process(running.pid) != netns.identity(self._namespace):
            return "dnsmasq runs in another namespace"
        return ""

    def running(self) -> Optional[Running]:
        """The process of the record, if it is still the same."""
        try:
            found = Running(**json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        alive = dnsmasq.is_running(found.pid, self.conf)
        return found if alive and dnsmasq.started_at(found.pid) == found.started_at else None

    def start(self, indexes: Iterable[int]) -> None:
        """Start it (none may run) and write the record."""
        dnsmasq.start(self._namespace, self.conf)
        pid = dnsmasq.pid_of(self._pid)
        if pid is None:
            raise CommandFailed(("dnsmasq", str(self.conf)), "it started but wrote no pid file")
        started = dnsmasq.started_at(pid)
        running = Running(pid, started, _digest(self._text), _words(indexes))
        public_files.write(self._record, json.dumps(vars(running)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _words(indexes: Iterable[int]) -> str:
    return " ".join(str(index) for index in indexes)
