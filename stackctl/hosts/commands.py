"""Commands on a host that is being prepared: fabric over a connection whose key is pinned."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stackctl.errors import HostUnreachable, ResourceFailed
from stackctl.fleet import Target, untrusted
from stackctl.fleet.starting import runs_as_root

COMMAND_TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 1800

_ENVIRONMENT = "export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8; "


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        """Whether it ended with status 0."""
        return self.status == 0

    @property
    def last_line(self) -> str:
        """Its last words, on one line."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return untrusted.line(lines[-1], 300) if lines else f"exit status {self.status}"


class Commands:
    """Runs shell commands as root on one host."""

    def __init__(self, target: Target, runner: Any) -> None:
        self.host = target.name
        self._runner = runner
        self._sudo = "" if runs_as_root(target) else "sudo -n "

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Said:
        """Run one command; HostUnreachable when the host is lost, ResourceFailed on timeout."""
        from invoke.exceptions import CommandTimedOut, Failure, ThreadException

        line = f"{self._sudo}sh -c {shlex.quote(_ENVIRONMENT + command)}"
        try:
            result = self._runner.run(
                line, hide=True, warn=True, in_stream=False, timeout=timeout_s
            )
        except CommandTimedOut:
            raise ResourceFailed(
                f"'{_short(command)}' on host {self.host} did not end within {timeout_s:g} s."
            ) from None
        except (Failure, ThreadException, OSError, EOFError) as error:
            raise HostUnreachable(
                f"The connection to host {self.host} broke during '{_short(command)}': "
                f"{untrusted.line(str(error), 200)}.",
                hint=f"stackctl host-prepare {self.host}   (doing it again is harmless)",
            ) from None
        text = untrusted.text(f"{result.stdout}\n{result.stderr}", 200_000)
        return Said(int(result.exited), text)

    def must(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command that has to succeed; ResourceFailed with its own words if not."""
        said = self.run(command, timeout_s)
        if not said.ok:
            raise ResourceFailed(
                f"'{_short(command)}' on host {self.host} failed: {said.last_line}."
            )
        return said.text


def _short(command: str) -> str:
    return command if len(command) <= 80 else f"{command[:77]}..."


@contextmanager
def commands_on(target: Target) -> Iterator[Commands]:
    """Commands on a host, or on this machine."""
    if target.transport == "local":
        from invoke.context import Context

        yield Commands(target, Context())
        return
    from fabric import Config, Connection

    from stackctl.fleet import ssh

    # fabric would accept any key: it is given a connection that was checked and logged in, and
    # a client that refuses all keys, should it ever want to connect by itself.
    transport = ssh.connect(target)
    config = Config(lazy=True, overrides={"load_ssh_configs": False})
    connection = Connection(target.address, target.ssh_user, target.ssh_port, config=config)
    connection.client = ssh.refusing_client()
    connection.transport = transport
    try:
        yield Commands(target, connection)
    finally:
        transport.close()
