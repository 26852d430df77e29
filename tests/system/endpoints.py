"""Ends of conversations on hosts of the lab: namespaces in the place of guests, and the internet.

A server of the tiny guest that is stopped leaves its taps to a process of ours, which speaks TCP
and UDP as a guest would, at a hundredth of its cost.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stackctl.lab import machine
from tests.fleet import Fleet

SOURCE = Path(__file__).with_name("endpoint.py").read_text()
BULK = 400_000
UDP_HEADERS, TCP_HEADERS, TIMESTAMPS = 28, 40, 12


class Unreachable(Exception):
    """What an end says that got nowhere."""


class Endpoint:
    """A process on a machine of the lab, in a namespace of its own or in the machine's."""

    def __init__(self, folder: Path, *, own_namespace: bool = True) -> None:
        pid = machine.init_pid(folder)
        assert pid is not None
        enter = ["nsenter", "-t", str(pid), "-m", "-u", "-n", "-i", "-p", "--"]
        argv = ["/usr/bin/python3", "-I", "-c", SOURCE, "yes" if own_namespace else "no"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [*enter, *argv], stdin=pipe, stdout=pipe, text=True, cwd="/"
        )
        assert self._line() == "ready"
        self.mtu = 1500

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the end has died"
        return json.loads(line)

    def ask(self, op: str, **words: Any) -> Any:
        """Have something done; Unreachable when it fails."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **words}) + "\n")
        self._process.stdin.flush()
        answer = self._line()
        if "failed" in answer:
            raise Unreachable(answer["failed"])
        return answer["said"]

    def run(self, *argv: str) -> str:
        """A program beside it."""
        return str(self.ask("run", argv=argv))

    def plug(self, port_id: str, mac: str, device: str = "eth0") -> None:
        """Join a NIC to a port's tap, and get its address."""
        self.ask("plug", tap=f"tap{port_id[:11]}", mac=mac, device=device)
        self.mtu = self.ask("lease", device=device)

    def speaks(self, address: str, *, seen: str = "", mtu: int = 0) -> None:
        """TCP in bulk, UDP and ping with full-size packets get there and back."""
        mtu = mtu or self.mtu
        said = self.ask("tcp", address=address, size=BULK)
        assert said["same"]
        assert said["segment"] == mtu - TCP_HEADERS - TIMESTAMPS, "segments are not of full size"
        answer = self.ask("udp", address=address, size=mtu - UDP_HEADERS)
        assert answer["same"]
        if seen:
            assert (said["seen"], answer["seen"]) == (seen, seen)
        ping = ("ping", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do")
        self.run(*ping, "-s", str(mtu - UDP_HEADERS), address)

    def reaches(self, address: str) -> bool:
        """Whether TCP and UDP get there: both, or neither."""
        return self._works("tcp", address) and self._works("udp", address)

    def is_shut_out(self, address: str) -> bool:
        """Whether neither TCP nor UDP nor ping gets there."""
        return bool(self.ask("silent", address=address))

    def _works(self, op: str, address: str) -> bool:
        try:
            return bool(self.ask(op, address=address, size=100)["same"])
        except Unreachable:
            return False

    @contextmanager
    def stream(self, address: str) -> Iterator[Stream]:
        """One long TCP connection."""
        number = self.ask("stream", address=address)
        try:
            yield Stream(self, number)
        finally:
            self.ask("hang-up", stream=number)

    def close(self) -> None:
        """End it; its namespace goes with it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@dataclass(frozen=True)
class Stream:
    """A TCP connection that is never made again."""

    end: Endpoint
    number: int

    def state(self) -> dict[str, Any]:
        """How much came back, and how long nothing did."""
        said: dict[str, Any] = self.end.ask("state", stream=self.number)
        return said

    def flows(self, seconds: float = 8) -> bool:
        """Whether something comes back from now on."""
        before, deadline = self.state()["count"], time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.state()["count"] > before + 2:
                return True
            time.sleep(0.02)
        return False

    @contextmanager
    def undisturbed(self, seconds: float = 2.0) -> Iterator[None]:
        """It never stands still for so long meanwhile."""
        assert self.flows()
        self.state()
        yield
        assert self.flows()
        assert self.state()["gap"] < seconds


def boot(fleet: Fleet, name: str, host: str, *words: str) -> None:
    """A server whose tap is free."""
    image = ("--image", "tiny", "--flavor", "tiny")
    fleet.run("boot", name, *image, "--host", host, *words)


def ports_of(fleet: Fleet, server: str) -> list[dict[str, Any]]:
    """The ports of a server, in order."""
    columns = ("Port ID", "MAC Address", "Network", "IP Addresses")
    words = [word for column in columns for word in ("-c", column)]
    said: list[dict[str, Any]] = fleet.run("interface-list", server, "-f", "json", *words).json
    return said


def end_of(fleet: Fleet, server: str, host: str) -> Endpoint:
    """The end in the place of a stopped server."""
    end = Endpoint(fleet.cloud.lab / "hosts" / host)
    (port,) = ports_of(fleet, server)
    try:
        end.plug(port["Port ID"], port["MAC Address"])
    except Unreachable as error:
        end.close()
        pytest.fail(f"{server}: {error}")
    return end


def internet(fleet: Fleet) -> Endpoint:
    """The end beyond all gateways."""
    return Endpoint(fleet.cloud.lab / "internet", own_namespace=False)
