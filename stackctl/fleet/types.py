"""What fleet and its callers say to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agent.spec import Disk, Image
from agent.wire import Report


@dataclass(frozen=True)
class Target:
    """How to reach one host: its address, the pinned key, and our key for it.

    ``transport`` is ssh or local (the controller is the host). ``host_key`` is one line
    "ssh-ed25519 AAAA..."; any other key that the host shows is refused.
    """

    host_id: str
    name: str
    transport: str
    address: str
    ssh_port: int
    ssh_user: str
    host_key: str
    key_file: Path
    connect_timeout_s: float = 10.0


@dataclass(frozen=True)
class Accepted:
    """The pair of the last spec that a host has accepted."""

    serial: int
    nonce: str


@dataclass(frozen=True)
class Hello:
    """What an agent says once it holds its host's lock.

    ``lacking``: images of the opening that it could not get, by SHA-256, and why.
    """

    accepted: Accepted | None
    boot_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A host that gives an image or a disk to another one, and what opens it there."""

    address: str
    port: int
    token: str
    certificate: str


@dataclass(frozen=True)
class Opening:
    """How to begin an exchange. ``copies``: disks that are to be made of disks which other hosts
    have; they are brought before the host lock is taken, like images. ``claim``: the agent may mark
    an unmarked host as ours.

    ``kill_at``: tests only; the agent ends itself with SIGKILL at that point.
    """

    cloud_id: str
    mode: str  # converge, observe or act
    images: tuple[Image, ...] = ()
    copies: tuple[Disk, ...] = ()
    claim: bool = False
    lock_timeout_s: float = 30.0
    kill_at: int = 0


class Incoming(Protocol):
    """A file on its way from a host. ``pieces`` once; then ``value``, the action's result."""

    size_bytes: int
    value: Any

    def pieces(self) -> Iterator[bytes]:
        """Its content, piece by piece; ResourceFailed when the host could not go on."""
        ...


class Session(Protocol):
    """An open exchange with the agent of one host."""

    hello: Hello

    def converge(
        self,
        spec: dict[str, Any],
        blob: Callable[[str], bytes],
        on_reports: Callable[[list[Report]], None],
    ) -> dict[str, Any]:
        """Send the spec, answer what the agent wants, hand on reports; returns ``done``."""
        ...

    def act(self, name: str, arguments: dict[str, Any], timeout_s: float = 60) -> Any:
        """Have the agent do one action; raises ResourceFailed with its words."""
        ...

    def stream(self, name: str, arguments: dict[str, Any]) -> Incoming:
        """Have the agent do an action that sends a file; nothing else goes on meanwhile.

        ResourceFailed with its words when there is none.
        """
        ...

    def relay(self, subnet_id: str, address: str, port: int, from_fd: int, to_fd: int) -> None:
        """Carry bytes between two file descriptors and a TCP port inside a subnet."""
        ...

    def console(self, server_id: str, from_fd: int, to_fd: int) -> None:
        """Carry bytes between two file descriptors and a server's serial console."""
        ...

    def close(self) -> None:
        """Say bye and end the connection."""
        ...
